//! Who waits where, and how many messages are in which state: what follows from the rows of messages and is looked up by lists.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::MessageState;
use super::row::{DeliveryRow, Row};
use crate::message::MessageId;

/// A delivery by its message and its number among the message's deliveries.
pub(super) type Numbered = (MessageId, u16);

/// Where lists are kept: in memory for the newest messages, in the index for older ones.
pub(super) trait Lists {
    /// So many more messages of a channel are in a state.
    fn count(&mut self, channel: &Arc<str>, state: MessageState, difference: i64);
    /// A message waits for its channel's transformer, or no longer does.
    fn untransformed(&mut self, channel: &Arc<str>, sequence: u64, id: MessageId, waits: bool);
    /// A delivery waits in its lane, or no longer does.
    fn waits(&mut self, channel: &Arc<str>, row: &DeliveryRow, delivery: Numbered, waits: bool);
    /// A dead letter holds up its lane, or no longer does.
    fn holds(&mut self, channel: &Arc<str>, row: &DeliveryRow, delivery: Numbered, holds: bool);
}

/// Takes a message from the lists where it stood and puts it on those where it stands.
pub(super) fn relist(lists: &mut impl Lists, id: MessageId, old: Option<&Row>, new: Option<&Row>) {
    let state = |row: &Row| row.state;
    if old.map(state) != new.map(state) {
        for (row, sign) in [(old, -1), (new, 1)] {
            let Some(row) = row else { continue };
            lists.count(&row.channel, row.state, sign);
            if row.state == MessageState::Received {
                lists.untransformed(&row.channel, row.sequence, id, sign > 0);
            }
        }
    }
    relist_deliveries(lists, id, old, new);
}

fn relist_deliveries(lists: &mut impl Lists, id: MessageId, old: Option<&Row>, new: Option<&Row>) {
    let count = [old, new].iter().flatten().map(|row| row.deliveries.len()).max().unwrap_or(0);
    let Some(Row { channel, .. }) = new.or(old) else { return };
    let waiting =
        |row: Option<&DeliveryRow>| row.filter(|row| row.state.is_waiting()).map(|row| (row.sequence, row.retried));
    let holding = |row: Option<&DeliveryRow>| row.filter(|row| row.holds).map(|row| row.sequence);
    for number in 0..count {
        let delivery = (id, number as u16);
        let (before, after) = (delivery_of(old, number), delivery_of(new, number));
        let both = [(before, false), (after, true)].into_iter().filter_map(|(row, is)| Some((row?, is)));
        if waiting(before) != waiting(after) {
            both.clone()
                .filter(|(row, _)| row.state.is_waiting())
                .for_each(|(row, waits)| lists.waits(channel, row, delivery, waits));
        }
        if holding(before) != holding(after) {
            both.filter(|(row, _)| row.holds).for_each(|(row, holds)| lists.holds(channel, row, delivery, holds));
        }
    }
}

fn delivery_of(row: Option<&Row>, number: usize) -> Option<&DeliveryRow> {
    row?.deliveries.get(number)
}

/// How many messages are in each state, in the order of [`MessageState::ALL`].
pub(super) type Counts = [i64; MessageState::ALL.len()];

/// The lists of the newest messages.
#[derive(Debug, Default)]
pub(super) struct InMemory {
    channels: HashMap<Arc<str>, Channel>,
}

#[derive(Debug, Default)]
struct Channel {
    counts: Counts,
    untransformed: BTreeMap<u64, MessageId>,
    lanes: HashMap<Arc<str>, LaneLists>,
}

/// The lists of one lane.
#[derive(Debug, Default)]
pub(super) struct LaneLists {
    pub(super) waiting: BTreeMap<u64, Numbered>,
    /// Those that wait, but not in order of arrival: somebody sent them to the end.
    pub(super) retried: BTreeSet<Numbered>,
    pub(super) holding: BTreeMap<u64, Numbered>,
}

impl InMemory {
    pub(super) fn counts(&self, channel: &str) -> Counts {
        self.channels.get(channel).map(|channel| channel.counts).unwrap_or_default()
    }

    /// The messages of a channel that wait for its transformer, from a place in the order of arrival on.
    pub(super) fn untransformed_from(&self, channel: &str, from: u64) -> impl Iterator<Item = (u64, MessageId)> {
        let list = self.channels.get(channel).map(|channel| channel.untransformed.range(from..));
        list.into_iter().flatten().map(|(sequence, id)| (*sequence, *id))
    }

    pub(super) fn lane(&self, channel: &str, destination: &str) -> Option<&LaneLists> {
        self.channels.get(channel)?.lanes.get(destination)
    }

    /// Every channel with how many of its messages wait for the transformer.
    pub(super) fn channels(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.channels.iter().map(|(name, channel)| (name, channel.untransformed.len() as u64))
    }

    /// Every lane with how many deliveries wait in it.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, u64)> {
        self.channels.iter().flat_map(|(channel, lists)| {
            lists.lanes.iter().map(move |(destination, lane)| (channel, destination, lane.waiting.len() as u64))
        })
    }

    fn channel(&mut self, name: &Arc<str>) -> &mut Channel {
        if !self.channels.contains_key(name) {
            self.channels.insert(name.clone(), Channel::default());
        }
        self.channels.get_mut(name).expect("it was just put there")
    }

    fn lane_mut(&mut self, channel: &Arc<str>, destination: &Arc<str>) -> &mut LaneLists {
        let lanes = &mut self.channel(channel).lanes;
        if !lanes.contains_key(destination) {
            lanes.insert(destination.clone(), LaneLists::default());
        }
        lanes.get_mut(destination).expect("it was just put there")
    }
}

fn set(list: &mut BTreeMap<u64, Numbered>, sequence: u64, delivery: Numbered, is_on_it: bool) {
    match is_on_it {
        true => list.insert(sequence, delivery),
        false => list.remove(&sequence),
    };
}

impl Lists for InMemory {
    fn count(&mut self, channel: &Arc<str>, state: MessageState, difference: i64) {
        self.channel(channel).counts[state as usize] += difference;
    }

    fn untransformed(&mut self, channel: &Arc<str>, sequence: u64, id: MessageId, waits: bool) {
        let list = &mut self.channel(channel).untransformed;
        match waits {
            true => list.insert(sequence, id),
            false => list.remove(&sequence),
        };
    }

    fn waits(&mut self, channel: &Arc<str>, row: &DeliveryRow, delivery: Numbered, waits: bool) {
        let lane = self.lane_mut(channel, &row.destination);
        set(&mut lane.waiting, row.sequence, delivery, waits);
        match waits && row.retried {
            true => lane.retried.insert(delivery),
            false => lane.retried.remove(&delivery),
        };
    }

    fn holds(&mut self, channel: &Arc<str>, row: &DeliveryRow, delivery: Numbered, holds: bool) {
        set(&mut self.lane_mut(channel, &row.destination).holding, row.sequence, delivery, holds);
    }
}

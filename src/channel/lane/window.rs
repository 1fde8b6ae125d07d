//! What of a lane's queue may leave now. Pure: no clock, no tasks, no journal.
//!
//! The window is the part of the queue that was read ahead, a bounded number of light entries. Design constraints:
//! - The journal's queue is the truth. The window can be thrown away and read again at any moment ([`Window::start_over`]); only
//!   what is on its way ([`Window::next`]) or sent without the journal knowing it yet is remembered beside it.
//! - Order follows from place and key alone, so it is the same after a restart.
//! - Without keys there is one order for all. Where a lane has keys, a delivery without one (queued before the lane had them) is
//!   in order with everything: it leaves when all before it have left, and those after it wait.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use jiff::Timestamp;

use super::super::OnPoison;
use crate::journal::{Holding, OrderKey, Queued};

/// Entries that are read ahead where there is one order: a few are enough to never wait for the journal.
const PLAIN: usize = 64;
/// … and where there is one per key: so many may wait behind slow keys before the other keys do.
const KEYED: usize = 10_000;
/// Entries read at once: the lane does nothing else meanwhile.
const AT_ONCE: usize = 256;

/// What waits, as far as it was read.
#[derive(Debug)]
pub(super) struct Window {
    keyed: bool,
    limit: usize,
    parallel: usize,
    /// The place up to which the queue was read.
    read_to: u64,
    /// Whether the queue may hold more behind that place.
    more: bool,
    /// The next in the queue is in order with everything, and waits until the window is empty.
    barrier: bool,
    entries: BTreeMap<u64, Entry>,
    orders: HashMap<Order, Line>,
    /// Those that are first in their order and due.
    ready: BTreeSet<u64>,
    /// Those that are first in their order and wait for their time.
    waiting: BTreeSet<(Timestamp, u64)>,
    /// Those that are on their way.
    leaving: HashMap<u64, Order>,
    /// Those that were sent and are not yet so in the journal.
    sent: HashSet<u64>,
    holds: Holds,
}

/// What deliveries keep their order by; none where all have one order.
type Order = Option<OrderKey>;

#[derive(Debug)]
struct Entry {
    queued: Queued,
    read_at: Instant,
}

/// What waits in one order.
#[derive(Debug, Default)]
struct Line {
    places: BTreeSet<u64>,
    /// Whether one of them is on its way.
    is_busy: bool,
}

/// Dead letters that hold up what comes after them.
#[derive(Debug, Default)]
struct Holds {
    lane: Option<u64>,
    keys: HashMap<OrderKey, u64>,
}

impl Holds {
    fn hold(&self, place: u64, key: Order) -> bool {
        let key = key.and_then(|key| self.keys.get(&key));
        [self.lane.as_ref(), key].into_iter().flatten().any(|held_from| *held_from < place)
    }

    fn hold_key(&self, place: u64, key: Order) -> bool {
        key.and_then(|key| self.keys.get(&key)).is_some_and(|held_from| *held_from < place)
    }
}

/// Whether the destination takes deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// As far as is known.
    Open,
    /// It is down: one delivery may try, not before this time.
    Probe(Timestamp),
}

impl Window {
    pub(super) fn new(keyed: bool, parallel: usize) -> Window {
        Window {
            keyed,
            limit: if keyed { KEYED } else { PLAIN },
            parallel,
            read_to: 0,
            more: true,
            barrier: false,
            entries: BTreeMap::new(),
            orders: HashMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            leaving: HashMap::new(),
            sent: HashSet::new(),
            holds: Holds::default(),
        }
    }

    /// Something was queued since.
    pub(super) fn queued(&mut self) {
        self.more = true;
    }

    /// After which place the queue is to be read on, and how many entries at most.
    pub(super) fn wants(&self) -> Option<(u64, usize)> {
        let at_once = AT_ONCE.min(self.limit / 2);
        let is_empty = self.entries.is_empty() && self.leaving.is_empty();
        let room = self.entries.len() + at_once <= self.limit;
        (self.more && room && (!self.barrier || is_empty)).then_some((self.read_to, at_once))
    }

    /// What was read, of so many asked for.
    pub(super) fn read(&mut self, asked: usize, found: Vec<Queued>, now: Instant) {
        self.more = found.len() >= asked;
        self.barrier = false;
        for queued in found {
            let place = queued.sequence;
            if self.leaving.contains_key(&place) || self.sent.contains(&place) || self.entries.contains_key(&place) {
                self.read_to = place;
                continue;
            }
            if self.keyed && self.is_barred(&queued) {
                (self.more, self.barrier) = (true, true);
                return;
            }
            self.read_to = place;
            // What its key holds up takes no room: when the key is let go, the queue is read again.
            if !self.holds.hold_key(place, queued.key) {
                self.insert(Entry { queued, read_at: now });
            }
        }
    }

    /// Whether it must wait for all that is in the window, or all that is in the window for it.
    fn is_barred(&self, queued: &Queued) -> bool {
        match queued.key {
            None => !self.entries.is_empty() || !self.leaving.is_empty(),
            Some(_) => {
                let unkeyed = self.leaving.values().any(Option::is_none);
                unkeyed || self.orders.get(&None).is_some_and(|line| !line.places.is_empty())
            }
        }
    }

    fn order(&self, queued: &Queued) -> Order {
        queued.key.filter(|_| self.keyed)
    }

    fn insert(&mut self, entry: Entry) {
        let order = self.order(&entry.queued);
        let place = entry.queued.sequence;
        let line = self.orders.entry(order).or_default();
        let was_first = line.places.first().copied();
        line.places.insert(place);
        self.entries.insert(place, entry);
        if was_first.is_none_or(|first| place < first) {
            was_first.into_iter().for_each(|first| self.unlist(first));
            self.list_first(order);
        }
    }

    /// Takes one out of those that may leave.
    fn unlist(&mut self, place: u64) {
        self.ready.remove(&place);
        if let Some(next_at) = self.entries.get(&place).and_then(|entry| entry.queued.next_at) {
            self.waiting.remove(&(next_at, place));
        }
    }

    /// Puts the first of an order among those that may leave, now or later.
    fn list_first(&mut self, order: Order) {
        let Some(line) = self.orders.get(&order) else { return };
        let Some(first) = line.places.first().copied() else {
            if !line.is_busy {
                self.orders.remove(&order);
            }
            return;
        };
        let Some(entry) = self.entries.get(&first) else { return };
        if line.is_busy || self.holds.hold(first, entry.queued.key) {
            return;
        }
        match entry.queued.next_at {
            Some(next_at) => self.waiting.insert((next_at, first)),
            None => self.ready.insert(first),
        };
    }

    fn come_due(&mut self, now: Timestamp) {
        while let Some((next_at, place)) = self.waiting.first().copied().filter(|(next_at, _)| *next_at <= now) {
            self.waiting.remove(&(next_at, place));
            self.ready.insert(place);
        }
    }

    fn is_full(&self, gate: Gate) -> bool {
        self.leaving.len() >= if gate == Gate::Open { self.parallel } else { 1 }
    }

    /// The delivery that may leave now, and when it was read; it is on its way from now on.
    pub(super) fn next(&mut self, now: Timestamp, gate: Gate) -> Option<(Queued, Instant)> {
        if self.is_full(gate) || matches!(gate, Gate::Probe(not_before) if not_before > now) {
            return None;
        }
        self.come_due(now);
        let place = self.ready.pop_first()?;
        let Entry { queued, read_at } = self.entries.remove(&place)?;
        let order = self.order(&queued);
        let line = self.orders.entry(order).or_default();
        line.places.remove(&place);
        line.is_busy = true;
        self.leaving.insert(place, order);
        Some((queued, read_at))
    }

    /// The delivery that will leave next, if nothing changes.
    pub(super) fn peek(&self) -> Option<&Queued> {
        let busy = self.leaving.values().filter_map(|order| self.orders.get(order)?.places.first());
        let place = if self.keyed { self.ready.first() } else { self.ready.first().or(busy.min()) };
        self.entries.get(place?).map(|entry| &entry.queued).filter(|queued| queued.next_at.is_none())
    }

    /// When one that waits for its time, or for the destination, may leave; none while something else must happen first.
    pub(super) fn next_due(&self, gate: Gate) -> Option<Timestamp> {
        if self.is_full(gate) {
            return None;
        }
        let first = self.waiting.first().map(|(next_at, _)| *next_at);
        match gate {
            Gate::Open => first,
            Gate::Probe(not_before) if !self.ready.is_empty() => Some(not_before),
            Gate::Probe(not_before) => first.map(|first| first.max(not_before)),
        }
    }

    /// One on its way was sent: its order goes on. The journal does not know it yet.
    pub(super) fn sent(&mut self, place: u64) {
        if self.arrive(place) {
            self.sent.insert(place);
        }
    }

    /// The journal knows that it was sent.
    pub(super) fn settled(&mut self, place: u64) {
        self.sent.remove(&place);
    }

    /// One on its way came back: as the journal has it now, if it still waits.
    pub(super) fn back(&mut self, place: u64, queued: Option<Queued>, now: Instant) {
        if let Some(queued) = queued.filter(|queued| self.leaving.contains_key(&queued.sequence)) {
            self.insert(Entry { queued, read_at: now });
        }
        self.arrive(place);
    }

    fn arrive(&mut self, place: u64) -> bool {
        let Some(order) = self.leaving.remove(&place) else { return false };
        if let Some(line) = self.orders.get_mut(&order) {
            line.is_busy = false;
        }
        self.list_first(order);
        true
    }

    /// The dead letters that hold others up, in order.
    pub(super) fn hold(&mut self, holding: &[Holding], on_poison: OnPoison) {
        let mut holds = Holds::default();
        for holding in holding {
            match (on_poison, holding.key) {
                (OnPoison::DeadLetter, _) => {}
                (OnPoison::HoldKey, Some(key)) => {
                    holds.keys.entry(key).or_insert(holding.sequence);
                }
                (OnPoison::HoldKey, None) | (OnPoison::Block, _) => {
                    holds.lane = Some(holds.lane.map_or(holding.sequence, |first| first.min(holding.sequence)));
                }
            }
        }
        self.holds = holds;
        let held = |entry: &Entry| self.holds.hold_key(entry.queued.sequence, entry.queued.key);
        let gone: Vec<u64> = self.entries.iter().filter(|(_, entry)| held(entry)).map(|(place, _)| *place).collect();
        for place in gone {
            if let Some(entry) = self.entries.remove(&place)
                && let Some(line) = self.orders.get_mut(&self.order(&entry.queued))
            {
                line.places.remove(&place);
            }
        }
        self.ready.clear();
        self.waiting.clear();
        for order in self.orders.keys().copied().collect::<Vec<_>>() {
            self.list_first(order);
        }
    }

    /// Forgets what was read: the queue is read anew from its beginning.
    pub(super) fn start_over(&mut self) {
        self.entries.clear();
        self.ready.clear();
        self.waiting.clear();
        self.orders.retain(|_, line| {
            line.places.clear();
            line.is_busy
        });
        (self.read_to, self.more, self.barrier) = (0, true, false);
    }

    /// How many entries there are: what reading them again costs.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

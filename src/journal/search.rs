//! Finding messages: the intersection of sorted lists of ids, newest first.
//!
//! Every condition is a list of ids in the index. The search leaps: each list says its greatest id at or below the smallest that
//! another one has said, until all agree. So it costs no more than its rarest condition allows, however long the others are.

use jiff::Timestamp;

use super::index::Index;
use super::{JournalError, MessageState, Query, keys};
use crate::message::MessageId;

/// The ids that match, and where to go on.
pub(super) fn search(index: &Index, query: &Query) -> Result<(Vec<MessageId>, Option<MessageId>), JournalError> {
    let mut conditions = conditions(index, query)?;
    let oldest = query.since.map_or(0, first_id);
    let mut found = Vec::new();
    let Some(mut id) = newest(query) else { return Ok((found, None)) };
    while found.len() < query.limit {
        match agree(&mut conditions, index, id)?.filter(|id| *id >= oldest) {
            Some(next) => {
                found.push(MessageId::from_bytes(next.to_be_bytes()));
                let Some(below) = next.checked_sub(1) else { return Ok((found, None)) };
                id = below;
            }
            None => return Ok((found, None)),
        }
    }
    let more = agree(&mut conditions, index, id)?.is_some_and(|id| id >= oldest);
    let next = found.last().copied().filter(|_| more);
    Ok((found, next))
}

/// The greatest id that can match.
fn newest(query: &Query) -> Option<u128> {
    let before = query.before.map(|id| u128::from_be_bytes(id.to_bytes()));
    let until = query.until.map(first_id);
    [before, until].into_iter().flatten().min().map_or(Some(u128::MAX), |end| end.checked_sub(1))
}

/// The smallest id of a millisecond.
fn first_id(at: Timestamp) -> u128 {
    u128::try_from(at.as_millisecond()).unwrap_or(0) << 80
}

/// The greatest id at or below `id` that is in every list.
fn agree(conditions: &mut [Condition], index: &Index, mut id: u128) -> Result<Option<u128>, JournalError> {
    loop {
        let start = id;
        for condition in conditions.iter_mut() {
            match condition.at_or_before(index, id)? {
                Some(found) => id = found,
                None => return Ok(None),
            }
        }
        if id == start || conditions.len() == 1 {
            return Ok(Some(id));
        }
    }
}

/// One condition: the union of sorted lists.
struct Condition {
    lists: Vec<List>,
}

/// The ids after one prefix of the index, gone through downwards.
struct List {
    prefix: Vec<u8>,
    /// The last answer: still the right one for any smaller question that is not below it.
    last: Option<Option<u128>>,
}

impl Condition {
    fn new(prefixes: impl IntoIterator<Item = Vec<u8>>) -> Condition {
        Condition { lists: prefixes.into_iter().map(|prefix| List { prefix, last: None }).collect() }
    }

    fn at_or_before(&mut self, index: &Index, id: u128) -> Result<Option<u128>, JournalError> {
        let mut greatest = None;
        for list in &mut self.lists {
            let answer = match list.last {
                Some(None) => None,
                Some(Some(last)) if last <= id => Some(last),
                _ => index.at_or_before(&list.prefix, id)?,
            };
            list.last = Some(answer);
            greatest = greatest.max(answer);
        }
        Ok(greatest)
    }
}

fn conditions(index: &Index, query: &Query) -> Result<Vec<Condition>, JournalError> {
    let mut conditions: Vec<Condition> =
        query.refs.iter().map(|(kind, value)| Condition::new([keys::reference(*kind, value)])).collect();
    let placed = match (&query.channel, query.state) {
        (Some(channel), Some(state)) => vec![keys::state(channel, state)],
        (Some(channel), None) => MessageState::ALL.iter().map(|state| keys::state(channel, *state)).collect(),
        (None, Some(state)) => in_state(index, state)?,
        (None, None) if conditions.is_empty() => vec![keys::MESSAGES.to_vec()],
        (None, None) => return Ok(conditions),
    };
    conditions.push(Condition::new(placed));
    Ok(conditions)
}

/// The lists of a state, one of each channel that ever had a message in it.
fn in_state(index: &Index, state: MessageState) -> Result<Vec<Vec<u8>>, JournalError> {
    let counts = index.scan(keys::COUNTS, &[], usize::MAX)?;
    let channels = counts.iter().filter_map(|(key, _)| {
        let (channel, rest) = key.split_at(key.iter().position(|byte| *byte == 0)?);
        let channel = std::str::from_utf8(channel).ok()?;
        (rest[1..].strip_suffix(&[0]) == Some(state.as_str().as_bytes())).then(|| keys::state(channel, state))
    });
    Ok(channels.collect())
}

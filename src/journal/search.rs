//! Finding messages: shelf by shelf, the newest first, and in each the newest id first.
//!
//! In a sealed roster every condition is a sorted list of ranks. The search leaps: each list says its greatest rank at or below the
//! smallest that another one has said, until all agree. So it costs no more than its rarest condition allows, however long the
//! others are. What is in memory is looked at one by one.

use std::sync::Arc;

use jiff::Timestamp;

use super::ledger::Frozen;
use super::roster::{Entry, reference_hash, state_hash};
use super::sealed::Sealed;
use super::writer::Shared;
use super::{JournalError, MessageState, Page, Query, Summary, keys};
use crate::message::MessageId;

/// The messages that match, and where to go on.
pub(super) fn search(shared: &Shared, query: &Query) -> Result<Page, JournalError> {
    let mut search = Search::new(shared, query)?;
    search.in_memory()?;
    for sealed in search.sealed.clone().iter().rev() {
        if search.is_full() {
            break;
        }
        search.in_sealed(sealed)?;
    }
    let mut messages = search.found;
    let next = match messages.len() > query.limit {
        true => {
            messages.truncate(query.limit);
            messages.last().map(|last| last.id)
        }
        false => None,
    };
    Ok(Page { messages, next })
}

struct Search<'s> {
    shared: &'s Shared,
    query: &'s Query,
    references: Vec<u64>,
    /// The channels and states that a message may be in; none: any.
    placed: Option<Vec<(String, MessageState)>>,
    /// The shelf of the last message of the page before.
    from: Option<u64>,
    sealed: Vec<Arc<Sealed>>,
    found: Vec<Summary>,
}

impl<'s> Search<'s> {
    fn new(shared: &'s Shared, query: &'s Query) -> Result<Search<'s>, JournalError> {
        let references = query.refs.iter().map(|(kind, value)| reference_hash(*kind, value)).collect();
        let mut search =
            Search { shared, query, references, placed: None, from: None, sealed: Vec::new(), found: Vec::new() };
        search.placed = search.placed()?;
        if let Some(before) = query.before {
            let recent = shared.ledger().recent(before).map(|entry| entry.row.arrived.segment);
            let shelf = shared.ledger().shelf_of(before)?.map(|shelf| shelf.number());
            search.from = recent.or(shelf);
        }
        Ok(search)
    }

    /// The channels and states that the query allows.
    fn placed(&self) -> Result<Option<Vec<(String, MessageState)>>, JournalError> {
        let states = |channel: &String| MessageState::ALL.iter().map(|state| (channel.clone(), *state)).collect();
        Ok(match (&self.query.channel, self.query.state) {
            (Some(channel), Some(state)) => Some(vec![(channel.clone(), state)]),
            (Some(channel), None) => Some(states(channel)),
            (None, Some(state)) => {
                let counts = self.shared.index.scan(keys::COUNTS, &[], usize::MAX)?;
                let channels = counts.iter().filter_map(|(key, _)| {
                    let (channel, found) = keys::two_names(key)?;
                    (found == state.as_str()).then_some((channel, state))
                });
                Some(channels.collect())
            }
            (None, None) => None,
        })
    }

    /// One more than asked for: then there is a page after this one.
    fn is_full(&self) -> bool {
        self.found.len() > self.query.limit
    }

    /// Whether an id can be on this page, by its shelf and by its time.
    fn may_be(&self, shelf: u64, id: MessageId) -> bool {
        let in_time = id.to_bytes() >= self.oldest() && self.until().is_none_or(|until| id.to_bytes() < until);
        let on_page = match (self.query.before, self.from) {
            (None, _) => true,
            (Some(before), Some(from)) => shelf < from || (shelf == from && id < before),
            (Some(before), None) => id < before,
        };
        in_time && on_page
    }

    fn oldest(&self) -> [u8; 16] {
        self.query.since.map_or([0; 16], first_id)
    }

    fn until(&self) -> Option<[u8; 16]> {
        self.query.until.map(first_id)
    }

    /// Takes a message that may match in, if it does.
    fn take(&mut self, id: MessageId) -> Result<(), JournalError> {
        let Some(summary) = self.shared.summary(id)? else { return Ok(()) };
        if matches(&summary, self.query) {
            self.found.push(summary);
        }
        Ok(())
    }

    /// The newest messages, and those whose roster is being sealed.
    fn in_memory(&mut self) -> Result<(), JournalError> {
        let (mut candidates, frozen): (Vec<(u64, MessageId)>, Vec<Arc<Frozen>>) = {
            let ledger = self.shared.ledger();
            self.sealed = ledger.sealed.clone();
            let matching = |entry: &&Entry| {
                self.query.channel.as_ref().is_none_or(|channel| **channel == *entry.row.channel)
                    && self.query.state.is_none_or(|state| state == entry.row.state)
                    && self.may_be(entry.row.arrived.segment, entry.id)
            };
            let rosters = ledger.window().filter(|roster| self.from.is_none_or(|from| roster.segment <= from));
            let recent = rosters
                .flat_map(|roster| roster.with_all(&self.references).into_iter().filter(matching))
                .map(|entry| (entry.row.arrived.segment, entry.id));
            (recent.collect(), ledger.frozen.iter().cloned().collect())
        };
        for frozen in frozen {
            let segment = frozen.roster.segment;
            let entries = frozen.roster.with_all(&self.references).into_iter();
            let entries =
                entries.filter(|entry| self.query.channel.as_ref().is_none_or(|name| **name == *entry.row.channel));
            candidates.extend(entries.map(|entry| (segment, entry.id)).filter(|(shelf, id)| self.may_be(*shelf, *id)));
        }
        candidates.sort_unstable_by(|one, other| other.cmp(one));
        for (_, id) in candidates {
            if self.is_full() {
                break;
            }
            self.take(id)?;
        }
        Ok(())
    }

    fn in_sealed(&mut self, sealed: &Sealed) -> Result<(), JournalError> {
        let shelf = sealed.segment();
        if self.from.is_some_and(|from| shelf > from) {
            return Ok(());
        }
        let before = self.query.before.filter(|_| self.from.is_none_or(|from| from == shelf));
        let ends = [before.map(MessageId::to_bytes), self.until()];
        let end = ends.into_iter().flatten().min();
        let mut rank = match end {
            Some(end) => sealed.first_from(end)?,
            None => sealed.len(),
        };
        let first = match self.query.since {
            Some(since) => sealed.first_from(first_id(since))?,
            None => 0,
        };
        let mut conditions = self.conditions(sealed);
        while !self.is_full() && rank > first {
            match agree(&mut conditions, rank - 1)?.filter(|found| *found >= first) {
                Some(found) => {
                    self.take(sealed.id(found)?)?;
                    rank = found;
                }
                None => break,
            }
        }
        Ok(())
    }

    fn conditions<'c>(&self, sealed: &'c Sealed) -> Vec<Condition<'c>>
    where
        's: 'c,
    {
        let hashed = |hash: &u64| List { source: Source::Postings(sealed, *hash), last: None };
        let mut conditions: Vec<Condition<'c>> =
            self.references.iter().map(|hash| Condition { lists: vec![hashed(hash)] }).collect();
        if let Some(placed) = &self.placed {
            let shared: &'c Shared = self.shared;
            let mut lists: Vec<List<'c>> = Vec::new();
            for (channel, state) in placed {
                lists.push(hashed(&state_hash(channel, *state)));
                // The channel of a message stays: only where a state is asked for do changes matter.
                if self.query.state.is_some() {
                    let prefix = keys::states(channel, *state, sealed.segment());
                    lists.push(List { source: Source::Changed(shared, sealed, prefix), last: None });
                }
            }
            conditions.push(Condition { lists });
        }
        conditions
    }
}

/// Whether a message is what was asked for: lists may hold what only looks like it.
fn matches(summary: &Summary, query: &Query) -> bool {
    query.channel.as_ref().is_none_or(|channel| *channel == summary.channel)
        && query.state.is_none_or(|state| state == summary.state)
        && query
            .refs
            .iter()
            .all(|(kind, value)| summary.refs.iter().any(|found| found.kind == *kind && found.value == *value))
}

/// The smallest id of a millisecond.
fn first_id(at: Timestamp) -> [u8; 16] {
    (u128::try_from(at.as_millisecond()).unwrap_or(0) << 80).to_be_bytes()
}

/// The greatest rank at or below one that is in every list.
fn agree(conditions: &mut [Condition<'_>], mut rank: u32) -> Result<Option<u32>, JournalError> {
    loop {
        let start = rank;
        for condition in conditions.iter_mut() {
            match condition.at_or_before(rank)? {
                Some(found) => rank = found,
                None => return Ok(None),
            }
        }
        if rank == start || conditions.len() == 1 {
            return Ok(Some(rank));
        }
    }
}

/// One condition: the union of sorted lists.
struct Condition<'c> {
    lists: Vec<List<'c>>,
}

/// The ranks of one list, gone through downwards.
struct List<'c> {
    source: Source<'c>,
    /// The last answer: still the right one for any smaller question that is not below it.
    last: Option<Option<u32>>,
}

enum Source<'c> {
    Postings(&'c Sealed, u64),
    /// Messages that changed since their roster was sealed.
    Changed(&'c Shared, &'c Sealed, Vec<u8>),
}

impl Source<'_> {
    fn at_or_before(&self, rank: u32) -> Result<Option<u32>, JournalError> {
        match self {
            Source::Postings(sealed, hash) => sealed.at_or_before(*hash, rank),
            Source::Changed(shared, sealed, prefix) => {
                let mut below = sealed.id(rank)?.to_bytes();
                loop {
                    let Some(id) = shared.index.at_or_before(prefix, u128::from_be_bytes(below))? else {
                        return Ok(None);
                    };
                    match sealed.find(MessageId::from_bytes(id.to_be_bytes()))? {
                        Some(rank) => return Ok(Some(rank)),
                        None if id == 0 => return Ok(None),
                        None => below = (id - 1).to_be_bytes(),
                    }
                }
            }
        }
    }
}

impl Condition<'_> {
    fn at_or_before(&mut self, rank: u32) -> Result<Option<u32>, JournalError> {
        let mut greatest = None;
        for list in &mut self.lists {
            let answer = match list.last {
                Some(None) => None,
                Some(Some(last)) if last <= rank => Some(last),
                _ => list.source.at_or_before(rank)?,
            };
            list.last = Some(answer);
            greatest = greatest.max(answer);
        }
        Ok(greatest)
    }
}

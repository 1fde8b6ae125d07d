//! Pruning: of old segments the content is removed (`strip.rs`), and older ones are removed whole, which gives their space back to
//! the file system at once.
//!
//! Design constraints:
//! - Nothing that is unsent or parked is removed: a message that is not finished goes on in the newest segment first, with all
//!   that is known of it.
//! - The removal is noted, durably, before the first file goes: a rebuild then does not take the segments for lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::late::Late;
use super::lists::relist;
use super::plan::Work;
use super::recovery;
use super::row::{Row, parse};
use super::sealed::{self, Sealed};
use super::segments;
use super::strip;
use super::writer::{Shared, Writer};
use super::{JournalError, folder, keys};
use crate::message::MessageId;

/// What is to be removed: the oldest first.
#[derive(Debug, Clone, Copy)]
pub struct Prune {
    /// Only what was received before this time.
    pub before: Timestamp,
    /// Until so many bytes were given back.
    pub bytes: u64,
    /// Content: what is known of the messages stays.
    pub content: bool,
    /// Messages, with all that is known of them; where content goes too, only if that was not enough.
    pub messages: bool,
    /// Also looks at segments that kept the content of what was unsent or parked: some of that may be finished by now.
    pub again: bool,
    /// Only says what would be removed.
    pub dry_run: bool,
}

impl Prune {
    /// The content of what was received before a time.
    pub fn content(before: Timestamp) -> Prune {
        Prune { content: true, messages: false, ..Prune::bytes(u64::MAX, before) }
    }

    /// What was received before a time, with all that is known of it.
    pub fn messages(before: Timestamp) -> Prune {
        Prune { content: false, ..Prune::bytes(u64::MAX, before) }
    }

    /// Until so many bytes were given back: content, and if that is not enough, messages, but only of what was received before a
    /// time.
    pub fn bytes(bytes: u64, before: Timestamp) -> Prune {
        Prune { before, bytes, content: true, messages: true, again: true, dry_run: false }
    }
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Segments of which the content is gone, but for what is unsent or parked.
    #[serde(default)]
    pub stripped_segments: u64,
    /// Messages in them whose content is gone.
    #[serde(default)]
    pub stripped_messages: u64,
    /// Segments that are gone.
    pub segments: u64,
    /// Messages in them that are gone.
    pub messages: u64,
    /// Messages in them that were not finished, and go on in the newest segment.
    pub carried: u64,
    /// Bytes that were given back to the file system.
    pub bytes: u64,
}

impl Pruned {
    /// Both together.
    pub fn and(self, more: Pruned) -> Pruned {
        Pruned {
            stripped_segments: self.stripped_segments + more.stripped_segments,
            stripped_messages: self.stripped_messages + more.stripped_messages,
            segments: self.segments + more.segments,
            messages: self.messages + more.messages,
            carried: self.carried + more.carried,
            bytes: self.bytes + more.bytes,
        }
    }
}

impl Disk {
    pub(super) async fn prune_as(&self, prune: Prune) -> Result<Pruned, JournalError> {
        let _alone = self.maintenance.lock().await;
        self.submit(Work::SealOld { before: prune.before }, 0).await?;
        let shared = self.shared.clone();
        blocking(move || recovery::write_out(&shared)).await?;
        let sealed = self.shared.ledger().sealed.clone();
        let is_old = |shelf: &Arc<Sealed>| shelf.newest_ms() < prune.before.as_millisecond();
        let shelves: Vec<Arc<Sealed>> = sealed.into_iter().take_while(is_old).collect();
        let mut pruned = Pruned::default();
        let mut refused = None;
        let mut given = BTreeMap::new();
        for shelf in shelves.iter().filter(|_| prune.content) {
            if pruned.bytes >= prune.bytes {
                break;
            }
            match self.strip(shelf, &prune).await {
                Ok(strip::Done { segments, messages, bytes }) => {
                    pruned.stripped_segments += segments;
                    pruned.stripped_messages += messages;
                    pruned.bytes += bytes;
                    given.insert(shelf.segment(), bytes);
                }
                Err(error @ JournalError::Closed { .. }) => return Err(error),
                // One that cannot be read, or for which there is no room, does not keep the others.
                Err(error) => {
                    tracing::warn!(segment = shelf.segment(), %error, "the content of a segment was not removed");
                    refused.get_or_insert(error);
                }
            }
        }
        for shelf in shelves.iter().filter(|_| prune.messages) {
            if pruned.bytes >= prune.bytes {
                break;
            }
            let mut removed = match self.remove(shelf, prune.dry_run).await {
                Ok(removed) => removed,
                Err(error @ JournalError::Closed { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(segment = shelf.segment(), %error, "a segment was not removed");
                    refused.get_or_insert(error);
                    // Segments go in order: what was removed last is told by its number.
                    break;
                }
            };
            if prune.dry_run {
                // What its content would have given back was counted already.
                removed.bytes = removed.bytes.saturating_sub(given.get(&shelf.segment()).copied().unwrap_or(0));
            }
            pruned = pruned.and(removed);
        }
        match refused {
            Some(error) if pruned.bytes < prune.bytes => Err(error),
            _ => Ok(pruned),
        }
    }

    async fn remove(&self, shelf: &Arc<Sealed>, dry_run: bool) -> Result<Pruned, JournalError> {
        let number = shelf.segment();
        // Before it is looked at what is unfinished: nothing more becomes so.
        let going = if dry_run { None } else { Some(self.going(number).await?) };
        let shared = self.shared.clone();
        let unfinished = blocking({
            let shelf = shelf.clone();
            move || shared.unfinished(&shelf)
        })
        .await?;
        let path = segments::path(&self.shared.segments, number);
        let bytes = [path.clone(), sealed::path(&self.shared.segments, number)]
            .iter()
            .map(|path| std::fs::metadata(path).map_or(0, |metadata| metadata.len()))
            .sum::<u64>();
        let carried = unfinished.len() as u64;
        let messages = u64::from(shelf.len()) - carried;
        let removed = Pruned { segments: 1, messages, carried, bytes, ..Pruned::default() };
        if dry_run {
            return Ok(removed);
        }
        for id in &unfinished {
            self.submit(Work::Carry { id: *id, from: number }, 0).await?;
        }
        folder::put_pruned(&self.folder, number)?;
        self.submit(Work::Forget { shelf: number }, 0).await?;
        self.shared.reader.forget(number);
        self.shared.recent.forget(number);
        self.shared.forget_parts(number);
        self.shared.sealed_files.forget(number);
        self.shared.forget_stripped(number);
        sealed::remove(&self.shared.segments, number)?;
        folder::remove(&path)?;
        drop(going);
        Ok(removed)
    }
}

/// Runs what touches the disk for long on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    let reason = "a maintenance thread ended early".to_owned();
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(JournalError::Closed { reason }))
}

impl Shared {
    /// The messages of a shelf that are not finished and have not gone on elsewhere.
    pub(super) fn unfinished(&self, shelf: &Sealed) -> Result<Vec<MessageId>, JournalError> {
        let mut ids = BTreeSet::new();
        for rank in shelf.unfinished()? {
            ids.insert(shelf.id(rank)?);
        }
        ids.extend(self.changed_in(shelf.segment())?.into_iter().map(|(id, _)| id));
        let mut unfinished = Vec::new();
        for id in ids {
            if self.is_home(shelf.segment(), id)? && self.row(id)?.is_some_and(|row| !row.is_finished()) {
                unfinished.push(id);
            }
        }
        Ok(unfinished)
    }

    /// The rows of a shelf that changed since its roster was sealed.
    fn changed_in(&self, shelf: u64) -> Result<Vec<(MessageId, Row)>, JournalError> {
        let mut changed = Vec::new();
        for (key, row) in self.index.scan(&keys::messages(shelf), &[], usize::MAX)? {
            let Some(id) = key.first_chunk() else { continue };
            changed.push((MessageId::from_bytes(*id), parse(&row)?));
        }
        Ok(changed)
    }

    fn is_home(&self, shelf: u64, id: MessageId) -> Result<bool, JournalError> {
        let ledger = self.ledger();
        Ok(ledger.recent(id).is_none() && ledger.shelf_of(id)?.is_some_and(|found| found.number() == shelf))
    }
}

impl Writer {
    /// Freezes the rosters that may be pruned; a segment that is being written to ends, so that it can be.
    pub(super) fn seal_old(&mut self, before: Timestamp) -> Result<(), JournalError> {
        // What a sealed roster says must not be ahead of what is on the disk.
        self.appender.sync()?;
        let shared = self.shared.clone();
        let is_old = |at: Option<Timestamp>| at.is_some_and(|at| at < before);
        if is_old(shared.ledger().window().next_back().and_then(|roster| roster.newest())) {
            self.appender.roll_now(self.sequence)?;
            shared.ledger_mut().begin(self.appender.end().segment);
        }
        let mut late = Late::new(&shared.index);
        let mut ledger = shared.ledger_mut();
        while ledger.window_len() > 1
            && ledger.window().next().is_some_and(|roster| is_old(roster.newest()) || roster.is_empty())
        {
            ledger.freeze_oldest(&mut late, self.appender.end());
        }
        self.note(&mut ledger, late)
    }

    /// A shelf is about to be removed: takes out of the index what it says of it.
    pub(super) fn forget(&mut self, number: u64) -> Result<(), JournalError> {
        let shared = self.shared.clone();
        let Some(shelf) = shared.ledger().sealed.iter().find(|sealed| sealed.segment() == number).cloned() else {
            return Ok(());
        };
        let mut late = Late::new(&shared.index);
        for (channel, state, count) in shelf.counts()? {
            late.add_count(&channel, state, -(count as i64));
        }
        let changed = shared.changed_in(number)?;
        let mut ids: BTreeSet<MessageId> = changed.iter().map(|(id, _)| *id).collect();
        for rank in shelf.unfinished()? {
            ids.insert(shelf.id(rank)?);
        }
        // What changed was counted out of its old state before; what was carried was counted out of its last one.
        for id in ids {
            let Some(rank) = shelf.find(id)? else { continue };
            let base = shelf.row(rank)?.row;
            late.add_count(&base.channel, base.state, 1);
            if shared.is_home(number, id)? {
                let now = changed.iter().find(|(found, _)| *found == id).map_or(&base, |(_, row)| row);
                relist(&mut late, id, Some(now), None);
            }
        }
        for (id, row) in &changed {
            late.remove(keys::message(number, *id));
            late.remove(keys::state(&row.channel, row.state, number, *id));
        }
        for (key, _) in shared.index.scan(&keys::shelf_events(number), &[], usize::MAX)? {
            late.remove(keys::with(&keys::shelf_events(number), &key));
        }
        let mut ledger = shared.ledger_mut();
        ledger.sealed.retain(|sealed| sealed.segment() != number);
        self.pruned = number;
        let bytes = std::fs::metadata(segments::path(&shared.segments, number)).map_or(0, |metadata| metadata.len());
        self.appender.forget(bytes);
        self.note(&mut ledger, late)
    }
}

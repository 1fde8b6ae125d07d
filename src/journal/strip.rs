//! Removing content: of an old segment its metadata is left, and the content of what is not finished (`stripped.rs`).
//!
//! Design constraints:
//! - The new file is whole and synced before it takes the name of the old one: whatever happens, there is one of them.
//! - What is not finished has all its content. So while a segment's content is being removed, and ever after, no command makes
//!   something of it that is to be sent again.

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::disk::Disk;
use super::event::Event;
use super::plan::Work;
use super::prune::{Prune, blocking};
use super::record::{Body, Record};
use super::row::Row;
use super::scan::{Found, Scan};
use super::sealed::Sealed;
use super::segments::{self, Segment, sync_folder, unreadable};
use super::stripped::Tail;
use super::stripping::Out;
use super::writer::Shared;
use super::{Journal, JournalError, folder};
use crate::message::MessageId;

/// The ending of a file that is to take a segment's place.
const NEW: &str = "strip";

/// What is known of segments whose content was removed.
#[derive(Default)]
pub(super) struct Stripping {
    stripped: BTreeMap<u64, Left>,
    /// The segment of which something is being removed.
    going: Option<u64>,
}

/// What is left of a segment.
#[derive(Clone, Copy)]
struct Left {
    /// Records of which bodies are kept.
    kept: u64,
    bytes: u64,
}

/// What came of removing a segment's content.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) segments: u64,
    /// Messages whose body was removed.
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// Held while something of a segment is being removed.
pub(super) struct Going(Arc<Shared>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.stripping().going = None;
    }
}

/// Takes away what was half written when the process stopped.
pub(super) fn remove_unfinished(segments: &Path) -> Result<(), JournalError> {
    for entry in std::fs::read_dir(segments).map_err(unreadable("listing", segments))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == NEW) {
            folder::remove(&entry.path())?;
        }
    }
    Ok(())
}

impl Disk {
    /// Removes the content of a segment, or only says what would be.
    pub(super) async fn strip(&self, shelf: &Arc<Sealed>, prune: &Prune) -> Result<Done, JournalError> {
        let left = self.shared.stripping().stripped.get(&shelf.segment()).copied();
        if left.is_some_and(|left| left.kept == 0 || !prune.again) {
            return Ok(Done::default());
        }
        let (shared, shelf) = (self.shared.clone(), shelf.clone());
        if prune.dry_run {
            return blocking(move || shared.would_strip(&shelf)).await;
        }
        self.check_room(shelf.segment())?;
        let going = self.going(shelf.segment()).await?;
        let number = shelf.segment();
        let copied = blocking({
            let shared = shared.clone();
            move || shared.copy_without_content(&shelf)
        })
        .await?;
        let Some(copied) = copied else { return Ok(Done::default()) };
        // It was looked at what is finished: that must be on the disk before the content goes.
        self.submit(Work::GaveBack { bytes: 0 }, 0).await?;
        let done = blocking(move || {
            let done = shared.exchange(number, copied);
            drop(going);
            done
        })
        .await?;
        self.submit(Work::GaveBack { bytes: done.bytes }, 0).await?;
        Ok(done)
    }

    /// What is left of a segment is written beside it. The last room on the disk is not for that: a record that cannot be written
    /// would be the end of the journal.
    fn check_room(&self, segment: u64) -> Result<(), JournalError> {
        let path = segments::path(&self.shared.segments, segment);
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        if self.disk().is_some_and(|disk| disk.free < bytes) {
            let error = io::Error::other("there is too little room on the disk to write what is left of it");
            return Err(unreadable("removing the content", &path)(error));
        }
        Ok(())
    }

    /// From now on, nothing that is finished and has a record in a segment is sent again. What was asked for before is known when
    /// this returns.
    pub(super) async fn going(&self, segment: u64) -> Result<Going, JournalError> {
        self.shared.stripping().going = Some(segment);
        let going = Going(self.shared.clone());
        self.submit(Work::GaveBack { bytes: 0 }, 0).await?;
        Ok(going)
    }
}

impl Shared {
    fn stripping(&self) -> MutexGuard<'_, Stripping> {
        self.stripping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was found when the journal was opened.
    pub(super) fn found_stripped(&self, found: &BTreeMap<u64, Tail>) {
        let bytes = |number| std::fs::metadata(segments::path(&self.segments, number)).map_or(0, |file| file.len());
        let left = found.iter().map(|(number, tail)| (*number, Left { kept: tail.kept, bytes: bytes(*number) }));
        self.stripping().stripped.extend(left);
    }

    /// A segment was removed whole.
    pub(super) fn forget_stripped(&self, number: u64) {
        self.stripping().stripped.remove(&number);
    }

    /// How many segments have no content any more, and their bytes.
    pub(super) fn stripped_size(&self) -> (u64, u64) {
        let stripping = self.stripping();
        (stripping.stripped.len() as u64, stripping.stripped.values().map(|left| left.bytes).sum())
    }

    /// Whether a message that is finished can be sent again: its content must be there, and stay.
    pub(super) fn check_content(&self, id: MessageId, row: &Row) -> Result<(), JournalError> {
        for place in [Some(row.arrived), row.transformed].into_iter().flatten() {
            if self.stripping().going == Some(place.segment) {
                return Err(JournalError::Removed { id, at: Timestamp::now() });
            }
            // What is damaged is found out when it is sent.
            if let Ok((record, _)) = self.reader.record(place)
                && let Some(at) = record.removed_at()
            {
                return Err(JournalError::Removed { id, at });
            }
        }
        Ok(())
    }

    fn keeps(&self, shelf: &Sealed) -> Result<Keeps<'_>, JournalError> {
        let unfinished = self.unfinished(shelf)?.into_iter().collect();
        Ok(Keeps { shared: self, unfinished, foreign: shelf.foreign()?.into_iter().collect() })
    }

    /// What removing a segment's content would give back.
    fn would_strip(&self, shelf: &Sealed) -> Result<Done, JournalError> {
        let number = shelf.segment();
        let path = segments::path(&self.segments, number);
        let source = self.reader.segment(number)?;
        let before = source.file().metadata().map_err(unreadable("removing the content", &path))?.len();
        let (_, bytes, _, messages) = self.keeps(shelf)?.copy(&source, io::sink(), number, &path)?;
        Ok(done(messages, before, bytes))
    }

    /// Writes what is left of a segment beside it. None where nothing of it can go now.
    fn copy_without_content(&self, shelf: &Sealed) -> Result<Option<Copied>, JournalError> {
        let number = shelf.segment();
        let path = segments::path(&self.segments, number);
        let refused = || unreadable("removing the content", &path);
        let source = self.reader.segment(number)?;
        let before = source.file().metadata().map_err(refused())?.len();
        let new = path.with_extension(NEW);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let out = BufWriter::with_capacity(256 << 10, file.map_err(refused())?);
        let written =
            self.keeps(shelf)?.copy(&source, out, number, &path).and_then(|(mut out, bytes, tail, messages)| {
                out.flush().and_then(|()| out.get_ref().sync_all()).map_err(refused())?;
                Ok((bytes, tail, messages))
            });
        match written {
            Ok((.., None)) if matches!(*source, Segment::Stripped(_)) => {
                folder::remove(&new)?;
                Ok(None)
            }
            Ok((bytes, tail, messages)) => {
                Ok(Some(Copied { kept: tail.kept, bytes, done: done(messages, before, bytes) }))
            }
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                Err(error)
            }
        }
    }

    /// Lets what was copied take the segment's place.
    fn exchange(&self, number: u64, copied: Copied) -> Result<Done, JournalError> {
        let path = segments::path(&self.segments, number);
        let Copied { kept, bytes, done } = copied;
        std::fs::rename(path.with_extension(NEW), &path).map_err(unreadable("removing the content", &path))?;
        self.reader.forget(number);
        self.recent.forget(number);
        self.forget_parts(number);
        self.stripping().stripped.insert(number, Left { kept, bytes });
        sync_folder(&self.segments)?;
        Ok(done)
    }
}

/// What is left of a segment, in a file beside it.
struct Copied {
    kept: u64,
    bytes: u64,
    done: Done,
}

fn done(messages: Option<u64>, before: u64, bytes: u64) -> Done {
    Done { segments: 1, messages: messages.unwrap_or(0), bytes: before.saturating_sub(bytes) }
}

/// What of a segment is kept.
struct Keeps<'s> {
    shared: &'s Shared,
    /// Its messages that are not finished.
    unfinished: HashSet<MessageId>,
    /// Its records that are about messages of other segments.
    foreign: HashSet<u64>,
}

impl Keeps<'_> {
    /// Writes what is left of a segment. Gives the writer, the length and the end of what was written, and of how many messages
    /// the body goes: none where nothing goes at all.
    fn copy<W: Write>(
        &self,
        source: &Segment,
        out: W,
        number: u64,
        path: &Path,
    ) -> Result<(W, u64, Tail, Option<u64>), JournalError> {
        let refused = || unreadable("removing the content", path);
        let mut scan = Scan::new(source).map_err(refused())?;
        let mut out = Out::new(source.file(), out, number, Timestamp::now());
        let mut messages = None;
        while let Some(found) = scan.next().map_err(refused())? {
            match found {
                Found::Gap { from, to } => out.gap(from, to).map_err(refused())?,
                Found::Record { record, .. } => {
                    let is_there = |body: &Body| matches!(body, Body::Kept { .. });
                    let (keeps, count) = self.record(&record)?;
                    if !keeps && record.bodies().iter().any(is_there) {
                        *messages.get_or_insert(0) += count;
                    }
                    out.record(&record, keeps).map_err(refused())?;
                }
            }
        }
        let (out, bytes, tail) = out.finish().map_err(refused())?;
        Ok((out, bytes, tail, messages))
    }

    /// Whether a record keeps its bodies, and of how many messages it holds what came.
    fn record(&self, record: &Record) -> Result<(bool, u64), JournalError> {
        let keeps = |id: MessageId| match self.foreign.contains(&record.place().offset) {
            true => Ok(self.shared.row(id)?.is_some_and(|row| !row.is_finished())),
            false => Ok(self.unfinished.contains(&id)),
        };
        Ok(match Event::from_meta(record.kind, record.meta()) {
            Some(Event::Arrived(event)) => {
                let mut any = false;
                for recipient in &event.recipients {
                    any = any || keeps(recipient.id)?;
                }
                (any, event.recipients.len() as u64)
            }
            Some(Event::Carried(event)) => (keeps(event.id)?, 1),
            Some(Event::Transformed(event)) => {
                // The parts of a message that was split arrived here, wherever it did.
                let of_parts = event.parts.iter().any(|part| self.unfinished.contains(&part.outcome.id));
                (of_parts || keeps(event.id)?, event.parts.len() as u64)
            }
            Some(Event::Attempted(event)) => (keeps(event.delivery.message)?, 0),
            Some(Event::Commanded(_) | Event::SegmentStart(_)) | None => (false, 0),
        })
    }
}

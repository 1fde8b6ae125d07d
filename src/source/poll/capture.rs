//! What is done with a file that is complete: read, journaled, noted in the ledger, and then moved or deleted. Blocking.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Rules;
use super::folder::{Content, Fault, Folder, Lost};
use super::ledger::{ContentKey, KEEP_AT_LEAST, Known, Ledger, LedgerError, Outcome, PathKey};
use super::options::{After, Target};
use super::round::{Candidate, Ended, Notes};
use crate::expr::{ExprError, Scope};
use crate::journal::{Identity, OtherBody, Receipt, Repeat};
use crate::message::{Body, Message, MessageId, Meta, Origin, Refs};
use crate::source::{FormatOption, Incoming, Intake, IntakeError, Taken};

/// So many files are journaled together, with one sync.
const BATCH_FILES: usize = 64;
/// And so many bytes; one file that is larger goes alone.
const BATCH_BYTES: usize = 4 << 20;
/// After so many files that cannot be moved, the others are not tried either.
const GIVE_UP_AFTER: u64 = 10;

/// What one poll works with.
pub(super) struct Work<'a> {
    pub(super) folder: &'a mut dyn Folder,
    pub(super) rules: &'a Rules,
    pub(super) ledger: &'a mut Ledger,
    pub(super) intake: &'a Intake,
    pub(super) runtime: &'a Handle,
    pub(super) stop: &'a CancellationToken,
    pub(super) notes: &'a mut Notes,
    /// Files that changed while they were read.
    pub(super) changed: Vec<PathKey>,
    /// How many files could not be moved, and why the last was not.
    pub(super) left: Option<(u64, String)>,
}

/// A file that was read, and what is to become of it.
struct Picked {
    candidate: Candidate,
    message: Message,
    refs: Refs,
    raw: Bytes,
    content: ContentKey,
    rejected: Option<String>,
    /// The message that had the same content.
    first: Option<MessageId>,
}

/// What reading one file came to.
enum Looked {
    Picked(Box<Picked>),
    /// It is not there, not complete, or cannot be read: another time.
    Passed,
}

impl From<LedgerError> for Lost {
    fn from(error: LedgerError) -> Lost {
        Lost::new(error.to_string())
    }
}

impl Work<'_> {
    /// Captures files in their order.
    pub(super) fn capture(&mut self, ready: Vec<Candidate>) -> Result<Ended, Lost> {
        let (mut batch, mut bytes, mut unreadable) = (Vec::new(), 0, 0);
        let mut ended = Ended::Done;
        for candidate in ready {
            if self.stop.is_cancelled() {
                ended = Ended::Stopped;
                break;
            }
            let looked = self.look(candidate, &mut unreadable);
            let Looked::Picked(picked) = (match looked {
                Ok(looked) => looked,
                Err(lost) => {
                    // What was read already is good.
                    self.keep(batch)?;
                    return Err(lost);
                }
            }) else {
                continue;
            };
            // The same content twice in one batch: the first must be in the ledger before the second is judged.
            let twice = batch.iter().any(|earlier: &Picked| earlier.content == picked.content);
            if batch.len() >= BATCH_FILES || bytes + picked.raw.len() > BATCH_BYTES || twice {
                bytes = 0;
                if self.keep(std::mem::take(&mut batch))? == Ended::NoRoom {
                    return Ok(Ended::NoRoom);
                }
            }
            let mut picked = *picked;
            picked.first = self.first_of(&picked);
            bytes += picked.raw.len();
            batch.push(picked);
        }
        if self.notes.is_news("unreadable", unreadable) {
            let channel = self.intake.channel();
            warn!(channel, files = unreadable, "files cannot be read and are left where they are: permission denied?");
        }
        let kept = self.keep(batch)?;
        self.tell_left("left");
        Ok(if kept == Ended::Done { ended } else { kept })
    }

    /// Reads a file and judges it.
    fn look(&mut self, candidate: Candidate, unreadable: &mut u64) -> Result<Looked, Lost> {
        let options = &self.rules.options;
        if let Some(marker) = options.done_file.as_ref().map(|marker| marker.of(&candidate.name.text())) {
            match self.folder.exists(&candidate.path.with_file_name(marker)) {
                Ok(true) => {}
                Err(Fault::Lost(lost)) => return Err(lost),
                Ok(false) | Err(_) => return Ok(Looked::Passed),
            }
        }
        let (size, longest) = (candidate.facts.size, options.max_size);
        if size > longest.bytes() as u64 {
            let reason = format!("the file has {size} bytes, `max_size` is {}", longest.bytes());
            return Ok(self.picked(candidate, Bytes::new(), Some(reason)));
        }
        // One byte more than there should be, so that a file that grows, or never ends, is found out.
        let Content { bytes, facts } = match self.folder.read(&candidate.path, size + 1) {
            Ok(content) => content,
            Err(Fault::Lost(lost)) => return Err(lost),
            Err(Fault::Missing | Fault::Exists) => {
                debug!(channel = self.intake.channel(), "a file was taken away before it was read");
                return Ok(Looked::Passed);
            }
            Err(Fault::Refused(_)) => {
                *unreadable += 1;
                return Ok(Looked::Passed);
            }
        };
        if facts != candidate.facts || bytes.len() as u64 != size {
            debug!(channel = self.intake.channel(), "a file changed while it was read: it is read again later");
            self.changed.push(candidate.key);
            return Ok(Looked::Passed);
        }
        Ok(self.picked(candidate, Bytes::from(bytes), None))
    }

    fn picked(&self, candidate: Candidate, raw: Bytes, rejected: Option<String>) -> Looked {
        let content = Sha256::digest(&raw).into();
        let meta = Meta {
            id: self.intake.next_id(),
            channel: self.intake.channel().to_owned(),
            received_at: Timestamp::now(),
            origin: self.origin(&candidate),
        };
        let (message, refs, problem) = read(meta, &self.rules.options.format, &raw);
        let rejected = rejected.or(problem);
        Looked::Picked(Box::new(Picked { candidate, message, refs, raw, content, rejected, first: None }))
    }

    fn origin(&self, candidate: &Candidate) -> Origin {
        let mut origin = Origin {
            source: self.rules.kind.to_owned(),
            peer: self.rules.host.clone(),
            file_name: Some(candidate.name.text().into_owned()),
            ..Origin::default()
        };
        self.rules.options.format.note(&mut origin);
        origin
    }

    /// The message that had this content; what could not be read is looked at anew.
    fn first_of(&self, picked: &Picked) -> Option<MessageId> {
        let is_good = picked.rejected.is_none();
        is_good.then(|| self.ledger.same_content(&picked.content, picked.message.meta.received_at)).flatten()
    }

    /// Journals what was read, notes it in the ledger, and then does with the files what is to be done.
    fn keep(&mut self, mut batch: Vec<Picked>) -> Result<Ended, Lost> {
        // One that was stopped meanwhile captures nothing more: another may be at work already.
        if batch.is_empty() || self.stop.is_cancelled() {
            return Ok(Ended::Done);
        }
        let fresh = batch.iter().filter(|picked| picked.first.is_none());
        let accepted = fresh.map(|picked| self.intake.accept(self.taken(picked)));
        let accepted: Vec<_> = accepted.collect();
        let mut receipts = self.runtime.block_on(join_all(accepted)).into_iter();
        let mut failed: Option<IntakeError> = None;
        let mut entries = Vec::with_capacity(batch.len());
        batch.retain_mut(|picked| {
            let (message, outcome) = match picked.first {
                Some(first) => (first, Outcome::Duplicate),
                None => match receipts.next().expect("one for each that is new") {
                    Ok(receipt) => (self.received(picked, &receipt), picked.outcome()),
                    Err(error) => {
                        failed.get_or_insert(error);
                        return false;
                    }
                },
            };
            picked.message.meta.id = message;
            let (facts, at) = (picked.candidate.facts, picked.message.meta.received_at);
            entries.push((picked.candidate.key, Known { facts, content: picked.content, outcome, message, at }));
            true
        });
        self.ledger.note(&entries, Timestamp::now())?;
        for (picked, (_, known)) in batch.iter().zip(&entries) {
            if known.outcome == Outcome::Duplicate {
                self.intake.counters().repeated.add_one();
                let channel = self.intake.channel();
                warn!(channel, message = %known.message, "a file has the content of this message: it is a duplicate, and not processed");
            }
            if !self.finish(&picked.candidate, &picked.message, known.outcome)? {
                self.intake.counters().files_left.add_one();
            }
        }
        match failed {
            None => Ok(Ended::Done),
            Some(error) if error.is_full() => Ok(Ended::NoRoom),
            Some(error) => Err(Lost::new(error.to_string())),
        }
    }

    fn taken(&self, picked: &Picked) -> Taken {
        let meta = &picked.message.meta;
        let body = picked.rejected.is_none().then(|| picked.message.body.clone());
        Taken {
            id: meta.id,
            received_at: meta.received_at,
            body: picked.raw.clone(),
            read: body,
            format: self.rules.options.format.format(),
            origin: meta.origin.clone(),
            refs: picked.refs.clone(),
            acknowledgement: None,
            rejected: picked.rejected.clone(),
            identity: Some(self.identity(&picked.candidate)),
        }
    }

    /// How the journal knows the file again when a crash came between its receipt and our ledger: by path, size, time and content.
    /// The message before under the same path tells a file that was put there again from the one that was captured.
    fn identity(&self, candidate: &Candidate) -> Identity {
        let before = self.ledger.last_message(candidate.key).map_or_else(String::new, |message| message.to_string());
        let key = format!(
            "{}\rfile\r{}\r{}\r{}\r{before}",
            self.intake.channel(),
            candidate.key.text(),
            candidate.facts.size,
            candidate.facts.modified,
        );
        let window =
            self.rules.options.duplicate_window.0.map_or(KEEP_AT_LEAST, |window| window.get().max(KEEP_AT_LEAST));
        Identity { key, window: Some(window), other_body: OtherBody::Kept }
    }

    /// The message that a file has become.
    fn received(&self, picked: &Picked, receipt: &Receipt) -> MessageId {
        let channel = self.intake.channel();
        let known = receipt.recipients().first().map(|recipient| recipient.id);
        let id = known.filter(|_| receipt.repeat() == Repeat::SameBody).unwrap_or(picked.message.meta.id);
        match &picked.rejected {
            Some(reason) => warn!(channel, message = %id, reason, "rejected"),
            None => debug!(channel, message = %id, "captured"),
        }
        id
    }

    /// Does with a file what is to be done. False when it lies there still, although it should not.
    fn finish(&mut self, candidate: &Candidate, message: &Message, outcome: Outcome) -> Result<bool, Lost> {
        let rules = self.rules;
        let after = rules.options.rule_for(outcome);
        if matches!(after, After::Keep) {
            return Ok(true);
        }
        let done = match self.folder.facts(&candidate.path) {
            Ok(facts) if facts != candidate.facts => {
                // What lies there now was not read: it stays, with its marker, and is captured as a new one.
                debug!(channel = self.intake.channel(), "a file changed after it was read: it is read again later");
                self.ledger.gone(candidate.key)?;
                self.changed.push(candidate.key);
                return Ok(true);
            }
            Ok(_) => self.put_away(candidate, message, after, outcome),
            // Who took it away meanwhile may have left its marker.
            Err(Fault::Missing) => match self.delete_marker(candidate) {
                Err(Fault::Lost(lost)) => Err(Fault::Lost(lost)),
                _ => Ok(()),
            },
            Err(fault) => Err(fault),
        };
        match done {
            // Who took it away meanwhile did what was to be done.
            Ok(()) | Err(Fault::Missing) => {
                self.ledger.gone(candidate.key)?;
                Ok(true)
            }
            Err(Fault::Lost(lost)) => Err(lost),
            Err(fault) => {
                let reason = match fault {
                    Fault::Refused(reason) => reason,
                    _ => "its new name is taken".to_owned(),
                };
                let count = self.left.take().map_or(0, |(count, _)| count);
                self.left = Some((count + 1, reason));
                Ok(false)
            }
        }
    }

    /// Deletes or moves a file, and its marker before it: a file without a marker is put away later, by the ledger; a marker without
    /// its file would say of the next one under that name that it is complete.
    fn put_away(
        &mut self,
        candidate: &Candidate,
        message: &Message,
        after: &After,
        outcome: Outcome,
    ) -> Result<(), Fault> {
        match after {
            After::Keep => Ok(()),
            After::Delete => {
                self.delete_marker(candidate)?;
                self.folder.delete(&candidate.path)
            }
            After::Move(target) => {
                let placed = place(target, candidate, message);
                let (folder, name) = placed.map_err(|error| Fault::Refused(error.to_string()))?;
                self.delete_marker(candidate)?;
                // All duplicates have the id of the first message: it tells none from another.
                let is_duplicate = outcome == Outcome::Duplicate;
                let id = if is_duplicate { self.intake.next_id() } else { message.meta.id };
                self.move_to(candidate, &folder, &name, id)
            }
        }
    }

    /// Deletes the marker of a file; one that is not there is fine.
    fn delete_marker(&mut self, candidate: &Candidate) -> Result<(), Fault> {
        let rules = self.rules;
        let Some(marker) = &rules.options.done_file else { return Ok(()) };
        let marker = candidate.path.with_file_name(marker.of(&candidate.name.text()));
        match self.folder.delete(&marker) {
            Err(Fault::Missing) => Ok(()),
            Err(Fault::Refused(reason)) => Err(Fault::Refused(format!("its marker cannot be deleted: {reason}"))),
            done => done,
        }
    }

    /// Moves a file; where its new name is taken, this id makes it another.
    fn move_to(&mut self, candidate: &Candidate, folder: &Path, name: &Path, mut id: MessageId) -> Result<(), Fault> {
        let mut to = folder.join(name);
        for _ in 0..3 {
            match self.folder.rename(&candidate.path, &to) {
                Err(Fault::Missing) => {
                    if !self.folder.exists(&candidate.path)? {
                        return Err(Fault::Missing);
                    }
                    self.folder.make_folder(folder)?;
                }
                Err(Fault::Exists) => {
                    to = folder.join(with_id(name, id));
                    id = self.intake.next_id();
                }
                // Not every server says that it is the folder which is missing.
                Err(Fault::Refused(reason)) => {
                    if self.folder.exists(folder)? {
                        return Err(Fault::Refused(reason));
                    }
                    self.folder.make_folder(folder)?;
                }
                done => return done,
            }
        }
        Err(Fault::Refused("its new folder cannot be made, or its new name is taken".to_owned()))
    }

    fn tell_left(&mut self, which: &'static str) {
        let (count, reason) = self.left.take().unwrap_or_default();
        if self.notes.is_news(which, count) {
            warn!(
                channel = self.intake.channel(),
                files = count,
                reason,
                "files that are in the journal cannot be moved or deleted: they stay, and are not captured again"
            );
        }
    }

    /// Tries again to move what was captured and lies there still. True when nothing is left to be tried.
    pub(super) fn finish_left(&mut self, known: Vec<(Candidate, Known)>) -> Result<bool, Lost> {
        let (mut done, mut failed) = (0_u64, 0_u64);
        for (candidate, known) in known {
            let after = self.rules.options.rule_for(known.outcome);
            if matches!(after, After::Keep) || self.stop.is_cancelled() {
                continue;
            }
            let Some(message) = self.same_as(&candidate, &known)? else { continue };
            if self.finish(&candidate, &message, known.outcome)? {
                done += 1;
            } else {
                failed += 1;
                if failed == GIVE_UP_AFTER {
                    break;
                }
            }
        }
        if done > 0 {
            info!(channel = self.intake.channel(), files = done, "files that were captured before are put away");
        }
        self.tell_left("left before");
        Ok(failed == 0)
    }

    /// The message that a file became, if what lies there is still that file: it was looked at by size and time alone.
    fn same_as(&mut self, candidate: &Candidate, known: &Known) -> Result<Option<Message>, Lost> {
        let is_large = candidate.facts.size > self.rules.options.max_size.bytes() as u64;
        let limit = if is_large { 0 } else { candidate.facts.size + 1 };
        let raw = match self.folder.read(&candidate.path, limit) {
            Ok(content) => Bytes::from(content.bytes),
            Err(Fault::Lost(lost)) => return Err(lost),
            Err(_) => return Ok(None),
        };
        let content: ContentKey = Sha256::digest(&raw).into();
        if content != known.content {
            // Another file, then: it is captured as a new one.
            self.ledger.gone(candidate.key)?;
            self.changed.push(candidate.key);
            return Ok(None);
        }
        let meta = Meta {
            id: known.message,
            channel: self.intake.channel().to_owned(),
            received_at: known.at,
            origin: self.origin(candidate),
        };
        Ok(Some(read(meta, &self.rules.options.format, &raw).0))
    }
}

impl Picked {
    fn outcome(&self) -> Outcome {
        if self.rejected.is_some() { Outcome::Rejected } else { Outcome::Captured }
    }
}

/// The message in a file, or an empty one and why it cannot be read.
fn read(meta: Meta, format: &FormatOption, raw: &Bytes) -> (Message, Refs, Option<String>) {
    let Incoming { body, refs, rejected } = format.read(raw);
    let body = body.unwrap_or_else(|| Arc::new(Body::Text(String::new())));
    (Message { meta, body, event: Arc::default() }, refs, rejected)
}

/// Folder and name that a file is moved to. A name that cannot be made from what could not be read is the old one.
fn place(target: &Target, candidate: &Candidate, message: &Message) -> Result<(PathBuf, PathBuf), ExprError> {
    let scope = Scope::new(message);
    let folder = match (&target.folder.template, target.folder.fixed()) {
        (Some(template), _) => template.render(&scope)?,
        (None, fixed) => fixed.unwrap_or_default().to_owned(),
    };
    let made = target.name.as_ref().map(|name| name.render(&scope));
    let name = match made {
        Some(Ok(name)) => PathBuf::from(name),
        Some(Err(error)) if !matches!(&*message.body, Body::Text(text) if text.is_empty()) => return Err(error),
        Some(Err(_)) | None => candidate.name.as_path().to_owned(),
    };
    Ok((PathBuf::from(folder), name))
}

/// `a.hl7` as `a.01KF….hl7`.
fn with_id(name: &Path, id: MessageId) -> PathBuf {
    let mut other = name.file_stem().unwrap_or_default().to_owned();
    other.push(format!(".{id}"));
    if let Some(ending) = name.extension() {
        other.push(".");
        other.push(ending);
    }
    PathBuf::from(other)
}

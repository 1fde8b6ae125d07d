//! The index, in sled: what must be looked up quickly. The only file that names sled.
//!
//! Everything in here can be made again from the segments, and nothing is promised on its word: sled's flush does not survive
//! a power cut. Design constraints:
//! - What changed in the last moments is in memory (`overlay.rs`) and looked into first; one thread writes it to sled later, so
//!   sled holds up no acknowledgement before `MAX_BYTES` wait for it, and a finished message costs a third of the writes.
//! - What sled holds is the state at its checkpoint exactly, also after `kill -9`: a generation of changes is first written to a
//!   file of its own (`pending`), and made again from there when the process died half-way.
//! - Values stay below 4 KB: larger ones go to files that sled never syncs.
//! - `flush` is called from one thread at a time; `flush_async` deadlocks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::overlay::{Change, Changed, Changes, Recent};
use super::{JournalError, keys, pending};

/// Memory that sled may fill with pages.
const CACHE_BYTES: u64 = 48 << 20;
/// The readers of a journal that was just closed hold sled's own lock for a moment longer.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Changes beyond this are to be written soon.
const MANY_BYTES: usize = 16 << 20;
/// Changes beyond this must wait until older ones were written.
const MAX_BYTES: usize = 48 << 20;

/// Changes to be made together.
pub(super) type Writes = std::collections::HashMap<Vec<u8>, Change>;

/// A key, or what comes after its prefix, and its value.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// An open index.
pub(super) struct Index {
    db: RwLock<Option<sled::Db>>,
    recent: Mutex<Recent>,
    /// Told when older changes were written.
    room: Condvar,
    /// Held by whoever writes changes to sled.
    writing: Mutex<()>,
    pending: PathBuf,
}

impl Index {
    /// Opens or makes the index in a folder. Sled panics on some damaged files: that is an error here.
    pub(super) fn open(folder: &Path) -> Result<Index, JournalError> {
        let (start, pending) = (Instant::now(), folder.join("pending"));
        let db = loop {
            match open_caught(folder.join("db")) {
                Ok(db) => break db,
                Err(error) if error.contains("could not acquire lock") && start.elapsed() < LOCK_WAIT => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Err(error) => return Err(JournalError::Index { error }),
            }
        };
        if let Some(changes) = pending::read(&pending)? {
            write(&db, || changes.iter().map(|(key, value)| (key, value)))?;
            db.flush().map_err(refused)?;
            pending::remove(&pending)?;
        }
        Ok(Index {
            db: RwLock::new(Some(db)),
            recent: Mutex::default(),
            room: Condvar::new(),
            writing: Mutex::default(),
            pending,
        })
    }

    fn db(&self) -> Result<sled::Db, JournalError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        db.clone().ok_or_else(|| JournalError::Closed { reason: "the engine is stopping".to_owned() })
    }

    /// Whether the journal was closed.
    pub(super) fn check_open(&self) -> Result<(), JournalError> {
        self.db().map(drop)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        if let Some(value) = self.recent().get(key) {
            return Ok(value);
        }
        Ok(self.db()?.get(key).map_err(refused)?.map(|value| value.to_vec()))
    }

    /// The keys that begin with a prefix, from `prefix + from` on, at most `limit`: what comes after the prefix, and the value.
    pub(super) fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Entry>, JournalError> {
        // Memory first: what moves to the store meanwhile is then seen here, or there, but never nowhere.
        let memory = self.recent().range(prefix, from, limit);
        let stored = self.db()?.range([prefix, from].concat()..);
        let stored = stored.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(refused));
        let stored = stored.take_while(|entry| entry.as_ref().map_or(true, |(key, _)| key.starts_with(prefix)));
        let mut found = merge(memory, stored, limit)?;
        for (key, _) in &mut found {
            key.drain(..prefix.len());
        }
        Ok(found)
    }

    /// The greatest id that stands after a prefix and is not greater than a given one.
    pub(super) fn at_or_before(&self, prefix: &[u8], id: u128) -> Result<Option<u128>, JournalError> {
        let end = [prefix, &id.to_be_bytes()].concat();
        let mut greatest = self.recent().last(prefix, &end);
        for entry in self.db()?.range(prefix.to_vec()..=end).rev() {
            let (key, _) = entry.map_err(refused)?;
            if greatest.as_ref().is_some_and(|greatest| greatest.as_slice() >= &*key) {
                break;
            }
            if !self.recent().is_removed(&key) {
                greatest = Some(key.to_vec());
                break;
            }
        }
        let id = greatest.as_deref().and_then(|key| key.strip_prefix(prefix)?.try_into().ok());
        Ok(id.map(u128::from_be_bytes))
    }

    /// Whether the store holds a generation of changes whole: false when it lost a part of what was written to it.
    pub(super) fn is_whole(&self) -> Result<bool, JournalError> {
        Ok(self.get(keys::BEGUN)? == self.get(keys::CHECKPOINT)?)
    }

    /// Makes all changes, in memory. True when there are many by now: then [`Index::write_out`] should come soon.
    pub(super) fn change(&self, writes: Writes) -> bool {
        let mut recent = self.recent();
        for (key, change) in writes {
            recent.young.add(key, change);
        }
        recent.young.bytes() > MANY_BYTES
    }

    /// Waits while too much is in memory. False when it did not become less: whoever writes it out has failed.
    pub(super) fn wait_for_room(&self, longest: Duration) -> bool {
        let full = |recent: &mut Recent| recent.young.bytes() > MAX_BYTES;
        let waited = self.room.wait_timeout_while(self.recent(), longest, full);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes what changed so far to the store, once `before` is done: what the changes rely on. After an error everything is
    /// still there, and is written the next time.
    pub(super) fn write_out(&self, before: impl FnOnce() -> Result<(), JournalError>) -> Result<(), JournalError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let db = self.db()?;
        let changes = self.freeze();
        before()?;
        let Some(changes) = changes else { return Ok(()) };
        pending::write(&self.pending, &changes)?;
        write(&db, || changes.iter())?;
        db.flush().map_err(refused)?;
        pending::remove(&self.pending)?;
        self.recent().old = None;
        self.room.notify_all();
        Ok(())
    }

    /// The generation to be written: the one that could not be written the last time, or all that is new.
    fn freeze(&self) -> Option<Arc<Changes>> {
        let mut recent = self.recent();
        if recent.old.is_none() && recent.young.len() > 0 {
            recent.old = Some(Arc::new(std::mem::take(&mut recent.young)));
            self.room.notify_all();
        }
        recent.old.clone()
    }

    /// Lets go of the files; every later call is refused.
    pub(super) fn close(&self) {
        drop(self.db.write().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What is in memory over what is in the store, both in the order of their keys: up to `limit` entries.
pub(super) fn merge(
    memory: Vec<Changed>,
    stored: impl Iterator<Item = Result<Entry, JournalError>>,
    limit: usize,
) -> Result<Vec<Entry>, JournalError> {
    let mut found = Vec::new();
    let (mut memory, mut stored) = (memory.into_iter().peekable(), stored.peekable());
    while found.len() < limit {
        let from_store = match (memory.peek(), stored.peek()) {
            (None, None) => break,
            (Some(_), None) => false,
            (None, Some(_)) | (_, Some(Err(_))) => true,
            (Some((newer, _)), Some(Ok((older, _)))) => older < newer,
        };
        if from_store {
            found.extend(stored.next().transpose()?);
        } else if let Some((key, value)) = memory.next() {
            stored.next_if(|entry| entry.as_ref().is_ok_and(|(older, _)| *older == key));
            found.extend(value.map(|value| (key, value)));
        }
    }
    Ok(found)
}

/// One by one: a batch would keep the memory of every page that it replaces until its end, 7 GB in one case. The checkpoint is
/// announced first and comes last, so that a store that lost the end of its log is known for what it is.
fn write<'c, I: Iterator<Item = (&'c Vec<u8>, &'c Option<Vec<u8>>)>>(
    db: &sled::Db,
    changes: impl Fn() -> I,
) -> Result<(), JournalError> {
    let checkpoint = changes().find(|(key, _)| *key == keys::CHECKPOINT).and_then(|(_, value)| value.as_deref());
    db.insert(keys::BEGUN, checkpoint.unwrap_or_default()).map_err(refused)?;
    for (key, value) in changes() {
        match value {
            Some(value) => db.insert(key, value.as_slice()),
            None => db.remove(key),
        }
        .map_err(refused)?;
    }
    Ok(())
}

fn open_caught(folder: PathBuf) -> Result<sled::Db, String> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let opened = std::thread::Builder::new().name("labwire-index-open".to_owned()).spawn(move || config.open());
    match opened.map_err(|error| error.to_string())?.join() {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("sled panicked on its files".to_owned()),
    }
}

fn refused(error: sled::Error) -> JournalError {
    JournalError::Index { error: error.to_string() }
}

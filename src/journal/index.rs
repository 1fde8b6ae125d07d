//! The index, in sled: what must be looked up quickly. The only file that names sled.
//!
//! Everything in here can be made again from the segments, and nothing is promised on its word: sled's flush does not survive
//! a power cut. Design constraints:
//! - One tree, and all changes of a group of events in one batch: after `kill -9` it holds whole groups.
//! - Values stay below 4 KB: larger ones go to files that sled never syncs.
//! - `flush` is called from our threads only; `flush_async` deadlocks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::JournalError;

/// Memory that sled may fill with pages.
const CACHE_BYTES: u64 = 64 << 20;
/// The readers of a journal that was just closed hold sled's own lock for a moment longer.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Changes to be made together: a value, or none to remove the key.
pub(super) type Writes = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// A key, or what comes after its prefix, and its value.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// An open index.
pub(super) struct Index {
    db: RwLock<Option<sled::Db>>,
}

impl Index {
    /// Opens or makes the index. Sled panics on some damaged files: that is an error here.
    pub(super) fn open(folder: &Path) -> Result<Index, JournalError> {
        let start = Instant::now();
        loop {
            match open_caught(folder.to_owned()) {
                Ok(db) => return Ok(Index { db: RwLock::new(Some(db)) }),
                Err(error) if error.contains("could not acquire lock") && start.elapsed() < LOCK_WAIT => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Err(error) => return Err(JournalError::Index { error }),
            }
        }
    }

    fn db(&self) -> Result<sled::Db, JournalError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        db.clone().ok_or_else(|| JournalError::Closed { reason: "the engine is stopping".to_owned() })
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.db()?.get(key).map_err(refused)?.map(|value| value.to_vec()))
    }

    /// Makes all changes, or none if the process is killed meanwhile.
    pub(super) fn apply(&self, writes: Writes) -> Result<(), JournalError> {
        let (db, looks) = (self.db()?, writes.len() / 2);
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        db.apply_batch(batch).map_err(refused)?;
        // Sled gives back the memory of replaced pages a little at each call, and a batch is one call however large: without
        // these looks at nothing 300,000 messages took 7 GB, with them 0.3 GB.
        for _ in 0..looks {
            db.get([]).map_err(refused)?;
        }
        Ok(())
    }

    /// The keys that begin with a prefix, from `prefix + from` on, at most `limit`: what comes after the prefix, and the value.
    pub(super) fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Entry>, JournalError> {
        let mut found = Vec::new();
        for entry in self.db()?.range([prefix, from].concat()..).take(limit) {
            let (key, value) = entry.map_err(refused)?;
            let Some(rest) = key.strip_prefix(prefix) else { break };
            found.push((rest.to_vec(), value.to_vec()));
        }
        Ok(found)
    }

    /// The greatest id that stands after a prefix and is not greater than a given one.
    pub(super) fn at_or_before(&self, prefix: &[u8], id: u128) -> Result<Option<u128>, JournalError> {
        let end = [prefix, &id.to_be_bytes()].concat();
        let Some(entry) = self.db()?.range(prefix.to_vec()..=end).next_back() else { return Ok(None) };
        let (key, _) = entry.map_err(refused)?;
        Ok(key.strip_prefix(prefix).and_then(|rest| rest.try_into().ok()).map(u128::from_be_bytes))
    }

    /// Hands everything to the operating system.
    pub(super) fn flush(&self) -> Result<(), JournalError> {
        self.db()?.flush().map(drop).map_err(refused)
    }

    /// Lets go of the files; every later call is refused.
    pub(super) fn close(&self) {
        drop(self.db.write().unwrap_or_else(PoisonError::into_inner).take());
    }
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

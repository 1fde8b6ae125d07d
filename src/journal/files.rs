//! Files by number, the ones used last kept open.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Numbered files of one folder.
pub(super) struct Files {
    path: Box<dyn Fn(u64) -> PathBuf + Send + Sync>,
    limit: usize,
    open: Mutex<VecDeque<(u64, Arc<File>)>>,
}

impl Files {
    /// At most `limit` of them are kept open.
    pub(super) fn new(limit: usize, path: impl Fn(u64) -> PathBuf + Send + Sync + 'static) -> Files {
        Files { path: Box::new(path), limit, open: Mutex::new(VecDeque::new()) }
    }

    /// The file, for reading.
    pub(super) fn get(&self, number: u64) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest are at the end, and asked for most.
        if let Some(at) = open.iter().rposition(|(open, _)| *open == number) {
            let file = open[at].1.clone();
            if at + 8 < open.len() {
                let entry = open.remove(at).expect("the position was just found");
                open.push_back(entry);
            }
            return Ok(file);
        }
        let file = Arc::new(File::open((self.path)(number))?);
        if open.len() == self.limit {
            open.pop_front();
        }
        open.push_back((number, file.clone()));
        Ok(file)
    }

    /// Closes a file that is about to be removed or was written anew.
    pub(super) fn forget(&self, number: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| *open != number);
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        (self.path)(number)
    }
}

//! Files by number, the ones used last kept open.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

type Open<T> = Box<dyn Fn(&Path, u64) -> io::Result<T> + Send + Sync>;

/// Numbered files of one folder, each with what is known of it while it is open.
pub(super) struct Files<T = File> {
    path: Box<dyn Fn(u64) -> PathBuf + Send + Sync>,
    open_one: Open<T>,
    limit: usize,
    open: Mutex<VecDeque<(u64, Arc<T>)>>,
}

impl Files {
    /// At most `limit` of them are kept open.
    pub(super) fn new(limit: usize, path: impl Fn(u64) -> PathBuf + Send + Sync + 'static) -> Files {
        Files::opened_by(limit, path, |path, _| File::open(path))
    }
}

impl<T> Files<T> {
    /// The same, opened in a way of the caller's.
    pub(super) fn opened_by(
        limit: usize,
        path: impl Fn(u64) -> PathBuf + Send + Sync + 'static,
        open_one: impl Fn(&Path, u64) -> io::Result<T> + Send + Sync + 'static,
    ) -> Files<T> {
        Files { path: Box::new(path), open_one: Box::new(open_one), limit, open: Mutex::new(VecDeque::new()) }
    }

    /// The file, for reading.
    pub(super) fn get(&self, number: u64) -> io::Result<Arc<T>> {
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
        let file = Arc::new((self.open_one)(&(self.path)(number), number)?);
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

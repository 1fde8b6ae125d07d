//! Makes the next segment before it is needed: a file of zeros, on the disk, under its name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::JournalError;
use super::segments::{disk, path, sync_folder};

/// Zeros are written in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// Where a segment stands.
#[derive(Default)]
enum Next {
    #[default]
    Unasked,
    InTheMaking,
    /// None: it could not be made.
    Made(Option<File>),
}

type Shared = Arc<(Mutex<Next>, Condvar)>;

/// The thread that prepares segments, one ahead.
pub(super) struct Preparer {
    folder: PathBuf,
    wanted: Option<Sender<(u64, u64)>>,
    /// The last that was asked for.
    asked: u64,
    next: Shared,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub(super) fn start(folder: &Path) -> Result<Preparer, JournalError> {
        let (wanted, jobs) = mpsc::channel::<(u64, u64)>();
        let next = Shared::default();
        let thread = std::thread::Builder::new().name("labwire-prepare".to_owned()).spawn({
            let (folder, next) = (folder.to_owned(), next.clone());
            move || {
                while let Ok((number, bytes)) = jobs.recv() {
                    let made = make(&folder, number, bytes);
                    if let Err(error) = &made {
                        // The segment grows as it is written then, or is refused when the disk is really full.
                        tracing::debug!(%error, number, "a segment was not prepared");
                    }
                    *next.0.lock().unwrap_or_else(PoisonError::into_inner) = Next::Made(made.ok());
                    next.1.notify_all();
                }
            }
        });
        let thread = Some(thread.map_err(disk("starting a thread for", folder))?);
        Ok(Preparer { folder: folder.to_owned(), wanted: Some(wanted), asked: 0, next, thread })
    }

    /// Asks for a segment. Asking twice is asking once.
    pub(super) fn want(&mut self, number: u64, bytes: u64) {
        let Some(wanted) = self.wanted.as_ref().filter(|_| self.asked < number) else { return };
        *self.next.0.lock().unwrap_or_else(PoisonError::into_inner) = Next::InTheMaking;
        self.asked = number;
        if wanted.send((number, bytes)).is_err() {
            *self.next.0.lock().unwrap_or_else(PoisonError::into_inner) = Next::Unasked;
        }
    }

    /// The segment, if it was asked for and could be made. Waits while it is in the making: two must not write to one file.
    pub(super) fn take(&mut self, number: u64) -> Option<File> {
        if self.asked != number {
            return None;
        }
        let next = self.next.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.next.1.wait_while(next, |next| matches!(next, Next::InTheMaking));
        match std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner)) {
            Next::Made(file) => file,
            _ => None,
        }
    }

    /// Ends the thread and takes away what it made and nobody used.
    pub(super) fn stop(&mut self) {
        self.end();
        if let Some(_unused) = self.take(self.asked) {
            let _ = std::fs::remove_file(path(&self.folder, self.asked));
        }
    }

    fn end(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.end();
    }
}

fn make(folder: &Path, number: u64, bytes: u64) -> Result<File, JournalError> {
    let path = path(folder, number);
    let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = open.map_err(disk("making", &path))?;
    let extended = extend(&file, 0, bytes).map_err(disk("preparing", &path)).and_then(|()| sync_folder(folder));
    if extended.is_err() {
        let _ = std::fs::remove_file(&path);
    }
    extended.map(|()| file)
}

/// Fills a file with zeros from a place up to a size, durably.
pub(super) fn extend(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK_BYTES];
    // What lies there already are zeros that an earlier run prepared.
    let mut at = from.max(file.metadata()?.len());
    while at < to {
        let wanted = CHUNK_BYTES.min((to - at) as usize);
        file.write_all_at(&zeros[..wanted], at)?;
        at += wanted as u64;
    }
    file.sync_all()
}

//! The data folder: its format, and the lock that keeps a second engine out.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::JournalError;
use super::segments::{disk, sync_folder};

/// The format that this engine writes, and the newest that it reads.
const FORMAT: u32 = 3;
/// The `format` file says this and the number.
const FORMAT_WORD: &str = "labwire-journal";

/// Held while the folder is ours; the system takes it away from a process that dies.
pub(super) struct Lock {
    _file: File,
}

/// Makes the folder if need be, keeps others out and makes sure that its format is known. Says what was wrong with it.
pub(super) fn claim(folder: &Path) -> Result<(Lock, Vec<String>), JournalError> {
    make(folder)?;
    let lock = lock(folder)?;
    let damage = check_format(folder)?;
    make(&segments(folder))?;
    Ok((lock, damage))
}

pub(super) fn segments(folder: &Path) -> PathBuf {
    folder.join("segments")
}

pub(super) fn index(folder: &Path) -> PathBuf {
    folder.join("index")
}

/// Changes with every start of the machine.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub(super) fn make(folder: &Path) -> Result<(), JournalError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(disk("making", folder))
}

/// Writes a small file whole or not at all, and makes it durable.
pub(super) fn put(path: &Path, text: &str) -> Result<(), JournalError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(disk("writing", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Takes a file away, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), JournalError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("removing", path)(error)),
        _ => Ok(()),
    }
}

fn lock(folder: &Path) -> Result<Lock, JournalError> {
    let path = folder.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(disk("opening", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.take(100).read_to_string(&mut holder);
            let pid = holder.split_whitespace().next().unwrap_or("unknown").to_owned();
            return Err(JournalError::Locked { folder: folder.display().to_string(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(disk("locking", &path)(error)),
    }
    let mut write = || {
        file.set_len(0)?;
        file.write_all(format!("{} {}\n", std::process::id(), boot_id()).as_bytes())
    };
    write().map_err(disk("writing", &path))?;
    Ok(Lock { _file: file })
}

/// The last segment that pruning removed; those before it are gone, too.
pub(super) fn pruned_through(folder: &Path) -> u64 {
    let text = std::fs::read_to_string(folder.join("pruned")).unwrap_or_default();
    text.trim().strip_prefix("through ").and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Notes, durably, that segments are to be removed: so that a rebuild does not take them for lost.
pub(super) fn put_pruned(folder: &Path, through: u64) -> Result<(), JournalError> {
    put(&folder.join("pruned"), &format!("through {through}\n"))
}

/// Notes that the folder is in the newest format now.
pub(super) fn put_format(folder: &Path) -> Result<(), JournalError> {
    put(&folder.join("format"), &format!("{FORMAT_WORD} {FORMAT}\n"))
}

/// Makes sure that there is a journal in a folder, of a format that is known.
pub(super) fn check_readable(folder: &Path) -> Result<(), JournalError> {
    if !segments(folder).is_dir() {
        let error = "there is no journal in it".to_owned();
        return Err(JournalError::Folder { folder: folder.display().to_string(), error });
    }
    match std::fs::read_to_string(folder.join("format")) {
        Ok(text) => known_format(folder, &text),
        // It is written again when the journal is opened.
        Err(_) => Ok(()),
    }
}

fn known_format(folder: &Path, text: &str) -> Result<(), JournalError> {
    let number = text.trim().strip_prefix(FORMAT_WORD).and_then(|number| number.trim().parse::<u32>().ok());
    match number {
        Some(1..=FORMAT) => Ok(()),
        _ => {
            let found = text.trim().chars().take(40).collect();
            Err(JournalError::Format { folder: folder.display().to_string(), found, known: FORMAT })
        }
    }
}

fn check_format(folder: &Path) -> Result<Vec<String>, JournalError> {
    let path = folder.join("format");
    let missing = match std::fs::read_to_string(&path) {
        Ok(text) => return known_format(folder, &text).map(|()| Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => segments(folder).exists(),
        Err(error) => return Err(disk("reading", &path)(error)),
    };
    put_format(folder)?;
    Ok(Vec::from_iter(missing.then(|| "the file `format` was missing; it was written again".to_owned())))
}

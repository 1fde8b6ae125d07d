//! Puts a file where a partner picks it up: whole, synced, and at once.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::rules::{self, PLACED_MODE, make_folder};

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It is there now.
    New,
    /// It was there already, with the same content.
    Before,
}

/// The end of the name under which a file is placed; it begins with a dot.
const UNFINISHED: &str = ".part";

/// Whether it is the name of a file that is just being placed, or that a crash left behind.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.strip_prefix('.').is_some_and(|name| name.ends_with(UNFINISHED))
}

/// Whether a file may be placed under this name; if not, why.
pub fn fits(name: &str) -> Result<(), &'static str> {
    if is_unfinished(name) {
        return Err("a name that begins with a dot and ends with `.part` is that of a file that is not complete");
    }
    rules::fits(name)
}

/// Puts a file into a folder, which is made where it is missing. Blocking. Partners see it under its name once it is whole and on disk,
/// and not before. Where something else has the name, the error is of the kind [`io::ErrorKind::AlreadyExists`].
pub fn place(folder: &Path, name: &str, content: &[u8]) -> io::Result<Placed> {
    make_folder(folder)?;
    let (path, temporary) = (folder.join(name), folder.join(format!(".{name}{UNFINISHED}")));
    if is_there(&path, content)? {
        sync(folder)?;
        return Ok(Placed::Before);
    }
    let _ours = Ours::take(&temporary).ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?;
    let written = write(&temporary, content)
        .and_then(|()| renameat_with(CWD, &temporary, CWD, &path, RenameFlags::NOREPLACE).map_err(Into::into));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    sync(folder)?;
    Ok(Placed::New)
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    // Left by a crash.
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(PLACED_MODE))?;
    file.sync_all()
}

fn sync(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

/// Whether it is there with the same content; an error where something else is.
fn is_there(path: &Path, content: &[u8]) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() == content.len() as u64 && std::fs::read(path)? == content => {
            Ok(true)
        }
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A temporary name that nobody else in this process uses meanwhile.
struct Ours(PathBuf);

static IN_USE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

impl Ours {
    fn take(path: &Path) -> Option<Ours> {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.insert(path.to_owned()).then(|| Ours(path.to_owned()))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        IN_USE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_placed_once_whole_and_read_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("acme/results");
        std::fs::create_dir_all(&inner).expect("a folder");
        std::fs::write(inner.join(".a.hl7.part"), "left by a crash").expect("written");
        assert_eq!(place(&inner, "a.hl7", b"one").expect("placed"), Placed::New);
        assert_eq!(place(&inner, "a.hl7", b"one").expect("there"), Placed::Before);
        assert_eq!(place(&inner, "a.hl7", b"two").expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(inner.join("a.hl7")).expect("there"), b"one");
        let mode = std::fs::metadata(inner.join("a.hl7")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, PLACED_MODE);
        assert_eq!(std::fs::read_dir(&inner).expect("a folder").count(), 1, "no temporary file is left");
        for (name, is_ours) in
            [(".a.hl7.part", true), ("..part", true), (".part", false), ("a.part", false), (".a", false)]
        {
            assert_eq!((is_unfinished(name), fits(name).is_err()), (is_ours, is_ours), "{name}");
        }
        let _theirs = Ours::take(&inner.join(".b.part"));
        assert_eq!(place(&inner, "b", b"").expect_err("busy").kind(), io::ErrorKind::ResourceBusy);
    }
}

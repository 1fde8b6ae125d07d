//! A folder of this machine.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::folder::{Content, Facts, Fault, Folder, Kind, Lost, Name};

/// A folder of this machine.
pub(in crate::source) struct Local {
    root: PathBuf,
}

impl Local {
    /// The folder under this path.
    pub(in crate::source) fn new(root: PathBuf) -> Local {
        Local { root }
    }

    fn fault(&self, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::NotFound => Fault::Missing,
            io::ErrorKind::AlreadyExists => Fault::Exists,
            kind => Fault::Refused(kind.to_string()),
        }
    }
}

fn facts(metadata: &Metadata) -> Facts {
    let modified = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    Facts { size: metadata.len(), modified }
}

impl Folder for Local {
    fn open(&mut self) -> Result<(), Lost> {
        match std::fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(Lost::new(format!("{} is not a folder", self.root.display()))),
            Err(error) => Err(Lost::new(format!("folder {}: {error}", self.root.display()))),
        }
    }

    fn list(&mut self, path: &Path, each: &mut dyn FnMut(Option<Name>, Kind) -> ControlFlow<()>) -> Result<(), Fault> {
        for entry in std::fs::read_dir(self.root.join(path)).map_err(|error| self.fault(&error))? {
            let entry = entry.map_err(|error| self.fault(&error))?;
            // The entry's own, not that of what a link leads to. One that is gone meanwhile is not in the list.
            let Ok(metadata) = entry.metadata() else { continue };
            let kind = match metadata.file_type() {
                kind if kind.is_file() => Kind::File(facts(&metadata)),
                kind if kind.is_dir() => Kind::Folder,
                _ => Kind::Other,
            };
            if each(Name::new(&entry.file_name()), kind).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read(&mut self, path: &Path, limit: u64) -> Result<Content, Fault> {
        // A link that was put in the file's place is not followed, and a pipe is not waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
        let opened = OpenOptions::new().read(true).custom_flags(flags as i32).open(self.root.join(path));
        let file = opened.map_err(|error| self.fault(&error))?;
        let is_file = file.metadata().map_err(|error| self.fault(&error))?.is_file();
        if !is_file {
            return Err(Fault::Refused("it is no file".to_owned()));
        }
        let mut bytes = Vec::new();
        let read = (&file).take(limit).read_to_end(&mut bytes).and_then(|_| file.metadata());
        let metadata = read.map_err(|error| self.fault(&error))?;
        Ok(Content { bytes, facts: facts(&metadata) })
    }

    fn facts(&mut self, path: &Path) -> Result<Facts, Fault> {
        let metadata = std::fs::symlink_metadata(self.root.join(path)).map_err(|error| self.fault(&error))?;
        if metadata.is_file() { Ok(facts(&metadata)) } else { Err(Fault::Refused("it is no file".to_owned())) }
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Fault> {
        match std::fs::symlink_metadata(self.root.join(path)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.fault(&error)),
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Fault> {
        let (from, to) = (self.root.join(from), self.root.join(to));
        let renamed = match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            Err(Errno::XDEV) => move_to_other_disk(&from, &to),
            // File systems over a network may not know it; a second name does the same in two steps.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                std::fs::hard_link(&from, &to).and_then(|()| std::fs::remove_file(&from))
            }
            renamed => renamed.map_err(Into::into),
        };
        renamed.map_err(|error| self.fault(&error))
    }

    fn make_folder(&mut self, path: &Path) -> Result<(), Fault> {
        let made = DirBuilder::new().recursive(true).mode(0o770).create(self.root.join(path));
        made.map_err(|error| self.fault(&error))
    }

    fn delete(&mut self, path: &Path) -> Result<(), Fault> {
        std::fs::remove_file(self.root.join(path)).map_err(|error| self.fault(&error))
    }
}

/// Copies a file, whole and synced, and then removes it where it was.
fn move_to_other_disk(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(from)?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o640).open(to)?;
    let copied = io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all());
    if let Err(error) = copied {
        let _ = std::fs::remove_file(to);
        return Err(error);
    }
    if let Some(folder) = to.parent() {
        File::open(folder)?.sync_all()?;
    }
    std::fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_not_followed_and_a_pipe_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("secret"), "x").expect("written");
        std::os::unix::fs::symlink("secret", folder.path().join("link")).expect("linked");
        rustix::fs::mknodat(CWD, folder.path().join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a pipe");
        let mut local = Local::new(folder.path().to_owned());
        for name in ["link", "pipe"] {
            assert!(matches!(local.read(Path::new(name), 9), Err(Fault::Refused(_))), "{name}");
            assert!(matches!(local.facts(Path::new(name)), Err(Fault::Refused(_))), "{name}");
        }
        let secret = local.read(Path::new("secret"), 9).expect("read").facts;
        assert_eq!(local.facts(Path::new("secret")).expect("there"), secret);
        std::fs::write(folder.path().join("secret"), "xy").expect("extended");
        assert_ne!(local.facts(Path::new("secret")).expect("there"), secret, "it is another one now");
        assert!(matches!(local.facts(Path::new("none")), Err(Fault::Missing)));
        let mut files = Vec::new();
        let mut each = |name: Option<Name>, kind: Kind| {
            if matches!(kind, Kind::File(_)) {
                files.extend(name.map(|name| name.text().into_owned()));
            }
            ControlFlow::Continue(())
        };
        local.list(Path::new(""), &mut each).expect("listed");
        assert_eq!(files, ["secret"]);
    }

    #[test]
    fn nothing_is_renamed_over_another_file() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), name).expect("written");
        }
        let mut local = Local::new(folder.path().to_owned());
        assert!(matches!(local.rename(Path::new("a"), Path::new("b")), Err(Fault::Exists)));
        assert!(matches!(local.rename(Path::new("a"), Path::new("c/a")), Err(Fault::Missing)));
        local.make_folder(Path::new("c/d")).expect("made");
        local.rename(Path::new("a"), Path::new("c/d/a")).expect("moved");
        assert_eq!(std::fs::read(folder.path().join("c/d/a")).expect("there"), b"a");
        let elsewhere = tempfile::tempdir_in("/dev/shm").expect("another disk");
        let to = elsewhere.path().join("b");
        local.rename(Path::new("b"), &to).expect("moved to another disk");
        assert!(std::fs::read(&to).expect("there") == b"b" && !folder.path().join("b").exists());
    }
}

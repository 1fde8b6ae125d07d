//! One user's folder: every file operation goes through it. Blocking.
//!
//! Paths are those of the client: `/` is the folder. They are taken apart by name here, and what is left is opened beneath the
//! folder by the kernel (`openat2` with `RESOLVE_BENEATH`), so that no link that somebody put there leads out.

use std::fs::FileTimes;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, Metadata, MetadataExt, OpenOptions, OpenOptionsExt, ReadDir};
use russh_sftp::protocol::{File as Entry, FileAttributes, OpenFlags};

use super::files::{Files, Listing, Opened, Refusal};

/// Longest path of a client, as in Linux.
const PATH_BYTES: usize = 4096;

/// A user's folder.
#[derive(Debug, Clone)]
pub(super) struct Jail {
    root: Arc<Dir>,
    file_bytes: u64,
}

impl Jail {
    pub(super) fn open(root: &Path) -> io::Result<Jail> {
        Ok(Jail { root: Arc::new(Dir::open_ambient_dir(root, ambient_authority())?), file_bytes: u64::MAX })
    }

    /// The same, with a limit to the size of a file.
    pub(super) fn with_limit(self, file_bytes: u64) -> Jail {
        Jail { file_bytes, ..self }
    }

    /// Whether a file may be so long.
    fn allows(&self, bytes: u64) -> bool {
        bytes <= self.file_bytes
    }

    fn open_file(&self, path: &Inside, flags: OpenFlags) -> io::Result<std::fs::File> {
        if self.root.metadata(path.name()).is_ok_and(|found| !found.is_file()) {
            // A pipe would be waited for, a device would be a device.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let mut options = OpenOptions::new();
        options
            .read(flags.contains(OpenFlags::READ))
            .write(flags.contains(OpenFlags::WRITE))
            .append(flags.contains(OpenFlags::APPEND))
            .truncate(flags.contains(OpenFlags::TRUNCATE))
            .mode(0o600);
        match (flags.contains(OpenFlags::CREATE), flags.contains(OpenFlags::EXCLUDE)) {
            (true, true) => options.create_new(true),
            (create, _) => options.create(create),
        };
        self.root.open_with(path.name(), &options).map(cap_std::fs::File::into_std)
    }

    fn list(&self, path: &Inside) -> io::Result<ReadDir> {
        self.root.read_dir(path.name())
    }

    fn attributes(&self, path: &Inside, follow: bool) -> io::Result<FileAttributes> {
        let found = if follow { self.root.metadata(path.name()) } else { self.root.symlink_metadata(path.name()) };
        found.map(|metadata| attributes(&metadata))
    }

    /// Sets size and times. Owner and mode are ours: asked for, they are passed over.
    fn set_attributes(&self, path: &Inside, wanted: &FileAttributes) -> io::Result<()> {
        if self.root.metadata(path.name())?.is_dir() {
            return Ok(());
        }
        self.set_file_attributes(&self.open_file(path, OpenFlags::WRITE)?, wanted)
    }

    /// The same for an open file.
    fn set_file_attributes(&self, file: &std::fs::File, wanted: &FileAttributes) -> io::Result<()> {
        if let Some(size) = wanted.size {
            if !self.allows(size) {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            file.set_len(size)?;
        }
        set_times(file, wanted)
    }

    fn make_folder(&self, path: &Inside) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        self.root.create_dir_with(path.name(), &builder)?;
        self.sync_folder_of(path)
    }

    fn remove_folder(&self, path: &Inside) -> io::Result<()> {
        path.not_the_root()?;
        self.root.remove_dir(path.name())
    }

    fn remove_file(&self, path: &Inside) -> io::Result<()> {
        self.root.remove_file(path.name())
    }

    /// Renames. Without `overwrite` nothing under the new name is touched: a file then gets its new name as a hard link, which
    /// fails where something is, and loses the old one; a crash in between leaves both names of one whole file.
    fn rename(&self, from: &Inside, to: &Inside, overwrite: bool) -> io::Result<()> {
        from.not_the_root()?;
        to.not_the_root()?;
        let (from_name, to_name) = (from.name(), to.name());
        let linked = match overwrite || self.root.symlink_metadata(from_name)?.is_dir() {
            true => false,
            false => match self.root.hard_link(from_name, &self.root, to_name) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::Unsupported => false,
                Err(error) => return Err(error),
            },
        };
        if linked {
            self.root.remove_file(from_name)?;
        } else {
            if !overwrite && self.root.symlink_metadata(to_name).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.root.rename(from_name, &self.root, to_name)?;
        }
        self.sync_folder_of(to)
    }

    /// Puts the names in a path's folder on disk.
    fn sync_folder_of(&self, path: &Inside) -> io::Result<()> {
        self.root.open(path.folder())?.sync_all()
    }
}

impl Files for Jail {
    fn open(&self, path: &Inside, flags: OpenFlags) -> Result<Box<dyn Opened>, Refusal> {
        let file = self.open_file(path, flags)?;
        let writing = flags.intersects(OpenFlags::WRITE | OpenFlags::APPEND);
        Ok(Box::new(Inmate { jail: self.clone(), file, path: path.clone(), writing }))
    }

    fn list(&self, path: &Inside) -> Result<Listing, Refusal> {
        Ok(Box::new(Jail::list(self, path)?.filter_map(|entry| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            // Removed meanwhile: not in the list.
            let metadata = entry.metadata().ok()?;
            Some(Ok(Entry::new(entry.file_name().to_string_lossy(), attributes(&metadata))))
        })))
    }

    fn attributes(&self, path: &Inside, follow: bool) -> Result<FileAttributes, Refusal> {
        Ok(Jail::attributes(self, path, follow)?)
    }

    fn set_attributes(&self, path: &Inside, wanted: &FileAttributes) -> Result<(), Refusal> {
        Ok(Jail::set_attributes(self, path, wanted)?)
    }

    fn remove_file(&self, path: &Inside) -> Result<(), Refusal> {
        Ok(Jail::remove_file(self, path)?)
    }

    fn make_folder(&self, path: &Inside) -> Result<(), Refusal> {
        Ok(Jail::make_folder(self, path)?)
    }

    fn remove_folder(&self, path: &Inside) -> Result<(), Refusal> {
        Ok(Jail::remove_folder(self, path)?)
    }

    fn rename(&self, from: &Inside, to: &Inside, overwrite: bool) -> Result<(), Refusal> {
        Ok(Jail::rename(self, from, to, overwrite)?)
    }
}

/// An open file of a jail.
struct Inmate {
    jail: Jail,
    file: std::fs::File,
    path: Inside,
    writing: bool,
}

impl Opened for Inmate {
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Refusal> {
        Ok(read_at(&self.file, offset, length)?)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        if !offset.checked_add(data.len() as u64).is_some_and(|end| self.jail.allows(end)) {
            return Err(Refusal::failure("file too large"));
        }
        Ok(self.file.write_all_at(data, offset)?)
    }

    fn attributes(&self) -> Result<FileAttributes, Refusal> {
        Ok(of_file(&self.file)?)
    }

    fn set_attributes(&self, wanted: &FileAttributes) -> Result<(), Refusal> {
        Ok(self.jail.set_file_attributes(&self.file, wanted)?)
    }

    fn sync(&self) -> Result<(), Refusal> {
        Ok(self.file.sync_all()?)
    }

    /// What was written is on disk, under its name, before the answer is OK.
    fn close(&self) -> Result<(), Refusal> {
        if self.writing {
            self.file.sync_all()?;
            self.jail.sync_folder_of(&self.path)?;
        }
        Ok(())
    }
}

/// At most so many bytes of a file.
pub(super) fn read_at(file: &std::fs::File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; length];
    let count = file.read_at(&mut data, offset)?;
    data.truncate(count);
    Ok(data)
}

/// What SFTP says about an open file.
pub(super) fn of_file(file: &std::fs::File) -> io::Result<FileAttributes> {
    file.metadata().map(Metadata::from_just_metadata).map(|found| attributes(&found))
}

/// Gives a file the times that are asked for.
pub(super) fn set_times(file: &std::fs::File, wanted: &FileAttributes) -> io::Result<()> {
    let at = |seconds: u32| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
    match (wanted.atime, wanted.mtime) {
        (Some(accessed), Some(modified)) => {
            file.set_times(FileTimes::new().set_accessed(at(accessed)).set_modified(at(modified)))
        }
        _ => Ok(()),
    }
}

/// What SFTP says about a file.
pub(super) fn attributes(metadata: &Metadata) -> FileAttributes {
    FileAttributes {
        size: Some(metadata.len()),
        uid: None,
        user: None,
        gid: None,
        group: None,
        permissions: Some(metadata.mode()),
        atime: Some(metadata.atime().clamp(0, u32::MAX.into()) as u32),
        mtime: Some(metadata.mtime().clamp(0, u32::MAX.into()) as u32),
    }
}

/// A client's path: names below the root, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inside(PathBuf);

/// Why a path is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadPath {
    /// It climbs above the root.
    Outside,
    /// It is too long, or holds control characters.
    Unusable,
}

impl Inside {
    pub(super) fn new(path: &str) -> Result<Inside, BadPath> {
        let (inside, climbed) = Inside::resolve(path)?;
        if climbed { Err(BadPath::Outside) } else { Ok(inside) }
    }

    /// As `cd` understands it: above the root is the root.
    pub(super) fn clamped(path: &str) -> Result<Inside, BadPath> {
        Inside::resolve(path).map(|(inside, _)| inside)
    }

    fn resolve(path: &str) -> Result<(Inside, bool), BadPath> {
        if path.len() > PATH_BYTES || path.contains(char::is_control) {
            return Err(BadPath::Unusable);
        }
        let mut names: Vec<&str> = Vec::new();
        let mut climbed = false;
        for name in path.split('/') {
            match name {
                "" | "." => {}
                ".." => climbed |= names.pop().is_none(),
                name => names.push(name),
            }
        }
        Ok((Inside(names.iter().collect()), climbed))
    }

    /// The names below the root.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().filter_map(|name| name.to_str()).collect()
    }

    /// As the client is told it.
    pub(super) fn shown(&self) -> String {
        format!("/{}", self.0.display())
    }

    fn name(&self) -> &Path {
        if self.0.as_os_str().is_empty() { Path::new(".") } else { &self.0 }
    }

    fn folder(&self) -> &Path {
        self.0.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn not_the_root(&self) -> io::Result<()> {
        if self.0.as_os_str().is_empty() { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        for (path, shown) in [
            ("", "/"),
            ("/", "/"),
            (".", "/"),
            ("a/b", "/a/b"),
            ("/a//b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("..a/...", "/..a/..."),
            ("-rf", "/-rf"),
        ] {
            assert_eq!(Inside::new(path).expect(path).shown(), shown, "{path}");
        }
        for path in ["..", "../", "/..", "../../etc/passwd", "a/../../b", "/a/../../a"] {
            assert_eq!(Inside::new(path), Err(BadPath::Outside), "{path}");
        }
        for path in ["a\nb", "a\0b", "\u{1b}[2J", &"x/".repeat(3000)] {
            assert_eq!(Inside::new(path), Err(BadPath::Unusable), "{path}");
        }
        assert_eq!(Inside::clamped("/a/../../..").expect("clamped").shown(), "/");
    }

    fn jail() -> (tempfile::TempDir, Jail) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(folder.path().join("outside"), "secret").unwrap();
        let jail = Jail::open(&root).unwrap();
        (folder, jail)
    }

    fn inside(path: &str) -> Inside {
        Inside::new(path).expect(path)
    }

    #[test]
    fn links_that_lead_out_are_not_followed() {
        let (folder, jail) = jail();
        let root = folder.path().join("root");
        std::fs::create_dir(folder.path().join("other")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("up")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside"), root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../other", root.join("folder")).unwrap();
        std::fs::write(root.join("mine"), "mine").unwrap();
        std::os::unix::fs::symlink("mine", root.join("within")).unwrap();
        for path in ["up", "absolute"] {
            assert!(jail.open_file(&inside(path), OpenFlags::READ).is_err(), "{path}");
            assert!(jail.open_file(&inside(path), OpenFlags::WRITE | OpenFlags::TRUNCATE).is_err(), "{path}");
            assert!(jail.attributes(&inside(path), true).is_err(), "{path}");
            assert!(jail.attributes(&inside(path), false).is_ok(), "{path}");
        }
        assert!(jail.list(&inside("folder")).is_err());
        assert!(jail.rename(&inside("mine"), &inside("folder/mine"), true).is_err());
        assert!(jail.make_folder(&inside("folder/new")).is_err());
        assert!(jail.open_file(&inside("folder/x"), OpenFlags::WRITE | OpenFlags::CREATE).is_err());
        assert!(jail.open_file(&inside("within"), OpenFlags::READ).is_ok());
        assert_eq!(std::fs::read_to_string(folder.path().join("outside")).unwrap(), "secret");
        assert_eq!(std::fs::read_dir(folder.path().join("other")).unwrap().count(), 0);
    }

    #[test]
    fn a_rename_leaves_what_is_there_alone_unless_told_otherwise() {
        let (folder, jail) = jail();
        let root = folder.path().join("root");
        let contents = |name: &str| std::fs::read_to_string(root.join(name)).ok();
        std::fs::write(root.join("a"), "a").unwrap();
        std::fs::write(root.join("b"), "b").unwrap();
        let error = jail.rename(&inside("a"), &inside("b"), false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((contents("a"), contents("b")), (Some("a".into()), Some("b".into())));
        jail.rename(&inside("a"), &inside("c"), false).unwrap();
        assert_eq!((contents("a"), contents("c")), (None, Some("a".into())));
        jail.rename(&inside("c"), &inside("b"), true).unwrap();
        assert_eq!((contents("c"), contents("b")), (None, Some("a".into())));
        jail.make_folder(&inside("d")).unwrap();
        jail.make_folder(&inside("e")).unwrap();
        assert_eq!(jail.rename(&inside("d"), &inside("e"), false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        jail.rename(&inside("d"), &inside("f"), false).unwrap();
        assert!(root.join("f").is_dir() && !root.join("d").exists());
    }

    #[test]
    fn the_root_stays() {
        let (_folder, jail) = jail();
        assert!(jail.remove_folder(&inside("/")).is_err());
        assert!(jail.rename(&inside("/"), &inside("x"), true).is_err());
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused() {
        let (folder, jail) = jail();
        let jail = jail.with_limit(10);
        std::fs::write(folder.path().join("root/a"), "a").unwrap();
        let size = |bytes| FileAttributes { size: Some(bytes), ..FileAttributes::empty() };
        assert!(jail.set_attributes(&inside("a"), &size(11)).is_err());
        assert!(jail.set_attributes(&inside("a"), &size(10)).is_ok());
        assert_eq!(std::fs::metadata(folder.path().join("root/a")).unwrap().len(), 10);
    }
}

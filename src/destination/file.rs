//! `file`: writes each message to a file of its own, under a temporary name first.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;

use super::files::{self, Companion, Compress, Exists, Item, NUMBERS, Naming, Packing, Parcel, Permissions, Temporary};
use super::{Delivered, Destination, DestinationConfig, DestinationKind, FaultClass, SendError};
use crate::config::{BuildError, Place, Table};
use crate::expr::{ExprError, FileNameTemplate, PathTemplate};
use crate::journal::Outgoing;
use crate::message::Message;

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "file",
    summary: "Writes each message to a file: whole and synced, under a temporary name first, never over another file.",
    example: "type = \"file\"\ndirectory = \"../archive\"\nfile_name = \"{{ meta.id }}.hl7\"\n",
    schema: |generator| generator.subschema_for::<FileConfig>(),
    faults: &["folder", "permission", "full", "disk", "conflict", "content"],
    parse: |table: Table<'_>| {
        let (span, name) = (table.span(), table.name().to_owned());
        let config = table.read_with_more::<FileConfig>(super::COMMON_KEYS)?;
        files::check(&span, &name, config.exists, &config.companion, &config.temporary);
        Some(Box::new(config))
    },
};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    /// The folder; a relative one starts at the channel file's folder.
    directory: PathTemplate,
    /// The file's name.
    file_name: FileNameTemplate,
    /// Whether missing folders are made. Default true.
    #[serde(default = "yes")]
    mkdir: bool,
    /// The permissions of files, as in "0640". Not given: as the engine's umask leaves them.
    permissions: Option<Permissions>,
    /// The permissions of folders that are made, as in "0750". Not given: as the engine's umask leaves them.
    folder_permissions: Option<Permissions>,
    /// The name of a file while it is written.
    #[serde(default)]
    temporary: Temporary,
    /// What is done about a file that is there already: "compare" (the default: the same content is success, other content a conflict),
    /// "overwrite", "number" (`a-1.hl7`, `a-2.hl7` …), "keep".
    #[serde(default)]
    exists: Exists,
    /// Files that are put beside this one, before it.
    #[serde(default)]
    companion: Vec<Companion>,
    /// How the file is packed: "gzip" or "zip". Companions are not. `file_name` should say it: `.gz`, `.zip`.
    compress: Option<Compress>,
}

fn yes() -> bool {
    true
}

#[async_trait]
impl DestinationConfig for FileConfig {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let (directory, file_name) = (Some(&self.directory), &self.file_name);
        Naming { directory, file_name, temporary: &self.temporary, companions: &self.companion }.prepare(message)
    }

    fn writes_to(&self) -> Option<&'static str> {
        Some("directory")
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        let manner = Manner {
            mkdir: self.mkdir,
            permissions: self.permissions,
            folder_permissions: self.folder_permissions,
            prefix: self.temporary.prefix.clone(),
            suffix: self.temporary.suffix.clone(),
            exists: self.exists,
        };
        Ok(Box::new(Folder { base: place.folder.clone(), manner, packing: Packing { compress: self.compress } }))
    }
}

struct Folder {
    base: PathBuf,
    manner: Manner,
    packing: Packing,
}

/// How files are put in place, as the channel file says it.
#[derive(Debug, Clone)]
struct Manner {
    mkdir: bool,
    permissions: Option<Permissions>,
    folder_permissions: Option<Permissions>,
    prefix: String,
    suffix: String,
    exists: Exists,
}

#[async_trait]
impl Destination for Folder {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        let (base, manner) = (self.base.clone(), self.manner.clone());
        let parcel = Parcel::of(outgoing, &self.packing)?;
        let written = tokio::task::spawn_blocking(move || {
            let folder = base.join(&parcel.directory);
            let temporary = parcel.temporary_directory.as_ref().map_or_else(|| folder.clone(), |name| base.join(name));
            let placed = parcel.items.iter().map(|item| manner.write(&folder, &temporary, item));
            let mut said = placed.collect::<Result<Vec<_>, _>>()?;
            said.reverse();
            Ok::<_, SendError>(said.join("; before it "))
        });
        let response =
            written.await.map_err(|_| SendError::new(FaultClass::Internal, "the file writer ended early"))??;
        Ok(Delivered { response: Some(Bytes::from(response)) })
    }
}

/// A path made from a message may hold a patient's name: it may stand in the journal, never in an error.
fn failed(action: &str, error: &io::Error) -> SendError {
    SendError::new(FaultClass::of_file(error), format!("{action}: {}", error.kind()))
}

fn sync(folder: &Path) -> Result<(), SendError> {
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed("syncing the folder of the file", &error))
}

impl Manner {
    fn write(&self, folder: &Path, temporary_folder: &Path, item: &Item) -> Result<String, SendError> {
        let (name, content) = (&item.name, &item.content[..]);
        if self.mkdir {
            for folder in [folder, temporary_folder] {
                self.make(folder).map_err(|error| failed("making the folder of the file", &error))?;
            }
        }
        let (path, replaces) = match self.judge(folder, name, content)? {
            (path, Judged::Free) => (path, false),
            (path, Judged::Replace) => (path, true),
            (path, Judged::Kept) => return Ok(format!("{} is there already, and left as it is", path.display())),
            (path, Judged::Same) => {
                // Whoever put it there may not have come so far.
                sync(folder)?;
                return Ok(format!("{} is there already, with the same content", path.display()));
            }
        };
        let temporary = temporary_folder.join(format!("{}{name}{}", self.prefix, self.suffix));
        let _ours = Ours::take(&temporary).ok_or_else(|| {
            SendError::new(FaultClass::Disk, "another message is just being written under the same name")
        })?;
        let rename = || {
            if replaces { std::fs::rename(&temporary, &path) } else { rename_without_overwriting(&temporary, &path) }
        };
        let result = write_synced(&temporary, content, self.permissions).and_then(|()| rename());
        if result.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Somebody else made it between the look and the renaming.
                if already_there(&path, content)? == Some(true) {
                    sync(folder)?;
                    return Ok(format!("{} is there already", path.display()));
                }
                let message = "a file of this name came while this one was written";
                return Err(SendError::new(FaultClass::Disk, message));
            }
            Err(error) => return Err(failed("writing the file", &error)),
        }
        sync(folder)?;
        Ok(format!("{} written, {} bytes", path.display(), content.len()))
    }

    fn make(&self, folder: &Path) -> io::Result<()> {
        let Some(mode) = self.folder_permissions else { return std::fs::create_dir_all(folder) };
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(outer) = folder.parent() {
            self.make(outer)?;
        }
        match std::fs::DirBuilder::new().mode(mode.0).create(folder) {
            Ok(()) => std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode.0)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Looks what has the name, and what that means.
    fn judge(&self, folder: &Path, name: &str, content: &[u8]) -> Result<(PathBuf, Judged), SendError> {
        for number in 0..NUMBERS {
            let path = folder.join(files::numbered(name, number));
            return Ok(match (already_there(&path, content)?, self.exists) {
                (None, _) => (path, Judged::Free),
                (Some(_), Exists::Keep) => (path, Judged::Kept),
                (Some(true), _) => (path, Judged::Same),
                (Some(false), Exists::Overwrite) => (path, Judged::Replace),
                (Some(false), Exists::Number) => continue,
                (Some(false), Exists::Compare) => {
                    let message = "the file is there already, with another content: it is left as it is; give the message another \
                                   `file_name` or move that file away";
                    return Err(SendError::new(FaultClass::Conflict, message));
                }
            });
        }
        let message = format!("{NUMBERS} files have this name with a number; see why messages share a `file_name`");
        Err(SendError::new(FaultClass::Conflict, message))
    }
}

/// What is to be done about a name.
enum Judged {
    /// Nobody has it.
    Free,
    /// The same content has it.
    Same,
    /// What has it stays.
    Kept,
    /// What has it goes.
    Replace,
}

/// A temporary name that nobody else in this process uses meanwhile: deliveries of different orders are written side by side.
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

fn write_synced(path: &Path, content: &[u8], permissions: Option<Permissions>) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    if let Some(mode) = permissions {
        file.set_permissions(std::fs::Permissions::from_mode(mode.0))?;
    }
    file.write_all(content)?;
    file.sync_all()
}

/// Where the file system knows no such renaming (some of those over a network), a second name does the same in two steps.
fn rename_without_overwriting(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// Whether the file is there, and then whether with the same content.
fn already_there(path: &Path, content: &[u8]) -> Result<Option<bool>, SendError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(SendError::new(
            FaultClass::Conflict,
            "a folder has this file's name; give the message another `file_name`",
        )),
        Ok(metadata) => {
            let same =
                metadata.len() == content.len() as u64 && std::fs::read(path).is_ok_and(|found| found == content);
            Ok(Some(same))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("looking at the file: {}", error.kind());
            Err(SendError::new(FaultClass::of_file(&error), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner() -> Manner {
        let (prefix, suffix) = (".".to_owned(), ".part".to_owned());
        let (permissions, folder_permissions) = (None, None);
        Manner { mkdir: true, permissions, folder_permissions, prefix, suffix, exists: Exists::Compare }
    }

    fn write(folder: &Path, name: &str, content: &'static [u8]) -> Result<String, SendError> {
        manner().write(folder, folder, &Item { name: name.to_owned(), content: Bytes::from_static(content) })
    }

    #[test]
    fn a_file_is_written_whole_once_and_never_over_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("a/b");
        for _ in 0..2 {
            write(&inner, "m.hl7", b"MSH|1").expect("written, or there already");
        }
        let error = write(&inner, "m.hl7", b"MSH|2").expect_err("a conflict");
        assert!(!format!("{error:?} {error}").contains("m.hl7"), "{error}");
        assert_eq!(error.class, FaultClass::Conflict);
        assert_eq!(std::fs::read(inner.join("m.hl7")).expect("there"), b"MSH|1");
        let names: Vec<_> =
            std::fs::read_dir(&inner).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(names, ["m.hl7"], "no temporary file is left");
    }

    #[tokio::test]
    async fn what_was_queued_for_another_kind_of_destination_is_not_sent() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut destination = Folder { base: folder.path().to_owned(), manner: manner(), packing: Packing::default() };
        let error = destination.send(&Outgoing::default()).await.expect_err("no name");
        assert_eq!(error.class, FaultClass::Content);
    }

    #[test]
    fn two_messages_of_one_name_are_not_written_into_one_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = Ours::take(&folder.path().join(".m.hl7.part")).expect("free");
        let error = write(folder.path(), "m.hl7", b"MSH|1").expect_err("taken");
        assert_eq!(error.class, FaultClass::Disk);
        drop(ours);
        write(folder.path(), "m.hl7", b"MSH|1").expect("written");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), b"").expect("written");
        let error = write(&folder.path().join("file/Doe"), "Jane", b"").expect_err("not a folder");
        let shown = format!("{error:?} {error}");
        assert!(!shown.contains("Doe") && !shown.contains("Jane"), "{shown}");
        assert_eq!(error.class, FaultClass::Folder);
    }
}

//! `file`: writes each message to a file of its own, under a temporary name first.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Delivered, Destination, DestinationConfig, DestinationKind, FaultClass, SendError};
use crate::config::{BuildError, Place, Table};
use crate::expr::{ExprError, FileNameTemplate, PathTemplate, Scope};
use crate::journal::Outgoing;
use crate::message::Message;

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "file",
    summary: "Writes each message to a file: whole and synced, under a temporary name first, never over another file.",
    example: "type = \"file\"\ndirectory = \"../archive\"\nfile_name = \"{{ meta.id }}.hl7\"\n",
    schema: |generator| generator.subschema_for::<FileConfig>(),
    faults: &["folder", "permission", "full", "disk", "conflict", "content"],
    parse: |table: Table<'_>| {
        table
            .read_with_more::<FileConfig>(super::COMMON_KEYS)
            .map(|config| Box::new(config) as Box<dyn DestinationConfig>)
    },
};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    /// The folder, made where it is missing; a relative one starts at the channel file's folder.
    directory: PathTemplate,
    /// The file's name.
    file_name: FileNameTemplate,
}

#[async_trait]
impl DestinationConfig for FileConfig {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let scope = Scope::new(message);
        let properties = [("directory", self.directory.render(&scope)?), ("file_name", self.file_name.render(&scope)?)];
        let properties = properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Outgoing { content: message.body.to_bytes(), properties })
    }

    fn writes_to(&self) -> Option<&'static str> {
        Some("directory")
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        Ok(Box::new(Folder { base: place.folder.clone() }))
    }
}

struct Folder {
    base: PathBuf,
}

#[async_trait]
impl Destination for Folder {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        let property = |key: &str| outgoing.properties.get(key).cloned();
        let (Some(folder), Some(name)) = (property("directory"), property("file_name")) else {
            let error = "this delivery was queued for a destination of another kind: reprocess its message";
            return Err(SendError::new(FaultClass::Content, error));
        };
        let (folder, content) = (self.base.join(folder), outgoing.content.clone());
        let written = tokio::task::spawn_blocking(move || write(&folder, &name, &content)).await;
        let response = written.map_err(|_| SendError::new(FaultClass::Internal, "the file writer ended early"))??;
        Ok(Delivered { response: Some(Bytes::from(response)) })
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Result<String, SendError> {
    let path = folder.join(name);
    // A path made from a message may hold a patient's name: it may stand in the journal, never in an error.
    let failed = |action: &str, error: &io::Error| {
        SendError::new(FaultClass::of_file(error), format!("{action}: {}", error.kind()))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed("making the folder of the file", &error))?;
    let sync_folder = || {
        let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed("syncing the folder of the file", &error))
    };
    if already_there(&path, content)? {
        // Whoever put it there may not have come so far.
        sync_folder()?;
        return Ok(format!("{} is there already, with the same content", path.display()));
    }
    let temporary = folder.join(format!(".{name}.part"));
    let _ours = Ours::take(&temporary)
        .ok_or_else(|| SendError::new(FaultClass::Disk, "another message is just being written under the same name"))?;
    let result = write_synced(&temporary, content).and_then(|()| rename_without_overwriting(&temporary, &path));
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Somebody else made it between the look and the renaming.
            if already_there(&path, content)? {
                sync_folder()?;
                return Ok(format!("{} is there already", path.display()));
            }
            let message = "a file of this name came and went while this one was written";
            return Err(SendError::new(FaultClass::Disk, message));
        }
        Err(error) => return Err(failed("writing the file", &error)),
    }
    sync_folder()?;
    Ok(format!("{} written, {} bytes", path.display(), content.len()))
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

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
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

/// Whether the file is there with the same content; with another content it must not be touched.
fn already_there(path: &Path, content: &[u8]) -> Result<bool, SendError> {
    match std::fs::metadata(path) {
        Ok(metadata) => {
            let same =
                metadata.len() == content.len() as u64 && std::fs::read(path).is_ok_and(|found| found == content);
            if same {
                return Ok(true);
            }
            Err(SendError::new(
                FaultClass::Conflict,
                "the file is there already, with another content: it is left as it is; give the message another `file_name` or move that file away",
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let message = format!("looking at the file: {}", error.kind());
            Err(SendError::new(FaultClass::of_file(&error), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut destination = Folder { base: folder.path().to_owned() };
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

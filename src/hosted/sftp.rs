//! The SFTP requests of one channel (version 3, with OpenSSH's `fsync`, `posix-rename` and `limits`).

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cap_std::fs::ReadDir;
use russh_sftp::protocol::{
    Attrs, Data, ExtendedReply, File as Entry, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode,
    Version,
};
use russh_sftp::server::StatusReply;
use tokio_util::sync::DropGuard;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Limits;
use super::jail::{BadPath, Inside, Jail, attributes};
use super::pump::PACKET_BYTES;

/// Most bytes of one read or write, as in OpenSSH: what fits into a packet with its header.
const DATA_BYTES: u32 = PACKET_BYTES - 1024;

/// Entries in one answer to `readdir`.
const ENTRIES: usize = 100;

/// What a client has going on one channel.
pub(super) struct Sftp {
    jail: Arc<Jail>,
    handles: HashMap<String, Open>,
    handles_at_most: usize,
    handles_so_far: u64,
    /// Tells, when this is dropped, that the channel is done.
    _ended: DropGuard,
    _at_work: TaskTrackerToken,
}

enum Open {
    File {
        file: Arc<std::fs::File>,
        path: Inside,
        writing: bool,
    },
    /// None when read to its end.
    Folder(Option<ReadDir>),
}

impl Sftp {
    pub(super) fn new(jail: Jail, limits: &Limits, ended: DropGuard, at_work: TaskTrackerToken) -> Sftp {
        Sftp {
            jail: Arc::new(jail.with_limit(limits.file_bytes)),
            handles: HashMap::new(),
            handles_at_most: limits.handles,
            handles_so_far: 0,
            _ended: ended,
            _at_work: at_work,
        }
    }

    /// Does something with the folder, on a thread that may block.
    async fn with_jail<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Jail) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StatusReply> {
        let jail = self.jail.clone();
        match tokio::task::spawn_blocking(move || work(&jail)).await {
            Ok(done) => done.map_err(|error| refusal(&error)),
            Err(_) => Err(StatusCode::Failure.into()),
        }
    }

    async fn on_path<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Jail, &Inside) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StatusReply> {
        let path = inside(path)?;
        self.with_jail(move |jail| work(jail, &path)).await
    }

    fn may_open(&self) -> Result<(), StatusReply> {
        if self.handles.len() < self.handles_at_most {
            Ok(())
        } else {
            Err(StatusCode::Failure.with_message("too many open files"))
        }
    }

    fn keep(&mut self, id: u32, open: Open) -> Handle {
        self.handles_so_far += 1;
        let handle = self.handles_so_far.to_string();
        self.handles.insert(handle.clone(), open);
        Handle { id, handle }
    }

    fn file(&self, handle: &str) -> Result<Arc<std::fs::File>, StatusReply> {
        match self.handles.get(handle) {
            Some(Open::File { file, .. }) => Ok(file.clone()),
            _ => Err(StatusCode::Failure.with_message("no such handle")),
        }
    }

    async fn rename_as(&self, id: u32, from: &str, to: &str, overwrite: bool) -> Result<Status, StatusReply> {
        let (from, to) = (inside(from)?, inside(to)?);
        self.with_jail(move |jail| jail.rename(&from, &to, overwrite)).await?;
        Ok(done(id))
    }

    async fn attrs(&self, id: u32, path: &str, follow: bool) -> Result<Attrs, StatusReply> {
        let attrs = self.on_path(path, move |jail, path| jail.attributes(path, follow)).await?;
        Ok(Attrs { id, attrs })
    }
}

fn done(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: "Ok".into(), language_tag: "en-US".into() }
}

fn inside(path: &str) -> Result<Inside, StatusReply> {
    Inside::new(path).map_err(bad_path)
}

fn bad_path(bad: BadPath) -> StatusReply {
    match bad {
        BadPath::Outside => StatusCode::PermissionDenied.into(),
        BadPath::Unusable => {
            StatusCode::Failure.with_message("a path has at most 4096 bytes and no control characters")
        }
    }
}

/// What the client is told of an error: its kind, nothing of our file system.
fn refusal(error: &io::Error) -> StatusReply {
    match error.kind() {
        io::ErrorKind::NotFound => StatusCode::NoSuchFile.into(),
        io::ErrorKind::PermissionDenied => StatusCode::PermissionDenied.into(),
        kind => StatusCode::Failure.with_message(kind.to_string()),
    }
}

/// The strings that the data of an extended request begins with.
fn strings<const N: usize>(mut data: &[u8]) -> Result<[String; N], StatusReply> {
    let mut found = [const { String::new() }; N];
    for string in &mut found {
        let (length, rest) = data.split_first_chunk().ok_or(StatusCode::BadMessage)?;
        let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(StatusCode::BadMessage)?;
        *string = String::from_utf8(text.to_vec()).map_err(|_| StatusCode::BadMessage)?;
        data = rest;
    }
    Ok(found)
}

/// The next entries of a folder; empty at its end.
fn entries(folder: &mut ReadDir) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in folder.by_ref().take(ENTRIES) {
        let entry = entry?;
        // Removed meanwhile: not in the list.
        let Ok(metadata) = entry.metadata() else { continue };
        entries.push(Entry::new(entry.file_name().to_string_lossy(), attributes(&metadata)));
    }
    Ok(entries)
}

impl russh_sftp::server::Handler for Sftp {
    type Error = StatusReply;

    fn unimplemented(&self) -> StatusReply {
        StatusCode::OpUnsupported.into()
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> Result<Version, StatusReply> {
        let mut version = Version::new();
        for extension in ["posix-rename@openssh.com", "fsync@openssh.com", "limits@openssh.com"] {
            version.extensions.insert(extension.to_owned(), "1".to_owned());
        }
        Ok(version)
    }

    async fn open(
        &mut self,
        id: u32,
        path: String,
        flags: OpenFlags,
        _: FileAttributes,
    ) -> Result<Handle, StatusReply> {
        self.may_open()?;
        let path = inside(&path)?;
        let wanted = path.clone();
        let file = Arc::new(self.with_jail(move |jail| jail.open_file(&wanted, flags)).await?);
        let writing = flags.intersects(OpenFlags::WRITE | OpenFlags::APPEND);
        Ok(self.keep(id, Open::File { file, path, writing }))
    }

    /// What was written is on disk, under its name, before the answer is OK.
    async fn close(&mut self, id: u32, handle: String) -> Result<Status, StatusReply> {
        match self.handles.remove(&handle) {
            Some(Open::File { file, path, writing: true }) => {
                let sync = move |jail: &Jail| file.sync_all().and_then(|()| jail.sync_folder_of(&path));
                self.with_jail(sync).await?;
                Ok(done(id))
            }
            Some(_) => Ok(done(id)),
            None => Err(StatusCode::Failure.with_message("no such handle")),
        }
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, length: u32) -> Result<Data, StatusReply> {
        let file = self.file(&handle)?;
        let data = self.with_jail(move |_| {
            let mut data = vec![0; length.min(DATA_BYTES) as usize];
            let count = file.read_at(&mut data, offset)?;
            data.truncate(count);
            Ok(data)
        });
        let data = data.await?;
        if data.is_empty() && length > 0 { Err(StatusCode::Eof.into()) } else { Ok(Data { id, data }) }
    }

    async fn write(&mut self, id: u32, handle: String, offset: u64, data: Vec<u8>) -> Result<Status, StatusReply> {
        let file = self.file(&handle)?;
        if !offset.checked_add(data.len() as u64).is_some_and(|end| self.jail.allows(end)) {
            return Err(StatusCode::Failure.with_message("file too large"));
        }
        self.with_jail(move |_| file.write_all_at(&data, offset)).await?;
        Ok(done(id))
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, StatusReply> {
        self.attrs(id, &path, false).await
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, StatusReply> {
        self.attrs(id, &path, true).await
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, StatusReply> {
        let file = self.file(&handle)?;
        let attrs = self.with_jail(move |_| {
            file.metadata().map(cap_std::fs::Metadata::from_just_metadata).map(|found| attributes(&found))
        });
        Ok(Attrs { id, attrs: attrs.await? })
    }

    async fn setstat(&mut self, id: u32, path: String, wanted: FileAttributes) -> Result<Status, StatusReply> {
        self.on_path(&path, move |jail, path| jail.set_attributes(path, &wanted)).await?;
        Ok(done(id))
    }

    async fn fsetstat(&mut self, id: u32, handle: String, wanted: FileAttributes) -> Result<Status, StatusReply> {
        let file = self.file(&handle)?;
        self.with_jail(move |jail| jail.set_file_attributes(&file, &wanted)).await?;
        Ok(done(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, StatusReply> {
        self.may_open()?;
        let folder = self.on_path(&path, Jail::list).await?;
        Ok(self.keep(id, Open::Folder(Some(folder))))
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, StatusReply> {
        let Some(Open::Folder(open)) = self.handles.get_mut(&handle) else {
            return Err(StatusCode::Failure.with_message("no such handle"));
        };
        let Some(mut folder) = open.take() else { return Err(StatusCode::Eof.into()) };
        let (folder, files) = self
            .with_jail(move |_| {
                let files = entries(&mut folder)?;
                Ok((folder, files))
            })
            .await?;
        if files.is_empty() {
            return Err(StatusCode::Eof.into());
        }
        self.handles.insert(handle, Open::Folder(Some(folder)));
        Ok(Name { id, files })
    }

    async fn remove(&mut self, id: u32, path: String) -> Result<Status, StatusReply> {
        self.on_path(&path, Jail::remove_file).await?;
        Ok(done(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, _: FileAttributes) -> Result<Status, StatusReply> {
        self.on_path(&path, Jail::make_folder).await?;
        Ok(done(id))
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Result<Status, StatusReply> {
        self.on_path(&path, Jail::remove_folder).await?;
        Ok(done(id))
    }

    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, StatusReply> {
        let path = Inside::clamped(&path).map_err(bad_path)?;
        Ok(Name { id, files: vec![Entry::dummy(path.shown())] })
    }

    async fn rename(&mut self, id: u32, from: String, to: String) -> Result<Status, StatusReply> {
        self.rename_as(id, &from, &to, false).await
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Result<Packet, StatusReply> {
        match request.as_str() {
            "posix-rename@openssh.com" => {
                let [from, to] = strings(&data)?;
                self.rename_as(id, &from, &to, true).await.map(Packet::Status)
            }
            "fsync@openssh.com" => {
                let [handle] = strings(&data)?;
                let file = self.file(&handle)?;
                self.with_jail(move |_| file.sync_all()).await?;
                Ok(Packet::Status(done(id)))
            }
            "limits@openssh.com" => {
                let limits = [PACKET_BYTES.into(), DATA_BYTES.into(), DATA_BYTES.into(), self.handles_at_most as u64];
                let data = limits.into_iter().flat_map(u64::to_be_bytes).collect();
                Ok(Packet::ExtendedReply(ExtendedReply { id, data }))
            }
            _ => Err(StatusCode::OpUnsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_extended_requests() {
        let data = [&3u32.to_be_bytes()[..], b"a/b", &1u32.to_be_bytes()[..], b"c"].concat();
        assert_eq!(strings::<2>(&data).unwrap(), ["a/b", "c"]);
        assert!(strings::<3>(&data).is_err());
        for broken in [&data[..2], &data[..6], &[0xff, 0xff, 0xff, 0xff, 1][..], &[0, 0, 0, 1, 0xff][..]] {
            assert!(strings::<1>(broken).is_err(), "{broken:?}");
        }
    }
}

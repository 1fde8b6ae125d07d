//! The SFTP requests of one channel (version 3, with OpenSSH's `fsync`, `posix-rename` and `limits`).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use russh_sftp::protocol::{
    Attrs, Data, ExtendedReply, File as Entry, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode,
    Version,
};
use tokio_util::sync::DropGuard;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Limits;
use super::files::{Files, Listing, Opened, Refusal};
use super::jail::Inside;
use super::pump::PACKET_BYTES;

/// Most bytes of one read or write, as in OpenSSH: what fits into a packet with its header.
const DATA_BYTES: u32 = PACKET_BYTES - 1024;

/// Entries in one answer to `readdir`.
const ENTRIES: usize = 100;

/// What a client has going on one channel.
pub(super) struct Sftp {
    files: Arc<dyn Files>,
    handles: HashMap<String, Open>,
    handles_at_most: usize,
    handles_so_far: u64,
    /// Tells, when this is dropped, that the channel is done.
    _ended: DropGuard,
    _at_work: TaskTrackerToken,
}

enum Open {
    File(Arc<dyn Opened>),
    /// None when read to its end.
    Folder(Option<Listing>),
}

impl Sftp {
    pub(super) fn new(files: Arc<dyn Files>, limits: &Limits, ended: DropGuard, at_work: TaskTrackerToken) -> Sftp {
        Sftp {
            files,
            handles: HashMap::new(),
            handles_at_most: limits.handles,
            handles_so_far: 0,
            _ended: ended,
            _at_work: at_work,
        }
    }

    /// Does something with the files, on a thread that may block.
    async fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Files) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let files = self.files.clone();
        blocking(move || work(&*files)).await
    }

    async fn on_path<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&dyn Files, &Inside) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let path = Inside::new(path)?;
        self.with_files(move |files| work(files, &path)).await
    }

    fn may_open(&self) -> Result<(), Refusal> {
        if self.handles.len() < self.handles_at_most { Ok(()) } else { Err(Refusal::failure("too many open files")) }
    }

    fn keep(&mut self, id: u32, open: Open) -> Handle {
        self.handles_so_far += 1;
        let handle = self.handles_so_far.to_string();
        self.handles.insert(handle.clone(), open);
        Handle { id, handle }
    }

    fn file(&self, handle: &str) -> Result<Arc<dyn Opened>, Refusal> {
        match self.handles.get(handle) {
            Some(Open::File(file)) => Ok(file.clone()),
            _ => Err(no_such_handle()),
        }
    }

    async fn rename_as(&self, id: u32, from: &str, to: &str, overwrite: bool) -> Result<Status, Refusal> {
        let (from, to) = (Inside::new(from)?, Inside::new(to)?);
        self.with_files(move |files| files.rename(&from, &to, overwrite)).await?;
        Ok(done(id))
    }

    async fn attrs(&self, id: u32, path: &str, follow: bool) -> Result<Attrs, Refusal> {
        let attrs = self.on_path(path, move |files, path| files.attributes(path, follow)).await?;
        Ok(Attrs { id, attrs })
    }
}

fn done(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: "Ok".into(), language_tag: "en-US".into() }
}

fn no_such_handle() -> Refusal {
    Refusal::failure("no such handle")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(StatusCode::Failure.into()))
}

/// The strings that the data of an extended request begins with.
fn strings<const N: usize>(mut data: &[u8]) -> Result<[String; N], Refusal> {
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
fn entries(folder: &mut Listing) -> io::Result<Vec<Entry>> {
    folder.by_ref().take(ENTRIES).collect()
}

impl russh_sftp::server::Handler for Sftp {
    type Error = Refusal;

    fn unimplemented(&self) -> Refusal {
        StatusCode::OpUnsupported.into()
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> Result<Version, Refusal> {
        let mut version = Version::new();
        for extension in ["posix-rename@openssh.com", "fsync@openssh.com", "limits@openssh.com"] {
            version.extensions.insert(extension.to_owned(), "1".to_owned());
        }
        Ok(version)
    }

    async fn open(&mut self, id: u32, path: String, flags: OpenFlags, _: FileAttributes) -> Result<Handle, Refusal> {
        self.may_open()?;
        let file = self.on_path(&path, move |files, path| files.open(path, flags)).await?;
        Ok(self.keep(id, Open::File(file.into())))
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, Refusal> {
        match self.handles.remove(&handle) {
            Some(Open::File(file)) => {
                blocking(move || file.close()).await?;
                Ok(done(id))
            }
            Some(Open::Folder(_)) => Ok(done(id)),
            None => Err(no_such_handle()),
        }
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, length: u32) -> Result<Data, Refusal> {
        let file = self.file(&handle)?;
        let data = blocking(move || file.read(offset, length.min(DATA_BYTES) as usize)).await?;
        if data.is_empty() && length > 0 { Err(StatusCode::Eof.into()) } else { Ok(Data { id, data }) }
    }

    async fn write(&mut self, id: u32, handle: String, offset: u64, data: Vec<u8>) -> Result<Status, Refusal> {
        let file = self.file(&handle)?;
        blocking(move || file.write(offset, &data)).await?;
        Ok(done(id))
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, Refusal> {
        self.attrs(id, &path, false).await
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, Refusal> {
        self.attrs(id, &path, true).await
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, Refusal> {
        let file = self.file(&handle)?;
        let attrs = blocking(move || file.attributes()).await?;
        Ok(Attrs { id, attrs })
    }

    async fn setstat(&mut self, id: u32, path: String, wanted: FileAttributes) -> Result<Status, Refusal> {
        self.on_path(&path, move |files, path| files.set_attributes(path, &wanted)).await?;
        Ok(done(id))
    }

    async fn fsetstat(&mut self, id: u32, handle: String, wanted: FileAttributes) -> Result<Status, Refusal> {
        let file = self.file(&handle)?;
        blocking(move || file.set_attributes(&wanted)).await?;
        Ok(done(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, Refusal> {
        self.may_open()?;
        let folder = self.on_path(&path, |files, path| files.list(path)).await?;
        Ok(self.keep(id, Open::Folder(Some(folder))))
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, Refusal> {
        let Some(Open::Folder(open)) = self.handles.get_mut(&handle) else {
            return Err(no_such_handle());
        };
        let Some(mut folder) = open.take() else { return Err(StatusCode::Eof.into()) };
        let (folder, files) = blocking(move || {
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

    async fn remove(&mut self, id: u32, path: String) -> Result<Status, Refusal> {
        self.on_path(&path, |files, path| files.remove_file(path)).await?;
        Ok(done(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, _: FileAttributes) -> Result<Status, Refusal> {
        self.on_path(&path, |files, path| files.make_folder(path)).await?;
        Ok(done(id))
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Result<Status, Refusal> {
        self.on_path(&path, |files, path| files.remove_folder(path)).await?;
        Ok(done(id))
    }

    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, Refusal> {
        let path = Inside::clamped(&path)?;
        Ok(Name { id, files: vec![Entry::dummy(path.shown())] })
    }

    async fn rename(&mut self, id: u32, from: String, to: String) -> Result<Status, Refusal> {
        self.rename_as(id, &from, &to, false).await
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Result<Packet, Refusal> {
        match request.as_str() {
            "posix-rename@openssh.com" => {
                let [from, to] = strings(&data)?;
                self.rename_as(id, &from, &to, true).await.map(Packet::Status)
            }
            "fsync@openssh.com" => {
                let [handle] = strings(&data)?;
                let file = self.file(&handle)?;
                blocking(move || file.sync()).await?;
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

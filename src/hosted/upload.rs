//! A file that is being uploaded into a channel's folder.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use russh_sftp::protocol::{FileAttributes, StatusCode};

use super::files::{Opened, Refusal};
use super::folder::Folder;
use super::jail::{of_file, read_at, set_times};
use super::view::Who;

/// How much is in a folder.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// What is written, shared by the handles and the folder that knows of it.
pub(super) struct Upload {
    file: File,
    state: Mutex<State>,
}

struct State {
    bytes: u64,
    /// Why nothing more is taken through this handle.
    ended: Option<&'static str>,
    /// Whether something of it could not be written.
    has_gap: bool,
}

impl Upload {
    pub(super) fn new(file: File, bytes: u64) -> Upload {
        Upload { file, state: Mutex::new(State { bytes, ended: None, has_gap: false }) }
    }

    /// Ends it: whatever its connection still sends is refused for this reason.
    pub(super) fn end(&self, why: &'static str) {
        self.lock().ended = Some(why);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(state: &State, folder: &Folder) -> Result<(), Refusal> {
        match state.ended {
            Some(why) => Err(Refusal::failure(why)),
            None => folder.check_open(),
        }
    }

    /// Makes it so long, or longer, in the books of the folder; gives the length that it had.
    fn grow(&self, folder: &Folder, state: &mut State, end: u64) -> Result<u64, Refusal> {
        let limit = folder.rules().max_bytes;
        if end > limit {
            return Err(Refusal::failure(format!("a file has at most {limit} bytes here")));
        }
        let before = state.bytes;
        if end > before {
            folder.reserve(end - before)?;
            state.bytes = end;
        }
        Ok(before)
    }
}

/// What a client holds of an upload.
pub(super) struct Writer {
    pub(super) folder: Arc<Folder>,
    pub(super) upload: Arc<Upload>,
    /// The name that the client gave.
    pub(super) name: String,
    /// The name that it has meanwhile.
    pub(super) stored: String,
    pub(super) append: bool,
    pub(super) who: Who,
}

impl Writer {
    fn write_at(&self, state: &mut State, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        Upload::check(state, &self.folder)?;
        let offset = if self.append { state.bytes } else { offset };
        let end = offset.saturating_add(data.len() as u64);
        let before = self.upload.grow(&self.folder, state, end)?;
        if let Err(error) = self.upload.file.write_all_at(data, offset) {
            // What came of it stays in the books until the folder is next looked through.
            let written = self.upload.file.metadata().map_or(before, |found| found.len());
            self.folder.give_back(state.bytes.saturating_sub(written.max(before)));
            state.bytes = written.max(before);
            tracing::warn!(channel = self.folder.channel(), %error, "hosted SFTP: an upload cannot be written");
            return Err(Refusal::failure("there is no room for this file; try again later"));
        }
        Ok(())
    }
}

impl Opened for Writer {
    fn read(&self, _: u64, _: usize) -> Result<Vec<u8>, Refusal> {
        Err(StatusCode::PermissionDenied.into())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        let mut state = self.upload.lock();
        let written = self.write_at(&mut state, offset, data);
        state.has_gap |= written.is_err();
        written
    }

    fn attributes(&self) -> Result<FileAttributes, Refusal> {
        Ok(of_file(&self.upload.file)?)
    }

    fn set_attributes(&self, wanted: &FileAttributes) -> Result<(), Refusal> {
        check_attributes(wanted)?;
        let mut state = self.upload.lock();
        Upload::check(&state, &self.folder)?;
        if let Some(bytes) = wanted.size {
            self.upload.grow(&self.folder, &mut state, bytes)?;
            self.upload.file.set_len(bytes)?;
            self.folder.give_back(state.bytes - bytes);
            state.bytes = bytes;
        }
        Ok(set_times(&self.upload.file, wanted)?)
    }

    fn sync(&self) -> Result<(), Refusal> {
        Ok(self.upload.file.sync_all()?)
    }

    fn close(&self) -> Result<(), Refusal> {
        {
            let state = self.upload.lock();
            Upload::check(&state, &self.folder)?;
        }
        self.folder.closed(&self.stored, &self.name, &self.upload, &self.who)
    }
}

impl Upload {
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_all()
    }

    /// Whether something of it could not be written: a client that closes it all the same has not sent a whole file.
    pub(super) fn has_gap(&self) -> bool {
        self.lock().has_gap
    }
}

/// A file that is there to be read.
pub(super) struct Reader {
    pub(super) folder: Arc<Folder>,
    pub(super) file: File,
}

impl Opened for Reader {
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Refusal> {
        self.folder.check_open()?;
        Ok(read_at(&self.file, offset, length)?)
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Refusal> {
        Err(StatusCode::PermissionDenied.into())
    }

    fn attributes(&self) -> Result<FileAttributes, Refusal> {
        Ok(of_file(&self.file)?)
    }

    fn set_attributes(&self, _: &FileAttributes) -> Result<(), Refusal> {
        Err(StatusCode::PermissionDenied.into())
    }

    fn sync(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn close(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Owner and mode are ours. Asked for together with times or a size, as clients do that keep what a file has at home, they are
/// passed over; asked for alone, they are refused, and so is any of the bits with a power of its own (setuid, setgid, sticky).
pub(super) fn check_attributes(wanted: &FileAttributes) -> Result<(), Refusal> {
    let names_more = wanted.size.is_some() || wanted.mtime.is_some();
    let names_ours = wanted.permissions.is_some() || wanted.uid.is_some() || wanted.gid.is_some();
    let is_special = wanted.permissions.is_some_and(|mode| mode & 0o7000 != 0);
    if is_special || (names_ours && !names_more) {
        return Err(Refusal::denied("owner and mode of a file are the server's"));
    }
    Ok(())
}

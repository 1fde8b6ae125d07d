//! What an SFTP session works on: the files of whoever logged in. Two kinds: a whole tree ([`super::jail`]), and the folders of
//! channels ([`super::view`]).
//!
//! Everything here blocks; sessions call it on threads that may.

use std::io;

use russh_sftp::protocol::{File as Entry, FileAttributes, OpenFlags, StatusCode};
use russh_sftp::server::StatusReply;

use super::jail::{BadPath, Inside};

/// The entries of a folder, read as they are asked for.
pub(super) type Listing = Box<dyn Iterator<Item = io::Result<Entry>> + Send + Sync>;

/// The files that a login opens. Paths are the client's: `/` is where it begins.
pub(super) trait Files: Send + Sync {
    fn open(&self, path: &Inside, flags: OpenFlags) -> Result<Box<dyn Opened>, Refusal>;
    fn list(&self, path: &Inside) -> Result<Listing, Refusal>;
    fn attributes(&self, path: &Inside, follow: bool) -> Result<FileAttributes, Refusal>;
    fn set_attributes(&self, path: &Inside, wanted: &FileAttributes) -> Result<(), Refusal>;
    fn remove_file(&self, path: &Inside) -> Result<(), Refusal>;
    fn make_folder(&self, path: &Inside) -> Result<(), Refusal>;
    fn remove_folder(&self, path: &Inside) -> Result<(), Refusal>;
    fn rename(&self, from: &Inside, to: &Inside, overwrite: bool) -> Result<(), Refusal>;
}

/// An open file. Dropped without [`Opened::close`] where the client went away.
pub(super) trait Opened: Send + Sync {
    /// At most so many bytes from there; none at the end.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Refusal>;
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Refusal>;
    fn attributes(&self) -> Result<FileAttributes, Refusal>;
    fn set_attributes(&self, wanted: &FileAttributes) -> Result<(), Refusal>;
    fn sync(&self) -> Result<(), Refusal>;
    /// The client is done with it: what it wrote is safe once this is Ok.
    fn close(&self) -> Result<(), Refusal>;
}

/// Why a request is not done, as the client is told: its kind and a sentence, nothing of our file system.
#[derive(Debug)]
pub(super) struct Refusal {
    code: StatusCode,
    message: Option<String>,
}

impl Refusal {
    pub(super) fn failure(message: impl Into<String>) -> Refusal {
        Refusal { code: StatusCode::Failure, message: Some(message.into()) }
    }

    pub(super) fn denied(message: impl Into<String>) -> Refusal {
        Refusal { code: StatusCode::PermissionDenied, message: Some(message.into()) }
    }
}

impl From<StatusCode> for Refusal {
    fn from(code: StatusCode) -> Refusal {
        Refusal { code, message: None }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        match error.kind() {
            io::ErrorKind::NotFound => StatusCode::NoSuchFile.into(),
            io::ErrorKind::PermissionDenied => StatusCode::PermissionDenied.into(),
            kind => Refusal::failure(kind.to_string()),
        }
    }
}

impl From<BadPath> for Refusal {
    fn from(bad: BadPath) -> Refusal {
        match bad {
            BadPath::Outside => StatusCode::PermissionDenied.into(),
            BadPath::Unusable => Refusal::failure("a path has at most 4096 bytes and no control characters"),
        }
    }
}

impl From<Refusal> for StatusReply {
    fn from(Refusal { code, message }: Refusal) -> StatusReply {
        let reply = StatusReply::new(code);
        match message {
            Some(message) => reply.with_message(message),
            None => reply,
        }
    }
}

//! What somebody who logged in sees of the channels' folders: those that their key or password opens, as one tree.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use russh::keys::PublicKey;
use russh_sftp::protocol::{File as Entry, FileAttributes, OpenFlags, StatusCode};

use super::files::{Files, Listing, Opened, Refusal};
use super::folder::Folder;
use super::grants::{Grant, Grants};
use super::jail::Inside;

/// Who uploads.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) user: String,
    pub(super) peer: SocketAddr,
}

/// With what somebody logged in.
pub(super) enum Proof {
    Key(PublicKey),
    /// The hashes that the password belongs to.
    Password(Vec<String>),
}

/// The view of one login.
pub(super) struct View {
    grants: Arc<Grants>,
    who: Who,
    proof: Proof,
    /// The folders that this login opens, and as of which generation of the grants.
    seen: Mutex<(u64, Vec<Arc<Grant>>)>,
}

/// What a path leads to.
enum Found {
    Folder(Arc<Folder>),
    /// A name in a folder.
    File(Arc<Folder>, String),
    /// A folder that is there because others lie below it: the names in it.
    Above(Vec<String>),
}

impl View {
    /// None where this opens nothing.
    pub(super) fn new(grants: Arc<Grants>, who: Who, proof: Proof) -> Option<View> {
        let (generation, seen) = grants.of(&who, &proof);
        (!seen.is_empty()).then(|| View { grants, who, proof, seen: Mutex::new((generation, seen)) })
    }

    /// The folders, as of now: what a channel file gave or took counts for who is logged in, too.
    fn folders(&self) -> Vec<Arc<Grant>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != self.grants.generation() {
            *seen = self.grants.of(&self.who, &self.proof);
        }
        seen.1.clone()
    }

    /// A path that is not ours, and one that does not exist, are the same.
    fn find(&self, path: &Inside) -> Result<Found, Refusal> {
        let names = path.names();
        let mut above = Vec::new();
        for grant in self.folders() {
            let folder: Vec<&str> = grant.folder.iter().map(String::as_str).collect();
            if names == folder {
                return Ok(Found::Folder(grant.files.clone()));
            }
            if let Some([name]) = names.strip_prefix(folder.as_slice()) {
                return Ok(Found::File(grant.files.clone(), (*name).to_owned()));
            }
            if let Some([below, ..]) = folder.strip_prefix(names.as_slice()) {
                above.push((*below).to_owned());
            }
        }
        above.sort();
        above.dedup();
        if above.is_empty() && !names.is_empty() { Err(StatusCode::NoSuchFile.into()) } else { Ok(Found::Above(above)) }
    }

    fn file(&self, path: &Inside) -> Result<(Arc<Folder>, String), Refusal> {
        match self.find(path)? {
            Found::File(folder, name) => Ok((folder, name)),
            Found::Folder(_) | Found::Above(_) => Err(Refusal::failure("this is a folder")),
        }
    }
}

/// A folder that exists in this view alone.
fn above() -> FileAttributes {
    FileAttributes {
        permissions: Some(0o040_500),
        size: Some(0),
        mtime: Some(0),
        atime: Some(0),
        ..FileAttributes::empty()
    }
}

fn no_folders() -> Refusal {
    Refusal::denied("folders can be neither made nor removed here")
}

impl Files for View {
    fn open(&self, path: &Inside, flags: OpenFlags) -> Result<Box<dyn Opened>, Refusal> {
        let (folder, name) = self.file(path)?;
        folder.open_file(&name, flags, &self.who)
    }

    fn list(&self, path: &Inside) -> Result<Listing, Refusal> {
        match self.find(path)? {
            Found::Folder(folder) => folder.list(),
            Found::Above(names) => Ok(Box::new(names.into_iter().map(|name| Ok(Entry::new(name, above()))))),
            Found::File(..) => Err(StatusCode::NoSuchFile.into()),
        }
    }

    fn attributes(&self, path: &Inside, _: bool) -> Result<FileAttributes, Refusal> {
        match self.find(path)? {
            Found::Folder(folder) => folder.folder_attributes(),
            Found::File(folder, name) => folder.attributes(&name),
            Found::Above(_) => Ok(above()),
        }
    }

    fn set_attributes(&self, path: &Inside, wanted: &FileAttributes) -> Result<(), Refusal> {
        let (folder, name) = self.file(path)?;
        folder.set_attributes(&name, wanted)
    }

    fn remove_file(&self, path: &Inside) -> Result<(), Refusal> {
        let (folder, name) = self.file(path)?;
        folder.remove(&name)
    }

    fn make_folder(&self, path: &Inside) -> Result<(), Refusal> {
        match self.find(path) {
            Ok(Found::Folder(_) | Found::Above(_)) => Err(Refusal::failure("this folder is there")),
            _ => Err(no_folders()),
        }
    }

    fn remove_folder(&self, _: &Inside) -> Result<(), Refusal> {
        Err(no_folders())
    }

    /// Nothing is ever overwritten, however a client asks.
    fn rename(&self, from: &Inside, to: &Inside, _: bool) -> Result<(), Refusal> {
        let ((folder, from), (other, to)) = (self.file(from)?, self.file(to)?);
        if !Arc::ptr_eq(&folder, &other) {
            return Err(Refusal::denied("a file stays in its folder"));
        }
        folder.rename(&from, &to, &self.who)
    }
}

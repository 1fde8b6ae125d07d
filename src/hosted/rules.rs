//! What may be done in the folder of a channel, and who is told of it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Glob;

/// The end of the name under which an upload is kept until it is complete.
pub const INCOMPLETE: &str = ".incomplete";

/// The mode of a file that nobody may change any more: accepted, or placed for a partner. The owner's write permission is what
/// tells it from one that is still being uploaded, also after a restart.
pub const PLACED_MODE: u32 = 0o400;

/// A longer name would leave no room for [`INCOMPLETE`].
const NAME_BYTES: usize = 200;

/// What the partner may do in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Upload; what is there can be listed, not read.
    Upload,
    /// Upload, and read what was accepted.
    Both,
    /// Read what was placed.
    Download,
}

/// The rules of a folder.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What the partner may do.
    pub access: Access,
    /// Whether a file arrives only by being renamed from a temporary name.
    pub by_rename: bool,
    /// The names that files may have at last; none: any.
    pub names: Option<Vec<Glob>>,
    /// The names that files have while they are uploaded.
    pub temporary: Vec<Glob>,
    /// Longest file, bytes.
    pub max_bytes: u64,
    /// Bytes of all files in the folder.
    pub quota_bytes: u64,
    /// Files in the folder.
    pub quota_files: u64,
    /// For how long an accepted or placed file stays; none: for ever.
    pub keep: Option<Duration>,
    /// For how long an interrupted upload stays.
    pub keep_incomplete: Duration,
    /// Whether the partner may delete what was placed.
    pub may_delete: bool,
}

impl Rules {
    pub(super) fn is_temporary(&self, name: &str) -> bool {
        self.temporary.iter().any(|glob| glob.matches(name))
    }

    pub(super) fn takes(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|glob| glob.matches(name)))
    }
}

/// Whether a file may have this name; if not, why.
pub(super) fn fits(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_BYTES {
        return Err("a name has from 1 to 200 bytes");
    }
    if name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\')) || name.starts_with('-') || name == ".." {
        return Err("a name has no control characters and backslashes, and does not begin with a hyphen");
    }
    // What stands for bytes that were no UTF-8: two names would become one.
    if name.contains(char::REPLACEMENT_CHARACTER) {
        return Err("a name is UTF-8");
    }
    if name.ends_with(['.', ' ']) || name.starts_with(' ') {
        return Err("a name does not end with a dot, and does not begin or end with a space");
    }
    Ok(())
}

/// Where a user's folder is within the engine's data folder.
pub fn folder_of(data: &Path, user: &str, folder: &[String]) -> PathBuf {
    let mut path = data.join("hosted/users").join(user);
    path.extend(folder);
    path
}

/// Makes a folder for nobody's eyes but ours, with those above it: names of files may hold names of people.
pub fn make_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A file that a partner has uploaded.
pub struct Captured {
    /// Its name.
    pub name: String,
    /// Who uploaded it.
    pub user: String,
    /// From where.
    pub peer: SocketAddr,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What became of an uploaded file.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the journal.
    Taken,
    /// It cannot be processed, for this reason. It is in the journal all the same.
    Rejected(String),
    /// It could not be kept, for this reason: it may be sent again.
    NotStored(String),
}

/// Takes what partners upload. Blocking.
pub trait Capture: Send + Sync {
    /// Takes a file; the client waits for the verdict.
    fn capture(&self, file: Captured) -> Verdict;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fit() {
        for name in ["a", "a.hl7", ".in.a", "ä b.hl7", "%2e%2e", "a..b", &"x".repeat(200)] {
            assert_eq!(fits(name), Ok(()), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "..\\x",
            "-rf",
            "a.",
            "a ",
            " a",
            "a\nb",
            "\u{1b}[2J",
            "a\0",
            "\u{fffd}",
            &"x".repeat(201),
        ] {
            assert!(fits(name).is_err(), "{name:?}");
        }
    }
}

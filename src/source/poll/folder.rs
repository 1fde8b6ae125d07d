//! A folder that files are captured from, wherever it is. Blocking: used on a thread that may block.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Longest name of a file, in bytes, as file systems have it.
const MAX_NAME_BYTES: usize = 255;

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) struct Facts {
    /// Its size in bytes.
    pub(super) size: u64,
    /// When it was last changed, in nanoseconds since 1970, by the clock of the machine that it is on.
    pub(super) modified: i64,
}

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum Kind {
    /// A file.
    File(Facts),
    /// A folder.
    Folder,
    /// A link, a device: nothing that is captured.
    Other,
}

/// A name that a file can have: one part of a path, without control characters. Whatever a server sends is made into one, or is not
/// used.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::source) struct Name(OsString);

impl Name {
    /// The name, if it is one.
    pub(super) fn new(name: &OsStr) -> Option<Name> {
        let bytes = name.as_bytes();
        let is_name = !matches!(bytes, b"" | b"." | b"..")
            && bytes.len() <= MAX_NAME_BYTES
            && !bytes.iter().any(|byte| matches!(byte, b'/' | 0..=0x1f | 0x7f));
        // C1 controls (U+0080 to U+009F) move a terminal's cursor just as well.
        let has_controls = name.to_str().is_some_and(|name| name.chars().any(char::is_control));
        (is_name && !has_controls).then(|| Name(name.to_owned()))
    }

    /// As a part of a path.
    pub(super) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// As text; what is not UTF-8 in it is replaced.
    pub(super) fn text(&self) -> std::borrow::Cow<'_, str> {
        self.0.to_string_lossy()
    }
}

/// Why something was not done.
#[derive(Debug)]
pub(in crate::source) enum Fault {
    /// The folder cannot be reached: nothing else will work either.
    Lost(Lost),
    /// There is no such file.
    Missing,
    /// The name is taken.
    Exists,
    /// This one thing does not work; in words, without the file's name.
    Refused(String),
}

/// Why a folder cannot be reached.
#[derive(Debug)]
pub(in crate::source) struct Lost {
    /// In words.
    pub(super) reason: String,
    /// Whether trying again soon may do harm: a login that is refused again and again is locked.
    pub(super) is_serious: bool,
}

impl Lost {
    pub(super) fn new(reason: impl Into<String>) -> Lost {
        Lost { reason: reason.into(), is_serious: false }
    }
}

/// What a file held when it was read.
pub(in crate::source) struct Content {
    /// The bytes.
    pub(super) bytes: Vec<u8>,
    /// What the file was when its last byte was read.
    pub(super) facts: Facts,
}

/// A folder with files. Paths are relative to it, and made of [`Name`]s, or are the channel file's own.
pub(in crate::source) trait Folder: Send {
    /// Makes sure that it can be reached.
    fn open(&mut self) -> Result<(), Lost>;

    /// Lets go of what is held while nothing is done.
    fn rest(&mut self) {}

    /// Gives every entry of a folder, as they come, until `each` has enough. A name that is none comes as none.
    fn list(&mut self, path: &Path, each: &mut dyn FnMut(Option<Name>, Kind) -> ControlFlow<()>) -> Result<(), Fault>;

    /// Reads a file, but never more than `limit` bytes.
    fn read(&mut self, path: &Path, limit: u64) -> Result<Content, Fault>;

    /// What a file is at this moment; a link is none.
    fn facts(&mut self, path: &Path) -> Result<Facts, Fault>;

    /// Whether there is anything under a path.
    fn exists(&mut self, path: &Path) -> Result<bool, Fault>;

    /// Gives a file another path; never over another file.
    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Fault>;

    /// Makes a folder; one that is there already is fine.
    fn make_folder(&mut self, path: &Path) -> Result<(), Fault>;

    /// Deletes a file.
    fn delete(&mut self, path: &Path) -> Result<(), Fault>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_path_and_nothing_else() {
        for name in ["a.hl7", "ünï cödé", "-rf", "a b", "$(x)", "a;b"] {
            assert!(Name::new(OsStr::new(name)).is_some(), "{name}");
        }
        assert!(Name::new(OsStr::from_bytes(b"Gr\xfc\xdfe.hl7")).is_some(), "not UTF-8, as older servers have them");
        assert!(Name::new(OsStr::new(&"a".repeat(255))).is_some() && Name::new(OsStr::new(&"a".repeat(256))).is_none());
        for name in ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\0", "a\n", "\x1b[2J", "a\u{9b}2J", "a\x7f"] {
            assert!(Name::new(OsStr::new(name)).is_none(), "{name:?}");
        }
    }
}

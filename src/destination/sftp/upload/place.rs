//! Names of files on a server: final ones, and temporary ones.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::super::super::files::{Item, Parcel, numbered};
use super::Manner;

/// What an upload goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) directory: String,
    pub(super) file_name: String,
    /// The name without a number.
    pub(super) first: String,
    pub(super) temporary_directory: String,
    pub(super) temporary: String,
}

impl Names {
    /// The temporary name is new for every attempt: what a dead connection left on its way can then never be mistaken for ours.
    pub(super) fn of(parcel: &Parcel, item: &Item, manner: &Manner) -> Names {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        Names {
            directory: parcel.directory.clone(),
            file_name: item.name.clone(),
            first: item.name.clone(),
            temporary_directory: parcel.temporary_directory.as_ref().unwrap_or(&parcel.directory).clone(),
            temporary: format!("{}{}.{epoch:016}{}", manner.prefix, item.name, manner.suffix),
        }
    }

    /// Takes another final name.
    pub(super) fn number(&mut self, number: usize) {
        self.file_name = numbered(&self.first, number);
    }

    /// As people read it.
    pub(super) fn shown(&self) -> String {
        self.last().trim_start_matches("./").to_owned()
    }

    pub(super) fn last(&self) -> String {
        path(&self.directory, &self.file_name)
    }

    pub(super) fn temporary(&self) -> String {
        path(&self.temporary_directory, &self.temporary)
    }
}

/// A temporary name that is in use: deliveries of different orders go to one folder side by side, and no lane may take what another
/// is just writing for a leftover.
pub(super) struct Live(String);

static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Live {
    pub(super) fn hold(temporary: &str) -> Live {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).insert(temporary.to_owned());
        Live(temporary.to_owned())
    }

    pub(super) fn is(temporary: &str) -> bool {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).contains(temporary)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

pub(super) fn path(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// The folders on the way to a folder, the outermost first.
pub(super) fn folders(directory: &str) -> Vec<String> {
    let ends = directory.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at).chain([directory.len()]);
    let is_step = |folder: &&str| !folder.is_empty() && !folder.ends_with(['/']) && *folder != ".";
    ends.map(|end| &directory[..end]).filter(is_step).map(str::to_owned).collect()
}

/// The file name that a temporary name was made for.
pub(super) fn leftover_of<'a>(name: &'a str, manner: &Manner) -> Option<&'a str> {
    let inner = name.strip_prefix(manner.prefix.as_str())?.strip_suffix(manner.suffix.as_str())?;
    let (file_name, epoch) = inner.rsplit_once('.')?;
    (epoch.len() == 16 && epoch.bytes().all(|byte| byte.is_ascii_digit())).then_some(file_name)
}

/// Whether `name` is a temporary name of ours, for whatever file.
pub(super) fn looks_temporary(name: &str, manner: &Manner) -> bool {
    leftover_of(name, manner).is_some_and(|file_name| !file_name.is_empty()) && !name.contains('/')
}

#[cfg(test)]
mod tests {
    use super::super::super::super::files::Exists;
    use super::*;

    fn manner(prefix: &str, suffix: &str) -> Manner {
        Manner {
            mkdir: false,
            permissions: None,
            folder_permissions: None,
            prefix: prefix.into(),
            suffix: suffix.into(),
            exists: Exists::Compare,
            taken_away: None,
        }
    }

    #[test]
    fn names_are_joined_as_the_server_reads_them() {
        for (directory, path, shown) in [
            (".", "./a.hl7", "a.hl7"),
            ("in", "in/a.hl7", "in/a.hl7"),
            ("in/", "in/a.hl7", "in/a.hl7"),
            ("/", "/a.hl7", "/a.hl7"),
            ("/x/y", "/x/y/a.hl7", "/x/y/a.hl7"),
        ] {
            let items = vec![Item { name: "a.hl7".into(), content: "".into() }];
            let parcel = Parcel { directory: directory.into(), temporary_directory: None, items };
            let manner = manner(".", ".part");
            let names = Names::of(&parcel, &parcel.items[0], &manner);
            assert_eq!((names.last().as_str(), names.shown().as_str()), (path, shown), "{directory}");
            assert_eq!(leftover_of(&names.temporary, &manner), Some("a.hl7"), "{}", names.temporary);
        }
    }

    #[test]
    fn only_our_own_temporary_files_are_leftovers() {
        for (name, ours) in [
            (".a.hl7.1764000000000000.part", true),
            (".a.hl7.1764000000000000.par", false),
            ("a.hl7.1764000000000000.part", false),
            (".a.hl7.176400000000000x.part", false),
            (".a.hl7.17.part", false),
            (".b.hl7.1764000000000000.part", false),
            (".a.hl7..part", false),
            (".part", false),
            ("", false),
        ] {
            assert_eq!(leftover_of(name, &manner(".", ".part")) == Some("a.hl7"), ours, "{name}");
        }
        assert_eq!(leftover_of("tmp-a.1764000000000000.x", &manner("tmp-", ".x")), Some("a"));
        assert!(!looks_temporary("..1764000000000000.part", &manner(".", ".part")));
    }

    #[test]
    fn folders_are_made_from_the_outside_in() {
        for (directory, made) in [
            ("a/b/c", &["a", "a/b", "a/b/c"][..]),
            ("/a/b/", &["/a", "/a/b"]),
            ("./a//b", &["./a", "./a//b"]),
            (".", &[]),
            ("/", &[]),
        ] {
            assert_eq!(folders(directory), made, "{directory}");
        }
    }
}

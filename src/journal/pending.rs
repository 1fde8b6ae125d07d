//! A generation of changes to the index as a file: written before the store is touched, removed once the store has them all.
//!
//! Not synced: it must survive the process, not the machine. After a restart of the machine the index is made again anyway.
//!
//! ```text
//! 8 bytes  "LWPEND1\n"
//! then for each change: length of the key (u32), length of the value (u32; all ones: taken away), key, value
//! 4 bytes  all ones, then 4 bytes crc32 of all before them
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::JournalError;
use super::overlay::{Changed, Changes};
use super::segments::disk;

const MAGIC: &[u8; 8] = b"LWPEND1\n";
const NOTHING: u32 = u32::MAX;

/// Writes the changes whole, or leaves no file.
pub(super) fn write(path: &Path, changes: &Changes) -> Result<(), JournalError> {
    let new = path.with_extension("new");
    let write = || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut out = Summed { out: BufWriter::with_capacity(256 << 10, file), crc: crc32fast::Hasher::new() };
        out.put(MAGIC)?;
        for (key, value) in changes.iter() {
            out.put(&(key.len() as u32).to_le_bytes())?;
            out.put(&value.as_ref().map_or(NOTHING, |value| value.len() as u32).to_le_bytes())?;
            out.put(key)?;
            out.put(value.as_deref().unwrap_or_default())?;
        }
        out.put(&NOTHING.to_le_bytes())?;
        let Summed { mut out, crc } = out;
        out.write_all(&crc.finalize().to_le_bytes())?;
        out.flush()?;
        std::fs::rename(&new, path)
    };
    write().map_err(disk("writing", path))
}

struct Summed {
    out: BufWriter<File>,
    crc: crc32fast::Hasher,
}

impl Summed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.out.write_all(bytes)
    }
}

/// The changes in the file; none when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Changed>>, JournalError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk("reading", path)(error)),
    };
    let damaged = || JournalError::Index { error: "its file `pending` is damaged".to_owned() };
    parse(&bytes).map(Some).ok_or_else(damaged)
}

fn parse(bytes: &[u8]) -> Option<Vec<Changed>> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut changes = Vec::new();
    loop {
        let (key, after) = rest.split_first_chunk::<4>()?;
        let key = u32::from_le_bytes(*key);
        if key == NOTHING {
            return after.is_empty().then_some(changes);
        }
        let (value, after) = after.split_first_chunk::<4>()?;
        let (key, after) = after.split_at_checked(key as usize)?;
        (rest, changes) = match u32::from_le_bytes(*value) {
            NOTHING => (after, pushed(changes, key, None)),
            length => {
                let (value, after) = after.split_at_checked(length as usize)?;
                (after, pushed(changes, key, Some(value.to_vec())))
            }
        };
    }
}

fn pushed(mut changes: Vec<Changed>, key: &[u8], value: Option<Vec<u8>>) -> Vec<Changed> {
    changes.push((key.to_vec(), value));
    changes
}

/// Takes the file away.
pub(super) fn remove(path: &Path) -> Result<(), JournalError> {
    std::fs::remove_file(path).map_err(disk("removing", path))
}

#[cfg(test)]
mod tests {
    use super::super::overlay::Change;
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pending");
        assert_eq!(read(&path).expect("nothing there"), None);
        let mut changes = Changes::default();
        for (key, value) in [("a", Some("1")), ("", Some("")), ("gone", None)] {
            let value = value.map(|value| value.as_bytes().to_vec());
            changes.add(key.as_bytes().to_vec(), Change { value, fresh: false });
        }
        write(&path, &changes).expect("written");
        let found = read(&path).expect("sound").expect("there");
        let expected: Vec<Changed> = changes.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(found, expected);
        let bytes = std::fs::read(&path).expect("bytes");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(parse(&flipped), None, "{at}");
            assert_eq!(parse(&bytes[..at]), None, "{at}");
        }
        remove(&path).expect("removed");
        assert_eq!(read(&path).expect("nothing there"), None);
    }
}

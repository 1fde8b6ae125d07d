//! What the disk itself can do, without an engine: the limits that a durable one cannot pass.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::load::Latency;

/// At most so much goes into one group.
const MAX_GROUP_BYTES: usize = 16 << 20;

/// Something that ends on the disk, done again and again.
#[derive(Debug, Default, Clone)]
pub(super) struct Limit {
    /// So often.
    pub(super) count: u64,
    /// In so long.
    pub(super) took: Duration,
    /// Each.
    pub(super) latency: Latency,
}

impl Limit {
    pub(super) fn per_second(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn repeat(&mut self, lasts: Duration, mut once: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
        let began = Instant::now();
        while began.elapsed() < lasts {
            let start = Instant::now();
            once(self.count)?;
            self.latency.record(start.elapsed());
            self.count += 1;
        }
        self.took += began.elapsed();
        Ok(())
    }

    /// Appends a group of so many bytes to a file and syncs it (fdatasync), one after the other.
    pub(super) fn append(&mut self, folder: &Path, bytes: usize, lasts: Duration) -> io::Result<()> {
        let path = folder.join("append");
        let mut file = File::create(&path)?;
        let group = vec![b'x'; bytes];
        let result = self.repeat(lasts, |_| {
            file.write_all(&group)?;
            file.sync_data()
        });
        fs::remove_file(&path)?;
        result
    }

    /// Makes a file of so many bytes so that it is there whole or not at all, and stays: written under a temporary name, synced,
    /// renamed, the folder synced. They stay, for the next call and for the caller to remove: some file systems make new files
    /// more slowly for some seconds after others were removed.
    pub(super) fn files(&mut self, folder: &Path, bytes: usize, lasts: Duration) -> io::Result<()> {
        let content = vec![b'x'; bytes];
        let temporary = folder.join(".part");
        self.repeat(lasts, |number| {
            let mut file = File::create(&temporary)?;
            file.write_all(&content)?;
            file.sync_all()?;
            fs::rename(&temporary, folder.join(number.to_string()))?;
            File::open(folder)?.sync_all()
        })
    }
}

/// How many messages of a size go into the group that stands for "all that waits": 64, or fewer of large ones.
pub(super) fn group_of(message_bytes: usize) -> usize {
    (MAX_GROUP_BYTES / message_bytes.max(1)).clamp(1, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_leave_nothing_behind_but_files_that_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut limit = Limit::default();
        limit.append(folder.path(), 4096, Duration::from_millis(1)).unwrap();
        assert!(limit.count >= 1 && limit.per_second() > 0.0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut files = Limit::default();
        (0..2).for_each(|_| files.files(folder.path(), 1000, Duration::from_millis(1)).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count() as u64, files.count);
        assert_eq!((group_of(1000), group_of(3 << 20), group_of(64 << 20)), (64, 5, 1));
    }
}

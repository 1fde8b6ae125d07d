//! How much room is left on the journal's disk, and what is kept free of it.
//!
//! Arrivals alone are refused when room runs out: what was taken in before is still transformed, sent and noted down, which
//! needs room too. The reserve is for that, so that a write that fails for want of room (which is final, like any other)
//! does not come about.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::JournalError;

/// The disk is looked at so often, and sooner when it is short of room: it is then that it matters when there is some again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY_WHEN_SHORT: Duration = Duration::from_millis(100);
/// And after so much was taken in.
const LOOK_AFTER_BYTES: u64 = 16 << 20;
/// An arrival takes so much beside its body: its metadata, its outcome, its place in the index.
const BESIDE_BODY_BYTES: u64 = 2 << 10;

/// Whether there is room for more on the journal's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Room {
    /// There is.
    Enough,
    /// Not much: what can wait where it is (files to be picked up) should.
    Low,
    /// Arrivals are refused with [`JournalError::Full`]. What is there still goes out.
    Full,
}

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the whole disk.
    Percent(u8),
}

/// How much of the journal's disk is kept free. What is not given is worked out from the size of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Margins {
    /// Below this, room is [`Room::Low`]: 10 % of the disk, but at least 256 MiB and at most 1 GiB. Never less than the reserve.
    pub low: Option<Amount>,
    /// Below this, room is [`Room::Full`]: 5 % of the disk, but at least 128 MiB and at most 256 MiB.
    pub reserve: Option<Amount>,
}

/// A disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Its size.
    pub bytes: u64,
    /// What of it is free.
    pub free: u64,
}

impl DiskSpace {
    /// What of it is used.
    pub fn used(&self) -> u64 {
        self.bytes.saturating_sub(self.free)
    }

    fn of(folder: &Path) -> Option<DiskSpace> {
        let disk = rustix::fs::statvfs(folder).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Some(DiskSpace { bytes: bytes(disk.f_blocks), free: bytes(disk.f_bavail) })
    }
}

impl Amount {
    /// So many bytes of a disk of this size.
    pub fn of(self, disk: u64) -> u64 {
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Percent(percent) => (u128::from(disk) * u128::from(percent) / 100) as u64,
        }
    }
}

impl Margins {
    /// Low and reserve in bytes, on a disk of this size.
    fn on(self, disk: u64) -> (u64, u64) {
        let part = |percent, least: u64, most: u64| Amount::Percent(percent).of(disk).clamp(least << 20, most << 20);
        let reserve = self.reserve.map_or_else(|| part(5, 128, 256), |amount| amount.of(disk));
        let low = self.low.map_or_else(|| part(10, 256, 1024), |amount| amount.of(disk));
        (low.max(reserve), reserve)
    }
}

/// Watches the disk of a folder. It is looked at when somebody asks, and not more often than need be.
pub(super) struct Reserve {
    folder: PathBuf,
    margins: Margins,
    seen: Mutex<Seen>,
}

/// What was seen when the disk was last looked at.
struct Seen {
    at: Option<Instant>,
    room: Room,
    free: u64,
    reserve: u64,
    /// Bytes of arrivals since.
    taken: u64,
}

impl Reserve {
    pub(super) fn new(folder: &Path, margins: Margins) -> Reserve {
        let seen = Seen { at: None, room: Room::Enough, free: u64::MAX, reserve: 0, taken: 0 };
        Reserve { folder: folder.to_owned(), margins, seen: Mutex::new(seen) }
    }

    /// The same with other margins.
    pub(super) fn with(self, margins: Margins) -> Reserve {
        Reserve { margins, ..self }
    }

    /// Whether there is room for an arrival with so many bytes of bodies.
    pub(super) fn check(&self, bytes: usize) -> Result<(), JournalError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut seen);
        let more = seen.taken.saturating_add(bytes as u64).saturating_add(BESIDE_BODY_BYTES);
        let left = seen.free.saturating_sub(more);
        if seen.room == Room::Full || left < seen.reserve {
            return Err(JournalError::Full { folder: self.folder.display().to_string(), free_mib: seen.free >> 20 });
        }
        seen.taken = more;
        Ok(())
    }

    /// How much room there is.
    pub(super) fn level(&self) -> Room {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut seen);
        seen.room
    }

    pub(super) fn disk(&self) -> Option<DiskSpace> {
        DiskSpace::of(&self.folder)
    }

    fn look(&self, seen: &mut Seen) {
        let now = Instant::now();
        let often = if seen.room == Room::Enough { LOOK_EVERY } else { LOOK_EVERY_WHEN_SHORT };
        if seen.at.is_some_and(|at| now.duration_since(at) < often) && seen.taken < LOOK_AFTER_BYTES {
            return;
        }
        (seen.at, seen.taken) = (Some(now), 0);
        // A disk that cannot be looked at may still be written to: the write will tell.
        let Some(disk) = self.disk() else { return };
        seen.free = disk.free;
        let (low, reserve) = self.margins.on(disk.bytes);
        seen.reserve = reserve;
        let room = room_of(seen.free, seen.room, low, reserve);
        if room != seen.room {
            self.report(seen.room, room, seen.free >> 20);
        }
        seen.room = room;
    }

    fn report(&self, before: Room, now: Room, free_mib: u64) {
        let folder = self.folder.display();
        match now {
            Room::Full => warn!(
                %folder,
                free_mib,
                "the disk is nearly full: nothing more is taken in until there is room; what is there still goes out"
            ),
            Room::Low if before == Room::Full => {
                warn!(%folder, free_mib, "there is some room again: messages are taken in")
            }
            Room::Low => warn!(%folder, free_mib, "the disk is filling up"),
            Room::Enough => info!(%folder, free_mib, "there is room on the disk again"),
        }
    }
}

/// What so many free bytes mean. To get better takes an eighth more, so that room at the edge does not go on and off.
fn room_of(free: u64, before: Room, low: u64, reserve: u64) -> Room {
    let is_below =
        |margin: u64, room: Room| free < if before >= room { margin.saturating_add(margin / 8) } else { margin };
    if is_below(reserve, Room::Full) {
        Room::Full
    } else if is_below(low, Room::Low) {
        Room::Low
    } else {
        Room::Enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn margins_on_small_and_large_disks() {
        let default = Margins::default();
        assert_eq!(default.on(200 * MIB), (256 * MIB, 128 * MIB));
        assert_eq!(default.on(4000 * MIB), (400 * MIB, 200 * MIB));
        assert_eq!(default.on(1 << 40), (1024 * MIB, 256 * MIB));
        let given = Margins { low: Some(Amount::Percent(50)), reserve: Some(Amount::Bytes(7)) };
        assert_eq!(given.on(200), (100, 7));
        let crossed = Margins { low: Some(Amount::Bytes(0)), reserve: Some(Amount::Percent(10)) };
        assert_eq!(crossed.on(200), (20, 20), "low is never less than the reserve");
    }

    #[test]
    fn room_gets_better_later_than_it_got_worse() {
        for (free, before, expected) in [
            (2000, Room::Enough, Room::Enough),
            (1999, Room::Enough, Room::Low),
            (2249, Room::Low, Room::Low),
            (2250, Room::Low, Room::Enough),
            (800, Room::Low, Room::Low),
            (799, Room::Enough, Room::Full),
            (899, Room::Full, Room::Full),
            (900, Room::Full, Room::Low),
            (2250, Room::Full, Room::Enough),
        ] {
            assert_eq!(room_of(free, before, 2000, 800), expected, "{free} after {before:?}");
        }
    }

    #[test]
    fn an_arrival_larger_than_what_is_left_is_refused_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = Margins { low: Some(Amount::Bytes(0)), reserve: Some(Amount::Bytes(1)) };
        let reserve = Reserve::new(folder.path(), all);
        assert_eq!(reserve.level(), Room::Enough);
        assert!(reserve.check(1000).is_ok());
        assert!(matches!(reserve.check(usize::MAX), Err(JournalError::Full { .. })));
        assert!(reserve.check(1000).is_ok());
        let none = Margins { low: None, reserve: Some(Amount::Percent(100)) };
        let reserve = Reserve::new(folder.path(), none);
        let error = reserve.check(0).expect_err("no room").to_string();
        assert!(error.contains("MiB are left on the disk") && reserve.level() == Room::Full, "{error}");
    }
}

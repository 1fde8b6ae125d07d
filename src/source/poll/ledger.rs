//! What was captured: a durable list of files, so that each is captured once, whatever becomes of it afterwards.
//!
//! ```text
//! data/ledgers/CHANNEL.ledger
//!   labwire-ledger 1\n
//!   records of 94 bytes: CRC-32 of what follows · kind · outcome · path · size · time · content · message · when
//! ```
//!
//! Design constraints:
//! - Appended and synced before a file is moved or deleted. The last record may not be whole: it was not acted upon. One that is
//!   damaged costs no other, because all are of one size.
//! - No name and no content is in it: a path (with the host) and a content are there by their SHA-256, a path by half of it.
//! - Numbers are little-endian. When less than half of the file is of use, it is written anew and renamed over the old one.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::folder::Facts;
use crate::message::MessageId;

const HEADER: &[u8] = b"labwire-ledger 1\n";
const RECORD_BYTES: usize = 94;
/// What is known of a file that is no longer there is kept at least so long.
pub(super) const KEEP_AT_LEAST: Duration = Duration::from_secs(7 * 24 * 3600);
/// At most so many files are known; of those that are no longer there the oldest go first.
const MAX_FILES: usize = 1_000_000;
/// A ledger below this size is not written anew.
const COMPACT_ABOVE_BYTES: u64 = 1 << 20;

/// A path, with the host that it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PathKey([u8; 16]);

impl PathKey {
    /// The key of a path.
    pub(super) fn of(host: &str, path: &Path) -> PathKey {
        use std::os::unix::ffi::OsStrExt as _;
        let digest = Sha256::new().chain_update(host).chain_update([0]).chain_update(path.as_os_str().as_bytes());
        PathKey(digest.finalize()[..16].try_into().expect("16 of 32 bytes"))
    }

    /// As text, for the journal.
    pub(super) fn text(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The SHA-256 of a content.
pub(super) type ContentKey = [u8; 32];

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the journal.
    Captured,
    /// It is in the journal, and could not be read.
    Rejected,
    /// Its content came before.
    Duplicate,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) facts: Facts,
    pub(super) content: ContentKey,
    pub(super) outcome: Outcome,
    /// The message that it became; for a duplicate, the one that came before.
    pub(super) message: MessageId,
    /// When it was captured.
    pub(super) at: Timestamp,
}

struct Entry {
    known: Known,
    /// Whether it lies where it lay, as far as is known.
    is_there: bool,
    /// Whether the listing under way has it.
    is_listed: bool,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the ledger of captured files `{path}`: {action}: {error}")]
pub(super) struct LedgerError {
    path: String,
    action: &'static str,
    error: io::Error,
}

/// The ledger of one channel.
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
    bytes: u64,
    window: Option<Duration>,
    entries: HashMap<PathKey, Entry>,
    /// The first message with a content, and when it came; only with a window.
    contents: HashMap<[u8; 16], (MessageId, Timestamp)>,
}

impl Ledger {
    /// Opens or makes the ledger of a channel. `window` is how long a content is known.
    pub(super) fn open(data: &Path, channel: &str, window: Option<Duration>) -> Result<Ledger, LedgerError> {
        let folder = data.join("ledgers");
        let path = folder.join(format!("{channel}.ledger"));
        let failed = |action| {
            let path = path.display().to_string();
            move |error| LedgerError { path, action, error }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed("making its folder"))?;
        let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let mut file = opened.map_err(failed("opening it"))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed("reading it"))?;
        if !text.starts_with(HEADER) && !HEADER.starts_with(&text) {
            let error = io::Error::other("it is not one that this version knows; move it away to begin a new one");
            return Err(failed("reading it")(error));
        }
        let mut ledger =
            Ledger { path: path.clone(), file, bytes: 0, window, entries: HashMap::new(), contents: HashMap::new() };
        let records = text.get(HEADER.len()..).unwrap_or_default();
        let whole = records.len() / RECORD_BYTES;
        let read: Vec<Record> = records.chunks_exact(RECORD_BYTES).filter_map(read_record).collect();
        read.iter().for_each(|record| ledger.take(record));
        if read.len() < whole {
            tracing::warn!(
                channel,
                records = whole - read.len(),
                "a ledger of captured files is damaged: what these said is lost"
            );
        }
        ledger.bytes = (HEADER.len() + whole * RECORD_BYTES) as u64;
        ledger.mend(text.len() as u64).map_err(failed("writing it"))?;
        ledger.sync_folder().map_err(failed("syncing its folder"))?;
        Ok(ledger)
    }

    /// Begins the file where it is new, and takes what is not whole off its end.
    fn mend(&mut self, found: u64) -> io::Result<()> {
        if found < HEADER.len() as u64 {
            self.file.set_len(0)?;
            self.file.write_all(HEADER)?;
        } else if found > self.bytes {
            self.file.set_len(self.bytes)?;
        }
        self.file.sync_all()
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    fn take(&mut self, record: &Record) {
        match record {
            Record::Is(path, known) => {
                if known.outcome == Outcome::Captured
                    && let Some(window) = self.window
                {
                    let this = (known.message, known.at);
                    let first = self.contents.entry(short(&known.content)).or_insert(this);
                    if age(known.at, first.1) >= window {
                        // One that came so long before counts no more.
                        *first = this;
                    }
                }
                self.entries.insert(*path, Entry { known: *known, is_there: true, is_listed: false });
            }
            Record::Gone(path) => {
                if let Some(entry) = self.entries.get_mut(path) {
                    entry.is_there = false;
                }
            }
        }
    }

    /// What is known of a file that lies there unchanged. None for one that is new. `stays` says of which files it is that they are
    /// left where they lie: one that was not seen for a while was not gone, only the listing was not what it should be.
    pub(super) fn known(&mut self, path: PathKey, facts: Facts, stays: impl Fn(Outcome) -> bool) -> Option<Known> {
        let entry = self.entries.get_mut(&path).filter(|entry| entry.known.facts == facts)?;
        // There again, so that it is not forgotten in time.
        entry.is_there |= stays(entry.known.outcome);
        entry.is_there.then_some(entry.known)
    }

    /// The message that a file under this path became last.
    pub(super) fn last_message(&self, path: PathKey) -> Option<MessageId> {
        self.entries.get(&path).map(|entry| entry.known.message)
    }

    /// The message that came before with this content, within the window.
    pub(super) fn same_content(&self, content: &ContentKey, now: Timestamp) -> Option<MessageId> {
        let window = self.window?;
        let (message, at) = self.contents.get(&short(content))?;
        (age(now, *at) < window).then_some(*message)
    }

    /// Notes what became of files. Returns when it is on disk.
    pub(super) fn note(&mut self, files: &[(PathKey, Known)], now: Timestamp) -> Result<(), LedgerError> {
        let records: Vec<Record> = files.iter().map(|(path, known)| Record::Is(*path, *known)).collect();
        for record in &records {
            if let Record::Is(_, known) = record
                && self.same_content(&known.content, now).is_none()
            {
                // One that came so long ago counts no more.
                self.contents.remove(&short(&known.content));
            }
        }
        self.append(&records, true)
    }

    /// Notes that a file no longer lies where it lay. What a power cut takes of this is found out by looking.
    pub(super) fn gone(&mut self, path: PathKey) -> Result<(), LedgerError> {
        self.append(&[Record::Gone(path)], false)
    }

    fn append(&mut self, records: &[Record], sync: bool) -> Result<(), LedgerError> {
        let bytes: Vec<u8> = records.iter().flat_map(write_record).collect();
        let written = self.file.write_all(&bytes).and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // As it was: half a record in the middle would hide what comes after it.
            let _ = self.file.set_len(self.bytes);
            return Err(LedgerError { path: self.path.display().to_string(), action: "writing it", error });
        }
        self.bytes += bytes.len() as u64;
        records.iter().for_each(|record| self.take(record));
        Ok(())
    }

    /// A listing begins.
    pub(super) fn begin_listing(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.is_listed = false);
    }

    /// A path is in the listing.
    pub(super) fn listed(&mut self, path: PathKey) {
        if let Some(entry) = self.entries.get_mut(&path) {
            entry.is_listed = true;
        }
    }

    /// The listing was whole: what is not in it is not there. What need not be known any more is dropped.
    pub(super) fn end_listing(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        for entry in self.entries.values_mut() {
            entry.is_there &= entry.is_listed;
        }
        let useful = (self.entries.len() * RECORD_BYTES) as u64;
        if self.bytes > COMPACT_ABOVE_BYTES.max(2 * useful) || self.entries.len() > MAX_FILES {
            self.compact(now)?;
        }
        Ok(())
    }

    fn compact(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        let keep = self.window.unwrap_or_default().max(KEEP_AT_LEAST);
        self.entries.retain(|_, entry| entry.is_there || age(now, entry.known.at) < keep);
        if self.entries.len() > MAX_FILES {
            let mut gone: Vec<_> = self
                .entries
                .iter()
                .filter(|(_, entry)| !entry.is_there)
                .map(|(path, entry)| (entry.known.at, *path))
                .collect();
            gone.sort_unstable_by_key(|(at, _)| *at);
            for (_, path) in gone.iter().take(self.entries.len() - MAX_FILES) {
                self.entries.remove(path);
            }
        }
        let window = self.window.unwrap_or_default();
        self.contents.retain(|_, (_, at)| age(now, *at) < window);
        self.rewrite().map_err(|error| LedgerError {
            path: self.path.display().to_string(),
            action: "writing it anew",
            error,
        })
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut bytes = HEADER.to_vec();
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| entry.known.at);
        for (path, entry) in entries {
            bytes.extend(write_record(&Record::Is(*path, entry.known)));
            if !entry.is_there {
                bytes.extend(write_record(&Record::Gone(*path)));
            }
        }
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        self.sync_folder()?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.bytes = bytes.len() as u64;
        Ok(())
    }
}

fn short(content: &ContentKey) -> [u8; 16] {
    content[..16].try_into().expect("16 of 32 bytes")
}

fn age(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

enum Record {
    Is(PathKey, Known),
    Gone(PathKey),
}

const IS: u8 = 1;
const GONE: u8 = 2;

fn write_record(record: &Record) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let (kind, path) = match record {
        Record::Is(path, _) => (IS, path),
        Record::Gone(path) => (GONE, path),
    };
    bytes[4] = kind;
    bytes[6..22].copy_from_slice(&path.0);
    if let Record::Is(_, known) = record {
        bytes[5] = known.outcome as u8;
        bytes[22..30].copy_from_slice(&known.facts.size.to_le_bytes());
        bytes[30..38].copy_from_slice(&known.facts.modified.to_le_bytes());
        bytes[38..70].copy_from_slice(&known.content);
        bytes[70..86].copy_from_slice(&known.message.to_bytes());
        bytes[86..94].copy_from_slice(&known.at.as_millisecond().to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn read_record(bytes: &[u8]) -> Option<Record> {
    let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
    let long = |at: usize| bytes[at..at + 8].try_into().expect("eight bytes");
    if crc32fast::hash(&bytes[4..]).to_le_bytes() != bytes[..4] {
        return None;
    }
    let path = PathKey(bytes[6..22].try_into().expect("16 bytes"));
    if bytes[4] == GONE {
        return Some(Record::Gone(path));
    }
    let outcome = match bytes[5] {
        0 => Outcome::Captured,
        1 => Outcome::Rejected,
        2 => Outcome::Duplicate,
        _ => return None,
    };
    let known = Known {
        facts: Facts { size: u64::from_le_bytes(long(22)), modified: i64::from_le_bytes(long(30)) },
        content: bytes[38..70].try_into().expect("32 bytes"),
        outcome,
        message: MessageId::from_bytes(bytes[70..86].try_into().expect("16 bytes")),
        at: Timestamp::from_millisecond(i64::from_le_bytes(long(86))).ok()?,
    };
    (bytes[4] == IS).then_some(Record::Is(path, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Option<Duration> = Some(Duration::from_secs(3600));

    fn path(name: &str) -> PathKey {
        PathKey::of("host", Path::new(name))
    }

    fn known(content: u8, size: u64, outcome: Outcome, at: Timestamp) -> Known {
        let facts = Facts { size, modified: 7 };
        Known { facts, content: [content; 32], outcome, message: MessageId::from_bytes([content; 16]), at }
    }

    /// No file is left where it lies.
    fn none(_: Outcome) -> bool {
        false
    }

    #[test]
    fn a_file_that_stays_is_known_although_a_listing_lacked_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::now();
        let (kept, moved) = (known(1, 1, Outcome::Captured, now), known(2, 1, Outcome::Rejected, now));
        let keeps = |outcome: Outcome| outcome == Outcome::Captured;
        let mut ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
        ledger.note(&[(path("kept"), kept), (path("moved"), moved)], now).expect("noted");
        ledger.begin_listing();
        ledger.end_listing(now).expect("an empty listing");
        assert_eq!(ledger.known(path("kept"), kept.facts, none), None, "only where it stays");
        assert_eq!(ledger.known(path("moved"), moved.facts, keeps), None, "it does not stay");
        assert_eq!(ledger.known(path("kept"), Facts { size: 2, modified: 7 }, keeps), None, "another file");
        assert_eq!(ledger.known(path("kept"), kept.facts, keeps), Some(kept));
        assert_eq!(ledger.known(path("kept"), kept.facts, none), Some(kept), "it is there again");
    }

    #[test]
    fn the_newest_message_of_a_content_counts_after_a_restart_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::from_second(1_790_000_000).expect("a time");
        let old = known(1, 1, Outcome::Captured, now - jiff::SignedDuration::from_hours(2));
        let new = Known { message: MessageId::from_bytes([9; 16]), at: now, ..old };
        let mut ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
        ledger.note(&[(path("a"), old)], old.at).expect("noted");
        ledger.note(&[(path("b"), new)], now).expect("noted");
        for _ in 0..2 {
            assert_eq!(ledger.same_content(&new.content, now), Some(new.message));
            drop(ledger);
            ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened again");
        }
    }

    #[test]
    fn what_was_noted_is_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::now();
        let files = [
            (path("a"), known(1, 10, Outcome::Captured, now)),
            (path("b"), known(2, 20, Outcome::Rejected, now)),
            (path("c"), known(3, 30, Outcome::Captured, now)),
        ];
        let mut ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
        ledger.note(&files, now).expect("noted");
        ledger.gone(path("c")).expect("noted");
        for _ in 0..2 {
            assert_eq!(
                ledger.known(path("a"), files[0].1.facts, none).map(|known| known.message),
                Some(files[0].1.message)
            );
            assert_eq!(ledger.known(path("a"), Facts { size: 11, modified: 7 }, none), None, "another size");
            assert_eq!(ledger.known(path("a"), Facts { size: 10, modified: 8 }, none), None, "another time");
            assert_eq!(ledger.known(path("c"), files[2].1.facts, none), None, "it is gone");
            assert_eq!(ledger.last_message(path("c")), Some(files[2].1.message));
            assert_eq!(ledger.same_content(&[3; 32], now), Some(files[2].1.message));
            assert_eq!(ledger.same_content(&[2; 32], now), None, "what could not be read may come again");
            let later = now + jiff::SignedDuration::from_secs(3600);
            assert_eq!(ledger.same_content(&[1; 32], later), None, "the window has passed");
            drop(ledger);
            ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened again");
        }
        let off = Ledger::open(folder.path(), "c", None).expect("opened");
        assert_eq!(off.same_content(&[1; 32], now), None);
    }

    #[test]
    fn a_torn_end_is_taken_off_wherever_it_is_torn() {
        let now = Timestamp::now();
        for cut in 1..RECORD_BYTES as u64 {
            let folder = tempfile::tempdir().expect("a folder");
            let mut ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
            ledger.note(&[(path("a"), known(1, 1, Outcome::Captured, now))], now).expect("noted");
            ledger.note(&[(path("b"), known(2, 2, Outcome::Captured, now))], now).expect("noted");
            let file = OpenOptions::new().write(true).open(&ledger.path).expect("there");
            file.set_len(ledger.bytes - cut).expect("cut");
            let mut ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
            assert!(ledger.last_message(path("a")).is_some() && ledger.last_message(path("b")).is_none(), "{cut}");
            ledger.note(&[(path("c"), known(3, 3, Outcome::Captured, now))], now).expect("noted");
            let ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
            assert!(ledger.last_message(path("c")).is_some(), "{cut}");
        }
    }

    #[test]
    fn a_damaged_record_costs_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::now();
        let mut ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
        let file = |number: u8| (path(&number.to_string()), known(number, 1, Outcome::Captured, now));
        ledger.note(&[file(1), file(2), file(3)], now).expect("noted");
        let mut bytes = std::fs::read(&ledger.path).expect("there");
        bytes[HEADER.len() + RECORD_BYTES + 50] ^= 1;
        std::fs::write(&ledger.path, bytes).expect("written");
        let ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
        let left: Vec<u8> = (1..=3).filter(|number| ledger.last_message(file(*number).0).is_some()).collect();
        assert_eq!(left, [1, 3]);
    }

    #[test]
    fn a_file_of_another_kind_is_not_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("ledgers")).expect("made");
        let path = folder.path().join("ledgers/c.ledger");
        std::fs::write(&path, "labwire-ledger 2\nwhatever").expect("written");
        let error = Ledger::open(folder.path(), "c", WINDOW).err().expect("refused").to_string();
        assert!(error.contains("not one that this version knows"), "{error}");
        assert_eq!(std::fs::read(&path).expect("there"), b"labwire-ledger 2\nwhatever");
    }

    #[test]
    fn what_is_no_longer_there_is_dropped_in_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::now();
        let long_ago = now - jiff::SignedDuration::from_hours(8 * 24);
        let mut ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened");
        let there = path("there");
        ledger.note(&[(there, known(1, 1, Outcome::Captured, long_ago))], now).expect("noted");
        for number in 0..20_000_u32 {
            let file = path(&number.to_string());
            let at = if number == 7 { now } else { long_ago };
            ledger.take(&Record::Is(file, known(2, 1, Outcome::Captured, at)));
            ledger.bytes += 3 * RECORD_BYTES as u64;
        }
        ledger.begin_listing();
        ledger.listed(there);
        ledger.end_listing(now).expect("written anew");
        for _ in 0..2 {
            assert_eq!(ledger.entries.len(), 2);
            assert!(ledger.known(there, Facts { size: 1, modified: 7 }, none).is_some());
            assert_eq!(ledger.known(path("7"), Facts { size: 1, modified: 7 }, none), None, "it was not listed");
            assert!(ledger.last_message(path("7")).is_some());
            assert_eq!(std::fs::metadata(&ledger.path).expect("there").len(), ledger.bytes);
            ledger = Ledger::open(folder.path(), "c", WINDOW).expect("opened again");
        }
    }
}

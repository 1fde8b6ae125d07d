//! The segment files: `segments/00000001.log` and so on, appended to by one thread, read by place from any.
//!
//! A segment is written into zeros that were put there and synced before (`prepare.rs`): a sync then has to bring data to the
//! disk and nothing else, which takes a third of the time of a sync of a file that grows. What a segment has too much is cut
//! off when the next one begins.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::JournalError;
use super::event::{Event, SegmentStart};
use super::files::Files;
use super::prepare::{self, Preparer};
use super::record::{self, Kind, Place, Record};
use super::stored::Stored;
use super::stripped::{self, Stripped, Tail};

/// Segments are full at this size, at most.
pub(super) const SEGMENT_BYTES: u64 = 64 << 20;
/// And at this size at least: a small journal takes little room.
const SMALLEST_SEGMENT_BYTES: u64 = 4 << 20;
/// Bodies from this size on are written as they are, without being copied together first.
const DIRECT_BYTES: usize = 256 << 10;
/// So many segments are kept open for reading.
const OPEN_FILES: usize = 64;

/// How bytes get to the disk: a seam, so that tests can make it fail.
pub(super) trait Medium: Send + Sync {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The disk itself.
pub(super) struct RealDisk;

impl Medium for RealDisk {}

pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.log"))
}

/// The numbers of the segments in a folder, in order.
pub(super) fn list(folder: &Path) -> Result<Vec<u64>, JournalError> {
    let mut numbers: Vec<u64> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(disk("listing", folder))? {
        let name = entry.map_err(disk("listing", folder))?.file_name();
        numbers
            .extend(name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// When a segment is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// At this size.
    At(u64),
    /// At an eighth of all that is in the journal, between 4 and 64 MiB.
    ByTotal,
}

/// The end of the journal: where the next record goes.
pub(super) struct Appender {
    folder: PathBuf,
    medium: Arc<dyn Medium>,
    full: Full,
    /// The present segment is full at this size; the group that fills it is still written whole.
    segment_bytes: u64,
    file: File,
    number: u64,
    /// Where the next record goes; what is in the buffer counts.
    end: u64,
    /// Bytes in the segments before this one.
    before: u64,
    buffer: Vec<u8>,
    /// Whether something was added since the last sync.
    is_unsynced: bool,
    preparer: Preparer,
}

impl Appender {
    /// Goes on after a sound record of the last segment, or begins the first segment of all. `before`: the bytes in the
    /// segments before it.
    pub(super) fn open(
        folder: &Path,
        last: Option<Place>,
        before: u64,
        sequence: u64,
        medium: Arc<dyn Medium>,
        full: Full,
    ) -> Result<Appender, JournalError> {
        let number = last.map_or(1, |place| place.segment);
        let end = last.map_or(0, |place| place.offset);
        let file = open_file(folder, number)?;
        let mut appender = Appender {
            folder: folder.to_owned(),
            medium,
            full,
            segment_bytes: 0,
            file,
            number,
            end,
            before,
            buffer: Vec::new(),
            is_unsynced: false,
            preparer: Preparer::start(folder)?,
        };
        appender.segment_bytes = appender.next_segment_bytes();
        if let Err(error) = prepare::extend(&appender.file, end, appender.segment_bytes) {
            tracing::debug!(%error, "the last segment is not prepared; it grows as it is written");
        }
        if end == 0 {
            appender.begin(sequence, None)?;
            sync_folder(folder)?;
        }
        Ok(appender)
    }

    fn next_segment_bytes(&self) -> u64 {
        match self.full {
            Full::At(bytes) => bytes,
            Full::ByTotal => {
                let eighth = (self.before + self.end) / 8;
                eighth.next_power_of_two().clamp(SMALLEST_SEGMENT_BYTES, SEGMENT_BYTES)
            }
        }
    }

    /// The place of the next record.
    pub(super) fn end(&self) -> Place {
        Place { segment: self.number, offset: self.end }
    }

    /// Whether something was added since the last sync.
    pub(super) fn is_unsynced(&self) -> bool {
        self.is_unsynced
    }

    /// Bytes that pruning gave back.
    pub(super) fn forget(&mut self, bytes: u64) {
        self.before = self.before.saturating_sub(bytes);
    }

    /// Goes on in a new segment if this one is full; says whether it did. Only between groups: nothing may be waiting to be
    /// synced.
    pub(super) fn roll(&mut self, sequence: u64) -> Result<bool, JournalError> {
        if self.end < self.segment_bytes {
            return Ok(false);
        }
        self.roll_now(sequence).map(|()| true)
    }

    /// Whether so much can be added without a new segment.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.end + bytes < self.segment_bytes
    }

    /// The same, however much is in this one.
    pub(super) fn roll_now(&mut self, sequence: u64) -> Result<(), JournalError> {
        if self.is_unsynced {
            self.sync()?;
        }
        let next = self.next_segment_bytes();
        let prepared = self.preparer.take(self.number + 1);
        let (file, is_named) = match prepared {
            Some(file) => (file, true),
            None => (open_file(&self.folder, self.number + 1)?, false),
        };
        let old = std::mem::replace(&mut self.file, file);
        // What was prepared and not used. Not synced: zeros at the end of a segment mean nothing.
        if let Err(error) = old.set_len(self.end) {
            tracing::debug!(%error, "a segment was not cut to its size");
        }
        let previous_end = self.end;
        self.before += self.end;
        self.number += 1;
        self.end = 0;
        self.segment_bytes = next;
        self.begin(sequence, Some(previous_end))?;
        if !is_named {
            sync_folder(&self.folder)?;
        }
        Ok(())
    }

    /// Makes the file durable before anything in it is relied on.
    fn begin(&mut self, sequence: u64, previous_end: Option<u64>) -> Result<(), JournalError> {
        let created_at = Timestamp::now();
        let start = Event::SegmentStart(SegmentStart { segment: self.number, created_at, sequence, previous_end });
        self.append(start.kind(), &start.to_meta(), &[])?;
        self.sync()
    }

    /// Adds a record. It is durable after the next [`Appender::sync`].
    pub(super) fn append(&mut self, kind: Kind, meta: &[u8], bodies: &[Bytes]) -> Result<Place, JournalError> {
        let place = self.end();
        self.is_unsynced = true;
        let before = self.buffer.len();
        record::head(&mut self.buffer, place, kind, meta, bodies);
        self.end += (self.buffer.len() - before) as u64;
        for body in bodies {
            self.add(body)?;
        }
        if self.buffer.len() >= DIRECT_BYTES {
            self.write_out()?;
        }
        Ok(place)
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if bytes.len() < DIRECT_BYTES {
            self.buffer.extend_from_slice(bytes);
        } else {
            self.write_out()?;
            self.write(bytes, self.end)?;
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Gives everything added so far to the system: it can be read, and survives the process, but not a power cut.
    pub(super) fn write_out(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer, self.end - buffer.len() as u64)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), JournalError> {
        self.medium.write(&self.file, bytes, offset).map_err(|error| self.refused("writing", error))
    }

    /// Makes everything added so far durable. After an error nothing is known: the appender must not be used again.
    pub(super) fn sync(&mut self) -> Result<(), JournalError> {
        self.write_out()?;
        self.medium.sync(&self.file).map_err(|error| self.refused("syncing", error))?;
        self.is_unsynced = false;
        if self.end >= self.segment_bytes / 2 {
            self.preparer.want(self.number + 1, self.next_segment_bytes());
        }
        Ok(())
    }

    /// Gives back what was prepared and is not used.
    pub(super) fn close(&mut self) {
        self.preparer.stop();
        let _ = self.file.set_len(self.end);
    }

    fn refused(&self, action: &'static str, error: io::Error) -> JournalError {
        disk(action, &path(&self.folder, self.number))(error)
    }
}

fn open_file(folder: &Path, number: u64) -> Result<File, JournalError> {
    let path = path(folder, number);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    file.map_err(disk("opening", &path))
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), JournalError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk("syncing", folder))
}

/// A segment, open for reading: as it was written, or what is left of it since its content was removed.
pub(super) enum Segment {
    Whole(File, u64),
    Stripped(Box<Stripped>),
}

impl Segment {
    pub(super) fn open(path: &Path, number: u64) -> io::Result<Segment> {
        let file = File::open(path)?;
        let mut magic = [0; 4];
        let read = record::fill(&file, &mut magic, 0)?;
        if read < magic.len() || magic == record::MAGIC {
            return Ok(Segment::Whole(file, number));
        }
        Ok(match Stripped::open(file, number)? {
            Ok(stripped) => Segment::Stripped(Box::new(stripped)),
            Err(file) => Segment::Whole(file, number),
        })
    }

    /// The file, for bodies.
    pub(super) fn file(&self) -> &File {
        match self {
            Segment::Whole(file, _) => file,
            Segment::Stripped(stripped) => &stripped.file,
        }
    }

    /// The record at an offset of the segment, or that was there; none when there is no sound one.
    pub(super) fn record(&self, offset: u64) -> io::Result<Option<Record>> {
        match self {
            Segment::Whole(file, number) => Record::read(file, Place { segment: *number, offset }),
            Segment::Stripped(stripped) => stripped.record(offset),
        }
    }

    /// Where the segment ends, or ended.
    pub(super) fn end(&self) -> io::Result<u64> {
        match self {
            Segment::Whole(file, _) => file.metadata().map(|metadata| metadata.len()),
            Segment::Stripped(stripped) => Ok(stripped.end()),
        }
    }
}

/// What the end of a segment says of it where its content was removed; none where it is as it was written.
pub(super) fn tail(folder: &Path, number: u64) -> Result<Option<Tail>, JournalError> {
    let path = path(folder, number);
    let read = || {
        let file = File::open(&path)?;
        let mut magic = [0; 4];
        match record::fill(&file, &mut magic, 0)? == magic.len() && magic == stripped::MAGIC {
            true => Tail::read(&file, number),
            false => Ok(None),
        }
    };
    read().map_err(disk("reading", &path))
}

/// What a refusing disk becomes.
pub(super) fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.display().to_string();
    move |error| JournalError::Disk { action, path, error: error.to_string() }
}

/// What a disk becomes that does not give back what is on it.
pub(super) fn unreadable(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.display().to_string();
    move |error| JournalError::Unreadable { action, path, error: error.to_string() }
}

/// Reads records by place.
pub(super) struct Reader {
    files: Files<Segment>,
}

impl Reader {
    pub(super) fn new(folder: &Path) -> Reader {
        let folder = folder.to_owned();
        Reader { files: Files::opened_by(OPEN_FILES, move |number| path(&folder, number), Segment::open) }
    }

    /// A segment.
    pub(super) fn segment(&self, number: u64) -> Result<Arc<Segment>, JournalError> {
        self.files.get(number).map_err(unreadable("opening", &self.files.path(number)))
    }

    /// The record at a place, with the segment for its bodies.
    pub(super) fn record(&self, place: Place) -> Result<(Record, Arc<Segment>), JournalError> {
        let damaged = JournalError::Damaged { segment: place.segment, offset: place.offset };
        let path = || self.files.path(place.segment);
        let segment = self.files.get(place.segment).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged.clone(),
            _ => unreadable("opening", &path())(error),
        })?;
        let record = segment.record(place.offset).map_err(|error| unreadable("reading", &path())(error))?;
        record.map(|record| (record, segment)).ok_or(damaged)
    }

    /// A body of a record, or what is left of it.
    pub(super) fn body(&self, record: &Record, segment: &Segment, number: usize) -> Result<Stored, JournalError> {
        let place = record.place();
        let body = record.body(segment.file(), number);
        let body = body.map_err(|error| unreadable("reading", &self.files.path(place.segment))(error))?;
        body.ok_or(JournalError::Damaged { segment: place.segment, offset: place.offset })
    }

    /// Lets go of a segment that is about to be removed or was written anew.
    pub(super) fn forget(&self, number: u64) {
        self.files.forget(number);
    }
}

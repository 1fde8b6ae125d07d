//! The segment files: `segments/00000001.log` and so on, appended to by one thread, read by place from any.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use super::JournalError;
use super::event::{Event, SegmentStart};
use super::record::{self, Kind, Place, Record};

/// A segment is full when it has grown to this.
pub(super) const SEGMENT_BYTES: u64 = 64 << 20;
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

/// The end of the journal: where the next record goes.
pub(super) struct Appender {
    folder: PathBuf,
    medium: Arc<dyn Medium>,
    /// When a segment is full; the group that fills it is still written whole.
    segment_bytes: u64,
    file: File,
    number: u64,
    /// Where the next record goes; what is in the buffer counts.
    end: u64,
    buffer: Vec<u8>,
}

impl Appender {
    /// Goes on after a sound record of the last segment, or begins the first segment of all.
    pub(super) fn open(
        folder: &Path,
        last: Option<Place>,
        sequence: u64,
        medium: Arc<dyn Medium>,
        segment_bytes: u64,
    ) -> Result<Appender, JournalError> {
        let number = last.map_or(1, |place| place.segment);
        let end = last.map_or(0, |place| place.offset);
        let file = open_file(folder, number)?;
        let mut appender =
            Appender { folder: folder.to_owned(), medium, segment_bytes, file, number, end, buffer: Vec::new() };
        if end == 0 {
            appender.begin(sequence)?;
        }
        Ok(appender)
    }

    /// The place of the next record.
    pub(super) fn end(&self) -> Place {
        Place { segment: self.number, offset: self.end }
    }

    /// Goes on in a new segment if this one is full. Only between groups: nothing may be waiting to be synced.
    pub(super) fn roll(&mut self, sequence: u64) -> Result<(), JournalError> {
        if self.end < self.segment_bytes {
            return Ok(());
        }
        self.file = open_file(&self.folder, self.number + 1)?;
        self.number += 1;
        self.end = 0;
        self.begin(sequence)
    }

    /// Makes the file and its name durable before anything in it is relied on.
    fn begin(&mut self, sequence: u64) -> Result<(), JournalError> {
        let start = Event::SegmentStart(SegmentStart { segment: self.number, created_at: Timestamp::now(), sequence });
        self.append(start.kind(), &start.to_meta(), &[])?;
        self.sync()?;
        sync_folder(&self.folder)
    }

    /// Adds a record. It is durable after the next [`Appender::sync`].
    pub(super) fn append(&mut self, kind: Kind, meta: &[u8], bodies: &[Bytes]) -> Result<Place, JournalError> {
        let place = self.end();
        self.add(&record::head(place, kind, meta, bodies))?;
        for body in bodies {
            self.add(body)?;
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
        if self.buffer.len() >= DIRECT_BYTES { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> Result<(), JournalError> {
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
        self.medium.sync(&self.file).map_err(|error| self.refused("syncing", error))
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

/// What a refusing disk becomes.
pub(super) fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.display().to_string();
    move |error| JournalError::Disk { action, path, error: error.to_string() }
}

/// Reads records by place. Keeps the files last used open.
pub(super) struct Reader {
    folder: PathBuf,
    open: Mutex<VecDeque<(u64, Arc<File>)>>,
}

impl Reader {
    pub(super) fn new(folder: &Path) -> Reader {
        Reader { folder: folder.to_owned(), open: Mutex::new(VecDeque::new()) }
    }

    /// The record at a place, with the file for its bodies.
    pub(super) fn record(&self, place: Place) -> Result<(Record, Arc<File>), JournalError> {
        let damaged = JournalError::Damaged { segment: place.segment, offset: place.offset };
        let file = self.file(place.segment).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged.clone(),
            _ => disk("opening", &path(&self.folder, place.segment))(error),
        })?;
        let record = Record::read(&file, place).map_err(disk("reading", &path(&self.folder, place.segment)))?;
        record.map(|record| (record, file)).ok_or(damaged)
    }

    /// A body of a record.
    pub(super) fn body(&self, record: &Record, file: &File, number: usize) -> Result<Bytes, JournalError> {
        let place = record.place();
        let body = record.body(file, number).map_err(disk("reading", &path(&self.folder, place.segment)))?;
        body.ok_or(JournalError::Damaged { segment: place.segment, offset: place.offset })
    }

    fn file(&self, number: u64) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(open, _)| *open == number) {
            let entry = open.remove(at).expect("the position was just found");
            let file = entry.1.clone();
            open.push_back(entry);
            return Ok(file);
        }
        let file = Arc::new(File::open(path(&self.folder, number))?);
        if open.len() == OPEN_FILES {
            open.pop_front();
        }
        open.push_back((number, file.clone()));
        Ok(file)
    }
}

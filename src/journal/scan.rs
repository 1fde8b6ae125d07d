//! Going through a segment from record to record, over whatever damage there is.

use std::fs::File;
use std::io;

use super::record::{MAGIC, Place, Record, fill};
use super::segments::Segment;
use super::stripped::Stripped;

/// Resync looks at so much at a time.
const WINDOW_BYTES: usize = 64 << 10;

/// What comes next in a segment.
pub(super) enum Found {
    /// A record with sound metadata, and whether its bodies are sound too.
    Record { record: Record, intact: bool },
    /// Bytes that are no record.
    Gap { from: u64, to: u64 },
}

impl Found {
    /// Where it ends.
    pub(super) fn end(&self) -> u64 {
        match self {
            Found::Record { record, .. } => record.end(),
            Found::Gap { to, .. } => *to,
        }
    }
}

/// A walk through one segment.
pub(super) enum Scan<'s> {
    Whole(Walk<'s>),
    /// Block by block: what was found in this one, and the number of the next.
    Stripped(&'s Stripped, std::vec::IntoIter<Found>, usize),
}

impl<'s> Scan<'s> {
    /// Starts at the beginning.
    pub(super) fn new(segment: &'s Segment) -> io::Result<Scan<'s>> {
        Ok(match segment {
            Segment::Whole(file, segment) => {
                Scan::Whole(Walk { file, segment: *segment, at: 0, end: file.metadata()?.len() })
            }
            Segment::Stripped(stripped) => Scan::Stripped(stripped, Vec::new().into_iter(), 0),
        })
    }

    /// What comes next; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        let (stripped, found, next) = match self {
            Scan::Whole(walk) => return walk.next(),
            Scan::Stripped(stripped, found, next) => (stripped, found, next),
        };
        loop {
            if let Some(found) = found.next() {
                return Ok(Some(found));
            }
            let Some(block) = stripped.block(*next)? else { return Ok(None) };
            *found = block.into_iter();
            *next += 1;
        }
    }
}

/// A walk through a segment as it was written.
pub(super) struct Walk<'f> {
    file: &'f File,
    segment: u64,
    at: u64,
    end: u64,
}

impl Walk<'_> {
    fn next(&mut self) -> io::Result<Option<Found>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let from = self.at;
        if self.is_zero_from(from)? {
            self.at = self.end;
            return Ok(None);
        }
        if let Some(record) = self.record_at(from)? {
            self.at = record.end();
            let intact = record.is_intact(self.file)?;
            return Ok(Some(Found::Record { record, intact }));
        }
        let to = self.resync(from + 1)?.unwrap_or(self.end);
        self.at = to;
        Ok(Some(Found::Gap { from, to }))
    }

    /// Whether nothing but zeros follows: what was prepared and not written.
    fn is_zero_from(&self, mut from: u64) -> io::Result<bool> {
        let mut bytes = [0; MAGIC.len()];
        if fill(self.file, &mut bytes, from)? == bytes.len() && bytes == MAGIC {
            return Ok(false);
        }
        let mut window = vec![0; WINDOW_BYTES];
        let zeros = vec![0; WINDOW_BYTES];
        while from < self.end {
            let read = fill(self.file, &mut window, from)?;
            if read == 0 || window[..read] != zeros[..read] {
                return Ok(read == 0);
            }
            from += read as u64;
        }
        Ok(true)
    }

    /// A record that lies within the segment.
    fn record_at(&self, offset: u64) -> io::Result<Option<Record>> {
        let record = Record::read(self.file, Place { segment: self.segment, offset })?;
        Ok(record.filter(|record| record.end() <= self.end))
    }

    /// The first sound record at or after an offset.
    fn resync(&self, mut from: u64) -> io::Result<Option<u64>> {
        let mut window = vec![0; WINDOW_BYTES];
        while from < self.end {
            let read = fill(self.file, &mut window, from)?;
            for at in memchr::memmem::find_iter(&window[..read], &MAGIC) {
                if self.record_at(from + at as u64)?.is_some() {
                    return Ok(Some(from + at as u64));
                }
            }
            if read < MAGIC.len() {
                break;
            }
            from += (read - (MAGIC.len() - 1)) as u64;
        }
        Ok(None)
    }
}

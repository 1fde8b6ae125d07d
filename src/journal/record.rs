//! One record of a segment, as bytes.
//!
//! ```text
//! offset  size  what
//! 0       4     magic: A7 4C 57 4A
//! 4       4     crc32 of: segment number (u64), offset of the record (u64), everything below up to the end of the metadata
//! 8       1     kind: 1 segment start, 2 arrived, 3 transformed, 4 attempted, 5 commanded, 6 carried
//! 9       1     zero
//! 10      2     number of bodies
//! 12      4     length of the metadata
//! 16      8·n   of each body: length, crc32
//! …             metadata (JSON), then the bodies, one after the other
//! ```
//!
//! Numbers are little-endian. Design constraints:
//! - The metadata can be read and trusted without its bodies: lists are made of it, and a damaged body costs no more than itself.
//! - The checksum covers the place: bytes of a body that look like a record are none, nor is a record that landed elsewhere.
//! - After damage the next record is found by its magic and proven by its checksum.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What every record begins with.
pub(super) const MAGIC: [u8; 4] = [0xA7, b'L', b'W', b'J'];
/// The part before the table of bodies.
const FIXED_BYTES: usize = 16;
/// More metadata than this is no record of ours.
const MAX_META_BYTES: usize = 16 << 20;
/// So much is read at once: most records whole.
const PEEK_BYTES: usize = 4096;
/// Bodies are checked in pieces of this size.
const CHUNK_BYTES: usize = 256 << 10;

/// Where a record begins.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

impl From<(u64, u64)> for Place {
    fn from((segment, offset): (u64, u64)) -> Place {
        Place { segment, offset }
    }
}

impl From<Place> for (u64, u64) {
    fn from(place: Place) -> (u64, u64) {
        (place.segment, place.offset)
    }
}

/// What a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    SegmentStart = 1,
    Arrived = 2,
    Transformed = 3,
    Attempted = 4,
    Commanded = 5,
    Carried = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::SegmentStart, Kind::Arrived, Kind::Transformed, Kind::Attempted, Kind::Commanded, Kind::Carried]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Whether a record can hold this.
pub(super) fn fits(meta: &[u8], bodies: &[Bytes]) -> bool {
    meta.len() <= MAX_META_BYTES
        && bodies.len() <= usize::from(u16::MAX)
        && bodies.iter().all(|body| u32::try_from(body.len()).is_ok())
}

/// Appends the bytes of a record up to its first body.
pub(super) fn head(out: &mut Vec<u8>, place: Place, kind: Kind, meta: &[u8], bodies: &[Bytes]) {
    debug_assert!(fits(meta, bodies));
    let start = out.len();
    out.reserve(FIXED_BYTES + bodies.len() * 8 + meta.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[kind as u8, 0]);
    out.extend_from_slice(&(bodies.len() as u16).to_le_bytes());
    out.extend_from_slice(&(meta.len() as u32).to_le_bytes());
    for body in bodies {
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    }
    out.extend_from_slice(meta);
    let crc = checksum(place, &out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(place: Place, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place.segment.to_le_bytes());
    hasher.update(&place.offset.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A record whose metadata was read and is sound.
pub(super) struct Record {
    pub(super) kind: Kind,
    place: Place,
    /// What was read so far, from the record's beginning.
    buffer: Vec<u8>,
    meta: Range<usize>,
    bodies: Vec<Body>,
}

struct Body {
    at: u64,
    bytes: u32,
    crc: u32,
}

impl Record {
    /// The record at a place; none when there is no sound one.
    pub(super) fn read(file: &File, place: Place) -> io::Result<Option<Record>> {
        let mut buffer = vec![0; PEEK_BYTES];
        let read = fill(file, &mut buffer, place.offset)?;
        buffer.truncate(read);
        if buffer.len() < FIXED_BYTES || buffer[..4] != MAGIC {
            return Ok(None);
        }
        let Some(kind) = Kind::from_byte(buffer[8]) else { return Ok(None) };
        let count = usize::from(u16::from_le_bytes([buffer[10], buffer[11]]));
        let meta_bytes = number(&buffer, 12) as usize;
        if meta_bytes > MAX_META_BYTES {
            return Ok(None);
        }
        let meta = FIXED_BYTES + count * 8..FIXED_BYTES + count * 8 + meta_bytes;
        if buffer.len() < meta.end {
            let had = buffer.len();
            buffer.resize(meta.end, 0);
            if fill(file, &mut buffer[had..], place.offset + had as u64)? < meta.end - had {
                return Ok(None);
            }
        }
        if checksum(place, &buffer[8..meta.end]) != number(&buffer, 4) {
            return Ok(None);
        }
        let mut at = place.offset + meta.end as u64;
        let bodies = (0..count).map(|i| {
            let body = Body { at, bytes: number(&buffer, 16 + i * 8), crc: number(&buffer, 20 + i * 8) };
            at += u64::from(body.bytes);
            body
        });
        let bodies = bodies.collect();
        Ok(Some(Record { kind, place, buffer, meta, bodies }))
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Where the next record begins.
    pub(super) fn end(&self) -> u64 {
        self.bodies.last().map_or(self.place.offset + self.meta.end as u64, |body| body.at + u64::from(body.bytes))
    }

    pub(super) fn meta(&self) -> &[u8] {
        &self.buffer[self.meta.clone()]
    }

    /// The length of a body; 0 when there is none with this number.
    pub(super) fn body_bytes(&self, number: usize) -> u64 {
        self.bodies.get(number).map_or(0, |body| u64::from(body.bytes))
    }

    /// A body; none when it is damaged or was never there.
    pub(super) fn body(&self, file: &File, number: usize) -> io::Result<Option<Bytes>> {
        let Some(body) = self.bodies.get(number) else { return Ok(None) };
        let bytes = match self.buffered(body) {
            Some(bytes) => Bytes::copy_from_slice(bytes),
            None => {
                let mut bytes = vec![0; body.bytes as usize];
                if fill(file, &mut bytes, body.at)? < bytes.len() {
                    return Ok(None);
                }
                Bytes::from(bytes)
            }
        };
        Ok((crc32fast::hash(&bytes) == body.crc).then_some(bytes))
    }

    /// Whether all bodies are sound; takes little memory however large they are.
    pub(super) fn is_intact(&self, file: &File) -> io::Result<bool> {
        for body in &self.bodies {
            let mut hasher = crc32fast::Hasher::new();
            if let Some(bytes) = self.buffered(body) {
                hasher.update(bytes);
            } else {
                let mut chunk = vec![0; CHUNK_BYTES.min(body.bytes as usize)];
                let mut done = 0;
                while done < u64::from(body.bytes) {
                    let wanted = chunk.len().min((u64::from(body.bytes) - done) as usize);
                    if fill(file, &mut chunk[..wanted], body.at + done)? < wanted {
                        return Ok(false);
                    }
                    hasher.update(&chunk[..wanted]);
                    done += wanted as u64;
                }
            }
            if hasher.finalize() != body.crc {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn buffered(&self, body: &Body) -> Option<&[u8]> {
        let from = (body.at - self.place.offset) as usize;
        self.buffer.get(from..from + body.bytes as usize)
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads until the buffer is full or the file ends; says how much it got.
pub(super) fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

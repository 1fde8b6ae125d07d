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
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::stored::{Removed, Stored};

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
    pub(super) fn from_byte(byte: u8) -> Option<Kind> {
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
    /// Where the next record begins.
    end: u64,
    /// What was read so far.
    buffer: Vec<u8>,
    /// Where the buffer begins in the file; none where it holds the metadata alone.
    buffer_at: Option<u64>,
    meta: Range<usize>,
    bodies: Vec<Body>,
    /// When bodies of it were removed.
    removed_at: Option<Timestamp>,
}

/// A body of a record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    /// It lies there in the file.
    Kept { at: u64, bytes: u32, crc: u32 },
    /// It was removed; without a hash where it was damaged by then.
    Removed { bytes: u32, sha256: Option<[u8; 32]> },
}

impl Body {
    pub(super) fn bytes(self) -> u32 {
        match self {
            Body::Kept { bytes, .. } | Body::Removed { bytes, .. } => bytes,
        }
    }
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
            let body = Body::Kept { at, bytes: number(&buffer, 16 + i * 8), crc: number(&buffer, 20 + i * 8) };
            at += u64::from(body.bytes());
            body
        });
        let bodies = bodies.collect();
        let (end, buffer_at) = (at, Some(place.offset));
        Ok(Some(Record { kind, place, end, buffer, buffer_at, meta, bodies, removed_at: None }))
    }

    /// A record of which bodies were removed, with the place and length that it had.
    pub(super) fn stripped(
        kind: Kind,
        place: Place,
        meta: Vec<u8>,
        bodies: Vec<Body>,
        removed_at: Option<Timestamp>,
    ) -> Record {
        let bytes: u64 = bodies.iter().map(|body| u64::from(body.bytes())).sum();
        let end = place.offset + (FIXED_BYTES + bodies.len() * 8 + meta.len()) as u64 + bytes;
        let range = 0..meta.len();
        Record { kind, place, end, buffer: meta, buffer_at: None, meta: range, bodies, removed_at }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Where the next record begins.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// When bodies of it were removed; none where it has them all.
    pub(super) fn removed_at(&self) -> Option<Timestamp> {
        self.removed_at
    }

    pub(super) fn bodies(&self) -> &[Body] {
        &self.bodies
    }

    pub(super) fn meta(&self) -> &[u8] {
        &self.buffer[self.meta.clone()]
    }

    /// The length of a body; 0 when there is none with this number.
    pub(super) fn body_bytes(&self, number: usize) -> u64 {
        self.bodies.get(number).map_or(0, |body| u64::from(body.bytes()))
    }

    /// When a body was removed; none where it is there, or never was.
    pub(super) fn body_removed_at(&self, number: usize) -> Option<Timestamp> {
        self.removed_at.filter(|_| matches!(self.bodies.get(number), Some(Body::Removed { .. })))
    }

    /// A body, or what is left of it; none when it is damaged or was never there.
    pub(super) fn body(&self, file: &File, number: usize) -> io::Result<Option<Stored>> {
        let (at, bytes, crc) = match self.bodies.get(number) {
            Some(Body::Kept { at, bytes, crc }) => (*at, *bytes, *crc),
            Some(Body::Removed { bytes, sha256 }) => {
                let hex = |hash: &[u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect();
                let (bytes, at) = (u64::from(*bytes), self.removed_at.unwrap_or_default());
                return Ok(Some(Stored::Removed(Removed { at, bytes, sha256: sha256.as_ref().map(hex) })));
            }
            None => return Ok(None),
        };
        let bytes = match self.buffered(at, bytes) {
            Some(bytes) => Bytes::copy_from_slice(bytes),
            None => {
                let mut buffer = vec![0; bytes as usize];
                if fill(file, &mut buffer, at)? < buffer.len() {
                    return Ok(None);
                }
                Bytes::from(buffer)
            }
        };
        Ok((crc32fast::hash(&bytes) == crc).then_some(Stored::Kept(bytes)))
    }

    /// Whether all bodies are sound, or were when they were removed; takes little memory however large they are. Of what was
    /// removed, only an arrival's own body matters: the others were known for what they were when the message came to rest.
    pub(super) fn is_intact(&self, file: &File) -> io::Result<bool> {
        for body in &self.bodies {
            let intact = match body {
                Body::Kept { crc, .. } => {
                    let mut hasher = crc32fast::Hasher::new();
                    self.go_through(file, *body, |chunk| hasher.update(chunk))? && hasher.finalize() == *crc
                }
                Body::Removed { sha256, .. } => sha256.is_some() || self.kind != Kind::Arrived,
            };
            if !intact {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The SHA-256 of a body that is there; none when it is damaged.
    pub(super) fn sha256(&self, file: &File, body: Body) -> io::Result<Option<[u8; 32]>> {
        use sha2::Digest as _;
        let Body::Kept { crc, .. } = body else { return Ok(None) };
        let (mut sum, mut hasher) = (crc32fast::Hasher::new(), sha2::Sha256::new());
        let is_whole = self.go_through(file, body, |chunk| {
            sum.update(chunk);
            hasher.update(chunk);
        })?;
        Ok((is_whole && sum.finalize() == crc).then(|| hasher.finalize().into()))
    }

    /// Gives a body that is there, piece by piece; false when the file ends before it.
    fn go_through(&self, file: &File, body: Body, mut give: impl FnMut(&[u8])) -> io::Result<bool> {
        let Body::Kept { at, bytes, .. } = body else { return Ok(false) };
        if let Some(buffered) = self.buffered(at, bytes) {
            give(buffered);
            return Ok(true);
        }
        copy(file, at, u64::from(bytes), |chunk| {
            give(chunk);
            Ok(())
        })
    }

    fn buffered(&self, at: u64, bytes: u32) -> Option<&[u8]> {
        let from = usize::try_from(at.checked_sub(self.buffer_at?)?).ok()?;
        self.buffer.get(from..from.checked_add(bytes as usize)?)
    }
}

/// Gives a stretch of a file, piece by piece; false when the file ends before it.
pub(super) fn copy(
    file: &File,
    at: u64,
    bytes: u64,
    mut give: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK_BYTES.min(bytes as usize)];
    let mut done = 0;
    while done < bytes {
        let wanted = chunk.len().min((bytes - done) as usize);
        if fill(file, &mut chunk[..wanted], at + done)? < wanted {
            return Ok(false);
        }
        give(&chunk[..wanted])?;
        done += wanted as u64;
    }
    Ok(true)
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

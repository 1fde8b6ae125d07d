//! A stripped segment: what is left of a segment when its content is removed. It takes the segment's name and place at once, by a
//! rename; from then on its records are read from here, by the places that they had.
//!
//! ```text
//! blocks, one after the other:
//! 0   4   magic: A7 4C 57 53
//! 4   4   crc32 of: segment number (u64), place of the block in the file (u64), the header from here on
//! 8   8   where its first record was in the segment
//! 16  8   where its last record ended
//! 24  4   length of its records, compressed
//! 28  4   length of its records
//! 32  4   crc32 of its records, compressed
//! 36  4   records of which bodies are kept
//! 40  8   length of those bodies
//! …       records, compressed (raw DEFLATE); then the bodies that are kept
//! a record in a block:
//! 8       where it was in the segment
//! 1       kind, as in `record.rs`; 0: bytes that were no record, up to an offset (u64), and nothing more
//! 2       number of bodies
//! 4       length of the metadata
//! 8       when bodies were removed, in milliseconds since 1970; 0: none was
//! …       of each body: length (u32), then 0: kept, its place among the block's bodies (u64), crc32; 1: removed, SHA-256;
//!         2: removed, it was damaged
//! …       metadata
//! and at the end:
//! 56·n    of each block: its place in the file (u64), its header
//! 44      "LWSTRIP1"; segment number, where the segment ended, records of which bodies are kept (u64 each); number of blocks,
//!         crc32 of the table before, crc32 of this (u32 each)
//! ```
//!
//! Numbers are little-endian. Design constraints:
//! - Places stay: nothing that refers to a record (rosters, index, other records) is touched when content is removed.
//! - Metadata is kept to the byte, in compressed blocks: a quarter of the room. A body that is kept lies there as it is.
//! - Damage costs a block, no more. Without the end of the file the blocks are found by their magic, and proven by their checksums.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use miniz_oxide::inflate::decompress_to_vec_with_limit;

use super::record::{Body, Kind, Place, Record, fill};
use super::scan::Found;

/// What every block begins with.
pub(super) const MAGIC: [u8; 4] = [0xA7, b'L', b'W', b'S'];
/// What the last part begins with.
const TAIL_MAGIC: &[u8; 8] = b"LWSTRIP1";
const HEADER_BYTES: usize = 48;
pub(super) const ROW_BYTES: usize = 8 + HEADER_BYTES;
pub(super) const TAIL_BYTES: usize = 44;
/// No block of ours has more: a record's metadata may have 16 MiB, and its table of bodies 3 MiB.
const MAX_BLOCK_BYTES: u32 = 24 << 20;
/// Resync looks at so much at a time.
const WINDOW_BYTES: usize = 64 << 10;
/// Stands for a kind: bytes that were no record when the content was removed.
pub(super) const GAP: u8 = 0;
pub(super) const KEPT: u8 = 0;
pub(super) const REMOVED: u8 = 1;
pub(super) const REMOVED_DAMAGED: u8 = 2;

/// A stripped segment, open.
pub(super) struct Stripped {
    pub(super) file: File,
    number: u64,
    pub(super) blocks: Vec<Block>,
    /// The records of the block that was read last.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

/// Where a block lies, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Its place in the file.
    pub(super) at: u64,
    /// Where its first record was in the segment.
    pub(super) first: u64,
    /// Where its last record ended.
    pub(super) end: u64,
    pub(super) compressed: u32,
    pub(super) raw: u32,
    pub(super) crc: u32,
    pub(super) kept: u32,
    pub(super) kept_bytes: u64,
}

/// What the end of a stripped segment says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) number: u64,
    /// Where the segment ended.
    pub(super) end: u64,
    /// Records of which bodies are kept.
    pub(super) kept: u64,
    pub(super) blocks: u32,
    pub(super) table_crc: u32,
}

impl Block {
    pub(super) fn header(&self, number: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&self.first.to_le_bytes());
        header[16..24].copy_from_slice(&self.end.to_le_bytes());
        let shorts = [self.compressed, self.raw, self.crc, self.kept];
        for (at, short) in shorts.into_iter().enumerate() {
            header[24 + at * 4..28 + at * 4].copy_from_slice(&short.to_le_bytes());
        }
        header[40..].copy_from_slice(&self.kept_bytes.to_le_bytes());
        let crc = checksum(number, self.at, &header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// The block that a header is about, if it is a sound one.
    fn of(header: &[u8], number: u64, at: u64) -> Option<Block> {
        let header: &[u8; HEADER_BYTES] = header.first_chunk()?;
        if header[..4] != MAGIC || short(header, 4) != checksum(number, at, &header[8..]) {
            return None;
        }
        let block = Block {
            at,
            first: long(header, 8),
            end: long(header, 16),
            compressed: short(header, 24),
            raw: short(header, 28),
            crc: short(header, 32),
            kept: short(header, 36),
            kept_bytes: long(header, 40),
        };
        (block.raw <= MAX_BLOCK_BYTES && block.first < block.end).then_some(block)
    }

    fn bodies_at(&self) -> u64 {
        self.at + HEADER_BYTES as u64 + u64::from(self.compressed)
    }

    /// Where the next block begins.
    pub(super) fn next(&self) -> u64 {
        self.bodies_at().saturating_add(self.kept_bytes)
    }
}

fn checksum(number: u64, at: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&at.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn short(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(short(bytes, at)) | u64::from(short(bytes, at + 4)) << 32
}

impl Tail {
    pub(super) fn to_bytes(self) -> [u8; TAIL_BYTES] {
        let mut bytes = [0; TAIL_BYTES];
        bytes[..8].copy_from_slice(TAIL_MAGIC);
        for (at, number) in [self.number, self.end, self.kept].into_iter().enumerate() {
            bytes[8 + at * 8..16 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[32..36].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.table_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What the end of a file says; none where it is not that of a sound stripped segment.
    pub(super) fn read(file: &File, number: u64) -> io::Result<Option<Tail>> {
        let mut bytes = [0; TAIL_BYTES];
        let Some(at) = file.metadata()?.len().checked_sub(TAIL_BYTES as u64) else { return Ok(None) };
        let read = fill(file, &mut bytes, at)?;
        if read < TAIL_BYTES || bytes[..8] != *TAIL_MAGIC || crc32fast::hash(&bytes[..40]) != short(&bytes, 40) {
            return Ok(None);
        }
        let [found, end, kept] = [8, 16, 24].map(|at| long(&bytes, at));
        let tail = Tail { number: found, end, kept, blocks: short(&bytes, 32), table_crc: short(&bytes, 36) };
        Ok((found == number).then_some(tail))
    }
}

impl Stripped {
    /// A file as a stripped segment; none where there is nothing of one in it. The file is given back then.
    pub(super) fn open(file: File, number: u64) -> io::Result<Result<Stripped, File>> {
        let blocks = match Tail::read(&file, number)? {
            Some(tail) => table(&file, &tail)?,
            None => None,
        };
        let blocks = match blocks {
            Some(blocks) => blocks,
            None => find_blocks(&file, number)?,
        };
        Ok(match blocks.is_empty() {
            true => Err(file),
            false => Ok(Stripped { file, number, blocks, last: Mutex::default() }),
        })
    }

    /// Where the segment ended.
    pub(super) fn end(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.end)
    }

    /// The record that was at an offset of the segment.
    pub(super) fn record(&self, offset: u64) -> io::Result<Option<Record>> {
        let Some(number) = self.blocks.partition_point(|block| block.first <= offset).checked_sub(1) else {
            return Ok(None);
        };
        let Some(raw) = self.raw(number)? else { return Ok(None) };
        let mut entries =
            Entries { raw: &raw, at: 0, segment: self.number, bodies_at: self.blocks[number].bodies_at() };
        Ok(entries.find_map(|found| match found {
            Found::Record { record, .. } if record.place().offset == offset => Some(record),
            _ => None,
        }))
    }

    /// The records of a block, and what is between it and the one before; none after the last.
    pub(super) fn block(&self, number: usize) -> io::Result<Option<Vec<Found>>> {
        let Some(block) = self.blocks.get(number) else { return Ok(None) };
        let before = number.checked_sub(1).map_or(0, |before| self.blocks[before].end);
        let mut found = Vec::new();
        if before < block.first {
            found.push(Found::Gap { from: before, to: block.first });
        }
        match self.raw(number)? {
            Some(raw) => {
                let entries = Entries { raw: &raw, at: 0, segment: self.number, bodies_at: block.bodies_at() };
                for entry in entries {
                    found.push(match entry {
                        Found::Record { record, .. } => {
                            let intact = record.is_intact(&self.file)?;
                            Found::Record { record, intact }
                        }
                        gap => gap,
                    });
                }
            }
            None => found.push(Found::Gap { from: block.first, to: block.end }),
        }
        Ok(Some(found))
    }

    /// A block's records as bytes; none when they are damaged.
    fn raw(&self, number: usize) -> io::Result<Option<Arc<Vec<u8>>>> {
        if let Some((last, raw)) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner)
            && *last == number
        {
            return Ok(Some(raw.clone()));
        }
        let block = &self.blocks[number];
        if block.compressed as usize > MAX_BLOCK_BYTES as usize * 2 {
            return Ok(None);
        }
        let mut compressed = vec![0; block.compressed as usize];
        let read = fill(&self.file, &mut compressed, block.at + HEADER_BYTES as u64)?;
        if read < compressed.len() || crc32fast::hash(&compressed) != block.crc {
            return Ok(None);
        }
        let Ok(raw) = decompress_to_vec_with_limit(&compressed, block.raw as usize) else { return Ok(None) };
        let raw = Arc::new(raw);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, raw.clone()));
        Ok(Some(raw))
    }
}

/// The table of blocks before the end of a file; none when it is damaged.
fn table(file: &File, tail: &Tail) -> io::Result<Option<Vec<Block>>> {
    let bytes = u64::from(tail.blocks) * ROW_BYTES as u64;
    let Some(at) = file.metadata()?.len().checked_sub(TAIL_BYTES as u64 + bytes) else { return Ok(None) };
    let mut table = vec![0; bytes as usize];
    if fill(file, &mut table, at)? < table.len() || crc32fast::hash(&table) != tail.table_crc {
        return Ok(None);
    }
    Ok(table.chunks_exact(ROW_BYTES).map(|row| Block::of(&row[8..], tail.number, long(row, 0))).collect())
}

/// Goes from block to block; over damage to the next sound header.
fn find_blocks(file: &File, number: u64) -> io::Result<Vec<Block>> {
    let end = file.metadata()?.len();
    let (mut blocks, mut at): (Vec<Block>, u64) = (Vec::new(), 0);
    let mut window = vec![0; WINDOW_BYTES];
    while at < end {
        let mut header = [0; HEADER_BYTES];
        let read = fill(file, &mut header, at)?;
        if let Some(block) = Block::of(&header[..read], number, at) {
            at = block.next();
            blocks.push(block);
            continue;
        }
        let read = fill(file, &mut window, at + 1)?;
        match memchr::memmem::find(&window[..read], &MAGIC) {
            Some(found) => at += 1 + found as u64,
            None if read < window.len() => break,
            None => at += (read - (MAGIC.len() - 1)) as u64,
        }
    }
    Ok(blocks)
}

/// The entries of a block.
struct Entries<'b> {
    raw: &'b [u8],
    at: usize,
    segment: u64,
    bodies_at: u64,
}

impl Entries<'_> {
    fn take(&mut self, bytes: usize) -> Option<&[u8]> {
        let taken = self.raw.get(self.at..self.at.checked_add(bytes)?)?;
        self.at += bytes;
        Some(taken)
    }

    fn long(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| long(bytes, 0))
    }

    fn short(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| short(bytes, 0))
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }
}

impl Iterator for Entries<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let offset = self.long()?;
        let kind = self.byte()?;
        if kind == GAP {
            let to = self.long()?;
            return Some(Found::Gap { from: offset, to });
        }
        let kind = Kind::from_byte(kind)?;
        let count = self.take(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))?;
        let meta_bytes = self.short()? as usize;
        let removed_at = self.long()? as i64;
        let mut bodies = Vec::new();
        for _ in 0..count {
            let bytes = self.short()?;
            bodies.push(match self.byte()? {
                KEPT => Body::Kept { at: self.bodies_at + self.long()?, bytes, crc: self.short()? },
                REMOVED => Body::Removed { bytes, sha256: Some(*self.take(32)?.first_chunk()?) },
                _ => Body::Removed { bytes, sha256: None },
            });
        }
        let meta = self.take(meta_bytes)?.to_vec();
        let removed_at = Timestamp::from_millisecond(removed_at).ok().filter(|_| removed_at != 0);
        let place = Place { segment: self.segment, offset };
        Some(Found::Record { record: Record::stripped(kind, place, meta, bodies, removed_at), intact: true })
    }
}

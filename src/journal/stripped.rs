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
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec_with_limit;

use super::record::{Body, Kind, Place, Record, copy, fill};
use super::scan::Found;

/// What every block begins with.
pub(super) const MAGIC: [u8; 4] = [0xA7, b'L', b'W', b'S'];
/// What the last part begins with.
const TAIL_MAGIC: &[u8; 8] = b"LWSTRIP1";
const HEADER_BYTES: usize = 48;
const ROW_BYTES: usize = 8 + HEADER_BYTES;
const TAIL_BYTES: usize = 44;
/// A block is full when its records take so much.
const BLOCK_BYTES: usize = 64 << 10;
/// No block of ours has more: a record's metadata may have 16 MiB, and its table of bodies 3 MiB.
const MAX_BLOCK_BYTES: u32 = 24 << 20;
/// How hard to compress, from 0 to 10.
const LEVEL: u8 = 6;
/// Resync looks at so much at a time.
const WINDOW_BYTES: usize = 64 << 10;
/// Stands for a kind: bytes that were no record when the content was removed.
const GAP: u8 = 0;
const KEPT: u8 = 0;
const REMOVED: u8 = 1;
const REMOVED_DAMAGED: u8 = 2;

/// A stripped segment, open.
pub(super) struct Stripped {
    pub(super) file: File,
    number: u64,
    blocks: Vec<Block>,
    /// The records of the block that was read last.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

/// Where a block lies, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    /// Its place in the file.
    at: u64,
    /// Where its first record was in the segment.
    first: u64,
    /// Where its last record ended.
    end: u64,
    compressed: u32,
    raw: u32,
    crc: u32,
    kept: u32,
    kept_bytes: u64,
}

/// What the end of a stripped segment says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    number: u64,
    /// Where the segment ended.
    pub(super) end: u64,
    /// Records of which bodies are kept.
    pub(super) kept: u64,
    blocks: u32,
    table_crc: u32,
}

impl Block {
    fn header(&self, number: u64) -> [u8; HEADER_BYTES] {
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
    fn next(&self) -> u64 {
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
    fn to_bytes(self) -> [u8; TAIL_BYTES] {
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

/// Writes a stripped segment: gets its records in their order, and what is to become of the bodies of each.
pub(super) struct Out<'f, W> {
    /// The file that the records come from.
    from: &'f File,
    out: W,
    number: u64,
    now: Timestamp,
    at: u64,
    table: Vec<u8>,
    kept: u64,
    /// The block in the making: its records, where it begins and ends, its records and bodies that are kept.
    raw: Vec<u8>,
    first: Option<u64>,
    end: u64,
    block_kept: u32,
    bodies: Vec<(u64, u32)>,
}

impl<'f, W: Write> Out<'f, W> {
    pub(super) fn new(from: &'f File, out: W, number: u64, now: Timestamp) -> Out<'f, W> {
        Out {
            from,
            out,
            number,
            now,
            at: 0,
            table: Vec::new(),
            kept: 0,
            raw: Vec::new(),
            first: None,
            end: 0,
            block_kept: 0,
            bodies: Vec::new(),
        }
    }

    /// Adds bytes that are no record, so that they go on being told as damage.
    pub(super) fn gap(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.begin(from);
        self.raw.extend(from.to_le_bytes());
        self.raw.push(GAP);
        self.raw.extend(to.to_le_bytes());
        self.ended(to)
    }

    /// Adds a record. Its bodies are removed, or those that are still there are kept.
    pub(super) fn record(&mut self, record: &Record, keeps: bool) -> io::Result<()> {
        let offset = record.place().offset;
        self.begin(offset);
        let is_there = |body: &Body| matches!(body, Body::Kept { .. });
        let removes = !keeps && record.bodies().iter().any(is_there);
        let removed_at = if removes { Some(self.now) } else { record.removed_at() };
        self.raw.extend(offset.to_le_bytes());
        self.raw.push(record.kind as u8);
        self.raw.extend((record.bodies().len() as u16).to_le_bytes());
        self.raw.extend((record.meta().len() as u32).to_le_bytes());
        self.raw.extend(removed_at.map_or(0, Timestamp::as_millisecond).to_le_bytes());
        self.block_kept += u32::from(keeps && record.bodies().iter().any(is_there));
        for body in record.bodies() {
            self.raw.extend(body.bytes().to_le_bytes());
            let sha256 = match *body {
                Body::Kept { at, bytes, crc } if keeps => {
                    let before: u64 = self.bodies.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
                    self.raw.push(KEPT);
                    self.raw.extend(before.to_le_bytes());
                    self.raw.extend(crc.to_le_bytes());
                    self.bodies.push((at, bytes));
                    continue;
                }
                Body::Kept { .. } => record.sha256(self.from, *body)?,
                Body::Removed { sha256, .. } => sha256,
            };
            self.raw.push(if sha256.is_some() { REMOVED } else { REMOVED_DAMAGED });
            self.raw.extend(sha256.iter().flatten());
        }
        self.raw.extend_from_slice(record.meta());
        self.ended(record.end())
    }

    fn begin(&mut self, offset: u64) {
        self.first.get_or_insert(offset);
    }

    fn ended(&mut self, end: u64) -> io::Result<()> {
        self.end = end;
        if self.raw.len() >= BLOCK_BYTES { self.block() } else { Ok(()) }
    }

    fn block(&mut self) -> io::Result<()> {
        let Some(first) = self.first.take() else { return Ok(()) };
        let compressed = compress_to_vec(&self.raw, LEVEL);
        let block = Block {
            at: self.at,
            first,
            end: self.end,
            compressed: compressed.len() as u32,
            raw: self.raw.len() as u32,
            crc: crc32fast::hash(&compressed),
            kept: self.block_kept,
            kept_bytes: self.bodies.iter().map(|(_, bytes)| u64::from(*bytes)).sum(),
        };
        let header = block.header(self.number);
        self.out.write_all(&header)?;
        self.out.write_all(&compressed)?;
        for (at, bytes) in std::mem::take(&mut self.bodies) {
            let out = &mut self.out;
            if !copy(self.from, at, u64::from(bytes), |chunk| out.write_all(chunk))? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.at = block.next();
        self.kept += u64::from(self.block_kept);
        self.table.extend(block.at.to_le_bytes());
        self.table.extend(header);
        self.raw.clear();
        self.block_kept = 0;
        Ok(())
    }

    /// Writes what is left, and the end. Gives how long the file is, and what its end says.
    pub(super) fn finish(mut self) -> io::Result<(W, u64, Tail)> {
        self.block()?;
        let tail = Tail {
            number: self.number,
            end: self.end,
            kept: self.kept,
            blocks: (self.table.len() / ROW_BYTES) as u32,
            table_crc: crc32fast::hash(&self.table),
        };
        self.out.write_all(&self.table)?;
        self.out.write_all(&tail.to_bytes())?;
        let bytes = self.at + (self.table.len() + TAIL_BYTES) as u64;
        Ok((self.out, bytes, tail))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;

    use super::super::record::head;
    use super::super::scan::Scan;
    use super::super::segments::Segment;
    use super::super::stored::Stored;
    use super::*;

    const NUMBER: u64 = 7;
    const NOW: &str = "2026-01-15T10:00:00Z";

    /// A segment of `count` records, each with a body of its own and one that all have, and bytes that are no record before the
    /// third. Each fifth keeps its bodies.
    fn segment(path: &Path, count: u64) -> Vec<Place> {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for n in 0..count {
            if n == 2 {
                bytes.extend_from_slice(b"no record");
            }
            let place = Place { segment: NUMBER, offset: bytes.len() as u64 };
            let bodies = [body(n), Bytes::from_static(b"the same")];
            head(&mut bytes, place, Kind::Attempted, &meta(n), &bodies);
            bodies.iter().for_each(|body| bytes.extend_from_slice(body));
            places.push(place);
        }
        std::fs::write(path, bytes).expect("written");
        places
    }

    fn body(n: u64) -> Bytes {
        Bytes::from(format!("body {n} ").repeat(n as usize % 9))
    }

    fn meta(n: u64) -> Vec<u8> {
        format!("{{\"n\":{n},\"of\":\"{}\"}}", fastrand::Rng::with_seed(n).u128(..)).into_bytes()
    }

    /// Writes what is left of one segment into another file.
    fn strip(from: &Path, to: &Path) -> Tail {
        let source = Segment::open(from, NUMBER).expect("it opens");
        let out = File::create(to).expect("made");
        let mut out = Out::new(source.file(), out, NUMBER, NOW.parse().expect("a time"));
        let mut scan = Scan::new(&source).expect("a scan");
        let mut n = 0;
        while let Some(found) = scan.next().expect("read") {
            match found {
                Found::Gap { from, to } => out.gap(from, to).expect("written"),
                Found::Record { record, .. } => {
                    out.record(&record, n % 5 == 0).expect("written");
                    n += 1;
                }
            }
        }
        let (file, bytes, tail) = out.finish().expect("written");
        assert_eq!(file.metadata().expect("metadata").len(), bytes);
        tail
    }

    /// Whether record `n` is what it was; what is read of it is right in any case.
    fn check(segment: &Segment, n: u64, place: Place) -> bool {
        let Ok(Some(record)) = segment.record(place.offset) else { return false };
        assert_eq!((record.kind, record.place(), record.meta()), (Kind::Attempted, place, &*meta(n)));
        let expected = [body(n), Bytes::from_static(b"the same")];
        (0..2).all(|number| match record.body(segment.file(), number).expect("read") {
            Some(Stored::Kept(found)) => {
                assert!(n.is_multiple_of(5) && found == expected[number], "{n}");
                true
            }
            Some(Stored::Removed(removed)) => {
                use sha2::Digest as _;
                let hash = sha2::Sha256::digest(&expected[number]);
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!((removed.bytes, removed.sha256), (expected[number].len() as u64, Some(hash)));
                assert_eq!(removed.at, NOW.parse().expect("a time"));
                !n.is_multiple_of(5)
            }
            None => false,
        })
    }

    #[test]
    fn records_are_read_by_the_places_that_they_had() {
        let folder = tempfile::tempdir().expect("a folder");
        let (whole, once, twice) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        let places = segment(&whole, 3000);
        let tail = strip(&whole, &once);
        assert_eq!((tail.end, tail.kept), (std::fs::metadata(&whole).expect("a file").len(), 600));
        assert_eq!(strip(&once, &twice), tail, "again, it is the same");
        for path in [&once, &twice] {
            let stripped = Segment::open(path, NUMBER).expect("it opens");
            let Segment::Stripped(inner) = &stripped else { panic!("it is known for what it is") };
            assert!(inner.blocks.len() > 3, "{}", inner.blocks.len());
            assert_eq!(stripped.end().expect("an end"), tail.end);
            for (n, place) in (0..).zip(&places) {
                assert!(check(&stripped, n, *place), "{n}");
                assert!(stripped.record(place.offset + 1).expect("read").is_none(), "no record begins there");
            }
            let mut scan = Scan::new(&stripped).expect("a scan");
            let (mut at, mut gaps) = (0, 0);
            while let Some(found) = scan.next().expect("read") {
                match &found {
                    Found::Gap { from, to } => {
                        assert_eq!((*from, *to), (at, at + 9));
                        gaps += 1;
                    }
                    Found::Record { record, intact } => assert!(*intact && record.place().offset == at),
                }
                at = found.end();
            }
            assert_eq!((at, gaps), (tail.end, 1), "what was damaged before is still told");
        }
        assert!(matches!(Segment::open(&once, NUMBER + 1), Ok(Segment::Whole(..))), "that of another segment is none");
    }

    #[test]
    fn damage_costs_a_block_and_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let (whole, path) = (folder.path().join("a"), folder.path().join("b"));
        let places = segment(&whole, 2000);
        strip(&whole, &path);
        let bytes = std::fs::read(&path).expect("a file");
        let mut worst = 0;
        let mut rng = fastrand::Rng::with_seed(1);
        // The magic of the first block, the end of the file, and anywhere.
        for at in [0, 5, bytes.len() - 1, bytes.len() - TAIL_BYTES - 3]
            .into_iter()
            .chain((0..60).map(|_| rng.usize(..bytes.len())))
        {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).expect("written");
            let stripped = Segment::open(&path, NUMBER).expect("it opens");
            let lost = (0..).zip(&places).filter(|(n, place)| !check(&stripped, *n, **place)).count();
            worst = worst.max(lost);
            let mut scan = Scan::new(&stripped).expect("a scan");
            let mut told = false;
            while let Some(found) = scan.next().expect("read") {
                told |= match found {
                    Found::Gap { from, to } => to - from > 9,
                    Found::Record { intact, .. } => !intact,
                };
            }
            assert_eq!(told, lost > 0, "at {at}: what is lost is told, and nothing else");
        }
        assert!((1..900).contains(&worst), "{worst}");
        // Cut anywhere, what is before is there.
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
        let stripped = Segment::open(&path, NUMBER).expect("it opens");
        let left = (0..).zip(&places).filter(|(n, place)| check(&stripped, *n, **place)).count();
        assert!((200..1800).contains(&left), "{left}");
    }
}

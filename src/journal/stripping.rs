//! Writing a stripped segment: `stripped.rs` has the format.

use std::fs::File;
use std::io::{self, Write};

use jiff::Timestamp;
use miniz_oxide::deflate::compress_to_vec;

use super::record::{Body, Record, copy};
use super::stripped::{Block, GAP, KEPT, REMOVED, REMOVED_DAMAGED, ROW_BYTES, TAIL_BYTES, Tail};

/// A block is full when its records take so much.
const BLOCK_BYTES: usize = 64 << 10;
/// How hard to compress, from 0 to 10.
const LEVEL: u8 = 6;

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

    use super::super::record::{Kind, Place, head};
    use super::super::scan::{Found, Scan};
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
        let places = segment(&whole, 1200);
        strip(&whole, &path);
        let bytes = std::fs::read(&path).expect("a file");
        let mut worst = 0;
        let mut rng = fastrand::Rng::with_seed(1);
        // The magic of the first block, the end of the file, and anywhere.
        for at in [0, 5, bytes.len() - 1, bytes.len() - TAIL_BYTES - 3]
            .into_iter()
            .chain((0..16).map(|_| rng.usize(..bytes.len())))
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
        assert!((1..500).contains(&worst), "{worst}");
        // Cut anywhere, what is before is there.
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
        let stripped = Segment::open(&path, NUMBER).expect("it opens");
        let left = (0..).zip(&places).filter(|(n, place)| check(&stripped, *n, **place)).count();
        assert!((100..1100).contains(&left), "{left}");
    }
}

//! A sealed roster: a file beside its segment, written once and never changed, from which the segment's messages are found by id, by
//! reference, by state and by key. Made again from the segment when it is damaged or lost.
//!
//! ```text
//! segments/00000017.idx
//! 8      "LWSEAL1\n"
//! 96     head: see `Head`, with a checksum of its own
//! 1028   where the postings of each first byte of a hash begin (257 × u32)
//! 16·n   ids, sorted: a message's place among them is its rank
//! 4·n+4  where each row begins among the rows, and where the last ends
//! 12·p   postings, sorted: hash of a reference or of a state (u64), rank (u32)
//! 16·k   keys, sorted: hash (u64), offset of the record in the segment (u64)
//! 8·f    offsets of the records that are about other segments' messages
//! 4·o    ranks of the messages that were not finished
//! b      bits of a Bloom filter over the hashes of keys
//! c      how many messages of each channel are in each state: JSON
//! r      rows: JSON
//! 4      crc32 of all before
//! ```
//!
//! Numbers are big-endian, so that they sort as bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bloom::Bloom;
use super::files::Files;
use super::record::{Place, fill};
use super::roster::{Entry, Roster, state_hash};
use super::row::{Row, parse, render};
use super::segments::{disk, sync_folder, unreadable};
use super::{JournalError, MessageState, folder};
use crate::message::MessageId;

const MAGIC: &[u8; 8] = b"LWSEAL1\n";
const HEAD_BYTES: usize = 96;
const FANOUT_BYTES: usize = 257 * 4;
const POSTING_BYTES: usize = 12;
const KNOWN_BYTES: usize = 16;
/// So many bytes of postings are read at once; where more have the same first byte, they are searched in place.
const BUCKET_BYTES: usize = 32 << 10;
/// Checked in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// The part of the file that is kept in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    segment: u64,
    /// Everything before this place is in the rows.
    as_of: Place,
    messages: u32,
    postings: u32,
    known: u32,
    foreign: u32,
    unfinished: u32,
    bloom_words: u32,
    counts_bytes: u32,
    /// When the newest message was received, in milliseconds since 1970.
    newest_ms: i64,
    oldest: [u8; 16],
    newest: [u8; 16],
}

/// A message as it was when its roster was sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SealedRow {
    #[serde(rename = "r")]
    pub(super) row: Row,
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) events: Vec<Place>,
}

/// A sealed roster, open.
pub(super) struct Sealed {
    path: PathBuf,
    files: Arc<Files>,
    head: Head,
    fanout: Vec<u32>,
    bloom: Bloom,
}

pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.idx"))
}

/// Writes the file whole, durably, under its name at last.
pub(super) fn write(folder: &Path, roster: &Roster, as_of: Place) -> Result<(), JournalError> {
    let path = path(folder, roster.segment);
    let new = path.with_extension("new");
    let write = || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut out = Summed { out: BufWriter::with_capacity(256 << 10, file), crc: crc32fast::Hasher::new() };
        put_all(&mut out, roster, as_of)?;
        let Summed { mut out, crc } = out;
        out.write_all(&crc.finalize().to_be_bytes())?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().map_err(disk("writing", &path))?;
    sync_folder(folder)
}

struct Summed {
    out: BufWriter<File>,
    crc: crc32fast::Hasher,
}

impl Summed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.out.write_all(bytes)
    }
}

fn put_all(out: &mut Summed, roster: &Roster, as_of: Place) -> io::Result<()> {
    let mut order: Vec<&Entry> = roster.entries().collect();
    order.sort_unstable_by_key(|entry| entry.id);
    let postings = postings(roster, &order);
    let mut known: Vec<(u64, u64)> = roster.known.iter().map(|(hash, offset)| (*hash, *offset)).collect();
    known.sort_unstable();
    let unfinished: Vec<u32> =
        (0..).zip(&order).filter(|(_, entry)| !entry.row.is_finished()).map(|(rank, _)| rank).collect();
    let counts = counts(&order);
    let bloom = Bloom::of(known.iter().map(|(hash, _)| *hash));
    let id = |entry: Option<&&Entry>| entry.map_or([0; 16], |entry| entry.id.to_bytes());
    let newest_ms = order.iter().map(|entry| entry.row.received_at.as_millisecond()).max().unwrap_or(i64::MIN);
    let head = Head {
        segment: roster.segment,
        as_of,
        messages: order.len() as u32,
        postings: postings.len() as u32,
        known: known.len() as u32,
        foreign: roster.foreign.len() as u32,
        unfinished: unfinished.len() as u32,
        bloom_words: bloom.words().len() as u32,
        counts_bytes: counts.len() as u32,
        newest_ms,
        oldest: id(order.first()),
        newest: id(order.last()),
    };
    out.put(MAGIC)?;
    out.put(&head.to_bytes())?;
    for start in fanout(&postings) {
        out.put(&start.to_be_bytes())?;
    }
    for entry in &order {
        out.put(&entry.id.to_bytes())?;
    }
    let rows: Vec<Vec<u8>> = order.iter().map(|entry| sealed_row(entry)).collect();
    let mut at = 0_u32;
    for row in &rows {
        out.put(&at.to_be_bytes())?;
        at += row.len() as u32;
    }
    out.put(&at.to_be_bytes())?;
    for (hash, rank) in &postings {
        out.put(&hash.to_be_bytes())?;
        out.put(&rank.to_be_bytes())?;
    }
    for (hash, offset) in &known {
        out.put(&hash.to_be_bytes())?;
        out.put(&offset.to_be_bytes())?;
    }
    roster.foreign.iter().try_for_each(|offset| out.put(&offset.to_be_bytes()))?;
    unfinished.iter().try_for_each(|rank| out.put(&rank.to_be_bytes()))?;
    bloom.words().iter().try_for_each(|word| out.put(&word.to_be_bytes()))?;
    out.put(&counts)?;
    rows.iter().try_for_each(|row| out.put(row))
}

fn sealed_row(entry: &Entry) -> Vec<u8> {
    render(&SealedRow { row: entry.row.clone(), events: entry.events.clone() })
}

/// How many messages of each channel are in each state.
fn counts(order: &[&Entry]) -> Vec<u8> {
    let mut counts: BTreeMap<(&str, MessageState), u64> = BTreeMap::new();
    for entry in order {
        *counts.entry((&*entry.row.channel, entry.row.state)).or_default() += 1;
    }
    let counts: Vec<_> = counts.into_iter().map(|((channel, state), count)| (channel, state, count)).collect();
    render(&counts)
}

/// References and states by rank, sorted, each once.
fn postings(roster: &Roster, order: &[&Entry]) -> Vec<(u64, u32)> {
    let ranks: HashMap<MessageId, u32> = order.iter().map(|entry| entry.id).zip(0..).collect();
    let rank = |number: u32| ranks.get(&roster.entry(number)?.id).copied();
    let references = roster.postings.iter().filter_map(|(hash, number)| Some((*hash, rank(*number)?)));
    let states = order.iter().zip(0..).map(|(entry, rank)| (state_hash(&entry.row.channel, entry.row.state), rank));
    let mut postings: Vec<(u64, u32)> = references.chain(states).collect();
    postings.sort_unstable();
    postings.dedup();
    postings
}

fn fanout(postings: &[(u64, u32)]) -> Vec<u32> {
    let start = |byte: u32| postings.partition_point(|(hash, _)| ((hash >> 56) as u32) < byte) as u32;
    (0..=256).map(start).collect()
}

impl Head {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        let longs = [self.segment, self.as_of.segment, self.as_of.offset, self.newest_ms as u64];
        longs.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
        let shorts = [
            self.messages,
            self.postings,
            self.known,
            self.foreign,
            self.unfinished,
            self.bloom_words,
            self.counts_bytes,
        ];
        shorts.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
        bytes.extend(self.oldest);
        bytes.extend(self.newest);
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Head> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let long = |at: usize| Some(u64::from_be_bytes(*body.get(at * 8..)?.first_chunk()?));
        let short = |at: usize| Some(u32::from_be_bytes(*body.get(32 + at * 4..)?.first_chunk()?));
        Some(Head {
            segment: long(0)?,
            as_of: Place { segment: long(1)?, offset: long(2)? },
            newest_ms: long(3)? as i64,
            messages: short(0)?,
            postings: short(1)?,
            known: short(2)?,
            foreign: short(3)?,
            unfinished: short(4)?,
            bloom_words: short(5)?,
            counts_bytes: short(6)?,
            oldest: *body.get(60..)?.first_chunk()?,
            newest: *body.get(76..)?.first_chunk()?,
        })
    }

    fn ids_at(&self) -> u64 {
        (MAGIC.len() + HEAD_BYTES + FANOUT_BYTES) as u64
    }

    fn starts_at(&self) -> u64 {
        self.ids_at() + u64::from(self.messages) * 16
    }

    fn postings_at(&self) -> u64 {
        self.starts_at() + u64::from(self.messages) * 4 + 4
    }

    fn known_at(&self) -> u64 {
        self.postings_at() + u64::from(self.postings) * POSTING_BYTES as u64
    }

    fn foreign_at(&self) -> u64 {
        self.known_at() + u64::from(self.known) * KNOWN_BYTES as u64
    }

    fn unfinished_at(&self) -> u64 {
        self.foreign_at() + u64::from(self.foreign) * 8
    }

    fn bloom_at(&self) -> u64 {
        self.unfinished_at() + u64::from(self.unfinished) * 4
    }

    fn counts_at(&self) -> u64 {
        self.bloom_at() + u64::from(self.bloom_words) * 8
    }

    fn rows_at(&self) -> u64 {
        self.counts_at() + u64::from(self.counts_bytes)
    }
}

impl Sealed {
    /// Opens the sealed roster of a segment; none when there is no sound one. Only its head is looked at, see
    /// [`Sealed::is_intact`].
    pub(super) fn open(segments: &Path, number: u64, files: &Arc<Files>) -> Result<Option<Sealed>, JournalError> {
        let path = path(segments, number);
        let file = match files.get(number) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk("opening", &path)(error)),
        };
        let mut start = vec![0; MAGIC.len() + HEAD_BYTES + FANOUT_BYTES];
        let read = fill(&file, &mut start, 0).map_err(disk("reading", &path))?;
        if read < start.len() || start[..MAGIC.len()] != *MAGIC {
            return Ok(None);
        }
        let Some(head) = Head::from_bytes(&start[MAGIC.len()..MAGIC.len() + HEAD_BYTES]) else { return Ok(None) };
        if head.segment != number {
            return Ok(None);
        }
        let fanout = shorts(&start[MAGIC.len() + HEAD_BYTES..]).collect();
        let mut sealed = Sealed { path, files: files.clone(), head, fanout, bloom: Bloom::default() };
        let words = sealed.read(sealed.head.bloom_at(), sealed.head.bloom_words as usize * 8)?;
        sealed.bloom = Bloom::from_words(longs(&words).collect());
        Ok(Some(sealed))
    }

    /// Whether every byte is as it was written.
    pub(super) fn is_intact(&self) -> Result<bool, JournalError> {
        let file = self.file()?;
        let bytes = file.metadata().map_err(disk("reading", &self.path))?.len();
        let Some(end) = bytes.checked_sub(4) else { return Ok(false) };
        let mut hasher = crc32fast::Hasher::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = 0;
        while at < end {
            let wanted = chunk.len().min((end - at) as usize);
            if fill(&file, &mut chunk[..wanted], at).map_err(disk("reading", &self.path))? < wanted {
                return Ok(false);
            }
            hasher.update(&chunk[..wanted]);
            at += wanted as u64;
        }
        let crc = self.read(end, 4)?;
        Ok(shorts(&crc).next() == Some(hasher.finalize()))
    }

    pub(super) fn segment(&self) -> u64 {
        self.head.segment
    }

    /// Everything before this place is in the rows.
    pub(super) fn as_of(&self) -> Place {
        self.head.as_of
    }

    pub(super) fn len(&self) -> u32 {
        self.head.messages
    }

    /// When the newest message was received, in milliseconds since 1970.
    pub(super) fn newest_ms(&self) -> i64 {
        self.head.newest_ms
    }

    /// The rank of a message.
    pub(super) fn find(&self, id: MessageId) -> Result<Option<u32>, JournalError> {
        let wanted = id.to_bytes();
        if self.head.messages == 0 || wanted < self.head.oldest || wanted > self.head.newest {
            return Ok(None);
        }
        let rank = self.first_from(wanted)?;
        Ok(if rank < self.head.messages && self.id(rank)? == id { Some(rank) } else { None })
    }

    /// The rank of the first message whose id is not smaller.
    pub(super) fn first_from(&self, id: [u8; 16]) -> Result<u32, JournalError> {
        let (mut low, mut high) = (0, self.head.messages);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.id(middle)?.to_bytes() < id { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    pub(super) fn id(&self, rank: u32) -> Result<MessageId, JournalError> {
        let bytes = self.read(self.head.ids_at() + u64::from(rank) * 16, 16)?;
        Ok(MessageId::from_bytes(*bytes.first_chunk().expect("so many were read")))
    }

    pub(super) fn row(&self, rank: u32) -> Result<SealedRow, JournalError> {
        let places = self.read(self.head.starts_at() + u64::from(rank) * 4, 8)?;
        let places: Vec<u32> = shorts(&places).collect();
        let length = places[1].checked_sub(places[0]).ok_or_else(|| self.damaged())?;
        parse(&self.read(self.head.rows_at() + u64::from(places[0]), length as usize)?)
    }

    /// The greatest rank, not above a given one, that has a reference or state.
    pub(super) fn at_or_before(&self, hash: u64, rank: u32) -> Result<Option<u32>, JournalError> {
        let byte = (hash >> 56) as usize;
        let (mut low, mut high) = (self.fanout[byte], self.fanout[byte + 1]);
        let all = (high.saturating_sub(low)) as usize * POSTING_BYTES;
        let bucket = match all <= BUCKET_BYTES {
            true => Some((low, self.read(self.head.postings_at() + u64::from(low) * POSTING_BYTES as u64, all)?)),
            false => None,
        };
        let posting = |number: u32| match &bucket {
            Some((first, bytes)) => Ok(to_posting(&bytes[(number - first) as usize * POSTING_BYTES..])),
            None => {
                let at = self.head.postings_at() + u64::from(number) * POSTING_BYTES as u64;
                self.read(at, POSTING_BYTES).map(|bytes| to_posting(&bytes))
            }
        };
        let first = low;
        while low < high {
            let middle = low + (high - low) / 2;
            if posting(middle)? <= (hash, rank) { low = middle + 1 } else { high = middle }
        }
        if low == first {
            return Ok(None);
        }
        let (found, rank) = posting(low - 1)?;
        Ok((found == hash).then_some(rank))
    }

    /// The offset of the record of an arrival with this key.
    pub(super) fn known(&self, hash: u64) -> Result<Option<u64>, JournalError> {
        if !self.bloom.may_hold(hash) {
            return Ok(None);
        }
        let (mut low, mut high) = (0, self.head.known);
        while low < high {
            let middle = low + (high - low) / 2;
            let found = self.read(self.head.known_at() + u64::from(middle) * KNOWN_BYTES as u64, KNOWN_BYTES)?;
            let mut found = longs(&found);
            match (found.next(), found.next()) {
                (Some(found), offset) if found == hash => return Ok(offset),
                (Some(found), _) if found < hash => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(None)
    }

    /// Offsets of the records in this segment that are about messages of other segments.
    pub(super) fn foreign(&self) -> Result<Vec<u64>, JournalError> {
        Ok(longs(&self.read(self.head.foreign_at(), self.head.foreign as usize * 8)?).collect())
    }

    /// The ranks of messages that were not finished when the roster was sealed.
    pub(super) fn unfinished(&self) -> Result<Vec<u32>, JournalError> {
        Ok(shorts(&self.read(self.head.unfinished_at(), self.head.unfinished as usize * 4)?).collect())
    }

    /// How many messages of each channel were in each state when the roster was sealed.
    pub(super) fn counts(&self) -> Result<Vec<(String, MessageState, u64)>, JournalError> {
        parse(&self.read(self.head.counts_at(), self.head.counts_bytes as usize)?)
    }

    fn file(&self) -> Result<Arc<File>, JournalError> {
        self.files.get(self.head.segment).map_err(unreadable("opening", &self.path))
    }

    fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, JournalError> {
        let mut buffer = vec![0; bytes];
        let read = fill(&*self.file()?, &mut buffer, at).map_err(unreadable("reading", &self.path))?;
        if read < bytes { Err(self.damaged()) } else { Ok(buffer) }
    }

    fn damaged(&self) -> JournalError {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        JournalError::Index { error: format!("{name} is damaged: `labwire journal verify` tells more") }
    }
}

/// Takes away the sealed roster of a segment, if there is one.
pub(super) fn remove(segments: &Path, number: u64) -> Result<(), JournalError> {
    folder::remove(&path(segments, number))
}

fn to_posting(bytes: &[u8]) -> (u64, u32) {
    let hash = longs(bytes).next().unwrap_or(0);
    (hash, shorts(&bytes[8..]).next().unwrap_or(0))
}

fn shorts(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|number| u32::from_be_bytes(*number))
}

fn longs(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|number| u64::from_be_bytes(*number))
}

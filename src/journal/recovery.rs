//! Opening: from what lies in the folder to a ledger that knows every record, and a sound end to append to.
//!
//! Design constraints:
//! - The index is trusted only if this very start of the machine wrote it; a power cut may have taken any part of it. It is then
//!   made again from the sealed rosters, which were synced, and from the segments that have none.
//! - Damage costs what is damaged and no more, and is told.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::JournalError;
use super::event::{Event, SegmentStart};
use super::files::Files;
use super::folder;
use super::index::Index;
use super::keys;
use super::late::Late;
use super::ledger::Ledger;
use super::record::{Place, Record};
use super::row::{parse, render};
use super::scan::{Found, Scan};
use super::sealed::{self, Sealed};
use super::segments::{self, Reader, Segment, disk};
use super::strip;
use super::stripped::Tail;
use super::writer::Shared;

/// Changes whenever the keys or rows of the index do: an index of another layout is made again.
const INDEX_LAYOUT: u32 = 3;
/// So many events are replayed before their changes to the index are made together.
const REPLAY_EVENTS: usize = 256;
/// Damage beyond this is counted, not listed.
const MAX_DAMAGE: usize = 1000;
/// So many sealed rosters are kept open for reading.
const OPEN_SEALED: usize = 256;

/// Up to where the index is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The first segment whose messages the index does not know: it is replayed.
    pub(super) replay_from: u64,
    /// Events before this place are in the index as far as they are about messages of earlier segments.
    pub(super) indexed: Place,
    /// The first sequence that was not given out before it.
    pub(super) sequence: u64,
    /// The last segment that there was.
    pub(super) last: u64,
    /// The last segment that pruning had removed.
    #[serde(default)]
    pub(super) pruned: u64,
    /// Segments that were not there when the index was made.
    pub(super) missing: Vec<u64>,
}

/// Notes, together with the changes of a group, up to where the index is complete once they are made.
pub(super) fn checkpoint(late: &mut Late<'_>, checkpoint: &Checkpoint) {
    late.put(keys::CHECKPOINT.to_vec(), render(checkpoint));
}

/// A journal ready to go on.
pub(super) struct Recovered {
    pub(super) shared: Shared,
    pub(super) sequence: u64,
    pub(super) missing: Vec<u64>,
    /// Where to append; none when there is no segment yet.
    pub(super) end: Option<Place>,
    /// Bytes in the segments before the last.
    pub(super) before: u64,
    pub(super) damage: Vec<String>,
}

/// What lies in the folder.
struct Contents {
    segments: PathBuf,
    files: Arc<Files>,
    /// The segments that hold something, in order.
    numbers: Vec<u64>,
    missing: Vec<u64>,
    pruned: u64,
    /// The segments whose content was removed, with the ends of their files.
    stripped: BTreeMap<u64, Tail>,
}

/// Makes the ledger and the index equal to the segments and cuts what was half written.
pub(super) fn recover(folder: &Path, damage: Vec<String>, window_bytes: usize) -> Result<Recovered, JournalError> {
    let mut damage = Damage { told: damage, more: 0 };
    let found = look(folder, &mut damage)?;
    let (index, trusted) = open_index(folder, &found, &mut damage)?;
    let shared = Shared::new(index, Reader::new(&found.segments), found.segments.clone(), found.files.clone());
    let Contents { pruned, missing, .. } = &found;
    let (pruned, missing) = (*pruned, missing.clone());
    let mut replay = Replay { shared: &shared, window_bytes, events: 0, sequence: 1, pruned, missing, damage };
    let from = match trusted {
        Some(trusted) => replay.trust(&found.numbers, &trusted)?,
        None => replay.adopt(&found.numbers)?,
    };
    let mut end = None;
    for number in found.numbers.iter().copied().filter(|number| *number >= from) {
        let is_last = Some(&number) == found.numbers.last();
        let sound = replay.segment(number, is_last)?;
        end = Some(Place { segment: number, offset: sound });
    }
    let all: u64 = found.numbers.iter().map(|number| length(&found.segments, *number)).sum();
    let mut before = all - found.numbers.last().map_or(0, |last| length(&found.segments, *last));
    replay.finish(end)?;
    // Nothing is appended to what is left of a segment: it was the last one only because later ones are lost.
    if let Some(Place { segment, .. }) = end
        && is_stripped(&found.segments, segment)?
    {
        (before, end) = (all, Some(Place { segment: segment + 1, offset: 0 }));
    }
    shared.found_stripped(&found.stripped);
    let Replay { sequence, missing, mut damage, .. } = replay;
    let orphans = shared.ledger().orphans;
    // Of finished messages that were pruned, later segments may still tell.
    if orphans > 0 && found.pruned == 0 {
        damage.tell(format!("{orphans} events belong to messages or deliveries whose own records are lost"));
    }
    folder::put(&stamp_path(folder), &stamp())?;
    folder::put_format(folder)?;
    Ok(Recovered { shared, sequence, missing, end, before, damage: damage.finish() })
}

/// Lists the segments; takes away what was prepared and never written.
fn look(folder: &Path, damage: &mut Damage) -> Result<Contents, JournalError> {
    let segments = folder::segments(folder);
    let pruned = folder::pruned_through(folder);
    strip::remove_unfinished(&segments)?;
    let mut numbers = segments::list(&segments)?;
    // What pruning had begun to remove.
    for number in numbers.extract_if(.., |number| *number <= pruned) {
        sealed::remove(&segments, number)?;
        folder::remove(&segments::path(&segments, number))?;
    }
    while let Some(last) = numbers.last().copied()
        && is_unwritten(&segments::path(&segments, last), last)?
    {
        folder::remove(&segments::path(&segments, last))?;
        numbers.pop();
    }
    let last = numbers.last().copied().unwrap_or(pruned);
    let missing: Vec<u64> = (pruned + 1..last).filter(|number| numbers.binary_search(number).is_err()).collect();
    for number in &missing {
        damage.tell(format!("segment {number} is missing: what it held is lost"));
        sealed::remove(&segments, *number)?;
    }
    let files = Arc::new(Files::new(OPEN_SEALED, {
        let segments = segments.clone();
        move |number| sealed::path(&segments, number)
    }));
    let mut stripped = BTreeMap::new();
    for number in &numbers {
        stripped.extend(segments::tail(&segments, *number)?.map(|tail| (*number, tail)));
    }
    Ok(Contents { segments, files, numbers, missing, pruned, stripped })
}

/// Whether a segment holds nothing but zeros.
fn is_unwritten(path: &Path, number: u64) -> Result<bool, JournalError> {
    let file = Segment::open(path, number).map_err(disk("opening", path))?;
    let mut scan = Scan::new(&file).map_err(disk("reading", path))?;
    scan.next().map(|found| found.is_none()).map_err(disk("reading", path))
}

fn is_stripped(segments: &Path, number: u64) -> Result<bool, JournalError> {
    let path = segments::path(segments, number);
    let segment = Segment::open(&path, number).map_err(disk("opening", &path))?;
    Ok(matches!(segment, Segment::Stripped(_)))
}

/// Where a segment ends, or ended before its content was removed; 0 where it is not there.
fn end_of(segments: &Path, number: u64) -> Result<u64, JournalError> {
    let path = segments::path(segments, number);
    if !path.exists() {
        return Ok(0);
    }
    if let Some(tail) = segments::tail(segments, number)? {
        return Ok(tail.end);
    }
    Segment::open(&path, number).and_then(|segment| segment.end()).map_err(disk("reading", &path))
}

fn length(segments: &Path, number: u64) -> u64 {
    std::fs::metadata(segments::path(segments, number)).map_or(0, |metadata| metadata.len())
}

/// The damage found, up to a limit.
struct Damage {
    told: Vec<String>,
    more: usize,
}

impl Damage {
    fn tell(&mut self, what: String) {
        tracing::warn!(%what, "journal damaged");
        if self.told.len() < MAX_DAMAGE {
            self.told.push(what);
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.told.push(format!("and {} more", self.more));
        }
        self.told
    }
}

/// What a trusted index says: its checkpoint, and the sealed rosters that it is about.
struct Trusted {
    checkpoint: Checkpoint,
    sealed: Vec<Arc<Sealed>>,
}

/// The index with what it says, or an empty one when what is there cannot be trusted.
fn open_index(folder: &Path, found: &Contents, damage: &mut Damage) -> Result<(Index, Option<Trusted>), JournalError> {
    let index = folder::index(folder);
    let is_of_this_boot = std::fs::read_to_string(stamp_path(folder)).is_ok_and(|found| found == stamp());
    if is_of_this_boot {
        match Index::open(&index).and_then(|index| Ok((trusted(&index, found)?, index))) {
            Ok((Ok(trusted), index)) => return Ok((index, Some(trusted))),
            // Killed while it was pruned: nothing is wrong with it, but it still counts what is gone.
            Ok((Err(Distrust::Pruned), index)) => {
                index.close();
                std::fs::remove_dir_all(folder::index(folder)).map_err(disk("removing", &folder::index(folder)))?;
                folder::make(&folder::index(folder))?;
                return Ok((Index::open(&folder::index(folder))?, None));
            }
            Ok((Err(Distrust::Because(why)), index)) => {
                index.close();
                damage.tell(format!("{why}; the index was made again from the segments"));
            }
            Err(error @ JournalError::Index { .. }) => {
                damage.tell(format!("{error}; it was made again from the segments"));
            }
            Err(error) => return Err(error),
        }
        set_aside(&index)?;
    } else if index.exists() {
        std::fs::remove_dir_all(&index).map_err(disk("removing", &index))?;
    }
    folder::make(&index)?;
    Ok((Index::open(&index)?, None))
}

/// The mark of an index that is complete up to its checkpoint: put there last, and worth nothing after a restart of the machine.
fn stamp() -> String {
    format!("{} {INDEX_LAYOUT}\n", folder::boot_id())
}

fn stamp_path(folder: &Path) -> PathBuf {
    folder::index(folder).join("boot")
}

/// Why an index is not to be trusted.
enum Distrust {
    Pruned,
    Because(String),
}

/// What an index of this boot says, or why it is not to be trusted.
fn trusted(index: &Index, found: &Contents) -> Result<Result<Trusted, Distrust>, JournalError> {
    let because = |why: String| Ok(Err(Distrust::Because(why)));
    let Some(row) = index.get(keys::CHECKPOINT)? else { return because("the index has no checkpoint".to_owned()) };
    if !index.is_whole()? {
        return because("the index has lost a part of what was written to it".to_owned());
    }
    let checkpoint: Checkpoint = parse(&row)?;
    if checkpoint.pruned != found.pruned {
        return Ok(Err(Distrust::Pruned));
    }
    let last = found.numbers.last().copied().unwrap_or(0);
    if last < checkpoint.last {
        return because(format!("segment {} is missing: what it held is lost", checkpoint.last));
    }
    let Place { segment, offset } = checkpoint.indexed;
    if checkpoint.missing != found.missing {
        return because("the index knows segments that are missing".to_owned());
    }
    let bytes = end_of(&found.segments, segment)?;
    if bytes < offset {
        return because(format!("segment {segment} ends at byte {bytes}, the index knows it up to byte {offset}"));
    }
    let mut sealed = Vec::new();
    for number in found.numbers.iter().copied().filter(|number| *number < checkpoint.replay_from) {
        match Sealed::open(&found.segments, number, &found.files)? {
            Some(roster) if is_whole(&found.segments, number)? => sealed.push(Arc::new(roster)),
            Some(_) => return because(format!("segment {number} lost its end")),
            None => return because(format!("the sealed roster of segment {number} is damaged")),
        }
    }
    Ok(Ok(Trusted { checkpoint, sealed }))
}

/// Whether a segment is as long as the one after it says.
fn is_whole(segments: &Path, number: u64) -> Result<bool, JournalError> {
    let Some(start) = start_of(segments, number + 1)? else { return Ok(true) };
    let Some(previous_end) = start.previous_end else { return Ok(true) };
    Ok(end_of(segments, number)? >= previous_end)
}

/// How a segment begins; none where that cannot be read.
fn start_of(segments: &Path, number: u64) -> Result<Option<SegmentStart>, JournalError> {
    let path = segments::path(segments, number);
    let segment = match Segment::open(&path, number) {
        Ok(segment) => segment,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk("opening", &path)(error)),
    };
    let record = segment.record(0).map_err(disk("reading", &path))?;
    match record.and_then(|record| Event::from_meta(record.kind, record.meta())) {
        Some(Event::SegmentStart(start)) => Ok(Some(start)),
        _ => Ok(None),
    }
}

fn set_aside(folder: &Path) -> Result<(), JournalError> {
    let aside = (1..).map(|number| folder.with_extension(format!("damaged-{number}"))).find(|path| !path.exists());
    let aside = aside.expect("numbers do not end");
    std::fs::rename(folder, aside).map_err(disk("moving", folder))
}

/// Seals what is frozen, and writes the index out.
pub(super) fn write_out(shared: &Shared) -> Result<(), JournalError> {
    shared.index.write_out(|| seal(shared))
}

/// Writes the files of frozen rosters. The index must not say that it knows them before.
fn seal(shared: &Shared) -> Result<(), JournalError> {
    loop {
        let Some(frozen) = shared.ledger().frozen.front().cloned() else { return Ok(()) };
        let number = frozen.roster.segment;
        sealed::write(&shared.segments, &frozen.roster, frozen.as_of)?;
        shared.sealed_files.forget(number);
        let sealed = Sealed::open(&shared.segments, number, &shared.sealed_files)?.ok_or_else(|| {
            JournalError::Index { error: format!("the sealed roster of segment {number} was written and is not sound") }
        })?;
        shared.ledger_mut().sealed(sealed);
    }
}

/// Replaying events.
struct Replay<'s> {
    shared: &'s Shared,
    window_bytes: usize,
    events: usize,
    sequence: u64,
    pruned: u64,
    missing: Vec<u64>,
    damage: Damage,
}

impl Replay<'_> {
    /// Goes on from a trusted index. Gives the first segment to be replayed.
    fn trust(&mut self, numbers: &[u64], trusted: &Trusted) -> Result<u64, JournalError> {
        let Checkpoint { replay_from, indexed, sequence, .. } = trusted.checkpoint;
        let mut ledger = self.shared.ledger_mut();
        ledger.sealed = trusted.sealed.clone();
        ledger.indexed = indexed;
        ledger.found_indexed = (replay_from, indexed);
        self.sequence = self.sequence.max(sequence);
        for number in numbers.iter().filter(|number| **number >= replay_from) {
            sealed::remove(&self.shared.segments, *number)?;
        }
        Ok(replay_from)
    }

    /// Makes the index from the sealed rosters that are sound. Gives the first segment to be replayed.
    fn adopt(&mut self, numbers: &[u64]) -> Result<u64, JournalError> {
        let shared = self.shared;
        let mut from = numbers.first().copied().unwrap_or(1);
        let mut late = Late::new(&shared.index);
        // Of the last segment it is not known whether it is whole.
        let all_but_last = &numbers[..numbers.len().saturating_sub(1)];
        let end = end_of_all(&shared.segments, numbers);
        for number in all_but_last {
            let Some(sealed) = Sealed::open(&shared.segments, *number, &shared.sealed_files)? else { break };
            // A backup may have caught a roster that knows more than the segments that were copied before it.
            let knows_too_much = sealed.as_of() > end;
            if knows_too_much || !sealed.is_intact()? || !is_whole(&shared.segments, *number)? {
                break;
            }
            shared.ledger_mut().adopt(&mut late, Arc::new(sealed))?;
            from = number + 1;
            // Without a checkpoint: whoever is killed here begins again.
            if late.commit()? {
                write_out(shared)?;
            }
        }
        for number in numbers.iter().filter(|number| **number >= from) {
            sealed::remove(&shared.segments, *number)?;
            shared.sealed_files.forget(*number);
        }
        let adopted = shared.ledger().sealed.clone();
        for sealed in adopted {
            for offset in sealed.foreign()? {
                self.foreign(&mut late, Place { segment: sealed.segment(), offset })?;
            }
            if late.commit()? {
                write_out(shared)?;
            }
        }
        Ok(from)
    }

    /// An event in a segment with a sealed roster that is about a message of another one.
    fn foreign(&mut self, late: &mut Late<'_>, place: Place) -> Result<(), JournalError> {
        let (record, file) = match self.shared.reader.record(place) {
            Ok(found) => found,
            Err(JournalError::Damaged { segment, offset }) => {
                self.damage.tell(format!("segment {segment} at byte {offset}: a record is damaged and was skipped"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let intact = record
            .is_intact(file.file())
            .map_err(disk("reading", &segments::path(&self.shared.segments, place.segment)))?;
        let Some(event) = Event::from_meta(record.kind, record.meta()) else { return Ok(()) };
        self.sequence = self.sequence.max(event.sequence_after());
        self.shared.ledger_mut().apply(late, &event, place, intact)
    }

    /// Replays one segment and says where its sound part ends. In the last one, nothing sound after something that is not
    /// means that it was half written.
    fn segment(&mut self, number: u64, is_last: bool) -> Result<u64, JournalError> {
        let path = segments::path(&self.shared.segments, number);
        let file = Segment::open(&path, number).map_err(disk("opening", &path))?;
        let mut scan = Scan::new(&file).map_err(disk("reading", &path))?;
        let mut sound = 0;
        let mut doubtful = Vec::new();
        let mut late = Late::new(&self.shared.index);
        while let Some(found) = scan.next().map_err(disk("reading", &path))? {
            if let Found::Record { record, intact: true } = &found {
                for found in doubtful.drain(..) {
                    self.found(&mut late, number, found)?;
                }
                sound = record.end();
                self.found(&mut late, number, found)?;
            } else {
                doubtful.push(found);
            }
        }
        if is_last && matches!(file, Segment::Whole(..)) {
            if !doubtful.is_empty() {
                cut(&path, sound)?;
            }
            // What was killed between a write and its sync left records that are read here and may not be on the disk. Neither a
            // sealed roster nor the answer to a message that comes again may know more than the disk does.
            file.file().sync_data().map_err(disk("syncing", &path))?;
        } else {
            let missing = self.missing_end(number, &mut doubtful, sound)?;
            for found in doubtful {
                self.found(&mut late, number, found)?;
            }
            missing.into_iter().for_each(|missing| self.damage.tell(missing));
        }
        self.make_room(&mut late, Place { segment: number, offset: sound })?;
        Ok(sound)
    }

    /// A segment that ends before its end lost what was there: said of it, or of the damage at its end.
    fn missing_end(&self, number: u64, doubtful: &mut [Found], sound: u64) -> Result<Option<String>, JournalError> {
        let end = doubtful.last().map_or(sound, Found::end);
        let start = start_of(&self.shared.segments, number + 1)?;
        let Some(expected) = start.and_then(|start| start.previous_end).filter(|expected| *expected > end) else {
            return Ok(None);
        };
        if let Some(Found::Gap { to, .. }) = doubtful.last_mut() {
            *to = expected;
            return Ok(None);
        }
        Ok(Some(format!("segment {number} at byte {end}: its last {} bytes are missing", expected - end)))
    }

    fn found(&mut self, late: &mut Late<'_>, segment: u64, found: Found) -> Result<(), JournalError> {
        match found {
            Found::Record { record, intact } => self.record(late, &record, intact),
            Found::Gap { from, to } => {
                let bytes = to - from;
                self.damage
                    .tell(format!("segment {segment} at byte {from}: {bytes} bytes are damaged and were skipped"));
                Ok(())
            }
        }
    }

    fn record(&mut self, late: &mut Late<'_>, record: &Record, intact: bool) -> Result<(), JournalError> {
        let place = record.place();
        let Some(event) = Event::from_meta(record.kind, record.meta()) else {
            self.damage.tell(format!("segment {} at byte {}: a record without meaning", place.segment, place.offset));
            return Ok(());
        };
        if !intact {
            let Place { segment, offset } = place;
            self.damage.tell(format!("segment {segment} at byte {offset}: the content of a record is damaged"));
        }
        self.sequence = self.sequence.max(event.sequence_after());
        self.shared.ledger_mut().apply(late, &event, place, intact)?;
        self.events += 1;
        if self.events.is_multiple_of(REPLAY_EVENTS) && late.commit()? {
            return self.note(late, Place { segment: place.segment, offset: record.end() });
        }
        Ok(())
    }

    /// Everything before a place was replayed: lets go of old rosters, so that the next start has less to replay.
    fn make_room(&mut self, late: &mut Late<'_>, end: Place) -> Result<(), JournalError> {
        loop {
            let mut ledger = self.shared.ledger_mut();
            if !ledger.is_to_let_go(self.window_bytes) {
                break;
            }
            ledger.freeze_oldest(late, end);
            drop(ledger);
            self.note(late, end)?;
        }
        late.commit().map(drop)
    }

    /// Writes the index out, with its checkpoint: whoever is killed during recovery must not apply the same events twice.
    fn note(&self, late: &mut Late<'_>, end: Place) -> Result<(), JournalError> {
        let mut ledger = self.shared.ledger_mut();
        ledger.indexed = ledger.indexed.max(end);
        checkpoint(late, &self.checkpoint(&ledger, end));
        drop(ledger);
        late.commit()?;
        write_out(self.shared)
    }

    fn checkpoint(&self, ledger: &Ledger, end: Place) -> Checkpoint {
        let replay_from = ledger.replay_from().unwrap_or(end.segment);
        let (indexed, sequence, last) = (ledger.indexed, self.sequence, end.segment);
        Checkpoint { replay_from, indexed, sequence, last, pruned: self.pruned, missing: self.missing.clone() }
    }

    fn finish(&mut self, end: Option<Place>) -> Result<(), JournalError> {
        self.note(&mut Late::new(&self.shared.index), end.unwrap_or_default())
    }
}

/// Takes away what was half written when the process or the machine stopped: it was never acknowledged.
fn cut(path: &Path, end: u64) -> Result<(), JournalError> {
    tracing::warn!(segment = %path.display(), at = end, "cut what was half written");
    let file = OpenOptions::new().write(true).open(path).map_err(disk("opening", path))?;
    file.set_len(end).and_then(|()| file.sync_all()).map_err(disk("cutting", path))
}

/// Where the last segment's file ends.
fn end_of_all(segments: &Path, numbers: &[u64]) -> Place {
    let segment = numbers.last().copied().unwrap_or_default();
    let offset = std::fs::metadata(segments::path(segments, segment)).map_or(0, |file| file.len());
    Place { segment, offset }
}

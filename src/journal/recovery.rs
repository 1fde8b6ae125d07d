//! Opening: from what lies in the folder to an index that knows every record, and a sound end to append to.
//!
//! Design constraints:
//! - The index is trusted only if this very start of the machine wrote it; a power cut may have taken any part of it.
//! - Damage costs what is damaged and no more, and is told.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::JournalError;
use super::event::Event;
use super::folder;
use super::index::Index;
use super::keys;
use super::ledger::{Draft, parse, render};
use super::record::{Place, Record};
use super::scan::{Found, Scan};
use super::segments::{self, disk};

/// Changes whenever the keys or rows of the index do: an index of another layout is made again.
const INDEX_LAYOUT: u32 = 2;
/// So many events are replayed before their changes are made together.
const REPLAY_EVENTS: usize = 256;
/// Damage beyond this is counted, not listed.
const MAX_DAMAGE: usize = 1000;

/// Up to where the index is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The first place that it may not know of.
    pub(super) place: Place,
    /// The first sequence that was not given out before it.
    pub(super) sequence: u64,
    /// Segments that were not there when the index was made.
    pub(super) missing: Vec<u64>,
}

/// Notes, together with the changes of a group, up to where the index is complete once they are made.
pub(super) fn checkpoint(draft: &mut Draft<'_>, checkpoint: &Checkpoint) {
    draft.put(keys::CHECKPOINT.to_vec(), render(checkpoint));
}

/// A journal ready to go on.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) checkpoint: Checkpoint,
    /// Where to append; none when there is no segment yet.
    pub(super) end: Option<Place>,
    pub(super) damage: Vec<String>,
}

/// Makes the index equal to the segments and cuts what was half written.
pub(super) fn recover(folder: &Path, damage: Vec<String>) -> Result<Recovered, JournalError> {
    let segments = folder::segments(folder);
    let numbers = segments::list(&segments)?;
    let last = numbers.last().copied();
    let missing: Vec<u64> = (1..last.unwrap_or(1)).filter(|number| numbers.binary_search(number).is_err()).collect();
    let mut damage = Damage { told: damage, more: 0 };
    for number in &missing {
        damage.tell(format!("segment {number} is missing: what it held is lost"));
    }
    let (index, trusted) = open_index(folder, &segments, &missing, last, &mut damage)?;
    let fresh = Checkpoint { place: Place { segment: 0, offset: 0 }, sequence: 1, missing };
    let checkpoint = trusted.unwrap_or(fresh);
    let mut replay = Replay { index: &index, draft: Draft::new(&index), events: 0, checkpoint, damage };
    let from = replay.checkpoint.place;
    let mut end = None;
    for number in numbers.into_iter().filter(|number| *number >= from.segment) {
        let offset = if number == from.segment { from.offset } else { 0 };
        let sound = replay.segment(&segments, Place { segment: number, offset }, Some(number) == last)?;
        end = Some(Place { segment: number, offset: sound });
    }
    if replay.draft.orphans > 0 {
        let orphans = replay.draft.orphans;
        replay.damage.tell(format!("{orphans} events belong to messages or deliveries whose own records are lost"));
    }
    let Replay { mut checkpoint, damage, mut draft, .. } = replay;
    checkpoint.place = end.unwrap_or(checkpoint.place);
    self::checkpoint(&mut draft, &checkpoint);
    draft.commit();
    index.write_out()?;
    folder::put(&stamp_path(folder), &stamp())?;
    Ok(Recovered { index, checkpoint, end, damage: damage.finish() })
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

/// The index with its checkpoint, or an empty one when what is there cannot be trusted.
fn open_index(
    folder: &Path,
    segments: &Path,
    missing: &[u64],
    last: Option<u64>,
    damage: &mut Damage,
) -> Result<(Index, Option<Checkpoint>), JournalError> {
    let index = folder::index(folder);
    if std::fs::read_to_string(stamp_path(folder)).is_ok_and(|found| found == stamp()) {
        match Index::open(&index).and_then(|index| Ok((trusted(&index, segments, missing, last)?, index))) {
            Ok((Ok(checkpoint), index)) => return Ok((index, Some(checkpoint))),
            Ok((Err(why), index)) => {
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

/// The checkpoint of an index of this boot, or why the index is not to be trusted.
fn trusted(
    index: &Index,
    segments: &Path,
    missing: &[u64],
    last: Option<u64>,
) -> Result<Result<Checkpoint, String>, JournalError> {
    let Some(row) = index.get(keys::CHECKPOINT)? else { return Ok(Err("the index has no checkpoint".to_owned())) };
    if !index.is_whole()? {
        return Ok(Err("the index has lost a part of what was written to it".to_owned()));
    }
    let checkpoint: Checkpoint = parse(&row)?;
    let Place { segment, offset } = checkpoint.place;
    if last.unwrap_or(0) < segment {
        return Ok(Err(format!("segment {segment} is missing: what it held is lost")));
    }
    if checkpoint.missing != missing {
        return Ok(Err("the index knows segments that are missing".to_owned()));
    }
    let path = segments::path(segments, segment);
    let bytes = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(disk("reading", &path)(error)),
    };
    if bytes < offset {
        return Ok(Err(format!("segment {segment} ends at byte {bytes}, the index knows it up to byte {offset}")));
    }
    Ok(Ok(checkpoint))
}

fn set_aside(folder: &Path) -> Result<(), JournalError> {
    let aside = (1..).map(|number| folder.with_extension(format!("damaged-{number}"))).find(|path| !path.exists());
    let aside = aside.expect("numbers do not end");
    std::fs::rename(folder, aside).map_err(disk("moving", folder))
}

/// Replaying events into the index.
struct Replay<'i> {
    index: &'i Index,
    draft: Draft<'i>,
    events: usize,
    checkpoint: Checkpoint,
    damage: Damage,
}

impl Replay<'_> {
    /// Replays one segment and says where its sound part ends. In the last one, nothing sound after something that is not
    /// means that it was half written.
    fn segment(&mut self, folder: &Path, start: Place, is_last: bool) -> Result<u64, JournalError> {
        let path = segments::path(folder, start.segment);
        let file = File::open(&path).map_err(disk("opening", &path))?;
        let mut scan = Scan::new(&file, start).map_err(disk("reading", &path))?;
        let mut sound = start.offset;
        let mut doubtful = Vec::new();
        while let Some(found) = scan.next().map_err(disk("reading", &path))? {
            if let Found::Record { record, intact: true } = &found {
                for found in doubtful.drain(..) {
                    self.found(start.segment, found)?;
                }
                sound = record.end();
                self.found(start.segment, found)?;
            } else {
                doubtful.push(found);
            }
        }
        if is_last && !doubtful.is_empty() {
            cut(&path, sound)?;
            return Ok(sound);
        }
        for found in doubtful {
            self.found(start.segment, found)?;
        }
        Ok(sound)
    }

    fn found(&mut self, segment: u64, found: Found) -> Result<(), JournalError> {
        match found {
            Found::Record { record, intact } => self.record(&record, intact),
            Found::Gap { from, to } => {
                let bytes = to - from;
                self.damage
                    .tell(format!("segment {segment} at byte {from}: {bytes} bytes are damaged and were skipped"));
                Ok(())
            }
        }
    }

    fn record(&mut self, record: &Record, intact: bool) -> Result<(), JournalError> {
        let place = record.place();
        let Some(event) = Event::from_meta(record.kind, record.meta()) else {
            self.damage.tell(format!("segment {} at byte {}: a record without meaning", place.segment, place.offset));
            return Ok(());
        };
        if !intact {
            let Place { segment, offset } = place;
            self.damage.tell(format!("segment {segment} at byte {offset}: the content of a record is damaged"));
        }
        self.checkpoint.sequence = self.checkpoint.sequence.max(event.sequence_after());
        self.draft.apply(&event, place, intact)?;
        self.events += 1;
        if !self.events.is_multiple_of(REPLAY_EVENTS) {
            return Ok(());
        }
        // With its checkpoint: whoever is killed during recovery must not apply the same events a second time.
        self.checkpoint.place = Place { segment: place.segment, offset: record.end() };
        checkpoint(&mut self.draft, &self.checkpoint);
        if self.draft.commit() { self.index.write_out() } else { Ok(()) }
    }
}

/// Takes away what was half written when the process or the machine stopped: it was never acknowledged.
fn cut(path: &Path, end: u64) -> Result<(), JournalError> {
    tracing::warn!(segment = %path.display(), at = end, "cut what was half written");
    let file = OpenOptions::new().write(true).open(path).map_err(disk("opening", path))?;
    file.set_len(end).and_then(|()| file.sync_all()).map_err(disk("cutting", path))
}

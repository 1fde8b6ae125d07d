//! Looks at every byte of a journal, and copies journals: `labwire journal verify`, `backup` and `restore`.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::event::Event;
use super::files::Files;
use super::prune::blocking;
use super::record::Place;
use super::scan::{Found, Scan};
use super::sealed::{self, Sealed};
use super::segments::{self, Segment, disk, sync_folder};
use super::{JournalError, folder};

/// Files of a journal that are copied beside its segments.
const PLAIN_FILES: [&str; 2] = ["format", "pruned"];

/// What a look at every byte of a journal found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Segments.
    pub segments: u64,
    /// Segments of these whose content was removed.
    #[serde(default)]
    pub stripped_segments: u64,
    /// Sound records in them.
    pub records: u64,
    /// Messages that arrived in them.
    pub messages: u64,
    /// Bytes of sound records, also of what was removed from them.
    pub bytes: u64,
    /// Places that are damaged.
    pub damage: u64,
}

/// What a backup or its restoration copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Segments.
    pub segments: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Looks at every record of the journal in a folder, without changing anything: the checksums of metadata and contents, the ends
/// of segments, the sealed rosters. Damage is told as it is found. May run beside an engine that works on the folder; what is
/// written meanwhile may be missed.
pub fn verify(folder: &Path, tell: &mut dyn FnMut(&str)) -> Result<Verified, JournalError> {
    folder::check_readable(folder)?;
    let segments = folder::segments(folder);
    let pruned = folder::pruned_through(folder);
    let numbers: Vec<u64> = segments::list(&segments)?.into_iter().filter(|number| *number > pruned).collect();
    let files = Arc::new(Files::new(1, {
        let segments = segments.clone();
        move |number| sealed::path(&segments, number)
    }));
    let mut verified = Verified::default();
    let mut told = |what: String, verified: &mut Verified| {
        verified.damage += 1;
        tell(&what);
    };
    let known: BTreeSet<u64> = numbers.iter().copied().collect();
    for missing in (pruned + 1..numbers.last().copied().unwrap_or(0)).filter(|number| !known.contains(number)) {
        told(format!("segment {missing} is missing: what it held is lost"), &mut verified);
    }
    let mut previous: Option<(u64, u64)> = None;
    for number in &numbers {
        let walked = walk(&segments, *number, Some(number) == numbers.last(), &mut verified, &mut told)?;
        if let Some((before, end)) = previous.filter(|(before, _)| before + 1 == *number)
            && let Some(expected) = walked.previous_end.filter(|expected| *expected > end)
        {
            let what = format!("segment {before} at byte {end}: its last {} bytes are missing", expected - end);
            told(what, &mut verified);
        }
        previous = Some((*number, walked.end));
        match Sealed::open(&segments, *number, &files)? {
            Some(sealed) if !sealed.is_intact()? => {
                told(format!("segment {number}: its sealed roster is damaged; it is made again"), &mut verified);
            }
            None if sealed::path(&segments, *number).exists() => {
                told(format!("segment {number}: its sealed roster is damaged; it is made again"), &mut verified);
            }
            _ => {}
        }
    }
    Ok(verified)
}

/// What a walk through a segment found beside damage.
struct Walked {
    /// Where the segment before this one should have ended.
    previous_end: Option<u64>,
    /// Where the last record, or the damage after it, ends.
    end: u64,
}

fn walk(
    segments: &Path,
    number: u64,
    is_last: bool,
    verified: &mut Verified,
    told: &mut dyn FnMut(String, &mut Verified),
) -> Result<Walked, JournalError> {
    let path = segments::path(segments, number);
    let file = Segment::open(&path, number).map_err(disk("opening", &path))?;
    let mut scan = Scan::new(&file).map_err(disk("reading", &path))?;
    verified.stripped_segments += u64::from(matches!(file, Segment::Stripped(_)));
    let mut walked = Walked { previous_end: None, end: 0 };
    verified.segments += 1;
    let mut doubtful: Vec<String> = Vec::new();
    while let Some(found) = scan.next().map_err(disk("reading", &path))? {
        let end = found.end();
        match found {
            Found::Record { record, intact } => {
                doubtful.drain(..).for_each(|what| told(what, verified));
                verified.records += 1;
                verified.bytes += record.end() - record.place().offset;
                match Event::from_meta(record.kind, record.meta()) {
                    Some(Event::SegmentStart(start)) => walked.previous_end = start.previous_end,
                    Some(Event::Transformed(outcome)) => verified.messages += outcome.parts.len() as u64,
                    Some(Event::Arrived(arrived)) => verified.messages += arrived.recipients.len() as u64,
                    Some(_) => {}
                    None => told(
                        format!("segment {number} at byte {}: a record without meaning", record.place().offset),
                        verified,
                    ),
                }
                if !intact {
                    let what = format!(
                        "segment {number} at byte {}: the content of a record is damaged",
                        record.place().offset
                    );
                    told(what, verified);
                }
            }
            Found::Gap { from, to } => {
                doubtful.push(format!("segment {number} at byte {from}: {} bytes are damaged", to - from));
            }
        }
        walked.end = end;
    }
    // At the end of the last segment it is what was being written when the process or the machine stopped.
    if !is_last {
        doubtful.into_iter().for_each(|what| told(what, verified));
    }
    Ok(walked)
}

impl Disk {
    /// Copies everything that is on disk by now into a new folder, while work goes on.
    pub(super) async fn back_up(&self, to: &Path) -> Result<Backup, JournalError> {
        // Nothing is pruned meanwhile.
        let _alone = self.maintenance.lock().await;
        let end = *self.shared.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (from, to) = (self.folder.clone(), to.to_owned());
        blocking(move || copy_journal(&from, &to, Some(end))).await
    }
}

/// Copies a backup into a folder that is to become a journal's. The folder must not be there, or be empty.
pub fn restore(from: &Path, to: &Path) -> Result<Backup, JournalError> {
    folder::check_readable(from)?;
    copy_journal(from, to, None)
}

/// Copies a journal up to a place; all of it where none is given.
fn copy_journal(from: &Path, to: &Path, end: Option<Place>) -> Result<Backup, JournalError> {
    folder::make(to)?;
    let is_empty = std::fs::read_dir(to).map_err(disk("listing", to))?.next().is_none();
    if !is_empty {
        let error = "it is not empty: name a folder that is not there yet".to_owned();
        return Err(JournalError::Folder { folder: to.display().to_string(), error });
    }
    let (source, target) = (folder::segments(from), folder::segments(to));
    folder::make(&target)?;
    let mut backup = Backup::default();
    for name in PLAIN_FILES {
        if from.join(name).exists() {
            copy_file(&from.join(name), &to.join(name), u64::MAX)?;
        }
    }
    for number in segments::list(&source)? {
        let limit = match end {
            Some(end) if number > end.segment => break,
            Some(end) if number == end.segment => end.offset,
            _ => u64::MAX,
        };
        backup.bytes += copy_file(&segments::path(&source, number), &segments::path(&target, number), limit)?;
        backup.segments += 1;
        let roster = sealed::path(&source, number);
        if roster.exists() {
            backup.bytes += copy_file(&roster, &sealed::path(&target, number), u64::MAX)?;
        }
    }
    sync_folder(&target)?;
    sync_folder(to)?;
    Ok(backup)
}

fn copy_file(from: &Path, to: &Path, limit: u64) -> Result<u64, JournalError> {
    let source = File::open(from).map_err(disk("opening", from))?;
    let copy = || {
        let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let copied = io::copy(&mut source.take(limit), &mut target)?;
        target.sync_all()?;
        Ok(copied)
    };
    copy().map_err(disk("writing", to))
}

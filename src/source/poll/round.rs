//! One poll: the folder is listed, what is complete is chosen, and captured. Blocking.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Rules;
use super::capture::Work;
use super::folder::{Facts, Fault, Folder, Kind, Lost, Name};
use super::ledger::{Known, Ledger, PathKey};
use super::options::{After, Sort};
use crate::journal::Room;
use crate::source::Intake;

/// Folders deeper than this are not searched.
const MAX_DEPTH: usize = 16;
/// Files that could not be moved are tried again after so long, and twice as long each time.
const RETRY_LEFT: Duration = Duration::from_secs(5);
/// But after so long at the latest.
const RETRY_LEFT_AT_MOST: Duration = Duration::from_secs(600);

/// A file that may be captured.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) name: Name,
    pub(super) key: PathKey,
    pub(super) facts: Facts,
}

/// By what comes first.
struct Ranked((u64, PathBuf), Candidate);

impl Ranked {
    fn new(candidate: Candidate, sort: Sort) -> Ranked {
        let rank = match sort {
            Sort::Name => 0,
            Sort::Size => candidate.facts.size,
            // As an unsigned number in the same order.
            Sort::Modified => candidate.facts.modified.cast_unsigned() ^ (1 << 63),
        };
        Ranked((rank, candidate.path.clone()), candidate)
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// A file that was seen, and is not complete as far as is known.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    facts: Facts,
    since: Instant,
    /// When a poll counted last.
    counted: Instant,
    polls: u32,
}

/// How a poll ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Everything that was there is captured, or was seen often enough.
    Done,
    /// Files are there that may be complete when they are looked at again.
    Unsettled,
    /// The journal has no room: files are left where they are.
    NoRoom,
    /// It was told to stop.
    Stopped,
}

/// What a listing brought forth.
struct Listing {
    /// The first by what comes first, up to `max_files`.
    candidates: BinaryHeap<Ranked>,
    /// Files that are in the ledger and lie there all the same.
    known: Vec<(Candidate, Known)>,
    folders: Vec<(PathBuf, usize)>,
    seen: u32,
    /// Whether there are more candidates than that.
    has_more: bool,
    /// Whether everything that is there was looked at.
    is_whole: bool,
    /// Names that are none.
    bad_names: u64,
    /// Folders that could not be listed.
    closed_folders: u64,
}

/// What is kept from poll to poll.
pub(super) struct Round {
    pub(super) folder: Box<dyn Folder>,
    pub(super) rules: Rules,
    ledger: Option<Ledger>,
    sightings: HashMap<PathKey, Sighting>,
    notes: Notes,
    /// When files that could not be moved are tried again, and after how long the time after that.
    retry_left: (Instant, Duration),
}

/// What was said in the log last, so that it is not said at every poll.
#[derive(Default)]
pub(super) struct Notes(BTreeMap<&'static str, u64>);

impl Notes {
    /// Whether it is news that so many of these were found.
    pub(super) fn is_news(&mut self, what: &'static str, count: u64) -> bool {
        let before =
            if count == 0 { self.0.remove(what).unwrap_or(0) } else { self.0.insert(what, count).unwrap_or(0) };
        count > 0 && count != before
    }
}

impl Round {
    pub(super) fn new(folder: Box<dyn Folder>, rules: Rules) -> Round {
        let retry_left = (Instant::now(), RETRY_LEFT);
        let (sightings, notes) = (HashMap::new(), Notes::default());
        Round { folder, rules, ledger: None, sightings, notes, retry_left }
    }

    /// Polls once.
    pub(super) fn run(&mut self, intake: &Intake, runtime: &Handle, stop: &CancellationToken) -> Result<Ended, Lost> {
        if intake.room() != Room::Enough {
            return Ok(Ended::NoRoom);
        }
        let mut ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => self.open_ledger(intake)?,
        };
        self.folder.open()?;
        let listing = self.list(&mut ledger, stop)?;
        if stop.is_cancelled() {
            return Ok(Ended::Stopped);
        }
        self.note_listing(intake, &listing);
        let ledger_failed = |error: super::ledger::LedgerError| Lost::new(error.to_string());
        if listing.is_whole {
            ledger.end_listing(Timestamp::now()).map_err(ledger_failed)?;
        }
        let Listing { candidates, known, has_more, .. } = listing;
        let (ready, mut is_unsettled) = self.choose(candidates);
        is_unsettled |= has_more;
        let mut work = Work {
            folder: &mut *self.folder,
            rules: &self.rules,
            ledger: &mut ledger,
            intake,
            runtime,
            stop,
            notes: &mut self.notes,
            changed: Vec::new(),
            left: None,
        };
        let mut ended = work.capture(ready)?;
        if ended == Ended::Done && !known.is_empty() {
            let (due, after) = self.retry_left;
            if Instant::now() >= due {
                let is_done = work.finish_left(known)?;
                let after = if is_done { RETRY_LEFT } else { (after * 2).min(RETRY_LEFT_AT_MOST) };
                self.retry_left = (Instant::now() + after, after);
            }
        }
        for key in std::mem::take(&mut work.changed) {
            is_unsettled = true;
            self.sightings.remove(&key);
        }
        if ended == Ended::Done && is_unsettled {
            ended = Ended::Unsettled;
        }
        self.ledger = Some(ledger);
        Ok(ended)
    }

    fn open_ledger(&self, intake: &Intake) -> Result<Ledger, Lost> {
        let data = intake.data_folder().ok_or_else(|| Lost::new("the journal has no folder to keep a ledger in"))?;
        let window = self.rules.options.duplicate_window.0.map(|window| window.get());
        Ledger::open(data, intake.channel(), window).map_err(|error| Lost::new(error.to_string()))
    }

    fn list(&mut self, ledger: &mut Ledger, stop: &CancellationToken) -> Result<Listing, Lost> {
        let mut listing = Listing {
            candidates: BinaryHeap::new(),
            known: Vec::new(),
            folders: vec![(PathBuf::new(), 0)],
            seen: 0,
            has_more: false,
            is_whole: true,
            bad_names: 0,
            closed_folders: 0,
        };
        ledger.begin_listing();
        let rules = self.rules.clone();
        while let Some((path, depth)) = listing.folders.pop() {
            let listed = self.folder.list(&path, &mut |name, kind| {
                if listing.seen >= rules.options.max_listing || stop.is_cancelled() {
                    listing.is_whole = false;
                    return ControlFlow::Break(());
                }
                listing.seen += 1;
                match name {
                    Some(name) => listing.take(&rules, ledger, &path, depth, name, kind),
                    None => listing.bad_names += 1,
                }
                ControlFlow::Continue(())
            });
            match listed {
                Ok(()) => {}
                Err(Fault::Lost(lost)) => return Err(lost),
                Err(Fault::Missing | Fault::Exists) if depth > 0 => {}
                Err(Fault::Refused(_)) if depth > 0 => {
                    listing.closed_folders += 1;
                    listing.is_whole = false;
                }
                Err(Fault::Missing | Fault::Exists) => return Err(Lost::new("the folder is gone")),
                Err(Fault::Refused(reason)) => return Err(Lost::new(format!("the folder cannot be listed: {reason}"))),
            }
            if listing.seen >= rules.options.max_listing {
                break;
            }
        }
        Ok(listing)
    }

    /// Those that are complete, in order; and whether others may be complete soon.
    fn choose(&mut self, candidates: BinaryHeap<Ranked>) -> (Vec<Candidate>, bool) {
        let (now, wall) = (Instant::now(), Timestamp::now().as_nanosecond());
        // A poll that comes a little early counts.
        let spacing = self.rules.spacing() * 3 / 4;
        let (needed, min_age) = (self.rules.unchanged_polls(), self.rules.min_age());
        let mut sightings = HashMap::with_capacity(candidates.len());
        let mut ready = Vec::new();
        let mut is_unsettled = false;
        for Ranked(_, candidate) in candidates.into_sorted_vec() {
            let first = Sighting { facts: candidate.facts, since: now, counted: now, polls: 1 };
            let earlier = self.sightings.get(&candidate.key).filter(|earlier| earlier.facts == candidate.facts);
            let sighting = match earlier {
                Some(earlier) if now - earlier.counted >= spacing => {
                    Sighting { counted: now, polls: earlier.polls.saturating_add(1), ..*earlier }
                }
                Some(earlier) => *earlier,
                None => first,
            };
            sightings.insert(candidate.key, sighting);
            // By the file's own clock, or by ours: theirs may be wrong by hours.
            let age = wall - i128::from(candidate.facts.modified);
            let is_old = age >= min_age.as_nanos().cast_signed() || now - sighting.since >= min_age;
            if sighting.polls >= needed && is_old {
                ready.push(candidate);
            } else {
                is_unsettled = true;
            }
        }
        self.sightings = sightings;
        (ready, is_unsettled)
    }

    fn note_listing(&mut self, intake: &Intake, listing: &Listing) {
        let channel = intake.channel();
        if self.notes.is_news("bad_names", listing.bad_names) {
            warn!(
                channel,
                files = listing.bad_names,
                "files whose names no file should have (control characters, `/`, more than 255 bytes) are left alone"
            );
        }
        if self.notes.is_news("closed_folders", listing.closed_folders) {
            warn!(channel, folders = listing.closed_folders, "folders below cannot be listed: permission denied?");
        }
        let is_long = listing.seen >= self.rules.options.max_listing;
        if self.notes.is_news("long", u64::from(is_long)) {
            warn!(
                channel,
                names = listing.seen,
                "the folder holds more names than `max_listing`; those after the first are not seen until these are gone"
            );
        }
    }
}

impl Listing {
    fn take(&mut self, rules: &Rules, ledger: &mut Ledger, folder: &Path, depth: usize, name: Name, kind: Kind) {
        let options = &rules.options;
        let text = name.text();
        match kind {
            Kind::Folder => {
                let afters = [&options.after, &options.on_error, &options.on_duplicate];
                let is_own = depth == 0 && afters.iter().any(|after| after.own_folder() == Some(&*text));
                if options.recursive && depth < MAX_DEPTH && !text.starts_with('.') && !is_own {
                    self.folders.push((folder.join(name.as_path()), depth + 1));
                }
            }
            Kind::File(facts) => {
                let path = folder.join(name.as_path());
                let key = PathKey::of(rules.host.as_deref().unwrap_or_default(), &path);
                ledger.listed(key);
                let is_marker = options.done_file.as_ref().is_some_and(|marker| marker.is(&text));
                let is_meant = options.files.has(&text) && !options.ignore.has(&text) && !is_marker;
                if !is_meant || facts.size < options.min_size.bytes() as u64 {
                    return;
                }
                drop(text);
                let candidate = Candidate { path, name, key, facts };
                let most = options.max_files as usize;
                match ledger.known(key, facts, |outcome| matches!(options.rule_for(outcome), After::Keep)) {
                    Some(known) if self.known.len() < most => self.known.push((candidate, known)),
                    Some(_) => {}
                    None => {
                        self.candidates.push(Ranked::new(candidate, options.sort));
                        if self.candidates.len() > most {
                            self.candidates.pop();
                            self.has_more = true;
                        }
                    }
                }
            }
            Kind::Other => {}
        }
    }
}

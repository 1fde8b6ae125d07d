//! When a source acts by itself: every so often, or by a cron expression, within hours of the day.
//!
//! Design constraints:
//! - Times are those of the wall clock, because partners agree on them; what waits sleeps by the monotonic clock, and looks at the
//!   wall clock again after [`LOOK_EVERY`] at the latest, so that a clock that was set is noticed.
//! - However many times went by unnoticed (a slow poll, a clock that was put forward, a machine that slept), they are made up for by
//!   one.
//! - A clock that was put back does not silence a source: it goes by the new time at once. Only times of day that a cron expression
//!   names one by one do not come a second time for that, unless the clock was wrong by more than [`CORRECTION`] (the rule of
//!   Debian's cron).
//! - In summer and winter: a named time of day that the clock leaves out comes as soon as it goes on, one that it shows twice comes
//!   once. An interval (`*/5`, `8-18`) goes by the hours as they are.

mod cron;
mod window;

use std::time::Duration as StdDuration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use toml::Spanned;

use self::cron::Cron;
use self::window::Window;
use crate::config::{Duration, Table, report, schema_generator};
use crate::diagnostic::did_you_mean;

/// The wall clock is looked at again after so long at the latest.
const LOOK_EVERY: StdDuration = StdDuration::from_secs(5);
/// A clock that goes back by no more than this is kept right, not set.
const JITTER: SignedDuration = SignedDuration::from_secs(5);
/// A clock that was put back by more than this was wrong: what came by it does not count.
const CORRECTION: SignedDuration = SignedDuration::from_hours(3);
/// Shorter intervals are refused: they are mistakes.
const SHORTEST: Duration = Duration::from_millis(100);
/// So many times outside of `between` are gone through for one within: 13 years of days.
const MAX_SKIPPED: usize = 5_000;

/// The keys of a source's table about when it acts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// Acts every so often, as in "30s". At least "100ms".
    #[schemars(with = "Option<Duration>")]
    every: Option<Spanned<Duration>>,
    /// Acts by a cron expression: minute, hour, day of the month, month, day of the week, as in "*/5 * * * *" or "30 6 * * mon-fri";
    /// six fields begin with the second.
    #[schemars(with = "Option<String>")]
    cron: Option<Spanned<Cron>>,
    /// The time zone of `cron` and `between`, as in "Europe/Vienna" (UTC if not given).
    #[schemars(with = "Option<String>")]
    time_zone: Option<Spanned<String>>,
    /// Acts only within these times, as in ["mon-fri 07:00-18:00", "sat 08:00-12:00"]. The end is no longer within; one that is
    /// before its beginning is on the next day. Without days, on every day.
    #[schemars(with = "Option<Vec<Window>>")]
    between: Option<Spanned<Vec<Window>>>,
}

/// When a source acts.
#[derive(Debug, Clone)]
pub struct Schedule {
    rhythm: Rhythm,
    zone: TimeZone,
    /// None: always.
    between: Vec<Window>,
}

#[derive(Debug, Clone)]
enum Rhythm {
    Every(SignedDuration),
    Cron(Cron),
}

impl Schedule {
    /// The keys that are read here, for "did you mean" in the rest of the source's table.
    pub const KEYS: &[&str] = &["every", "cron", "time_zone", "between"];

    /// Takes the keys out of a source's table. Without `every` and `cron` it is every `otherwise`; where there is none, one of them
    /// must be given.
    pub fn take(table: &mut Table<'_>, otherwise: Option<Duration>) -> Option<Schedule> {
        let (name, span) = (table.name().to_owned(), table.span());
        let keys: Keys = table.split_off(Schedule::KEYS).read()?;
        let rhythm = match (keys.every, &keys.cron) {
            (Some(every), Some(_)) => {
                let help = "keep one of them; hours of the day for an interval are `between`".to_owned();
                report(every.span(), "both `every` and `cron`", "it is either the one or the other", Some(help));
                return None;
            }
            (Some(every), None) => {
                if *every.get_ref() < SHORTEST {
                    let help = format!("{SHORTEST} or more, as in \"30s\"");
                    report(every.span(), format!("`every` is less than {SHORTEST}"), "", Some(help));
                }
                Rhythm::every((*every.get_ref()).max(SHORTEST))
            }
            (None, Some(cron)) => Rhythm::Cron(cron.get_ref().clone()),
            (None, None) => match otherwise {
                Some(every) => Rhythm::every(every),
                None => {
                    let help = "write `every = \"15m\"`, or `cron = \"0 6 * * mon-fri\"`".to_owned();
                    report(span, format!("{name} says nothing of when"), "", Some(help));
                    return None;
                }
            },
        };
        if let Some(zone) = keys.time_zone.as_ref().filter(|_| keys.cron.is_none() && keys.between.is_none()) {
            let label = "an interval is as long everywhere";
            let help = "leave it out, or add the hours: `between = [\"07:00-18:00\"]`".to_owned();
            report(zone.span(), "`time_zone` without `cron` or `between`", label, Some(help));
        }
        let between = keys.between.as_ref().map(|between| between.get_ref().clone()).unwrap_or_default();
        if let Some(none) = keys.between.as_ref().filter(|between| between.get_ref().is_empty()) {
            let help = "leave the key out: then it is at all times".to_owned();
            report(none.span(), "`between` is empty", "it would never act", Some(help));
            return None;
        }
        let zone = keys.time_zone.as_ref().map_or(TimeZone::UTC, time_zone);
        let schedule = Schedule { rhythm, zone, between };
        if schedule.after(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH).is_none() {
            let place = keys.cron.map(|cron| cron.span()).or(keys.between.map(|between| between.span()));
            let help = "there is no day, or no hour within `between`, on which all of it is so".to_owned();
            report(place.unwrap_or(span), "this never comes", "", Some(help));
            return None;
        }
        Some(schedule)
    }

    /// A source's JSON Schema with the keys that are read here.
    pub fn add_to(mut schema: Schema) -> Schema {
        let keys = schema_generator().into_root_schema_for::<Keys>();
        let more = keys.get("properties").and_then(|keys| keys.as_object()).cloned().unwrap_or_default();
        let object = schema.ensure_object();
        let properties = object.entry("properties").or_insert_with(|| serde_json::json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.extend(more);
        }
        schema
    }

    /// The times from now on, as the clock on the wall has them: for a source whose times are known to others. An interval has the
    /// same times after every restart, those that are a multiple of it after midnight of 1 January 1970, UTC.
    pub fn ticks(&self) -> Ticks {
        Ticks { course: Course::new(self.clone(), Timestamp::now(), Timestamp::UNIX_EPOCH), is_first: false }
    }

    /// The times from now on for a source that looks for something: an interval begins at once, if that is within `between`.
    pub fn polls(&self) -> Ticks {
        let now = Timestamp::now();
        let is_first = matches!(self.rhythm, Rhythm::Every(_)) && self.is_within(now);
        Ticks { course: Course::new(self.clone(), now, now), is_first }
    }

    /// The last time before `now`, as [`Schedule::ticks`] has them, though not before `since`.
    pub fn last_before(&self, now: Timestamp, since: Timestamp) -> Option<Timestamp> {
        // Backwards by longer and longer strides, until one holds a time; then forwards to the last in it.
        let mut stride = match self.rhythm {
            Rhythm::Every(every) => every,
            Rhythm::Cron(_) => SignedDuration::from_mins(1),
        };
        let mut from = now;
        let mut last = None;
        while last.is_none() && from > since {
            from = now.saturating_sub(stride).unwrap_or(Timestamp::MIN).max(since);
            last = self.after(from, Timestamp::UNIX_EPOCH).filter(|time| *time < now);
            stride = stride.saturating_mul(2);
        }
        while let Some(next) = last.and_then(|last| self.after(last, Timestamp::UNIX_EPOCH)).filter(|time| *time < now)
        {
            last = Some(next);
        }
        last
    }

    /// How often it is, where it is an interval.
    pub fn interval(&self) -> Option<StdDuration> {
        match self.rhythm {
            Rhythm::Every(every) => StdDuration::try_from(every).ok(),
            Rhythm::Cron(_) => None,
        }
    }

    /// Whether a time is within the hours that are given.
    pub fn is_within(&self, time: Timestamp) -> bool {
        let local = self.zone.to_datetime(time);
        self.between.is_empty() || self.between.iter().any(|window| window.holds(local))
    }

    /// The first time after this one; none where there is none for years. Intervals are counted from `origin`.
    fn after(&self, time: Timestamp, origin: Timestamp) -> Option<Timestamp> {
        let mut next = self.rhythm.after(time, origin, &self.zone)?;
        for _ in 0..MAX_SKIPPED {
            if self.is_within(next) {
                return Some(next);
            }
            let opens = self.between.iter().filter_map(|window| window.opens_after(next, &self.zone)).min()?;
            let just_before = opens.checked_sub(SignedDuration::from_nanos(1)).ok()?;
            next = self.rhythm.after(just_before, origin, &self.zone)?;
        }
        None
    }
}

fn time_zone(name: &Spanned<String>) -> TimeZone {
    TimeZone::get(name.get_ref()).unwrap_or_else(|_| {
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        let near = did_you_mean(name.get_ref(), known.iter().map(String::as_str));
        let label = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
        let help = "a name of the time zone database, as in \"Europe/Vienna\" or \"UTC\"".to_owned();
        report(name.span(), format!("no time zone is called `{}`", name.get_ref()), label, Some(help));
        TimeZone::UTC
    })
}

impl Rhythm {
    fn every(every: Duration) -> Rhythm {
        Rhythm::Every(SignedDuration::try_from(every.get()).unwrap_or(SignedDuration::MAX))
    }

    fn after(&self, time: Timestamp, origin: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Rhythm::Every(every) => {
                let every = every.as_millis().max(1);
                let passed = time.duration_since(origin).as_nanos().div_euclid(1_000_000);
                let next = (passed.div_euclid(every) + 1).checked_mul(every)?;
                origin.checked_add(SignedDuration::from_millis(i64::try_from(next).ok()?)).ok()
            }
            Rhythm::Cron(cron) => cron.after(time, zone),
        }
    }

    /// Whether its times are times of day that were named one by one.
    fn is_of_day(&self) -> bool {
        matches!(self, Rhythm::Cron(cron) if cron.is_of_day())
    }
}

/// One of a schedule's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The time, as the schedule has it: now, or a little earlier.
    pub at: Timestamp,
    /// The clock was put back, and this time, or a later one, came before.
    pub again: bool,
}

/// A schedule's times from now on.
#[derive(Debug)]
pub struct Ticks {
    course: Course,
    is_first: bool,
}

impl Ticks {
    /// Waits for the next time. What came while nobody waited is one. Cancel-safe.
    pub async fn next(&mut self) -> Tick {
        if std::mem::take(&mut self.is_first) {
            return self.course.tick(self.course.origin);
        }
        loop {
            match self.course.look(Timestamp::now()) {
                Ok(tick) => return tick,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }
}

/// How far a schedule has come. Pure.
#[derive(Debug)]
struct Course {
    schedule: Schedule,
    origin: Timestamp,
    /// What was due up to here is done with.
    done: Timestamp,
    /// The latest time that came.
    latest: Option<Timestamp>,
}

impl Course {
    fn new(schedule: Schedule, now: Timestamp, origin: Timestamp) -> Course {
        Course { schedule, origin, done: now, latest: None }
    }

    /// What is due by a clock that shows `now`, or for how long nothing will be.
    fn look(&mut self, now: Timestamp) -> Result<Tick, StdDuration> {
        let back = self.done.duration_since(now);
        let unnoticed = if self.schedule.rhythm.is_of_day() { CORRECTION } else { JITTER };
        if back > unnoticed {
            self.done = now;
        }
        let Some(next) = self.schedule.after(self.done, self.origin) else { return Err(LOOK_EVERY) };
        if next <= now {
            self.done = now;
            return Ok(self.tick(next));
        }
        self.done = self.done.max(now);
        let wait = StdDuration::try_from(next.duration_since(now)).unwrap_or(LOOK_EVERY);
        Err(wait.min(LOOK_EVERY))
    }

    fn tick(&mut self, at: Timestamp) -> Tick {
        let again = self.latest.is_some_and(|latest| at <= latest);
        self.latest = self.latest.max(Some(at));
        Tick { at, again }
    }
}

#[cfg(test)]
mod tests;

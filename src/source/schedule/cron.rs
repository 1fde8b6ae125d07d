//! Cron expressions over jiff's time zones.

use std::cmp::Ordering;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use serde::{Deserialize, Deserializer};

use crate::config::parsed;

/// A cron expression. Where it names times of day one by one (`0 6,18 * * *`), each is an expression of its own: only so each
/// of them is treated as a time of day when the clock changes.
#[derive(Debug, Clone)]
pub(super) struct Cron {
    parts: Vec<croner::Cron>,
    is_of_day: bool,
}

/// More times of day than this that are named one by one are an interval.
const MAX_TIMES: usize = 96;

impl Cron {
    pub(super) fn parse(text: &str) -> Result<Cron, (String, String)> {
        let help = "five fields, as in \"*/5 * * * *\" (every five minutes) or \"30 6 * * mon-fri\" (at 06:30 from Monday to \
                    Friday), or six that begin with the second";
        let wrong = |why: &str| (format!("`{text}` is not a cron expression: {why}"), help.to_owned());
        let fields: Vec<&str> = text.split_whitespace().collect();
        if !matches!(fields.len(), 5 | 6) {
            return Err(wrong(&format!("it has {} fields", fields.len())));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let parse = |text: &str| parser.parse(text).map_err(|error| wrong(&said(&error)));
        let whole = parse(text)?;
        let times = times_of_day(&fields);
        let parts = times.iter().map(|time| parse(time)).collect::<Result<Vec<_>, _>>()?;
        Ok(if parts.is_empty() {
            Cron { parts: vec![whole], is_of_day: false }
        } else {
            Cron { parts, is_of_day: true }
        })
    }

    /// Whether its times of day are named one by one.
    pub(super) fn is_of_day(&self) -> bool {
        self.is_of_day
    }

    /// The first time after this one; none where there is none.
    pub(super) fn after(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = Local(time.to_zoned_datetime(zone.clone()));
        let next = |cron: &croner::Cron| cron.find_next_occurrence(&start, false).ok();
        self.parts.iter().filter_map(next).map(|Local(next)| next.timestamp()).min()
    }
}

/// An expression for each time of day, where all are named one by one; none otherwise.
fn times_of_day(fields: &[&str]) -> Vec<String> {
    let (clock, date) = fields.split_at(fields.len() - 3);
    let is_named = |field: &&str| field.split(',').all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    if !clock.iter().all(is_named) {
        return Vec::new();
    }
    let mut times = vec![String::new()];
    for field in clock {
        times = times.iter().flat_map(|time| field.split(',').map(move |part| format!("{time}{part} "))).collect();
        if times.len() > MAX_TIMES {
            return Vec::new();
        }
    }
    times.iter().map(|time| format!("{time}{}", date.join(" "))).collect()
}

/// What the crate says, as a part of a sentence.
fn said(error: &CronError) -> String {
    let text = match error {
        CronError::InvalidPattern(text) | CronError::IllegalCharacters(text) | CronError::ComponentError(text) => text,
        other => &other.to_string(),
    };
    let text = text.trim_end_matches('.');
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

impl<'de> Deserialize<'de> for Cron {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cron, D::Error> {
        let stand_in = Cron::parse("* * * * *").expect("every minute");
        parsed(deserializer, stand_in, Cron::parse)
    }
}

/// A moment and its time zone, as the crate wants to see it.
#[derive(Clone)]
struct Local(ZonedDateTime);

fn whole(number: u32) -> Result<i8, CronError> {
    i8::try_from(number).map_err(|_| CronError::InvalidTime)
}

fn part(number: i8) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

impl CronDateTime for Local {
    fn to_civil(&self) -> CivilDateTime {
        let local = self.0.datetime();
        // Jiff keeps every part in its range.
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(i32::from(local.year()), part(local.month()), part(local.day())),
            CivilTime::from_parts_unchecked(part(local.hour()), part(local.minute()), part(local.second())),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(part(self.0.weekday().to_sunday_zero_offset()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Local>, CronError> {
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let (month, day) = (whole(civil.month())?, whole(civil.day())?);
        let (hour, minute, second) = (whole(civil.hour())?, whole(civil.minute())?, whole(civil.second())?);
        let local = DateTime::new(year, month, day, hour, minute, second, 0).map_err(|_| CronError::InvalidDate)?;
        let found = self.0.time_zone().to_ambiguous_zoned_datetime(local);
        let read = |zoned: Result<ZonedDateTime, jiff::Error>| zoned.map(Local).map_err(|_| CronError::InvalidTime);
        Ok(match found.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(read(found.unambiguous())?),
            AmbiguousOffset::Fold { .. } => Resolution::Ambiguous(read(found.clone().earlier())?, read(found.later())?),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Local> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Local)
    }

    fn cmp_instant(&self, other: &Local) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

//! Hours of the day in which a source acts: `"mon-fri 07:00-18:00"`.

use std::borrow::Cow;

use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::config::parsed;

/// From a time of day to another on some days of the week. One that ends before it begins ends on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// On which days it begins, from Monday.
    days: [bool; 7],
    from: Time,
    /// Not within any more; none: the end of the day.
    to: Option<Time>,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Window {
    pub(super) fn parse(text: &str) -> Result<Window, (String, String)> {
        let help = || "as in \"07:00-18:00\" or \"mon-fri 07:00-18:00\" or \"sat,sun 22:00-06:00\"".to_owned();
        let wrong = |why: String| (format!("`{text}` is not a part of the day: {why}"), help());
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, times) = match *words.as_slice() {
            [times] => ([true; 7], times),
            [days, times] => (read_days(days).map_err(wrong)?, times),
            _ => return Err(wrong("write days and times with one space between".to_owned())),
        };
        let (from, to) = times.split_once('-').ok_or_else(|| wrong("it has no end".to_owned()))?;
        let read = |time| read_time(time).ok_or_else(|| wrong(format!("`{time}` is no time of day")));
        let from = read(from)?;
        let to = if to == "24:00" { None } else { Some(read(to)?) };
        if to == Some(from) {
            return Err(wrong("it ends when it begins; a whole day is \"00:00-24:00\"".to_owned()));
        }
        Ok(Window { days, from, to })
    }

    /// Whether it holds a local time.
    pub(super) fn holds(&self, local: DateTime) -> bool {
        let (day, time) = (local.weekday(), local.time());
        let begins = |day: Weekday| self.days[usize::from(day.to_monday_zero_offset().unsigned_abs())];
        match self.to {
            None => begins(day) && time >= self.from,
            Some(to) if self.from < to => begins(day) && time >= self.from && time < to,
            Some(to) => (begins(day) && time >= self.from) || (begins(day.previous()) && time < to),
        }
    }

    /// The next moment after this one at which it opens.
    pub(super) fn opens_after(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let today = zone.to_datetime(time).date();
        (0..=8).find_map(|days| {
            let date = today.checked_add(i64::from(days).days()).ok()?;
            let opens = zone.to_timestamp(date.to_datetime(self.from)).ok()?;
            let is_its_day = self.days[usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())];
            Some(opens).filter(|opens| is_its_day && *opens > time)
        })
    }
}

fn read_days(text: &str) -> Result<[bool; 7], String> {
    let read = |word: &str| {
        let word = word.to_ascii_lowercase();
        DAYS.iter().position(|day| *day == word).ok_or_else(|| format!("`{word}` is none of {}", DAYS.join(", ")))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (read(first)?, read(last)?);
        days[last] = true;
        // Around the end of the week, too: fri-mon.
        while day != last {
            days[day] = true;
            day = (day + 1) % 7;
        }
    }
    Ok(days)
}

fn read_time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let is_short = |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_short(hour) || minute.len() != 2 || !is_short(minute) {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Window, D::Error> {
        let stand_in = Window { days: [true; 7], from: Time::midnight(), to: None };
        parsed(deserializer, stand_in, Window::parse)
    }
}

impl JsonSchema for Window {
    fn schema_name() -> Cow<'static, str> {
        "Window".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A part of the day: \"mon-fri 07:00-18:00\"." })
    }
}

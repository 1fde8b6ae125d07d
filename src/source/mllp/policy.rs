//! What a channel file says of messages that are well-formed and still suspicious. Pure.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::judge::Judged;
use crate::config::{Duration, time_limit};
use crate::hl7::Header;

/// What becomes of an HL7 acknowledgement that comes in as a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Acknowledgements {
    /// It is kept as rejected, for people to see.
    #[default]
    Reject,
    /// It goes on to the channel's steps, like any message.
    Process,
}

/// When a message is too old to be believed, and what becomes of it then.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stale {
    /// A message whose MSH-7 lies further back than this is stale, as one that is recorded and played again later. A time without
    /// an offset counts as the latest that it can mean; a message without a time is not stale.
    #[serde(deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    older_than: Duration,
    /// "flag": it is taken, marked `stale_timestamp` and counted. "reject": it is answered AR and not processed.
    #[serde(default)]
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Then {
    #[default]
    Flag,
    Reject,
}

/// Both.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Policy {
    pub(super) acknowledgements: Acknowledgements,
    pub(super) stale: Option<Stale>,
}

impl Policy {
    /// The same message, rejected where it is not to be processed; and whether it is stale. A batch is what one of its messages is.
    pub(super) fn judge(&self, judged: Judged, received_at: Timestamp) -> (Judged, bool) {
        if judged.rejection().is_some() {
            return (judged, false);
        }
        if self.acknowledgements == Acknowledgements::Reject && judged.headers().any(Header::is_ack) {
            let reason = "it is an acknowledgement, and `acknowledgements` does not say that they are processed";
            return (judged.rejected(reason.to_owned()), false);
        }
        match self.stale {
            Some(stale) if judged.headers().any(|header| stale.holds(header.field(7), received_at)) => match stale.then
            {
                Then::Flag => (judged, true),
                Then::Reject => (judged.rejected(format!("MSH-7 is {stale}")), true),
            },
            _ => (judged, false),
        }
    }
}

impl Stale {
    fn holds(&self, field: &[u8], received_at: Timestamp) -> bool {
        let age = SignedDuration::try_from(self.older_than.get()).unwrap_or(SignedDuration::MAX);
        std::str::from_utf8(field).ok().and_then(latest).is_some_and(|at| received_at.duration_since(at) > age)
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "older than {}", self.older_than)
    }
}

/// The latest moment that an HL7 time can mean: `YYYY[MM[DD[HH[MM[SS[.S]]]]]][+/-ZZZZ]` (HL7 v2.5.1 §2.A.22). None where it is no
/// time.
fn latest(text: &str) -> Option<Timestamp> {
    let text = text.split('^').next()?.trim();
    let (time, offset) = match text.find(['+', '-']) {
        Some(at) => (&text[..at], offset(&text[at..])?),
        // Nowhere on earth is it earlier.
        None => (text, Offset::from_hours(-12).ok()?),
    };
    let whole = time.split('.').next()?;
    if !whole.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(whole.len(), 4 | 6 | 8 | 10 | 12 | 14) {
        return None;
    }
    let part = |at: usize, default: i8| whole.get(at..at + 2).map_or(Some(default), |digits| digits.parse().ok());
    let start =
        DateTime::new(whole[..4].parse().ok()?, part(4, 1)?, part(6, 1)?, part(8, 0)?, part(10, 0)?, part(12, 0)?, 0);
    let precision = match whole.len() {
        4 => 1.year(),
        6 => 1.month(),
        8 => 1.day(),
        10 => 1.hour(),
        12 => 1.minute(),
        _ => 1.second(),
    };
    let end = start.ok()?.checked_add(precision).ok()?;
    TimeZone::fixed(offset).to_timestamp(end).ok()
}

fn offset(text: &str) -> Option<Offset> {
    let digits =
        text.get(1..).filter(|digits| digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (hours, minutes): (i32, i32) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    let seconds = (hours * 60 + minutes) * 60;
    Offset::from_seconds(if text.starts_with('-') { -seconds } else { seconds }).ok()
}

#[cfg(test)]
mod tests {
    use super::super::judge::judge;
    use super::*;
    use crate::hl7::Limits;

    #[test]
    fn the_latest_moment_that_a_time_can_mean() {
        for (text, expected) in [
            ("20260115103000+0000", Some("2026-01-15T10:30:01Z")),
            ("20260115103000.123+0100", Some("2026-01-15T09:30:01Z")),
            ("202601151030-0530", Some("2026-01-15T16:01:00Z")),
            ("2026011510+0000^S", Some("2026-01-15T11:00:00Z")),
            ("20260115", Some("2026-01-16T12:00:00Z")),
            ("202612+0000", Some("2027-01-01T00:00:00Z")),
            ("2026", Some("2027-01-01T12:00:00Z")),
            ("20260115235959", Some("2026-01-16T12:00:00Z")),
            ("", None),
            ("202", None),
            ("2026-01-15T10:30:00Z", None),
            ("20261301", None),
            ("20260115103000+01", None),
            ("20260115103000+9999", None),
            ("99991231", None),
            ("２０２６", None),
        ] {
            assert_eq!(latest(text).map(|at| at.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_batch_is_what_one_of_its_messages_is() {
        let now = "2026-01-15T11:00:00Z".parse().expect("a time");
        let of = |then, acknowledgements| {
            let stale = Stale { older_than: Duration::from_secs(3600), then };
            Policy { acknowledgements, stale: Some(stale) }
        };
        let message = |time: &str, kind: &str| format!("MSH|^~\\&|A|B|C|D|{time}||{kind}|1|P|2.5\r");
        let (new, old) = (message("20260115105000+0000", "ORU^R01"), message("20260115095000+0000", "ORU^R01"));
        let ack = message("20260115105000+0000", "ACK");
        let (flag, reject) = (of(Then::Flag, Acknowledgements::Reject), of(Then::Reject, Acknowledgements::Process));
        for (policy, messages, rejected, stale) in [
            (flag, [&new, &new], false, false),
            (flag, [&new, &old], false, true),
            (reject, [&new, &old], true, true),
            (flag, [&new, &ack], true, false),
            (reject, [&new, &ack], false, false),
        ] {
            let batch = format!("BHS|^~\\&|A\r{}{}BTS|2\r", messages[0], messages[1]);
            let judged = judge(&bytes::Bytes::from(batch), &Limits::default());
            let (judged, is_stale) = policy.judge(judged, now);
            assert_eq!((judged.rejection().is_some(), is_stale), (rejected, stale), "{messages:?}");
            assert_eq!(judged.body().is_none(), rejected, "what is rejected is not processed");
        }
    }

    #[test]
    fn a_day_is_over_when_it_is_over_everywhere() {
        let stale = Stale { older_than: Duration::from_secs(3600), then: Then::Flag };
        let at = |text: &str| text.parse().expect("a time");
        assert!(!stale.holds(b"20260115", at("2026-01-16T13:00:00Z")));
        assert!(stale.holds(b"20260115", at("2026-01-16T13:00:01Z")));
        assert!(!stale.holds(b"20260115103000+0000", at("2026-01-15T11:30:01Z")));
        assert!(stale.holds(b"20260115103000+0000", at("2026-01-15T11:30:02Z")));
        assert!(!stale.holds(b"", at("2026-01-15T11:30:02Z")) && !stale.holds(b"\xff", at("2026-01-15T11:30:02Z")));
    }
}

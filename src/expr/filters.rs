//! The filters and functions that Labwire adds to Jinja's.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime, fmt::strtime};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use sha2::Digest as _;

use super::scope::{TABLES, TablesValue};

/// An error of a filter of ours: its text names no content, so it may be shown.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct FilterError(pub(super) String);

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Error {
        Error::new(ErrorKind::InvalidOperation, "filter").with_source(error)
    }
}

pub(super) fn register(environment: &mut Environment<'static>) {
    environment.add_filter("hl7_ts", hl7_ts);
    environment.add_filter("date", date);
    environment.add_filter("lookup", lookup);
    environment.add_filter("pad", pad);
    environment.add_filter("digits", digits);
    environment.add_filter("base64", base64);
    environment.add_filter("base64_decode", base64_decode);
    environment.add_filter("sha256", sha256);
    environment.add_filter("tojson", tojson);
    environment.add_filter("safe", safe);
    environment.add_function("now", now);
    environment.add_function("ulid", ulid);
}

fn fail(message: impl Into<String>) -> Error {
    FilterError(message.into()).into()
}

/// A point in time as people write it: RFC 3339, a date, or HL7 (HL7 v2.5.1 §2.A.22: `YYYY[MM[DD[HH[MM[SS[.S]]]]]][+/-ZZZZ]`).
enum Time {
    Zoned(ZonedDateTime),
    Local(DateTime),
    Day(Date),
}

fn parse_time(text: &str) -> Result<Time, Error> {
    let problem =
        || fail("not a time: RFC 3339 (2026-01-15T10:30:00Z), a date (2026-01-15) or an HL7 time is expected");
    if text.contains('-') && text.get(4..5) == Some("-") {
        if let Ok(instant) = text.parse::<Timestamp>() {
            let offset = jiff::fmt::temporal::Pieces::parse(text).ok().and_then(|pieces| pieces.to_numeric_offset());
            let zone = offset.map_or(TimeZone::UTC, TimeZone::fixed);
            return Ok(Time::Zoned(instant.to_zoned_datetime(zone)));
        }
        if text.len() <= 10 {
            return text.parse::<Date>().map(Time::Day).map_err(|_| problem());
        }
        return text.parse::<DateTime>().map(Time::Local).map_err(|_| problem());
    }
    parse_hl7_time(text).ok_or_else(problem)
}

fn parse_hl7_time(text: &str) -> Option<Time> {
    let (local, offset) = match text.find(['+', '-']) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    };
    let whole = local.split('.').next()?;
    if !whole.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(whole.len(), 4 | 6 | 8 | 10 | 12 | 14) {
        return None;
    }
    let part = |from: usize, default: i8| match whole.get(from..from + 2) {
        Some(digits) => digits.parse::<i8>().ok(),
        None => Some(default),
    };
    let date = Date::new(whole[..4].parse().ok()?, part(4, 1)?, part(6, 1)?).ok()?;
    if whole.len() <= 8 {
        return Some(Time::Day(date));
    }
    let time = DateTime::new(date.year(), date.month(), date.day(), part(8, 0)?, part(10, 0)?, part(12, 0)?, 0).ok()?;
    match offset {
        None => Some(Time::Local(time)),
        Some(offset) => {
            let digits = offset.get(1..5).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
            let minutes = digits[..2].parse::<i32>().ok()? * 60 + digits[2..].parse::<i32>().ok()?;
            let seconds = if offset.starts_with('-') { -minutes * 60 } else { minutes * 60 };
            let zone = TimeZone::fixed(jiff::tz::Offset::from_seconds(seconds).ok()?);
            time.to_zoned_datetime(zone).ok().map(Time::Zoned)
        }
    }
}

fn in_zone(time: Time, zone: Option<&str>) -> Result<Time, Error> {
    let Some(name) = zone else { return Ok(time) };
    let zone = TimeZone::get(name).map_err(|_| fail(format!("no time zone is called `{name}`")))?;
    match time {
        Time::Zoned(zoned) => Ok(Time::Zoned(zoned.with_time_zone(zone))),
        Time::Local(local) => {
            local.to_zoned_datetime(zone).map(Time::Zoned).map_err(|_| fail("this time does not exist in that zone"))
        }
        day @ Time::Day(_) => Ok(day),
    }
}

fn text_of(value: &Value) -> Result<String, Error> {
    if value.is_undefined() || value.is_none() {
        return Err(ErrorKind::UndefinedError.into());
    }
    check_text(value)?;
    Ok(value.to_string())
}

/// Bytes are text only where they are UTF-8: what is not would be put out with other characters in its place.
pub(super) fn check_text(value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Bytes && value.as_bytes().is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) {
        return Err(fail("bytes that are not UTF-8 cannot be put out as text; `| base64` writes any"));
    }
    Ok(())
}

/// What a value holds, as bytes: of text, its UTF-8.
pub(super) fn bytes_of(value: &Value) -> Result<Vec<u8>, Error> {
    match value.as_bytes() {
        Some(bytes) if value.kind() == ValueKind::Bytes => Ok(bytes.to_vec()),
        _ => text_of(value).map(String::into_bytes),
    }
}

/// `base64`: bytes or text as RFC 4648 writes them, in one line.
fn base64(value: &Value) -> Result<String, Error> {
    bytes_of(value).map(|bytes| STANDARD.encode(bytes))
}

/// `base64_decode`: the bytes that a text stands for. Blanks and line breaks between are passed over, also those that HL7 writes
/// as `\.br\`; the `=` at the end may be missing.
fn base64_decode(value: &Value) -> Result<Value, Error> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = text_of(value)?.replace("\\.br\\", "");
    let text: String = text.split_whitespace().collect();
    let bytes = LENIENT.decode(text).map_err(|_| fail("this is not base64"))?;
    Ok(Value::from_bytes(bytes))
}

/// `hl7_ts`: a time as HL7 writes it, with its offset where it has one; `hl7_ts('Europe/Budapest')` in that zone. A date stays a
/// date. Nothing stays nothing.
fn hl7_ts(value: &Value, zone: Option<&str>) -> Result<String, Error> {
    let text = text_of(value)?;
    if text.is_empty() {
        return Ok(text);
    }
    let (format, time) = match in_zone(parse_time(&text)?, zone)? {
        Time::Zoned(zoned) => ("%Y%m%d%H%M%S%z", strtime::BrokenDownTime::from(&zoned)),
        Time::Local(local) => ("%Y%m%d%H%M%S", strtime::BrokenDownTime::from(local)),
        Time::Day(day) => ("%Y%m%d", strtime::BrokenDownTime::from(day)),
    };
    time.to_string(format).map_err(|_| fail("this time cannot be written as HL7"))
}

/// `date('%Y-%m-%d')`, `date('%H:%M', 'Europe/Budapest')`: a time by strftime's letters.
fn date(value: &Value, format: &str, zone: Option<&str>) -> Result<String, Error> {
    let text = text_of(value)?;
    let time = match in_zone(parse_time(&text)?, zone)? {
        Time::Zoned(zoned) => strtime::BrokenDownTime::from(&zoned),
        Time::Local(local) => strtime::BrokenDownTime::from(local),
        Time::Day(day) => strtime::BrokenDownTime::from(day.at(0, 0, 0, 0)),
    };
    time.to_string(format).map_err(|_| fail(format!("`{format}` cannot be filled from this time")))
}

/// `lookup('tables/loinc.csv')`: what the table says of a code; `otherwise='…'` where it says nothing, else that is an error.
fn lookup(state: &State<'_, '_>, value: &Value, table: &str, args: Kwargs) -> Result<Value, Error> {
    let code = text_of(value)?;
    let otherwise: Option<Value> = args.get("otherwise")?;
    args.assert_all_used()?;
    let tables = state.lookup(TABLES);
    let tables = tables.as_ref().and_then(|value| value.downcast_object_ref::<TablesValue>());
    let table_read =
        tables.and_then(|tables| tables.0.get(table)).ok_or_else(|| fail(format!("table `{table}` is not loaded")))?;
    match (table_read.get(code.trim()), otherwise) {
        (Some(meaning), _) => Ok(Value::from(meaning)),
        (None, Some(otherwise)) => Ok(otherwise),
        (None, None) => Err(fail(format!("table `{table}` does not hold the code; `otherwise=` gives a stand-in"))),
    }
}

/// `pad(8)`, `pad(8, ' ', 'right')`: filled to a length; with zeros on the left unless said otherwise.
fn pad(value: &Value, length: usize, args: Rest<String>) -> Result<String, Error> {
    let text = text_of(value)?;
    let fill = args.first().map_or("0", String::as_str);
    let missing = length.min(10_000).saturating_sub(text.chars().count());
    let filling = fill.repeat(missing).chars().take(missing).collect::<String>();
    match args.get(1).map_or("left", String::as_str) {
        "left" => Ok(filling + &text),
        "right" => Ok(text + &filling),
        _ => Err(fail("the side to pad is 'left' or 'right'")),
    }
}

/// `digits`: only the digits of a text.
fn digits(text: String) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

/// `sha256`: the hash of bytes or text in hexadecimal.
fn sha256(value: &Value) -> Result<String, Error> {
    let bytes = bytes_of(value)?;
    Ok(sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `tojson`: a value as JSON. Jinja marks it safe everywhere; here it is so only in JSON, or it would carry `|^~` into an HL7
/// message and quotes into an XML attribute.
fn tojson(state: &State<'_, '_>, value: &Value, args: Kwargs) -> Result<Value, Error> {
    let json = minijinja::filters::tojson(value, None, args)?;
    Ok(if matches!(state.auto_escape(), AutoEscape::Json) { json } else { Value::from(json.to_string()) })
}

/// `safe`: an author's word that a value is JSON or XML as it stands. There is none for HL7 and file names: `map('safe')` gets
/// here without having been seen when the file was read.
fn safe(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    match state.auto_escape() {
        AutoEscape::Json | AutoEscape::Html => Ok(Value::from_safe_string(value.to_string())),
        _ => Err(fail("`safe` is for JSON and XML templates")),
    }
}

fn now(state: &State<'_, '_>) -> Result<Value, Error> {
    meta(state, "received_at")
}

fn ulid(state: &State<'_, '_>) -> Result<Value, Error> {
    meta(state, "id")
}

fn meta(state: &State<'_, '_>, key: &str) -> Result<Value, Error> {
    state.lookup("meta").ok_or_else(|| Error::from(ErrorKind::UndefinedError))?.get_attr(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str, zone: Option<&str>) -> Result<String, ()> {
        hl7_ts(&Value::from(text), zone).map_err(|_| ())
    }

    #[test]
    fn times_as_hl7_writes_them() {
        for (text, zone, expected) in [
            ("2026-01-15T10:30:00Z", None, "20260115103000+0000"),
            ("2026-01-15T10:30:00.5+05:30", None, "20260115103000+0530"),
            ("2026-01-15T10:30:00Z", Some("Europe/Budapest"), "20260115113000+0100"),
            ("2026-07-15T10:30:00Z", Some("Europe/Budapest"), "20260715123000+0200"),
            ("2026-01-15T10:30:00", None, "20260115103000"),
            ("2026-01-15", None, "20260115"),
            ("1954-02-29", None, ""),
            ("20260115", None, "20260115"),
            ("202601151030", None, "20260115103000"),
            ("20260115103000.1234-0030", None, "20260115103000-0030"),
            ("20260199", None, ""),
            ("20261301", None, ""),
            ("2026-01-15T25:00:00Z", None, ""),
            ("yesterday", None, ""),
            ("日本", None, ""),
        ] {
            let expected = if expected.is_empty() { Err(()) } else { Ok(expected.to_owned()) };
            assert_eq!(ts(text, zone), expected, "{text} {zone:?}");
        }
        assert_eq!(ts("", None), Ok(String::new()));
    }

    #[test]
    fn dates_by_letters() {
        let time = Value::from("2026-01-15T23:30:00Z");
        assert_eq!(date(&time, "%Y-%m-%d", None).expect("valid"), "2026-01-15");
        assert_eq!(date(&time, "%Y-%m-%d %H:%M", Some("Europe/Budapest")).expect("valid"), "2026-01-16 00:30");
        assert_eq!(date(&Value::from("20260115"), "%d.%m.%Y", None).expect("valid"), "15.01.2026");
        assert!(date(&time, "%Y", Some("Nowhere/Land")).is_err());
    }

    #[test]
    fn bytes_there_and_back() {
        let decoded = base64_decode(&Value::from("JVBE\r\nRi0x\\.br\\Ljf/")).expect("base64");
        assert_eq!(decoded.as_bytes(), Some(&b"%PDF-1.7\xff"[..]));
        assert_eq!(base64(&decoded).expect("bytes"), "JVBERi0xLjf/");
        assert_eq!(base64(&Value::from("é")).expect("text"), "w6k=");
        assert_eq!(base64_decode(&Value::from("w6k")).expect("no padding").as_bytes(), Some("é".as_bytes()));
        for wrong in ["secret!", "A"] {
            let error = base64_decode(&Value::from(wrong)).expect_err(wrong);
            let source = std::error::Error::source(&error).expect("ours").to_string();
            assert_eq!(source, "this is not base64");
        }
        assert!(text_of(&decoded).is_err() && pad(&decoded, 3, Rest(vec![])).is_err());
        assert_eq!(
            &sha256(&decoded).expect("bytes")[..8],
            &sha256(&Value::from_bytes(b"%PDF-1.7\xff".to_vec())).expect("bytes")[..8]
        );
    }

    #[test]
    fn padding_and_digits() {
        assert_eq!(pad(&Value::from("42"), 5, Rest(vec![])).expect("valid"), "00042");
        assert_eq!(pad(&Value::from(42), 5, Rest(vec![" ".into(), "right".into()])).expect("valid"), "42   ");
        assert_eq!(pad(&Value::from("123456"), 3, Rest(vec![])).expect("valid"), "123456");
        assert_eq!(digits("+36 (1) 555-0100".into()), "3615550100");
        assert_eq!(&sha256(&"abc".into()).expect("text")[..16], "ba7816bf8f01cfea");
    }
}

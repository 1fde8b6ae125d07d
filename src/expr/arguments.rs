//! Arguments of filters and methods that stand in the text: what is wrong with them is known when the file is read.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use minijinja::Value;
use minijinja::machinery::ast::{CallArg, Expr};

use crate::hl7;
use crate::message::XmlPath;

/// A wrong argument.
pub(super) struct Wrong {
    /// Which one, from 0; none where it is the whole call.
    pub argument: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub help: String,
}

fn wrong(argument: Option<usize>, message: impl Into<String>, help: impl Into<String>) -> Option<Wrong> {
    Some(Wrong { argument, message: message.into(), help: help.into() })
}

/// The value of an argument, where it is a literal.
fn literal<'a>(args: &'a [CallArg<'_>], at: usize) -> Option<&'a Value> {
    match args.get(at)? {
        CallArg::Pos(Expr::Const(node)) => Some(&node.value),
        _ => None,
    }
}

/// Checks what a filter of ours is given.
pub(super) fn of_filter(name: &str, args: &[CallArg<'_>]) -> Option<Wrong> {
    // What is spread out or named is the filter's own to refuse.
    if !args.iter().all(|argument| matches!(argument, CallArg::Pos(_))) {
        return None;
    }
    let (least, most, help) = match name {
        "pad" => (1, 3, "write pad(8), pad(8, ' ') or pad(8, ' ', 'right')"),
        "hl7_ts" => (0, 1, "write hl7_ts or hl7_ts('Europe/Budapest')"),
        "date" => (1, 2, "write date('%Y-%m-%d') or date('%H:%M', 'Europe/Budapest')"),
        "digits" | "base64" | "base64_decode" | "sha256" => (0, 0, "write it without arguments"),
        _ => return None,
    };
    if args.len() < least {
        return wrong(None, format!("`{name}` needs an argument"), help);
    }
    if args.len() > most {
        return wrong(Some(most), format!("`{name}` takes {most} arguments at most"), help);
    }
    match name {
        "pad" => pad(args, help),
        "hl7_ts" => zone(args, 0),
        "date" => format(args, help).or_else(|| zone(args, 1)),
        _ => None,
    }
}

fn pad(args: &[CallArg<'_>], help: &str) -> Option<Wrong> {
    if literal(args, 0).is_some_and(|length| length.as_usize().is_none()) {
        return wrong(Some(0), "the length that `pad` fills to is a number", help);
    }
    let side = literal(args, 2)?;
    if matches!(side.as_str(), Some("left" | "right")) {
        return None;
    }
    wrong(Some(2), "the side to pad is 'left' or 'right'", help)
}

fn format(args: &[CallArg<'_>], help: &str) -> Option<Wrong> {
    let format = literal(args, 0)?;
    let sample = strtime::BrokenDownTime::from(&jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC));
    match format.as_str().map(|format| sample.to_string(format)) {
        Some(Ok(_)) => None,
        Some(Err(_)) => wrong(Some(0), "this is not a format of times", help),
        None => wrong(Some(0), "the format of `date` is text", help),
    }
}

fn zone(args: &[CallArg<'_>], at: usize) -> Option<Wrong> {
    let zone = literal(args, at)?;
    let help = "time zones have names such as 'Europe/Budapest' and 'UTC'";
    match zone.as_str() {
        Some(name) if TimeZone::get(name).is_ok() => None,
        Some(name) => wrong(Some(at), format!("no time zone is called `{name}`"), help),
        None => wrong(Some(at), "a time zone is text", help),
    }
}

/// Checks what a method of `msg` is given.
pub(super) fn of_method(name: &str, args: &[CallArg<'_>]) -> Option<Wrong> {
    let help = match name {
        "count" => "write msg.count('OBX')",
        "all" => "write msg.all('OBX-5')",
        "raw" => "write msg.raw('PID-5')",
        "rows" | "text" | "bytes" if args.is_empty() => return None,
        "rows" | "text" | "bytes" => {
            return wrong(None, format!("`msg.{name}` takes no argument"), format!("write msg.{name}()"));
        }
        _ => return None,
    };
    if args.len() != 1 {
        return wrong(None, format!("`msg.{name}` takes one argument"), help);
    }
    let Some(text) = literal(args, 0)?.as_str() else {
        return wrong(Some(0), format!("`msg.{name}` takes text"), help);
    };
    // Elements of XML.
    if text.starts_with('/') && name != "raw" {
        let problem = text.parse::<XmlPath>().err()?;
        return wrong(Some(0), format!("`{text}` is not a path into XML"), problem);
    }
    match text.parse::<hl7::Path>() {
        Err(error) => wrong(Some(0), format!("`{text}` is not an HL7 path: {}", error.message), help),
        Ok(path) if name == "count" && (path.field().is_some() || path.occurrence().is_some()) => {
            wrong(Some(0), format!("`count` counts segments, `{text}` is more than a segment's name"), help)
        }
        Ok(path) if name == "all" && path.field().is_none() => {
            wrong(Some(0), format!("`{text}` names a whole segment: a field is expected"), help)
        }
        Ok(_) => None,
    }
}

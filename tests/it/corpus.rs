//! Real messages from public projects, read in place and never copied: `LABWIRE_CORPORA`, or `shared/corpora` beside the
//! project. Without that folder these tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path as File, PathBuf};

use labwire::hl7::batch::{self, Shape};
use labwire::hl7::{Charset, CharsetError, Header, Limits, Message, ParseError, Path};

fn folder() -> Option<PathBuf> {
    let beside = || File::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora");
    let folder = std::env::var_os("LABWIRE_CORPORA").map_or_else(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("no corpora at {}: nothing was checked (set LABWIRE_CORPORA)", folder.display());
    None
}

/// Every file that may hold HL7, with its path relative to the folder.
fn files(folder: &File) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if path.is_dir() {
                open.push(path);
            } else if !matches!(extension, "tsv" | "xml") {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The messages of a file as bytes.
fn messages(bytes: &[u8]) -> Vec<&[u8]> {
    match batch::shape(bytes) {
        Shape::Single => vec![bytes],
        Shape::Several { messages } | Shape::Batch { messages } => {
            let split = batch::split(bytes).unwrap().messages;
            assert_eq!(split.len(), messages);
            split
        }
        // Envelope segments inside a message: one message for `parse`, nothing for `split`.
        Shape::Refused(_) if parse(bytes).is_ok() => vec![bytes],
        Shape::Refused(_) | Shape::NotHl7 => Vec::new(),
    }
}

fn parse(bytes: &[u8]) -> Result<Message, ParseError> {
    Message::parse(bytes.to_vec(), &Limits::default())
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn refusal(error: &ParseError) -> &'static str {
    match error {
        ParseError::Separators(_) => "separators",
        ParseError::SeveralMessages { .. } => "several messages",
        ParseError::Utf16 => "UTF-16",
        ParseError::Empty => "empty",
        _ => "other",
    }
}

#[test]
fn every_file_is_read_and_comes_back_byte_for_byte() {
    let Some(folder) = folder() else { return };
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, bytes) in files(&folder) {
        *tally.entry("files").or_default() += 1;
        let parts = messages(&bytes);
        if parts.is_empty() {
            *tally.entry("files without a message").or_default() += 1;
            assert!(parse(&bytes).is_err(), "{name}");
        }
        for part in parts {
            assert!(Header::scan(part).is_some(), "{name}");
            match parse(part) {
                Ok(message) => {
                    *tally.entry("messages").or_default() += 1;
                    assert_eq!(message.to_bytes(), part, "{name}");
                    for segment in message.segments() {
                        assert!((1..=segment.field_count() as u32).all(|n| segment.field(n).is_some()), "{name}");
                    }
                }
                Err(error) => *tally.entry(refusal(&error)).or_default() += 1,
            }
        }
    }
    println!("{tally:?}");
    assert!(tally["messages"] > 1000);
    assert!(!tally.contains_key("other") && !tally.contains_key("several messages"));
}

/// Lines that are not blank, each without its terminator.
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split(|b| matches!(b, b'\r' | b'\n')).filter(|line| !line.is_empty()).collect()
}

#[test]
fn edits_leave_other_segments_alone() {
    let Some(folder) = folder() else { return };
    let mut edited = 0;
    for (name, bytes) in files(&folder) {
        for part in messages(&bytes) {
            let Ok(original) = parse(part) else { continue };
            let mut message = original.clone();
            message.set(&path("MSH-5"), "Lab|wire").unwrap_or_else(|error| {
                assert!(message.separators().escape.is_none(), "{name}: {error}");
            });
            if message.count("PID") > 0 {
                message.set(&path("PID-5.1"), "Changed").unwrap();
                assert_eq!(message.text(&path("PID-5.1")).unwrap().unwrap(), "Changed", "{name}");
                let before = message.repetitions(&path("PID-3"));
                let appended = message.append(&path("PID-3"), "another");
                let possible = before == 0 || message.separators().repetition.is_some();
                assert_eq!(appended.is_ok(), possible, "{name}");
                assert_eq!(message.repetitions(&path("PID-3")), before + usize::from(possible), "{name}");
                message.delete(&path("PID-7")).unwrap();
                assert!(message.raw(&path("PID-7")).is_none_or(<[u8]>::is_empty), "{name}");
            }
            let after = message.to_bytes();
            assert_eq!(after.len(), message.len(), "{name}");
            let (old, new) = (lines(part), lines(&after));
            assert_eq!(old.len(), new.len(), "{name}");
            let msh = old.iter().position(|line| line.ends_with(b"MSH") || line.windows(3).any(|w| w == b"MSH"));
            let pid = original.segments().position(|segment| segment.name() == b"PID").map(|at| at + msh.unwrap());
            for (at, (old, new)) in old.iter().zip(&new).enumerate() {
                assert!(old == new || Some(at) == msh || Some(at) == pid, "{name}: line {at}");
            }
            // Terminators and blank lines: what is left when everything else is taken away.
            let ends = |bytes: &[u8]| bytes.iter().copied().filter(|b| matches!(b, b'\r' | b'\n')).collect::<Vec<u8>>();
            assert_eq!(ends(part), ends(&after), "{name}");
            let again = parse(&after).unwrap();
            assert_eq!(again.segments().count(), message.segments().count(), "{name}");
            edited += 1;
        }
    }
    println!("{edited} messages edited");
    assert!(edited > 1000);
}

#[test]
fn hl7_parser_reads_the_same_values() {
    let Some(folder) = folder() else { return };
    let (mut compared, mut skipped) = (0, 0);
    for (name, bytes) in files(&folder) {
        for part in messages(&bytes) {
            let Ok(ours) = parse(part) else { continue };
            let four = ours.raw(&path("MSH-2")).is_some_and(|set| set.len() == 4);
            let trimmed = part.strip_prefix(b"\xef\xbb\xbf").unwrap_or(part).trim_ascii_end();
            let Some(text) = std::str::from_utf8(trimmed).ok().filter(|text| text.is_ascii() && four) else {
                skipped += 1;
                continue;
            };
            let theirs = hl7_parser::Message::parse_with_lenient_newlines(text, true).ok();
            // That parser drops everything behind a line that it cannot read, without an error.
            let whole =
                theirs.filter(|m| m.raw_value().len() == text.len() && m.segments().count() == ours.segments().count());
            let Some(theirs) = whole else {
                skipped += 1;
                continue;
            };
            for place in ["MSH-9", "MSH-10", "MSH-9.1", "PID-5.1", "PID-3.1", "PID-3[2].1", "OBX[2]-3.2", "PID-11.1.1"]
            {
                let expected = theirs.query(place.replacen('-', ".", 1).as_str()).map(|value| value.raw_value());
                let got = ours.raw(&path(place)).map(|raw| std::str::from_utf8(raw).unwrap());
                // It has no repetition at all in an empty field, where an empty value stands.
                let same = got == expected || (expected.is_none() && got == Some(""));
                assert!(same, "{name}: {place}");
            }
            compared += 1;
        }
    }
    println!("{compared} messages compared with hl7-parser, {skipped} not fit for it");
    assert!(compared > 700);
}

fn table(folder: &File, name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(folder.join(name)).unwrap();
    text.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn other_parsers_read_the_same_header() {
    let Some(folder) = folder() else { return };
    let single = |name: &str| {
        let bytes = fs::read(folder.join(name)).ok()?;
        let [part] = messages(&bytes)[..] else { return None };
        parse(part).ok()
    };
    let value = |message: &Message, place: &str| {
        String::from_utf8_lossy(message.raw(&path(place)).unwrap_or_default()).into_owned()
    };
    let (mut ids, mut types) = (0, 0);
    for row in table(&folder, "ORACLE.tsv") {
        let Some(message) = single(&row[0]) else { continue };
        let id_of = |cell: &str| cell.split(" id=").nth(1)?.split(' ').next().map(str::to_owned);
        let hapi = (!row[4].is_empty()).then(|| row[4].clone());
        let votes: Vec<String> = [hapi, id_of(&row[5]), id_of(&row[7])].into_iter().flatten().collect();
        if votes.len() >= 2 && votes.iter().all(|vote| *vote == votes[0]) && !votes[0].is_empty() {
            let id = value(&message, "MSH-10");
            // The others trim, split at components or at spaces.
            assert!(id == votes[0] || id.trim().starts_with(&votes[0]), "{}: MSH-10 {id} {votes:?}", row[0]);
            ids += usize::from(id == votes[0]);
        }
    }
    for row in table(&folder, "MANIFEST.tsv") {
        let Some(message) = single(&row[0]) else { continue };
        if row[6].is_empty() || message.separators().field != b'|' {
            continue;
        }
        let got = [value(&message, "MSH-9.1"), value(&message, "MSH-9.2")].join("^");
        let got = got.trim_end_matches('^').trim();
        let same = got == row[6] || value(&message, "MSH-9").trim().starts_with(&row[6]);
        assert!(same, "{}: MSH-9 {got} {}", row[0], row[6]);
        types += 1;
    }
    println!("{ids} control IDs and {types} message types agree");
    assert!(ids > 500 && types > 500);
}

#[test]
fn character_sets() {
    let Some(folder) = folder() else { return };
    let (mut checked, mut accented) = (0, 0);
    for row in table(&folder.join("derived"), "MANIFEST.tsv") {
        let bytes = fs::read(folder.join(&row[0])).unwrap();
        let header = Header::scan(&bytes);
        let got = Charset::detect(&bytes, header.as_ref(), Some("windows-1252"));
        let name = row[0].trim_end_matches(".hl7");
        let expected = match name {
            name if name.contains("utf-16") => Err(CharsetError::Utf16),
            name if name.ends_with("-latin1-labelled-utf8") && !bytes.is_ascii() => {
                assert!(matches!(got, Err(CharsetError::Invalid { charset: "UTF-8", .. })), "{name}: {got:?}");
                assert!(parse(&bytes).is_ok());
                checked += 1;
                continue;
            }
            name if name.ends_with("-latin-1") => Ok("ISO-8859-1"),
            name if name.ends_with("-iso8859-15") => Ok("ISO-8859-15"),
            name if name.ends_with("-utf-8") || name.ends_with("-labelled-utf8") => Ok("UTF-8"),
            // One sample has no accents at all, and nothing declared: ASCII is UTF-8 then.
            _ if bytes.is_ascii() => Ok("UTF-8"),
            _ => Ok("windows-1252"),
        };
        assert_eq!(got.map(|charset| charset.name()), expected, "{name}");
        if expected.is_ok() {
            let message = Message::parse_with(bytes, &Limits::default(), Charset::named("windows-1252")).unwrap();
            let wrong = |c: char| c == '\u{fffd}' || c.is_control();
            for place in ["PID-5.1", "PID-5.2", "PID-5"] {
                let text = message.text(&path(place)).unwrap().unwrap_or_default();
                assert!(!text.chars().any(wrong), "{name}: {place}");
                accented += usize::from(!text.is_ascii());
            }
        } else {
            assert_eq!(parse(&bytes).unwrap_err(), ParseError::Utf16, "{name}");
        }
        checked += 1;
    }
    println!("{checked} files in other character sets");
    assert!(checked >= 28 && accented > 10);
}

/// A source that takes HL7 reads a batch whole, or refuses it whole with words that are not its own.
#[test]
fn batches_are_taken_or_refused_as_a_whole() {
    use labwire::message::{Body, Format};
    use labwire::source::FormatOption;
    let Some(folder) = folder() else { return };
    let (mut taken, mut refused) = (0, BTreeMap::<String, u32>::new());
    for (name, bytes) in files(&folder.join("batch")) {
        let expected = messages(&bytes).len();
        let read = FormatOption::of(Format::Hl7).read(&bytes.into());
        match (read.body.as_deref(), read.rejected) {
            (Some(Body::Batch(batch)), None) => assert_eq!(batch.messages().len(), expected, "{name}"),
            (Some(Body::Hl7(_)), None) => assert_eq!(expected, 1, "{name}"),
            (None, Some(reason)) => {
                let kind: String = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
                *refused.entry(kind).or_default() += 1;
                continue;
            }
            other => panic!("{name}: {other:?}"),
        }
        taken += 1;
    }
    println!("{taken} taken; refused: {refused:#?}");
    assert!(taken > 0);
}

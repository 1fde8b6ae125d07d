//! Properties that hold for any input.

use proptest::prelude::*;

use super::samples::{ADT, parse};
use super::*;

/// Real messages with a few bytes changed, removed, doubled or put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let interesting = prop::sample::select(b"|^~\\&#\r\n MSHPIDOBX1\x0b\x1c\0\xef\xbb\xbf\xe9\"".to_vec());
    let change = (any::<prop::sample::Index>(), 0..4u8, interesting);
    prop::collection::vec(change, 0..12).prop_map(|changes| {
        let mut bytes = ADT.as_bytes().to_vec();
        for (at, kind, byte) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                _ => bytes.truncate(at.max(20)),
            }
        }
        bytes
    })
}

fn path() -> impl Strategy<Value = Path> {
    let name = prop::sample::select(vec!["MSH", "EVN", "PID", "NK1", "ZPI", "OBX", "NTE", "ZZ9", "BTS"]);
    let number = || prop::option::of(1..5u32);
    (name, number(), 1..20u32, number(), number(), number()).prop_map(|(name, occurrence, field, rep, comp, sub)| {
        let mut text = name.to_owned();
        text += &occurrence.map(|n| format!("[{n}]")).unwrap_or_default();
        text += &format!("-{field}");
        text += &rep.map(|n| format!("[{n}]")).unwrap_or_default();
        text += &comp.map(|n| format!(".{n}")).unwrap_or_default();
        text += &comp.and(sub).map(|n| format!(".{n}")).unwrap_or_default();
        text.parse().unwrap()
    })
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[|^~\\\\&#\\r\\nHNFSTREXZ.a0é€]{0,8}",
        "\\PC{0,8}",
        prop::sample::select(vec!["\\.br\\", "\\X41\\", "\\H\\", "\\E\\", "\\Z1\\", "MSH|^~\\&|"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
}

fn separators() -> impl Strategy<Value = Separators> {
    let set = Just("|^~\\&#!$%*+-./:;<=>?@_`{}".bytes().collect::<Vec<u8>>()).prop_shuffle();
    (set, 3..6usize).prop_filter_map("usable", |(set, count)| Separators::parse(set[0], &set[1..=count]).ok())
}

#[derive(Debug, Clone)]
enum Edit {
    Set(Path, String),
    SetRaw(Path, Vec<u8>),
    Append(Path, String),
    Insert(Place, Vec<u8>),
    Delete(Path),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = prop_oneof![
        path().prop_map(|p| Place::Before(p.to_segment())),
        path().prop_map(|p| Place::After(p.to_segment())),
        Just(Place::End)
    ];
    let segment = prop::sample::select(vec!["NTE|1|^", "OBX|9", "ZZ9", "PID||\r", "MSH|x", "nte"]);
    prop_oneof![
        (path(), text()).prop_map(|(p, t)| Edit::Set(p, t)),
        (path(), prop::collection::vec(prop::sample::select(b"|^~&ab\r\\\xe9".to_vec()), 0..9))
            .prop_map(|(p, b)| Edit::SetRaw(p, b)),
        (path(), text()).prop_map(|(p, t)| Edit::Append(p.to_field(), t)),
        (place, segment).prop_map(|(p, s)| Edit::Insert(p, s.as_bytes().to_vec())),
        path().prop_map(Edit::Delete),
        path().prop_map(|p| Edit::Delete(p.to_segment())),
    ]
}

/// Whether the edit was made; the message must be as it was where it was refused.
fn apply(message: &mut Message, edit: &Edit) -> bool {
    let before = message.to_bytes();
    let done = match edit {
        Edit::Set(path, text) => message.set(path, text).is_ok(),
        Edit::SetRaw(path, bytes) => message.set_raw(path, bytes).is_ok(),
        Edit::Append(path, text) => message.append(path, text).is_ok(),
        Edit::Insert(place, segment) => message.insert_segment(*place, segment).is_ok(),
        Edit::Delete(path) => message.delete(path).is_ok_and(|count| count > 0),
    };
    assert!(done || message.to_bytes() == before, "a refused edit left traces");
    done
}

fn structure(message: &Message) -> Vec<Vec<Vec<u8>>> {
    let fields = |segment: SegmentRef<'_>| {
        let values = (1..=segment.field_count() as u32).map(|n| segment.field(n).unwrap().to_vec());
        std::iter::once(segment.name().to_vec()).chain(values).collect()
    };
    message.segments().map(fields).collect()
}

/// Everything that can be asked without changing anything.
fn exercise(bytes: &[u8], path: &Path) {
    let header = Header::scan(bytes);
    let ack = Ack { code: AckCode::AR, control_id: "1", timestamp: "2", text: Some("a|b"), error: Some(207) };
    let answer = ack.build(header.as_ref());
    let reply = AckReply::parse(&answer).unwrap();
    assert_eq!(reply.code, ReplyCode::Known(AckCode::AR));
    assert!(!answer.iter().any(|b| matches!(b, b'\n' | 0x0b | 0x1c)));
    if let Some(header) = &header {
        let id: Vec<u8> = header.control_id().iter().copied().filter(|b| !matches!(b, 0x0b | 0x1c)).collect();
        assert!(reply.answers(&id));
        let _ = (header.mode(), format!("{header:?}"), header.declared_charset());
    }
    let _ = (AckReply::parse(bytes), Charset::detect(bytes, header.as_ref(), Some("windows-1252")));
    if batch::shape(bytes) == batch::Shape::Single {
        let got = Message::parse(bytes.to_vec(), &Limits::default());
        assert!(matches!(got, Ok(_) | Err(ParseError::Separators(_) | ParseError::Utf16)), "{got:?}");
    }
    if let Ok(batch) = batch::split(bytes) {
        assert!(batch.messages.iter().all(|message| message.starts_with(b"MSH")));
    }
    let Ok(message) = Message::parse(bytes.to_vec(), &Limits::default()) else { return };
    assert_ne!(batch::shape(bytes), batch::Shape::NotHl7);
    assert_eq!(message.to_bytes(), bytes);
    let _ = (message.raw(path), message.text(path), message.repetitions(path), format!("{message:?}"));
    assert_eq!(message.count("OBX"), message.segments().filter(|segment| segment.name() == b"OBX").count());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), path in path()) {
        exercise(&bytes, &path);
        exercise(&[b"MSH|^~\\&|".as_slice(), &bytes].concat(), &path);
    }

    #[test]
    fn nothing_panics_on_damaged_messages(bytes in mutated(), path in path()) {
        exercise(&bytes, &path);
    }

    #[test]
    fn what_is_set_is_read_back_and_nothing_else_changes(path in path(), text in text()) {
        let before = parse(ADT);
        let mut after = before.clone();
        prop_assume!(after.set(&path, &text).is_ok());
        let got = after.text(&path).unwrap();
        prop_assert_eq!(got.as_deref(), Some(text.as_str()));
        let (old, new) = (structure(&before), structure(&after));
        prop_assert!(new.len() <= old.len() + 1);
        let changed: Vec<usize> = (0..old.len()).filter(|at| old[*at] != new[*at]).collect();
        prop_assert!(changed.len() <= 1);
        for at in changed {
            // Of that segment only the field differs, and empty fields that lead up to it.
            let field = path.field().unwrap() as usize;
            for n in (0..new[at].len()).filter(|n| *n != field) {
                prop_assert_eq!(old[at].get(n).map_or(&b""[..], Vec::as_slice), new[at][n].as_slice());
            }
        }
        prop_assert_eq!(after.len(), after.to_bytes().len());
    }

    #[test]
    fn edits_leave_a_message_that_reads_the_same(bytes in mutated(), edits in prop::collection::vec(edit(), 1..8)) {
        let Ok(mut message) = Message::parse(bytes, &Limits::default()) else { return Ok(()) };
        let done = edits.iter().filter(|edit| apply(&mut message, edit)).count();
        prop_assert!(done == 0 || message.is_edited());
        let bytes = message.to_bytes();
        prop_assert_eq!(message.len(), bytes.len());
        let again = Message::parse(bytes, &Limits::default()).unwrap();
        prop_assert_eq!(structure(&again), structure(&message));
        prop_assert_eq!(again.separators(), message.separators());
    }

    #[test]
    fn escaping_is_undone(text in text(), separators in separators()) {
        if let Some(escaped) = escape_exact(&text, &separators) {
            prop_assert_eq!(unescape(&escaped, &separators), text.as_str());
        }
        let escaped = escape(&text, &separators);
        let breaks = |c: char| Some(c as u32) != separators.escape.map(u32::from)
            && u8::try_from(c).is_ok_and(|b| separators.contains(b) || escape::breaks_frame(b));
        prop_assert!(!escaped.contains(breaks));
    }

    #[test]
    fn paths_are_written_as_they_are_read(path in path(), junk in "\\PC{0,12}") {
        prop_assert_eq!(path.to_string().parse::<Path>(), Ok(path));
        match junk.parse::<Path>() {
            Ok(path) => prop_assert_eq!(path.to_string(), junk.as_str()),
            Err(error) => prop_assert!(error.offset <= junk.len()),
        }
        // A suggestion must itself be a path.
        if let Err(PathError { help: Some(help), .. }) = format!("{path}{junk}").parse::<Path>()
            && let Some(path) = help.strip_prefix("write `").and_then(|path| path.strip_suffix('`'))
        {
            prop_assert!(path.parse::<Path>().is_ok());
        }
    }

    #[test]
    fn character_sets_never_lose(bytes in prop::collection::vec(any::<u8>(), 0..40), n in 0..9usize) {
        let names = ["8859/1", "8859/2", "8859/5", "8859/7", "8859/9", "8859/15", "UTF-8", "windows-1252", "KS X 1001"];
        let charset = Charset::named(names[n]).unwrap();
        if let Ok(text) = charset.decode(&bytes) {
            prop_assert_eq!(charset.encode(&text).unwrap().into_owned(), bytes);
        }
    }
}

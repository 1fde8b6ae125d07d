//! The HL7 module on hostile bytes: the first line of the input steers, the rest is the message.

#![no_main]

use labwire::hl7::{
    self, Ack, AckCode, AckReply, Charset, EditError, Header, Limits, Message, ParseError, Path, Place, ReplyCode,
    batch,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (steering, bytes) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let header = Header::scan(bytes);
    let answer = acknowledge(header.as_ref(), &String::from_utf8_lossy(steering));
    let reply = AckReply::parse(&answer).expect("our own acknowledgement must be readable");
    assert_eq!(reply.code, ReplyCode::Known(AckCode::AE));
    let _ = (AckReply::parse(bytes), Charset::detect(bytes, header.as_ref(), Some("8859/1")));
    if let Ok(batch) = batch::split(bytes) {
        for part in batch.messages {
            assert!(part.starts_with(b"MSH"));
            one(part, steering);
        }
    }
    if batch::shape(bytes) == batch::Shape::Single {
        let parsed = Message::parse(bytes.to_vec(), &Limits::default());
        assert!(matches!(parsed, Ok(_) | Err(ParseError::Separators(_) | ParseError::Utf16)), "{parsed:?}");
    }
    one(bytes, steering);
});

fn acknowledge(header: Option<&Header>, text: &str) -> Vec<u8> {
    let ack = Ack { code: AckCode::AE, control_id: "1", timestamp: "2024", text: Some(text), error: Some(102) };
    let bytes = ack.build(header);
    assert!(!bytes.iter().any(|byte| matches!(byte, b'\n' | 0x0b | 0x1c)), "an acknowledgement that breaks its frame");
    assert!((2..=3).contains(&bytes.iter().filter(|byte| **byte == b'\r').count()));
    bytes
}

fn one(bytes: &[u8], steering: &[u8]) {
    let limits = Limits { max_bytes: 1 << 20, max_fields_per_segment: 200, max_components: 50, ..Limits::default() };
    let Ok(mut message) = Message::parse(bytes.to_vec(), &limits) else { return };
    assert_eq!(message.to_bytes(), bytes);
    for step in steering.split(|byte| *byte == b';') {
        let text = String::from_utf8_lossy(step);
        let (path, value) = text.split_once('=').unwrap_or((&text, "a|b\r"));
        let Ok(path) = path.parse::<Path>() else { continue };
        assert_eq!(path.to_string().parse::<Path>().as_ref(), Ok(&path));
        edit(&mut message, &path, value);
    }
    let after = message.to_bytes();
    assert_eq!(after.len(), message.len());
    let again = Message::parse(after.clone(), &Limits::default()).expect("an edited message must be readable");
    assert_eq!(again.segments().count(), message.segments().count());
    for (old, new) in message.segments().zip(again.segments()) {
        assert_eq!((old.raw(), old.field_count()), (new.raw(), new.field_count()));
    }
    if message.transcode(Charset::UTF_8).is_ok() {
        Message::parse(message.to_bytes(), &Limits::default()).expect("a converted message must be readable");
    }
}

fn edit(message: &mut Message, path: &Path, value: &str) {
    let before = message.to_bytes();
    let _ = (message.raw(path), message.text(path), message.repetitions(path), message.count(path.segment()));
    match message.set(path, value) {
        Ok(()) => {
            // Naming a set in MSH-18 may change what its own bytes mean.
            if !path.to_string().contains("-18") {
                assert_eq!(message.text(path).expect("what was set must decode").as_deref(), Some(value));
            }
        }
        Err(EditError::NoEscape { .. }) => assert_ne!(hl7::escape(value, message.separators()), value),
        Err(_) => assert_eq!(message.to_bytes(), before),
    }
    let _ = message.append_raw(&path.to_field(), value.as_bytes());
    let _ = message.set_raw(&path.with_repetition(2), value.as_bytes());
    let _ = message.insert_segment(Place::After(path.to_segment()), format!("{path}{value}").as_bytes());
    let _ = message.insert_segment(Place::End, b"ZZZ|1");
    if value.len() % 2 == 0 {
        let _ = message.delete(path);
        let _ = message.delete(&path.to_segment().with_occurrence(2));
    }
}

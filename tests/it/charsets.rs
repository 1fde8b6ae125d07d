//! Character sets from the wire to the file, through the real binary: no byte changes that nobody asked for, and no character
//! is ever another one.

use encoding_rs::{BIG5, Encoding, GB18030, SHIFT_JIS, WINDOWS_1252};

use crate::support::eventually::eventually;
use crate::support::mllp_client::MllpClient;
use crate::support::rig::Rig;

fn channel(source: &str, steps: &str) -> String {
    let destination = |name: &str, charset: &str| {
        format!(
            "[destination.{name}]\ntype = \"file\"\ndirectory = \"../out/{name}\"\nfile_name = \"{{{{ msg['MSH-10'] }}}}.hl7\"\n{charset}\n"
        )
    };
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{source}\n{steps}\n{}{}{}",
        destination("own", ""),
        destination("utf8", "charset = \"UTF-8\""),
        destination("gb", "charset = \"GB18030\""),
    )
}

/// A message; `set` stands in MSH-18.
fn message(id: &str, set: &str, application: &str, name: &str) -> String {
    format!(
        "MSH|^~\\&|{application}|F|R|RF|2026||ORU^R01|{id}|P|2.5||||||{set}\rPID|1||7||{name}^x\rOBX|1|TX|a||{name}|u\r"
    )
}

fn encoded(set: &'static Encoding, text: &str) -> Vec<u8> {
    let (bytes, _, lossy) = set.encode(text);
    assert!(!lossy);
    bytes.into_owned()
}

fn written(rig: &Rig, destination: &str, id: &str) -> Vec<u8> {
    let path = rig.path().join(format!("out/{destination}/{id}.hl7"));
    eventually(&format!("{destination} gets {id}"), || std::fs::read(&path).ok())
}

#[test]
fn from_each_set_to_each_and_never_another_character() {
    let rig = Rig::with(&channel("charset = \"Shift_JIS\"", ""));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    // In each of these sets, bytes of these names are separators.
    for (id, set, declared, name) in [
        ("sjis", SHIFT_JIS, "Shift_JIS", "ポソ表"),
        ("gb", GB18030, "GB 18030-2000", "乗亅中"),
        ("big5", BIG5, "BIG-5", "功許"),
        // It says nothing, and is not UTF-8: the source's own.
        ("fallback", SHIFT_JIS, "", "ソ能"),
        ("utf8", encoding_rs::UTF_8, "", "Éva"),
    ] {
        let application = if set == encoding_rs::UTF_8 { "LAB" } else { name };
        let text = message(id, declared, application, name);
        client.write(&[b"\x0b", &encoded(set, &text)[..], b"\x1c\r"].concat()).unwrap();
        let ack = client.read_bytes().unwrap();
        let msh = [&b"MSH|^~\\&|R|RF|"[..], &encoded(set, application), b"|F|"].concat();
        assert!(ack.starts_with(&msh), "{id}: {}", ack.escape_ascii());
        assert!(ack.windows(7).any(|bytes| bytes == b"MSA|AA|"), "{id}: {}", ack.escape_ascii());
        assert_eq!(written(&rig, "own", id), encoded(set, &text), "{id}: as it came");
        let utf8 = message(id, "UNICODE UTF-8", application, name);
        assert_eq!(String::from_utf8(written(&rig, "utf8", id)).unwrap(), utf8, "{id}");
        let gb = message(id, "GB 18030-2000", application, name);
        assert_eq!(written(&rig, "gb", id), encoded(GB18030, &gb), "{id}");
    }
    let half = [&message("half", "Shift_JIS", "LAB", "x").into_bytes()[..], b"NTE|1||\x83\r"].concat();
    let ack = client.send(&half).unwrap();
    assert!(
        ack.contains("MSA|AR|half|message cannot be decoded: byte ") && ack.contains("is not valid Shift_JIS"),
        "{ack}"
    );
}

/// What somebody edits is text: it is written in the set that the message declares.
#[test]
fn an_edited_body_is_in_the_set_of_its_message() {
    let rig = Rig::with(&channel("", "").replace("GB18030", "8859/1"));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    let first = encoded(WINDOWS_1252, &message("1", "8859/1", "LAB", "Zo\u{eb}"));
    client.write(&[b"\x0b", &first[..], b"\x1c\r"].concat()).unwrap();
    client.read_bytes().unwrap();
    let id = rig.wait_for("sent", 1)[0]["id"].as_str().unwrap().to_owned();
    let again = |body: &str| {
        let asked = serde_json::json!({ "ids": [id], "who": "anna", "why": "a test", "body": body });
        rig.post("/api/v1/messages/reprocess", asked.to_string()).1.to_string()
    };
    let edited = message("2", "8859/1", "LAB", "Zo\u{e9}");
    again(&edited);
    assert_eq!(written(&rig, "own", "2"), encoded(WINDOWS_1252, &edited));
    let refused = again(&message("3", "8859/1", "LAB", "\u{20ac}"));
    assert!(refused.contains("of the body does not exist in ISO-8859-1, which MSH-18 names"), "{refused}");
}

#[test]
fn a_character_that_a_set_does_not_have_is_an_error_that_names_the_place() {
    let steps = "[[transformer]]\nset = { \"OBX-5\" = \"{{ msg['OBX-5'] | replace('e', '\u{20ac}') }}\" }";
    let channel = channel("charset = \"windows-1252\"", steps).replace("GB18030", "8859/1");
    let rig = Rig::with(&channel);
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    let send = |client: &mut MllpClient, set: &'static Encoding, text: &str| {
        client.write(&[b"\x0b", &encoded(set, text)[..], b"\x1c\r"].concat()).unwrap();
        let ack = client.read_bytes().unwrap();
        assert!(ack.windows(7).any(|bytes| bytes == b"MSA|AA|"), "{}", ack.escape_ascii());
    };
    // The euro is there in windows-1252, and not in what one destination wants: nothing is sent to any of them.
    send(&mut client, WINDOWS_1252, &message("1", "", "LAB", "s\u{e9}crete"));
    let errored = rig.wait_for("errored", 1).remove(0);
    let reason = errored["reason"].as_str().unwrap();
    assert_eq!(reason, "destination `gb`, charset: segment 3: character 17 does not exist in ISO-8859-1");
    // It is not there in the message's own set: the step fails.
    send(&mut client, WINDOWS_1252, &message("2", "8859/1", "LAB", "s\u{e9}crete"));
    let reasons: Vec<String> =
        rig.wait_for("errored", 2).iter().map(|message| message["reason"].as_str().unwrap().to_owned()).collect();
    assert!(
        reasons.iter().any(|reason| reason.ends_with("OBX-5: character 5 does not exist in ISO-8859-1")),
        "{reasons:?}"
    );
    assert!(!rig.path().join("out").exists(), "nothing was written");
    assert!(!rig.log().contains("crete"));
}

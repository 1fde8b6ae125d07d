//! What the test suites of other engines check, by the numbers of our collection (B character sets, C acknowledgements, E
//! parsing and encoding, G paths). Rows that one file's own tables already hold are not repeated here.

use super::samples::parse;
use super::*;

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

#[test]
fn e_values() {
    for (row, line, at, value) in [
        ("E4", "MSH|^~&|A^B&C", "MSH-3.2.2", Some("C")),
        ("E5", "MSH$%~\\&$A%B", "MSH-3.2", Some("B")),
        ("E5", "MSH^~|\\&^A~B", "MSH-3.2", Some("B")),
        ("E6", "MSH|^~\\&||||||||||2.2^x^x", "MSH-12.1", Some("2.2")),
        ("E7", "MSH|^~\\&|\rI|1\rABC|2\rAL1|3\rAL1|4", "AL1[2]-1", Some("4")),
        ("E8", "MSH|^~\\&|\rOBX|||||This~Is~A~Report~~~~", "OBX-5[4]", Some("Report")),
        ("E8", "MSH|^~\\&|\rOBX|||||This~Is~A~Report~~~~", "OBX-5[8]", Some("")),
        ("E8", "MSH|^~\\&|\rOBX|||||This~Is~A~Report~~~~", "OBX-5[9]", None),
        ("E9", "MSH|^~\\&|\rPID|A^1|A&1", "PID-1.1", Some("A")),
        ("E9", "MSH|^~\\&|\rPID|A^1|A&1", "PID-2.1.1", Some("A")),
        ("E10", "MSH|^~\\&|\rPID|~Repeat2", "PID-1[1]", Some("")),
        ("E10", "MSH|^~\\&|\rPID|~Repeat2", "PID-1[2]", Some("Repeat2")),
        ("E11", "MSH|^~\\&|\rOBX|a\\X20202020\\b|MARIO \\T\\ LUIGI", "OBX-1", Some("a    b")),
        ("E11", "MSH|^~\\&|\rOBX|a\\X20202020\\b|MARIO \\T\\ LUIGI", "OBX-2", Some("MARIO & LUIGI")),
        ("E11", "MSH|^~\\&|\rOBX|\\H\\a\\N\\\\.br\\\\C00FF\\", "OBX-1", Some("\\H\\a\\N\\\\.br\\\\C00FF\\")),
        ("E13", "MSH|^~\\&#|\rOBX|a#b|c\\P\\", "OBX-1", Some("a#b")),
        ("E13", "MSH|^~\\&#|\rOBX|a#b|c\\P\\", "OBX-2", Some("c#")),
        ("G", "MSH|^~\\&|\rPID|||a^b^c&d", "PID-3.3.2", Some("d")),
        ("G", "MSH|^~\\&|\rPID|||a^b^c&d", "PID-3.1.1", Some("a")),
        ("G", "MSH|^~\\&|\rPID|||a^b^c&d", "PID-3.1.2", None),
        ("G", "MSH|^~\\&|\rPID|||a^b^c&d", "PID-3.4", None),
        ("G", "MSH|^~\\&|\rPID|||a^b^c&d", "MSH-20", None),
        ("G", "MSH|^~\\&|\rNTE|a||one~two\rNTE|b", "NTE-3[2]", Some("two")),
        ("G", "MSH|^~\\&|\rNTE|a||one~two\rNTE|b", "NTE[2]-1", Some("b")),
    ] {
        let message = parse(line);
        assert_eq!(message.text(&path(at)).unwrap().as_deref(), value, "{row}: {at}");
        assert_eq!(message.to_bytes(), line, "{row}");
    }
}

#[test]
fn e_encoding() {
    for (row, line, at, value, after) in [
        ("E12", "MSH|^~\\&|\rOBX|x", "OBX-1", "a\rb", "MSH|^~\\&|\rOBX|a\\X0D\\b"),
        ("E13", "MSH|^~\\&#|\rOBX|x", "OBX-1", "a#", "MSH|^~\\&#|\rOBX|a#"),
        ("E5", "MSH$%~\\&$A", "MSH-3", "a|b$c%", "MSH$%~\\&$a|b\\F\\c\\S\\"),
        ("G", "MSH|^~\\&|||||||x^A01", "MSH-9.4", "new", "MSH|^~\\&|||||||x^A01^^new"),
        ("G", "MSH|^~\\&|||||||x^A01^^foo", "MSH-9.4.2", "new", "MSH|^~\\&|||||||x^A01^^foo&new"),
    ] {
        let mut message = parse(line);
        message.set(&path(at), value).unwrap();
        assert_eq!(message.to_bytes(), after, "{row}");
    }
}

#[test]
fn e14_line_ends_inside_values_do_no_harm() {
    let line = "MSH|^~\\&|A\nPID|1\r\nOBX|1||||line one\r\r\rline two|F\r";
    let message = parse(line);
    let names: Vec<_> = message.segments().map(|segment| segment.name().escape_ascii().to_string()).collect();
    assert_eq!(names, ["MSH", "PID", "OBX", "line two"]);
    assert_eq!(message.to_bytes(), line);
}

#[test]
fn b_and_c_headers() {
    let shown = |bytes: &[u8]| {
        let ack = Ack { code: AckCode::AR, control_id: "N", timestamp: "", text: None, error: None };
        ack.build(Header::scan(bytes).as_ref()).escape_ascii().to_string()
    };
    for (row, message, msa) in [
        ("B7", &b"MSH|^\xef\xbf\xbd|A|||||||42\rPID|secret"[..], "MSA|AR|42"),
        ("B8", b"MSH|^~\\&||||||||\xc1\xff\r", "MSA|AR|\\xc1\\xff"),
        ("C2", b"MSH|^~\\&||||||||\r", "MSA|AR|"),
        ("C3", b"MSH|^~\\&|A|||||||42|P|2.5EVN|A01|1\rPID|secret", "MSA|AR|42"),
        ("C3", b"MSH|^~\\&|A|||||||42|P|2.5EVN|A01|1PID|||7|secret|secret", "MSA|AR|42"),
        ("C4", b"", "MSA|AR|"),
        ("C5", b"MSHABCDEFGHIJ", "MSA|AR|"),
        ("C12", b"FHS|^~\\&|secret\rBHS|^~\\&|\rMSH|^~\\&||||||||42\r", "MSA|AR|"),
        ("C13", b"MSH$%~\\&$A$$$$$$$42$P$2.5\r", "MSA$AR$42"),
    ] {
        let answer = shown(message);
        assert!(answer.contains(&format!("\\r{msa}\\r")), "{row}: {answer}");
        assert!(!answer.contains("secret"), "{row}: {answer}");
    }
}

#[test]
fn types_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Message>();
    shared::<Header>();
    shared::<Path>();
    shared::<AckReply>();
}

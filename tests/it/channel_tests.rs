//! `labwire test`: a test that is wrong must not pass.

use crate::support::rig::{Rig, labwire};

/// A message whose PID-5 is `N` and whose PID-8 is `F`.
const MESSAGE: &str = "MSH|^~\\&|A|B|C|D|2026||ORU^R01|M1|P|2.5\rPID|1||1||N||1980|F\r";
const EVENT: &str = r#"{"action":49,"lab":"acme","data":{"n":1}}"#;

/// A channel in which what comes is an HL7 message.
fn hl7(source: &str, more: &str) -> String {
    format!(
        r#"
name = "c"
[source]
type = "mllp"
listen = "127.0.0.1:0"
{source}
[[transformer]]
filter = "msg['PID-8'] != 'filtered'"
[[transformer]]
when = "msg['PID-8'] == 'Á'"
set = {{ "PID-9" = "read" }}
[[transformer]]
when = "msg['PID-8'] == 'fail'"
set = {{ "PID-9" = "{{{{ msg['PID-7'] | int + none }}}}" }}
[destination.out]
type = "file"
directory = "out"
file_name = "x"
{more}
"#
    )
}

fn event(tests: &str) -> String {
    format!(
        "name = \"c\"\naction = 49\nlab = \"acme\"\n[source]\ntype = \"event\"\n[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n{tests}\n"
    )
}

fn one(name: &str, words: &str) -> String {
    format!("[[test]]\nname = \"{name}\"\ninput = \"{name}\"\n{words}\n")
}

fn run(rig: &Rig, channel: &str, more: &[&str]) -> (i32, String) {
    let path = rig.write("channels/c.toml", channel);
    let output = labwire().arg("test").args(more).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

fn rig() -> Rig {
    let rig = Rig::new();
    rig.write("channels/good", MESSAGE);
    rig.write("channels/filtered", MESSAGE.replace("|F\r", "|filtered\r"));
    rig.write("channels/fail", MESSAGE.replace("|F\r", "|fail\r"));
    rig.write("channels/unreadable", "this is no HL7");
    rig
}

#[test]
fn what_a_test_says_is_judged_whatever_becomes_of_the_message() {
    let rig = rig();
    for (name, words, passes, place) in [
        ("good", "", true, ""),
        ("filtered", "filtered = true", true, ""),
        ("filtered", "", false, "filtered"),
        ("filtered", "ack = \"AA\"", false, "filtered"),
        ("good", "filtered = true", false, "filtered"),
        ("fail", "error = \"step 3\"", true, ""),
        ("fail", "", false, "no error"),
        ("fail", "error = \"step 3\"\nsent.out = { \"PID-8\" = \"fail\" }", false, "nothing sent"),
        ("fail", "error = \"step 3\"\nfiltered = true", false, "filtered"),
        ("unreadable", "error = \"MSH\"\nack = \"AR\"", true, ""),
        ("unreadable", "ack = \"AR\"", false, "no error"),
        ("unreadable", "error = \"MSH\"\nsent.out = { \"PID-8\" = \"F\" }", false, "nothing sent"),
        ("unreadable", "error = \"MSH\"\nfiltered = true", false, "filtered"),
    ] {
        let (code, text) = run(&rig, &hl7("", &one(name, words)), &[]);
        assert_eq!(code, i32::from(!passes), "{name} {words}: {text}");
        assert!(text.contains(place), "{name} {words}: {place} is not in:\n{text}");
    }
}

#[test]
fn an_event_that_the_api_would_refuse_fails() {
    let rig = Rig::new();
    for (event_text, words, passes, place) in [
        (EVENT, "", true, ""),
        (&*EVENT.replace("acme", "other"), "", false, "of lab `acme`"),
        (&*EVENT.replace("49", "50"), "", false, "action 50"),
        (&*EVENT.replace("\"lab\"", "\"extra\":1,\"lab\""), "", false, "/extra"),
        (&*EVENT.replace("\"n\":1", "\"n\":1,\"n\":2"), "", false, "twice"),
        (&*EVENT.replace("{\"n\":1}", "[]"), "", false, "/data"),
        (&*EVENT.replace("{\"n\":1}", "[]"), "error = \"/data\"", true, ""),
    ] {
        rig.write("channels/event", event_text);
        let (code, text) = run(&rig, &event(&one("event", words)), &[]);
        assert_eq!(code, i32::from(!passes), "{event_text}: {text}");
        assert!(text.contains(place), "{event_text}: {place} is not in:\n{text}");
    }
}

#[test]
fn the_sources_own_options_count() {
    let rig = rig();
    rig.write("channels/latin1", [&MESSAGE.as_bytes()[..MESSAGE.len() - 2], b"\xC1\r"].concat());
    let expects = one("latin1", "sent.out = { \"PID-9\" = \"read\" }");
    let (code, text) = run(&rig, &hl7("charset = \"windows-1252\"", &expects), &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(run(&rig, &hl7("", &expects), &[]).0, 1, "without its character set it cannot be read");
    let refused = one("good", "ack = \"AR\"\nerror = \"larger than 32 bytes\"");
    let (code, text) = run(&rig, &hl7("max_frame = \"32B\"", &refused), &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(run(&rig, &hl7("", &refused), &[]).0, 1);
}

#[test]
fn bless_forgives_nothing_but_the_file() {
    let rig = rig();
    rig.write("channels/expected", MESSAGE.replace("|N|", "|X|"));
    let (code, text) = run(&rig, &hl7("", &one("good", "sent.out = \"expected\"\nack = \"AR\"")), &["--bless"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("expected AR") && !text.contains("PID[1]-5"), "{text}");
    assert_eq!(std::fs::read_to_string(rig.channels().join("expected")).unwrap(), MESSAGE);
    let (code, text) = run(&rig, &hl7("", &one("good", "sent.out = \"expected\"")), &[]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn two_tests_cannot_bless_one_file_with_different_messages() {
    let rig = rig();
    rig.write("channels/other", MESSAGE.replace("|F\r", "|M\r"));
    for old in ["old", MESSAGE] {
        rig.write("channels/expected", old);
        let tests = one("good", "sent.out = \"expected\"") + &one("other", "sent.out = \"expected\"");
        let (code, text) = run(&rig, &hl7("", &tests), &["--bless"]);
        assert_eq!(code, 1, "{text}");
        for words in ["`good`", "`other`", "expected", "nothing was written"] {
            assert!(text.contains(words), "{words} is not in:\n{text}");
        }
        assert_eq!(std::fs::read_to_string(rig.channels().join("expected")).unwrap(), old);
    }
}

/// Sources that answer nobody take what comes as it is: a timer in its format, what another channel hands over by its ending.
#[test]
fn a_test_reads_its_input_as_the_source_does() {
    let rig = rig();
    rig.write("channels/data.json", "{\"n\": 1}");
    rig.write("channels/data.txt", "{\"n\": 1}");
    let channel = |source: &str, input: &str, sent: &str| {
        format!(
            "name = \"c\"\n[source]\n{source}\n[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n\
             [[test]]\nname = \"t\"\ninput = \"{input}\"\nsent.out = {sent}\n"
        )
    };
    let timer = |format: &str, content: &str| {
        format!("type = \"timer\"\nevery = \"1h\"\nformat = \"{format}\"\ncontent = '{content}'")
    };
    let from_channel = "type = \"channel\"".to_owned();
    for (source, input, sent) in [
        (timer("json", "{}"), "data.txt", "{ \"/n\" = \"1\" }"),
        (timer("text", "x"), "data.txt", "\"data.txt\""),
        (timer("hl7", "MSH|^~\\&|A"), "good", "{ \"PID-8\" = \"F\" }"),
        (from_channel.clone(), "data.json", "{ \"/n\" = \"1\" }"),
        (from_channel.clone(), "data.txt", "\"data.txt\""),
        (from_channel, "good", "{ \"PID-8\" = \"F\" }"),
    ] {
        let (code, text) = run(&rig, &channel(&source, input, sent), &[]);
        assert_eq!(code, 0, "{source}, {input}: {text}");
    }
    // As text, it is not what was asked for.
    let (code, text) = run(&rig, &channel(&timer("json", "{}"), "good", "{ \"/n\" = \"1\" }"), &[]);
    assert!(code == 1 && text.contains("the body is not JSON"), "{text}");
}

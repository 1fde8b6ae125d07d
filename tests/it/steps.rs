//! Transformer steps, each option once, through the channel file and `labwire test`'s own runner.

use std::path::Path;

use labwire::channel::{self, test};
use labwire::diagnostic::SourceFile;

const MESSAGE: &str = "MSH|^~\\&|LAB|ACME|X|Y|20260115||ORU^R01|M1|P|2.5\rPID|1||A1^^^ACME~B2^^^OTHER||Nagy^Ilona||19800101|F\rOBR|1\rOBX|1|NM|GLU^Glucose^L||5.4\rOBX|2|NM|NA^Sodium^L||140\rNTE|1||a note\rZPD|1|kept\r";

/// Runs steps on [`MESSAGE`] and compares what is sent: nothing when all is as expected.
fn run(steps: &str, expected: &str) -> Vec<String> {
    run_on(MESSAGE, steps, expected)
}

fn run_on(message: &str, steps: &str, expected: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("in.hl7", message);
    write("codes.csv", "local,loinc,name\nGLU,2345-7,Glucose\nNA,2951-2,Sodium\n");
    write(
        "order.hl7",
        "MSH|^~\\&|T||||||ORM^O01|{{ msg['MSH-10'] }}|P|2.5\n  {% if true %}\n  PID|1||{{ msg['PID-3[2].1'] }}||{{ 'a|b^c~d\\\\e&f\ng' }}\n\n  {% endif %}\n",
    );
    write("order.json", "{\"name\": {{ msg['PID-5.1'] }}, \"odd\": {{ 'a\"b' }}}");
    write("order.xml", "<name>{{ '<&>' }}</name>");
    write("order.txt", "{{ msg.count('OBX') }} {{ msg.all('OBX-5') | join(',') }} {{ msg.raw('PID-5') }}");
    let text = format!(
        "name = \"c\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{steps}\n[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n[[test]]\nname = \"t\"\ninput = \"in.hl7\"\n{expected}\n"
    );
    let path = folder.path().join("c.toml");
    let file = SourceFile::new(Path::new("c.toml"), text);
    let (spec, diagnostics) = channel::parse(&path, &file, folder.path());
    let mistakes: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    let spec = spec.unwrap_or_else(|| panic!("{mistakes:?}"));
    test::run(&spec, &spec.tests[0]).failures.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn passes(steps: &str, expected: &str) {
    let failures = run(steps, expected);
    assert!(failures.is_empty(), "{steps}\n{failures:?}");
}

/// The expectation holds with the steps, and fails when the option that it is about says something else.
#[track_caller]
fn passes_but_not(steps: &str, without: &str, expected: &str) {
    passes(steps, expected);
    assert!(!run(without, expected).is_empty(), "{expected} also holds for {without}");
}

#[test]
fn filter_holds_back_what_is_not_true() {
    passes("[[transformer]]\nfilter = \"msg['MSH-9.1'] == 'ORU'\"", "filtered = false");
    passes("[[transformer]]\nfilter = \"msg['MSH-9.1'] == 'ADT'\"", "filtered = true");
}

#[test]
fn set_writes_values_in_the_order_of_the_file_and_escapes_them() {
    passes(
        r#"[[transformer]]
set = { "PID-8" = "U", "PID-5.1" = "{{ msg['PID-5.1'] | upper }}|^&~\\", "MSH-6" = "{{ msg['PID-8'] }}", "ZPD-9" = 7 }"#,
        r#"sent.out = { "PID-8" = "U", "PID-5.1" = "NAGY|^&~\\", "PID-5.2" = "Ilona", "MSH-6" = "U", "ZPD-9" = "7", "ZPD-2" = "kept" }"#,
    );
}

#[test]
fn copy_takes_components_and_repetitions_along() {
    passes(
        r#"[[transformer]]
copy = { "PID-2" = "PID-3[2]", "PID-18" = "PID-5", "PID-8" = "PID-30" }"#,
        r#"sent.out = { "PID-2.1" = "B2", "PID-2.4" = "OTHER", "PID-18.2" = "Ilona", "PID-8" = "" }"#,
    );
}

#[test]
fn delete_empties_fields_and_takes_segments_out() {
    passes(
        "[[transformer]]\ndelete = [\"PID-8\", \"NTE\", \"OBX[1]\"]",
        r#"sent.out = { "PID-8" = "", "PID-7" = "19800101", "NTE-3" = "", "OBX[1]-3.1" = "NA", "OBX[2]-3.1" = "" }"#,
    );
    passes("[[transformer]]\ndelete = \"OBX\"", r#"sent.out = { "OBX-3.1" = "", "OBR-1" = "1" }"#);
}

#[test]
fn when_makes_a_step_conditional() {
    let step = |when: &str| format!("[[transformer]]\nwhen = \"{when}\"\nset = {{ \"PID-8\" = \"U\" }}");
    passes_but_not(&step("msg['PID-8'] == 'F'"), &step("msg['PID-8'] == 'M'"), r#"sent.out = { "PID-8" = "U" }"#);
}

#[test]
fn each_repeats_a_step_for_every_segment() {
    passes(
        r#"[[transformer]]
each = "OBX"
when = "msg['OBX-3.1'] == 'NA'"
set = { "OBX-6" = "{{ each.index }}" }"#,
        r#"sent.out = { "OBX[1]-6" = "", "OBX[2]-6" = "2" }"#,
    );
    passes("[[transformer]]\neach = \"OBX\"\ndelete = \"OBX\"", r#"sent.out = { "OBX-1" = "", "NTE-1" = "1" }"#);
}

#[test]
fn lookup_replaces_codes() {
    let step = |more: &str| {
        format!("[[transformer]]\neach = \"OBX\"\nlookup = {{ field = \"OBX-3.1\", table = \"codes.csv\"{more} }}")
    };
    passes(&step(""), r#"sent.out = { "OBX[1]-3.1" = "2345-7", "OBX[2]-3.1" = "2951-2" }"#);
    passes_but_not(&step(", to = \"name\""), &step(""), r#"sent.out = { "OBX[1]-3.1" = "Glucose" }"#);
    passes_but_not(
        &step(", into = \"OBX-3.4\""),
        &step(""),
        r#"sent.out = { "OBX[1]-3.1" = "GLU", "OBX[1]-3.4" = "2345-7" }"#,
    );
    let back = "[[transformer]]\nset = { \"PID-8\" = \"2345-7\" }\n[[transformer]]\nlookup = { field = \"PID-8\", table = \"codes.csv\", from = \"loinc\", to = \"local\" }";
    passes(back, r#"sent.out = { "PID-8" = "GLU" }"#);
    let unknown = |otherwise: &str| {
        format!("[[transformer]]\nlookup = {{ field = \"PID-8\", table = \"codes.csv\"{otherwise} }}")
    };
    passes(&unknown(", otherwise = \"keep\""), r#"sent.out = { "PID-8" = "F" }"#);
    passes(&unknown(", otherwise = \"empty\""), r#"sent.out = { "PID-8" = "" }"#);
    passes(&unknown(", otherwise = \"error\""), "error = \"does not hold this code\"");
    passes(&unknown(""), "error = \"step 1 (c.toml:\"");
}

#[test]
fn template_writes_a_new_body_escaped_for_its_format() {
    passes(
        "[[transformer]]\ntemplate = \"order.hl7\"",
        r#"sent.out = { "MSH-3" = "T", "MSH-10" = "M1", "PID-3" = "B2", "PID-6" = "", "OBX-1" = "" }"#,
    );
    let folder = tempfile::tempdir().unwrap();
    for (template, expected) in [
        ("order.hl7", "MSH|^~\\&|T||||||ORM^O01|M1|P|2.5\rPID|1||B2||a\\F\\b\\S\\c\\R\\d\\E\\e\\T\\f\\.br\\g\r"),
        ("order.json", "{\"name\":\"Nagy\",\"odd\":\"a\\\"b\"}"),
        ("order.xml", "<name>&lt;&amp;&gt;</name>"),
        ("order.txt", "2 5.4,140 Nagy^Ilona"),
    ] {
        let file = folder.path().join("expected");
        std::fs::write(&file, expected).unwrap();
        passes(&format!("[[transformer]]\ntemplate = \"{template}\""), &format!("sent.out = \"{}\"", file.display()));
    }
}

#[test]
fn what_cannot_be_known_when_the_file_is_read_is_an_error_of_the_message() {
    passes("[[transformer]]\nset = { \"PID-8\" = \"{{ event.data.x }}\" }", "error = \"step 1 (c.toml:5): c.toml:6\"");
    passes("[[transformer]]\nset = { \"OBX[9]-5\" = \"x\" }", "error = \"OBX[9]-5\"");
    passes("[[transformer]]\nset = { \"/a\" = \"x\" }", "error = \"the message is HL7 at this step\"");
    passes(
        "[[transformer]]\nset = { \"PID-8\" = \"{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}\" }",
        "error = \"more steps than\"",
    );
}

#[test]
fn time_is_that_of_the_receipt() {
    passes(
        r#"[[transformer]]
set = { "MSH-7" = "{{ now() | hl7_ts }}", "PID-8" = "{{ ulid() == meta.id }}", "PID-9" = "{{ meta.received_at | date('%Y-%m-%d') }}" }"#,
        r#"sent.out = { "MSH-7" = "20260115103000+0000", "PID-8" = "True", "PID-9" = "2026-01-15" }"#,
    );
}

#[test]
fn a_latin_1_message_stays_latin_1() {
    // `set` keeps the message's own character set: the bytes of the untouched fields must not change.
    let message = "MSH|^~\\&|A|B|C|D|2026||ORU^R01|M1|P|2.5||||||8859/1\rPID|1||1||N\u{e9}meth\r";
    let latin1: Vec<u8> = message.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.hl7"), &latin1).unwrap();
    let mut expected = latin1.clone();
    let at = expected.windows(4).position(|window| window == b"|1||").unwrap();
    expected.splice(at + 3..at + 3, *b"\xc9");
    std::fs::write(folder.path().join("expected.hl7"), &expected).unwrap();
    let text = "name = \"c\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[[transformer]]\nset = { \"PID-2\" = \"É\" }\n[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n[[test]]\nname = \"t\"\ninput = \"in.hl7\"\nsent.out = \"expected.hl7\"\n";
    let file = SourceFile::new(Path::new("c.toml"), text);
    let (spec, diagnostics) = channel::parse(&folder.path().join("c.toml"), &file, folder.path());
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    let spec = spec.unwrap();
    let result = test::run(&spec, &spec.tests[0]);
    assert!(result.passed(), "{:?}", result.failures);
}

//! `split`, `convert` and `charset`, each through a channel file and `labwire test`'s own runner.

use std::path::Path;

use labwire::channel::{self, test};
use labwire::diagnostic::SourceFile;

use crate::steps::run_with;

const MESSAGE: &str = "MSH|^~\\&|LAB|ACME|X|Y|20260115||ORU^R01|M1|P|2.5\rPID|1||A1||Nagy^Éva\rOBR|1|O1\rOBX|1|NM|GLU||5.4\rOBR|2|O2\rOBX|1|NM|NA||140\rOBX|2|NM|K||4.1\r";

const FILES: &[(&str, &str)] = &[
    (
        "orders.xml",
        "<o:orders xmlns:o='u'><o:order id='1'><code>GLU</code></o:order><o:order id='2'><code>NA</code></o:order></o:orders>",
    ),
    (
        "code.xml",
        "<code id=\"{{ msg['/order/@id'] }}\">{{ msg['/order/code'] }} {{ msg.count('/order/code') }} {{ msg.all('/order/*') | join }} {{ meta.part.number }}</code>",
    ),
    ("lines.txt", "one\n\n  two\nthree\n"),
    ("lines.json", "{\"line\": {{ msg.text() ~ '/' ~ meta.part.number }}}"),
    ("two.txt", "{\"a\":1}\n{\"a\":2}\n"),
    ("bad.txt", "{\"a\":1}\n{\"secret\n"),
    ("one.json", "{\"list\":[{\"a\":1},{\"a\":2}],\"not\":7}"),
    ("row.csv", "{{ 'a,b' }};{{ 'say \"x\"' }};{{ 1 }}\n"),
    ("quoted.csv", "a;\"{{ 1 }}\"\n"),
    ("text.txt", "{{ msg['PID-5.2'] }}"),
    ("euro.txt", "secret\n{{ '\u{20ac}' }}"),
    ("document.json", "{\"sha\": {{ msg.bytes() | sha256 }}, \"back\": {{ 'aGk=' | base64_decode | base64 }}}"),
];

#[track_caller]
fn passes(steps: &str, expected: &str) {
    let failures = run_with(MESSAGE, FILES, steps, expected).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    assert!(failures.is_empty(), "{steps}\n{failures:?}");
}

fn step(verb: &str) -> String {
    format!("[[transformer]]\n{verb}\n")
}

fn steps(verbs: &[&str]) -> String {
    verbs.iter().map(|verb| step(verb)).collect()
}

#[test]
fn hl7_is_split_at_a_segment() {
    passes(
        &step("split = \"OBR\""),
        r#"sent.out = [
{ "MSH-10" = "M1.1", "PID-5.1" = "Nagy", "OBR-2" = "O1", "OBX-3" = "GLU", "OBX[2]-3" = "", "OBR[2]-2" = "" },
{ "MSH-10" = "M1.2", "PID-5.1" = "Nagy", "OBR-2" = "O2", "OBX-3" = "NA", "OBX[2]-3" = "K" }]"#,
    );
    // What leaves is a message of its own, also where its id would not fit: MSH-10 has 20 characters.
    let long = MESSAGE.replace("|M1|", "|12345678901234567890|");
    let expected = r#"sent.out = [{ "OBR-2" = "O1", "MSH-10" = "12345678901234567890.1" }, { "OBR-2" = "O2" }]"#;
    let failures = run_with(&long, FILES, &step("split = \"OBR\""), expected).unwrap();
    assert!(failures.len() == 1 && failures[0].contains("MSH-10"), "{failures:?}");
    passes(&step("split = \"ORC\""), "filtered = true");
    passes(
        &steps(&[
            "split = \"OBR\"",
            "filter = \"meta.part.number == 2\"",
            "set = { \"PID-2\" = \"{{ meta.part.number }}\" }",
        ]),
        r#"sent.out = { "PID-2" = "2", "OBR-2" = "O2" }"#,
    );
    passes(
        &steps(&["split = \"OBR\"", "split = \"OBX\""]),
        r#"sent.out = [
{ "OBR-2" = "O1", "OBX-3" = "GLU", "MSH-10" = "M1.1.1" },
{ "OBR-2" = "O2", "OBX-3" = "NA", "MSH-10" = "M1.2.1" },
{ "OBR-2" = "O2", "OBX-3" = "K", "MSH-10" = "M1.2.2" }]"#,
    );
    passes(
        &format!("{}when = \"msg['MSH-11'] == 'T'\"\n", step("split = \"OBR\"")),
        r#"sent.out = { "MSH-10" = "M1" }"#,
    );
}

#[test]
fn one_part_that_fails_does_not_keep_the_others() {
    let steps =
        steps(&["split = \"OBR\"", "lookup = { field = \"OBX-3.1\", table = \"codes.csv\", otherwise = \"error\" }"]);
    let folder_files: Vec<(&str, &str)> = FILES.iter().copied().chain([("codes.csv", "a,b\nGLU,2345-7\n")]).collect();
    let expected = "error = \"OBX-3.1: the table does not hold this code\"\nsent.out = { \"OBX-3.1\" = \"2345-7\" }";
    let failures = run_with(MESSAGE, &folder_files, &steps, expected).unwrap();
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn json_xml_and_lines_are_split() {
    passes(&steps(&["template = \"one.json\"", "split = \"/list\""]), r#"sent.out = [{ "/a" = "1" }, { "/a" = "2" }]"#);
    passes(
        &steps(&["convert = \"json\"", "split = \"/segments\"", "filter = \"msg['segment'] == 'OBX'\""]),
        r#"sent.out = [{ "/3" = "GLU" }, { "/3" = "NA" }, { "/3" = "K" }]"#,
    );
    passes(
        &steps(&[
            "template = \"orders.xml\"",
            "split = \"/orders/order\"",
            "template = \"code.xml\"",
            "convert = \"json\"",
        ]),
        r#"sent.out = [{ "/code/@id" = "1", "/code/#text" = "GLU 1 GLU 1" }, { "/code/@id" = "2", "/code/#text" = "NA 1 NA 2" }]"#,
    );
    passes(
        &steps(&["template = \"orders.xml\"", "split = \"/orders/order\""]),
        r#"sent.out = [{ "/order/@id" = "1", "/order/code" = "GLU", "/order/none" = "" }, { "/order/@id" = "2" }]"#,
    );
    passes(
        &steps(&["template = \"lines.txt\"", "split = \"lines\"", "template = \"lines.json\""]),
        r#"sent.out = [{ "/line" = "one/1" }, { "/line" = "  two/2" }, { "/line" = "three/3" }]"#,
    );
    passes(&steps(&["template = \"two.txt\"", "split = \"ndjson\""]), r#"sent.out = [{ "/a" = "1" }, { "/a" = "2" }]"#);
    passes(
        &steps(&["template = \"two.txt\"", "split = \"ndjson\"", "template = \"one.json\"", "split = \"/list\""]),
        r#"sent.out = [{ "/a" = "1" }, { "/a" = "2" }, { "/a" = "1" }, { "/a" = "2" }]"#,
    );
    for (verbs, problem) in [
        (&["template = \"bad.txt\"", "split = \"ndjson\""][..], "it cannot be split: line 2 is not JSON: column"),
        (&["template = \"one.json\"", "split = \"/not\""], "it cannot be split: /not is no array"),
        (&["template = \"one.json\"", "split = \"elements\""], "it cannot be split: the message is no array"),
        (&["split = \"rows\""], "it cannot be split: the message is HL7 at this step"),
        (&["convert = \"json\"", "split = \"OBR\""], "it cannot be split: the message is JSON at this step"),
        (&["template = \"lines.txt\"", "convert = \"hl7\""], "text is not made HL7 by `convert`"),
    ] {
        passes(&steps(verbs), &format!("error = \"{problem}\""));
    }
}

#[test]
fn mistakes_in_a_split() {
    for (text, problem) in [
        ("[[transformer]]\nsplit = \"row\"\n", "nothing can be split at `row`"),
        ("[[transformer]]\nsplit = \"MSH\"\n", "nothing can be split at `MSH`"),
        ("[[transformer]]\nsplit = \"OBX-5\"\n", "nothing can be split at `OBX-5`"),
        ("[[transformer]]\nsplit = \"/a/@b\"\n", "leads to an attribute"),
        ("[[transformer]]\neach = \"OBX\"\nsplit = \"OBX\"\n", "it cannot have `each`"),
        ("[[transformer]]\nconvert = \"yaml\"\n", "yaml"),
        ("[[transformer]]\ntemplate = \"quoted.csv\"\n", "are put into quotes where they need them"),
    ] {
        let mistakes = run_with(MESSAGE, FILES, text, "").expect_err(text);
        assert!(mistakes[0].contains(problem), "{text}: {mistakes:?}");
    }
    let own = parse("[[destination.out.transformer]]\nsplit = \"OBX\"\n").expect_err("in a destination");
    assert!(own[0].contains("`split` makes several messages for all destinations"), "{own:?}");
}

#[test]
fn hl7_there_and_back() {
    passes(
        &steps(&["convert = \"json\"", "convert = \"hl7\""]),
        r#"sent.out = { "PID-5.1" = "Nagy", "PID-5.2" = "Éva", "OBX[3]-5" = "4.1", "MSH-10" = "M1" }"#,
    );
    passes(&step("convert = \"json\""), r#"sent.out = { "/segments/1/5/2" = "Éva", "/segments/0/9/1" = "ORU" }"#);
    passes(
        &steps(&["convert = \"xml\"", "convert = \"hl7\""]),
        r#"sent.out = { "PID-5.2" = "Éva", "OBX[3]-5" = "4.1" }"#,
    );
    passes(
        &steps(&["convert = \"xml\"", "convert = \"json\""]),
        r#"sent.out = { "/HL7Message/PID/PID.5/PID.5.2" = "Éva", "/HL7Message/OBX/2/OBX.5/OBX.5.1" = "4.1" }"#,
    );
    passes(&step("convert = \"hl7\""), r#"sent.out = { "PID-5.2" = "Éva" }"#);
}

#[test]
fn bytes_in_expressions() {
    use sha2::Digest as _;
    let sha: String = sha2::Sha256::digest(MESSAGE).iter().map(|byte| format!("{byte:02x}")).collect();
    passes(
        &step("template = \"document.json\""),
        &format!("sent.out = {{ \"/sha\" = \"{sha}\", \"/back\" = \"aGk=\" }}"),
    );
    // A document in OBX-5, out and in again.
    let with_document = MESSAGE.replace("|NM|GLU||5.4", "|ED|GLU||^application^pdf^Base64^JVBERv8=");
    let steps = step(
        "set = { \"OBX-5.5\" = \"{{ msg['OBX-5.5'] | base64_decode | base64 }}\", \"PID-2\" = \"{{ msg['OBX-5.5'] | base64_decode | sha256 }}\" }",
    );
    let sha: String = sha2::Sha256::digest(b"%PDF\xff").iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = format!("sent.out = {{ \"OBX-5.5\" = \"JVBERv8=\", \"PID-2\" = \"{sha}\" }}");
    let failures = run_with(&with_document, FILES, &steps, &expected).unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    let steps = step("set = { \"PID-2\" = \"{{ msg['OBX-5.5'] | base64_decode }}\" }");
    let failures =
        run_with(&with_document, FILES, &steps, "error = \"bytes that are not UTF-8 cannot be put out as text\"")
            .unwrap();
    assert!(failures.is_empty(), "{failures:?}");
}

/// A channel with more in its file, or its mistakes.
fn parse(more: &str) -> Result<(tempfile::TempDir, channel::ChannelSpec), Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.hl7"), MESSAGE).unwrap();
    FILES.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
    let text = format!(
        "name = \"c\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n{more}\n[[test]]\nname = \"t\"\ninput = \"in.hl7\"\nsent.out = \"expected\"\n"
    );
    let path = folder.path().join("c.toml");
    let file = SourceFile::new(Path::new("c.toml"), text);
    let (spec, diagnostics) = channel::parse(&path, &file, folder.path());
    let mistakes: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    if mistakes.is_empty() { Ok((folder, spec.expect("there was no mistake"))) } else { Err(mistakes) }
}

/// What leaves, byte for byte.
fn sent(more: &str) -> Vec<u8> {
    let (_folder, spec) = parse(more).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let result = test::run(&spec, &spec.tests[0]);
    assert!(result.failures.is_empty(), "{:?}", result.failures);
    result.files[0].sent.to_vec()
}

#[test]
fn a_destination_has_a_character_set() {
    assert_eq!(sent(""), MESSAGE.as_bytes());
    let latin = sent("charset = \"8859/1\"");
    assert!(latin.windows(7).any(|bytes| bytes == b"Nagy^\xc9v") && latin.windows(7).any(|bytes| bytes == b"|8859/1"));
    let template = |file: &str, set: &str| {
        sent(&format!("charset = \"{set}\"\n[[destination.out.transformer]]\ntemplate = \"{file}\"\n"))
    };
    assert_eq!(template("text.txt", "windows-1252"), b"\xc9va");
    assert_eq!(template("text.txt", "UTF-8"), "Éva".as_bytes());
    let xml = template("orders.xml", "8859/2");
    assert!(xml.starts_with(b"<?xml version=\"1.0\" encoding=\"ISO-8859-2\"?>\n<o:orders"));
    assert_eq!(template("row.csv", "windows-1252"), b"\"a,b\";\"say \"\"x\"\"\";1");
    for (file, set, problem) in [
        ("euro.txt", "8859/1", "line 2, character 1 does not exist in ISO-8859-1"),
        ("one.json", "8859/1", "JSON is UTF-8"),
    ] {
        let (_folder, spec) =
            parse(&format!("charset = \"{set}\"\n[[destination.out.transformer]]\ntemplate = \"{file}\"\n")).unwrap();
        let failures = format!("{:?}", test::run(&spec, &spec.tests[0]).failures);
        assert!(failures.contains(problem) && !failures.contains("secret"), "{failures}");
    }
    let mistakes = parse("charset = \"klingon\"").expect_err("no set");
    assert!(mistakes[0].contains("`klingon` is not a character set"), "{mistakes:?}");
}

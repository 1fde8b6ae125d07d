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
    run_with(message, &[], steps, expected).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

/// The same with more files beside the channel file; what the test runner found, or the mistakes of the channel file.
pub fn run_with(
    message: &str,
    files: &[(&str, &str)],
    steps: &str,
    expected: &str,
) -> Result<Vec<String>, Vec<String>> {
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
    files.iter().for_each(|(name, text)| write(name, text));
    let text = format!(
        "name = \"c\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{steps}\n[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n[[test]]\nname = \"t\"\ninput = \"in.hl7\"\n{expected}\n"
    );
    let path = folder.path().join("c.toml");
    let file = SourceFile::new(Path::new("c.toml"), text);
    let (spec, diagnostics) = channel::parse(&path, &file, folder.path());
    let mistakes: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let spec = spec.expect("there was no mistake");
    Ok(test::run(&spec, &spec.tests[0]).failures.iter().map(ToString::to_string).collect())
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

/// Runs one template file of this name, and compares what is sent (`Ok`) or the error of the message (`Err`).
#[track_caller]
fn template_writes(name: &str, template: &str, expected: Result<&str, &str>) {
    let step = format!("[[transformer]]\ntemplate = \"{name}\"");
    let (expected, toml) = match expected {
        Ok(body) => (body, "sent.out = \"expected\"".to_owned()),
        Err(error) => ("", format!("error = \"{error}\"")),
    };
    let message = "MSH|^~\\&|A|B|C|D|2026||ORU^R01|M1|P|2.5\rPID|1||1||a\\F\\b\\X0D\\PID\\F\\2\r";
    let failures = run_with(message, &[(name, template), ("expected", expected)], &step, &toml);
    assert_eq!(failures, Ok(vec![]), "{name}: {template}");
}

/// The mistakes of a channel file with this template file.
fn template_mistakes(name: &str, template: &str) -> String {
    let step = format!("[[transformer]]\ntemplate = \"{name}\"");
    run_with(MESSAGE, &[(name, template)], &step, "filtered = false").expect_err(template).join("\n")
}

#[test]
fn a_value_cannot_break_out_of_an_hl7_template() {
    const HEADER: &str = "MSH|^~\\&|T||||||ORM^O01|M1|P|2.5";
    let escaped = format!("{HEADER}\rPID|a\\F\\b\\.br\\PID\\F\\2\r");
    for (name, value) in [
        ("t.hl7", "{{ msg['PID-5'] }}"),
        ("T.HL7", "{{ msg['PID-5'] }}"),
        ("t.Er7", "{{ msg['PID-5'] }}"),
        ("t.hl7", "{{ msg['PID-5'] | escape }}"),
        ("t.hl7", "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(msg['PID-5']) }}"),
        ("t.hl7", "{% set x %}{{ msg['PID-5'] }}{% endset %}{{ x }}"),
    ] {
        template_writes(name, &format!("{HEADER}\nPID|{value}\n"), Ok(&escaped));
    }
    let json = format!("{HEADER}\rPID|\"x\\F\\y\"\r");
    template_writes("t.hl7", &format!("{HEADER}\nPID|{{{{ 'x|y' | tojson }}}}"), Ok(&json));
    template_writes("t.hl7", &format!("{HEADER}\nPID|{{{{ ['x|y'] | map('tojson') | join }}}}"), Ok(&json));
    let by_map = format!("{HEADER}\nPID|{{{{ ['x|y'] | map('safe') | join }}}}");
    template_writes("t.hl7", &by_map, Err("`safe` is for JSON and XML templates"));
    assert!(template_mistakes("t.hl7", "MSH|^~\\&|{{ 'x' | safe }}").contains("`safe` is for JSON and XML templates"));
    assert!(template_mistakes("t.hl7", "{% autoescape false %}MSH{% endautoescape %}").contains("escaping cannot be"));
    template_writes("t.xml", "<a b=\"{{ 'x' | tojson }}\"/>", Ok("<a b=\"&quot;x&quot;\"/>"));
    template_writes("t.json", "{{ 'x\"' | tojson }}", Ok("\"x\\\"\""));
}

#[test]
fn an_hl7_template_must_write_the_separators_that_it_is_escaped_for() {
    for template in [
        "{{ 'MSH' }}|$~\\&|T||||||ORM^O01|M1|P|2.5\nPID|x\n",
        "{# MSH is below\nMSH|$~\\&| #}MSH|^~\\&|T||||||ORM^O01|M1|P|2.5\n",
    ] {
        template_writes("t.hl7", template, Err("its MSH declares other separators"));
    }
    let without_escape = "MSH|^~|T||||||ORM^O01|M1|P|2.5\nPID|{{ VALUE }}\n";
    template_writes("t.hl7", &without_escape.replace("VALUE", "'a|b'"), Err("a value needs an escape character"));
    template_writes(
        "t.hl7",
        &without_escape.replace("VALUE", "msg['PID-5']"),
        Err("a value needs an escape character"),
    );
    let plain = "MSH|^~|T||||||ORM^O01|M1|P|2.5\rPID|a&b\r";
    template_writes("t.hl7", &without_escape.replace("VALUE", "'a&b'"), Ok(plain));
}

#[test]
fn a_tag_at_the_end_of_a_line_leaves_the_segments_end() {
    template_writes(
        "t.hl7",
        "{% set x = 1 %}\nMSH|^~\\&|A|{% if true %}B{% endif %}\nPID|1||{% if false %}y{% endif %}\n  {% if true %}\n  NTE|1{# note #}\n  {% endif %}\nZZZ|1\n",
        Ok("MSH|^~\\&|A|B\rPID|1||\rNTE|1\rZZZ|1\r"),
    );
    template_writes("t.txt", "{% if true %}\nx\n{% endif %}\ny", Ok("x\ny"));
}

#[test]
fn a_template_file_says_its_format_by_its_ending() {
    for name in ["t", "t.hl7.j2", "t.tmpl"] {
        let mistakes = template_mistakes(name, "x");
        assert!(mistakes.contains("no ending that says what it writes") && mistakes.contains(".er7"), "{mistakes}");
    }
    assert!(template_mistakes("t.hl7", " \n").contains("is empty"));
    for name in ["t.htm", "t.HTML"] {
        template_writes(name, "{{ '<' }}", Ok("&lt;"));
    }
    template_writes("t.CSV", "{{ '<|' }}", Ok("<|"));
}

/// Steps on a JSON body.
#[track_caller]
fn on_json(steps: &str, expected: Result<&str, &str>) {
    let body = "{\"patient\":{\"name\":\"x\",\"list\":[{\"a\":1},{\"a\":2}]}}";
    let steps = format!("[[transformer]]\ntemplate = \"body.json\"\n[[transformer]]\n{steps}");
    let (expected, toml) = match expected {
        Ok(body) => (body, "sent.out = \"expected.json\"".to_owned()),
        Err(error) => ("{}", format!("error = \"{error}\"")),
    };
    let found = run_with(MESSAGE, &[("body.json", body), ("expected.json", expected)], &steps, &toml);
    assert_eq!(found, Ok(vec![]), "{steps}");
}

#[test]
fn json_keeps_its_structure() {
    let out_of_range = "/patient/list/5: the array has 2 elements";
    on_json("set = { \"/patient/list/5\" = \"x\" }", Err(out_of_range));
    on_json("copy = { \"/patient/list/5\" = \"/patient/name\" }", Err(out_of_range));
    on_json("set = { \"/patient/list/2/a\" = \"x\" }", Err("the array has 2 elements"));
    on_json("set = { \"/patient/list/name\" = \"x\" }", Err("are numbers from 0, or `-`"));
    on_json("set = { \"/patient/list/01\" = \"x\" }", Err("are numbers from 0, or `-`"));
    on_json("set = { \"/patient/name/first\" = \"x\" }", Err("neither an object nor an array"));
    on_json(
        "set = { \"/patient/list/-\" = \"x\", \"/patient/list/1/b/c\" = 7, \"/patient/list/0\" = -1 }",
        Ok("{\"patient\":{\"name\":\"x\",\"list\":[-1,{\"a\":2,\"b\":{\"c\":7}},\"x\"]}}"),
    );
    on_json(
        "each = \"/patient/list\"\nset = { \"/patient/list/*/a\" = 0 }",
        Ok("{\"patient\":{\"name\":\"x\",\"list\":[{\"a\":0},{\"a\":0}]}}"),
    );
}

#[test]
fn a_star_needs_its_each() {
    for steps in [
        "set = { \"/list/*/a\" = \"x\" }",
        "each = \"/other\"\nset = { \"/list/*\" = \"x\" }",
        "each = \"/list\"\ncopy = { \"/a\" = \"/list/*/b/*\" }",
        "each = \"OBX\"\ndelete = \"/list/*\"",
        "lookup = { field = \"/list/*\", table = \"codes.csv\" }",
    ] {
        let mistakes = run_with(MESSAGE, &[], &format!("[[transformer]]\n{steps}"), "filtered = false");
        let mistakes = mistakes.expect_err(steps).join("\n");
        assert!(mistakes.contains("stands for no element"), "{steps}: {mistakes}");
    }
}

/// Runs on half the stack of a worker thread: the limits must leave room for whatever called.
fn on_a_small_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(1024 * 1024).spawn_scoped(scope, work);
        thread.unwrap().join().unwrap()
    })
}

#[test]
fn an_expression_cannot_exhaust_the_stack() {
    let many = |text: &str, count: usize| text.repeat(count);
    let shapes: [(&str, &str, &str); 12] = [
        ("true", " or true", ""),
        ("1", "+1", ""),
        ("msg", ".a", ""),
        ("'a'", "|upper", ""),
        ("msg", "['a']", ""),
        ("msg", "()", ""),
        ("1", " is number", ""),
        ("", "not ", "true"),
        ("", "-", "1"),
        ("2", "**2", ""),
        ("1", " if 1 else 1", ""),
        ("'a'", "~'a'", ""),
    ];
    let check = |value: String, is_template: bool| {
        let files = if is_template { vec![("t.txt", value.as_str())] } else { vec![] };
        let step = if is_template { "template = \"t.txt\"".to_owned() } else { format!("filter = \"{value}\"") };
        run_with(MESSAGE, &files, &format!("[[transformer]]\n{step}"), "filtered = false")
    };
    on_a_small_stack(|| {
        for (start, link, end) in shapes {
            let chain = |count| format!("{start}{}{end}", many(link, count));
            let found = check(chain(2_000), false).expect_err("too long");
            assert!(found[0].contains("than 200 operators") || found[0].contains("at most 16384"), "{found:?}");
            let found = check(format!("{{{{ {} }}}}", chain(60_000)), true).expect_err("too long");
            assert!(found[0].contains("than 200 operators"), "{found:?}");
            // As long as may be: a mistake of the expression or of the message, if any, and no more.
            let _ = check(chain(66), false);
            let _ = check(format!("{{{{ {} }}}}", chain(200)), true);
        }
        let elifs = |count| format!("{{% if false %}}{}{{% endif %}}", many("{% elif false %}", count));
        assert!(check(elifs(20_000), true).expect_err("too many")[0].contains("`elif`"));
        assert!(check(elifs(64), true).expect_err("too many")[0].contains("more than 64 blocks"));
        assert_eq!(check(elifs(63), true).expect("well formed"), Vec::<String>::new());
        for (open, close) in [("(", ")"), ("[", "]"), ("{'a':", "}"), ("not (", ")")] {
            let nested = |count| format!("{}1{}", many(open, count), many(close, count));
            for found in [check(nested(33), false), check(format!("{{{{ {} }}}}", nested(20_000)), true)] {
                let found = found.expect_err("too deep");
                assert!(found[0].contains("more than 32 brackets") || found[0].contains("16384"), "{found:?}");
            }
            check(nested(32), false).expect("well formed");
        }
        for (open, close) in
            [("if true", "endif"), ("for x in [1]", "endfor"), ("set x", "endset"), ("with a=1", "endwith")]
        {
            let nested = |count| {
                let (open, close) = (format!("{{% {open} %}}"), format!("{{% {close} %}}"));
                format!("{}{{{{ 1{} }}}}{}", many(&open, count), many("+1", 200), many(&close, count))
            };
            for count in [65, 20_000] {
                assert!(check(nested(count), true).expect_err("too deep")[0].contains("more than 64 blocks"));
            }
            check(nested(64), true).expect("well formed");
        }
        let one_after_another = many("{% set x = 1 %}{% if x %}{% elif x %}{% else %}{% endif %}{{ [x] }}", 200);
        assert_eq!(check(one_after_another, true).expect("well formed"), Vec::<String>::new());
        let endless = "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}";
        assert!(!check(endless.to_owned(), true).expect("well formed").is_empty(), "an endless macro is an error");
    });
}

#[test]
fn a_namespace_counts_over_loops_and_cannot_grow_deep() {
    let counter = "{% set ns = namespace(n=0, t='') %}{% for i in range(3) %}{% for j in range(2) %}{% set ns.n = ns.n + 1 %}{% set ns.t = ns.t ~ j %}{% endfor %}{% endfor %}{{ ns.n }} {{ ns.t }}";
    template_writes("t.txt", counter, Ok("6 010101"));
    for value in [
        "[ns.x]",
        "y",
        "y + y",
        "y * 1",
        "namespace(x=ns.x)",
        "{'a': ns.x}",
        "y | list",
        "[y] if y else 1",
        "y or 1",
        "1 | lookup('codes.csv', otherwise=y)",
    ] {
        let template = format!("{{% set ns = namespace(x=1) %}}{{% set y = [ns.x] %}}{{% set ns.x = {value} %}}");
        assert!(template_mistakes("t.txt", &template).contains("a namespace takes numbers and text"), "{value}");
    }
}

#[test]
fn no_sender_writes_a_channel_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.hl7"), MESSAGE.replace("|M1|", "|evil.toml|")).unwrap();
    let text = "name = \"c\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.out]\ntype = \"file\"\n\
        directory = \"../out\"\nfile_name = \"{{ msg['MSH-10'] }}\"\n[[test]]\nname = \"t\"\ninput = \"in.hl7\"\n\
        error = \"must not end in .toml\"\n";
    let file = SourceFile::new(Path::new("c.toml"), text);
    let (spec, diagnostics) = channel::parse(&folder.path().join("c.toml"), &file, folder.path());
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    let spec = spec.unwrap();
    assert!(test::run(&spec, &spec.tests[0]).passed());
}

#[test]
fn the_lab_of_a_channel_is_that_of_its_messages() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.hl7"), MESSAGE).unwrap();
    let text = "name = \"c\"\nlab = \"acme\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[[transformer]]\n\
        set = { \"MSH-6\" = \"{{ meta.lab }}\" }\n[destination.out]\ntype = \"file\"\ndirectory = \"../out\"\n\
        file_name = \"x\"\n[[test]]\nname = \"t\"\ninput = \"in.hl7\"\nsent.out = { \"MSH-6\" = \"acme\" }\n";
    let file = SourceFile::new(Path::new("c.toml"), text);
    let (spec, diagnostics) = channel::parse(&folder.path().join("c.toml"), &file, folder.path());
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    let spec = spec.unwrap();
    let result = test::run(&spec, &spec.tests[0]);
    assert!(result.passed(), "{:?}", result.failures);
}

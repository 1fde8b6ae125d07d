//! What is sent: method, URL, headers and content.

use bytes::Bytes;
use labwire::destination::FaultClass;
use labwire::journal::Outgoing;
use labwire::message::Format;

use super::{ADT, Sender, adt, channel, message_of};
use crate::lanes::{message, send};
use crate::support::eventually::eventually;
use crate::support::http_server::{HttpServer, Seen, ok};
use crate::support::options;
use crate::support::rig::Rig;

/// The request that a message becomes.
fn request(format: Format, content: &str, options: &str) -> Seen {
    let server = HttpServer::start(|_| ok());
    let mut sender = Sender::to(&server.url("/in"), options);
    sender.send(&message_of(format, content)).unwrap();
    server.seen().pop().unwrap()
}

#[test]
fn what_was_queued_for_another_kind_of_destination_is_not_sent() {
    let server = HttpServer::start(|_| ok());
    let outgoing = Outgoing { content: Bytes::from_static(b"MSH|"), ..Outgoing::default() };
    let error = Sender::to(&server.url("/in"), "").attempt(&outgoing).unwrap_err();
    assert_eq!(error.class, FaultClass::Content);
    assert!(error.message.contains("reprocess its message"), "{error}");
    assert!(server.seen().is_empty());
}

#[test]
fn a_request_is_as_plain_as_it_can_be() {
    let seen = request(Format::Hl7, ADT, "");
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.text().as_str()), ("POST", "/in", ADT));
    let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "host", "idempotency-key", "user-agent"]);
    assert_eq!(seen.header("User-Agent"), Some(concat!("labwire/", env!("CARGO_PKG_VERSION"))));
    assert!(seen.header("Host").unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn each_method_is_sent_with_the_body_that_goes_with_it() {
    for (method, body) in [("GET", ""), ("POST", ADT), ("PUT", ADT), ("PATCH", ADT), ("DELETE", "")] {
        let seen = request(Format::Hl7, ADT, &format!("method = \"{method}\""));
        assert_eq!((seen.method.as_str(), seen.text().as_str()), (method, body));
        assert_eq!(seen.header("Content-Type").is_some(), !body.is_empty());
    }
    assert_eq!(request(Format::Hl7, ADT, "body = \"none\"").text(), "");
}

#[test]
fn content_says_what_it_is() {
    let json = r#"{"a":1}"#;
    for (format, content, options, content_type) in [
        (Format::Hl7, ADT, "", "application/hl7-v2"),
        (Format::Json, json, "", "application/json"),
        (Format::Text, "Nágy", "", "text/plain; charset=utf-8"),
        (Format::Xml, "<a>Nágy</a>", "", "application/xml"),
        (Format::Xml, "<a/>", "body = \"xml\"", "application/xml"),
        (Format::Csv, "a,b\n1,2\n", "", "text/csv; charset=utf-8"),
        (Format::Bytes, "\u{1}", "", "application/octet-stream"),
        (Format::Json, json, "body = \"json\"", "application/json"),
        (Format::Text, "<a/>", "body = \"xml\"", "application/xml"),
        (Format::Text, "<a/>", "body = \"xml\"\ncontent_type = \"text/xml\"", "text/xml"),
        (Format::Json, json, "body = \"json\"\ncontent_type = \"application/fhir+json\"", "application/fhir+json"),
        (Format::Hl7, ADT, "body = \"raw\"\ncontent_type = \"text/plain\"", "text/plain"),
    ] {
        let seen = request(format, content, options);
        assert_eq!(seen.header("Content-Type"), Some(content_type), "{options}");
        assert_eq!(seen.text(), content);
    }
    for (format, content, kind) in [
        (Format::Hl7, ADT, "json"),
        (Format::Hl7, ADT, "xml"),
        (Format::Text, "SECRET", "xml"),
        (Format::Text, "SECRET", "json"),
    ] {
        let sender = Sender::to("http://127.0.0.1/", &format!("body = \"{kind}\""));
        let error = sender.config.prepare(&message_of(format, content)).unwrap_err().to_string();
        assert!(error.contains("with a `template` step first") && !error.contains("SECRET"), "{error}");
    }
}

#[test]
fn a_form_and_a_form_with_a_file() {
    const FIELDS: &str = "fields = { patient = \"{{ msg['PID-5.1'] }}\", note = \"a b&c=d\\nä\" }";
    let seen = request(Format::Hl7, ADT, &format!("body = \"form\"\n{FIELDS}"));
    assert_eq!(seen.text(), "note=a+b%26c%3Dd%0A%C3%A4&patient=SECRET");
    assert_eq!(seen.header("Content-Type"), Some("application/x-www-form-urlencoded"));

    let part = "part = { name = \"fi\\\"le\", file_name = \"{{ msg['MSH-10'] }}.hl7\" }";
    for (more, file_type) in [("", "application/hl7-v2"), ("content_type = \"x-application/hl7\"", "x-application/hl7")]
    {
        let seen = request(Format::Hl7, ADT, &format!("body = \"multipart\"\n{FIELDS}\n{part}\n{more}"));
        let content_type = seen.header("Content-Type").unwrap();
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
        let expected = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\na b&c=d\nä\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"patient\"\r\n\r\nSECRET\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"fi%22le\"; filename=\"k1.hl7\"\r\n\
             Content-Type: {file_type}\r\n\r\n{ADT}\r\n--{boundary}--\r\n"
        );
        assert_eq!(seen.text(), expected);
    }
}

#[test]
fn what_comes_from_a_message_stays_in_its_place() {
    let hostile = ADT.replace("77", "a/../b?x=1#z @evil").replace("ADT^A01", "ADT^A\\X0D\\\\X0A\\Evil: 1");
    let server = HttpServer::start(|_| ok());
    let url = server.url("/patients/{{ msg['PID-3'] }}/in?id={{ msg['PID-3'] }}");
    let mut sender =
        Sender::to(&url, "headers = { \"X-Patient\" = \"id {{ msg['PID-3'] }}\", \"User-Agent\" = \"me\" }");
    sender.send(&message_of(Format::Hl7, &hostile)).unwrap();
    let seen = server.seen().pop().unwrap();
    let encoded = "a%2F..%2Fb%3Fx%3D1%23z%20%40evil";
    assert_eq!(seen.target, format!("/patients/{encoded}/in?id={encoded}"));
    assert_eq!(seen.header("X-Patient"), Some("id a/../b?x=1#z @evil"));
    assert_eq!(seen.header("User-Agent"), Some("me"));

    let sender = Sender::to("http://127.0.0.1/", "headers = { \"X-Type\" = \"{{ msg['MSH-9.2'] }}\" }");
    let error = sender.config.prepare(&message_of(Format::Hl7, &hostile)).unwrap_err().to_string();
    assert!(error.contains("a line break, a control character") && !error.contains("Evil"), "{error}");
}

/// Two attempts, a restart in between: nothing of the request changes. Two destinations at one server: two keys.
#[test]
fn every_attempt_is_the_same_request() {
    let mut asked = 0;
    let server = HttpServer::start(move |seen| {
        asked += usize::from(seen.target.starts_with("/a"));
        match seen.target.starts_with("/a") && asked < 3 {
            true => crate::support::http_server::answer("503 Service Unavailable", "", ""),
            false => ok(),
        }
    });
    let options =
        "headers = { \"X-At\" = \"{{ now() }} {{ ulid() }}\" }\nretry = { first = \"100ms\", longest = \"100ms\" }";
    let both = channel(&server.url("/a?{{ meta.id }}"), options)
        + &format!(
            "[destination.\"other.web\"]\ntype = \"http\"\nurl = \"{}\"\nnetworks = [\"127.0.0.1\"]\n",
            server.url("/b")
        );
    let mut rig = Rig::with(&both);
    send(&rig, &["A1"]);
    eventually("a first attempt", || server.seen().iter().any(|seen| seen.target.starts_with("/a")).then_some(()));
    rig.kill();
    rig.start();
    rig.wait_for("sent", 1);
    let id = message(&rig, "A1")["id"].as_str().unwrap().to_owned();
    let (first, second): (Vec<_>, Vec<_>) = server.seen().into_iter().partition(|seen| seen.target.starts_with("/a"));
    assert!(first.len() >= 3);
    for seen in &first {
        assert_eq!((&seen.target, &seen.headers, &seen.body), (&first[0].target, &first[0].headers, &first[0].body));
    }
    assert_eq!(first[0].header("Idempotency-Key"), Some(format!("{id}-web").as_str()));
    assert_eq!(second[0].header("Idempotency-Key"), Some(format!("{id}-other~web").as_str()));
}

#[test]
fn mistakes_in_options_are_told() {
    for (text, words) in [
        ("method = \"GET\"\nbody = \"raw\"", "has a body that GET and DELETE do not carry"),
        ("method = \"FETCH\"", "FETCH"),
        ("body = \"form\"", "sends a form without `fields`"),
        ("fields = { a = \"b\" }", "has `fields` that are sent nowhere"),
        ("body = \"multipart\"", "sends a multipart body without `part`"),
        ("part = { name = \"a\", file_name = \"b\" }", "has a `part` that is sent nowhere"),
        ("content_type = \"json\"", "has a `content_type` that is none"),
        ("body = \"none\"\ncontent_type = \"text/plain\"", "has a `content_type` that is sent nowhere"),
        ("headers = { \"X Y\" = \"a\" }", "header `X Y` cannot be a header's name"),
        ("headers = { Authorization = \"a\" }", "header `Authorization` cannot be written here"),
        ("headers = { \"X-A\" = \"a\", x-a = \"b\" }", "header `x-a` is written twice"),
        ("headers = { host = \"a\" }", "header `host` cannot be written here"),
        ("headers = { \"Content-Length\" = \"1\" }", "cannot be written here"),
        ("headers = { \"Idempotency-Key\" = \"1\" }", "cannot be written here"),
        ("auth = {}", "needs one kind of login in `auth`"),
        (
            "auth = { bearer = { env = \"A\" }, basic = { user = \"u\", password = { env = \"A\" } } }",
            "needs one kind of login",
        ),
        ("auth = { bearer = \"abc\" }", "a secret must not be written into a channel file"),
        (
            "auth = { api_key = { header = \"Host\", key = { env = \"A\" } } }",
            "has an `api_key` whose `header` cannot be",
        ),
        ("sign = { standard_webhooks = [] }", "signs with no secret"),
        ("proxy = { address = \"p:1\", user = \"u\" }", "has a `proxy` with half a login"),
        ("tls = true", "has `tls` that no URL speaks"),
        ("responses = [{ header = \"a\", pointer = \"/b\", then = \"dead\" }]", "has both `header` and `pointer`"),
        ("responses = [{ equals = \"a\", contains = \"b\", then = \"dead\" }]", "has both `equals` and `contains`"),
        ("responses = [{ pointer = \"b\", then = \"dead\" }]", "does not begin with `/`"),
        ("responses = [{ status = 99, then = \"dead\" }]", "this is no status of an answer"),
        ("responses = [{ status = \"6xx\", then = \"dead\" }]", "this is no status of an answer"),
        ("responses = [{ status = 200, then = \"ded\" }]", "cannot be `ded`: did you mean `dead`?"),
        ("networks = [\"lis.example\"]", "`lis.example` is no address and no network"),
        ("networks = []", "no address is in this list"),
        ("timeout = \"0s\"", "no peer is that fast"),
        ("connect_timeout = \"0s\"", "no peer is that fast"),
    ] {
        let mistakes = options::destination("http", &format!("url = \"http://lis.example/\"\n{text}")).expect_err(text);
        assert!(mistakes.iter().any(|mistake| mistake.contains(words)), "{text}: {mistakes:?}");
    }
    let mistakes = options::destination("http", "url = \"https://lis.example/\"\ntls = false").unwrap_err();
    assert!(mistakes[0].contains("cannot switch TLS off"), "{mistakes:?}");
}

/// What is in a URL, a header and an answer may be content: the journal has it, the log does not.
#[test]
fn no_content_in_the_log() {
    let server = HttpServer::start(|_| crate::support::http_server::answer("500 Nagy", "X-Name: Nagy\r\n", "Nagy"));
    let options = "headers = { \"X-Name\" = \"{{ msg['PID-5'] }}\" }\nretry = { attempts = 2, first = \"1ms\" }";
    let mut rig = Rig::new();
    rig.environment.push(("LABWIRE_LOG".to_owned(), "trace".to_owned()));
    rig.write("channels/channel.toml", channel(&server.url("/in/{{ msg['PID-5'] }}"), options));
    rig.start();
    send(&rig, &["A1"]);
    rig.wait_for("dead", 1);
    assert_eq!(server.seen()[0].target, "/in/Nagy");
    assert!(!rig.log().contains("Nagy"), "{}", rig.log());
    assert!(rig.log().contains("answered 500"), "{}", rig.log());
    let _ = adt();
}

/// `docs/http.md`: its examples are sound, and its tables have every option.
#[test]
fn the_documentation_is_true() {
    let docs = std::fs::read_to_string(crate::support::root().join("docs/http.md")).unwrap();
    let examples: Vec<&str> = docs.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let text = format!("name = \"c\"\n{}{}", examples[0], examples[1]);
    let path = std::path::Path::new("c.toml");
    let file = labwire::diagnostic::SourceFile::new(path, &text);
    let (spec, diagnostics) = labwire::channel::parse(path, &file, std::path::Path::new("."));
    assert!(spec.is_some() && diagnostics.is_empty(), "{diagnostics:?}");
    let schema = labwire::channel::json_schema();
    let (source, destination) = docs.split_once("## The `http` destination").unwrap();
    let kinds = [&schema["properties"]["source"], &schema["properties"]["destination"]["additionalProperties"]];
    let common = ["type", "when", "transformer", "retry", "on", "on_poison", "order_by", "parallel", "rate"];
    for (kinds, docs) in kinds.into_iter().zip([source, destination]) {
        let kind = kinds["oneOf"].as_array().unwrap().iter().find(|kind| kind["title"] == "http").unwrap();
        let options: Vec<_> = kind["properties"].as_object().unwrap().keys().collect();
        assert!(options.len() > 15, "{options:?}");
        for option in options.into_iter().filter(|option| !common.contains(&option.as_str())) {
            assert!(docs.contains(&format!("\n| `{option}` |")), "docs/http.md says nothing of `{option}`");
        }
    }
}

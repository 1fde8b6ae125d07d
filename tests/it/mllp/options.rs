//! What the options of the source say when they are wrong.

use labwire::config::Resource;

use crate::support::listener::Listener;
use crate::support::mllp_client::frame;
use crate::support::{mllp_client::field, options};

#[track_caller]
fn mistakes(text: &str) -> Vec<String> {
    options::source("mllp", text).map(|config| format!("{config:?}")).expect_err("a mistake in it")
}

/// A listener that was meant to be encrypted never comes up in the clear.
#[test]
fn tls_is_never_silently_left_out() {
    let text = "listen = \"127.0.0.1:0\"\ntls = { cert = { file = \"no.crt\" }, key = { env = \"NO_SUCH_KEY\" } }\n";
    let config = options::source("mllp", text).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(config.build(&options::place("source"))).err().unwrap().to_string();
    assert!(error.contains("no.crt"), "{error}");
}

#[test]
fn a_key_written_into_the_file_is_refused() {
    let text = "listen = \"127.0.0.1:0\"\ntls = { cert = { file = \"a.crt\" }, key = \"-----BEGIN\" }\n";
    let found = mistakes(text).join("\n");
    assert!(found.contains("test.toml:2:42: a secret must not be written into a channel file"), "{found}");
}

#[test]
fn every_mistake_has_its_place() {
    for (line, expected) in [
        ("ack = \"stored\"", "test.toml:2:7: `ack` cannot be `stored`"),
        ("max_frame = \"0B\"", "test.toml:2:13: no message is that small"),
        ("max_frame = \"16\"", "test.toml:2:13: `16` is not a size"),
        ("max_connections = 0", "test.toml:2:19: nobody could connect"),
        ("max_connections = -1", "test.toml:2:19: "),
        ("idle_timeout = \"0s\"", "test.toml:2:16: every connection would be closed at once"),
        ("byte_timeout = \"0s\"", "test.toml:2:16: no peer is that fast"),
        ("frame_timeout = \"0ms\"", "test.toml:2:17: no peer is that fast"),
        ("frame_timeout = 30", "test.toml:2:17: `frame_timeout` must be a string"),
        ("duplicate_window = \"0s\"", "test.toml:2:20: no message comes again so soon"),
        ("duplicate_window = \"never\"", "test.toml:2:20: `never` is not a duration"),
        ("duplicate_window = false", "test.toml:2:20: `duplicate_window` must be a string"),
        ("charset = \"klingon\"", "test.toml:2:11: `klingon` is not a character set"),
        ("charset = \"UNICODE UTF-16\"", "test.toml:2:11: `UNICODE UTF-16` is not a character set"),
        ("charset = \"ISO IR87\"", "test.toml:2:11: JIS X 0208 cannot be read, only passed through"),
        ("tls = { cert = { file = \"a\" } }", "test.toml:2:7: missing key `key` in tls"),
        ("tls = true", "test.toml:2:7: `tls` must be a table"),
        (
            "tls = { cert = { file = \"a\" }, key = { file = \"b\" }, ca = 1 }",
            "test.toml:2:54: unknown key `ca` in tls",
        ),
        (
            "tls = { cert = { file = \"a\" }, key = { file = \"b\" }, handshake_timeout = \"0s\" }",
            "test.toml:2:74: no peer is that fast",
        ),
        (
            "tls = { cert = { file = \"a\" }, key = { file = \"b\" }, client_crl = { file = \"c\" } }",
            "test.toml:2:67: `client_crl` without `client_ca`",
        ),
        ("clients = { a = {} }", "test.toml:2:11: `clients` without `client_ca`"),
        (
            "tls = { cert = { file = \"a\" }, key = { file = \"b\" }, client_ca = { file = \"c\" } }\nclients = { a = { \"MSH-5\" = \"X\" } }",
            "test.toml:3:19: unknown key `MSH-5` in clients.a",
        ),
        ("allow = []", "test.toml:2:9: no address is in this list"),
        ("allow = [\"10.0.0.0/8\", \"lab\"]", "test.toml:2:24: `lab` is no address and no network"),
        ("allow = [\"10.1.0.0/8\"]", "test.toml:2:10: `10.1.0.0/8` is one address in the network `10.0.0.0/8`"),
        ("max_connections_per_address = 0", "test.toml:2:31: nobody could connect"),
        ("stale_timestamp = { then = \"reject\" }", "test.toml:2:19: missing key `older_than` in stale_timestamp"),
        ("stale_timestamp = { older_than = \"0s\" }", "test.toml:2:34: no peer is that fast"),
        (
            "stale_timestamp = { older_than = \"1h\", then = \"drop\" }",
            "test.toml:2:47: `stale_timestamp.then` cannot be `drop`",
        ),
        ("acknowledgements = \"answer\"", "test.toml:2:20: `acknowledgements` cannot be `answer`"),
        ("release = \"2\"", "test.toml:2:11: `release` must be an integer"),
        ("framing = { start = \"STX\", end = \"CR\" }", "test.toml:2:11: CR (0x0d) cannot frame a message"),
        ("lisen = \"127.0.0.1:1\"", "test.toml:2:1: unknown key `lisen` in [test]: did you mean `listen`?"),
    ] {
        let found = mistakes(&format!("listen = \"127.0.0.1:0\"\n{line}\n"));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{line}: {found:?}");
    }
    assert!(mistakes("")[0].contains("missing key `listen`"));
}

#[test]
fn every_option_is_taken() {
    let text = "listen = \"127.0.0.1:4711\"\nack = \"received\"\nmax_frame = \"1MiB\"\nmax_connections = 3\nidle_timeout = \"1h\"\n\
                byte_timeout = \"1s\"\nframe_timeout = \"5s\"\ncharset = \"8859/2\"\nduplicate_window = \"2h\"\n";
    let config = options::source("mllp", text).unwrap();
    assert_eq!(config.resources(), [Resource::Port("127.0.0.1:4711".parse().unwrap())]);
    for expected in ["1048576", "3", "3600s", "1s", "5s", "ISO-8859-2", "7200s"] {
        assert!(format!("{config:?}").contains(expected), "{expected} in {config:?}");
    }
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let listener = Listener::start("");
    let config = options::source("mllp", &format!("listen = \"{}\"", listener.address)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(config.build(&options::place("source"))).err().unwrap().to_string();
    assert!(error.starts_with(&format!("cannot listen on {}: ", listener.address)), "{error}");
}

/// A fallback is for those who say nothing: UTF-8 and MSH-18 go before it.
#[test]
fn the_fallback_character_set_is_for_messages_that_name_none() {
    let listener = Listener::start("charset = \"windows-1252\"");
    let mut client = listener.connect();
    for (charset, name, expected) in [
        ("", &b"Jos\x80"[..], "Jos\u{20ac}"),
        ("", "José".as_bytes(), "José"),
        ("8859/1", b"Jos\xe9", "José"),
        ("UNICODE UTF-8", "José".as_bytes(), "José"),
    ] {
        let header = format!("MSH|^~\\&|A|B|C|D|2026||ADT^A01|1|P|2.5||||||{charset}\rPID|1||");
        client.write(&frame(&[header.as_bytes(), name, b"\r"].concat())).unwrap();
        assert_eq!(field(&client.read().unwrap(), "MSA", 1), "AA");
        let arrival = listener.journal.arrivals().pop().unwrap();
        assert_eq!(arrival.refs.first(labwire::message::RefKind::Patient), Some(expected), "{charset}");
        assert_eq!(arrival.origin.charset.as_deref(), Some("windows-1252"));
        assert!(arrival.body.windows(name.len()).any(|window| window == name), "no byte is changed");
    }
}

//! Classes of fault through the real binary: what `on` says, and what happens without it.

use std::net::SocketAddr;

use serde_json::Value;

use crate::lanes::{channel, lane, message, send};
use crate::support::eventually::eventually;
use crate::support::mllp_server::MllpServer;
use crate::support::peer::{Do, Peer};
use crate::support::rig::Rig;

const QUICK: &str = "retry = { first = \"2ms\", longest = \"10ms\" }";

/// A port on which nobody listens.
fn dead_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A channel with one destination of this kind.
fn one(kind: &str, options: &str) -> String {
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.out]\ntype = \"{kind}\"\n{options}\n{QUICK}\n"
    )
}

fn sftp(port: u16) -> String {
    format!(
        "host = \"127.0.0.1\"\nport = {port}\nuser = \"acme\"\npassword = {{ env = \"PATH\" }}\n\
         host_key = \"SHA256:aNoxdLoNG/3ov4LnAxhnj4XRoY2x/9xPJG/N0QOKFhY\"\nfile_name = \"{{{{ meta.id }}}}\""
    )
}

fn mail(port: u16) -> String {
    format!(
        "server = \"localhost:{port}\"\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]\nsubject = \"x\"\ntext = \"x\""
    )
}

fn fax(port: u16) -> String {
    let document = "document = \"{{ '%PDF-1.4 %%EOF' | base64 }}\"";
    format!(
        "profile = \"json\"\nurl = \"http://localhost:{port}/\"\nnumber = \"+3615550182\"\n{document}\nnetworks = [\"127.0.0.0/8\", \"::1\"]"
    )
}

/// The only delivery once it has that state; a delivery that is tried again must have been tried more than once.
fn becomes(rig: &Rig, state: &str) -> Value {
    eventually(&format!("the delivery is {state}"), || {
        let delivery = message(rig, "A1")["deliveries"][0].clone();
        let enough = state != "retrying" || delivery["attempts"].as_u64() > Some(2);
        Some(delivery).filter(|delivery| delivery["state"] == state && enough)
    })
}

#[test]
fn an_acknowledgement_means_what_the_file_says() {
    for (code, options, state, attempts) in [
        ("AE", "", "retrying", None),
        ("CE", "", "retrying", None),
        ("AR", "", "dead", Some(1)),
        ("CR", "", "dead", Some(1)),
        ("AE", "on = { AE = \"dead\" }", "dead", Some(1)),
        ("CE", "on = { AE = \"dead\" }", "retrying", None),
        ("AR", "on = { AR = \"retry\" }", "retrying", None),
        ("CR", "on = { CR = \"sent\" }", "sent", Some(1)),
        ("AE", "on = { AE = \"pause\" }", "retrying", None),
        ("CLOSE", "on = { reset = \"dead\" }", "dead", Some(1)),
        ("ZZ", "", "retrying", None),
        ("ZZ", "on = { answer = \"dead\" }", "dead", Some(1)),
    ] {
        let peer = MllpServer::start();
        peer.answer_with(code);
        let rig = Rig::with(&channel(&peer, &format!("{options}\n{QUICK}")));
        send(&rig, &["A1"]);
        let delivery = becomes(&rig, state);
        if let Some(attempts) = attempts {
            assert_eq!(delivery["attempts"], attempts, "{code} {options}");
        }
        assert_eq!(lane(&rig)["paused"], options.contains("pause"), "{code} {options}");
    }
}

#[test]
fn a_pause_burns_no_attempts() {
    for (options, state, paused) in [
        ("retry = { attempts = 2, first = \"2ms\", longest = \"5ms\" }", "dead", false),
        (
            "retry = { attempts = 2, first = \"2ms\", longest = \"5ms\" }\non = { refused = \"pause\" }",
            "retrying",
            true,
        ),
    ] {
        let rig = Rig::with(&one("mllp", &format!("address = \"{}\"", dead_port())).replace(QUICK, options));
        send(&rig, &["A1"]);
        becomes(&rig, state);
        let lane = lane(&rig);
        assert_eq!(lane["paused"], paused, "{lane}");
        let (_, text) = rig.cli(&["channels"]);
        assert_eq!(text.contains("; paused since "), paused, "{text}");
    }
}

#[test]
fn each_kind_names_its_faults() {
    let silent = Peer::start(vec![], vec![]);
    let web = Peer::start(vec![Do::Write(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Do::Close], vec![]);
    let dead = dead_port();
    let silent = format!("address = \"{}\"\nack_timeout = \"50ms\"", silent.address());
    for (kind, options, by_default, word) in [
        ("mllp", format!("address = \"{dead}\""), "retrying", "refused"),
        ("mllp", silent, "retrying", "timeout"),
        ("mllp", "address = \"no-such-host.invalid:1\"".to_owned(), "retrying", "dns"),
        ("mllp", format!("address = \"{}\"", web.address()), "retrying", "protocol"),
        ("sftp", sftp(dead.port()), "retrying", "refused"),
        ("sftp", sftp(dead.port()).replace("127.0.0.1", "no-such-host.invalid"), "retrying", "dns"),
        ("http", format!("url = \"http://{dead}/\"\nnetworks = [\"127.0.0.1\"]"), "retrying", "refused"),
        ("http", "url = \"http://no-such-host.invalid/\"".to_owned(), "retrying", "dns"),
        ("http", format!("url = \"http://localhost:{}/\"", dead.port()), "retrying", "address"),
        ("email", mail(dead.port()), "retrying", "refused"),
        ("email", mail(dead.port()).replace("localhost", "no-such-host.invalid"), "retrying", "dns"),
        ("fax", fax(dead.port()), "retrying", "refused"),
        ("fax", fax(dead.port()).replace("networks", "#"), "retrying", "address"),
        ("file", "directory = \"channel.toml/sub\"\nfile_name = \"x\"".to_owned(), "retrying", "folder"),
    ] {
        let rig = Rig::with(&one(kind, &options).replace("channel.toml/sub", "../blocked/sub"));
        std::fs::write(rig.path().join("blocked"), b"a file, no folder").unwrap();
        send(&rig, &["A1"]);
        becomes(&rig, by_default);
        drop(rig);
        let rig = Rig::with(
            &one(kind, &format!("{options}\non = {{ {word} = \"dead\" }}"))
                .replace("channel.toml/sub", "../blocked/sub"),
        );
        std::fs::write(rig.path().join("blocked"), b"a file, no folder").unwrap();
        send(&rig, &["A1"]);
        assert_eq!(becomes(&rig, "dead")["attempts"], 1, "{kind} {word}");
    }
}

#[test]
fn a_file_that_is_there_already_is_a_conflict() {
    for (options, state) in [("", "dead"), ("on = { conflict = \"retry\" }", "retrying")] {
        let options = format!("directory = \"../out\"\nfile_name = \"same\"\n{options}");
        let rig = Rig::with(&one("file", &options));
        std::fs::create_dir(rig.path().join("out")).unwrap();
        std::fs::write(rig.path().join("out/same"), b"another content").unwrap();
        send(&rig, &["A1"]);
        becomes(&rig, state);
        assert_eq!(std::fs::read(rig.path().join("out/same")).unwrap(), b"another content");
    }
}

#[test]
fn what_is_too_old_is_a_dead_letter() {
    for (code, options) in [("AE", ""), ("CLOSE", "on = { reset = \"pause\" }")] {
        let peer = MllpServer::start();
        peer.answer_with(code);
        let retry = "retry = { first = \"20ms\", longest = \"50ms\", max_age = \"400ms\" }";
        let rig = Rig::with(&channel(&peer, &format!("{retry}\n{options}\non_poison = \"dead_letter\"")));
        send(&rig, &["A1"]);
        let delivery = becomes(&rig, "dead");
        assert!(delivery["attempts"].as_u64() > Some(2), "{delivery}");
        let story = rig.story(message(&rig, "A1")["id"].as_str().unwrap());
        let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let age = time(&delivery["finished_at"]).duration_since(time(&story["received_at"])).as_millis();
        // An attempt's duration is kept in whole milliseconds: what is left over is missing at its end.
        assert!((399..5000).contains(&age), "{age} ms");
        peer.answer_with("AA");
        send(&rig, &["A2"]);
        rig.wait_for("sent", 1);
    }
}

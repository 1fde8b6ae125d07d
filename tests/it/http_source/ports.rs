//! Ports that channels share.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use serde_json::json;

use super::{JSON, channel, free_address};
use crate::support::eventually::eventually;
use crate::support::http_client::{HttpClient, post};
use crate::support::rig::{Rig, labwire};

fn two(address: &str) -> Rig {
    let mut rig = Rig::new();
    rig.write("channels/orders.toml", channel("orders", address, "path = \"/orders\""));
    rig.write("channels/results.toml", channel("results", address, "path = \"/results\""));
    rig.start();
    rig
}

fn channel_of(rig: &Rig, id: &serde_json::Value) -> String {
    rig.story(id.as_str().unwrap())["channel"].as_str().unwrap().to_owned()
}

#[test]
fn channels_share_a_port_and_a_connection() {
    let address = free_address();
    let rig = two(&address);
    let address: SocketAddr = address.parse().unwrap();
    assert_eq!((rig.listener("orders"), rig.listener("results")), (address, address));
    let mut client = HttpClient::connect(address);
    for (path, name) in [("/orders", "orders"), ("/results", "results"), ("/orders", "orders")] {
        let got = client.send("POST", path, &[JSON], b"{}");
        assert_eq!((got.status, channel_of(&rig, &got.json()["id"]).as_str()), (202, name));
    }
    assert_eq!(client.send("POST", "/", &[JSON], b"{}").status, 404);
}

#[test]
fn a_channel_that_pauses_or_changes_leaves_the_other_alone() {
    let text = free_address();
    let rig = two(&text);
    let address: SocketAddr = text.parse().unwrap();
    // Let in by either of the two: it lives as long as the port.
    let mut clients: Vec<HttpClient> = (0..8).map(|_| HttpClient::connect(address)).collect();
    let mut both = |first: u16, second: u16| {
        for client in &mut clients {
            let orders = client.send("POST", "/orders", &[JSON], b"{}");
            let results = client.send("POST", "/results", &[JSON], b"{}");
            assert_eq!((orders.status, results.status), (first, second));
            assert_eq!(orders.header("retry-after").is_some(), first == 503, "{orders:?}");
        }
    };
    both(202, 202);
    assert_eq!(rig.post("/api/v1/channels/orders/pause", "").0, 200);
    both(503, 202);
    assert_eq!(rig.post("/api/v1/channels/orders/resume", "").0, 200);
    both(202, 202);

    rig.write("channels/orders.toml", channel("orders", &text, "path = \"/orders/v2\""));
    eventually("the path has moved", || (post(address, "/orders/v2", &[JSON], "{}").status == 202).then_some(()));
    both(503, 202);
    // The two change places, and need each other's path for it.
    rig.write("channels/results.toml", channel("results", &text, "path = \"/orders/v2\""));
    rig.write("channels/orders.toml", channel("orders", &text, "path = \"/results\""));
    eventually("they have changed places", || {
        // Where both leave the port at once it is closed for a moment, and what was connected gets no answer.
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        stream.write_all(&HttpClient::request("POST", "/results", &[JSON, ("Connection", "close")], b"{}")).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, content) = answer.split_once("\r\n\r\n")?;
        let id = serde_json::from_str::<serde_json::Value>(content).ok()?["id"].clone();
        (head.starts_with("HTTP/1.1 202") && channel_of(&rig, &id) == "orders").then_some(())
    });
    std::fs::remove_file(rig.channels().join("orders.toml")).unwrap();
    std::fs::remove_file(rig.channels().join("results.toml")).unwrap();
    eventually("the port is closed", || std::net::TcpStream::connect(address).is_err().then_some(()));
}

#[test]
fn what_two_channels_cannot_both_have_is_a_mistake() {
    let paths = |one: &str, two: &str| {
        let rig = Rig::new();
        rig.write("channels/one.toml", channel("one", "127.0.0.1:2699", one));
        rig.write("channels/two.toml", channel("two", "127.0.0.1:2699", two));
        let output = labwire().arg("check").arg(rig.channels()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let tls = "tls = { cert = { env = \"A\" }, key = { env = \"B\" }, client_ca = { env = \"C\" } }";
    let (asked, not_asked) = (
        format!("path = \"/a\"\n{}, client_crl = {{ env = \"D\" }} }}", tls.strip_suffix(" }").unwrap()),
        format!("path = \"/b\"\n{tls}"),
    );
    for (one, two, mistake) in [
        (&*asked, &*not_asked, "say different things of it"),
        ("path = \"/a\"", "path = \"/b\"", ""),
        ("path = \"/a\"", "path = \"/a\"\nmethod = \"PUT\"", ""),
        ("path = \"/a\"", "path = \"/a\"", "two channels take POST /a on port 2699"),
        ("path = \"/a\"", "path = \"/b\"\nmax_connections = 5", "share port 2699 and say different things of it"),
        ("path = \"/a\"", "path = \"/b\"\nheader_timeout = \"5s\"", "say different things of it"),
        ("path = \"/a\"", "path = \"/b\"\nallow = [\"10.0.0.0/8\"]", "say different things of it"),
    ] {
        let text = paths(one, two);
        match mistake {
            "" => assert!(text.contains("no mistakes") || !text.contains("error"), "{one} {two}: {text}"),
            mistake => assert!(text.contains(mistake), "{one} {two}: {text}"),
        }
    }
    let rig = Rig::new();
    rig.write("channels/one.toml", channel("one", "127.0.0.1:2699", ""));
    let mllp = "name = \"two\"\n[source]\ntype = \"mllp\"\nlisten = \"0.0.0.0:2699\"\n\
                [destination.out]\ntype = \"file\"\ndirectory = \"../out\"\nfile_name = \"x\"\n";
    rig.write("channels/two.toml", mllp);
    let output = labwire().arg("check").arg(rig.channels()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("two channels listen on port 2699"), "{text}");
}

#[test]
fn each_port_0_is_a_port_of_its_own() {
    let mut rig = Rig::new();
    rig.write("channels/one.toml", channel("one", "127.0.0.1:0", ""));
    rig.write("channels/two.toml", channel("two", "127.0.0.1:0", ""));
    rig.start();
    assert_ne!(rig.listener("one"), rig.listener("two"));
    let got = post(rig.listener("two"), "/", &[JSON], "{}");
    assert_eq!(json!(channel_of(&rig, &got.json()["id"])), json!("two"));
}

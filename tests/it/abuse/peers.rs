//! Who connects, how often, and what they speak (A01, A03, A05 to A07).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{channel, counters, logged, memory, message};
use crate::support::eventually::eventually;
use crate::support::mllp_client::{MllpClient, field, frame};
use crate::support::pki::self_signed;
use crate::support::rig::Rig;

/// A connection from this address of the loopback network.
fn connect_from(from: &str, to: SocketAddr) -> MllpClient {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    MllpClient::over(socket.into())
}

fn is_taken(client: &mut MllpClient, id: &str) -> bool {
    client.send(&message(id)).is_ok_and(|answer| field(&answer, "MSA", 1) == "AA")
}

#[test]
fn a01_an_address_that_is_not_allowed_is_closed_before_a_byte_is_read() {
    let rig = Rig::with(&channel("results", "allow = [\"127.0.0.2\", \"10.0.0.0/8\"]"));
    let to = rig.listener("results");
    let mut stranger = connect_from("127.0.0.3", to);
    let _ = stranger.write(&frame(&message("1")));
    // No banner and no answer; a reset where it had sent something.
    let mut read = Vec::new();
    let _ = stranger.stream().take(100).read_to_end(&mut read);
    assert_eq!(read, b"");
    logged(&rig, &["WARN", "connection refused: its address is not in `allow`", "127.0.0.3:"]);
    assert_eq!(counters(&rig)["connections_not_allowed"], 1);
    assert!(is_taken(&mut connect_from("127.0.0.2", to), "2"));
    assert_eq!(rig.messages("").len(), 1);
}

fn tls_rig() -> Rig {
    let mut rig = Rig::new();
    let ours = self_signed("lab.example", &["localhost"], (-1, 30));
    rig.write("our.crt", &ours.cert);
    rig.write("our.key", &ours.key);
    let tls = "idle_timeout = \"1s\"\ntls = { cert = { file = \"../our.crt\" }, key = { file = \"../our.key\" } }";
    rig.write("channels/channel.toml", channel("results", tls));
    rig.start();
    rig
}

/// A ClientHello (RFC 5246 §7.4.1.2) of this version, with these ciphers and nothing else.
fn client_hello(version: [u8; 2], ciphers: &[[u8; 2]]) -> Vec<u8> {
    let mut hello = [&version[..], &[7; 32], &[0]].concat();
    hello.extend((2 * ciphers.len() as u16).to_be_bytes());
    hello.extend(ciphers.concat());
    // No compression; that signatures by ECDSA and RSA with SHA-256, and the curve P-256, are understood.
    hello.extend([1, 0]);
    let extensions = [0, 13, 0, 8, 0, 6, 4, 3, 4, 1, 8, 4, 0, 10, 0, 4, 0, 2, 0, 23];
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let length = (hello.len() as u32).to_be_bytes();
    let handshake = [&[1][..], &length[1..], &hello].concat();
    [&[22, 3, 1][..], &(handshake.len() as u16).to_be_bytes(), &handshake].concat()
}

#[test]
fn a03_old_versions_weak_ciphers_and_renegotiation_are_refused() {
    let rig = tls_rig();
    let to = rig.listener("results");
    let ecdhe_ecdsa = [0xc0, 0x2b];
    for (name, version, ciphers, refused) in [
        ("TLS 1.2 with a good cipher", [3, 3], &[ecdhe_ecdsa][..], false),
        ("TLS 1.1", [3, 2], &[ecdhe_ecdsa, [0xc0, 0x13]], true),
        ("TLS 1.0", [3, 1], &[ecdhe_ecdsa, [0xc0, 0x13]], true),
        ("SSL 3", [3, 0], &[ecdhe_ecdsa, [0, 5]], true),
        ("RC4", [3, 3], &[[0, 5], [0xc0, 0x07]], true),
        ("NULL", [3, 3], &[[0, 2], [0xc0, 0x06]], true),
        ("CBC", [3, 3], &[[0xc0, 0x09], [0, 0x2f]], true),
        ("3DES", [3, 3], &[[0, 0x0a]], true),
    ] {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&client_hello(version, ciphers)).unwrap();
        let mut record = [0; 7];
        stream.read_exact(&mut record).unwrap();
        // An alert that is fatal, or a handshake with a ServerHello.
        let expected = if refused { [21, 2] } else { [22, 2] };
        assert_eq!([record[0], record[5]], expected, "{name}: {record:?}");
    }
    eventually("all are counted", || (counters(&rig)["handshakes_failed"].as_u64()? >= 7).then_some(()));

    let mut openssl = Command::new("openssl")
        .args(["s_client", "-state", "-tls1_2", "-connect", &to.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = [follow(openssl.stdout.take().unwrap()), follow(openssl.stderr.take().unwrap())];
    let says = |words: &str| {
        eventually(words, || said.iter().any(|said| said.lock().unwrap().contains(words)).then_some(()));
    };
    says("Verify return code");
    // `R` on a line of its own asks for it.
    openssl.stdin.as_mut().unwrap().write_all(b"R\n").unwrap();
    says("RENEGOTIATING");
    // The refusal leaves with whatever is sent next: here the farewell, when nothing more comes.
    says("no renegotiation");
    openssl.kill().unwrap();
    openssl.wait().unwrap();
    assert_eq!(rig.messages("").len(), 0);
}

/// What a process writes, as it comes.
fn follow(mut output: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let text: Arc<Mutex<String>> = Arc::default();
    let sink = text.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
    text
}

#[test]
fn a05_a_frame_without_end_costs_no_more_than_twice_the_cap() {
    // Much beside what the engine takes for other things meanwhile: it prepares the journal's next segment, say.
    let rig = Rig::with(&channel("results", "max_frame = \"64MiB\""));
    let to = rig.listener("results");
    assert!(is_taken(&mut MllpClient::connect(to).unwrap(), "1"));
    let before = memory(&rig, "VmRSS");
    let mut client = MllpClient::connect(to).unwrap();
    client.write(b"\x0b").unwrap();
    let piece = vec![b'A'; 1 << 20];
    // Up to 4 GiB, if it were let.
    let taken = (0..4096).take_while(|_| client.write(&piece).is_ok()).count();
    let grown = memory(&rig, "VmHWM").saturating_sub(before) >> 20;
    println!("{taken} MiB were taken, memory grew by {grown} MiB at most");
    // Closed at the cap; what a sender in full flow had on its way is read for a second more, and thrown away.
    assert!(taken < 4096 && grown < 2 * 64, "{taken} MiB taken, {grown} MiB more memory");
    logged(&rig, &["WARN", "closed: a frame is larger than `max_frame`"]);
    assert!(is_taken(&mut MllpClient::connect(to).unwrap(), "2"), "others are served");
}

#[test]
fn a06_a_crowd_from_one_address_leaves_room_for_others() {
    let rig = Rig::with(&channel("results", "max_connections_per_address = 20"));
    let to = rig.listener("results");
    let mut other = connect_from("127.0.0.9", to);
    assert!(is_taken(&mut other, "0"));
    // 1,000 from one address; those over the cap are closed at once.
    let mut crowd: Vec<MllpClient> = (0..1000).map(|_| connect_from("127.0.0.2", to)).collect();
    eventually("the cap of an address", || (counters(&rig)["connections_refused"] == 980).then_some(()));
    let stay = crowd.iter().filter(|client| !client.has_ended()).count();
    assert_eq!(stay, 20);
    logged(&rig, &["WARN", "connection refused: `max_connections_per_address` of this address are open"]);
    assert!(is_taken(&mut other, "1") && is_taken(&mut connect_from("127.0.0.10", to), "2"), "others are served");
    let first = crowd.iter_mut().find(|client| !client.has_ended()).unwrap();
    assert!(is_taken(first, "3"), "who is in stays in");
    // Many addresses: the cap of them all holds, and who is in is served.
    let began = Instant::now();
    let mut total = 1000;
    let mut held = Vec::new();
    while total < 10_000 {
        for last in 20..=220 {
            let client = connect_from(&format!("127.0.0.{last}"), to);
            // As many as this process may hold open; the engine has closed most of them already.
            if held.len() < 400 {
                held.push(client);
            }
            total += 1;
        }
    }
    let slow = began.elapsed() / 9000;
    println!("{slow:?} for each further connection");
    assert!(held.iter().filter(|client| !client.has_ended()).count() <= 256 - 21);
    assert!(is_taken(&mut other, "4"));
    // They leave, and others have their places.
    drop((crowd, held));
    eventually("places are free again", || is_taken(&mut connect_from("127.0.0.2", to), "5").then_some(()));
}

#[test]
fn a07_another_protocol_is_recognised_counted_and_told_nothing() {
    let rig = Rig::with(&channel("results", ""));
    let to = rig.listener("results");
    let hello = client_hello([3, 3], &[[0xc0, 0x2b]]);
    let cases = [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "HTTP"),
        (b"POST /api HTTP/1.1\r\n\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (&hello, "TLS"),
    ];
    for (bytes, protocol) in cases {
        let mut peer = MllpClient::connect(to).unwrap();
        peer.write(bytes).unwrap();
        let mut read = Vec::new();
        let _ = peer.stream().take(100).read_to_end(&mut read);
        assert_eq!(read, b"", "nothing is reflected");
        logged(&rig, &["WARN", "closed: wrong protocol on this port, which speaks MLLP", protocol]);
    }
    assert_eq!(counters(&rig)["wrong_protocol"], 5);
    assert!(!rig.log().contains("OpenSSH_9.2"), "not in the log either");
    let tls = tls_rig();
    let mut peer = MllpClient::connect(tls.listener("results")).unwrap();
    peer.write(&frame(&message("1"))).unwrap();
    assert!(peer.read().is_err());
    logged(&tls, &["WARN", "wrong protocol on this port, which speaks TLS", "MLLP in the clear"]);
    assert_eq!((&counters(&tls)["wrong_protocol"], &counters(&tls)["handshakes_failed"]), (&1.into(), &0.into()));
    assert!(is_taken(&mut MllpClient::connect(to).unwrap(), "1"));
}

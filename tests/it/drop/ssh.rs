//! Rows A13 to A17, A24 and A25 of the abuse tests: what comes before and beside SFTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Site, channel, connect, connect_on, hash, openssh_options, order, run};
use crate::support::eventually::eventually_within;
use crate::support::rig::Rig;

/// Memory of the engine that is in use, bytes.
fn resident(rig: &Rig) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The bytes that come within a time, or until the connection ends.
fn greeting(address: SocketAddr) -> Vec<u8> {
    let Ok(mut stream) = TcpStream::connect(address) else { return Vec::new() };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = vec![0; 8];
    let count = stream.read(&mut bytes).unwrap_or(0);
    bytes.truncate(count);
    bytes
}

/// Scaled: seven guesses are answered, a thousand are not.
#[test]
fn a13_guessing_is_slow_tells_nothing_and_ends_in_a_ban() {
    let mut site = Site::new();
    site.rig.write("channels/secrets/hash", hash("correct horse"));
    let more = "password = { file = \"secrets/hash\" }\nlimits = { failures = 8, ban = \"4s\" }";
    site.rig.write("channels/orders.toml", channel("orders", "acme", more));
    site.rig.write("channels/bravo.toml", channel("bravo", "bravo", "limits = { failures = 8, ban = \"4s\" }"));
    site.rig.start();
    let address = site.address();
    let guess = |user: &'static str, password: &'static str| {
        move || {
            let session = connect(address);
            let methods = session.auth_methods(user).map(str::to_owned);
            let began = Instant::now();
            let code = session.userauth_password(user, password).map_err(|error| error.code());
            (code, methods.unwrap(), began.elapsed())
        }
    };
    // A known user with a password, one without, and one who is not known.
    let users = ["acme", "bravo", "nobody"];
    let threads = users.map(|user| std::thread::spawn(guess(user, "wrong")));
    let answers = threads.map(|thread| thread.join().unwrap());
    for (user, (code, methods, took)) in users.iter().zip(&answers) {
        assert_eq!((code, methods), (&answers[0].0, &answers[0].1), "{user}");
        assert_eq!(*code, Err(ssh2::ErrorCode::Session(-18)), "{user}");
        assert!(*took > Duration::from_millis(950), "{user}: {took:?}");
    }
    let took = answers.map(|(_, _, took)| took);
    let spread = *took.iter().max().unwrap() - *took.iter().min().unwrap();
    assert!(spread < Duration::from_millis(500), "the time tells who is known: {took:?}");
    assert!(guess("acme", "correct horse")().0.is_ok(), "not banned yet");

    let more: Vec<_> = (0..5).map(|_| std::thread::spawn(guess("acme", "wrong"))).collect();
    more.into_iter().for_each(|thread| assert!(thread.join().unwrap().0.is_err()));
    for number in 0..1_000 {
        assert!(greeting(address).is_empty(), "guess {number} after the ban is listened to");
    }
    assert!(site.rig.log().contains("too many refused logins, the address is banned"), "{}", site.rig.log());
    eventually_within(Duration::from_secs(20), "the ban is over", || (!greeting(address).is_empty()).then_some(()));
    assert!(guess("acme", "correct horse")().0.is_ok());
}

#[test]
fn a14_no_login_without_the_key_and_its_signature() {
    let site = Site::with("limits = { failures = 0 }");
    let (fine, said) = site.python("ssh_peer.py", "acme", &["logins"]);
    assert!(fine && said.contains("22 cases"), "{said}");
    assert!(site.try_login("acme", "bravo").is_err() && site.try_login("acme", "acme").is_ok());
}

/// Scaled: the message types with a meaning, and some without.
#[test]
fn a15_nothing_is_done_before_the_login() {
    let site = Site::with("");
    let (fine, said) = site.python("ssh_peer.py", "acme", &["messages"]);
    assert!(fine && said.contains("40 cases"), "{said}");
    assert!(site.try_login("acme", "acme").is_ok());
}

/// The server's first packet, after both said who they are.
fn first_packet(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"SSH-2.0-probe\r\n").unwrap();
    let mut byte = [0; 1];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).unwrap();
    }
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut packet).unwrap();
    packet
}

/// The lists of names in it (RFC 4253 §7.1).
fn offers(packet: &[u8]) -> Vec<Vec<String>> {
    assert_eq!(packet[1], 20, "SSH_MSG_KEXINIT");
    let mut rest = &packet[1 + 1 + 16..];
    let mut lists = Vec::new();
    for _ in 0..10 {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let text = std::str::from_utf8(&rest[4..4 + length]).unwrap();
        lists.push(text.split(',').map(str::to_owned).collect());
        rest = &rest[4 + length..];
    }
    lists
}

/// Whether the other side closes the connection while this is sent again and again, at most so many bytes.
fn is_cut_off(mut stream: TcpStream, bytes: &[u8], most: usize) -> bool {
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let mut sent = 0;
    while sent < most {
        match stream.write(bytes) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn a16_lengths_that_lie_and_floods_are_cut_off() {
    let site = Site::with("limits = { login_time = \"5s\" }");
    let address = site.address();
    drop(connect(address));
    let before = resident(&site.rig);
    for length in [0_u32, 1, 3, 0x7fff_ffff, u32::MAX] {
        let mut stream = TcpStream::connect(address).unwrap();
        first_packet(&mut stream);
        let packet = [&length.to_be_bytes()[..], &[0; 1020]].concat();
        assert!(is_cut_off(stream, &packet, 1 << 20), "length {length:#x}");
    }
    for (what, flood) in [
        ("lines before the banner", b"hello\r\n".repeat(1_000)),
        ("a line without an end", vec![b'x'; 8 << 10]),
        ("a banner of 10,000 bytes", [b"SSH-2.0-".to_vec(), vec![b'y'; 10_000], b"\r\n".to_vec()].concat()),
    ] {
        assert!(is_cut_off(TcpStream::connect(address).unwrap(), &flood, 64 << 20), "{what}");
    }
    let mut stream = TcpStream::connect(address).unwrap();
    for list in &offers(&first_packet(&mut stream))[6..8] {
        assert_eq!(list, &["none"], "a compression that could be a bomb");
    }
    let grown = resident(&site.rig).saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes more");
    site.login("acme").put("orders/a.hl7", &order("a")).unwrap();
}

#[test]
fn a17_strict_key_exchange_and_nothing_weak() {
    let site = Site::with("");
    let mut stream = TcpStream::connect(site.address()).unwrap();
    let lists = offers(&first_packet(&mut stream));
    assert!(lists[0].iter().any(|name| name == "kex-strict-s-v00@openssh.com"), "{lists:?}");
    assert_eq!(lists[1], ["ssh-ed25519"]);
    for name in lists.iter().flatten() {
        for weak in ["sha1", "md5", "3des", "cbc", "arcfour", "group1-", "dss", "ripemd", "umac-64", "zlib"] {
            assert!(!name.contains(weak), "{name} is offered");
        }
        assert_ne!(name, "ssh-rsa");
    }
    // A client that knows nothing better gets no connection.
    let batch = site.rig.write("batch", "ls\n");
    for (options, connects) in [
        ("KexAlgorithms=curve25519-sha256", true),
        ("KexAlgorithms=diffie-hellman-group14-sha1", false),
        ("Ciphers=aes128-cbc", false),
        ("HostKeyAlgorithms=ssh-rsa", false),
    ] {
        let mut command = Command::new("sftp");
        command.arg("-P").arg(site.address().port().to_string()).args(openssh_options()).args(["-o", options]);
        let (done, said) = run(command.arg("-i").arg(site.key("acme")).arg("-b").arg(&batch).arg("acme@127.0.0.1"));
        assert_eq!(done, connects, "{options}: {said}");
    }
}

#[test]
fn a24_sftp_and_nothing_else() {
    let site = Site::with("");
    let port = site.address().port().to_string();
    for more in [
        &["acme@127.0.0.1", "id"][..],
        &["acme@127.0.0.1"],
        &["-tt", "acme@127.0.0.1"],
        &["-A", "acme@127.0.0.1", "true"],
        &["-X", "acme@127.0.0.1", "true"],
        &["-o", "SetEnv=A=b", "acme@127.0.0.1", "true"],
        &["-s", "acme@127.0.0.1", "netconf"],
        &["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "acme@127.0.0.1"],
    ] {
        let mut command = Command::new("ssh");
        command.args(["-p", &port]).args(openssh_options()).arg("-i").arg(site.key("acme")).args(more);
        let (done, said) = run(&mut command);
        assert!(!done && !said.contains("uid="), "{more:?}: {said}");
    }
    let inner = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    inner.set_nonblocking(true).unwrap();
    let session = site.try_login("acme", "acme").unwrap();
    assert!(session.channel_direct_tcpip("127.0.0.1", inner.local_addr().unwrap().port(), None).is_err());
    assert!(session.channel_forward_listen(0, Some("127.0.0.1"), None).is_err());
    let mut channel = session.channel_session().unwrap();
    assert!(channel.setenv("A", "b").is_err());
    assert!(channel.exec("id").is_err());
    let mut second = session.channel_session().unwrap();
    second.subsystem("sftp").unwrap();
    assert!(second.exec("id").is_err(), "a command beside SFTP");
    assert!(session.sftp().is_ok());
    assert!(inner.accept().is_err(), "something was forwarded");
}

/// Something where the other side has not closed the connection yet.
fn is_open(stream: &mut TcpStream) -> Option<()> {
    stream.set_nonblocking(true).unwrap();
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => None,
        Err(error) => (error.kind() == std::io::ErrorKind::WouldBlock).then_some(()),
    }
}

/// Scaled: 300 connections instead of 10,000.
#[test]
fn a25_connections_that_do_not_log_in_keep_nobody_out() {
    let mut site = Site::new();
    let limits = "limits = { logging_in = 20, login_time = \"4s\" }";
    site.rig.write("channels/orders.toml", channel("orders", "acme", limits));
    site.rig.start();
    let address = site.address();
    let inside = site.login("acme");
    let mut held: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    inside.put("orders/a.hl7", &order("a")).unwrap();
    site.login("acme").put("orders/b.hl7", &order("b")).unwrap();
    // All but twenty were pushed out by those after them; these are given up in time.
    let open = held.iter_mut().filter_map(is_open).count();
    assert!(open <= 20, "{open} are held open");
    let began = Instant::now();
    for stream in &mut held {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        assert!(stream.read_to_end(&mut Vec::new()).is_ok_and(|_| began.elapsed() < Duration::from_secs(14)));
    }
    inside.put("orders/c.hl7", &order("c")).unwrap();
    assert!(connect_on(TcpStream::connect(address).unwrap()).is_ok());
}

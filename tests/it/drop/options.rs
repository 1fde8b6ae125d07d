//! What each option of the source does.

use std::io::Write;
use std::path::Path;

use super::{DENIED, FAILURE, NO_SUCH_FILE, Site, channel, hash, order, status};
use crate::support::eventually::eventually;
use crate::support::partner::names;
use crate::support::rig::labwire;
use crate::support::sshd::{fingerprint, keygen};

#[test]
fn access_capture_names_and_temporary_names() {
    let mut site = Site::new();
    let own = "access = \"upload\"\ncapture = \"close\"\nnames = [\"*.hl7\", \"order-??.txt\"]";
    site.rig.write("channels/orders.toml", channel("orders", "acme", own));
    let by_rename = "folder = \"by-rename\"\naccess = \"both\"\ncapture = \"rename\"\ntemporary = [\"up-*\"]";
    site.rig.write("channels/rename.toml", channel("rename", "acme", by_rename));
    site.rig.start();
    let acme = site.login("acme");

    acme.put("orders/a.HL7", &order("a")).unwrap();
    acme.put("orders/order-12.txt", &order("b")).unwrap();
    for name in ["c.txt", "order-1.txt", "hl7", "d.hl7.bak"] {
        assert_eq!(acme.put(&format!("orders/{name}"), &order("x")), Err(DENIED), "{name}");
    }
    assert_eq!(acme.get("orders/a.HL7"), Err(DENIED), "upload alone");
    // All the temporary names that clients are known for, and none of them a message before it is renamed.
    for (number, name) in ["t.filepart", "t.part", "t.tmp", "t.temp", ".in.t.hl7"].iter().enumerate() {
        acme.put(&format!("orders/{name}"), &order(&format!("T{number}"))).unwrap();
        assert_eq!(acme.rename(&format!("orders/{name}"), &format!("orders/t{number}.txt")), Err(DENIED), "{name}");
        acme.rename(&format!("orders/{name}"), &format!("orders/t{number}.hl7")).unwrap();
    }
    assert_eq!(site.rig.wait_for("sent", 7).len(), 7);

    let folder = "by-rename";
    assert_eq!(acme.create(&format!("{folder}/a.hl7")).err(), Some(DENIED));
    assert_eq!(acme.create(&format!("{folder}/a.tmp")).err(), Some(DENIED), "it has temporary names of its own");
    acme.put(&format!("{folder}/up-a"), &order("r")).unwrap();
    assert_eq!(acme.get(&format!("{folder}/up-a")), Err(FAILURE), "not complete");
    acme.rename(&format!("{folder}/up-a"), &format!("{folder}/up-b")).unwrap();
    acme.rename(&format!("{folder}/up-b"), &format!("{folder}/a.hl7")).unwrap();
    assert_eq!(acme.get(&format!("{folder}/a.hl7")), Ok(order("r")), "both");
    assert_eq!(acme.rename("orders/a.HL7", &format!("{folder}/up-c")), Err(DENIED), "a file stays in its folder");
    site.rig.wait_for("sent", 8);
}

#[test]
fn formats_and_what_cannot_be_read() {
    let mut site = Site::new();
    site.rig.write(
        "channels/orders.toml",
        channel("orders", "acme", "format = { type = \"hl7\", charset = \"windows-1252\" }"),
    );
    for format in ["json", "text", "hl7"] {
        let more = format!("folder = \"{format}\"\nformat = \"{format}\"");
        site.rig.write(&format!("channels/{format}.toml"), channel(format, "acme", &more));
    }
    site.rig.start();
    let acme = site.login("acme");
    let latin = [order("L"), b"PV1|1||M\xfcller\r".to_vec()].concat();
    acme.put("orders/latin.hl7", &latin).unwrap();
    acme.put("hl7/a", &order("a")).unwrap();
    acme.put("json/a", b"{\"a\": [1]}").unwrap();
    acme.put("text/a", "größer".as_bytes()).unwrap();
    acme.put("text/empty", b"").unwrap();
    site.rig.wait_for("sent", 5);
    for (path, content) in [
        ("hl7/b", &b"no HL7"[..]),
        ("hl7/empty", b""),
        ("json/b", b"{\"a\": SECRET"),
        ("text/b", b"gr\xf6sser"),
        ("orders/b", b"MSH"),
    ] {
        assert_eq!(acme.put(path, content), Err(FAILURE), "{path}");
        assert_eq!(acme.size(path), Err(NO_SUCH_FILE), "{path}");
    }
    let rejected = site.rig.wait_for("rejected", 5);
    let reasons: Vec<&str> = rejected.iter().map(|message| message["reason"].as_str().unwrap()).collect();
    assert!(reasons.contains(&"the body is not JSON: line 1, column 7"), "{reasons:?}");
    assert!(reasons.contains(&"the body is not UTF-8: byte 2 does not belong"), "{reasons:?}");
    let text = site.rig.messages("&channel=json&state=sent");
    assert_eq!(text[0]["format"], "json");
    let (_, latin) = site.rig.get("/api/v1/messages?channel=orders&state=sent");
    assert_eq!(latin["messages"][0]["origin"]["charset"], "windows-1252", "{latin}");
    // What was rejected may come again, corrected, under its name; the client is told why it was not taken.
    site.rig.write("b", "no HL7 either");
    let (_, said) = site.python("client.py", "acme", &["refused", "b"]);
    assert!(said.contains("rejected: "), "{said}");
    acme.put("orders/b", &order("b")).unwrap();
    assert!(!site.rig.log().contains("SECRET"));
}

/// As after a reload with a smaller `max_size`.
#[test]
fn what_has_become_too_large_is_not_cut() {
    let site = Site::with("max_size = \"2KiB\"\nformat = \"text\"");
    let (acme, disk) = (site.login("acme"), site.disk("acme"));
    for (name, bytes) in [("large.tmp", 2049), ("more.incomplete", 2049), ("just.tmp", 2048)] {
        std::fs::write(disk.join(name), vec![b'x'; bytes]).unwrap();
    }
    assert_eq!(acme.rename("orders/large.tmp", "orders/large"), Err(FAILURE));
    let mut more = acme.open("orders/more", ssh2::OpenFlags::WRITE | ssh2::OpenFlags::CREATE).unwrap();
    assert!(more.close().is_err());
    assert_eq!(acme.size("orders/large"), Err(NO_SUCH_FILE));
    assert_eq!(acme.size("orders/more"), Err(NO_SUCH_FILE));
    acme.rename("orders/just.tmp", "orders/just").unwrap();
    site.rig.wait_for("sent", 1);
    let delivered = site.delivered("orders");
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].1.len(), 2048);
}

#[test]
fn sizes_and_quotas() {
    let site = Site::with("max_size = \"2KiB\"\nquota_bytes = \"4KiB\"\nquota_files = 3\nformat = \"text\"");
    let acme = site.login("acme");
    // Closed all the same: what has a gap is no message, under whatever name.
    assert_eq!(acme.put("orders/large", &[b'x'; 2049]), Err(FAILURE));
    assert_eq!(acme.size("orders/large"), Err(NO_SUCH_FILE));
    acme.remove("orders/large.incomplete").unwrap();
    assert_eq!(acme.put("orders/large.tmp", &[b'x'; 2049]), Err(FAILURE));
    assert_eq!(acme.rename("orders/large.tmp", "orders/large"), Err(FAILURE));
    acme.remove("orders/large.tmp").unwrap();
    acme.put("orders/a", &[b'x'; 2048]).unwrap();
    acme.put("orders/b", &[b'x'; 1500]).unwrap();
    // What was accepted counts as long as it is kept.
    let mut third = acme.create("orders/c.tmp").unwrap();
    third.write_all(&[b'x'; 548]).unwrap();
    assert!(third.write_all(b"x").is_err(), "one byte more than 4 KiB");
    assert!(third.close().is_err());
    assert_eq!(acme.create("orders/d.tmp").err(), Some(FAILURE), "a fourth file");
    assert!(site.rig.log().contains("the folder is full, uploads are refused"), "{}", site.rig.log());
    acme.remove("orders/c.tmp").unwrap();
    acme.put("orders/d.tmp", &[b'x'; 548]).unwrap();
    site.rig.wait_for("sent", 2);
}

#[test]
fn how_long_files_stay() {
    let mut site = Site::new();
    site.rig.write("channels/orders.toml", channel("orders", "acme", "keep_accepted = \"0s\""));
    let short = "folder = \"short\"\nkeep_accepted = \"1s\"\nkeep_incomplete = \"2s\"";
    site.rig.write("channels/short.toml", channel("short", "acme", short));
    site.rig.write("channels/long.toml", channel("long", "acme", "folder = \"long\""));
    site.rig.start();
    let acme = site.login("acme");
    for folder in ["orders", "short", "long"] {
        acme.put(&format!("{folder}/a.hl7"), &order(folder)).unwrap();
        acme.put(&format!("{folder}/b.tmp"), b"b").unwrap();
    }
    assert_eq!(acme.size("orders/a.hl7"), Err(NO_SUCH_FILE));
    acme.put("orders/a.hl7", &order("again")).unwrap();
    // Times that a client sets do not make a file older.
    let old = ssh2::FileStat { size: None, uid: None, gid: None, perm: None, atime: Some(5), mtime: Some(5) };
    acme.sftp.setstat(Path::new("long/b.tmp"), old).unwrap();
    let mut busy = acme.create("short/busy.tmp").unwrap();
    eventually("both had their time", || (acme.names("short").unwrap() == ["busy.tmp"]).then_some(()));
    acme.put("short/a.hl7", &order("short again")).unwrap();
    busy.write_all(b"still being written").unwrap();
    assert_eq!(acme.names("long").unwrap(), ["a.hl7", "b.tmp"]);
    assert_eq!(acme.names("orders").unwrap(), ["b.tmp"]);
    site.rig.wait_for("sent", 5);
}

#[test]
fn the_same_file_again_within_its_window_is_taken_once() {
    let mut site = Site::new();
    site.rig.write("channels/orders.toml", channel("orders", "acme", "keep_accepted = \"0s\""));
    let off = "folder = \"off\"\nkeep_accepted = \"0s\"\nduplicate_window = \"off\"";
    site.rig.write("channels/off.toml", channel("off", "acme", off));
    site.rig.start();
    let acme = site.login("acme");
    for folder in ["orders", "off"] {
        for _ in 0..2 {
            acme.put(&format!("{folder}/a.hl7"), &order("a")).unwrap();
        }
        acme.put(&format!("{folder}/b.hl7"), &order("a")).unwrap();
        acme.put(&format!("{folder}/a.hl7"), &order("b")).unwrap();
    }
    site.rig.wait_for("sent", 7);
    assert_eq!(site.rig.messages("&channel=orders").len(), 3, "another name or another content is another file");
    assert_eq!(site.rig.messages("&channel=off").len(), 4);
    assert!(site.rig.messages("").iter().all(|message| message["origin"]["reused_key"].is_null()));
}

#[test]
fn keys_passwords_and_where_they_count() {
    let mut site = Site::new();
    let public = std::fs::read_to_string(site.key("bravo").with_extension("pub")).unwrap();
    site.rig.write("channels/secrets/hash", hash("correct horse"));
    let password = "password = { file = \"secrets/hash\" }";
    site.rig.write("channels/orders.toml", channel("orders", "acme", password));
    let list = format!("folder = \"listed\"\nkeys = [\"{}\"]\nallow = [\"127.0.0.0/8\"]", public.trim());
    site.rig.write("channels/listed.toml", channel("listed", "acme", &list));
    site.rig.write("channels/far.toml", channel("far", "acme", "folder = \"far\"\nallow = [\"10.0.0.0/8\"]"));
    site.rig.start();
    // Each proof opens the folders of the channels that know it.
    let folders = |session: ssh2::Session| {
        let sftp = session.sftp().unwrap();
        let found = sftp.readdir(Path::new("/")).unwrap();
        found.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        folders(site.try_login("acme", "acme").unwrap()),
        ["/orders"],
        "`far` is for those who come from elsewhere"
    );
    assert_eq!(folders(site.try_login("acme", "bravo").unwrap()), ["/listed"]);
    let session = super::connect(site.address());
    assert!(session.userauth_password("acme", "wrong").is_err());
    session.userauth_password("acme", "correct horse").unwrap();
    assert_eq!(folders(session), ["/orders"]);
    assert!(site.try_login("bravo", "bravo").is_err(), "no channel knows that user");
    // A key that is put into the file counts from the next login on.
    let both = std::fs::read_to_string(site.key("acme").with_extension("pub")).unwrap() + "# and\n" + &public;
    site.rig.write("channels/secrets/acme.pub", both);
    let mut found = folders(site.try_login("acme", "bravo").unwrap());
    found.sort();
    assert_eq!(found, ["/listed", "/orders"]);
}

#[test]
fn the_host_key_is_the_one_given_or_one_that_stays() {
    let mut site = Site::new();
    keygen(&["-t", "ed25519", "-f", site.rig.channels().join("secrets/host").to_str().unwrap()], "");
    site.rig.write("channels/orders.toml", channel("orders", "acme", "host_key = { file = \"secrets/host\" }"));
    site.rig.start();
    let given = fingerprint(&site.rig.channels().join("secrets/host.pub"));
    assert!(site.rig.log().contains(&given), "{}", site.rig.log());
    assert_eq!(presented(&site), given);
    site.rig.write("channels/orders.toml", channel("orders", "acme", ""));
    let own = eventually("it has a key of its own", || {
        // None while the port changes hands.
        Some(presented(&site)).filter(|found| *found != given && !found.is_empty())
    });
    assert!(site.rig.log().contains(&own));
    assert_eq!(fingerprint(&site.rig.path().join("data/hosted/host_key")), own);
    site.rig.terminate();
    site.rig.start();
    assert_eq!(presented(&site), own);
}

/// The fingerprint of the key that the server shows; empty where nobody answers just now.
fn presented(site: &Site) -> String {
    use base64::Engine as _;
    let (_, channels) = site.rig.get("/api/v1/channels");
    let listed = channels["channels"].as_array().unwrap();
    let address = listed.iter().find_map(|channel| channel["listens_on"].as_str()).unwrap_or("127.0.0.1:1");
    let Ok(stream) = std::net::TcpStream::connect(address) else { return String::new() };
    let Ok(session) = super::connect_on(stream) else { return String::new() };
    let hash = session.host_key_hash(ssh2::HashType::Sha256).unwrap();
    format!("SHA256:{}", base64::engine::general_purpose::STANDARD_NO_PAD.encode(hash))
}

/// The diagnostics of a channel file.
fn mistakes(site: &Site, files: &[(&str, String)]) -> String {
    for (name, text) in files {
        site.rig.write(&format!("channels/{name}.toml"), text);
    }
    let output = labwire().arg("check").arg(site.rig.channels()).output().unwrap();
    for (name, _) in files {
        std::fs::remove_file(site.rig.channels().join(format!("{name}.toml"))).unwrap();
    }
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_makes_no_sense_is_told_when_it_is_read() {
    let site = Site::new();
    site.rig.write("channels/secrets/empty.pub", "# nobody\n");
    site.rig.write("channels/secrets/plain", "correct horse");
    for (more, words) in [
        ("", "no mistakes"),
        ("keys = [\"ssh-ed25519 AAAA\"]", "key 1 is of no use"),
        (
            "keys = [\"sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAICFo/k5LU8863u66YC9eUO2170QduohPURkQnbLa/dczAAAABHNzaDo=\"]",
            "key 1 is of no use",
        ),
        ("keys = { file = \"secrets/empty.pub\" }", "there is no public key in it"),
        ("keys = { file = \"secrets/none.pub\" }", "No such file"),
        ("keys = \"secrets/acme.pub\"", "`keys`"),
        ("password = \"correct horse\"", "a secret must not be written into a channel file"),
        ("password = { file = \"secrets/plain\" }", "it is no argon2 hash in PHC form"),
        ("host_key = { file = \"secrets/acme.pub\" }", "is no private key in OpenSSH format"),
        ("access = \"download\"", "`download`"),
        ("folder = \"../up\"", "cannot be a folder here"),
        ("names = [\"in/*\"]", "is no pattern"),
        ("max_size = \"0B\"", "no file is that small"),
        ("quota_bytes = \"0B\"", "no file is that small"),
        ("quota_files = 0", "nothing could be uploaded"),
        ("keep_incomplete = \"0s\"", "no peer is that fast"),
        ("duplicate_window = \"0s\"", "no message comes again so soon"),
        ("limits = { connections = 0 }", "nobody could log in"),
        ("limits = { conections = 5 }", "did you mean `connections`?"),
        ("quota_file = 5", "did you mean `quota_files`?"),
        ("host_keys = { file = \"x\" }", "did you mean `host_key`?"),
    ] {
        let said = mistakes(&site, &[("orders", channel("orders", "acme", more))]);
        assert!(said.contains(words), "{more}: {said}");
    }
    let nobody = channel("orders", "acme", "keys = 1").replace("keys = 1\n", "");
    assert!(mistakes(&site, &[("orders", nobody)]).contains("[source] needs `keys` or `password`"));
    let user = channel("orders", "acme", "keys = { file = \"secrets/acme.pub\" }")
        .replace("user = \"acme\"", "user = \"a/b\"");
    assert!(mistakes(&site, &[("orders", user)]).contains("`a/b` cannot be a login name"));
}

#[test]
fn channels_that_get_in_each_others_way_are_told() {
    let site = Site::new();
    let at = |name: &str, user: &str, port: u16, more: &str| {
        (name.to_owned(), channel(name, user, more).replace("127.0.0.1:0", &format!("127.0.0.1:{port}")))
    };
    let both = |one: (String, String), two: (String, String)| mistakes(&site, &[(&*one.0, one.1), (&*two.0, two.1)]);
    let orders = || at("orders", "acme", 2222, "");
    assert!(both(orders(), at("b", "acme", 2222, "folder = \"results\"")).contains("no mistakes"));
    assert!(both(orders(), at("b", "bravo", 2222, "")).contains("no mistakes"));
    for (other, words) in [
        (at("b", "acme", 2222, ""), "the folder `/orders` of user `acme` is there twice"),
        (at("b", "acme", 2223, ""), "the folder `/orders` of user `acme` is there twice"),
        (at("b", "acme", 2222, "folder = \"orders/in\""), "is there twice"),
        (at("b", "acme", 2222, "folder = \"/\""), "is there twice"),
        (at("b", "bravo", 2222, "limits = { failures = 3 }"), "and do not say the same of it"),
        (at("b", "bravo", 2222, "host_key = { env = \"KEY\" }"), "and do not say the same of it"),
    ] {
        let said = both(orders(), other);
        assert!(said.contains(words), "{words}: {said}");
    }
    let placing = |name: &str, more: &str| {
        let text = format!(
            "name = \"{name}\"\n[source]\ntype = \"event\"\n[destination.out]\ntype = \"sftp_server\"\nlisten = \"127.0.0.1:2222\"\n\
             user = \"acme\"\nkeys = {{ file = \"secrets/acme.pub\" }}\nfolder = \"results\"\nfile_name = \"x\"\n{more}\n"
        );
        (name.to_owned(), text.replacen("\n", "\naction = 49\n", 1))
    };
    assert!(both(placing("a", ""), placing("b", "")).contains("no mistakes"), "two may place into one folder");
    for more in ["keep = \"1d\"", "may_delete = false", "folder = \"results/more\""] {
        let mut other = placing("b", more);
        if more.contains("folder") {
            other.1 = other.1.replacen("folder = \"results\"\n", "", 1);
        }
        assert!(both(placing("a", ""), other).contains("is there twice"), "{more}");
    }
    let mllp = "name = \"m\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:2222\"\n[destination.out]\ntype = \"file\"\ndirectory = \"../o\"\nfile_name = \"x\"\n";
    assert!(both(orders(), ("m".to_owned(), mllp.to_owned())).contains("two channels listen on port 2222"));
    let placed = channel("orders", "acme", "")
        + "[destination.back]\ntype = \"sftp_server\"\nlisten = \"127.0.0.1:0\"\nuser = \"acme\"\nkeys = { file = \"secrets/acme.pub\" }\nfolder = \"orders\"\nfile_name = \"x\"\n";
    assert!(mistakes(&site, &[("orders", placed)]).contains("another part of this channel has it, too"));
}

#[test]
fn a_reload_that_only_concerns_the_source_keeps_what_is_there() {
    let mut site = Site::new();
    site.rig.write("channels/orders.toml", channel("orders", "acme", ""));
    site.rig.start();
    let acme = site.login("acme");
    acme.put("orders/a.hl7", &order("a")).unwrap();
    acme.put("orders/b.tmp", &order("b")).unwrap();
    site.rig.write("channels/orders.toml", channel("orders", "acme", "names = [\"*.ok\"]"));
    eventually("the new rules hold", || {
        let login = site.try_login("acme", "acme").ok()?;
        let sftp = login.sftp().ok()?;
        let refused = sftp.create(Path::new("orders/x.hl7")).err()?;
        (status(&refused) == DENIED).then_some(())
    });
    let kept = names(&site.disk("acme"));
    assert!(["a.hl7", "b.tmp"].iter().all(|name| kept.contains(&(*name).to_owned())), "{kept:?}");
    let again = site.login("acme");
    again.rename("orders/b.tmp", "orders/b.ok").unwrap();
    site.rig.wait_for("sent", 2);
}

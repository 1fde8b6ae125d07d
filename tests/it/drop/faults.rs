//! Rows F71 to F73 of docs/faults.md, and what a full journal means to a partner.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::{FAILURE, Sftp, Site, channel, connect_on, order};
use crate::support::eventually::{eventually, eventually_within};
use crate::support::partner::names;

/// A session on a connection that can be cut.
fn cuttable(site: &Site) -> (Sftp, TcpStream) {
    let stream = TcpStream::connect(site.address()).unwrap();
    let session = connect_on(stream.try_clone().unwrap()).unwrap();
    session.userauth_pubkey_file("acme", None, &site.key("acme"), None).unwrap();
    (Sftp { sftp: session.sftp().unwrap() }, stream)
}

#[test]
fn f71_a_client_that_is_gone_leaves_something_to_go_on_with() {
    let mut site = Site::with("keep_incomplete = \"4s\"");
    let content = order("A");
    let (acme, stream) = cuttable(&site);
    let mut file = acme.create("orders/a.hl7").unwrap();
    file.write_all(&content[..40]).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    let again = site.login("acme");
    assert_eq!(again.names("orders").unwrap(), ["a.hl7.incomplete"]);
    assert_eq!(again.size("orders/a.hl7"), Ok(40));
    // Nobody makes a message of it but who uploads the rest.
    for (from, to) in [("orders/a.hl7.incomplete", "orders/b.hl7"), ("orders/a.hl7", "orders/b.hl7")] {
        assert_eq!(again.rename(from, to), Err(FAILURE), "{from}");
    }
    assert!(again.create("orders/b.hl7.incomplete").is_err());
    // The engine's own end changes nothing.
    site.rig.kill();
    site.rig.start();
    assert!(site.rig.messages("").is_empty());
    let again = site.login("acme");
    let mut file = again.open("orders/a.hl7", ssh2::OpenFlags::WRITE | ssh2::OpenFlags::APPEND).unwrap();
    file.write_all(&content[40..]).unwrap();
    file.close().unwrap();
    site.rig.wait_for("sent", 1);
    assert_eq!(site.delivered("orders")[0].1, content);

    // One that nobody goes on with is given up.
    let (acme, stream) = cuttable(&site);
    let mut file = acme.create("orders/c.hl7").unwrap();
    file.write_all(b"MSH").unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    eventually("it is there", || names(&site.disk("acme")).contains(&"c.hl7.incomplete".to_owned()).then_some(()));
    eventually("it is given up", || (names(&site.disk("acme")) == ["a.hl7"]).then_some(()));
}

/// A connection that nobody has noticed to be dead does not keep its file: who uploads it anew gets it, and the old one nothing.
#[test]
fn f71_a_second_connection_takes_an_upload_over() {
    let site = Site::with("");
    let (old, new) = (site.login("acme"), site.login("acme"));
    let mut stale = old.create("orders/a.hl7").unwrap();
    stale.write_all(b"MSH|half").unwrap();
    new.put("orders/a.hl7", &order("A")).unwrap();
    assert!(stale.write_all(b"more").is_err());
    assert!(stale.close().is_err());
    site.rig.wait_for("sent", 1);
    assert_eq!(site.delivered("orders")[0].1, order("A"));
}

#[test]
fn f72_killed_right_after_the_close_was_answered() {
    let mut site = Site::with("");
    for round in 0..5 {
        let acme = site.login("acme");
        let names = [format!("orders/{round}.hl7"), format!("orders/r{round}.hl7"), format!("orders/{round}.tmp")];
        acme.put(&names[0], &order(&format!("C{round}"))).unwrap();
        acme.put(&names[2], &order(&format!("R{round}"))).unwrap();
        acme.rename(&names[2], &names[1]).unwrap();
        site.rig.kill();
        site.rig.start();
    }
    site.rig.wait_for("sent", 10);
    let mut delivered = site.delivered("orders");
    delivered.dedup();
    assert_eq!(delivered.len(), 10, "each of them, and each once but for repeated deliveries");
}

#[test]
fn f73_one_partner_fills_its_quota_and_the_others_go_on() {
    let mut site = Site::new();
    site.rig.write("channels/orders.toml", channel("orders", "acme", "quota_bytes = \"10KiB\"\nformat = \"text\""));
    site.rig.write("channels/bravo.toml", channel("bravo", "bravo", ""));
    site.rig.start();
    let (acme, bravo) = (site.login("acme"), site.login("bravo"));
    let mut taken = 0;
    while acme.put(&format!("orders/{taken}.txt"), &[b'x'; 1000]).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 10);
    assert_eq!(acme.put("orders/more.tmp", &[b'x'; 1000]), Err(FAILURE));
    for number in 0..20 {
        bravo.put(&format!("orders/{number}.hl7"), &order(&number.to_string())).unwrap();
    }
    site.rig.wait_for("sent", 30);
    assert!(site.rig.messages("&channel=orders").len() == 10, "what was refused is no message");
    assert!(site.rig.log().contains("the folder is full, uploads are refused"));
}

/// No room in the journal: a failure, and the file waits for the client to try again.
#[test]
fn a_full_journal_refuses_and_keeps_what_was_uploaded() {
    let mut site = Site::new();
    site.rig.write("channels/orders.toml", channel("orders", "acme", ""));
    site.rig.arguments = vec!["--disk-low", "100%", "--disk-reserve", "100%"];
    site.rig.start();
    let acme = site.login("acme");
    acme.put("orders/b.tmp", &order("B")).unwrap();
    assert_eq!(acme.put("orders/a.hl7", &order("A")), Err(FAILURE));
    assert_eq!(acme.rename("orders/b.tmp", "orders/b.hl7"), Err(FAILURE));
    site.rig.write("c.hl7", order("C"));
    let (_, said) = site.python("client.py", "acme", &["refused", "c.hl7"]);
    assert!(said.contains("there is no room in the journal"), "{said}");
    // A client that looks for the file instead of listening to the answer is not told that it is there.
    let (done, said) = site.python("client.py", "acme", &["put", "c.hl7", "d.hl7"]);
    assert!(!done && said.contains("No such file"), "{said}");
    let all = ["a.hl7.incomplete", "b.tmp", "c.hl7.incomplete", "d.hl7.incomplete"];
    assert_eq!(names(&site.disk("acme")), all);
    assert!(site.rig.messages("").is_empty());
    site.rig.terminate();
    site.rig.arguments.clear();
    site.rig.start();
    let acme = site.login("acme");
    acme.rename("orders/b.tmp", "orders/b.hl7").unwrap();
    // Opened and closed again: nothing need be sent a second time.
    acme.open("orders/a.hl7", ssh2::OpenFlags::WRITE | ssh2::OpenFlags::APPEND).unwrap().close().unwrap();
    site.rig.wait_for("sent", 2);
    assert!(site.delivered("orders") == [("a.hl7".to_owned(), order("A")), ("b.hl7".to_owned(), order("B"))]);
}

/// SIGTERM while files come in: what was answered is there after the next start, and the engine ends in time.
#[test]
fn stopping_answers_what_it_took() {
    let mut site = Site::with("");
    let acme = site.login("acme");
    let uploads = std::thread::spawn(move || {
        let put = |number: usize| acme.put(&format!("orders/{number}.hl7"), &order(&number.to_string()));
        (0..).take_while(|number| put(*number).is_ok()).count()
    });
    eventually_within(Duration::from_secs(20), "some have come", || (site.rig.messages("").len() > 5).then_some(()));
    assert!(site.rig.terminate().success());
    let answered = uploads.join().unwrap();
    site.rig.start();
    let kept = site.rig.messages("").len();
    assert!(kept == answered || kept == answered + 1, "{answered} were answered, {kept} are there");
}

//! `sftp_server` as a destination: what partners pick up.

use std::os::unix::fs::PermissionsExt;

use super::{DENIED, NO_SUCH_FILE, Sftp, Site, channel};
use crate::support::eventually::eventually;
use crate::support::mllp_client::MllpClient;
use crate::support::partner::names;

/// A channel whose results go into the folder `results` of `acme`.
fn results(more: &str) -> String {
    let name = if more.contains("file_name") { "" } else { "file_name = \"{{ msg['MSH-10'] }}.hl7\"\n" };
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.acme]\ntype = \"sftp_server\"\n\
         listen = \"127.0.0.1:0\"\nuser = \"acme\"\nkeys = {{ file = \"secrets/acme.pub\" }}\nfolder = \"results\"\n\
         retry = {{ attempts = 1 }}\n{name}{more}\n"
    )
}

fn result(id: &str, more: &str) -> Vec<u8> {
    format!("MSH|^~\\&|LAB|X|LIS|ACME|20260115||ORU^R01|{id}|P|2.5\rPID|1||P1\r{more}").into_bytes()
}

fn send(site: &Site, messages: &[Vec<u8>]) {
    let mut client = MllpClient::connect(site.rig.listener("results")).unwrap();
    for message in messages {
        client.send(message).unwrap();
    }
}

/// A site where `acme` drops orders and picks results up.
fn site(more: &str) -> (Site, Sftp) {
    let mut site = Site::new();
    site.rig.write("channels/orders.toml", channel("orders", "acme", ""));
    site.rig.write("channels/results.toml", results(more));
    site.rig.start();
    let acme = eventually("the folder is open", || {
        let acme = site.login("acme");
        (acme.names("/").unwrap() == ["orders", "results"]).then_some(acme)
    });
    (site, acme)
}

#[test]
fn results_are_picked_up_whole_and_deleted_by_the_partner() {
    let (site, acme) = site("");
    assert_eq!(acme.names("results").unwrap(), [""; 0], "the folder is there before the first result");
    send(&site, &[result("A", ""), result("B", "")]);
    site.rig.wait_for("sent", 2);
    assert_eq!(acme.names("results").unwrap(), ["A.hl7", "B.hl7"]);
    assert_eq!(acme.get("results/A.hl7").unwrap(), result("A", ""));
    for refused in [acme.put("results/C.hl7", b"x"), acme.put("results/A.hl7", b"x"), acme.put("results/c.tmp", b"x")] {
        assert_eq!(refused, Err(DENIED));
    }
    assert_eq!(acme.rename("results/A.hl7", "results/C.hl7"), Err(DENIED));
    // What is still being written there is seen by nobody.
    let disk = site.rig.path().join("data/hosted/users/acme/results");
    std::fs::write(disk.join(".C.hl7.part"), "half").unwrap();
    for mode in [0o600, 0o400] {
        std::fs::set_permissions(disk.join(".C.hl7.part"), std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(acme.names("results").unwrap(), ["A.hl7", "B.hl7"]);
        assert_eq!(acme.size("results/.C.hl7.part"), Err(NO_SUCH_FILE));
        assert_eq!(acme.get("results/.C.hl7.part"), Err(NO_SUCH_FILE));
        assert_eq!(acme.remove("results/.C.hl7.part"), Err(NO_SUCH_FILE));
    }
    let (done, said) = site.sftp("acme", "get -p results/* .\nrm results/A.hl7\nls results\n");
    assert!(done && said.contains("B.hl7"), "{said}");
    assert_eq!(std::fs::read(site.rig.path().join("B.hl7")).unwrap(), result("B", ""));
    assert_eq!(names(&disk), [".C.hl7.part", "B.hl7"]);
    let story = site.rig.story(site.rig.messages("&control_id=A")[0]["id"].as_str().unwrap());
    assert!(!site.rig.log().contains("A.hl7"), "{story}");
}

#[test]
fn the_same_again_is_sent_and_another_content_is_a_conflict() {
    let (site, acme) = site("");
    send(&site, &[result("A", "")]);
    let id = site.rig.wait_for("sent", 1)[0]["id"].as_str().unwrap().to_owned();
    let resend = serde_json::json!({ "ids": [id], "who": "ilona", "why": "a test" }).to_string();
    assert_eq!(site.rig.post("/api/v1/messages/resend", resend).0, 200);
    eventually("it was sent again", || {
        (site.rig.story(&id)["deliveries_in_full"][0]["tries"].as_array()?.len() == 2).then_some(())
    });
    send(&site, &[result("A", "NTE|1||another\r")]);
    let dead = site.rig.wait_for("dead", 1);
    let error = dead[0]["deliveries"][0]["error"].as_str().unwrap();
    assert!(error.contains("is there already, with another content") && !error.contains("A.hl7"), "{error}");
    assert_eq!(acme.get("results/A.hl7").unwrap(), result("A", ""));
}

#[test]
fn names_times_and_rights_are_those_of_the_file() {
    let (site, acme) =
        site("file_name = \"r-{{ msg['PID-3'] }}-{{ msg['MSH-10'] }}\"\nkeep = \"2s\"\nmay_delete = false");
    send(&site, &[result("A", "")]);
    site.rig.wait_for("sent", 1);
    assert_eq!(acme.names("results").unwrap(), ["r-P1-A"]);
    assert_eq!(acme.remove("results/r-P1-A"), Err(DENIED));
    eventually("it had its time", || acme.names("results").unwrap().is_empty().then_some(()));
}

/// A partner who only picks up needs no other channel, and a paused source closes nothing that partners pick up.
#[test]
fn a_folder_to_pick_up_from_opens_its_own_listener() {
    let mut site = Site::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.rig.write(
        "channels/results.toml",
        results("").replace(
            "\"sftp_server\"\nlisten = \"127.0.0.1:0\"",
            &format!("\"sftp_server\"\nlisten = \"127.0.0.1:{port}\""),
        ),
    );
    site.rig.start();
    let login = || {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        let session = super::connect_on(stream).ok()?;
        session.userauth_pubkey_file("acme", None, &site.key("acme"), None).ok()?;
        Some(Sftp { sftp: session.sftp().ok()? })
    };
    let acme = eventually("the folder is open", login);
    send(&site, &[result("A", "")]);
    site.rig.wait_for("sent", 1);
    assert_eq!(site.rig.cli(&["channels", "pause", "results"]).0, 0);
    assert_eq!(acme.get("results/A.hl7").unwrap(), result("A", ""));
    assert_eq!(site.rig.cli(&["channels", "stop", "results"]).0, 0);
    eventually("nobody listens any more", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
    assert!(acme.get("results/A.hl7").is_err());
    assert_eq!(site.rig.cli(&["channels", "start", "results"]).0, 0);
    let acme = eventually("the folder is open again", login);
    assert_eq!(acme.names("results").unwrap(), ["A.hl7"]);
}

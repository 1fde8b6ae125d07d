//! The clients that partners have.

use std::path::Path;
use std::process::Command;

use super::{Site, channel, openssh_options, order, run};
use crate::support::eventually::eventually;
use crate::support::partner::names;

#[test]
fn openssh_lftp_and_paramiko_upload_and_every_file_arrives_once() {
    let site = Site::with("");
    for name in ["one", "two", "three", "four", "five"] {
        site.rig.write(&format!("{name}.hl7"), order(name));
    }
    let (done, said) = site.sftp("acme", "ls\ncd orders\nput one.hl7\nput -p two.hl7\nls -l\n-get one.hl7 back\n");
    assert!(done, "{said}");
    assert!(said.contains("one.hl7") && said.contains("Permission denied"), "{said}");

    // The second as lftp does it that is told to use temporary names: `.in.four.hl7`, then a rename.
    let ssh = format!("ssh -a -x {} -i {}", openssh_options().join(" "), site.key("acme").display());
    let script = format!(
        "set sftp:connect-program \"{ssh}\"; set net:max-retries 1; open sftp://acme:@127.0.0.1:{}; cd orders; put three.hl7; \
         set xfer:use-temp-file yes; put four.hl7; cls -1; bye",
        site.address().port()
    );
    let (done, said) = run(Command::new("lftp").args(["--norc", "-c", &script]).current_dir(site.rig.path()));
    assert!(done && said.contains("four.hl7"), "{said}");

    // As WinSCP: a temporary name, a rename, then the times of the file at home.
    let (done, said) = site.python("client.py", "acme", &["winscp", "five.hl7"]);
    assert!(done, "{said}");
    let (done, said) = site.python("client.py", "acme", &["put", "one.hl7", "six.hl7"]);
    assert!(done, "{said}");

    site.rig.wait_for("sent", 6);
    let expected: Vec<(String, Vec<u8>)> =
        [("five", "five"), ("four", "four"), ("one", "one"), ("six", "one"), ("three", "three"), ("two", "two")]
            .map(|(name, id)| (format!("{name}.hl7"), order(id)))
            .to_vec();
    assert!(
        site.delivered("orders") == expected,
        "{:?}",
        site.delivered("orders").iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    let message = &site.rig.messages("&patient=P-five")[0];
    assert_eq!(message["origin"]["source"], "sftp_server");
    assert_eq!(message["origin"]["file_name"], "five.hl7");
    assert!(message["origin"]["peer"].as_str().unwrap().starts_with("acme@127.0.0.1:"), "{message}");
    assert!(!site.rig.log().contains(".hl7"), "names of files may hold names of people:\n{}", site.rig.log());
}

/// What an interrupted client left behind is gone on with, and taken when it is whole.
#[test]
fn an_interrupted_upload_is_resumed_by_openssh_and_lftp() {
    let site = Site::with("");
    let content = [order("long"), b"NTE|1||".to_vec(), vec![b'x'; 300_000], b"\r".to_vec()].concat();
    for name in ["a.hl7", "b.hl7"] {
        site.rig.write(name, &content);
        let (done, said) = site.python("client.py", "acme", &["interrupt", name, "100000"]);
        assert!(done, "{said}");
    }
    eventually("both are there", || {
        (names(&site.disk("acme")) == ["a.hl7.incomplete", "b.hl7.incomplete"]).then_some(())
    });
    assert_eq!(std::fs::metadata(site.disk("acme").join("a.hl7.incomplete")).unwrap().len(), 100_000);
    assert!(site.rig.messages("").is_empty(), "nothing of it is a message yet");
    let (done, said) = site.sftp("acme", "cd orders\nreput a.hl7\n");
    assert!(done, "{said}");
    let ssh = format!("ssh -a -x {} -i {}", openssh_options().join(" "), site.key("acme").display());
    let port = site.address().port();
    let script =
        format!("set sftp:connect-program \"{ssh}\"; open sftp://acme:@127.0.0.1:{port}; cd orders; put -c b.hl7; bye");
    let (done, said) = run(Command::new("lftp").args(["--norc", "-c", &script]).current_dir(site.rig.path()));
    assert!(done, "{said}");
    site.rig.wait_for("sent", 2);
    assert!(site.delivered("orders").iter().all(|(_, found)| *found == content));
    assert_eq!(names(&site.disk("acme")), ["a.hl7", "b.hl7"]);
}

/// Two channels of one user, on one listener: each file goes to the channel of its folder, and each key opens its own folders.
#[test]
fn two_channels_share_a_listener_and_a_user() {
    let mut site = Site::new();
    site.rig.write("channels/orders.toml", channel("orders", "acme", ""));
    site.rig.write("channels/results.toml", channel("results", "acme", "folder = \"results/in\""));
    site.rig.write("channels/bravo.toml", channel("bravo", "bravo", ""));
    site.rig.start();
    for name in ["results", "bravo"] {
        assert_eq!(site.rig.listener(name), site.address(), "{name}");
    }
    let (acme, bravo) = (site.login("acme"), site.login("bravo"));
    assert_eq!(acme.names("/").unwrap(), ["orders", "results"]);
    assert_eq!(acme.names("/results").unwrap(), ["in"]);
    assert_eq!(bravo.names("/").unwrap(), ["orders"]);
    acme.put("orders/a.hl7", &order("a")).unwrap();
    acme.put("results/in/b.hl7", &order("b")).unwrap();
    bravo.put("orders/c.hl7", &order("c")).unwrap();
    site.rig.wait_for("sent", 3);
    for (channel, name) in [("orders", "a.hl7"), ("results", "b.hl7"), ("bravo", "c.hl7")] {
        assert_eq!(site.delivered(channel).iter().map(|(name, _)| &**name).collect::<Vec<_>>(), [name], "{channel}");
    }
    assert!(acme.sftp.mkdir(Path::new("/more"), 0o700).is_err() && acme.sftp.rmdir(Path::new("/orders")).is_err());

    // A channel that goes takes its folder with it, also from who is logged in; the others stay.
    std::fs::remove_file(site.rig.channels().join("results.toml")).unwrap();
    eventually("the folder is gone", || (acme.names("/") == Ok(vec!["orders".to_owned()])).then_some(()));
    acme.put("orders/d.hl7", &order("d")).unwrap();
    // And one that comes brings its own.
    site.rig.write("channels/results.toml", channel("results", "acme", "folder = \"results\""));
    eventually("the folder is there", || acme.put("results/e.hl7", &order("e")).is_ok().then_some(()));
    site.rig.wait_for("sent", 5);
}

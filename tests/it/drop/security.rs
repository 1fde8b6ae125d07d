//! Rows A18 to A23 and A26 of the abuse tests: what somebody who is logged in may not do.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use super::{DENIED, FAILURE, NO_SUCH_FILE, Site, channel, order, status};
use crate::support::partner::names;

#[test]
fn a18_names_lead_nowhere_else() {
    let site = Site::with("");
    let (fine, said) = site.python("ssh_peer.py", "acme", &["names"]);
    assert!(fine && said.contains("27 cases"), "{said}");
    assert_eq!(names(&site.disk("acme")), [""; 0], "what is no HL7 is gone again");
    assert_eq!(names(&site.rig.path().join("data/hosted/users")), ["acme"]);
    assert_eq!(names(&site.rig.path().join("data/hosted")), ["host_key", "users"]);
    let rejected = site.rig.wait_for("rejected", 5);
    let mut names: Vec<_> = rejected.iter().map(|message| message["origin"]["file_name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["%2e%2e", "b", "c", "d", "e"]);
}

#[test]
fn a19_no_links_no_modes_no_paths_to_expand() {
    let site = Site::with("");
    let acme = site.login("acme");
    acme.put("orders/a.hl7", &order("a")).unwrap();
    acme.put("orders/b.tmp", b"b").unwrap();
    assert!(acme.sftp.symlink(Path::new("/orders/b.tmp"), Path::new("/orders/link")).is_err());
    assert!(acme.sftp.readlink(Path::new("/orders/b.tmp")).is_err());
    let stat = |perm, mtime| ssh2::FileStat { size: None, uid: None, gid: None, perm, atime: mtime, mtime };
    for (path, mode) in
        [("/orders/b.tmp", 0o4777), ("/orders/b.tmp", 0o777), ("/orders/a.hl7", 0o600), ("/orders/b.tmp", 0o2600)]
    {
        let refused = acme.sftp.setstat(Path::new(path), stat(Some(mode), None)).unwrap_err();
        assert_eq!(status(&refused), DENIED, "{path} {mode:o}");
    }
    let mut file = acme.create("orders/c.tmp").unwrap();
    assert!(file.setstat(stat(Some(0o4777), Some(7))).is_err());
    // As `put -p` asks: the times are set, the mode is not.
    file.setstat(stat(Some(0o777), Some(7))).unwrap();
    let found = file.stat().unwrap();
    assert_eq!((found.mtime, found.perm.unwrap() & 0o7777), (Some(7), 0o600));
    let (done, said) = site.sftp("acme", "-ln orders/b.tmp orders/hard\n-ln -s orders/b.tmp orders/soft\n-cd ~root\n-chmod 4777 orders/b.tmp\nls orders\n");
    assert!(done, "{said}");
    let (_, said) = site.sftp("acme", "cd ~root\n");
    assert!(said.contains("/~root") || said.contains("not supported") || said.contains("No such file"), "{said}");
    assert_eq!(names(&site.disk("acme")), ["a.hl7", "b.tmp", "c.tmp"]);
}

/// Somebody on this machine swaps the folder for a link to another one while a file comes in.
#[test]
fn a20_a_folder_that_becomes_a_link_leads_nowhere() {
    let site = Site::with("");
    let acme = site.login("acme");
    let mut file = acme.create("orders/a.tmp").unwrap();
    file.write_all(b"first ").unwrap();
    let (disk, elsewhere) = (site.disk("acme"), site.rig.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(&disk, disk.with_extension("moved")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &disk).unwrap();
    file.write_all(b"second").unwrap();
    file.close().unwrap();
    acme.put("orders/b.tmp", b"b").unwrap();
    acme.put("orders/c.hl7", &order("c")).unwrap();
    assert_eq!(names(&elsewhere), [""; 0]);
    assert_eq!(std::fs::read(disk.with_extension("moved").join("a.tmp")).unwrap(), b"first second");
    // A link that lies in the folder is no file for anybody.
    std::fs::write(elsewhere.join("secret"), "secret").unwrap();
    let moved = disk.with_extension("moved");
    std::os::unix::fs::symlink(elsewhere.join("secret"), moved.join("link.tmp")).unwrap();
    std::os::unix::fs::symlink("a.tmp", moved.join("within.hl7.incomplete")).unwrap();
    assert_eq!(acme.size("orders/link.tmp"), Err(NO_SUCH_FILE));
    assert!(acme.put("orders/link.tmp", b"planted").is_err());
    assert!(acme.put("orders/within.hl7", b"planted").is_err());
    assert!(acme.rename("orders/link.tmp", "orders/d.hl7").is_err());
    assert_eq!(std::fs::read_to_string(elsewhere.join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read(moved.join("a.tmp")).unwrap(), b"first second");
}

#[test]
fn a21_another_partners_folder_is_not_there() {
    let mut site = Site::new();
    site.rig.write("channels/orders.toml", channel("orders", "acme", "access = \"both\""));
    site.rig.write("channels/secret.toml", channel("secret", "bravo", "folder = \"secret\""));
    site.rig.start();
    let (acme, bravo) = (site.login("acme"), site.login("bravo"));
    bravo.put("secret/theirs.tmp", b"theirs").unwrap();
    assert_eq!(acme.names("/").unwrap(), ["orders"]);
    // What is there and not ours, and what is not there at all: the same answers.
    for (there, nowhere) in [
        ("/secret", "/nowhere"),
        ("/secret/theirs.tmp", "/nowhere/theirs.tmp"),
        ("/bravo/secret", "/nobody/secret"),
        ("../bravo/secret/theirs.tmp", "../nobody/secret/theirs.tmp"),
        ("/orders/../../bravo", "/orders/../../nobody"),
        ("/etc/passwd", "/etc/nothing"),
    ] {
        let asked = |path: &str| {
            let renamed = acme.rename(path, "/orders/x.tmp");
            (acme.size(path), acme.names(path), acme.get(path), acme.create(path).err(), acme.remove(path), renamed)
        };
        let answers = asked(there);
        assert!(answers.0.is_err() && answers.1.is_err() && answers.2.is_err() && answers.3.is_some(), "{there}");
        assert_eq!(answers, asked(nowhere), "{there} {nowhere}");
    }
    assert_eq!(bravo.size("secret/theirs.tmp"), Ok(6));
}

#[test]
fn a22_what_was_accepted_stays() {
    let mut site = Site::with("access = \"both\"");
    let acme = site.login("acme");
    acme.put("orders/a.hl7", &order("a")).unwrap();
    acme.put("orders/b.tmp", &order("b")).unwrap();
    let tries = |acme: &super::Sftp| {
        use ssh2::OpenFlags as Flags;
        for flags in [
            Flags::WRITE,
            Flags::WRITE | Flags::CREATE | Flags::TRUNCATE,
            Flags::WRITE | Flags::APPEND,
            Flags::WRITE | Flags::CREATE | Flags::EXCLUSIVE,
            Flags::READ | Flags::WRITE,
            Flags::TRUNCATE,
        ] {
            assert_eq!(acme.open("orders/a.hl7", flags).err(), Some(DENIED), "{flags:?}");
        }
        assert_eq!(acme.remove("orders/a.hl7"), Err(DENIED));
        assert_eq!(acme.rename("orders/a.hl7", "orders/z.hl7"), Err(DENIED));
        assert_eq!(acme.rename("orders/a.hl7", "orders/z.tmp"), Err(DENIED));
        assert_eq!(acme.rename("orders/b.tmp", "orders/a.hl7"), Err(DENIED));
        let cut = ssh2::FileStat { size: Some(0), uid: None, gid: None, perm: None, atime: None, mtime: None };
        assert_eq!(acme.sftp.setstat(Path::new("orders/a.hl7"), cut).map_err(|error| status(&error)), Err(DENIED));
        assert_eq!(acme.get("orders/a.hl7").unwrap(), order("a"));
    };
    tries(&acme);
    site.rig.write("a.hl7", order("other"));
    let (_, said) = site.python("client.py", "acme", &["refused", "a.hl7"]);
    assert!(said.contains("Permission denied") || said.contains("was accepted"), "{said}");
    // OpenSSH renames by an extension that overwrites elsewhere.
    let (done, said) = site.sftp("acme", "rename orders/b.tmp orders/a.hl7\n");
    assert!(!done, "{said}");
    site.rig.kill();
    site.rig.start();
    tries(&site.login("acme"));
    assert_eq!(site.rig.wait_for("sent", 1).len(), site.rig.messages("").len());
}

/// Scaled: 50 files instead of a million. What counts is the length that a file claims, not what it takes on the disk.
#[test]
fn a23_empty_files_and_holes_count() {
    let site = Site::with("quota_files = 50\nquota_bytes = \"1GiB\"\nmax_size = \"512MiB\"");
    let acme = site.login("acme");
    let mut file = acme.create("orders/hole.tmp").unwrap();
    for at in [1 << 62, u64::MAX - 1, (512 << 20) + 1] {
        file.seek(SeekFrom::Start(at)).unwrap();
        assert!(file.write_all(b"x").is_err(), "written at {at}");
    }
    let size = |bytes| ssh2::FileStat { size: Some(bytes), uid: None, gid: None, perm: None, atime: None, mtime: None };
    for bytes in [1 << 40, u64::MAX, (512 << 20) + 1] {
        assert_eq!(file.setstat(size(bytes)).map_err(|error| status(&error)), Err(FAILURE), "{bytes}");
    }
    file.setstat(size(512 << 20)).unwrap();
    drop(file);
    let mut second = acme.create("orders/second.tmp").unwrap();
    second.setstat(size(512 << 20)).unwrap();
    drop(second);
    let mut third = acme.create("orders/third.tmp").unwrap();
    assert!(third.write_all(b"x").is_err(), "two holes of half a quota leave no room for a byte");
    drop(third);
    for number in 3..50 {
        acme.put(&format!("orders/{number}.tmp"), b"").unwrap();
    }
    assert_eq!(acme.create("orders/one-more.tmp").err(), Some(FAILURE));
    assert_eq!(names(&site.disk("acme")).len(), 50);
    acme.remove("orders/hole.tmp").unwrap();
    acme.put("orders/one-more.tmp", b"x").unwrap();
}

#[test]
fn a26_what_looks_like_ours_is_just_data() {
    let site = Site::with("format = \"text\"");
    let acme = site.login("acme");
    let evil = channel("evil", "mallory", "");
    acme.put("orders/evil.toml", evil.as_bytes()).unwrap();
    acme.put("orders/evil.channel.toml", evil.as_bytes()).unwrap();
    acme.put("orders/evil.so", b"\x7fELF").unwrap();
    assert!(acme.create("orders/.ssh/authorized_keys").is_err() && acme.create(".ssh/authorized_keys").is_err());
    assert!(acme.create("/authorized_keys").is_err() && acme.create("/host_key").is_err());
    site.rig.wait_for("sent", 3);
    for name in names(&site.disk("acme")) {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(site.disk("acme").join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0, "{name} can be executed");
    }
    for folder in ["data/hosted", "data/hosted/users/acme", "data/hosted/users/acme/orders"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(site.rig.path().join(folder)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{folder} can be looked into");
    }
    let (_, channels) = site.rig.get("/api/v1/channels");
    assert!(!channels.to_string().contains("mallory") && !channels.to_string().contains("evil"), "{channels}");
}

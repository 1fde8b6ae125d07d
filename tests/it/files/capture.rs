//! Each file once, whole, and what becomes of it, in a folder of this machine.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::{QUICK, age, control_ids, files, inbox, let_some_polls_pass, message, put, rig, view};
use crate::support::eventually::{eventually, eventually_within};
use crate::support::rig::Rig;

fn started(options: &str) -> Rig {
    let mut rig = rig(options);
    rig.start();
    rig
}

#[test]
fn a_file_is_journaled_then_moved() {
    let mut rig = started("after = { move = \"done\" }");
    put(&inbox(&rig), "a result.hl7", message("1"));
    let found = rig.wait_for("sent", 1);
    assert_eq!(found[0]["origin"]["file_name"], "a result.hl7");
    assert_eq!(found[0]["origin"]["source"], "file");
    assert_eq!(control_ids(&found), ["1"]);
    eventually("it is moved", || (files(&inbox(&rig)) == ["done/a result.hl7"]).then_some(()));
    assert_eq!(std::fs::read(inbox(&rig).join("done/a result.hl7")).unwrap(), message("1"));
    assert!(!rig.log().contains("a result"), "{}", rig.log());
    assert_eq!(rig.terminate().code(), Some(0));
}

/// A partner writes a file slowly, under its own name.
#[test]
fn f66_a_half_written_file_is_not_taken() {
    let rig = started("after = \"delete\"\nevery = \"400ms\"\nmin_age = \"0s\"");
    let whole = message("slow").repeat(1);
    let begun = Instant::now();
    let mut file = std::fs::File::create(inbox(&rig).join("slow.hl7")).unwrap();
    for part in whole.chunks(10) {
        file.write_all(part).unwrap();
        assert!(rig.messages("").is_empty(), "taken after {:?}", begun.elapsed());
        std::thread::park_timeout(Duration::from_millis(150));
    }
    drop(file);
    let found = rig.wait_for("sent", 1);
    assert_eq!(found[0]["bytes"], whole.len());
}

/// By default a file must be the same at two polls, and five seconds old.
#[test]
fn f66_defaults_take_a_file_that_two_polls_saw_and_that_is_old_enough() {
    let rig = rig("after = \"delete\"");
    let old = put(&inbox(&rig), "old.hl7", message("old"));
    age(&old, Duration::from_secs(60));
    put(&inbox(&rig), "new.hl7", message("new"));
    let mut rig = rig;
    let begun = Instant::now();
    rig.start();
    rig.wait_for("sent", 1);
    assert!(begun.elapsed() > Duration::from_millis(1500), "two polls are two seconds apart: {:?}", begun.elapsed());
    assert_eq!(control_ids(&rig.messages("")), ["old"]);
    rig.wait_for("sent", 2);
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(control_ids(&rig.messages("")), ["old", "new"]);
}

#[test]
fn f68_what_comes_again_is_told_from_what_is_new() {
    let rig = started(&format!("{QUICK}after = {{ move = \"done\" }}"));
    let folder = inbox(&rig);
    put(&folder, "a.hl7", message("1"));
    let first = rig.wait_for("sent", 1);
    eventually("it is moved", || (files(&folder) == ["done/a.hl7"]).then_some(()));
    // Another name, the same content.
    put(&folder, "b.hl7", message("1"));
    eventually("b is a duplicate", || (files(&folder) == ["done/a.hl7", "duplicates/b.hl7"]).then_some(()));
    // The same name, the same content.
    put(&folder, "a.hl7", message("1"));
    eventually("a is a duplicate", || files(&folder).contains(&"duplicates/a.hl7".to_owned()).then_some(()));
    // The same name, a new content; its new name is taken.
    put(&folder, "a.hl7", message("2"));
    let found = rig.wait_for("sent", 2);
    assert_eq!(control_ids(&found), ["1", "2"]);
    let second = found[0]["id"].as_str().unwrap();
    let moved = format!("done/a.{second}.hl7");
    eventually("it is moved beside the first", || files(&folder).contains(&moved).then_some(()));
    assert_eq!(std::fs::read(folder.join("done/a.hl7")).unwrap(), message("1"));
    assert_eq!(view(&rig, "files")["counters"]["repeated"], 2);
    let (log, id) = (rig.log(), first[0]["id"].as_str().unwrap());
    let told = log.lines().filter(|line| line.contains("it is a duplicate") && line.contains(id));
    assert_eq!(told.count(), 2, "{log}");
}

/// All have the id of the first message: it makes only one new name.
#[test]
fn f68_a_third_and_fourth_duplicate_under_one_name_are_put_away_too() {
    let rig = started(&format!("{QUICK}after = \"delete\""));
    let folder = inbox(&rig);
    put(&folder, "a.hl7", message("1"));
    eventually("it is taken", || files(&folder).is_empty().then_some(()));
    for count in 1..=4 {
        put(&folder, "a.hl7", message("1"));
        eventually("it is put away", || {
            let found = files(&folder);
            (found.len() == count && found.iter().all(|name| name.starts_with("duplicates/a."))).then_some(())
        });
    }
    assert_eq!(rig.messages("").len(), 1);
    assert_eq!(view(&rig, "files")["counters"]["files_left"], 0);
}

/// Two of the same content in one poll, which journals both together.
#[test]
fn f68_twins_in_one_poll_are_one_message() {
    let mut rig = rig(&format!("{QUICK}after = \"delete\"\nsort = \"name\""));
    for name in ["a.hl7", "b.hl7", "c.hl7"] {
        put(&inbox(&rig), name, message("1"));
    }
    rig.start();
    eventually("all are done with", || (files(&inbox(&rig)) == ["duplicates/b.hl7", "duplicates/c.hl7"]).then_some(()));
    assert_eq!(rig.messages("").len(), 1);
}

/// What was captured and cannot be moved stays, is not captured again, and is moved when that is possible.
#[test]
fn f69_a_file_that_cannot_be_moved_is_not_captured_again() {
    let mut rig = rig(&format!("{QUICK}after = {{ move = \"done\" }}"));
    let folder = inbox(&rig);
    // No folder can be made where a file is.
    std::fs::write(folder.join("done"), "").unwrap();
    for number in 0..20 {
        put(&folder, &format!("{number}.hl7"), message(&number.to_string()));
    }
    rig.start();
    rig.wait_for("sent", 20);
    let_some_polls_pass();
    assert_eq!(view(&rig, "files")["counters"]["files_left"], 20);
    rig.kill();
    rig.start();
    let_some_polls_pass();
    let log = rig.log();
    assert_eq!(log.matches("cannot be moved or deleted").count(), 1, "told once, and not at every poll:\n{log}");
    assert_eq!(files(&folder).len(), 21);
    std::fs::remove_file(folder.join("done")).unwrap();
    eventually_within(Duration::from_secs(30), "they are moved", || {
        files(&folder).iter().all(|name| name.starts_with("done/")).then_some(())
    });
    assert_eq!(rig.messages("").len(), 20);
    assert_eq!(rig.messages("&state=sent").len(), 20);
}

#[test]
fn f69_another_file_in_the_place_of_one_that_was_left_is_captured() {
    let mut rig = rig(&format!("{QUICK}after = {{ move = \"done\" }}"));
    let folder = inbox(&rig);
    std::fs::write(folder.join("done"), "").unwrap();
    let path = put(&folder, "a.hl7", message("1"));
    rig.start();
    rig.wait_for("sent", 1);
    rig.kill();
    // The same name, size and time; only the content tells.
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, message("2")).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    std::fs::remove_file(folder.join("done")).unwrap();
    rig.start();
    assert_eq!(control_ids(&rig.wait_for("sent", 2)), ["1", "2"]);
    eventually("it is moved", || (files(&folder) == ["done/a.hl7"]).then_some(()));
    assert_eq!(std::fs::read(folder.join("done/a.hl7")).unwrap(), message("2"));
}

#[test]
fn f70_empty_large_and_oddly_written_files() {
    let mut rig = rig(&format!("{QUICK}after = \"delete\"\nmax_size = \"1KiB\""));
    let folder = inbox(&rig);
    let text = String::from_utf8(message("X")).unwrap();
    put(&folder, "empty.hl7", "");
    put(&folder, "bom.hl7", format!("\u{feff}{}", text.replace("|X|", "|bom|")));
    put(&folder, "crlf.hl7", text.replace("|X|", "|crlf|").replace('\r', "\r\n"));
    put(&folder, "lf.hl7", text.replace("|X|", "|lf|").replace('\r', "\n"));
    put(&folder, "open.hl7", text.replace("|X|", "|open|").trim_end());
    put(&folder, "limit.hl7", format!("{:\r<1024}", text.replace("|X|", "|limit|")));
    put(&folder, "larger.hl7", format!("{:\r<1025}", text.replace("|X|", "|larger|")));
    put(&folder, "no.hl7", "Dear colleagues,");
    rig.start();
    rig.wait_for("sent", 5);
    let found: BTreeSet<String> = control_ids(&rig.messages("&state=sent")).into_iter().collect();
    assert_eq!(found, ["bom", "crlf", "lf", "limit", "open"].map(String::from).into());
    let rejected = rig.wait_for("rejected", 2);
    let reason = |name: &str| {
        let message = rejected.iter().find(|message| message["origin"]["file_name"] == name).unwrap();
        message["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason("larger.hl7"), "the file has 1025 bytes, `max_size` is 1024");
    assert_eq!(reason("no.hl7"), "message does not start with MSH");
    eventually("the others are gone", || {
        (files(&folder) == ["empty.hl7", "error/larger.hl7", "error/no.hl7"]).then_some(())
    });
    assert_eq!(view(&rig, "files")["counters"]["rejected"], 2);
    assert!(rig.log().contains("message does not start with MSH"), "{}", rig.log());
    // Byte for byte as they came.
    let crlf =
        rig.messages("&state=sent").into_iter().find(|found| found["origin"]["file_name"] == "crlf.hl7").unwrap();
    let out = std::fs::read(rig.path().join(format!("out/{}.hl7", crlf["id"].as_str().unwrap()))).unwrap();
    assert_eq!(out, text.replace("|X|", "|crlf|").replace('\r', "\r\n").as_bytes());
}

/// `kill -9` again and again while a folder is captured: each file is one message, and all are moved.
#[test]
fn every_file_is_captured_exactly_once_through_kills() {
    const FILES: usize = 600;
    let mut rig = rig(&format!("{QUICK}after = {{ move = \"done\" }}\nmax_files = 150"));
    let folder = inbox(&rig);
    for number in 0..FILES {
        put(&folder, &format!("{number}.hl7"), message(&number.to_string()));
    }
    let left = || files(&folder).iter().filter(|name| !name.contains('/')).count();
    let mut kills = 0;
    for goal in [590, 520, 470, 400, 330, 250, 170, 90, 20] {
        rig.start();
        eventually_within(Duration::from_secs(60), "some are captured", || (left() <= goal).then_some(()));
        rig.kill();
        kills += 1;
    }
    rig.start();
    eventually_within(Duration::from_secs(60), "all are moved", || (left() == 0).then_some(()));
    rig.wait_for("sent", FILES);
    let ids: BTreeSet<String> = control_ids(&rig.messages("")).into_iter().collect();
    assert_eq!((rig.messages("").len(), ids.len(), kills), (FILES, FILES, 9));
    assert_eq!(files(&folder.join("done")).len(), FILES);
    assert!(files(&folder.join("duplicates")).is_empty());
}

/// A crash between the journal's receipt and the ledger's entry: the ledger knows nothing, the journal does.
#[test]
fn what_only_the_journal_knows_is_not_captured_twice() {
    let mut rig = rig(&format!("{QUICK}after = \"keep\"\non_error = \"keep\"\nduplicate_window = \"off\""));
    for number in 0..3 {
        put(&inbox(&rig), &format!("{number}.hl7"), message(&number.to_string()));
    }
    put(&inbox(&rig), "bad.hl7", "Dear colleagues,");
    rig.start();
    rig.wait_for("sent", 3);
    rig.wait_for("rejected", 1);
    rig.kill();
    let ledger = rig.path().join("data/ledgers/files.ledger");
    let bytes = std::fs::metadata(&ledger).unwrap().len();
    // Half of the last record, and none of the others.
    std::fs::File::options().write(true).open(&ledger).unwrap().set_len(60).unwrap();
    rig.start();
    eventually("the ledger is as it was", || {
        let bytes_now = std::fs::metadata(&ledger).ok()?.len();
        (bytes_now == bytes).then_some(())
    });
    let_some_polls_pass();
    assert_eq!(rig.messages("").len(), 4, "{}", rig.log());
}

#[test]
fn files_wait_while_the_journal_has_no_room() {
    let mut rig = rig(&format!("{QUICK}after = \"delete\""));
    put(&inbox(&rig), "a.hl7", message("1"));
    rig.arguments = vec!["--disk-low", "99999GiB", "--disk-reserve", "0B"];
    rig.start();
    eventually("it is said", || rig.log().contains("files are left where they are").then_some(()));
    let_some_polls_pass();
    assert!(rig.messages("").is_empty() && files(&inbox(&rig)) == ["a.hl7"]);
    assert_eq!(rig.log().matches("files are left where they are").count(), 1, "{}", rig.log());
    rig.kill();
    rig.arguments.clear();
    rig.start();
    rig.wait_for("sent", 1);
}

#[test]
fn a_folder_that_is_not_there_is_shown_and_found_when_it_comes() {
    let mut rig = rig(&format!("{QUICK}after = \"delete\""));
    std::fs::remove_dir(inbox(&rig)).unwrap();
    rig.start();
    let error = eventually("it is shown", || view(&rig, "files")["source_error"].as_str().map(str::to_owned));
    assert!(error.contains("/in: No such file or directory"), "{error}");
    let_some_polls_pass();
    assert_eq!(rig.log().matches("takes nothing in").count(), 1, "{}", rig.log());
    put(&inbox(&rig), "a.hl7", message("1"));
    rig.wait_for("sent", 1);
    assert!(view(&rig, "files")["source_error"].is_null());
}

/// A link could lead to any file of this machine.
#[test]
fn links_are_not_followed() {
    let rig = started(&format!("{QUICK}after = \"delete\"\nrecursive = true"));
    let secret = rig.write("secret.hl7", message("secret"));
    std::os::unix::fs::symlink(&secret, inbox(&rig).join("link.hl7")).unwrap();
    std::os::unix::fs::symlink(rig.path(), inbox(&rig).join("folder")).unwrap();
    put(&inbox(&rig), "a.hl7", message("1"));
    rig.wait_for("sent", 1);
    let_some_polls_pass();
    assert_eq!(control_ids(&rig.messages("")), ["1"]);
    assert!(secret.exists());
}

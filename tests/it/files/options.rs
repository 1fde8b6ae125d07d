//! Each option of every poller does what it says, and what cannot be is diagnosed.

use std::time::Duration;

use jiff::Timestamp;

use super::{QUICK, age, channel, control_ids, files, inbox, let_some_polls_pass, message, put, refs, rig, view};
use crate::support::eventually::{eventually, eventually_within};
use crate::support::options::source;
use crate::support::rig::Rig;

/// Puts these files in place, oldest first, starts the engine and gives the names of those that were captured, in their order.
fn captured(options: &str, put_in: &[&str], count: usize) -> Vec<String> {
    let mut rig = rig(&format!("{QUICK}{options}"));
    for (number, name) in put_in.iter().enumerate() {
        let path = put(&inbox(&rig), name, message(&format!("{number}{}", "x".repeat(name.len()))));
        age(&path, Duration::from_secs(1000 - number as u64));
    }
    rig.start();
    names(&rig, count)
}

fn names(rig: &Rig, count: usize) -> Vec<String> {
    rig.wait_for("sent", count);
    let_some_polls_pass();
    let messages = rig.messages("");
    messages.iter().rev().map(|message| message["origin"]["file_name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn files_are_chosen_by_wildcards_lists_and_regular_expressions() {
    let all = ["a.hl7", "b.txt", "c.csv"];
    assert_eq!(captured("after = \"keep\"\nfiles = \"*.hl7\"", &all, 1), ["a.hl7"]);
    assert_eq!(captured("after = \"keep\"\nfiles = [\"*.hl7\", \"?.csv\"]", &all, 2), ["a.hl7", "c.csv"]);
    assert_eq!(captured("after = \"keep\"\nfiles = { regex = \"^[bc]\" }", &all, 2), ["b.txt", "c.csv"]);
}

#[test]
fn temporary_names_are_left_alone() {
    let all = [".a.hl7", "b.hl7.part", "c.hl7", "d.hl7.filepart", "e.hl7.hold"];
    assert_eq!(captured("after = \"keep\"", &all, 2), ["c.hl7", "e.hl7.hold"]);
    assert_eq!(captured("after = \"keep\"\nignore = [\"*.hold\", \".*\", \"*part\"]", &all, 1), ["c.hl7"]);
}

#[test]
fn folders_below_are_searched_where_that_is_said_and_our_own_never() {
    let all =
        ["a.hl7", "sub/b.hl7", "sub/sub/c.hl7", "error/d.hl7", "done/2026/e.hl7", ".git/f.hl7", "sub/error/g.hl7"];
    let after = "after = { move = \"done/{{ meta.received_at | date('%Y') }}\" }";
    assert_eq!(captured(after, &all, 1), ["a.hl7"]);
    let mut found = captured(&format!("{after}\nrecursive = true"), &all, 4);
    found.sort();
    assert_eq!(found, ["a.hl7", "b.hl7", "c.hl7", "g.hl7"]);
}

#[test]
fn files_come_in_the_order_that_is_wanted() {
    // Oldest first, and of these sizes: see `captured`.
    let all = ["bbb.hl7", "c.hl7", "aa.hl7"];
    assert_eq!(captured("after = \"keep\"", &all, 3), ["bbb.hl7", "c.hl7", "aa.hl7"]);
    assert_eq!(captured("after = \"keep\"\nsort = \"name\"", &all, 3), ["aa.hl7", "bbb.hl7", "c.hl7"]);
    assert_eq!(captured("after = \"keep\"\nsort = \"size\"", &all, 3), ["c.hl7", "aa.hl7", "bbb.hl7"]);
}

#[test]
fn small_files_are_left_where_they_are() {
    let rig = {
        let mut rig = rig(&format!("{QUICK}after = \"delete\"\nmin_size = \"50B\""));
        put(&inbox(&rig), "small.hl7", "MSH|^~\\&|A\r");
        put(&inbox(&rig), "large.hl7", message("1"));
        rig.start();
        rig
    };
    assert_eq!(names(&rig, 1), ["large.hl7"]);
    assert_eq!(files(&inbox(&rig)), ["small.hl7"]);
    let mut rig = super::rig(&format!("{QUICK}after = \"delete\"\nmin_size = \"0B\""));
    put(&inbox(&rig), "empty.hl7", "");
    rig.start();
    assert_eq!(rig.wait_for("rejected", 1)[0]["reason"], "message is empty");
}

#[test]
fn a_file_waits_until_it_is_old_enough() {
    let mut rig = rig("every = \"100ms\"\nunchanged_polls = 1\nmin_age = \"2s\"\nafter = \"delete\"");
    let path = put(&inbox(&rig), "a.hl7", message("1"));
    let written: Timestamp = std::fs::metadata(&path).unwrap().modified().unwrap().try_into().unwrap();
    // By a clock that is an hour ahead it is never old: ours counts.
    let ahead = put(&inbox(&rig), "ahead.hl7", message("2"));
    let file = std::fs::File::options().write(true).open(ahead).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(3600)).unwrap();
    rig.start();
    for found in rig.wait_for("sent", 2) {
        let received: Timestamp = found["received_at"].as_str().unwrap().parse().unwrap();
        assert!(received.duration_since(written).as_millis() >= 1990, "{received} {written}");
    }
}

#[test]
fn a_file_waits_for_as_many_polls_as_are_wanted() {
    let mut rig = rig("every = \"300ms\"\nunchanged_polls = 5\nmin_age = \"0s\"\nafter = \"delete\"");
    let begun = Timestamp::now();
    put(&inbox(&rig), "a.hl7", message("1"));
    rig.start();
    let found = rig.wait_for("sent", 1);
    let received: Timestamp = found[0]["received_at"].as_str().unwrap().parse().unwrap();
    assert!(received.duration_since(begun).as_millis() >= 4 * 225, "{received} {begun}");
}

#[test]
fn a_marker_says_that_a_file_is_complete() {
    let mut rig = rig("every = \"100ms\"\ndone_file = \"{name}.done\"\nafter = { move = \"done\" }");
    for name in ["a.hl7", "b.hl7"] {
        put(&inbox(&rig), name, message(name));
    }
    put(&inbox(&rig), "b.hl7.done", "");
    rig.start();
    assert_eq!(names(&rig, 1), ["b.hl7"]);
    eventually("the marker goes with its file", || (files(&inbox(&rig)) == ["a.hl7", "done/b.hl7"]).then_some(()));
    put(&inbox(&rig), "a.hl7.done", "");
    assert_eq!(names(&rig, 2), ["b.hl7", "a.hl7"]);
}

/// A marker without its file would say of the next one under that name that it is complete.
#[test]
fn a_file_whose_marker_cannot_be_deleted_stays_until_it_can() {
    let mut rig = rig("every = \"100ms\"\ndone_file = \"{name}.done\"\nafter = { move = \"done\" }");
    put(&inbox(&rig), "a.hl7", message("1"));
    // No folder is deleted as a file is.
    std::fs::create_dir(inbox(&rig).join("a.hl7.done")).unwrap();
    rig.start();
    rig.wait_for("sent", 1);
    eventually("it is told", || rig.log().contains("its marker cannot be deleted").then_some(()));
    let_some_polls_pass();
    assert_eq!(files(&inbox(&rig)), ["a.hl7"]);
    // What was captured needs no marker any more.
    std::fs::remove_dir(inbox(&rig).join("a.hl7.done")).unwrap();
    eventually_within(Duration::from_secs(30), "it is moved", || (files(&inbox(&rig)) == ["done/a.hl7"]).then_some(()));
    assert_eq!(rig.messages("").len(), 1);
}

#[test]
fn one_poll_takes_no_more_files_than_it_may() {
    let mut rig = rig("every = \"400ms\"\nunchanged_polls = 1\nmin_age = \"0s\"\nmax_files = 1\nafter = \"delete\"");
    for number in 0..4 {
        put(&inbox(&rig), &format!("{number}.hl7"), message(&number.to_string()));
    }
    rig.start();
    let found = rig.wait_for("sent", 4);
    let times: Vec<Timestamp> =
        found.iter().map(|found| found["received_at"].as_str().unwrap().parse().unwrap()).collect();
    // What came before the folder was watched is looked for once more, soon after the first poll.
    assert!(times[0].duration_since(times[3]).as_millis() >= 2 * 280, "{times:?}");
}

#[test]
fn one_poll_looks_at_no_more_names_than_it_may() {
    let all = ["0.hl7", "1.hl7", "2.hl7", "3.hl7", "4.hl7"];
    assert_eq!(captured("max_listing = 3\nafter = \"keep\"", &all, 3).len(), 3);
    let mut rig = rig(&format!("{QUICK}max_listing = 3\nafter = \"delete\""));
    for name in all {
        put(&inbox(&rig), name, message(name));
    }
    rig.start();
    rig.wait_for("sent", 5);
    assert!(rig.log().contains("more names than `max_listing`"), "{}", rig.log());
}

#[test]
fn a_file_is_moved_deleted_or_kept() {
    for (after, left) in [
        ("\"keep\"", &["a.hl7"][..]),
        ("\"delete\"", &[]),
        ("{ move = \"done\" }", &["done/a.hl7"]),
        ("{ move = \"done/{{ msg['PID-3'] }}\", name = \"{{ msg['MSH-10'] }}.old\" }", &["done/P-1/1.old"]),
    ] {
        let mut rig = rig(&format!("{QUICK}after = {after}"));
        put(&inbox(&rig), "a.hl7", message("1"));
        rig.start();
        assert_eq!(names(&rig, 1), ["a.hl7"], "{after}");
        eventually(after, || (files(&inbox(&rig)) == left).then_some(()));
        // Kept files are known after a restart, too.
        rig.kill();
        rig.start();
        let_some_polls_pass();
        assert_eq!(rig.messages("").len(), 1, "{after}");
    }
}

#[test]
fn a_file_may_be_moved_to_another_place_altogether() {
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut rig = rig(&format!("{QUICK}after = {{ move = \"{}/done\" }}", elsewhere.path().display()));
    put(&inbox(&rig), "a.hl7", message("1"));
    rig.start();
    rig.wait_for("sent", 1);
    eventually("it is there", || (files(elsewhere.path()) == ["done/a.hl7"]).then_some(()));
    assert!(files(&inbox(&rig)).is_empty());
}

#[test]
fn what_cannot_be_read_and_what_comes_again_go_where_they_are_told() {
    let options =
        "after = \"delete\"\non_error = { move = \"../bad\", name = \"{{ meta.id }}.txt\" }\non_duplicate = \"delete\"";
    let mut rig = rig(&format!("{QUICK}{options}"));
    put(&inbox(&rig), "bad.hl7", "Dear colleagues,");
    put(&inbox(&rig), "a.hl7", message("1"));
    put(&inbox(&rig), "b.hl7", message("1"));
    rig.start();
    let id = rig.wait_for("rejected", 1)[0]["id"].as_str().unwrap().to_owned();
    eventually("the folder is empty", || files(&inbox(&rig)).is_empty().then_some(()));
    assert_eq!(files(&rig.path().join("bad")), [format!("{id}.txt")]);
    assert_eq!(rig.messages("").len(), 2);
}

#[test]
fn a_content_is_known_again_for_as_long_as_is_wanted() {
    for (window, count) in [("duplicate_window = \"off\"", 2), ("duplicate_window = \"1ms\"", 2), ("", 1)] {
        let mut rig = rig(&format!("{QUICK}after = \"delete\"\n{window}"));
        rig.start();
        for name in ["a.hl7", "b.hl7"] {
            put(&inbox(&rig), name, message("1"));
            eventually("it is taken", || files(&inbox(&rig)).iter().all(|name| name.contains('/')).then_some(()));
        }
        assert_eq!(rig.messages("").len(), count, "{window}");
    }
}

#[test]
fn the_same_file_put_there_again_is_a_new_one_where_contents_are_not_compared() {
    let mut rig = rig(&format!("{QUICK}after = \"delete\"\nduplicate_window = \"off\""));
    rig.start();
    for count in 1..=2 {
        // As tools do that keep the time of what they copy.
        let path = rig.path().join("a.hl7");
        std::fs::write(&path, message("1")).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        std::fs::rename(&path, inbox(&rig).join("a.hl7")).unwrap();
        rig.wait_for("sent", count);
        eventually("it is deleted", || files(&inbox(&rig)).is_empty().then_some(()));
    }
}

#[test]
fn other_formats_and_what_is_none_of_them() {
    let mut rig = rig(&format!("{QUICK}after = \"delete\"\nformat = \"json\""));
    put(&inbox(&rig), "a.json", "{\"a\": [1, 2]}");
    put(&inbox(&rig), "b.json", "{\"a\": ");
    rig.start();
    assert_eq!(rig.wait_for("sent", 1)[0]["format"], "json");
    assert_eq!(rig.wait_for("rejected", 1)[0]["reason"], "the body is not JSON: line 1, column 6");
    let mut rig = super::rig(&format!("{QUICK}after = \"delete\"\nformat = \"text\""));
    put(&inbox(&rig), "a.txt", "Dear colleagues,");
    rig.start();
    assert_eq!(rig.wait_for("sent", 1)[0]["format"], "text");
}

#[test]
fn hl7_is_read_in_the_character_set_that_is_given() {
    let charset = "format = { type = \"hl7\", charset = \"windows-1252\" }\n";
    for (options, patient) in [("", vec![]), (charset, vec!["Müller".to_owned()])] {
        let mut rig = rig(&format!("{QUICK}{options}after = \"keep\""));
        put(&inbox(&rig), "a.hl7", b"MSH|^~\\&|A|||||||1|P|2.5\rPID|1||M\xfcller\r");
        rig.start();
        let found = rig.wait_for("sent", 1);
        assert_eq!(refs(&found, "patient"), patient, "{options}");
    }
}

#[test]
fn files_are_found_as_they_come_without_waiting_for_the_next_look() {
    let mut rig = rig("every = \"1h\"\nunchanged_polls = 1\nmin_age = \"0s\"\nafter = { move = \"done\" }");
    rig.start();
    for number in 1..=3 {
        put(&inbox(&rig), &format!("{number}.hl7"), message(&number.to_string()));
        rig.wait_for("sent", number);
    }
}

#[test]
fn the_schedule_is_kept() {
    let mut rig = rig(&format!("{QUICK}after = \"keep\""));
    // A zone in which it is about noon.
    let hour: i64 = Timestamp::now().strftime("%H").to_string().parse().unwrap();
    let zone = |ahead: i64| format!("time_zone = \"Etc/GMT{}{}\"", if ahead > 0 { "-" } else { "+" }, ahead.abs());
    let between = "between = [\"10:30-14:30\"]";
    let base = "type = \"file\"\ndirectory = \"../in\"\nunchanged_polls = 1\nmin_age = \"0s\"\nafter = \"keep\"";
    for (name, options) in [
        ("within", format!("every = \"100ms\"\n{between}\n{}", zone(12 - hour))),
        (
            "outside",
            format!("every = \"100ms\"\n{between}\n{}", zone(if hour > 11 { 0 - hour } else { 12 - hour - 6 })),
        ),
        ("often", "cron = \"* * * * * *\"".to_owned()),
        ("seldom", "cron = \"0 0 29 2 *\"".to_owned()),
    ] {
        rig.write(&format!("channels/{name}.toml"), channel(name, &format!("{base}\n{options}")));
    }
    put(&inbox(&rig), "a.hl7", message("1"));
    rig.start();
    let of = |name: &str| rig.messages(&format!("&channel={name}")).len();
    for name in ["files", "within", "often"] {
        eventually(name, || (of(name) == 1).then_some(()));
    }
    let_some_polls_pass();
    assert_eq!((of("outside"), of("seldom")), (0, 0), "{hour}");
}

#[test]
fn the_test_of_a_channel_reads_files_as_the_source_does() {
    let rig = Rig::new();
    let source = "type = \"file\"\ndirectory = \"../in\"\nafter = \"keep\"\nformat = \"text\"";
    let channel = channel("files", source).replace("{{ meta.id }}.hl7", "{{ meta.file_name }}");
    let test = "[[test]]\nname = \"t\"\ninput = \"note.txt\"\nsent.out = \"note.txt\"\n";
    rig.write("channels/note.txt", "Dear colleagues,");
    let path = rig.write("channels/files.toml", channel + test);
    let output = crate::support::rig::labwire().arg("test").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn what_cannot_be_is_diagnosed() {
    let good = "directory = \"in\"\nafter = \"keep\"\n";
    let read = |options: &str| source("file", options).map(drop).map_err(|found| found.join("\n"));
    assert_eq!(read(good), Ok(()));
    for (options, words) in [
        ("directory = \"in\"\n".to_owned(), "missing key `after`"),
        ("after = \"keep\"\n".to_owned(), "missing key `directory`"),
        ("directory = \"in\"\nafter = \"shred\"\n".to_owned(), "a file cannot be told to `shred`"),
        ("directory = \"in\"\nafter = { name = \"x\" }\n".to_owned(), "missing"),
        ("directory = \"in\"\nafter = { move = \".\" }\n".to_owned(), "cannot be moved to where it lies"),
        ("directory = \"in\"\nafter = { move = \"{{ meta.id | nosuch }}\" }\n".to_owned(), "nosuch"),
        (format!("{good}files = \"in/*.hl7\"\n"), "without folders"),
        (format!("{good}files = {{ regex = \"(\" }}\n"), "unclosed group"),
        (format!("{good}files = {{ glob = \"x\" }}\n"), "unknown key `glob`"),
        (format!("{good}done_file = \"done\"\n"), "no name of a marker"),
        (format!("{good}sort = \"date\"\n"), "`sort` cannot be `date`"),
        (format!("{good}every = \"0s\"\n"), "less than 100ms"),
        (format!("{good}every = \"1s\"\ncron = \"* * * * *\"\n"), "both `every` and `cron`"),
        (format!("{good}max_size = \"0B\"\n"), "no message is that small"),
        (format!("{good}min_size = \"2KiB\"\nmax_size = \"1KiB\"\n"), "`min_size` is larger than `max_size`"),
        (
            "directory = \"in\"\nrecursive = true\nafter = { move = \"{{ msg['PID-3'] }}\" }\n".to_owned(),
            "files would be found again",
        ),
        (format!("{good}format = {{ type = \"json\", trailers = \"optional\" }}\n"), "`trailers` does not go with"),
        (format!("{good}unchanged_polls = 0\n"), "between 1 and 100"),
        (format!("{good}max_files = 0\n"), "between 1 and 100000"),
        (format!("{good}recursiv = true\n"), "did you mean `recursive`?"),
    ] {
        let found = read(&options).expect_err(words);
        assert!(found.contains(words), "{words}: {found}");
    }
}

#[test]
fn nothing_else_is_said_of_a_channel_that_is_well() {
    let mut rig = rig(&format!("{QUICK}after = \"keep\""));
    rig.start();
    put(&inbox(&rig), "a.hl7", message("1"));
    assert_eq!(control_ids(&rig.wait_for("sent", 1)), ["1"]);
    let view = view(&rig, "files");
    assert_eq!((&view["state"], &view["source_error"]), (&"running".into(), &serde_json::Value::Null));
    assert!(!rig.log().contains("WARN"), "{}", rig.log());
}

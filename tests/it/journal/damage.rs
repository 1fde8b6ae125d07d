//! What is damaged costs no more than itself, and is told.

use std::path::{Path, PathBuf};

use labwire::journal::{DeliveryState, Disk, Journal, JournalError, MessageState, Query, Transformed, Verb};

use super::support::{
    arrival, at, attempt, body, command, content, copy, delivery, goes, id, open, open_small, reopen, waiting,
};

const MAGIC: &[u8] = &[0xA7, b'L', b'W', b'J'];

fn segment(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("segments/{number:08}.log"))
}

/// Where the records of a segment begin.
fn records(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(MAGIC)).collect()
}

/// As after a restart of the machine: the index is made again.
fn reboot(folder: &Path) {
    std::fs::write(folder.join("index/boot"), "another boot 1").expect("written");
}

fn is_there(disk: &Disk, n: u64) -> bool {
    disk.story(id(n)).expect("a story").is_some_and(|story| story.body == body(n))
}

/// Messages 1 to `count`, received only.
async fn filled(folder: &Path, count: u64) {
    let disk = open(folder);
    for n in 1..=count {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
    }
    disk.close().await.expect("it closes");
}

#[tokio::test]
async fn a_torn_tail_is_cut_wherever_it_was_torn() {
    let folder = tempfile::tempdir().expect("a folder");
    filled(folder.path(), 2).await;
    let whole = std::fs::read(segment(folder.path(), 1)).expect("a segment");
    let last = *records(&whole).last().expect("a record");
    for cut in last..whole.len() {
        let zeros = if cut % 2 == 0 { 0 } else { 5000 };
        let mut torn = whole[..cut].to_vec();
        torn.resize(cut + zeros, 0);
        std::fs::write(segment(folder.path(), 1), &torn).expect("written");
        reboot(folder.path());
        let disk = open(folder.path());
        // Zeros at the end of a body may be what was cut there.
        if torn[..whole.len().min(torn.len())] != whole[..] {
            assert_eq!(disk.damage(), Vec::<String>::new(), "cut at {cut}");
            assert!(is_there(&disk, 1) && !is_there(&disk, 2), "cut at {cut}");
        }
        if cut % 16 == 0 {
            let _ = disk.receive(arrival(3, "a")).await.expect("a receipt");
            drop(disk);
            reboot(folder.path());
            let disk = open(folder.path());
            assert!(disk.damage().is_empty());
            assert!(is_there(&disk, 1) && is_there(&disk, 3), "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_costs_one_record() {
    let folder = tempfile::tempdir().expect("a folder");
    filled(folder.path(), 5).await;
    let whole = std::fs::read(segment(folder.path(), 1)).expect("a segment");
    let starts = records(&whole);
    // Magic, checksum, kind, number of bodies, length of the metadata, table of bodies, metadata of message 3.
    for at in [0, 5, 8, 11, 12, 13, 15, 17, 21, 60, 200] {
        let mut damaged = whole.clone();
        damaged[starts[3] + at] ^= 0x10;
        std::fs::write(segment(folder.path(), 1), &damaged).expect("written");
        reboot(folder.path());
        let disk = open(folder.path());
        let (from, skipped) = (starts[3], starts[4] - starts[3]);
        let told = format!("segment 1 at byte {from}: {skipped} bytes are damaged and were skipped");
        assert_eq!(disk.damage(), [told], "byte {at}");
        let found = (1..=5).filter(|n| is_there(&disk, *n)).collect::<Vec<_>>();
        assert_eq!(found, [1, 2, 4, 5], "byte {at}");
        assert_eq!(disk.untransformed("a", 0, 10).expect("a list").len(), 4);
        disk.close().await.expect("it closes");
    }
}

#[tokio::test]
async fn a_damaged_body_leaves_the_message_visible() {
    let folder = tempfile::tempdir().expect("a folder");
    filled(folder.path(), 3).await;
    let mut bytes = std::fs::read(segment(folder.path(), 1)).expect("a segment");
    let starts = records(&bytes);
    bytes[starts[3] - 15] ^= 1;
    std::fs::write(segment(folder.path(), 1), &bytes).expect("written");
    // Told, and the message does not go to its transformer.
    let disk = open(folder.path());
    assert_eq!(disk.damage(), [format!("segment 1 at byte {}: the content of a record is damaged", starts[2])]);
    let errored = Query { state: Some(MessageState::Errored), limit: 10, ..Query::default() };
    let page = disk.search(&errored).expect("a page");
    assert_eq!(page.messages.len(), 1);
    assert_eq!(page.messages[0].reason.as_deref(), Some("its body is damaged on disk"));
    assert_eq!(disk.untransformed("a", 0, 10).expect("a list").len(), 2);
}

#[tokio::test]
async fn a_content_that_cannot_be_read_is_told_for_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    for n in 1..=3 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
        disk.transformed(id(n), at(9), Transformed::Queued, vec![goes(n, "x")]).await.expect("kept");
    }
    // What was written a moment ago is still in memory.
    let disk = reopen(disk, folder.path()).await;
    let mut bytes = std::fs::read(segment(folder.path(), 1)).expect("a segment");
    let at = bytes.windows(7).position(|found| found == b"to x: 1").expect("a content");
    bytes[at] ^= 1;
    std::fs::write(segment(folder.path(), 1), &bytes).expect("written");
    assert_eq!(waiting(&disk, "a", "x"), [id(1), id(2), id(3)]);
    let error = disk.outgoing(&delivery(1, "x")).expect_err("damaged");
    assert!(matches!(error, JournalError::Damaged { segment: 1, .. }), "{error}");
    assert_eq!(disk.outgoing(&delivery(2, "x")).expect("a content").content, content(2, "x"));
}

#[tokio::test]
async fn a_damaged_outcome_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let _ = disk.receive(arrival(1, "a")).await.expect("a receipt");
    disk.transformed(id(1), at(9), Transformed::Queued, vec![goes(1, "x")]).await.expect("kept");
    disk.attempted(delivery(1, "x"), attempt(1, DeliveryState::Retrying)).await.expect("kept");
    disk.close().await.expect("it closes");
    drop(disk);
    let mut bytes = std::fs::read(segment(folder.path(), 1)).expect("a segment");
    let at = bytes.windows(7).position(|found| found == b"to x: 1").expect("a content");
    bytes[at] ^= 1;
    std::fs::write(segment(folder.path(), 1), &bytes).expect("written");
    reboot(folder.path());
    let disk = open(folder.path());
    assert_eq!(disk.damage().len(), 2, "{:?}", disk.damage());
    assert_eq!(disk.untransformed("a", 0, 10).expect("a list").len(), 1);
}

#[tokio::test]
async fn a_missing_segment_is_told_and_the_others_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open_small(folder.path());
    for n in 1..=60 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
    }
    disk.close().await.expect("it closes");
    drop(disk);
    assert!(segment(folder.path(), 5).exists());
    let last = (1..).take_while(|number| segment(folder.path(), *number).exists()).last().expect("a segment");
    let crashed = tempfile::tempdir().expect("a folder");
    copy(folder.path(), crashed.path());

    std::fs::remove_file(segment(folder.path(), 3)).expect("removed");
    let disk = open_small(folder.path());
    assert_eq!(disk.damage()[0], "segment 3 is missing: what it held is lost");
    let found = (1..=60).filter(|n| is_there(&disk, *n)).count();
    assert!((40..60).contains(&found), "{found}");
    assert_eq!(disk.untransformed("a", 0, 100).expect("a list").len(), found);
    let _ = disk.receive(arrival(61, "a")).await.expect("a receipt");
    disk.close().await.expect("it closes");
    drop(disk);
    let disk = open_small(folder.path());
    assert_eq!(disk.damage(), ["segment 3 is missing: what it held is lost"], "still told, but not made again");
    assert!(is_there(&disk, 61));

    std::fs::remove_file(segment(crashed.path(), last)).expect("removed");
    let disk = open_small(crashed.path());
    assert!(disk.damage()[0].starts_with(&format!("segment {last} is missing")), "{:?}", disk.damage());
    assert!(is_there(&disk, 1));
}

#[tokio::test]
async fn a_cut_sealed_segment_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open_small(folder.path());
    for n in 1..=40 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
    }
    disk.close().await.expect("it closes");
    drop(disk);
    let path = segment(folder.path(), 2);
    let bytes = std::fs::read(&path).expect("a segment");
    std::fs::write(&path, &bytes[..bytes.len() - 10]).expect("written");
    reboot(folder.path());
    let disk = open_small(folder.path());
    assert_eq!(disk.damage().len(), 1, "{:?}", disk.damage());
    assert_eq!((1..=40).filter(|n| is_there(&disk, *n)).count(), 39);
}

#[tokio::test]
async fn an_index_that_cannot_be_trusted_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    for n in 1..=300 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
    }
    let expected = disk.counts("a").expect("counts");
    disk.close().await.expect("it closes");
    drop(disk);
    type Harm = fn(&Path);
    let harms: [(&str, usize, Harm); 7] = [
        ("nothing", 0, |_| {}),
        ("index deleted", 0, |index| std::fs::remove_dir_all(index).expect("removed")),
        ("index of another boot", 0, |index| std::fs::write(index.join("boot"), "x").expect("written")),
        ("sled's file random", 1, |index| garble(&index.join("db/db"))),
        ("sled's configuration random", 1, |index| garble(&index.join("db/conf"))),
        ("sled's file empty", 1, |index| std::fs::write(index.join("db/db"), "").expect("written")),
        ("sled's folder empty", 1, |index| {
            std::fs::remove_dir_all(index.join("db")).expect("removed");
        }),
    ];
    for (what, told, harm) in harms {
        let copied = tempfile::tempdir().expect("a folder");
        copy(folder.path(), copied.path());
        harm(&copied.path().join("index"));
        let disk = open(copied.path());
        assert_eq!(disk.damage().len(), told, "{what}: {:?}", disk.damage());
        assert_eq!(copied.path().join("index.damaged-1").exists(), told == 1, "{what}");
        assert_eq!(disk.counts("a").expect("counts"), expected, "{what}");
        assert!((1..=300).all(|n| is_there(&disk, n)), "{what}");
        assert_eq!(disk.untransformed("a", 0, 1000).expect("a list").len(), 300, "{what}");
    }
}

fn garble(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file");
    bytes.iter_mut().for_each(|byte| *byte = fastrand::u8(..));
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn a_second_engine_is_kept_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    match Disk::open(folder.path()) {
        Err(JournalError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{:?}", other.err()),
    }
    drop(disk);
    let _ = open(folder.path());
}

#[test]
fn a_newer_format_is_left_alone() {
    for (text, opens) in [
        ("labwire-journal 1\n", true),
        ("labwire-journal 2\n", true),
        ("labwire-journal 3\n", true),
        ("labwire-journal 4", false),
        ("something else", false),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("format"), text).expect("written");
        let opened = Disk::open(folder.path());
        assert_eq!(opened.is_ok(), opens, "{text}");
        assert!(opens || matches!(opened.err(), Some(JournalError::Format { known: 3, .. })));
        assert_eq!(folder.path().join("segments").exists(), opens);
    }
}

#[tokio::test]
async fn damage_anywhere_in_sleds_files_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = std::sync::Arc::new(open(folder.path()));
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let disk = disk.clone();
            tokio::spawn(async move {
                for n in (task..3000).step_by(32) {
                    let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let expected = disk.counts("a").expect("counts");
    disk.close().await.expect("it closes");
    drop(disk);
    for _ in 0..rounds() {
        let copied = tempfile::tempdir().expect("a folder");
        copy(folder.path(), copied.path());
        let files = std::fs::read_dir(copied.path().join("index/db")).expect("a folder");
        let mut files: Vec<_> =
            files.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect();
        files.sort();
        let path = &files[fastrand::usize(..files.len())];
        let mut bytes = std::fs::read(path).expect("a file");
        let place = fastrand::usize(..bytes.len());
        let (much, by) = ([1, 8, 4096, 100_000][fastrand::usize(..4)], fastrand::u8(..));
        bytes[place..].iter_mut().take(much).for_each(|byte| *byte = if much == 1 { *byte ^ 4 } else { by });
        std::fs::write(path, &bytes).expect("written");
        let what = format!("{much} bytes of {} of {path:?} at {place} by {by}", bytes.len());
        let disk = open(copied.path());
        assert_eq!(disk.counts("a").expect("counts"), expected, "{what}");
        let untransformed = disk.untransformed("a", 0, 10_000).expect("a list");
        assert_eq!(untransformed.len(), 3000, "{what}");
        let missing = (0..3000).filter(|n| !is_there(&disk, *n)).count();
        assert_eq!(missing, 0, "{what}");
        let page = disk.search(&Query { limit: 5000, ..Query::default() }).expect("a page");
        assert_eq!(page.messages.len(), 3000, "{what}");
    }
}

/// More than the usual number by `JOURNAL_ROUNDS=200`.
fn rounds() -> u32 {
    std::env::var("JOURNAL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5)
}

#[tokio::test]
async fn verify_finds_what_is_damaged_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open_small(folder.path());
    for n in 1..=60 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
    }
    disk.close().await.expect("it closes");
    drop(disk);
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, &str, Harm, &str); 6] = [
        ("a bit of the metadata", "00000002.log", |bytes| bytes[40] ^= 1, "segment 2 at byte 0: "),
        (
            "a bit of a content",
            "00000002.log",
            |bytes| *bytes.last_mut().expect("a byte") ^= 1,
            "the content of a record is damaged",
        ),
        ("the tail", "00000002.log", |bytes| bytes.truncate(bytes.len() - 7), "segment 2 at byte "),
        ("a page of zeros", "00000002.log", |bytes| bytes[1000..3000].fill(0), "bytes are damaged"),
        ("the whole segment", "00000002.log", Vec::clear, "its last "),
        ("the sealed roster", "00000002.idx", |bytes| bytes[2000] ^= 1, "segment 2: its sealed roster is damaged"),
    ];
    let look = |folder: &Path| {
        let mut told = Vec::new();
        labwire::journal::verify(folder, &mut |what| told.push(what.to_owned())).expect("verified");
        told
    };
    assert_eq!(look(folder.path()), Vec::<String>::new());
    for (what, file, harm, expected) in harms {
        let copied = tempfile::tempdir().expect("a folder");
        copy(folder.path(), copied.path());
        let path = copied.path().join("segments").join(file);
        let mut bytes = std::fs::read(&path).expect("a file");
        harm(&mut bytes);
        std::fs::write(&path, &bytes).expect("written");
        let told = look(copied.path());
        assert!(!told.is_empty() && told.iter().any(|told| told.contains(expected)), "{what}: {told:?}");
        // What is left opens, and the next segments are whole.
        reboot(copied.path());
        let disk = open_small(copied.path());
        assert!((30..=60).all(|n| is_there(&disk, n)), "{what}");
    }
    std::fs::remove_file(segment(folder.path(), 3)).expect("removed");
    assert_eq!(look(folder.path()), ["segment 3 is missing: what it held is lost"]);
}

/// As in a backup that was made while rosters were sealed: what happens afterwards must not be taken for known.
#[tokio::test]
async fn a_roster_that_knows_more_than_the_segments_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open_small(folder.path());
    for n in 1..=40 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
        disk.transformed(id(n), at(n), Transformed::Queued, vec![goes(n, "x")]).await.expect("kept");
        // The first one waits, so that its roster is sealed late.
        if n > 1 {
            disk.attempted(delivery(n, "x"), attempt(n, DeliveryState::Sent)).await.expect("kept");
        }
    }
    disk.close().await.expect("it closes");
    drop(disk);
    assert!(segment(folder.path(), 1).with_extension("idx").exists());
    (3..100).for_each(|number| drop(std::fs::remove_file(segment(folder.path(), number))));
    std::fs::remove_dir_all(folder.path().join("index")).expect("removed");

    let disk = open_small(folder.path());
    let mut resent = Vec::new();
    for n in 2..=40 {
        if disk.command(delivery(n, "x"), command(Verb::Resend, n)).await.is_ok() {
            resent.push(id(n));
        }
    }
    assert!(resent.len() > 2);
    let waits = waiting(&disk, "a", "x");
    assert!(resent.iter().all(|id| waits.contains(id)), "{resent:?} were resent, {waits:?} wait");
}

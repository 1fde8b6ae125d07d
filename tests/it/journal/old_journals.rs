//! Journals that older versions wrote are read: a copy of each format lies in `fixtures/journal`, and none is ever changed.

use std::path::PathBuf;

use labwire::journal::{Disk, Journal, Lane, MessageState, Prune, Query, Repeat, Summary};
use labwire::message::RefKind;

use super::support::{arrival, copy};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/journal")
}

#[test]
fn every_old_journal_has_its_test() {
    let mut names: Vec<String> = std::fs::read_dir(fixtures())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["v1", "v2"], "a format was added: write a test for it");
}

/// Format 1: written by `labwire run` 0.1.0 and killed with `kill -9`. Three results of which the peer got none (one cancelled by
/// hand), one filtered message, one that is no HL7, one event.
#[tokio::test]
async fn format_1() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&fixtures().join("v1"), folder.path());
    for round in 0..2 {
        let disk = Disk::open(folder.path()).expect("it opens");
        assert_eq!(disk.damage(), Vec::<String>::new(), "round {round}");
        let found = |kind, value: &str| -> Summary {
            let query = Query { refs: vec![(kind, value.to_owned())], limit: 10, ..Query::default() };
            let mut page = disk.search(&query).expect("a page");
            assert_eq!(page.messages.len(), 1, "round {round}: {value}");
            page.messages.remove(0)
        };
        let state = |control_id: &str| found(RefKind::ControlId, control_id).state;
        assert_eq!(
            ["V1-1", "V1-2", "V1-3", "V1-4"].map(state),
            [MessageState::Queued, MessageState::Sent, MessageState::Queued, MessageState::Filtered]
        );
        let story = disk.story(found(RefKind::Patient, "A-2").id).expect("a story").expect("a message");
        assert!(story.body.kept().expect("kept").starts_with(b"MSH|^~\\&|LAB|ACME|||20260115103000||ORU^R01|V1-2"));
        assert_eq!(story.deliveries[0].attempts.len(), 1);
        assert_eq!(story.commands[0].1.why, "not wanted");
        let lane = Lane { channel: "results".to_owned(), destination: "peer".to_owned() };
        let queue = disk.queue(&lane, 0, 10).expect("a queue");
        assert_eq!(queue.iter().map(|queued| queued.attempts).collect::<Vec<_>>(), [1, 0]);
        let outgoing = disk.outgoing(&queue[1].id).expect("a content");
        assert_eq!(outgoing.properties["control_id"], "V1-3");
        // The event's id is still known.
        let bill = found(RefKind::Bill, "B-1");
        let body = disk.story(bill.id).expect("a story").expect("a message").body.into_bytes(bill.id).expect("kept");
        let again = labwire::journal::Arrival {
            identity: Some(labwire::journal::Identity {
                key: r#"["event","acme","bill-1"]"#.to_owned(),
                window: None,
                other_body: labwire::journal::OtherBody::Refused,
            }),
            body,
            ..arrival(1, "bills")
        };
        let receipt = disk.receive(again).await.expect("a receipt");
        assert_eq!((receipt.repeat(), receipt.recipients()[0].id), (Repeat::SameBody, bill.id), "round {round}");
        assert_eq!(disk.counts("results").expect("counts").iter().map(|(_, count)| count).sum::<u64>(), 5);
        disk.close().await.expect("it closes");
        let format = std::fs::read_to_string(folder.path().join("format")).expect("a file");
        assert_eq!(format, "labwire-journal 3\n", "it is in the new format from now on");
    }
}

/// Format 2: written by `labwire run` 0.1.0 and killed with `kill -9`. Its first segment was pruned, with one sent message; one that
/// was not finished went on in the second. Two results more (one was cancelled by hand at one of its destinations), one filtered
/// message, one that is no HL7, one event.
#[tokio::test]
async fn format_2() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&fixtures().join("v2"), folder.path());
    let mut disk = Disk::open(folder.path()).expect("it opens");
    let at_first = seen(&disk);
    let states = ["sent", "filtered", "rejected", "sent", "sent", "queued"];
    assert_eq!(at_first.iter().map(|(_, state, _)| state.as_str()).collect::<Vec<_>>(), states);
    assert_eq!(
        at_first[5].2,
        "MSH|^~\\&|LAB|ACME|||20260115103000||ORU^R01|V2-1|P|2.5.1\rPID|1||A-1||Nagy^Ilona\rOBX|1|NM|GLU||5.1|mmol/L\r"
    );
    for round in 0..2 {
        assert_eq!((disk.damage(), seen(&disk)), (vec![], at_first.clone()), "round {round}");
        let lane = Lane { channel: "results".to_owned(), destination: "peer".to_owned() };
        let queue = disk.queue(&lane, 0, 10).expect("a queue");
        assert_eq!(queue.iter().map(|queued| queued.attempts).collect::<Vec<_>>(), [1]);
        assert_eq!(disk.outgoing(&queue[0].id).expect("a content").properties["control_id"], "V2-1");
        disk.close().await.expect("it closes");
        drop(disk);
        let format = std::fs::read_to_string(folder.path().join("format")).expect("a file");
        assert_eq!(format, "labwire-journal 3\n", "it is in the new format from now on");
        disk = Disk::open(folder.path()).expect("it opens");
    }
    // What the new format is about.
    let pruned = disk.prune(Prune::content("2100-01-01T00:00:00Z".parse().expect("a time"))).await.expect("pruned");
    assert_eq!((pruned.stripped_messages, disk.stats().stripped_segments), (5, 1));
    let then = seen(&disk);
    assert_eq!(then[5], at_first[5], "what is unsent stays");
    let known = |all: &[(String, String, String)]| {
        all.iter().map(|(id, state, _)| (id.clone(), state.clone())).collect::<Vec<_>>()
    };
    assert_eq!(known(&then), known(&at_first));
    assert!(then[..5].iter().all(|(.., body)| body.starts_with("Removed")), "{then:?}");
}

/// Of every message, the newest first: id, state, body.
fn seen(disk: &Disk) -> Vec<(String, String, String)> {
    let page = disk.search(&Query { limit: 100, ..Query::default() }).expect("a page");
    let body = |id| {
        let body = disk.story(id).expect("a story").expect("a message").body;
        body.kept().map_or_else(|| format!("{body:?}"), |bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    page.messages.iter().map(|found| (found.id.to_string(), found.state.to_string(), body(found.id))).collect()
}

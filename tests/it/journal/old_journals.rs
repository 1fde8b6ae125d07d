//! Journals that older versions wrote are read: a copy of each format lies in `fixtures/journal`, and none is ever changed.

use std::path::PathBuf;

use labwire::journal::{Disk, Journal, Lane, MessageState, Query, Repeat, Summary};
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
    assert_eq!(names, ["v1"], "a format was added: write a test for it");
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
        assert!(story.body.starts_with(b"MSH|^~\\&|LAB|ACME|||20260115103000||ORU^R01|V1-2"));
        assert_eq!(story.deliveries[0].attempts.len(), 1);
        assert_eq!(story.commands[0].1.why, "not wanted");
        let lane = Lane { channel: "results".to_owned(), destination: "peer".to_owned() };
        let queue = disk.queue(&lane, 0, 10).expect("a queue");
        assert_eq!(queue.iter().map(|queued| queued.attempts).collect::<Vec<_>>(), [1, 0]);
        let outgoing = disk.outgoing(&queue[1].id).expect("a content");
        assert_eq!(outgoing.properties["control_id"], "V1-3");
        // The event's id is still known.
        let bill = found(RefKind::Bill, "B-1");
        let body = disk.story(bill.id).expect("a story").expect("a message").body;
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
        assert_eq!(format, "labwire-journal 2\n", "it is in the new format from now on");
    }
}

//! Messages that were split: whole and parts are one record, and each part is a message like any other.

use bytes::Bytes;
use labwire::journal::{DeliveryId, DeliveryState};
use labwire::journal::{
    Disk, Journal, MessageState, NewDelivery, NewPart, Prune, Query, Transformed, Verb, restore, verify,
};
use labwire::message::{Format, MessageId, Origin, PartOf, RefKind, Refs};

use super::support::{arrival, at, attempt, command, copy, goes, id, lane, open, open_small, reopen, stays};

fn part(whole: MessageId, number: u32, outcome: Transformed, deliveries: Vec<NewDelivery>) -> NewPart {
    let mut refs = Refs::default();
    refs.add(RefKind::Order, &format!("ORDER-{number}"));
    let origin = Origin {
        source: "mllp".to_owned(),
        part: Some(Box::new(PartOf { of: whole, number, splits: 1 })),
        ..Origin::default()
    };
    NewPart { id: whole.part(number), origin, format: Format::Json, refs, body: body(number), outcome, deliveries }
}

fn body(number: u32) -> Bytes {
    Bytes::from(format!("[{number}]"))
}

/// Three parts: one goes to two destinations, one is filtered, one goes to one.
fn parts(whole: MessageId) -> Vec<NewPart> {
    let filtered = Transformed::Filtered { place: "step 2 (a.toml:3)".to_owned() };
    vec![
        part(whole, 1, Transformed::Queued, vec![goes(1, "x"), goes(1, "y")]),
        part(whole, 2, filtered, vec![]),
        part(whole, 3, Transformed::Queued, vec![goes(3, "x"), stays("y")]),
    ]
}

fn state(disk: &Disk, id: MessageId) -> MessageState {
    disk.story(id).expect("a story").expect("a message").summary.state
}

fn to(id: MessageId, destination: &str) -> DeliveryId {
    DeliveryId { message: id, destination: destination.to_owned() }
}

fn queue(disk: &Disk, destination: &str) -> Vec<MessageId> {
    let queue = disk.queue(&lane("a", destination), 0, 100).expect("a queue");
    queue.into_iter().map(|queued| queued.id.message).collect()
}

/// What must hold of [`parts`], however often the journal was opened since.
fn check(disk: &Disk) {
    let whole = id(1);
    let story = disk.story(whole).expect("a story").expect("the whole");
    assert_eq!((story.summary.state, story.summary.parts), (MessageState::Split, 3));
    assert_eq!(story.summary.reason.as_deref(), Some("split into 3 messages"));
    for (number, expected) in [(1, MessageState::Queued), (2, MessageState::Filtered), (3, MessageState::Queued)] {
        let story = disk.story(whole.part(number)).expect("a story").expect("a part");
        assert_eq!(story.summary.state, expected, "part {number}");
        assert_eq!((story.summary.format, story.summary.received_at), (Format::Json, at(1)));
        assert_eq!((story.summary.channel.as_str(), story.summary.bytes), ("a", 3));
        assert_eq!(story.body.into_bytes(whole.part(number)).expect("a body"), body(number));
        let part = story.summary.origin.part.expect("it says of what");
        assert_eq!((part.of, part.number), (whole, number));
        let query = Query { refs: vec![(RefKind::Order, format!("ORDER-{number}"))], limit: 10, ..Query::default() };
        let found = disk.search(&query).expect("a page").messages;
        assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [whole.part(number)]);
        let received = disk.received(whole.part(number)).expect("read").expect("there");
        assert_eq!((received.body, received.format), (body(number), Format::Json));
    }
    assert_eq!(queue(disk, "x"), [whole.part(1), whole.part(3), id(2)], "the parts leave where the whole would have");
    assert_eq!(queue(disk, "y"), [whole.part(1), id(2)]);
    let outgoing = disk.outgoing(&to(whole.part(3), "x")).expect("a content");
    assert_eq!((outgoing.content, &*outgoing.properties["control_id"]), (super::support::content(3, "x"), "x-3"));
    assert!(disk.untransformed("a", 0, 10).expect("a list").is_empty());
}

async fn split(disk: &Disk) {
    drop(disk.receive(arrival(1, "a")).await.expect("a receipt"));
    drop(disk.receive(arrival(2, "a")).await.expect("a receipt"));
    disk.split(id(1), at(9), parts(id(1))).await.expect("kept");
    disk.transformed(id(2), at(9), Transformed::Queued, vec![goes(2, "x"), goes(2, "y")]).await.expect("kept");
}

#[tokio::test]
async fn each_part_is_a_message_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    split(&disk).await;
    check(&disk);
    // As if the process had been killed, with the index and without.
    let killed = tempfile::tempdir().expect("a folder");
    copy(folder.path(), killed.path());
    check(&open(killed.path()));
    let disk = reopen(disk, folder.path()).await;
    check(&disk);
    disk.close().await.expect("closed");
    drop(disk);
    std::fs::remove_dir_all(folder.path().join("index")).expect("removed");
    let disk = open(folder.path());
    check(&disk);
    disk.attempted(to(id(1).part(3), "x"), attempt(3, DeliveryState::Dead)).await.expect("kept");
    disk.attempted(to(id(1).part(1), "x"), attempt(1, DeliveryState::Sent)).await.expect("kept");
    assert_eq!(state(&disk, id(1).part(3)), MessageState::Dead);
    assert_eq!(state(&disk, id(1).part(1)), MessageState::Queued);
    disk.command(to(id(1).part(3), "x"), command(Verb::Retry, 3)).await.expect("kept");
    assert_eq!(queue(&disk, "x"), [id(2), id(1).part(3)]);
    let disk = reopen(disk, folder.path()).await;
    assert_eq!(queue(&disk, "x"), [id(2), id(1).part(3)]);
}

/// The whole arrived long ago, in a segment that is sealed: its parts arrive where it is split.
#[tokio::test]
async fn parts_are_at_home_where_their_whole_was_split() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open_small(folder.path());
    drop(disk.receive(arrival(1, "a")).await.expect("a receipt"));
    drop(disk.receive(arrival(2, "a")).await.expect("a receipt"));
    let fill = async |from: u64| {
        for n in from..from + 40 {
            drop(disk.receive(arrival(n, "b")).await.expect("a receipt"));
            let filtered = Transformed::Filtered { place: "step 1".to_owned() };
            disk.transformed(id(n), at(n), filtered, vec![]).await.expect("kept");
        }
    };
    fill(100).await;
    disk.split(id(1), at(9), parts(id(1))).await.expect("kept");
    fill(200).await;
    disk.transformed(id(2), at(9), Transformed::Queued, vec![goes(2, "x"), goes(2, "y")]).await.expect("kept");
    check(&disk);
    disk.close().await.expect("closed");
    drop(disk);
    check(&open_small(folder.path()));
    // The index is made again from sealed rosters, and from segments where those are lost.
    for lost in ["index", "segments/00000001.idx", "segments/00000003.idx"] {
        let damaged = tempfile::tempdir().expect("a folder");
        copy(folder.path(), damaged.path());
        std::fs::remove_dir_all(damaged.path().join("index")).expect("removed");
        if lost != "index" {
            std::fs::remove_file(damaged.path().join(lost)).expect("removed");
        }
        check(&open_small(damaged.path()));
    }
}

/// The largest split that there is: each part is found again without the whole record being read each time.
#[tokio::test]
async fn ten_thousand_parts_in_one_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    drop(disk.receive(arrival(1, "a")).await.expect("a receipt"));
    let one = |number: u32| {
        let mut part = part(id(1), number, Transformed::Queued, vec![goes(u64::from(number), "x")]);
        for kind in RefKind::ALL {
            part.refs.add(kind, &format!("{kind}-{number}"));
        }
        part
    };
    disk.split(id(1), at(9), (1..=10_000).map(one).collect()).await.expect("kept");
    let disk = reopen(disk, folder.path()).await;
    let queue = disk.queue(&lane("a", "x"), 0, 20_000).expect("a queue");
    assert_eq!(queue.len(), 10_000);
    for (number, queued) in (1..).zip(&queue) {
        assert_eq!(queued.id.message, id(1).part(number));
        let outgoing = disk.outgoing(&queued.id).expect("a content");
        assert_eq!(outgoing.content, super::support::content(u64::from(number), "x"));
    }
    disk.attempted(to(id(1).part(7), "x"), attempt(7, DeliveryState::Sent)).await.expect("kept");
    assert_eq!(state(&disk, id(1).part(7)), MessageState::Sent);
}

#[tokio::test]
async fn a_message_is_split_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    split(&disk).await;
    disk.split(id(1), at(10), parts(id(1))).await.expect("the first time stands");
    disk.transformed(id(1), at(10), Transformed::Queued, vec![goes(1, "x")]).await.expect("the first time stands");
    check(&disk);
}

/// Whatever is left of the record when the machine stops: the whole waits as it did, or all parts are there.
#[tokio::test]
async fn a_torn_record_is_no_split() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    drop(disk.receive(arrival(1, "a")).await.expect("a receipt"));
    let before = disk.stats().bytes;
    disk.split(id(1), at(9), parts(id(1))).await.expect("kept");
    let length = disk.stats().bytes - before;
    disk.close().await.expect("closed");
    drop(disk);
    let segment = folder.path().join("segments/00000001.log");
    let content = std::fs::read(&segment).expect("a segment");
    let end = content.len() - content.iter().rev().take_while(|byte| **byte == 0).count();
    for cut in [1, 2, 5, length as usize / 2, length as usize - 1] {
        let torn = tempfile::tempdir().expect("a folder");
        copy(folder.path(), torn.path());
        std::fs::write(torn.path().join("segments/00000001.log"), &content[..end - cut]).expect("written");
        let _ = std::fs::remove_dir_all(torn.path().join("index"));
        let disk = open(torn.path());
        assert_eq!(state(&disk, id(1)), MessageState::Received, "cut by {cut}");
        assert!(disk.story(id(1).part(1)).expect("a look").is_none(), "cut by {cut}");
        assert_eq!(disk.untransformed("a", 0, 10).expect("a list").len(), 1);
        disk.split(id(1), at(9), parts(id(1))).await.expect("split again");
        assert_eq!(state(&disk, id(1).part(1)), MessageState::Queued);
        assert_eq!(queue(&disk, "x"), [id(1).part(1), id(1).part(3)]);
    }
}

#[tokio::test]
async fn parts_go_on_when_their_segment_is_pruned() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open_with_segments(folder.path(), 16 << 10).expect("the journal opens");
    split(&disk).await;
    for (id, destination) in [(id(1).part(1), "x"), (id(1).part(1), "y"), (id(2), "x"), (id(2), "y")] {
        disk.attempted(to(id, destination), attempt(1, DeliveryState::Sent)).await.expect("kept");
    }
    for n in 10..100 {
        drop(disk.receive(arrival(n, "b")).await.expect("a receipt"));
        disk.transformed(id(n), at(n), Transformed::Filtered { place: "step 1".to_owned() }, vec![])
            .await
            .expect("kept");
    }
    let before = at(1_000_000);
    disk.prune(Prune::content(before)).await.expect("content removed");
    assert_eq!(disk.outgoing(&to(id(1).part(3), "x")).expect("kept").content, super::support::content(3, "x"));
    let story = disk.story(id(1)).expect("a story").expect("the whole");
    assert!(story.summary.content_removed.is_some(), "the whole is finished");
    disk.prune(Prune::messages(before)).await.expect("removed");
    assert!(disk.story(id(1)).expect("a look").is_none() && disk.story(id(1).part(1)).expect("a look").is_none());
    assert_eq!(queue(&disk, "x"), [id(1).part(3)]);
    let story = disk.story(id(1).part(3)).expect("a story").expect("it goes on");
    assert_eq!(story.body.into_bytes(id(1).part(3)).expect("a body"), body(3));
    assert_eq!(disk.outgoing(&to(id(1).part(3), "x")).expect("kept").content, super::support::content(3, "x"));
    let disk = reopen(disk, folder.path()).await;
    assert_eq!(queue(&disk, "x"), [id(1).part(3)]);
}

#[tokio::test]
async fn a_backup_has_the_parts() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    split(&disk).await;
    let (backup, restored) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    disk.backup(&backup.path().join("b")).await.expect("a backup");
    restore(&backup.path().join("b"), &restored.path().join("data")).expect("restored");
    assert_eq!(verify(&restored.path().join("data"), &mut |_| {}).expect("verified").messages, 5);
    check(&open(&restored.path().join("data")));
}

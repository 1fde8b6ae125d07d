//! The usual way of a message, and what the journal says of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use labwire::journal::{
    Arrival, Attempt, DeliveryState, Depth, Disk, Identity, Journal, JournalError, MessageState, NewDelivery, OrderKey,
    OtherBody, Recipient, Repeat, Transformed, Verb,
};

use labwire::message::{Body, Origin};

use super::support::{
    arrival, at, attempt, body, command, content, copy, count, delivery, goes, id, lane, open, reopen, stays, waiting,
};

fn state(disk: &Disk, n: u64) -> MessageState {
    disk.story(id(n)).expect("a story").expect("a message").summary.state
}

#[tokio::test]
async fn a_message_goes_its_whole_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let receipt = disk.receive(arrival(1, "a")).await.expect("a receipt");
    assert_eq!(receipt.repeat(), Repeat::No);
    assert_eq!(receipt.recipients(), [Recipient { id: id(1), channel: "a".to_owned() }]);
    let untransformed = disk.untransformed("a", 0, 10).expect("a list");
    assert_eq!(untransformed.len(), 1);
    assert_eq!(untransformed[0].id, id(1));
    assert!(disk.untransformed("a", untransformed[0].sequence, 10).expect("a list").is_empty());
    assert_eq!(state(&disk, 1), MessageState::Received);

    let deliveries = vec![goes(1, "x"), stays("y"), goes(1, "z")];
    disk.transformed(id(1), at(2), Transformed::Queued, deliveries).await.expect("kept");
    assert!(disk.untransformed("a", 0, 10).expect("a list").is_empty());
    let queue = disk.queue(&lane("a", "z"), 0, 10).expect("a queue");
    assert_eq!(queue.len(), 1);
    let outgoing = disk.outgoing(&queue[0].id).expect("a content");
    assert_eq!(outgoing.content, content(1, "z"));
    assert_eq!(outgoing.properties["control_id"], "z-1");
    assert_eq!(disk.depth(&lane("a", "z")).expect("a depth"), Depth { waiting: 1, oldest: Some(at(1)) });
    assert_eq!(disk.depth(&lane("a", "y")).expect("a depth"), Depth { waiting: 0, oldest: None });

    disk.attempted(delivery(1, "x"), attempt(1, DeliveryState::Retrying)).await.expect("kept");
    let queue = disk.queue(&lane("a", "x"), 0, 10).expect("a queue");
    assert_eq!((queue[0].attempts, queue[0].next_at), (1, Some(at(2001))));
    disk.attempted(delivery(1, "x"), attempt(1, DeliveryState::Sent)).await.expect("kept");
    assert_eq!(state(&disk, 1), MessageState::Queued);
    disk.attempted(delivery(1, "z"), attempt(1, DeliveryState::Dead)).await.expect("kept");
    assert_eq!(state(&disk, 1), MessageState::Dead);
    disk.command(delivery(1, "z"), command(Verb::Retry, 1)).await.expect("kept");
    assert_eq!(state(&disk, 1), MessageState::Queued);
    assert_eq!(disk.queue(&lane("a", "z"), 0, 10).expect("a queue")[0].attempts, 0);
    disk.command(delivery(1, "z"), command(Verb::Cancel, 1)).await.expect("kept");
    assert_eq!(state(&disk, 1), MessageState::Sent);

    let disk = reopen(disk, folder.path()).await;
    assert!(disk.damage().is_empty());
    let story = disk.story(id(1)).expect("a story").expect("a message");
    assert_eq!(story.body, body(1));
    assert_eq!(story.acknowledgement, Some(Bytes::from_static(b"MSA|AA|C1\r").into()));
    assert_eq!(story.transformed_at, Some(at(2)));
    assert_eq!(story.summary.origin.source, "mllp");
    assert_eq!(story.summary.bytes, body(1).len() as u64);
    let states: Vec<_> = story.summary.deliveries.iter().map(|delivery| delivery.state).collect();
    assert_eq!(states, [DeliveryState::Sent, DeliveryState::Filtered, DeliveryState::Cancelled]);
    assert_eq!(story.deliveries[0].attempts.len(), 2);
    assert_eq!(story.deliveries[0].attempts[1].response, Some(Bytes::from_static(b"MSA|AA").into()));
    assert!(story.deliveries[1].content.is_none());
    assert_eq!(story.summary.deliveries[2].finished_at, Some(at(3001)));
    assert_eq!(story.commands.len(), 2);
    assert_eq!(count(&disk, "a", MessageState::Sent), 1);
    assert_eq!(count(&disk, "a", MessageState::Queued), 0);
    assert!(disk.story(id(2)).expect("an answer").is_none());
}

#[tokio::test]
async fn rejected_filtered_and_errored_messages_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let rejected = Arrival { rejected: Some("no MSH segment".to_owned()), ..arrival(1, "a") };
    let _ = disk.receive(rejected).await.expect("a receipt");
    for n in 2..=4 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
    }
    let place = || "step 2 (channels/a.toml:12)".to_owned();
    disk.transformed(id(2), at(9), Transformed::Filtered { place: place() }, vec![]).await.expect("kept");
    let errored = Transformed::Errored { place: place(), error: "no PID segment ".repeat(100) };
    disk.transformed(id(3), at(9), errored, vec![]).await.expect("kept");
    disk.transformed(id(4), at(9), Transformed::Queued, vec![stays("x")]).await.expect("kept");
    assert_eq!(
        [1, 2, 3, 4].map(|n| state(&disk, n)),
        [MessageState::Rejected, MessageState::Filtered, MessageState::Errored, MessageState::Filtered]
    );
    assert!(disk.untransformed("a", 0, 10).expect("a list").is_empty());
    let reason = disk.story(id(3)).expect("a story").expect("a message").summary.reason.expect("a reason");
    assert!(reason.starts_with("step 2 (channels/a.toml:12): no PID"));
    assert_eq!(reason.chars().count(), 500);
    // A second outcome changes nothing: the first may have been sent already.
    disk.transformed(id(2), at(9), Transformed::Queued, vec![goes(2, "x")]).await.expect("taken");
    assert_eq!(state(&disk, 2), MessageState::Filtered);
    assert_eq!(disk.stats().appended, 7);
}

#[tokio::test]
async fn commands_are_refused_where_they_make_no_sense() {
    use DeliveryState::{Dead, Retrying, Sent};
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let _ = disk.receive(arrival(1, "a")).await.expect("a receipt");
    assert!(matches!(
        disk.command(delivery(1, "x"), command(Verb::Retry, 1)).await,
        Err(JournalError::Unknown { id: unknown }) if unknown == id(1)
    ));
    disk.transformed(id(1), at(2), Transformed::Queued, vec![goes(1, "x"), stays("y")]).await.expect("kept");
    let table: [(&str, Option<DeliveryState>, Verb, bool); 9] = [
        ("y", None, Verb::Retry, false),
        ("y", None, Verb::Cancel, false),
        ("x", None, Verb::Retry, false),
        ("x", Some(Retrying), Verb::Retry, true),
        ("x", Some(Dead), Verb::Cancel, true),
        ("x", None, Verb::Cancel, false),
        ("x", None, Verb::Retry, true),
        ("x", Some(Sent), Verb::Retry, false),
        ("x", None, Verb::Cancel, false),
    ];
    for (row, (destination, first, verb, allowed)) in table.into_iter().enumerate() {
        if let Some(state) = first {
            disk.attempted(delivery(1, destination), attempt(1, state)).await.expect("kept");
        }
        let done = disk.command(delivery(1, destination), command(verb, 1)).await;
        assert_eq!(done.is_ok(), allowed, "row {row}");
        assert!(allowed || matches!(done, Err(JournalError::State { .. })), "row {row}");
    }
    let nobody = disk.attempted(delivery(9, "x"), attempt(1, Sent)).await;
    assert!(matches!(nobody, Err(JournalError::Unknown { .. })));
}

#[tokio::test]
async fn a_late_attempt_does_not_undo_a_cancel_unless_it_arrived() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let _ = disk.receive(arrival(1, "a")).await.expect("a receipt");
    disk.transformed(id(1), at(2), Transformed::Queued, vec![goes(1, "x")]).await.expect("kept");
    disk.command(delivery(1, "x"), command(Verb::Cancel, 1)).await.expect("kept");
    disk.attempted(delivery(1, "x"), attempt(1, DeliveryState::Retrying)).await.expect("kept");
    assert!(waiting(&disk, "a", "x").is_empty());
    let story = disk.story(id(1)).expect("a story").expect("a message");
    assert_eq!(story.summary.deliveries[0].state, DeliveryState::Cancelled);
    assert_eq!(story.deliveries[0].attempts.len(), 1);
    disk.attempted(delivery(1, "x"), attempt(1, DeliveryState::Sent)).await.expect("kept");
    let story = disk.story(id(1)).expect("a story").expect("a message");
    assert_eq!(story.summary.deliveries[0].state, DeliveryState::Sent);
}

#[tokio::test]
async fn a_retried_dead_letter_goes_to_the_end_and_a_retrying_one_keeps_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    for n in 1..=3 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
        disk.transformed(id(n), at(9), Transformed::Queued, vec![goes(n, "x")]).await.expect("kept");
    }
    disk.attempted(delivery(1, "x"), attempt(1, DeliveryState::Retrying)).await.expect("kept");
    assert_eq!(waiting(&disk, "a", "x"), [id(1), id(2), id(3)]);
    disk.command(delivery(1, "x"), command(Verb::Retry, 1)).await.expect("kept");
    assert_eq!(waiting(&disk, "a", "x"), [id(1), id(2), id(3)], "due now, at its place");
    disk.attempted(delivery(1, "x"), attempt(1, DeliveryState::Dead)).await.expect("kept");
    disk.command(delivery(1, "x"), command(Verb::Retry, 1)).await.expect("kept");
    assert_eq!(waiting(&disk, "a", "x"), [id(2), id(3), id(1)]);
    let disk = reopen(disk, folder.path()).await;
    assert_eq!(waiting(&disk, "a", "x"), [id(2), id(3), id(1)]);
    assert_eq!(disk.depth(&lane("a", "x")).expect("a depth"), Depth { waiting: 3, oldest: Some(at(1)) });
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    for n in 1..=50 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
        if n % 2 == 0 {
            disk.transformed(id(n), at(9), Transformed::Queued, vec![goes(n, "x")]).await.expect("kept");
        }
        if n % 10 == 0 {
            disk.attempted(delivery(n, "x"), attempt(n, DeliveryState::Sent)).await.expect("kept");
        }
    }
    let crashed = tempfile::tempdir().expect("a folder");
    copy(folder.path(), crashed.path());
    let after = open(crashed.path());
    assert_eq!(after.damage(), Vec::<String>::new());
    assert_eq!(waiting(&after, "a", "x"), waiting(&disk, "a", "x"));
    assert_eq!(after.untransformed("a", 0, 100).expect("a list"), disk.untransformed("a", 0, 100).expect("a list"));
    assert_eq!(after.counts("a").expect("counts"), disk.counts("a").expect("counts"));
    for n in 1..=50 {
        assert_eq!(after.story(id(n)).expect("a story").expect("a message").body, body(n));
    }
    // New sequences go on after the old ones.
    let _ = after.receive(arrival(51, "a")).await.expect("a receipt");
    let untransformed = after.untransformed("a", 0, 100).expect("a list");
    assert_eq!(untransformed.last().map(|last| last.id), Some(id(51)));
}

/// The number of the message that was kept.
fn first_number(recipients: &[Recipient]) -> u64 {
    (1..=20).find(|n| id(*n) == recipients[0].id).expect("one of the twenty")
}

fn identity(key: &str) -> Identity {
    Identity { key: key.to_owned(), window: None, other_body: OtherBody::Refused }
}

/// From memory and from the segment the same comes back, but for what the source had read: that is handed on once.
#[tokio::test]
async fn what_came_in_is_handed_to_the_transformer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut disk = open(folder.path());
    let key =
        |n| Arrival { identity: Some(Identity { other_body: OtherBody::Kept, ..identity("K") }), ..arrival(n, "a") };
    let read = Some(Arc::new(Body::Text("read".to_owned())));
    let _ = disk.receive(Arrival { read, ..key(1) }).await.expect("a receipt");
    let _ = disk.receive(key(2)).await.expect("a receipt");
    assert!(disk.received(id(3)).expect("an answer").is_none());
    for was_reopened in [false, true] {
        for n in [1, 2] {
            let received = disk.received(id(n)).expect("an answer").expect("a message");
            let expected = arrival(n, "a");
            assert_eq!((received.channel.as_str(), received.received_at), ("a", expected.received_at));
            assert_eq!(received.origin, Origin { reused_key: n == 2, ..expected.origin });
            assert_eq!((received.format, received.body), (expected.format, expected.body));
            assert_eq!(received.read.is_some(), n == 1 && !was_reopened);
            assert!(disk.received(id(n)).expect("an answer").expect("a message").read.is_none());
        }
        disk = reopen(disk, folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_is_kept_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(open(folder.path()));
    let keyed = |n: u64, body: &'static [u8]| Arrival {
        identity: Some(identity("event-1")),
        body: Bytes::from_static(body),
        ..arrival(n, "a")
    };
    let tasks: Vec<_> = (1..=20)
        .map(|n| {
            let (disk, arrival) = (disk.clone(), keyed(n, b"one"));
            tokio::spawn(async move { disk.receive(arrival).await.expect("a receipt") })
        })
        .collect();
    let mut receipts = Vec::new();
    for task in tasks {
        receipts.push(task.await.expect("a task"));
    }
    let first = receipts[0].recipients().to_vec();
    assert!(receipts.iter().all(|receipt| receipt.recipients() == first));
    assert_eq!(receipts.iter().filter(|receipt| receipt.repeat() == Repeat::No).count(), 1);
    assert_eq!(disk.stats().appended, 1);

    let disk = reopen(Arc::into_inner(disk).expect("the last"), folder.path()).await;
    let again = disk.receive(keyed(30, b"one")).await.expect("a receipt");
    assert_eq!((again.repeat(), again.recipients()), (Repeat::SameBody, &first[..]));
    let other = disk.receive(keyed(31, b"two")).await.expect("a receipt");
    assert_eq!(other.repeat(), Repeat::OtherBody);
    assert_eq!(disk.stats().appended, 0);
    assert_eq!(
        again.acknowledgement().map(|kept| &kept[..]),
        arrival(first_number(&first), "a").acknowledgement.as_deref()
    );
    // Nobody listens: kept all the same, so that the key is known.
    let nobody = Arrival { recipients: vec![], identity: Some(identity("event-2")), ..arrival(40, "a") };
    let _ = disk.receive(nobody.clone()).await.expect("a receipt");
    assert_eq!(disk.receive(nobody).await.expect("a receipt").repeat(), Repeat::SameBody);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sync_serves_all_who_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(open(folder.path()));
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let disk = disk.clone();
            tokio::spawn(async move {
                for n in (task..2000).step_by(64) {
                    let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let stats = disk.stats();
    assert_eq!(stats.appended, 2000);
    assert!(stats.syncs < 500, "{stats:?}");
    assert_eq!(count(&disk, "a", MessageState::Received), 2000);
}

#[tokio::test]
async fn a_key_is_known_for_its_window_and_another_body_may_be_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let keyed = |n: u64, received_at: Timestamp, body: &'static [u8]| Arrival {
        identity: Some(Identity {
            window: Some(Duration::from_secs(60)),
            other_body: OtherBody::Kept,
            ..identity("k")
        }),
        body: Bytes::from_static(body),
        received_at,
        ..arrival(n, "a")
    };
    let receive = |arrival| async { disk.receive(arrival).await.expect("a receipt") };
    assert_eq!(receive(keyed(1, at(0), b"one")).await.repeat(), Repeat::No);
    assert_eq!(receive(keyed(2, at(60_000), b"one")).await.repeat(), Repeat::SameBody);
    let kept = receive(keyed(3, at(60_000), b"two")).await;
    assert_eq!((kept.repeat(), kept.recipients()[0].id), (Repeat::OtherBody, id(3)));
    assert!(disk.story(id(3)).expect("a story").expect("kept").summary.origin.reused_key);
    // The newest body counts from now on; and a minute later everything is new.
    assert_eq!(receive(keyed(4, at(60_001), b"two")).await.recipients()[0].id, id(3));
    assert_eq!(receive(keyed(5, at(120_001), b"two")).await.repeat(), Repeat::No);
    assert!(!disk.story(id(5)).expect("a story").expect("kept").summary.origin.reused_key);
}

#[tokio::test]
async fn a_dead_letter_may_hold_up_what_comes_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let key = OrderKey::of("patient 7");
    for n in 1..=3 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
        let new = NewDelivery { key: Some(key), ..goes(n, "x") };
        disk.transformed(id(n), at(n), Transformed::Queued, vec![new]).await.expect("kept");
    }
    let dead = Attempt { holds: true, ..attempt(1, DeliveryState::Dead) };
    disk.attempted(delivery(1, "x"), dead).await.expect("kept");
    let disk = reopen(disk, folder.path()).await;
    let holding = disk.holding(&lane("a", "x")).expect("a list");
    assert_eq!(holding.iter().map(|held| (&held.id, held.key)).collect::<Vec<_>>(), [(&delivery(1, "x"), Some(key))]);
    let waits = disk.queue(&lane("a", "x"), holding[0].sequence, 10).expect("a queue");
    assert_eq!(
        waits.iter().map(|queued| (queued.id.message, queued.key)).collect::<Vec<_>>(),
        [(id(2), Some(key)), (id(3), Some(key))]
    );
    // Retried, it goes first again.
    disk.command(delivery(1, "x"), command(Verb::Retry, 1)).await.expect("kept");
    assert_eq!(waiting(&disk, "a", "x"), [id(1), id(2), id(3)]);
    assert!(disk.holding(&lane("a", "x")).expect("a list").is_empty());
    // One that was sent can be sent again: at the end.
    disk.attempted(delivery(1, "x"), attempt(1, DeliveryState::Sent)).await.expect("kept");
    disk.command(delivery(1, "x"), command(Verb::Resend, 1)).await.expect("kept");
    assert_eq!(waiting(&disk, "a", "x"), [id(2), id(3), id(1)]);
}

#[tokio::test]
async fn one_body_for_many_channels_is_kept_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let recipients = (1..=50).map(|n| Recipient { id: id(n), channel: format!("c{n}") }).collect();
    let body = Bytes::from(vec![b'x'; 300_000]);
    let _ = disk.receive(Arrival { recipients, body: body.clone(), ..arrival(1, "a") }).await.expect("a receipt");
    let deliveries = (1..=50).map(|n| format!("d{n}"));
    let deliveries = deliveries.map(|name| labwire::journal::NewDelivery {
        destination: name,
        outgoing: Some(labwire::journal::Outgoing { content: body.clone(), ..Default::default() }),
        key: None,
    });
    disk.transformed(id(7), at(9), Transformed::Queued, deliveries.collect()).await.expect("kept");
    assert!(disk.stats().bytes < 700_000, "{:?}", disk.stats());
    let story = disk.story(id(7)).expect("a story").expect("a message");
    assert_eq!(story.body, body);
    assert!(story.deliveries.iter().all(|delivery| delivery.content.as_ref().is_some_and(|content| *content == body)));
    let queued = disk.queue(&lane("c7", "d50"), 0, 1).expect("a queue");
    assert_eq!(disk.outgoing(&queued[0].id).expect("a content").content, body);
}

#[tokio::test]
async fn after_close_everything_is_refused_and_the_folder_is_free() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let _ = disk.receive(arrival(1, "a")).await.expect("a receipt");
    disk.close().await.expect("it closes");
    disk.close().await.expect("closing twice is no error");
    assert!(matches!(disk.receive(arrival(2, "a")).await, Err(JournalError::Closed { .. })));
    assert!(matches!(disk.story(id(1)), Err(JournalError::Closed { .. })));
    let other = open(folder.path());
    assert!(other.damage().is_empty());
    assert_eq!(state(&other, 1), MessageState::Received);
}

#[tokio::test]
async fn content_is_in_no_debug_output() {
    let arrival = arrival(1, "a");
    let shown = format!("{arrival:?} {:?} {:?}", arrival.refs, goes(1, "x"));
    for secret in ["MSH", "P1", "C1", "to x"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

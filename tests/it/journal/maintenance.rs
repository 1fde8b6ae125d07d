//! Pruning, backup and restoration.

use std::sync::Arc;

use labwire::journal::{
    Arrival, DeliveryState, Disk, Identity, Journal, JournalError, MessageState, OtherBody, Prune, Pruned, Query,
    Repeat, Stored, Transformed, Verb,
};
use labwire::message::RefKind;

use super::support::{
    arrival, at, attempt, body, command, content, count, delivery, goes, id, open_small, sha256, waiting,
};

/// Messages 1 to `count` in small segments: each tenth stays queued, each tenth after it is a dead letter, the rest is sent.
async fn many(folder: &std::path::Path, count: u64) -> Disk {
    let disk = open_small(folder);
    for n in 1..=count {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
        disk.transformed(id(n), at(n), Transformed::Queued, vec![goes(n, "x")]).await.expect("kept");
        match n % 10 {
            0 => {}
            1 => disk.attempted(delivery(n, "x"), attempt(n, DeliveryState::Dead)).await.expect("kept"),
            _ => disk.attempted(delivery(n, "x"), attempt(n, DeliveryState::Sent)).await.expect("kept"),
        }
    }
    disk
}

#[tokio::test]
async fn pruning_gives_space_back_and_keeps_what_is_unsent_or_parked() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut disk = many(folder.path(), 200).await;
    let before = disk.stats();
    let pruned = disk.prune(Prune::messages(at(181))).await.expect("pruned");
    assert!(pruned.messages > 130 && pruned.carried > 30 && pruned.segments > 20, "{pruned:?}");
    let after = disk.stats();
    assert!(after.disk_bytes < before.disk_bytes / 2, "{before:?} {after:?}");
    for round in 0..3 {
        for n in 1..=200 {
            let story = disk.story(id(n)).expect("a story");
            match n % 10 {
                0 | 1 => assert_eq!(story.expect("kept").body, body(n), "round {round}: message {n}"),
                _ if n > 181 => assert!(story.is_some(), "round {round}: message {n} is younger"),
                _ => {}
            }
        }
        // In order, with what they send.
        let waits: Vec<_> = (1..=20).map(|n| id(n * 10)).collect();
        assert_eq!(waiting(&disk, "a", "x"), waits, "round {round}");
        assert_eq!(disk.outgoing(&delivery(10, "x")).expect("a content").content, content(10, "x"));
        let dead = disk.story(id(1)).expect("a story").expect("kept");
        assert_eq!(dead.deliveries[0].attempts.len(), 1);
        assert_eq!((count(&disk, "a", MessageState::Queued), count(&disk, "a", MessageState::Dead)), (20, 20));
        assert_eq!(disk.damage(), Vec::<String>::new(), "round {round}");
        disk = match round {
            0 => reopen_small(disk, folder.path()).await,
            _ => {
                disk.close().await.expect("it closes");
                drop(disk);
                std::fs::write(folder.path().join("index/boot"), "another boot").expect("written");
                open_small(folder.path())
            }
        };
    }
    // Once they are finished, nothing keeps them.
    for n in (1..=200).filter(|n| n % 10 < 2) {
        disk.command(delivery(n, "x"), command(Verb::Cancel, n)).await.expect("kept");
    }
    let pruned = disk.prune(Prune::messages(at(10_000))).await.expect("pruned");
    assert_eq!(pruned.carried, 0);
    let all = disk.search(&Query { limit: 1000, ..Query::default() }).expect("a page");
    assert_eq!(all.messages.len(), 0);
    assert!(disk.counts("a").expect("counts").iter().all(|(_, count)| *count == 0));
}

async fn reopen_small(disk: Disk, folder: &std::path::Path) -> Disk {
    disk.close().await.expect("it closes");
    drop(disk);
    open_small(folder)
}

#[tokio::test]
async fn the_oldest_go_first_when_room_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = many(folder.path(), 100).await;
    assert_eq!(disk.prune(Prune::bytes(20_000, at(1))).await.expect("pruned").segments, 0, "nothing is as old as that");
    let would = disk.prune(Prune { dry_run: true, ..Prune::bytes(10_000, at(99)) }).await.expect("looked at");
    assert_eq!(disk.stats().stripped_segments, 0);
    let pruned = disk.prune(Prune::bytes(10_000, at(99))).await.expect("pruned");
    assert!((10_000..20_000).contains(&pruned.bytes) && pruned.segments == 0, "{pruned:?}");
    assert!(would.bytes.abs_diff(pruned.bytes) < 100, "the time is another one: {would:?} {pruned:?}");
    assert_eq!(Pruned { bytes: 0, ..would }, Pruned { bytes: 0, ..pruned }, "what was said was done");
    let story = |n| disk.story(id(n)).expect("a story");
    assert!(story(2).expect("still known").body.kept().is_none());
    assert_eq!(story(98).expect("kept").body, body(98));
    // Only when that is not enough: all of the oldest.
    let all = disk.stats().disk_bytes;
    let would = disk.prune(Prune { dry_run: true, ..Prune::bytes(all * 3 / 4, at(99)) }).await.expect("looked at");
    let pruned = disk.prune(Prune::bytes(all * 3 / 4, at(99))).await.expect("pruned");
    assert!(pruned.stripped_segments > 10 && (1..30).contains(&pruned.segments), "{pruned:?}");
    assert_eq!((would.stripped_messages, would.segments), (pruned.stripped_messages, pruned.segments));
    assert!(story(2).is_none());
    assert!(story(89).expect("its segment is not among the oldest").body.kept().is_none());
    assert_eq!(story(99).expect("kept").body, body(99), "too young");
}

#[tokio::test]
async fn content_goes_first_and_what_is_known_of_it_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = Identity { key: "bill-1".to_owned(), window: None, other_body: OtherBody::Refused };
    let first = || Arrival { identity: Some(identity.clone()), rejected: Some("no MSH".to_owned()), ..arrival(0, "a") };
    let disk = open_small(folder.path());
    let _ = disk.receive(first()).await.expect("a receipt");
    disk.close().await.expect("it closes");
    drop(disk);
    let mut disk = many(folder.path(), 200).await;
    let before = disk.stats();
    let pruned = disk.prune(Prune::content(at(151))).await.expect("pruned");
    assert!((115..150).contains(&pruned.stripped_messages) && pruned.segments == 0, "{pruned:?}");
    let stats = disk.stats();
    assert_eq!((stats.segments, stats.stripped_segments), (before.segments, pruned.stripped_segments));
    assert!(matches!(
        disk.command(delivery(2, "x"), command(Verb::Resend, 2)).await,
        Err(JournalError::Removed { .. })
    ));
    for round in 0..4 {
        let removed = (1..=200).filter(|n| known_of(&disk, *n)).count() as u64;
        assert_eq!(removed + 1, pruned.stripped_messages, "round {round}");
        let found = Query { refs: vec![(RefKind::ControlId, "C2".to_owned())], limit: 10, ..Query::default() };
        assert_eq!(disk.search(&found).expect("a page").messages[0].id, id(2));
        assert_eq!((count(&disk, "a", MessageState::Queued), count(&disk, "a", MessageState::Dead)), (20, 20));
        assert_eq!(waiting(&disk, "a", "x"), (1..=20).map(|n| id(n * 10)).collect::<Vec<_>>(), "round {round}");
        assert_eq!(disk.outgoing(&delivery(10, "x")).expect("a content").content, content(10, "x"));
        let again = disk.receive(first()).await.expect("a receipt");
        assert_eq!((again.repeat(), again.recipients()[0].id), (Repeat::SameBody, id(0)), "it is still known");
        assert_eq!(disk.damage(), Vec::<String>::new(), "round {round}");
        let mut damage = Vec::new();
        let verified =
            labwire::journal::verify(folder.path(), &mut |what| damage.push(what.to_owned())).expect("verified");
        assert_eq!((verified.stripped_segments, damage), (pruned.stripped_segments, vec![]));
        disk.close().await.expect("it closes");
        drop(disk);
        // From the index, from the rosters, and from the segments alone.
        if round > 0 {
            std::fs::remove_dir_all(folder.path().join("index")).expect("removed");
        }
        if round > 1 {
            remove_files(folder.path(), "idx", |_| true);
        }
        disk = open_small(folder.path());
    }
    assert_eq!(disk.stats().stripped_segments, pruned.stripped_segments, "as it was found");
    // A backup has it as it is.
    let backup = folder.path().join("backup");
    disk.backup(&backup).await.expect("copied");
    let restored = open_small(&backup);
    assert_eq!((restored.damage(), known_of(&restored, 2), known_of(&restored, 10)), (vec![], true, false));
}

/// Whether a message's content is gone. Everything else is as it was.
fn known_of(disk: &Disk, n: u64) -> bool {
    let story = disk.story(id(n)).expect("a story").expect("known");
    let attempts: Vec<_> = story.deliveries[0].attempts.iter().map(|tried| tried.attempt.state).collect();
    let (state, tried) = match n % 10 {
        0 => (MessageState::Queued, vec![]),
        1 => (MessageState::Dead, vec![DeliveryState::Dead]),
        _ => (MessageState::Sent, vec![DeliveryState::Sent]),
    };
    assert_eq!((story.summary.state, attempts), (state, tried), "message {n}");
    assert_eq!(story.deliveries[0].properties["control_id"], format!("x-{n}"));
    assert_eq!((story.summary.bytes, story.summary.refs.iter().count()), (body(n).len() as u64, 3));
    let response = story.deliveries[0].attempts.first().and_then(|tried| tried.response.as_ref());
    let Stored::Removed(removed) = &story.body else {
        assert!(story.body == body(n) && story.deliveries[0].content == Some(content(n, "x").into()), "message {n}");
        return false;
    };
    assert!(state == MessageState::Sent, "message {n} is not finished");
    assert_eq!((removed.bytes, &removed.sha256), (body(n).len() as u64, &Some(sha256(&body(n)))));
    assert_eq!(story.summary.content_removed, Some(removed.at));
    assert!(matches!(&story.acknowledgement, Some(Stored::Removed(_))), "message {n}");
    assert!(matches!(response, Some(Stored::Removed(_)) | Some(Stored::Kept(_))), "message {n}: it is younger");
    true
}

fn remove_files(folder: &std::path::Path, extension: &str, which: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder.join("segments")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.extension().is_some_and(|found| found == extension) && which(&stem) {
            std::fs::remove_file(path).expect("removed");
        }
    }
}

#[tokio::test]
async fn what_was_parked_loses_its_content_once_it_is_finished() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = many(folder.path(), 60).await;
    disk.prune(Prune::content(at(51))).await.expect("pruned");
    for n in [1, 10, 11] {
        disk.command(delivery(n, "x"), command(Verb::Cancel, n)).await.expect("kept");
    }
    let kept = |n| disk.story(id(n)).expect("a story").expect("known").body.kept().is_some();
    // Until it is looked for, it can still be sent.
    assert!([1, 10, 11, 20, 21].map(kept).iter().all(|kept| *kept));
    let not_again = Prune { again: false, ..Prune::content(at(51)) };
    assert_eq!(disk.prune(not_again).await.expect("pruned").stripped_segments, 0);
    disk.command(delivery(11, "x"), command(Verb::Retry, 11)).await.expect("kept");
    assert_eq!(disk.prune(Prune::content(at(51))).await.expect("pruned").stripped_messages, 2);
    assert_eq!([1, 10, 11, 20, 21].map(kept), [false, false, true, true, true]);
    let nothing = disk.prune(Prune::content(at(51))).await.expect("pruned");
    assert_eq!((nothing.stripped_segments, nothing.bytes), (0, 0));
    // A message that goes on elsewhere takes its content along, also from here.
    let pruned = disk.prune(Prune::messages(at(51))).await.expect("pruned");
    assert!(pruned.carried >= 7, "{pruned:?}");
    let story = disk.story(id(21)).expect("a story").expect("a dead letter stays");
    assert_eq!((story.body, story.deliveries[0].content.clone()), (body(21).into(), Some(content(21, "x").into())));
    assert_eq!(count(&disk, "a", MessageState::Dead), 4);
}

#[tokio::test]
async fn a_segment_that_cannot_be_written_anew_does_not_keep_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = many(folder.path(), 60).await;
    let in_the_way = folder.path().join("segments/00000003.strip");
    std::fs::create_dir(&in_the_way).expect("made");
    let would = disk.prune(Prune { dry_run: true, ..Prune::content(at(51)) }).await.expect("looked at");
    let error = disk.prune(Prune::content(at(51))).await.expect_err("one of them").to_string();
    assert!(error.contains("removing the content") && error.contains("00000003.log"), "{error}");
    assert_eq!(disk.stats().stripped_segments + 1, would.stripped_segments);
    let _ = disk.receive(arrival(1000, "a")).await.expect("the journal goes on");
    std::fs::remove_dir(&in_the_way).expect("removed");
    assert_eq!(disk.prune(Prune::content(at(51))).await.expect("pruned").stripped_segments, 1);
    assert_eq!(disk.stats().stripped_segments, would.stripped_segments);
}

/// Content went because a message was finished; if the records that said so are lost, it is not finished and cannot be.
#[tokio::test]
async fn what_is_neither_finished_nor_there_is_in_nobodys_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open_small(folder.path());
    for n in 1..=40 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
    }
    let arrivals = disk.stats().segments;
    for n in 1..=40 {
        let filtered = Transformed::Filtered { place: "step 1 (a.toml:3)".to_owned() };
        disk.transformed(id(n), at(n), filtered, vec![]).await.expect("kept");
    }
    let pruned = disk.prune(Prune::content(at(100))).await.expect("pruned");
    assert!(arrivals > 4 && pruned.stripped_messages == 40, "{arrivals} {pruned:?}");
    disk.close().await.expect("it closes");
    drop(disk);
    let last = format!("{arrivals:08}");
    for extension in ["log", "idx"] {
        remove_files(folder.path(), extension, |stem| stem >= last.as_str());
    }
    let disk = open_small(folder.path());
    let lost = count(&disk, "a", MessageState::Received);
    assert!(lost > 20, "{lost}");
    assert_eq!(disk.untransformed("a", 0, 100).expect("a list").len() as u64, lost);
    assert!(disk.story(id(2)).expect("a story").expect("known").body.kept().is_none());
    let pruned = disk.prune(Prune::messages(at(100))).await.expect("pruned");
    assert!(pruned.segments > 3, "{pruned:?}");
    assert_eq!(disk.untransformed("a", 0, 100).expect("a list").len(), 0);
    assert_eq!((disk.waiting().expect("a list"), count(&disk, "a", MessageState::Received)), (vec![], 0));
}

#[tokio::test]
async fn nothing_is_appended_to_what_is_left_of_a_segment() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = many(folder.path(), 60).await;
    let pruned = disk.prune(Prune::content(at(31))).await.expect("pruned");
    disk.close().await.expect("it closes");
    drop(disk);
    let last = format!("{:08}", pruned.stripped_segments);
    for extension in ["log", "idx"] {
        remove_files(folder.path(), extension, |stem| stem > last.as_str());
    }
    // Nor when its end is damaged, by which it is known at a glance.
    let path = folder.path().join(format!("segments/{last}.log"));
    let mut bytes = std::fs::read(&path).expect("a segment");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    std::fs::write(&path, bytes).expect("written");
    for round in 0..2 {
        let disk = open_small(folder.path());
        assert_eq!(disk.stats().segments, pruned.stripped_segments + 1, "round {round}");
        let _ = disk.receive(arrival(1000 + round, "a")).await.expect("a receipt");
        assert!(known_of(&disk, 2) && !known_of(&disk, 10), "round {round}");
        assert_eq!(disk.story(id(1000)).expect("a story").expect("a message").body, body(1000));
    }
}

/// What a message takes on the disk, with two references, one delivery and one attempt: the aim is to keep 180 days of it.
#[tokio::test]
async fn what_is_left_of_a_message_is_small() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open(folder.path()).expect("it opens");
    for n in 2..2000 {
        let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
        disk.transformed(id(n), at(n), Transformed::Queued, vec![goes(n, "x")]).await.expect("kept");
        disk.attempted(delivery(n, "x"), attempt(n, DeliveryState::Sent)).await.expect("kept");
    }
    disk.prune(Prune::content(at(10_000))).await.expect("pruned");
    let stats = disk.stats();
    let each = |bytes: u64| bytes / 1998;
    println!("{} bytes of each message, and {} in all", each(stats.stripped_bytes), each(stats.disk_bytes - (4 << 20)));
    assert!(each(stats.stripped_bytes) < 300, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_made_while_work_goes_on_is_a_journal() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(many(folder.path(), 100).await);
    let working = tokio::spawn({
        let disk = disk.clone();
        async move {
            for n in 101..=300 {
                let _ = disk.receive(arrival(n, "a")).await.expect("a receipt");
            }
        }
    });
    let (backup, restored) = (folder.path().join("backup"), folder.path().join("restored"));
    let copied = disk.backup(&backup).await.expect("copied");
    assert!(copied.segments > 5, "{copied:?}");
    working.await.expect("it works");
    assert!(matches!(disk.backup(&backup).await, Err(JournalError::Folder { .. })), "never over another");
    let mut damage = Vec::new();
    let verified = labwire::journal::verify(&backup, &mut |what| damage.push(what.to_owned())).expect("verified");
    assert_eq!((verified.damage, damage), (0, vec![]));
    assert!(verified.messages >= 100, "{verified:?}");
    labwire::journal::restore(&backup, &restored).expect("restored");
    let again = open_small(&restored);
    assert_eq!(again.damage(), Vec::<String>::new());
    for n in 1..=100 {
        assert_eq!(again.story(id(n)).expect("a story").expect("a message").body, body(n));
    }
    assert_eq!(waiting(&again, "a", "x").len(), 10);
}

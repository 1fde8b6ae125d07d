//! Pruning, backup and restoration.

use std::sync::Arc;

use labwire::journal::{DeliveryState, Disk, Journal, JournalError, MessageState, Query, Transformed, Verb};

use super::support::{arrival, at, attempt, body, command, content, count, delivery, goes, id, open_small, waiting};

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
    let pruned = disk.prune(at(181)).await.expect("pruned");
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
    let pruned = disk.prune(at(10_000)).await.expect("pruned");
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
    assert_eq!(disk.prune_bytes(20_000, at(1)).await.expect("pruned").segments, 0, "nothing is as old as that");
    let pruned = disk.prune_bytes(20_000, at(99)).await.expect("pruned");
    assert!((20_000..40_000).contains(&pruned.bytes), "{pruned:?}");
    assert!(disk.story(id(2)).expect("a story").is_none());
    assert!(disk.story(id(99)).expect("a story").is_some());
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

//! Random lives of messages, with every kind of restart between, against a model that keeps them in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use labwire::journal::{
    Arrival, DeliveryState, Depth, Disk, Journal, JournalError, MessageState, Prune, Query, Stored, Transformed, Verb,
};
use proptest::prelude::*;

use super::support::{
    arrival, at, attempt, body, command, content, copy, delivery, goes, id, lane, open_small, sha256, stays,
};

const CHANNELS: [&str; 2] = ["a", "b/with space"];
const DESTINATIONS: [&str; 3] = ["x", "y", "z"];

#[derive(Debug, Clone)]
enum Op {
    Receive {
        channel: usize,
        rejected: bool,
    },
    Transform {
        pick: usize,
        outcome: Outcome,
    },
    Attempt {
        pick: usize,
        destination: usize,
        state: DeliveryState,
    },
    Command {
        pick: usize,
        destination: usize,
        verb: Verb,
    },
    /// Of what was received before a message.
    Prune {
        pick: usize,
    },
    /// The content of what was received before a message.
    Strip {
        pick: usize,
    },
    Restart(Restart),
}

#[derive(Debug, Clone)]
enum Outcome {
    Filtered,
    Errored,
    /// Goes, stays, or is not among the destinations.
    Queued([Option<bool>; 3]),
}

#[derive(Debug, Clone)]
enum Restart {
    Clean,
    Crash,
    /// A crash with half a record at the end.
    TornTail(usize),
    /// A crash while a segment was written anew without its content.
    HalfStripped(usize),
    /// Every sealed roster is lost, and the index.
    RostersDeleted,
    IndexDeleted,
    OtherBoot,
    /// Bytes of sled's file overwritten, from a place in it on, by this.
    IndexGarbled {
        place: usize,
        bytes: usize,
        by: u8,
    },
    IndexCut(usize),
}

fn op() -> impl Strategy<Value = Op> {
    use DeliveryState::{Dead, Retrying, Sent};
    let outcome = prop_oneof![
        1 => Just(Outcome::Filtered),
        1 => Just(Outcome::Errored),
        8 => prop::array::uniform3(prop::option::weighted(0.8, prop::bool::weighted(0.8))).prop_map(Outcome::Queued),
    ];
    let verb = prop_oneof![Just(Verb::Retry), Just(Verb::Cancel), Just(Verb::Resend)];
    let state = prop_oneof![Just(Dead), Just(Retrying), Just(Sent)];
    let restart = prop_oneof![
        Just(Restart::Clean),
        Just(Restart::Crash),
        (1..200_usize).prop_map(Restart::TornTail),
        any::<usize>().prop_map(Restart::HalfStripped),
        Just(Restart::RostersDeleted),
        Just(Restart::IndexDeleted),
        Just(Restart::OtherBoot),
        (any::<usize>(), 1..5000_usize, any::<u8>()).prop_map(|(place, bytes, by)| Restart::IndexGarbled {
            place,
            bytes,
            by
        }),
        any::<usize>().prop_map(Restart::IndexCut),
    ];
    prop_oneof![
        6 => (0..2_usize, prop::bool::weighted(0.1)).prop_map(|(channel, rejected)| Op::Receive { channel, rejected }),
        6 => (any::<usize>(), outcome).prop_map(|(pick, outcome)| Op::Transform { pick, outcome }),
        8 => (any::<usize>(), 0..3_usize, state)
            .prop_map(|(pick, destination, state)| Op::Attempt { pick, destination, state }),
        4 => (any::<usize>(), 0..3_usize, verb)
            .prop_map(|(pick, destination, verb)| Op::Command { pick, destination, verb }),
        1 => any::<usize>().prop_map(|pick| Op::Prune { pick }),
        2 => any::<usize>().prop_map(|pick| Op::Strip { pick }),
        2 => restart.prop_map(Op::Restart),
    ]
}

#[derive(Default)]
struct Model {
    messages: BTreeMap<u64, Message>,
    received: u64,
    sequence: u64,
    pruned: bool,
}

struct Message {
    channel: &'static str,
    state: MessageState,
    deliveries: Vec<(&'static str, Delivery)>,
    /// What the journal has removed: the body, the contents of deliveries, or both.
    removed: (bool, bool),
}

#[derive(Clone, Copy)]
struct Delivery {
    state: DeliveryState,
    sequence: u64,
    retried: bool,
    tries: u32,
    counted: u32,
}

impl Message {
    fn derive(&mut self) {
        let has =
            |wanted: fn(DeliveryState) -> bool| self.deliveries.iter().any(|(_, delivery)| wanted(delivery.state));
        self.state = if has(|state| state == DeliveryState::Dead) {
            MessageState::Dead
        } else if has(DeliveryState::is_waiting) {
            MessageState::Queued
        } else if has(|state| state != DeliveryState::Filtered) {
            MessageState::Sent
        } else {
            MessageState::Filtered
        };
    }

    fn is_finished(&self) -> bool {
        let open = [MessageState::Received, MessageState::Queued, MessageState::Dead];
        !open.contains(&self.state) && self.deliveries.iter().all(|(_, delivery)| !delivery.state.is_waiting())
    }

    fn delivery(&mut self, destination: &str) -> Option<&mut Delivery> {
        self.deliveries.iter_mut().find(|(name, _)| *name == destination).map(|(_, delivery)| delivery)
    }
}

impl Model {
    fn pick(&self, pick: usize) -> Option<u64> {
        let count = self.messages.len();
        (count > 0).then(|| *self.messages.keys().nth(pick % count).expect("it is smaller"))
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    async fn run(&mut self, disk: &Disk, op: Op) {
        match op {
            Op::Receive { channel, rejected } => {
                let n = self.received;
                self.received += 1;
                let channel = CHANNELS[channel];
                let rejected = rejected.then(|| "no MSH".to_owned());
                let state = if rejected.is_some() { MessageState::Rejected } else { MessageState::Received };
                let _ = disk.receive(Arrival { rejected, ..arrival(n, channel) }).await.expect("a receipt");
                self.messages.insert(n, Message { channel, state, deliveries: vec![], removed: (false, false) });
            }
            Op::Transform { pick, outcome } => {
                let Some(n) = self.pick(pick) else { return };
                self.transform(disk, n, outcome).await;
            }
            Op::Attempt { pick, destination, state } => {
                let Some(n) = self.pick(pick) else { return };
                let destination = DESTINATIONS[destination];
                let done = disk.attempted(delivery(n, destination), attempt(n, state)).await;
                let message = self.messages.get_mut(&n).expect("it was picked");
                let Some(delivery) = message.delivery(destination) else {
                    assert!(matches!(done, Err(JournalError::Unknown { .. })), "{done:?}");
                    return;
                };
                done.expect("kept");
                delivery.tries += 1;
                delivery.counted += 1;
                if delivery.state.is_waiting() || state == DeliveryState::Sent {
                    delivery.state = state;
                }
                message.derive();
            }
            Op::Command { pick, destination, verb } => {
                let Some(n) = self.pick(pick) else { return };
                self.command(disk, n, DESTINATIONS[destination], verb).await;
            }
            Op::Prune { pick } => {
                let Some(n) = self.pick(pick) else { return };
                disk.prune(Prune::messages(at(n))).await.expect("pruned");
                self.pruned = true;
                // Whole segments: what is gone is finished and old; what is there is as it was.
                self.messages.retain(|found, message| {
                    let is_there = disk.story(id(*found)).expect("a story").is_some();
                    let may_go = *found < n && message.is_finished();
                    assert!(is_there || may_go, "message {found} is gone at {n}: {}", message.state);
                    is_there
                });
            }
            Op::Strip { pick } => {
                let Some(n) = self.pick(pick) else { return };
                disk.prune(Prune::content(at(n))).await.expect("pruned");
                for (found, message) in &mut self.messages {
                    let story = disk.story(id(*found)).expect("a story").expect("nothing is gone");
                    let contents = story.deliveries.iter().filter_map(|delivery| delivery.content.as_ref());
                    let removed =
                        (story.body.kept().is_none(), contents.clone().any(|content| content.kept().is_none()));
                    assert!(removed >= message.removed, "what is removed does not come back");
                    // A segment can be younger than what happens in it.
                    let may_go = message.is_finished() && (*found < n || !removed.0);
                    assert!(removed == message.removed || may_go, "message {found} at {n}: {}", message.state);
                    message.removed = removed;
                }
            }
            Op::Restart(_) => unreachable!("restarts are not the model's business"),
        }
    }

    async fn transform(&mut self, disk: &Disk, n: u64, outcome: Outcome) {
        let place = || "step 1 (a.toml:3)".to_owned();
        let (result, mask, state) = match outcome {
            Outcome::Filtered => (Transformed::Filtered { place: place() }, [None; 3], MessageState::Filtered),
            Outcome::Errored => {
                let result = Transformed::Errored { place: place(), error: "no".to_owned() };
                (result, [None; 3], MessageState::Errored)
            }
            Outcome::Queued(mask) => (Transformed::Queued, mask, MessageState::Sent),
        };
        let planned: Vec<_> =
            DESTINATIONS.into_iter().zip(mask).filter_map(|(name, goes)| Some((name, goes?))).collect();
        let new = planned.iter().map(|(name, out)| if *out { goes(n, name) } else { stays(name) }).collect();
        disk.transformed(id(n), at(n + 5), result, new).await.expect("kept");
        if self.messages[&n].state != MessageState::Received {
            return; // Had an outcome before.
        }
        let mut deliveries = Vec::new();
        for (name, goes) in planned {
            let state = if goes { DeliveryState::Queued } else { DeliveryState::Filtered };
            deliveries.push((name, Delivery { state, sequence: self.next(), retried: false, tries: 0, counted: 0 }));
        }
        let message = self.messages.get_mut(&n).expect("it was picked");
        message.deliveries = deliveries;
        message.state = state;
        if state == MessageState::Sent {
            message.derive();
        }
    }

    async fn command(&mut self, disk: &Disk, n: u64, destination: &str, verb: Verb) {
        use DeliveryState::{Cancelled, Dead, Queued, Retrying, Sent};
        let done = disk.command(delivery(n, destination), command(verb, n)).await;
        let sequence = self.next();
        let message = self.messages.get_mut(&n).expect("it was picked");
        let was_finished = message.is_finished();
        let Some(delivery) = message.delivery(destination) else {
            assert!(matches!(done, Err(JournalError::Unknown { .. })), "{done:?}");
            return;
        };
        let before = *delivery;
        match (verb, delivery.state) {
            (Verb::Retry, Retrying) => (delivery.state, delivery.counted) = (Queued, 0),
            (Verb::Retry, Dead | Cancelled) | (Verb::Resend, Sent) => {
                (delivery.state, delivery.sequence, delivery.counted) = (Queued, sequence, 0);
                delivery.retried = true;
            }
            (Verb::Cancel, Queued | Retrying | Dead) => delivery.state = Cancelled,
            (_, state) => {
                assert!(matches!(done, Err(JournalError::State { state: found, .. }) if found == state), "{done:?}");
                return;
            }
        }
        if was_finished && verb != Verb::Cancel && message.removed != (false, false) {
            *message.delivery(destination).expect("it is there") = before;
            assert!(matches!(done, Err(JournalError::Removed { .. })), "{done:?}");
            return;
        }
        done.expect("kept");
        message.derive();
    }

    fn check(&self, disk: &Disk) {
        for (n, message) in &self.messages {
            let story = disk.story(id(*n)).expect("a story").expect("a message");
            match &story.body {
                Stored::Kept(found) => assert_eq!(*found, body(*n)),
                Stored::Removed(found) => {
                    assert_eq!((found.bytes, &found.sha256), (body(*n).len() as u64, &Some(sha256(&body(*n)))));
                }
            }
            assert_eq!(story.body.kept().is_none(), message.removed.0, "message {n}");
            assert_eq!(story.summary.state, message.state, "message {n}");
            assert_eq!(story.summary.deliveries.len(), message.deliveries.len());
            for (i, (name, delivery)) in message.deliveries.iter().enumerate() {
                let found = &story.summary.deliveries[i];
                assert_eq!((found.destination.as_str(), found.state), (*name, delivery.state), "message {n}");
                assert_eq!(found.attempts, delivery.tries);
                assert_eq!(story.deliveries[i].attempts.len(), delivery.tries as usize);
                if delivery.state.is_waiting() && story.deliveries[i].content.is_some() {
                    let outgoing = disk.outgoing(&super::support::delivery(*n, name)).expect("a content");
                    assert_eq!(outgoing.content, content(*n, name), "what is unsent is all there");
                }
            }
        }
        for channel in CHANNELS {
            self.check_channel(disk, channel);
        }
    }

    fn check_channel(&self, disk: &Disk, channel: &str) {
        let mine = || self.messages.iter().filter(|(_, message)| message.channel == channel);
        let received: Vec<_> =
            mine().filter(|(_, message)| message.state == MessageState::Received).map(|(n, _)| id(*n)).collect();
        let untransformed = disk.untransformed(channel, 0, 1000).expect("a list");
        assert_eq!(untransformed.iter().map(|found| found.id).collect::<Vec<_>>(), received);
        for (state, count) in disk.counts(channel).expect("counts") {
            let ids: Vec<_> = mine().filter(|(_, message)| message.state == state).map(|(n, _)| id(*n)).rev().collect();
            assert_eq!(count, ids.len() as u64, "{channel} {state}");
            let query =
                Query { channel: Some(channel.to_owned()), state: Some(state), limit: 1000, ..Query::default() };
            let page = disk.search(&query).expect("a page");
            let mut found: Vec<_> = page.messages.iter().map(|found| found.id).collect();
            if self.pruned {
                // What pruning carried into the newest segment is listed there.
                found.sort_unstable_by(|one, other| other.cmp(one));
            }
            assert_eq!(found, ids);
        }
        for destination in DESTINATIONS {
            let mut queue: Vec<_> = mine()
                .flat_map(|(n, message)| message.deliveries.iter().map(move |(name, delivery)| (n, name, delivery)))
                .filter(|(_, name, delivery)| **name == destination && delivery.state.is_waiting())
                .map(|(n, _, delivery)| (delivery.sequence, *n, delivery.counted, delivery.retried))
                .collect();
            queue.sort_unstable();
            let found = disk.queue(&lane(channel, destination), 0, 1000).expect("a queue");
            let found: Vec<_> = found.iter().map(|queued| (queued.id.message, queued.attempts)).collect();
            assert_eq!(found, queue.iter().map(|(_, n, counted, _)| (id(*n), *counted)).collect::<Vec<_>>());
            let head = queue.iter().take(1);
            let retried = queue.iter().filter(|(_, _, _, retried)| *retried);
            let oldest = head.chain(retried).map(|(_, n, _, _)| at(*n)).min();
            let depth = disk.depth(&lane(channel, destination)).expect("a depth");
            assert_eq!(depth, Depth { waiting: queue.len() as u64, oldest });
        }
    }
}

/// Ends the journal in some way and opens what is left.
async fn restart(disk: Disk, folder: &mut PathBuf, root: &Path, how: &Restart) -> Disk {
    let next = root.join(format!("{}", std::fs::read_dir(root).expect("a folder").count()));
    match how {
        Restart::Crash | Restart::TornTail(_) | Restart::HalfStripped(_) => copy(folder, &next),
        _ => {
            disk.close().await.expect("it closes");
            copy(folder, &next);
        }
    }
    drop(disk);
    *folder = next;
    let index = folder.join("index");
    let segments = std::fs::read_dir(folder.join("segments")).expect("a folder");
    let segments = segments.map(|entry| entry.expect("an entry").path());
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    let segment = segments.filter(is_log).max().expect("a segment");
    match how {
        Restart::Clean | Restart::Crash => {}
        Restart::TornTail(bytes) => {
            let mut all = std::fs::read(&segment).expect("a segment");
            all.extend(all[..(*bytes).min(all.len())].to_vec());
            std::fs::write(&segment, all).expect("written");
        }
        Restart::HalfStripped(bytes) => {
            let all = std::fs::read(&segment).expect("a segment");
            // The last one may have been prepared just now, and be empty.
            let half = &all[..bytes % all.len().max(1)];
            std::fs::write(segment.with_extension("strip"), half).expect("written");
        }
        Restart::RostersDeleted => {
            for entry in std::fs::read_dir(folder.join("segments")).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.extension().is_some_and(|extension| extension == "idx") {
                    std::fs::remove_file(path).expect("removed");
                }
            }
            std::fs::remove_dir_all(&index).expect("removed");
        }
        Restart::IndexDeleted => std::fs::remove_dir_all(&index).expect("removed"),
        Restart::OtherBoot => std::fs::write(index.join("boot"), "another boot").expect("written"),
        Restart::IndexGarbled { place, bytes, by } => {
            let mut all = std::fs::read(index.join("db/db")).expect("sled's file");
            let place = place % all.len();
            all[place..].iter_mut().take(*bytes).for_each(|byte| *byte = *by);
            std::fs::write(index.join("db/db"), all).expect("written");
        }
        Restart::IndexCut(place) => {
            let all = std::fs::read(index.join("db/db")).expect("sled's file");
            std::fs::write(index.join("db/db"), &all[..place % all.len()]).expect("written");
        }
    }
    open_small(folder)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_journal_equals_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let root = tempfile::tempdir().expect("a folder");
            let mut folder = root.path().join("first");
            let mut disk = open_small(&folder);
            let mut model = Model::default();
            for op in ops {
                if let Op::Restart(how) = op {
                    disk = restart(disk, &mut folder, root.path(), &how).await;
                    model.check(&disk);
                } else {
                    model.run(&disk, op).await;
                }
            }
            model.check(&disk);
        });
    }
}

/// More than the usual number by `JOURNAL_CASES=1000`.
fn cases() -> u32 {
    std::env::var("JOURNAL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24)
}

//! Finding messages, page by page.

use labwire::journal::{Disk, Journal, MessageState, Query, Transformed};
use labwire::message::{MessageId, RefKind};

use super::support::{arrival, at, goes, id, open};

const COUNT: u64 = 60;

fn channel(n: u64) -> &'static str {
    ["a", "b", "c"][n as usize % 3]
}

/// Message `n` is in channel a, b or c; each fourth is filtered, each tenth queued, the rest wait.
fn state(n: u64) -> MessageState {
    match n {
        n if n % 10 == 0 => MessageState::Queued,
        n if n % 4 == 0 => MessageState::Filtered,
        _ => MessageState::Received,
    }
}

async fn filled(disk: &Disk) {
    for n in 1..=COUNT {
        let _ = disk.receive(arrival(n, channel(n))).await.expect("a receipt");
        let (outcome, deliveries) = match state(n) {
            MessageState::Queued => (Transformed::Queued, vec![goes(n, "x")]),
            MessageState::Filtered => (Transformed::Filtered { place: "step 1".to_owned() }, vec![]),
            _ => continue,
        };
        disk.transformed(id(n), at(n), outcome, deliveries).await.expect("kept");
    }
}

/// All pages of a query.
fn pages(disk: &Disk, query: &Query) -> Vec<MessageId> {
    let mut query = query.clone();
    let mut ids = Vec::new();
    loop {
        let page = disk.search(&query).expect("a page");
        assert!(page.messages.len() <= query.limit);
        ids.extend(page.messages.iter().map(|found| found.id));
        match page.next {
            Some(next) => {
                assert_eq!(page.messages.len(), query.limit, "only a full page has a next");
                assert_eq!(Some(&next), ids.last());
                query.before = Some(next);
            }
            None => return ids,
        }
    }
}

#[tokio::test]
async fn every_combination_finds_what_a_full_look_finds() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    filled(&disk).await;
    let refs: [&[(RefKind, &str)]; 6] = [
        &[],
        &[(RefKind::Patient, "P3")],
        &[(RefKind::MessageType, "ORU^R01")],
        &[(RefKind::ControlId, "C30"), (RefKind::MessageType, "ORU^R01")],
        &[(RefKind::Patient, "P3"), (RefKind::ControlId, "C30")],
        &[(RefKind::Bill, "none")],
    ];
    let states = [None, Some(MessageState::Queued), Some(MessageState::Filtered), Some(MessageState::Dead)];
    let times = [(None, None), (Some(20), None), (None, Some(20)), (Some(10), Some(41)), (Some(90), None)];
    let mut found = 0;
    for wanted in [None, Some("a"), Some("c"), Some("unknown")] {
        for state_wanted in states {
            for refs in refs {
                for (since, until) in times {
                    for limit in [1, 7, 1000] {
                        let query = Query {
                            channel: wanted.map(str::to_owned),
                            state: state_wanted,
                            refs: refs.iter().map(|(kind, value)| (*kind, (*value).to_owned())).collect(),
                            since: since.map(at),
                            until: until.map(at),
                            before: None,
                            limit,
                        };
                        let expected: Vec<_> = (1..=COUNT)
                            .rev()
                            .filter(|n| wanted.is_none_or(|wanted| wanted == channel(*n)))
                            .filter(|n| state_wanted.is_none_or(|wanted| wanted == state(*n)))
                            .filter(|n| refs.iter().all(|wanted| has(*n, *wanted)))
                            .filter(|n| since.is_none_or(|since| *n >= since) && until.is_none_or(|until| *n < until))
                            .map(id)
                            .collect();
                        assert_eq!(pages(&disk, &query), expected, "{query:?}");
                        found += expected.len();
                    }
                }
            }
        }
    }
    assert!(found > 1000);
}

fn has(n: u64, (kind, value): (RefKind, &str)) -> bool {
    match kind {
        RefKind::Patient => value == format!("P{}", n % 5),
        RefKind::MessageType => value == "ORU^R01",
        RefKind::ControlId => value == format!("C{n}"),
        _ => false,
    }
}

#[tokio::test]
async fn the_row_of_a_list_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    filled(&disk).await;
    let page = disk.search(&Query { limit: 2, ..Query::default() }).expect("a page");
    let newest = &page.messages[0];
    assert_eq!((newest.id, newest.channel.as_str(), newest.received_at), (id(COUNT), channel(COUNT), at(COUNT)));
    assert_eq!(newest.refs.first(RefKind::ControlId), Some("C60"));
    assert_eq!(newest.deliveries[0].destination, "x");
    assert_eq!(page.next, Some(id(COUNT - 1)));
    assert!(disk.search(&Query::default()).expect("a page").messages.is_empty(), "a limit of none finds none");
}

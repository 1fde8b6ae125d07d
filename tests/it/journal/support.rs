//! Arrivals, attempts and folders for the tests.

use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use labwire::journal::{
    Arrival, Attempt, Command, DeliveryId, DeliveryState, Disk, Journal, Lane, MessageState, NewDelivery, Outgoing,
    Recipient, Verb,
};
use labwire::message::{Format, MessageId, Origin, RefKind, Refs};

/// The id of message `n`, received `n` milliseconds after the beginning of time for these tests.
pub(crate) fn id(n: u64) -> MessageId {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&((START_MS + n as i64) as u64).to_be_bytes()[2..]);
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    MessageId::from_bytes(bytes)
}

const START_MS: i64 = 1_767_000_000_000;

/// The time at which message `n` is received.
pub(crate) fn at(n: u64) -> Timestamp {
    Timestamp::from_millisecond(START_MS + n as i64).expect("a time")
}

pub(crate) fn arrival(n: u64, channel: &str) -> Arrival {
    let mut refs = Refs::default();
    refs.add(RefKind::Patient, &format!("P{}", n % 5));
    refs.add(RefKind::MessageType, "ORU^R01");
    refs.add(RefKind::ControlId, &format!("C{n}"));
    Arrival {
        recipients: vec![Recipient { id: id(n), channel: channel.to_owned() }],
        received_at: at(n),
        origin: Origin { source: "mllp".to_owned(), peer: Some("10.0.0.7:4711".to_owned()), ..Origin::default() },
        format: Format::Hl7,
        refs,
        body: body(n),
        read: None,
        acknowledgement: Some(Bytes::from(format!("MSA|AA|C{n}\r"))),
        rejected: None,
        identity: None,
    }
}

pub(crate) fn body(n: u64) -> Bytes {
    Bytes::from(format!("MSH|^~\\&|LAB|{n}|{}", "x".repeat(n as usize % 700)))
}

/// As 64 hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Goes to a destination, with a content that tells both.
pub(crate) fn goes(n: u64, destination: &str) -> NewDelivery {
    let properties = [("control_id".to_owned(), format!("{destination}-{n}"))].into();
    NewDelivery {
        destination: destination.to_owned(),
        outgoing: Some(Outgoing { content: content(n, destination), properties }),
        key: None,
    }
}

pub(crate) fn content(n: u64, destination: &str) -> Bytes {
    Bytes::from(format!("to {destination}: {n}"))
}

pub(crate) fn stays(destination: &str) -> NewDelivery {
    NewDelivery { destination: destination.to_owned(), outgoing: None, key: None }
}

pub(crate) fn delivery(n: u64, destination: &str) -> DeliveryId {
    DeliveryId { message: id(n), destination: destination.to_owned() }
}

pub(crate) fn lane(channel: &str, destination: &str) -> Lane {
    Lane { channel: channel.to_owned(), destination: destination.to_owned() }
}

pub(crate) fn attempt(n: u64, state: DeliveryState) -> Attempt {
    let failed = state != DeliveryState::Sent;
    Attempt {
        started_at: at(n + 1000),
        duration_ms: 12,
        state,
        next_at: (state == DeliveryState::Retrying).then(|| at(n + 2000)),
        error: failed.then(|| "connection refused".to_owned()),
        counted: true,
        holds: false,
        to: None,
        answered: None,
        response: (!failed).then(|| Bytes::from_static(b"MSA|AA")),
    }
}

pub(crate) fn command(verb: Verb, n: u64) -> Command {
    Command { verb, who: "anna".to_owned(), why: "the partner asked".to_owned(), at: at(n + 3000) }
}

/// A copy of a folder as it is now, as if the machine's process had been killed.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            match std::fs::copy(entry.path(), target) {
                // Renamed or removed meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.expect("a copy")),
            }
        }
    }
}

pub(crate) fn open(folder: &Path) -> Disk {
    Disk::open(folder).expect("the journal opens")
}

/// With so small segments that a test fills several.
pub(crate) fn open_small(folder: &Path) -> Disk {
    Disk::open_with_segments(folder, 4096).expect("the journal opens")
}

/// Closes a journal and opens its folder again.
pub(crate) async fn reopen(disk: Disk, folder: &Path) -> Disk {
    disk.close().await.expect("it closes");
    drop(disk);
    open(folder)
}

/// The ids that wait in a lane, in order.
pub(crate) fn waiting(disk: &Disk, channel: &str, destination: &str) -> Vec<MessageId> {
    let queue = disk.queue(&lane(channel, destination), 0, 1000).expect("a queue");
    queue.into_iter().map(|queued| queued.id.message).collect()
}

/// How many messages of a channel are in a state.
pub(crate) fn count(disk: &Disk, channel: &str, state: MessageState) -> u64 {
    let counts = disk.counts(channel).expect("counts");
    counts.into_iter().find(|(found, _)| *found == state).map_or(0, |(_, count)| count)
}

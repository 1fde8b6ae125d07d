//! The keys of the index. Each kind has a letter; names end with NUL (and hold none), numbers are big-endian, so that keys
//! sort by time or by place in a queue.
//!
//! | key | value |
//! |---|---|
//! | `m` id | the message's row |
//! | `d` id, number of the delivery | the delivery's row |
//! | `e` id, segment, offset | nothing: an attempt or a command stands there |
//! | `u` channel, sequence | id: waits for the transformer |
//! | `l` channel, destination, sequence | id, number of the delivery: waits in the lane |
//! | `o` channel, destination, id, number | nothing: waits in the lane, but not in order of arrival: it was sent to its end |
//! | `h` channel, destination, sequence | id, number of the delivery: a dead letter that holds up others |
//! | `r` kind, value, id | nothing |
//! | `s` channel, state, id | nothing |
//! | `n` channel, state | how many messages |
//! | `w` channel, destination | how many deliveries wait |
//! | `k` sha256 of an idempotency key | sha256 of the body, place of the arrival |
//! | `x` | the checkpoint: sorts last, and is written last |
//! | `b` | the checkpoint that is about to be written: written first |

use super::record::Place;
use super::{Lane, MessageState};
use crate::message::{MessageId, RefKind};

pub(super) const MESSAGES: &[u8] = b"m";
pub(super) const COUNTS: &[u8] = b"n";
pub(super) const WAITING: &[u8] = b"w";
pub(super) const CHECKPOINT: &[u8] = b"x";
pub(super) const BEGUN: &[u8] = b"b";

struct Key(Vec<u8>);

impl Key {
    fn new(letter: u8) -> Key {
        let mut key = Vec::with_capacity(64);
        key.push(letter);
        Key(key)
    }

    fn name(mut self, name: &str) -> Key {
        self.0.extend(name.bytes().map(|byte| byte.max(1)));
        self.0.push(0);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Key {
        self.0.extend_from_slice(bytes);
        self
    }

    fn lane(self, lane: &Lane) -> Key {
        self.name(&lane.channel).name(&lane.destination)
    }
}

pub(super) fn message(id: MessageId) -> Vec<u8> {
    Key::new(b'm').bytes(&id.to_bytes()).0
}

pub(super) fn delivery(id: MessageId, number: u16) -> Vec<u8> {
    Key::new(b'd').bytes(&id.to_bytes()).bytes(&number.to_be_bytes()).0
}

pub(super) fn events(id: MessageId) -> Vec<u8> {
    Key::new(b'e').bytes(&id.to_bytes()).0
}

pub(super) fn event(id: MessageId, place: Place) -> Vec<u8> {
    Key(events(id)).bytes(&place.segment.to_be_bytes()).bytes(&place.offset.to_be_bytes()).0
}

pub(super) fn untransformed(channel: &str) -> Vec<u8> {
    Key::new(b'u').name(channel).0
}

pub(super) fn lane(lane: &Lane) -> Vec<u8> {
    Key::new(b'l').lane(lane).0
}

pub(super) fn retried(lane: &Lane) -> Vec<u8> {
    Key::new(b'o').lane(lane).0
}

pub(super) fn holding(lane: &Lane) -> Vec<u8> {
    Key::new(b'h').lane(lane).0
}

pub(super) fn reference(kind: RefKind, value: &str) -> Vec<u8> {
    Key::new(b'r').name(kind.as_str()).name(value).0
}

pub(super) fn state(channel: &str, state: MessageState) -> Vec<u8> {
    Key::new(b's').name(channel).name(state.as_str()).0
}

pub(super) fn count(channel: &str, state: MessageState) -> Vec<u8> {
    Key::new(b'n').name(channel).name(state.as_str()).0
}

pub(super) fn waiting(lane: &Lane) -> Vec<u8> {
    Key::new(b'w').lane(lane).0
}

pub(super) fn idempotency(key_sha256: &[u8; 32]) -> Vec<u8> {
    Key::new(b'k').bytes(key_sha256).0
}

/// The two names that a key of `n` or `w` consists of after its letter.
pub(super) fn two_names(rest: &[u8]) -> Option<(String, String)> {
    let mut names = rest.split(|byte| *byte == 0).map(|name| String::from_utf8_lossy(name).into_owned());
    names.next().zip(names.next())
}

/// A prefix and what comes after it.
pub(super) fn with(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

/// The number at the end of a key or in a value.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.last_chunk()?))
}

/// The id and the number of a delivery, as in a value of `l` or the end of a key of `o`.
pub(super) fn numbered(bytes: &[u8]) -> Option<(MessageId, u16)> {
    let (bytes, number) = bytes.split_last_chunk::<2>()?;
    Some((MessageId::from_bytes(*bytes.last_chunk()?), u16::from_be_bytes(*number)))
}

/// The opposite of [`numbered`].
pub(super) fn to_numbered(id: MessageId, number: u16) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&id.to_bytes());
    bytes[16..].copy_from_slice(&number.to_be_bytes());
    bytes
}

//! The keys of the index. Each kind has a letter; names end with NUL (and hold none), numbers are big-endian, so that keys
//! sort by time or by place in a queue.
//!
//! The index knows nothing of the newest messages, which are in memory, and of older ones only what changed since their roster
//! was frozen. A shelf is the number of the segment in which a message arrived.
//!
//! | key | value |
//! |---|---|
//! | `m` shelf, id | the message's row, where it changed |
//! | `s` channel, state, shelf, id | nothing: the message's row changed, and this is its state now |
//! | `e` shelf, id, segment, offset | nothing: an attempt or a command stands there |
//! | `u` channel, sequence | id: waits for the transformer |
//! | `l` channel, destination, sequence | id, number of the delivery: waits in the lane |
//! | `o` channel, destination, id, number | nothing: waits in the lane, but not in order of arrival: it was sent to its end |
//! | `h` channel, destination, sequence | id, number of the delivery: a dead letter that holds up others |
//! | `n` channel, state | how many messages |
//! | `w` channel, destination | how many deliveries wait |
//! | `x` | the checkpoint: sorts last, and is written last |
//! | `b` | the checkpoint that is about to be written: written first |

use super::MessageState;
use super::record::Place;
use crate::message::MessageId;

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

    fn number(self, number: u64) -> Key {
        self.bytes(&number.to_be_bytes())
    }

    fn id(self, id: MessageId) -> Key {
        self.bytes(&id.to_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Key {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// The rows of a shelf that changed.
pub(super) fn messages(shelf: u64) -> Vec<u8> {
    Key::new(b'm').number(shelf).0
}

pub(super) fn message(shelf: u64, id: MessageId) -> Vec<u8> {
    Key(messages(shelf)).id(id).0
}

/// The events of a shelf's messages.
pub(super) fn shelf_events(shelf: u64) -> Vec<u8> {
    Key::new(b'e').number(shelf).0
}

pub(super) fn events(shelf: u64, id: MessageId) -> Vec<u8> {
    Key(shelf_events(shelf)).id(id).0
}

pub(super) fn event(shelf: u64, id: MessageId, place: Place) -> Vec<u8> {
    Key(events(shelf, id)).number(place.segment).number(place.offset).0
}

/// The changed rows of a shelf that are in a state.
pub(super) fn states(channel: &str, state: MessageState, shelf: u64) -> Vec<u8> {
    Key::new(b's').name(channel).name(state.as_str()).number(shelf).0
}

pub(super) fn state(channel: &str, state: MessageState, shelf: u64, id: MessageId) -> Vec<u8> {
    Key(states(channel, state, shelf)).id(id).0
}

pub(super) fn untransformed(channel: &str) -> Vec<u8> {
    Key::new(b'u').name(channel).0
}

pub(super) fn lane(channel: &str, destination: &str) -> Vec<u8> {
    Key::new(b'l').name(channel).name(destination).0
}

pub(super) fn retried(channel: &str, destination: &str) -> Vec<u8> {
    Key::new(b'o').name(channel).name(destination).0
}

pub(super) fn holding(channel: &str, destination: &str) -> Vec<u8> {
    Key::new(b'h').name(channel).name(destination).0
}

pub(super) fn count(channel: &str, state: MessageState) -> Vec<u8> {
    Key::new(b'n').name(channel).name(state.as_str()).0
}

pub(super) fn waiting(channel: &str, destination: &str) -> Vec<u8> {
    Key::new(b'w').name(channel).name(destination).0
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

/// The place at the end of a key.
pub(super) fn place(bytes: &[u8]) -> Option<Place> {
    let (rest, offset) = bytes.split_last_chunk::<8>()?;
    Some(Place { segment: number(rest)?, offset: u64::from_be_bytes(*offset) })
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

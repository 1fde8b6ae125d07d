//! MLLP framing without I/O: bytes in, events out.
//!
//! A frame is `0B` content `1C 0D` (MLLP, HL7 v2 transport specification), or what a [`Framing`] puts in the place of these bytes.
//! Design constraints:
//! - Memory is bounded: what is kept of an unfinished frame never exceeds the cap, give or take one read; what lies outside of
//!   frames is not kept at all.
//! - Every byte is looked at once, also when they come one by one.
//! - How the stream is cut into reads changes nothing: the same bytes give the same frames.
//!
//! `1C 0D` ends a frame. A `1C` before anything else is content: four of the eight receivers that we probed, and Mirth, read it
//! so, and a message that is cut at a stray `1C` must not pass for a whole one. For the same reason silence never ends a frame.
//! Only what comes next can prove that a frame was over although its `0D` is missing (or is `0A`): the `0B` of the next frame,
//! or the end of the connection. A `0B` anywhere else within a frame is a sender that began anew: the first part is given up.

use std::fmt;

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

mod framing;
mod protocol;

pub use framing::{ACK, Framing, NAK};
pub use protocol::Protocol;

/// Starts a frame of MLLP.
pub const START: u8 = 0x0b;
/// Ends a frame of MLLP, together with a carriage return.
pub const END: u8 = 0x1c;
const CR: u8 = b'\r';
const LF: u8 = b'\n';

/// At most so much is taken from a peer in one read.
const READ_BYTES: usize = 64 << 10;
/// So many bytes outside of frames, white space aside, and the peer does not speak MLLP.
pub const MAX_JUNK_BYTES: usize = 4 << 10;
/// So much white space between two frames is tolerated; more is junk.
pub const MAX_BLANK_BYTES: usize = 1 << 10;
/// So much of a frame that is too large is handed out: enough for the header that an acknowledgement needs.
pub const HEAD_BYTES: usize = 4 << 10;

/// What a stream of bytes turned out to hold.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole frame's content; never empty.
    Frame(Bytes),
    /// A frame without content.
    Empty,
    /// So many bytes lay outside of frames. White space there (`0D 0A 00 20`) is not worth an event.
    Junk(usize),
    /// A frame began within an unfinished one, of which so many bytes were given up.
    Restarted(usize),
    /// A frame is larger than the cap. Nothing after this is read.
    TooLarge {
        /// Its first bytes.
        head: Bytes,
    },
    /// So many more bytes outside of frames, and with them more than [`MAX_JUNK_BYTES`]. Nothing after this is read.
    TooMuchJunk(usize),
    /// The connection began with another protocol. Nothing after this is read.
    WrongProtocol(Protocol),
    /// The connection ended within a frame, of which so many bytes had come.
    Incomplete(usize),
}

/// Prints no content.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Frame(content) => write!(f, "Frame({} bytes)", content.len()),
            Event::Empty => f.write_str("Empty"),
            Event::Junk(count) => write!(f, "Junk({count})"),
            Event::Restarted(count) => write!(f, "Restarted({count})"),
            Event::TooLarge { head } => write!(f, "TooLarge({} bytes of it)", head.len()),
            Event::TooMuchJunk(count) => write!(f, "TooMuchJunk({count})"),
            Event::WrongProtocol(protocol) => write!(f, "WrongProtocol({protocol})"),
            Event::Incomplete(count) => write!(f, "Incomplete({count})"),
        }
    }
}

/// Content that cannot be framed, because its receiver would find the frame's end or a new start within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the message is {byte:#04x}, which MLLP keeps for itself")]
pub struct Unframeable {
    /// Where, from 0.
    pub at: usize,
    /// Which byte.
    pub byte: u8,
}

/// Frames content as MLLP does, ready for one write.
///
/// # Errors
/// [`Unframeable`] at every `0B` and `1C`.
pub fn encode(content: &[u8]) -> Result<Bytes, Unframeable> {
    Framing::default().encode(content)
}

/// Takes content out of its frame again, without a copy: the inverse of [`encode`].
pub fn content_of(frame: &Bytes) -> Bytes {
    frame.slice(1..frame.len() - 2)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space so far: it may still be another protocol.
    Opening,
    /// Between frames.
    Gap,
    /// After a start byte, which is no longer in the buffer.
    Frame,
    /// Given up.
    Over,
}

/// Finds frames in a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    state: State,
    /// So many bytes of an unfinished frame were looked at and are content.
    scanned: usize,
    /// Bytes in the present gap that are not white space.
    junk: usize,
    /// White space in the present gap.
    blank: usize,
    max_frame_bytes: usize,
    framing: Framing,
}

/// What a frame's bytes say about its end.
enum Found {
    /// Content up to here; the frame's bytes end there.
    End { content: usize, frame: usize },
    /// A start byte within the frame.
    Start(usize),
    /// More bytes are needed; so many are content for certain.
    Unfinished(usize),
}

impl Decoder {
    /// A decoder for one connection, for frames with at most so much content.
    pub fn new(max_frame_bytes: usize) -> Decoder {
        Decoder::framed(max_frame_bytes, Framing::default())
    }

    /// The same for frames that other bytes make.
    pub fn framed(max_frame_bytes: usize, framing: Framing) -> Decoder {
        let buffer = BytesMut::new();
        Decoder { buffer, state: State::Opening, scanned: 0, junk: 0, blank: 0, max_frame_bytes, framing }
    }

    /// Room for the next read.
    pub fn space(&mut self) -> Limit<&mut BytesMut> {
        /// Smaller room than this is not worth a read.
        const MIN_BYTES: usize = 4 << 10;
        if self.buffer.capacity() - self.buffer.len() < MIN_BYTES {
            // Doubling until the end would take up to four times the cap: what is there is copied, and room is taken for more than
            // can come. So it is grown once to all that an unfinished frame can need; what is not written to costs no memory.
            let most = self.max_frame_bytes.saturating_add(READ_BYTES);
            if self.buffer.capacity() >= most / 16 && self.buffer.len() + MIN_BYTES <= most {
                let mut room = BytesMut::with_capacity(most);
                room.extend_from_slice(&self.buffer);
                self.buffer = room;
            } else {
                self.buffer.reserve(2 * MIN_BYTES);
            }
        }
        (&mut self.buffer).limit(READ_BYTES)
    }

    /// Takes bytes in that were read elsewhere.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event in the bytes so far; none when more bytes are needed.
    pub fn next_event(&mut self) -> Option<Event> {
        if self.state == State::Opening
            && let Some(event) = self.opening()
        {
            return Some(event);
        }
        match self.state {
            State::Opening => None,
            State::Gap => self.gap().or_else(|| if self.state == State::Frame { self.frame() } else { None }),
            State::Frame => self.frame(),
            State::Over => {
                self.buffer.clear();
                None
            }
        }
    }

    /// The connection has ended: the last event, if what is left is worth one. Call it once [`next_event`](Self::next_event)
    /// gives nothing more.
    pub fn finish(&mut self) -> Option<Event> {
        let rest = self.buffer.split().freeze();
        let state = std::mem::replace(&mut self.state, State::Over);
        match state {
            State::Frame => {
                let Some(content) = self.up_to_end(&rest) else { return Some(Event::Incomplete(rest.len())) };
                Some(if content == 0 { Event::Empty } else { Event::Frame(rest.slice(..content)) })
            }
            State::Opening if !rest.is_empty() => Some(Event::Junk(rest.len())),
            State::Opening | State::Gap | State::Over => None,
        }
    }

    /// Whether a frame has begun and has not ended.
    pub fn in_frame(&self) -> bool {
        self.state == State::Frame
    }

    /// Whether an unfinished frame has come to an end byte, so that only the carriage return is missing.
    pub fn awaits_return(&self) -> bool {
        self.in_frame() && self.up_to_end(&self.buffer).is_some()
    }

    /// The length of the content where nothing but the last byte of a frame is missing, or is a line feed.
    fn up_to_end(&self, frame: &[u8]) -> Option<usize> {
        match frame {
            [content @ .., end, LF] | [content @ .., end] if *end == self.framing.end => Some(content.len()),
            _ => None,
        }
    }

    /// The bytes held of what is unfinished.
    pub fn held_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Skips white space before the first frame, and looks whether the peer speaks another protocol.
    fn opening(&mut self) -> Option<Event> {
        let tolerated = MAX_BLANK_BYTES - self.blank;
        let blank = self.buffer.iter().take(tolerated).take_while(|byte| is_blank(**byte)).count();
        self.blank += blank;
        self.buffer.advance(blank);
        let guess = match self.buffer.first() {
            Some(first) if *first == self.framing.start => protocol::Guess::None,
            _ => protocol::recognize(&self.buffer),
        };
        match guess {
            protocol::Guess::Is(protocol) => {
                self.give_up();
                return Some(Event::WrongProtocol(protocol));
            }
            protocol::Guess::MayBe => {}
            protocol::Guess::None => self.state = State::Gap,
        }
        None
    }

    /// Skips to the next start byte.
    fn gap(&mut self) -> Option<Event> {
        let start = memchr::memchr(self.framing.start, &self.buffer);
        let end = start.unwrap_or(self.buffer.len());
        let blank = self.buffer[..end].iter().filter(|byte| is_blank(**byte)).count();
        let tolerated = blank.min(MAX_BLANK_BYTES - self.blank);
        let junk = (end - tolerated).min(MAX_JUNK_BYTES + 1 - self.junk);
        self.blank += tolerated;
        self.junk += junk;
        self.buffer.advance(end);
        if self.junk > MAX_JUNK_BYTES {
            self.give_up();
            return Some(Event::TooMuchJunk(junk));
        }
        if start.is_some() {
            self.buffer.advance(1);
            self.begin_frame();
        }
        (junk > 0).then_some(Event::Junk(junk))
    }

    fn begin_frame(&mut self) {
        (self.state, self.scanned, self.junk, self.blank) = (State::Frame, 0, 0, 0);
    }

    /// Looks for the end of the frame.
    fn frame(&mut self) -> Option<Event> {
        let found = find_end(&self.buffer, self.scanned, self.framing);
        let content = match found {
            Found::End { content, .. } | Found::Start(content) | Found::Unfinished(content) => content,
        };
        if content > self.max_frame_bytes {
            let head = self.buffer.split_to(HEAD_BYTES.min(self.max_frame_bytes));
            let head = Bytes::copy_from_slice(&head);
            self.give_up();
            return Some(Event::TooLarge { head });
        }
        match found {
            Found::Unfinished(content) => {
                self.scanned = content;
                None
            }
            Found::Start(given_up) => {
                self.buffer.advance(given_up + 1);
                self.begin_frame();
                Some(Event::Restarted(given_up))
            }
            Found::End { content, frame } => {
                let mut bytes = self.buffer.split_to(frame);
                bytes.truncate(content);
                self.state = State::Gap;
                Some(if content == 0 { Event::Empty } else { Event::Frame(bytes.freeze()) })
            }
        }
    }

    fn give_up(&mut self) {
        self.state = State::Over;
        self.buffer = BytesMut::new();
    }
}

/// Looks for a frame's end in its bytes, of which those before `from` are known to be content.
fn find_end(bytes: &[u8], mut from: usize, framing: Framing) -> Found {
    let Framing { start, end, after } = framing;
    while let Some(offset) = memchr::memchr2(start, end, &bytes[from..]) {
        let at = from + offset;
        if bytes[at] == start {
            return Found::Start(at);
        }
        let Some(after) = after else { return Found::End { content: at, frame: at + 1 } };
        match &bytes[at + 1..] {
            [next, ..] if *next == after => return Found::End { content: at, frame: at + 2 },
            [next, ..] if *next == start => return Found::End { content: at, frame: at + 1 },
            [LF, next, ..] if *next == start => return Found::End { content: at, frame: at + 2 },
            [] | [LF] => return Found::Unfinished(at),
            _ => from = at + 1,
        }
    }
    Found::Unfinished(bytes.len())
}

/// White space that peers leave between frames.
pub fn is_blank(byte: u8) -> bool {
    matches!(byte, CR | LF | 0 | b' ')
}

#[cfg(test)]
mod tests;

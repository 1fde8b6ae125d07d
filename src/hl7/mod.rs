//! HL7 v2 in its ER7 form (`|^~\&`), byte for byte.
//!
//! Constraints: no I/O, no clock, no async, nothing of the rest of the house. Nothing panics on any input. Nothing is
//! dropped: blank lines, malformed and local (Z) segments, odd terminators stay where they stood, and a message that
//! nobody edited is the very `Bytes` that came in. Errors and `Debug` name places, never content.
//!
//! | file | what |
//! |---|---|
//! | `message`, `segment`, `index`, `walk` | the message: the original bytes and a flat index of separators |
//! | `edit`, `insert`, `transcode` | changes; each changed segment owns its bytes, the others stay verbatim |
//! | `wire` | messages in character sets in which a separator's byte may be half of another character |
//! | `path` | `PID-3[2].4.1` |
//! | `separators`, `escape`, `charset`, `limits` | MSH-1/2, `\F\`, MSH-18, bounds |
//! | `header`, `mode`, `ack`, `reply`, `relay` | MSH alone, who wants which acknowledgement, writing, reading and passing one on |
//! | `batch` | FHS/BHS/BTS/FTS and several messages in one piece |

mod ack;
pub mod batch;
mod charset;
mod edit;
mod error;
mod escape;
mod header;
mod index;
mod insert;
mod limits;
mod marks;
mod message;
mod mode;
mod path;
mod relay;
mod reply;
mod segment;
mod separators;
mod transcode;
mod walk;
mod wire;

#[cfg(test)]
mod peers;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod samples;

pub use ack::{Ack, AckCode};
pub use charset::{Charset, CharsetError};
pub use error::{EditError, ParseError};
pub use escape::{escape, escape_exact, unescape};
pub use header::Header;
pub use insert::Place;
pub use limits::Limits;
pub use message::Message;
pub use mode::{Condition, Mode};
pub use path::{Path, PathError};
pub use relay::Relayed;
pub use reply::{AckReply, ReplyCode, ReplyError};
pub use segment::SegmentRef;
pub use separators::{SeparatorError, Separators};

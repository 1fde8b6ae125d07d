//! Content as the journal has it: kept, or removed after its time.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{JournalError, Outgoing};
use crate::message::MessageId;

/// Content that the journal has, or had.
#[derive(Clone, PartialEq, Eq)]
pub enum Stored {
    /// The bytes.
    Kept(Bytes),
    /// Its time was over: what is left of it.
    Removed(Removed),
}

/// What is known of content that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// When it was removed.
    pub at: Timestamp,
    /// How many bytes it had.
    pub bytes: u64,
    /// The SHA-256 of them, as 64 hexadecimal digits; none where the content was damaged by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Stored {
    /// The bytes, where they are kept.
    pub fn kept(&self) -> Option<&Bytes> {
        match self {
            Stored::Kept(bytes) => Some(bytes),
            Stored::Removed(_) => None,
        }
    }

    /// Of a delivery's content, what people mean by it: without companions of a file.
    pub(super) fn main(self, properties: &BTreeMap<String, String>) -> Stored {
        match self {
            Stored::Kept(bytes) => Stored::Kept(main_of(&bytes, properties)),
            removed @ Stored::Removed(_) => removed,
        }
    }

    /// The bytes; [`JournalError::Removed`], with the message's id, where they are no longer there.
    pub fn into_bytes(self, id: MessageId) -> Result<Bytes, JournalError> {
        match self {
            Stored::Kept(bytes) => Ok(bytes),
            Stored::Removed(Removed { at, .. }) => Err(JournalError::Removed { id, at }),
        }
    }
}

impl From<Bytes> for Stored {
    fn from(bytes: Bytes) -> Stored {
        Stored::Kept(bytes)
    }
}

impl PartialEq<Bytes> for Stored {
    fn eq(&self, other: &Bytes) -> bool {
        self.kept() == Some(other)
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Kept(bytes) => write!(f, "{} bytes", bytes.len()),
            Stored::Removed(removed) => removed.fmt(f),
        }
    }
}

impl Outgoing {
    /// The property that says how many bytes of the content come first, where something else follows them: companions of a file.
    pub(crate) const MAIN_BYTES: &str = "main_bytes";

    /// The content without what follows it.
    pub fn main(&self) -> Bytes {
        main_of(&self.content, &self.properties)
    }
}

/// Of a delivery's content, what people mean by it.
fn main_of(content: &Bytes, properties: &std::collections::BTreeMap<String, String>) -> Bytes {
    let bytes = properties.get(Outgoing::MAIN_BYTES).and_then(|bytes| bytes.parse().ok());
    content.slice(..bytes.map_or(content.len(), |bytes: usize| bytes.min(content.len())))
}

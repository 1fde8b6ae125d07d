//! The `mllp` source, over a socket.

mod caller;
mod duplicates;
mod frames;
mod limits;
mod options;
mod python;
mod receipt;
mod release_two;

use crate::support::mllp_client::field;

/// A message with this MSH-10.
pub fn message(id: &str) -> Vec<u8> {
    format!(
        "MSH|^~\\&|SND|SF|RCV|RF|20260101120000||ADT^A01|{id}|P|2.5\rEVN|A01|20260101\rPID|1||77^^^H^MR||Doe^Jane\r"
    )
    .into_bytes()
}

/// An acknowledgement in short: `AA/p1`.
pub fn short(acknowledgement: &str) -> String {
    format!("{}/{}", field(acknowledgement, "MSA", 1), field(acknowledgement, "MSA", 2))
}

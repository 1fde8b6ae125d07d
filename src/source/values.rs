//! Values that several sources have among their options.

use serde::Deserializer;

use crate::config::{ByteSize, more_than};

pub(super) fn some_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    let help = "a size larger than nothing, as in \"16MiB\"";
    more_than(deserializer, ByteSize::from_mib(0), "no message is that small", help)
}

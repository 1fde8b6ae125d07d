//! gzip (RFC 1952) and zip (PKWARE APPNOTE 6.3.3) of one file. The same content gives the same bytes: no clock is in them.

use miniz_oxide::deflate::compress_to_vec;
use schemars::JsonSchema;
use serde::Deserialize;

/// How hard to try, of 10.
const LEVEL: u8 = 6;
/// 1980-01-01, the first day of zip.
const NO_DATE: u16 = 0x0021;
/// Deflate, in zip's words.
const DEFLATE: u16 = 8;
/// Names are UTF-8.
const UTF_8: u16 = 1 << 11;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compress {
    /// One file without a name of its own.
    Gzip,
    /// An archive with one file in it, whose name is that of the archive without `.zip`.
    Zip,
}

impl Compress {
    /// Packs `content`, which is to be put in place as `file_name`. None where the format has no room for so much.
    pub(crate) fn pack(self, file_name: &str, content: &[u8]) -> Option<Vec<u8>> {
        match self {
            Compress::Gzip => Some(gzip(content)),
            Compress::Zip => zip(file_name.strip_suffix(".zip").unwrap_or(file_name), content),
        }
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    // No name, no time, an unknown system.
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    packed.extend(compress_to_vec(content, LEVEL));
    packed.extend(crc32fast::hash(content).to_le_bytes());
    // RFC 1952: the size modulo 2^32.
    packed.extend((content.len() as u64 as u32).to_le_bytes());
    packed
}

fn zip(name: &str, content: &[u8]) -> Option<Vec<u8>> {
    let deflated = compress_to_vec(content, LEVEL);
    let name_bytes = u16::try_from(name.len()).ok()?;
    let mut about = Vec::new();
    for word in [20, UTF_8, DEFLATE, 0, NO_DATE] {
        about.extend(u16::to_le_bytes(word));
    }
    for long in [crc32fast::hash(content), u32::try_from(deflated.len()).ok()?, u32::try_from(content.len()).ok()?] {
        about.extend(long.to_le_bytes());
    }
    about.extend(name_bytes.to_le_bytes());
    about.extend([0, 0]);

    let mut packed = b"PK\x03\x04".to_vec();
    packed.extend(&about);
    packed.extend(name.as_bytes());
    packed.extend(deflated);
    let directory_at = u32::try_from(packed.len()).ok()?;
    packed.extend(b"PK\x01\x02\x14\x00");
    packed.extend(&about);
    // No comment, disk 0, binary, no attributes, at the very beginning.
    packed.extend([0; 14]);
    packed.extend(name.as_bytes());
    let directory_bytes = u32::try_from(packed.len()).ok()? - directory_at;
    packed.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    packed.extend(directory_bytes.to_le_bytes());
    packed.extend(directory_at.to_le_bytes());
    packed.extend([0, 0]);
    Some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_packed_alike() {
        for how in [Compress::Gzip, Compress::Zip] {
            assert_eq!(how.pack("a.zip", b"MSH|"), how.pack("a.zip", b"MSH|"));
            assert!(how.pack("a.zip", &[b'x'; 100_000]).expect("packed").len() < 1_000);
        }
        let name = "n".repeat(70_000);
        assert_eq!(Compress::Zip.pack(&name, b""), None);
    }
}

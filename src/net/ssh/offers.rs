//! Finds out why a server and Labwire do not come together: asks the server what it offers.
//!
//! libssh2 tells only that nothing was common. What a server offers it says in plain text, in the first packet of a connection
//! (RFC 4253, 7.1), so that one more connection is enough.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::algorithms::{LegacyAlgorithm, Offer, Part};

/// A server may write some lines before its version; so many bytes are read at most.
const GREETING_BYTES: usize = 16_384;
/// A packet holds no more (RFC 4253, 6.1).
const PACKET_BYTES: usize = 35_000;
/// The number of the message that holds the lists.
const KEXINIT: u8 = 20;

/// The lists of a server, in the order of [`Part::ALL`].
pub(super) type Lists = [Vec<String>; 4];

/// Asks the server at the other end of a new connection.
pub(super) fn ask(mut stream: &TcpStream) -> io::Result<Lists> {
    stream.write_all(b"SSH-2.0-Labwire\r\n")?;
    let mut seen = 0;
    loop {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            seen += 1;
            if seen > GREETING_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        if line.starts_with(b"SSH-") {
            break;
        }
    }
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let padding = usize::from(head[4]);
    let payload = length.checked_sub(padding + 1).filter(|_| length <= PACKET_BYTES);
    let mut packet = vec![0; payload.ok_or(io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut packet)?;
    lists(&packet).ok_or(io::ErrorKind::InvalidData.into())
}

/// Message number, 16 random bytes, then ten lists of names: of these the ones that go from us to the server, and those for both ways.
fn lists(packet: &[u8]) -> Option<Lists> {
    let mut rest = packet.strip_prefix(&[KEXINIT])?.get(16..)?;
    let mut list = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (names, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = after;
        let names = std::str::from_utf8(names).ok()?;
        // It goes into an error: nothing but what a name may be (RFC 4250, 4.6.1), and no more of it than people can read.
        let is_name = |name: &&str| !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_graphic());
        Some(
            names
                .split(',')
                .filter(is_name)
                .filter(|name| !name.starts_with("kex-strict"))
                .take(40)
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    };
    let (key_exchange, host_key, cipher) = (list()?, list()?, list()?);
    list()?;
    Some([key_exchange, host_key, cipher, list()?])
}

/// What keeps the two apart, in words; none when nothing does.
pub(super) fn apart(ours: &Offer, theirs: &Lists, legacy: &[LegacyAlgorithm]) -> Option<String> {
    let mut parts = Vec::new();
    let mut line: Vec<LegacyAlgorithm> = legacy.to_vec();
    let mut is_hopeless = false;
    for (part, theirs) in Part::ALL.into_iter().zip(theirs) {
        let mine = ours.list(part);
        if theirs.iter().any(|name| mine.contains(&name.as_str())) {
            continue;
        }
        let old = LegacyAlgorithm::ALL
            .into_iter()
            .find(|old| old.part() == part && theirs.iter().any(|name| name == old.name()));
        is_hopeless |= old.is_none();
        line.extend(old);
        let (theirs, mine) = (theirs.join(", "), mine.join(", "));
        parts.push(format!("no common {}: it offers {theirs}; Labwire offers {mine}", part.name()));
    }
    let line: Vec<_> = line.iter().map(|old| format!("\"{}\"", old.name())).collect();
    let advice = if is_hopeless {
        "Labwire knows none of these; the partner must update the server".to_owned()
    } else {
        let line = line.join(", ");
        format!("ask the partner for a newer server, or add to this table: legacy_algorithms = [{line}]")
    };
    (!parts.is_empty()).then(|| format!("{}; {advice}", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(lists: [&str; 5]) -> Vec<u8> {
        let mut packet = vec![KEXINIT];
        packet.extend([7; 16]);
        for list in lists {
            packet.extend(u32::try_from(list.len()).expect("short").to_be_bytes());
            packet.extend(list.as_bytes());
        }
        packet
    }

    #[test]
    fn the_lists_are_read_as_far_as_they_are_names() {
        let read = lists(&packet(["a,b", "c", "d", "e", "f,\x1b[31m,g"])).expect("lists");
        assert_eq!(
            read,
            [vec!["a", "b"], vec!["c"], vec!["d"], vec!["f", "g"]]
                .map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>())
        );
        let whole = packet(["a", "b", "c", "d", "e"]);
        for cut in 0..whole.len() {
            assert_eq!(lists(&whole[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn what_to_add_is_said_unless_nothing_helps() {
        let ours = Offer::of(&ssh2::Session::new().expect("a session"), &[LegacyAlgorithm::SshRsa]);
        let theirs = |lists: [&str; 4]| lists.map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>());
        let old =
            theirs(["diffie-hellman-group1-sha1,diffie-hellman-group14-sha1", "ssh-rsa", "aes128-ctr", "hmac-sha1"]);
        let said = apart(&ours, &old, &[LegacyAlgorithm::SshRsa]).expect("apart");
        let line = "legacy_algorithms = [\"ssh-rsa\", \"diffie-hellman-group14-sha1\", \"hmac-sha1\"]";
        assert!(said.ends_with(line), "{said}");
        let alien = theirs(["diffie-hellman-group14-sha1", "ssh-dss", "aes128-ctr", "hmac-sha2-256"]);
        let said = apart(&ours, &alien, &[]).expect("apart");
        assert!(said.contains("it offers ssh-dss; Labwire offers") && !said.contains("legacy_algorithms"), "{said}");
        assert_eq!(apart(&ours, &theirs(["curve25519-sha256", "ssh-rsa", "aes128-ctr", "hmac-sha2-256"]), &[]), None);
    }
}

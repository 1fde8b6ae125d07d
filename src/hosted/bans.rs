//! Addresses from which too many logins were refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many addresses are remembered; where there are more, the one that failed longest ago is forgotten.
const REMEMBERED: usize = 10_000;

/// Who failed how often.
#[derive(Debug)]
pub(super) struct Bans {
    failures: u32,
    ban: Duration,
    known: Mutex<HashMap<IpAddr, Record>>,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    failures: u32,
    first: Instant,
    last: Instant,
}

impl Bans {
    /// Bans an address for `ban` after so many refused logins within the same time; 0: never.
    pub(super) fn new(failures: u32, ban: Duration) -> Bans {
        Bans { failures, ban, known: Mutex::default() }
    }

    /// A login from there was refused.
    pub(super) fn failed(&self, address: IpAddr) {
        if self.failures == 0 {
            return;
        }
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let address = who(address);
        if known.len() >= REMEMBERED
            && !known.contains_key(&address)
            && let Some(oldest) = known.iter().min_by_key(|(_, record)| record.last).map(|(address, _)| *address)
        {
            known.remove(&oldest);
        }
        let record = known.entry(address).or_insert(Record { failures: 0, first: now, last: now });
        if now.duration_since(record.first) > self.ban {
            *record = Record { failures: 0, first: now, last: now };
        }
        (record.failures, record.last) = (record.failures + 1, now);
        if record.failures == self.failures {
            let seconds = self.ban.as_secs();
            tracing::warn!(%address, seconds, "hosted SFTP: too many refused logins, the address is banned");
        }
    }

    /// Whether nobody from there is let in for now.
    pub(super) fn bans(&self, address: IpAddr) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.failures > 0
            && known
                .get(&who(address))
                .is_some_and(|record| record.failures >= self.failures && record.last.elapsed() < self.ban)
    }
}

/// An IPv6 peer has a whole network (RFC 6177: at least a /64) to choose addresses from.
fn who(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_banned_for_a_while_and_no_other_is() {
        let bans = Bans::new(2, Duration::from_millis(50));
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        bans.failed(address("10.0.0.1"));
        assert!(!bans.bans(address("10.0.0.1")));
        bans.failed(address("10.0.0.1"));
        assert!(bans.bans(address("10.0.0.1")) && bans.bans(address("::ffff:10.0.0.1")));
        assert!(!bans.bans(address("10.0.0.2")));
        for _ in 0..2 {
            bans.failed(address("2001:db8::1"));
        }
        assert!(bans.bans(address("2001:db8::2")) && !bans.bans(address("2001:db8:0:1::1")));
        std::thread::park_timeout(Duration::from_millis(60));
        assert!(!bans.bans(address("10.0.0.1")));
        bans.failed(address("10.0.0.1"));
        assert!(!bans.bans(address("10.0.0.1")), "what was before the ban counts no more");
    }

    #[test]
    fn without_a_number_nobody_is_banned() {
        let bans = Bans::new(0, Duration::from_secs(60));
        let address = IpAddr::from([10, 0, 0, 1]);
        (0..100).for_each(|_| bans.failed(address));
        assert!(!bans.bans(address));
    }
}

//! Networks in channel files: from where peers may connect, and what may be connected to.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config::report;

/// A network in CIDR notation (RFC 4632 §3.1, RFC 4291 §2.3), or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    fn parse(text: &str) -> Result<Network, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| format!("`{text}` is no address and no network"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let digits = |prefix: &&str| !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix_bits = match prefix {
            None => longest,
            Some(prefix) => Some(prefix)
                .filter(digits)
                .and_then(|prefix| prefix.parse().ok())
                .filter(|bits| *bits <= longest)
                .ok_or_else(|| format!("`{text}`: the number after the slash is from 0 to {longest}"))?,
        };
        let network = Network { address, prefix_bits };
        let first = network.first();
        if first == address {
            Ok(network)
        } else {
            Err(format!("`{text}` is one address in the network `{first}/{prefix_bits}`: which of the two is meant?"))
        }
    }

    /// The address with nothing after the prefix.
    fn first(&self) -> IpAddr {
        let bits = self.prefix_of(self.address).checked_shl(self.rest()).unwrap_or(0);
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(bits).unwrap_or(0).into()),
            IpAddr::V6(_) => IpAddr::V6(bits.into()),
        }
    }

    /// How many bits do not matter.
    fn rest(&self) -> u32 {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        longest - u32::from(self.prefix_bits)
    }

    fn prefix_of(&self, address: IpAddr) -> u128 {
        let bits = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        bits.checked_shr(self.rest()).unwrap_or(0)
    }

    fn holds(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && self.prefix_of(address) == self.prefix_of(self.address)
    }
}

/// Networks that are allowed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Whether this address is in one of them. An IPv4 peer on an IPv6 socket counts as what it is.
    pub fn hold(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.holds(peer))
    }
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|network| format!("{}/{}", network.address, network.prefix_bits)))
            .finish()
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Networks, D::Error> {
        const HELP: &str = "addresses and networks, as in `[\"10.20.0.0/16\", \"192.168.3.7\", \"2001:db8::/32\"]`";
        let items = Spanned::<Vec<Spanned<String>>>::deserialize(deserializer)?;
        if items.get_ref().is_empty() {
            report(items.span(), "no address is in this list", "", Some("leave the key out".to_owned()));
        }
        let networks = items.into_inner().into_iter().filter_map(|item| match Network::parse(item.get_ref()) {
            Ok(network) => Some(network),
            Err(problem) => {
                report(item.span(), problem, "", Some(HELP.to_owned()));
                None
            }
        });
        Ok(Networks(networks.collect()))
    }
}

impl JsonSchema for Networks {
    fn schema_name() -> Cow<'static, str> {
        "Networks".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": { "type": "string" },
            "description": "Addresses and networks: [\"10.20.0.0/16\", \"192.168.3.7\"].",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_which_network() {
        for (network, inside, outside) in [
            ("10.20.0.0/16", "10.20.255.1", "10.21.0.1"),
            ("192.168.3.7", "192.168.3.7", "192.168.3.8"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("2001:db8::/32", "2001:db8:1::9", "2001:db9::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("::1", "::1", "::2"),
        ] {
            let networks = Networks(vec![Network::parse(network).expect("a network")]);
            assert!(networks.hold(inside.parse().expect("an address")), "{inside} in {network}");
            assert!(!networks.hold(outside.parse().expect("an address")), "{outside} in {network}");
        }
    }

    #[test]
    fn what_is_no_network() {
        for text in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "lab.example", "10.0.0.0/8/8"] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
        let problem = Network::parse("10.20.3.4/16").expect_err("host bits are set");
        assert!(problem.contains("`10.20.0.0/16`"), "{problem}");
        assert!(Network::parse("::1/0").is_err());
    }
}

//! Several addresses of one peer, in order of preference.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config::{HostPort, report};

/// A failed address is left alone for at most so many times as long as the channel file says, however often it failed.
const MOST_PAUSES: u32 = 8;

/// Where to send: an address, or a list of them, the preferred one first.
#[derive(Debug, Clone)]
pub(super) struct Addresses(Vec<HostPort>);

impl Addresses {
    pub(super) fn all(&self) -> &[HostPort] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Addresses, D::Error> {
        enum Read {
            One(String),
            Several(Vec<HostPort>),
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Read;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a list of them")
            }

            fn visit_str<E>(self, text: &str) -> Result<Read, E> {
                Ok(Read::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Read, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(Read::Several)
            }
        }
        impl<'de> Deserialize<'de> for Read {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
                deserializer.deserialize_any(Either)
            }
        }
        let read = Spanned::<Read>::deserialize(deserializer)?;
        let span = read.span();
        Ok(Addresses(match read.into_inner() {
            Read::One(text) => match HostPort::parse(&text) {
                Ok(address) => vec![address],
                Err(help) => {
                    let message = format!("`{text}` is not an address to connect to");
                    report(span, message, "", Some(help.to_owned()));
                    Vec::new()
                }
            },
            Read::Several(addresses) => {
                let twice = (1..addresses.len()).find(|at| addresses[..*at].contains(&addresses[*at]));
                if addresses.is_empty() {
                    report(span, "no address is in this list", "", None);
                } else if let Some(at) = twice {
                    report(span, format!("`{}` is in this list twice", addresses[at]), "", None);
                }
                addresses
            }
        }))
    }
}

impl JsonSchema for Addresses {
    fn schema_name() -> Cow<'static, str> {
        "Addresses".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let address = HostPort::json_schema(generator);
        json_schema!({ "anyOf": [address, { "type": "array", "items": address }] })
    }
}

/// Which addresses failed, and until when they are left alone. Pure: the caller says what time it is.
#[derive(Debug)]
pub(super) struct Failover {
    pause: Duration,
    failed: Vec<Option<Failed>>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    in_a_row: u32,
    until: Instant,
}

impl Failover {
    pub(super) fn new(addresses: usize, pause: Duration) -> Failover {
        Failover { pause, failed: vec![None; addresses] }
    }

    /// The addresses to try, one after the other: first those that are not left alone, then the others, because something must
    /// be tried.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let is_away = |at: &usize| self.failed[*at].is_some_and(|failed| failed.until > now);
        let (away, there): (Vec<usize>, Vec<usize>) = (0..self.failed.len()).partition(is_away);
        [there, away].concat()
    }

    /// Those before this one that may be well again, in order.
    pub(super) fn better_than(&self, at: usize, now: Instant) -> Vec<usize> {
        (0..at).filter(|better| self.failed[*better].is_none_or(|failed| failed.until <= now)).collect()
    }

    pub(super) fn failed(&mut self, at: usize, now: Instant) {
        let in_a_row = self.failed[at].map_or(1, |failed| failed.in_a_row.saturating_add(1));
        let pauses = 1u32.checked_shl(in_a_row - 1).unwrap_or(MOST_PAUSES).min(MOST_PAUSES);
        self.failed[at] = Some(Failed { in_a_row, until: now + self.pause * pauses });
    }

    pub(super) fn is_well(&mut self, at: usize) {
        self.failed[at] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_address_is_left_alone_for_a_while_and_longer_each_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut failover = Failover::new(3, second);
        assert_eq!(failover.order(start), [0, 1, 2]);
        failover.failed(0, start);
        assert_eq!(failover.order(start), [1, 2, 0]);
        assert_eq!((failover.better_than(1, start), failover.better_than(1, start + second)), (vec![], vec![0]));
        failover.failed(1, start);
        assert_eq!(failover.order(start), [2, 0, 1]);
        assert_eq!(failover.better_than(2, start + second), [0, 1]);
        let again = start + second;
        failover.failed(0, again);
        assert_eq!(failover.order(again + second), [1, 2, 0], "two seconds now");
        assert_eq!(failover.order(again + 2 * second), [0, 1, 2]);
        (0..50).for_each(|_| failover.failed(0, again));
        assert_eq!(failover.order(again + 8 * second), [0, 1, 2], "never longer than eight");
        failover.failed(0, again);
        failover.is_well(0);
        assert_eq!(failover.order(again), [0, 1, 2]);
        failover.failed(0, again);
        assert_eq!(failover.order(again + second), [0, 1, 2], "it begins anew");
    }
}

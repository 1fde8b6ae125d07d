//! Values with rules of their own: durations, sizes, addresses.

use std::borrow::Cow;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

use super::report;

/// A length of time, written `"250ms"`, `"5s"`, `"10m"`, `"72h"` or `"30d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(std::time::Duration);

impl Duration {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Duration {
        Duration(std::time::Duration::from_millis(millis))
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Duration {
        Duration(std::time::Duration::from_secs(secs))
    }

    /// The length of time.
    pub fn get(self) -> std::time::Duration {
        self.0
    }

    pub(crate) fn parse(text: &str) -> Option<Duration> {
        let (number, unit) = split_number(text)?;
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(millis).map(Duration::from_millis)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (count, unit) = match millis {
            0 => (0, "s"),
            _ if millis.is_multiple_of(3_600_000) => (millis / 3_600_000, "h"),
            _ if millis.is_multiple_of(60_000) => (millis / 60_000, "m"),
            _ if millis.is_multiple_of(1_000) => (millis / 1_000, "s"),
            _ => (millis, "ms"),
        };
        write!(f, "{count}{unit}")
    }
}

/// A number of bytes, written `"512KiB"`, `"16MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many mebibytes.
    pub const fn from_mib(mib: u64) -> ByteSize {
        ByteSize(mib << 20)
    }

    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// The number of bytes.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    pub(crate) fn parse(text: &str) -> Option<ByteSize> {
        let (number, unit) = split_number(text)?;
        let factor: u64 = match unit {
            "B" => 1,
            "kB" => 1_000,
            "KiB" => 1 << 10,
            "MB" => 1_000_000,
            "MiB" => 1 << 20,
            "GB" => 1_000_000_000,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(factor).map(ByteSize)
    }
}

/// How often something may happen, written `"50/s"`, `"10/m"` or `"100/h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    period: Duration,
}

impl Rate {
    /// The time from one to the next.
    pub fn interval(self) -> std::time::Duration {
        self.period.get() / self.count
    }

    fn parse(text: &str) -> Option<Rate> {
        let (count, unit) = text.split_once('/')?;
        let period = Duration::from_secs(match unit.trim() {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            _ => return None,
        });
        count.trim().parse().ok().filter(|count| *count > 0).map(|count| Rate { count, period })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period.get().as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
        let (shift, unit) = units.into_iter().find(|(shift, _)| self.0.trailing_zeros() >= *shift).unwrap_or((0, "B"));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

/// Where to connect: `host:port`; the name is looked up at every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`; the error is help.
    pub(crate) fn parse(text: &str) -> Result<HostPort, &'static str> {
        let (host, port) = text.rsplit_once(':').ok_or("write host and port, as in \"mirth.example:6661\"")?;
        if host.is_empty() || host.contains(['/', ' ', '@']) || (host.contains(':') && !host.starts_with('[')) {
            return Err("write host and port, as in \"mirth.example:6661\" or \"[::1]:6661\"");
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or("a port is a number from 1 to 65535")?;
        Ok(HostPort { host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where to listen: `"0.0.0.0:2575"`; port 0 picks a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl Listen {
    fn parse(text: &str) -> Result<Listen, &'static str> {
        if let Ok(address) = text.parse() {
            return Ok(Listen(address));
        }
        let help =
            "write an address of this machine and a port, as in \"0.0.0.0:2575\" (every address) or \"127.0.0.1:2575\"";
        match text.strip_prefix("localhost:") {
            Some(_) => text.to_socket_addrs().ok().and_then(|mut found| found.next()).map(Listen).ok_or(help),
            None => Err(help),
        }
    }
}

/// Reads a string by `parse`; a mistake is reported at its place and the stand-in taken.
pub(crate) fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    stand_in: T,
    parse: impl FnOnce(&str) -> Result<T, (String, String)>,
) -> Result<T, D::Error> {
    let text = Spanned::<String>::deserialize(deserializer)?;
    Ok(parse(text.get_ref()).unwrap_or_else(|(message, help)| {
        report(text.span(), message, "", Some(help));
        stand_in
    }))
}

/// Reads a value that must be more than `nothing`; reports it otherwise.
pub(crate) fn more_than<'de, D: Deserializer<'de>, T: Deserialize<'de> + PartialEq + Copy>(
    deserializer: D,
    nothing: T,
    message: &str,
    help: &str,
) -> Result<T, D::Error> {
    let value = Spanned::<T>::deserialize(deserializer)?;
    if *value.get_ref() == nothing {
        report(value.span(), message, "", Some(help.to_owned()));
    }
    Ok(*value.get_ref())
}

/// Reads a time limit; one of no length is reported.
pub(crate) fn time_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let help = "a duration longer than nothing, as in \"30s\"";
    more_than(deserializer, Duration::from_millis(0), "no peer is that fast", help)
}

macro_rules! string_value {
    ($type:ident, $title:literal, $stand_in:expr, $parse:expr, $description:literal) => {
        /// As it is written, so that schemas show defaults.
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                parsed(deserializer, $stand_in, $parse)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "title": $title, "description": $description })
            }
        }
    };
}

string_value!(
    Duration,
    "duration",
    Duration::from_secs(1),
    |text| Duration::parse(text).ok_or_else(|| {
        (format!("`{text}` is not a duration"), "a whole number and ms, s, m, h or d, as in \"30s\"".to_owned())
    }),
    "A length of time: \"250ms\", \"5s\", \"10m\", \"72h\", \"30d\"."
);
string_value!(
    ByteSize,
    "size",
    ByteSize(1),
    |text| ByteSize::parse(text).ok_or_else(|| {
        (format!("`{text}` is not a size"), "a whole number and B, KiB, MiB or GiB, as in \"16MiB\"".to_owned())
    }),
    "A number of bytes: \"512KiB\", \"16MiB\"."
);
string_value!(
    Rate,
    "rate",
    Rate { count: 1, period: Duration::from_secs(1) },
    |text| Rate::parse(text).ok_or_else(|| {
        (format!("`{text}` is not a rate"), "a number and s, m or h, as in \"50/s\" or \"10/m\"".to_owned())
    }),
    "How many in which time: \"50/s\", \"10/m\", \"100/h\"."
);
string_value!(
    HostPort,
    "host:port",
    HostPort { host: "invalid".to_owned(), port: 1 },
    |text| HostPort::parse(text).map_err(|help| (format!("`{text}` is not an address to connect to"), help.to_owned())),
    "Host and port: \"mirth.example:6661\"."
);
string_value!(
    Listen,
    "address:port",
    Listen(SocketAddr::from(([127, 0, 0, 1], 0))),
    |text| Listen::parse(text).map_err(|help| (format!("`{text}` is not an address to listen on"), help.to_owned())),
    "An address of this machine and a port: \"0.0.0.0:2575\"; port 0 picks a free one."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("10m", Some(600_000)),
            ("72h", Some(259_200_000)),
            ("1d", Some(86_400_000)),
        ] {
            assert_eq!(Duration::parse(text).map(|d| d.get().as_millis()), millis, "{text}");
        }
        for text in ["", "5", "s", "5 parsecs", "-5s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_is_written() {
        for text in ["250ms", "5s", "10m", "72h"] {
            assert_eq!(Duration::parse(text).expect("valid").to_string(), text);
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("16MiB", Some(16 << 20)), ("512KiB", Some(512 << 10)), ("10B", Some(10)), ("1 GiB", Some(1 << 30))]
        {
            assert_eq!(ByteSize::parse(text).map(ByteSize::bytes), bytes, "{text}");
            assert_eq!(ByteSize::parse(text).map(|size| size.to_string()), Some(text.replace(' ', "")));
        }
        for text in ["", "16", "MiB", "16mib", "-1B", "99999999999GiB"] {
            assert_eq!(ByteSize::parse(text), None, "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, millis) in
            [("50/s", Some(20)), ("1/m", Some(60_000)), ("30 / m", Some(2_000)), ("2/h", Some(1_800_000))]
        {
            assert_eq!(Rate::parse(text).map(|rate| rate.interval().as_millis()), millis, "{text}");
            assert_eq!(Rate::parse(text).map(|rate| rate.to_string()), Some(text.replace(' ', "")));
        }
        for text in ["", "50", "/s", "0/s", "-1/s", "1/d", "1.5/s", "99999999999/s"] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_to_connect_to() {
        for (text, host, port) in
            [("a.example:1", "a.example", 1), ("127.0.0.1:65535", "127.0.0.1", 65535), ("[::1]:22", "::1", 22)]
        {
            assert_eq!(HostPort::parse(text), Ok(HostPort { host: host.into(), port }), "{text}");
            assert_eq!(HostPort::parse(text).expect("valid").to_string(), text);
        }
        for text in ["", "a", "a:", ":1", "a:0", "a:65536", "http://a:1", "::1:22", "a b:1"] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }
}

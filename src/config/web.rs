//! URLs as channel files write them, and the public internet.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use url::Url;

use super::values::{HostPort, parsed};

/// What stands before the path of a URL: scheme, host and port (RFC 6454).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin {
    /// Whether TLS is spoken.
    pub is_https: bool,
    /// Where to connect. A host that is an address in any of the spellings that URLs allow (`0x7f.1`) is that address.
    pub at: HostPort,
}

const HELP: &str = "write it as in \"https://lis.example/api/results\"";

impl WebOrigin {
    /// Reads the beginning of a URL; gives also its length in bytes, where the path begins.
    pub(crate) fn parse(text: &str) -> Result<(WebOrigin, usize), (String, String)> {
        // What could be a password is not shown.
        let shown = if text.contains('@') { "this".to_owned() } else { format!("`{text}`") };
        let wrong = |what: &str, help: &str| Err((format!("{shown} {what}"), help.to_owned()));
        let Some((scheme, rest)) = text.split_once("://") else { return wrong("is no URL", HELP) };
        let is_https = match scheme {
            "https" => true,
            "http" => false,
            _ => return wrong("begins with neither `http://` nor `https://`", HELP),
        };
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        if authority.contains('@') {
            return wrong("holds a login", "a login goes into `auth`, its password into a secret");
        }
        if authority.contains(['{', '}']) {
            return wrong("has an expression in its host", "only path and query may come from a message");
        }
        if authority.is_empty() || authority.contains(|c: char| c == '\\' || c.is_whitespace() || c.is_control()) {
            return wrong("has no host", HELP);
        }
        let length = scheme.len() + "://".len() + authority.len();
        let url = Url::parse(&text[..length]).map_err(|error| (format!("{shown} is no URL: {error}"), HELP.into()))?;
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default().filter(|port| *port != 0)) else {
            return wrong("has no host and port", HELP);
        };
        let host = match host {
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(address) => address.to_string(),
            url::Host::Ipv6(address) => address.to_string(),
        };
        Ok((WebOrigin { is_https, at: HostPort { host, port } }, length))
    }

    /// The `Host` header: the port only where it is not the usual one.
    pub fn authority(&self) -> String {
        let whole = self.at.to_string();
        let usual = if self.is_https { 443 } else { 80 };
        if self.at.port == usual { whole[..whole.len() - usual.to_string().len() - 1].to_owned() } else { whole }
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_https { "https" } else { "http" }, self.authority())
    }
}

/// A URL without expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl {
    /// Where to connect.
    pub origin: WebOrigin,
    /// Path and query; never empty.
    pub target: String,
}

impl WebUrl {
    fn parse(text: &str) -> Result<WebUrl, (String, String)> {
        let (origin, length) = WebOrigin::parse(text)?;
        let target = target(&text[length..]).map_err(|what| (format!("`{text}`: {what}"), HELP.to_owned()))?;
        Ok(WebUrl { origin, target })
    }

    /// Whether what is sent there can be read on the way: no TLS is spoken, and it is not this machine itself.
    pub(crate) fn is_in_the_clear(&self) -> bool {
        let host = self.origin.at.host.as_str();
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        !self.origin.is_https && !is_here
    }
}

/// What follows the host, as a request line takes it (RFC 9112 §3.2.1): it begins with `/` and holds neither blanks nor what must
/// be encoded.
pub(crate) fn target(text: &str) -> Result<String, &'static str> {
    if text.contains('#') {
        return Err("what follows `#` is never sent");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)) {
        return Err("blanks and what is not ASCII must be written as `%XX` in a URL");
    }
    Ok(if text.starts_with('/') { text.to_owned() } else { format!("/{text}") })
}

impl<'de> Deserialize<'de> for WebUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WebUrl, D::Error> {
        let at = HostPort { host: "invalid".to_owned(), port: 443 };
        let stand_in = WebUrl { origin: WebOrigin { is_https: true, at }, target: "/".to_owned() };
        parsed(deserializer, stand_in, WebUrl::parse)
    }
}

impl JsonSchema for WebUrl {
    fn schema_name() -> Cow<'static, str> {
        "WebUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A URL: \"https://login.example/oauth2/token\"." })
    }
}

/// Whether an address is one of the public internet. Private and shared ones, this machine's own, those of a link (cloud
/// metadata: 169.254.169.254), of groups and for examples are not; an IPv4 address within IPv6 counts as what it is, however it
/// is packed (mapped, NAT64, 6to4). Sources: the IANA special-purpose registries, RFC 6890.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            let [first, second, third, ..] = address.segments();
            let low = Ipv4Addr::from(u128::from(address) as u32);
            match (first, second) {
                (0x64, 0xff9b) => is_public_v4(low) && address.segments()[2..6] == [0; 4],
                (0x2002, _) => is_public_v4(Ipv4Addr::from((u32::from(second) << 16) | u32::from(third))),
                // Teredo, ORCHID and benchmarks; documentation.
                (0x2001, 0..0x200 | 0xdb8) | (0x3fff, 0..0x1000) => false,
                // 2000::/3 is what is given out.
                _ => first & 0xe000 == 0x2000,
            }
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (text, shown, host) in [
            ("https://lis.example/api", "https://lis.example", "lis.example:443"),
            ("http://lis.example:8080", "http://lis.example:8080", "lis.example:8080"),
            ("http://LIS.example:80/x", "http://lis.example", "lis.example:80"),
            ("https://[::1]:8443?x", "https://[::1]:8443", "[::1]:8443"),
            ("http://[::ffff:127.0.0.1]/", "http://[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]:80"),
            ("http://2130706433/", "http://127.0.0.1", "127.0.0.1:80"),
            ("http://0x7f.1/", "http://127.0.0.1", "127.0.0.1:80"),
            ("http://0177.0.0.1/", "http://127.0.0.1", "127.0.0.1:80"),
            ("https://bücher.example/", "https://xn--bcher-kva.example", "xn--bcher-kva.example:443"),
        ] {
            let (origin, length) = WebOrigin::parse(text).expect(text);
            assert_eq!((origin.to_string().as_str(), origin.at.to_string().as_str()), (shown, host), "{text}");
            assert!(["", "/", "?"].contains(&text.get(length..length + 1).unwrap_or_default()), "{text}: {length}");
        }
        for (text, words) in [
            ("lis.example/api", "is no URL"),
            ("file:///etc/passwd", "begins with neither"),
            ("gopher://lis.example/", "begins with neither"),
            ("unix:///run/x", "begins with neither"),
            ("https://", "has no host"),
            ("https:///api", "has no host"),
            ("https://a\\b/", "has no host"),
            ("https://me:pw@lis.example/", "this holds a login"),
            ("https://{{ msg['MSH-5'] }}/", "expression in its host"),
            ("https://lis.example{{ x }}", "expression in its host"),
            ("https://lis.example:0/", "has no host and port"),
            ("https://lis.example:99999/", "is no URL"),
        ] {
            let (message, _) = WebOrigin::parse(text).expect_err(text);
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_public() {
        for text in
            ["8.8.8.8", "100.63.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1", "64:ff9b::808:808", "2002:808:808::1"]
        {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "203.0.113.9",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }
}

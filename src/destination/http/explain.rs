//! Faults in words.

use std::time::{Duration, SystemTime};

use hyper::header::{HeaderMap, RETRY_AFTER};

use crate::destination::{FaultClass, SendError};
use crate::net::http::{Fault, Route};
use crate::net::tls::TlsError;

/// How long the server wants to be left alone: seconds or a date (RFC 9110 §10.2.3). The lane bounds it.
pub(in crate::destination) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A fault in words, with what it means for the delivery.
pub(in crate::destination) fn describe(server: &str, route: &Route, longest: Duration, fault: Fault) -> SendError {
    let proxy = route.proxy.as_ref().map(|proxy| format!("proxy {}", proxy.at));
    // Who is connected to, and who speaks.
    let at = proxy.as_deref().unwrap_or(server);
    let (class, said) = match fault {
        Fault::NoSuchName(error) => (FaultClass::Dns, format!("{at}: the name cannot be resolved: {error}")),
        Fault::NotAllowed(address) => (
            FaultClass::Address,
            format!(
                "{at}: this is {address}, which is no public address; write it, or its network, into `networks` where it is meant"
            ),
        ),
        Fault::NotConnected(error) => (FaultClass::of_connecting(&error), format!("{at}: cannot connect: {error}")),
        Fault::ConnectTimeout => {
            (FaultClass::Timeout, format!("{at}: no connection within {} ms", route.connect_timeout.as_millis()))
        }
        Fault::NoTunnel(407) => (FaultClass::Status(407), format!("{at} refuses the login: look at `proxy`")),
        Fault::NoTunnel(status) => {
            (FaultClass::Refused, format!("{at} makes no connection to {server}: it answered {status}"))
        }
        Fault::HandshakeTimeout => (
            FaultClass::Timeout,
            format!(
                "{server}: connected, but no TLS within {} ms; look whether this port speaks TLS",
                route.connect_timeout.as_millis()
            ),
        ),
        Fault::Tls(error @ TlsError::Lost(_)) => (FaultClass::Reset, format!("{server}: {error}")),
        Fault::Tls(error) => (FaultClass::Tls, format!("{server}: {error}")),
        Fault::Closed(Some(error)) => {
            (FaultClass::Reset, format!("{server}: the connection was lost before an answer came: {error}"))
        }
        Fault::Closed(None) => {
            (FaultClass::Reset, format!("{server}: the server closed the connection before it answered"))
        }
        Fault::Broken => (FaultClass::Reset, format!("{server}: the connection was lost within the answer")),
        Fault::Timeout => (FaultClass::Timeout, format!("{server}: no whole answer within {} ms", longest.as_millis())),
        Fault::NotHttp => {
            (FaultClass::Protocol, format!("{server}: what it answered is no HTTP: look at scheme, host and port"))
        }
        Fault::LongHead => (FaultClass::Answer, format!("{server}: the head of its answer is longer than is read")),
    };
    SendError::new(class, said)
}

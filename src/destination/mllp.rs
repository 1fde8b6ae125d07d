//! `mllp`: HL7 v2 messages over TCP, one at a time: the next leaves when this one is acknowledged.
//!
//! One connection is kept open. What a peer does decides as follows, where the destination's `on` says nothing else:
//!
//! | the peer | class | the delivery |
//! |---|---|---|
//! | AA, CA with our MSH-10 in MSA-2 | | sent |
//! | AE, CE | `AE`, `CE` | tried again |
//! | AR, CR | `AR`, `CR` | dead letter |
//! | NAK (release 2: it could not keep the message) | `NAK` | tried again |
//! | another MSA-2, another code, no MSA, no HL7, an empty frame | `answer` | tried again on a new connection |
//! | no acknowledgement in time; connection refused, reset or closed | `timeout`, `refused`, `reset` | tried again on a new connection |
//! | its name is unknown; it speaks HTTP, TLS or SSH where none of them is meant | `dns`, `protocol` | the destination pauses |
//! | its certificate is not to be trusted, it refuses ours, or speaks no TLS 1.2 or 1.3 | `tls` | the destination pauses |
//!
//! CA is final also where the message's own MSH-16 asks for an application acknowledgement: CA says that the peer keeps the
//! message safe, so sending it again would be wrong whatever comes later. An application acknowledgement that does come on this
//! connection, or a second acknowledgement of any kind, is passed over; it never settles the next message.
//!
//! Of several addresses one is used at a time, so that the order stays: the first that takes a connection. One that fails is left
//! alone for a while; when that is over, the next message tries it first. An attempt sends its message to one address only (the
//! other may have it already, and not have said so); the next attempt goes to the next address.

mod connection;
mod failover;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tracing::{debug, info, warn};

use self::connection::{Acknowledgement, Connection, Dialect, Fault, Settled};
use self::failover::{Addresses, Failover};
use super::{Delivered, Destination, DestinationConfig, DestinationKind, Disposition, FaultClass, SendError};
use crate::config::{BuildError, Duration, HostPort, Mistake, Place, Table, time_limit};
use crate::expr::ExprError;
use crate::hl7::{AckCode, Header};
use crate::journal::Outgoing;
use crate::message::{Body, Message};
use crate::mllp;
use crate::net::framing::{FramingBytes, Release};
use crate::net::tls::{self, ClientTls, TlsError};

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "mllp",
    summary: "Sends each HL7 v2 message over MLLP and waits for its acknowledgement.",
    example: "type = \"mllp\"\naddress = \"mirth.hospital.example:6661\"\n",
    schema: |generator| generator.subschema_for::<Mllp>(),
    faults: &[
        "refused", "reset", "timeout", "dns", "tls", "protocol", "answer", "AE", "CE", "AR", "CR", "NAK", "content",
    ],
    parse: |table: Table<'_>| {
        table.read_with_more::<Mllp>(super::COMMON_KEYS).map(|config| Box::new(config) as Box<dyn DestinationConfig>)
    },
};

/// The options of an `mllp` destination.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mllp {
    /// Where to send, as in "mirth.hospital.example:6661"; the name is looked up at every connection. Or a list of addresses, the
    /// preferred one first: the next one is used while those before it fail.
    address: Addresses,
    /// How long an address that failed is left alone where there are several; twice as long each time it fails again, up to eight
    /// times as long.
    #[serde(default = "default_address_pause", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    address_pause: Duration,
    /// How long finding the name, connecting and the TLS handshake may take.
    #[serde(default = "default_connect_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    connect_timeout: Duration,
    /// How long the acknowledgement may take once the message is written, and how long the writing may take.
    #[serde(default = "default_ack_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    ack_timeout: Duration,
    /// Encrypts the connection and verifies the peer: `true` where the peer's certificate comes from an authority that this
    /// system knows, or a table. Without it, the connection is in the clear.
    #[serde(default)]
    tls: ClientTls,
    /// The bytes that frame a message, for peers that use others than MLLP's.
    #[serde(default)]
    framing: FramingBytes,
    /// The release of MLLP: with 2 the peer answers each frame by a commit acknowledgement, in a frame of its own, and after that by
    /// the acknowledgement of HL7 where the message asks for one.
    #[serde(default)]
    release: Release,
    /// What the lane's connections know of the addresses.
    #[serde(skip)]
    failover: Arc<OnceLock<Mutex<Failover>>>,
}

fn default_address_pause() -> Duration {
    Duration::from_secs(30)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_ack_timeout() -> Duration {
    Duration::from_secs(30)
}

/// Where, for people, an error in [`DestinationConfig::prepare`] lies.
const PLACE: &str = "mllp";

#[async_trait]
impl DestinationConfig for Mllp {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let error = |message: String| ExprError { place: PLACE.to_owned(), message };
        let Body::Hl7(hl7) = &*message.body else {
            return Err(error("MLLP carries HL7 v2; make the message HL7 with a `template` step first".to_owned()));
        };
        let content = hl7.to_bytes();
        if let Some(obstacle) = self.framing.0.obstacle(&content) {
            return Err(error(obstacle.to_string()));
        }
        let control_id = Header::scan(&content).map(|header| String::from_utf8_lossy(header.control_id()).into_owned());
        let properties = control_id.map(|id| ("control_id".to_owned(), id)).into_iter().collect();
        Ok(Outgoing { content, properties })
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.tls.mistakes()
    }

    fn warnings(&self, now: Timestamp) -> Vec<String> {
        self.tls.warnings(now)
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        Ok(Box::new(Sender { options: self.clone(), tls: self.tls.build(place)?, connection: None, used: None }))
    }
}

impl Mllp {
    fn failover(&self) -> MutexGuard<'_, Failover> {
        let failover = || Mutex::new(Failover::new(self.address.all().len(), self.address_pause.get()));
        self.failover.get_or_init(failover).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sender {
    options: Mllp,
    tls: Option<tls::Client>,
    /// With the number of its address. Taken out while in use: a send that is dropped half-way takes the connection with it.
    connection: Option<(usize, Connection)>,
    /// The address that was used last.
    used: Option<usize>,
}

#[async_trait]
impl Destination for Sender {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        // These bytes were checked by `prepare`; they may have been edited by hand since.
        let framed = self.options.framing.0.encode(&outgoing.content);
        let frame = framed.map_err(|error| SendError::new(FaultClass::Content, error.to_string()))?;
        let header = Header::scan(&outgoing.content)
            .ok_or_else(|| SendError::new(FaultClass::Content, "the message does not start with an MSH segment"))?;
        self.used = None;
        let kept = self.kept().await;
        let is_kept = kept.is_some();
        let (mut at, mut connection) = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let mut exchanged = self.exchange(at, &mut connection, &frame, &header).await;
        if is_kept && matches!(exchanged, Err(Fault::Closed { .. } | Fault::Tls(_))) {
            // The peer closed a kept connection just when it was used again: peers do so after every message, or after a quiet
            // time, and mean nothing by it.
            debug!(address = %self.address(at), "the kept connection was closed, connecting anew");
            (at, connection) = self.connect().await?;
            exchanged = self.exchange(at, &mut connection, &frame, &header).await;
        }
        match exchanged {
            Ok(settled) => {
                self.options.failover().is_well(at);
                self.connection = Some((at, connection));
                self.judged(at, settled)
            }
            Err(fault) => {
                if fault.is_of_the_peer() {
                    self.note_failed(at);
                } else if matches!(fault, Fault::Nak) {
                    self.connection = Some((at, connection));
                }
                Err(self.describe(at, fault))
            }
        }
    }

    fn used(&self) -> Option<String> {
        self.used.filter(|_| self.options.address.all().len() > 1).map(|at| self.address(at).to_string())
    }
}

impl Sender {
    fn address(&self, at: usize) -> &HostPort {
        &self.options.address.all()[at]
    }

    /// The connection of before, or one to a better address that may be well again.
    async fn kept(&mut self) -> Option<(usize, Connection)> {
        let (at, mut connection) = self.connection.take()?;
        let better = self.options.failover().better_than(at, Instant::now());
        if let Ok(found) = self.connect_to(better).await {
            info!(address = %self.address(found.0), "the preferred address takes connections again");
            return Some(found);
        }
        connection.is_usable().await.then_some((at, connection))
    }

    /// A new connection to the first address that takes one.
    async fn connect(&self) -> Result<(usize, Connection), SendError> {
        let order = self.options.failover().order(Instant::now());
        self.connect_to(order).await.map_err(together)
    }

    async fn connect_to(&self, addresses: Vec<usize>) -> Result<(usize, Connection), Vec<SendError>> {
        let dialect = Dialect { framing: self.options.framing.0, release: self.options.release };
        let mut errors = Vec::new();
        for at in addresses {
            let longest = self.options.connect_timeout.get();
            match Connection::open(self.address(at), longest, self.tls.as_ref(), dialect).await {
                Ok(connection) => return Ok((at, connection)),
                Err(fault) => {
                    self.note_failed(at);
                    errors.push(self.describe(at, fault));
                }
            }
        }
        Err(errors)
    }

    fn note_failed(&self, at: usize) {
        self.options.failover().failed(at, Instant::now());
        if self.options.address.all().len() > 1 {
            warn!(address = %self.address(at), "an address failed; it is left alone for a while");
        }
    }

    async fn exchange(
        &mut self,
        at: usize,
        connection: &mut Connection,
        frame: &[u8],
        header: &Header,
    ) -> Result<Settled, Fault> {
        self.used = Some(at);
        connection.exchange(frame, header, self.options.ack_timeout.get()).await
    }

    /// What an answer means for the delivery.
    fn judged(&self, at: usize, settled: Settled) -> Result<Delivered, SendError> {
        let Settled::Acknowledged(Acknowledgement { code, error, content: response }) = settled else {
            return Ok(Delivered { response: None });
        };
        let address = self.address(at);
        let said = match error {
            Some(error) => format!("{address} answered {code}, error {error}"),
            None => format!("{address} answered {code}"),
        };
        let class = match code {
            AckCode::AA | AckCode::CA => return Ok(Delivered { response: Some(response) }),
            AckCode::AE => FaultClass::Ae,
            AckCode::CE => FaultClass::Ce,
            AckCode::AR => FaultClass::Ar,
            AckCode::CR => FaultClass::Cr,
        };
        Err(SendError::new(class, said).with_response(response))
    }

    /// A fault in words, with what it means for the delivery.
    fn describe(&self, at: usize, fault: Fault) -> SendError {
        let Mllp { connect_timeout, ack_timeout, .. } = &self.options;
        let address = self.address(at);
        let (class, said) = match fault {
            Fault::NoSuchName(error) => (FaultClass::Dns, format!("{address}: the name cannot be resolved: {error}")),
            Fault::NotConnected(error) => {
                (FaultClass::of_connecting(&error), format!("{address}: cannot connect: {error}"))
            }
            Fault::ConnectTimeout => {
                (FaultClass::Timeout, format!("{address}: no connection within {connect_timeout}"))
            }
            Fault::HandshakeTimeout => (
                FaultClass::Timeout,
                format!("{address}: connected, but no TLS within {connect_timeout}; look whether this port speaks TLS"),
            ),
            Fault::Tls(error) => {
                let class = if matches!(error, TlsError::Lost(_)) { FaultClass::Reset } else { FaultClass::Tls };
                (class, format!("{address}: {error}"))
            }
            Fault::Closed { error: Some(error) } => {
                (FaultClass::Reset, format!("{address}: the connection was lost before the acknowledgement: {error}"))
            }
            Fault::Closed { error: None } => {
                (FaultClass::Reset, format!("{address}: the peer closed the connection before it acknowledged"))
            }
            Fault::WriteTimeout => {
                (FaultClass::Timeout, format!("{address}: the message was not taken within {ack_timeout}"))
            }
            Fault::AckTimeout { junk: 0 } => {
                (FaultClass::Timeout, format!("{address}: no acknowledgement within {ack_timeout}"))
            }
            Fault::AckTimeout { junk } => (
                FaultClass::Timeout,
                format!("{address}: no acknowledgement within {ack_timeout}, only {junk} bytes that are no MLLP frame"),
            ),
            Fault::BadAck { what, response } => {
                let error = SendError::new(FaultClass::Answer, format!("{address}: {what}"));
                return if response.is_empty() { error } else { error.with_response(response) };
            }
            Fault::Nak => (FaultClass::Nak, format!("{address} answered NAK: it could not keep the message")),
            Fault::WrongProtocol(protocol) => (
                FaultClass::Protocol,
                format!(
                    "{address} speaks {protocol}, not MLLP: look at address and port{}",
                    if protocol == mllp::Protocol::Tls { "; `tls = true` encrypts the connection" } else { "" }
                ),
            ),
        };
        SendError::new(class, said)
    }
}

/// The errors of all addresses as one. A fault that passes by itself goes before one that somebody must see to.
fn together(errors: Vec<SendError>) -> SendError {
    let passes = errors.iter().find(|error| error.class.fault().then == Disposition::Retry);
    let class = passes.or(errors.first()).map_or(FaultClass::Internal, |error| error.class);
    let said: Vec<String> = errors.into_iter().map(|error| error.message).collect();
    SendError::new(class, said.join("; "))
}

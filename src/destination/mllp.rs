//! `mllp`: HL7 v2 messages over TCP, one at a time: the next leaves when this one is acknowledged.
//!
//! One connection is kept open. What a peer does decides as follows, where the destination's `on` says nothing else:
//!
//! | the peer | class | the delivery |
//! |---|---|---|
//! | AA, CA with our MSH-10 in MSA-2 | | sent |
//! | AE, CE | `AE`, `CE` | tried again |
//! | AR, CR | `AR`, `CR` | dead letter |
//! | another MSA-2, another code, no MSA, no HL7, an empty frame | `answer` | tried again on a new connection |
//! | no acknowledgement in time; connection refused, reset or closed | `timeout`, `refused`, `reset` | tried again on a new connection |
//! | its name is unknown; it speaks HTTP, TLS or SSH where none of them is meant | `dns`, `protocol` | the destination pauses |
//! | its certificate is not to be trusted, it refuses ours, or speaks no TLS 1.2 or 1.3 | `tls` | the destination pauses |
//!
//! CA is final also where the message's own MSH-16 asks for an application acknowledgement: CA says that the peer keeps the
//! message safe, so sending it again would be wrong whatever comes later. An application acknowledgement that does come on this
//! connection, or a second acknowledgement of any kind, is passed over; it never settles the next message.

mod connection;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tracing::debug;

use self::connection::{Acknowledgement, Connection, Fault};
use super::{Delivered, Destination, DestinationConfig, DestinationKind, FaultClass, SendError};
use crate::config::{BuildError, Duration, HostPort, Mistake, Place, Table, time_limit};
use crate::expr::ExprError;
use crate::hl7::{AckCode, Header};
use crate::journal::Outgoing;
use crate::message::{Body, Message};
use crate::mllp;
use crate::net::tls::{self, ClientTls, TlsError};

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "mllp",
    summary: "Sends each HL7 v2 message over MLLP and waits for its acknowledgement.",
    example: "type = \"mllp\"\naddress = \"mirth.hospital.example:6661\"\n",
    schema: |generator| generator.subschema_for::<Mllp>(),
    faults: &["refused", "reset", "timeout", "dns", "tls", "protocol", "answer", "AE", "CE", "AR", "CR", "content"],
    parse: |table: Table<'_>| {
        table.read_with_more::<Mllp>(super::COMMON_KEYS).map(|config| Box::new(config) as Box<dyn DestinationConfig>)
    },
};

/// The options of an `mllp` destination.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mllp {
    /// Where to send, as in "mirth.hospital.example:6661"; the name is looked up at every connection.
    address: HostPort,
    /// How long finding the name, connecting and the TLS handshake may take (10s if not given).
    #[serde(default = "default_connect_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    connect_timeout: Duration,
    /// How long the acknowledgement may take once the message is written, and how long the writing may take (30s if not given).
    #[serde(default = "default_ack_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    ack_timeout: Duration,
    /// Encrypts the connection and verifies the peer: `true` where the peer's certificate comes from an authority that this
    /// system knows, or a table. Without it, the connection is in the clear.
    #[serde(default)]
    tls: ClientTls,
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
        check(&content).map_err(error)?;
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
        Ok(Box::new(Sender { options: self.clone(), tls: self.tls.build(place)?, connection: None }))
    }
}

/// What can be known of a message before it is sent.
fn check(content: &Bytes) -> Result<(), String> {
    match memchr::memchr2(mllp::START, mllp::END, content) {
        Some(at) => Err(mllp::Unframeable { at, byte: content[at] }.to_string()),
        None => Ok(()),
    }
}

struct Sender {
    options: Mllp,
    tls: Option<tls::Client>,
    /// Taken out while in use: a send that is dropped half-way takes the connection with it.
    connection: Option<Connection>,
}

#[async_trait]
impl Destination for Sender {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        // These bytes were checked by `prepare`; they may have been edited by hand since.
        let frame =
            mllp::encode(&outgoing.content).map_err(|error| SendError::new(FaultClass::Content, error.to_string()))?;
        let header = Header::scan(&outgoing.content)
            .ok_or_else(|| SendError::new(FaultClass::Content, "the message does not start with an MSH segment"))?;
        let kept = match self.connection.take() {
            Some(mut connection) => connection.is_usable().await.then_some(connection),
            None => None,
        };
        let (mut connection, kept) = match kept {
            Some(connection) => (connection, true),
            None => (self.connect().await?, false),
        };
        let exchanged = match self.exchange(&mut connection, &frame, &header).await {
            // The peer closed a kept connection just when it was used again: peers do so after every message, or after a quiet
            // time, and mean nothing by it.
            Err(Fault::Closed { .. } | Fault::Tls(_)) if kept => {
                debug!(address = %self.options.address, "the kept connection was closed, connecting anew");
                connection = self.connect().await?;
                self.exchange(&mut connection, &frame, &header).await
            }
            exchanged => exchanged,
        };
        let Acknowledgement { code, error, content: response } = exchanged.map_err(|fault| self.describe(fault))?;
        self.connection = Some(connection);
        let said = match error {
            Some(error) => format!("{} answered {code}, error {error}", self.options.address),
            None => format!("{} answered {code}", self.options.address),
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
}

impl Sender {
    async fn connect(&self) -> Result<Connection, SendError> {
        let (address, longest) = (&self.options.address, self.options.connect_timeout);
        Connection::open(address, longest.get(), self.tls.as_ref()).await.map_err(|fault| self.describe(fault))
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        frame: &[u8],
        header: &Header,
    ) -> Result<Acknowledgement, Fault> {
        connection.exchange(frame, header.control_id(), self.options.ack_timeout.get()).await
    }

    /// A fault in words, with what it means for the delivery.
    fn describe(&self, fault: Fault) -> SendError {
        let Mllp { address, connect_timeout, ack_timeout, .. } = &self.options;
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

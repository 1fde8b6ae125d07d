//! One request: looked at, read, journaled, answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::NAME;
use super::answers::{Answers, Part, Reply};
use super::auth::Guard;
use crate::journal::{Identity, OtherBody, Repeat};
use crate::message::{Body, Event, Format, Message, MessageId, Meta, Origin};
use crate::monitor::Counters;
use crate::net::webhook;
use crate::source;
use crate::source::ack::Awaited;
use crate::source::{FormatOption, Intake, Taken, Waiter};

/// A key of a client's own is no longer than this, as in the draft of the `Idempotency-Key` header.
const MAX_KEY_BYTES: usize = 255;
/// So much of what is not taken is read, and for so long.
const SKIPPED_BYTES: usize = 1 << 20;
const SKIP_TIMEOUT: Duration = Duration::from_secs(1);
/// What is larger is read on a thread of its own.
const READ_AT_ONCE_BYTES: usize = 128 << 10;
/// The client's name for its request.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The options of the source that a request needs.
pub(super) struct Options {
    pub(super) format: FormatOption,
    /// What is taken beside the types of the format.
    pub(super) content_types: Vec<String>,
    pub(super) max_body_bytes: usize,
    pub(super) body_timeout: Duration,
    pub(super) duplicate_window: Option<Duration>,
    pub(super) awaited: Option<Awaited>,
    pub(super) answers: Answers,
    pub(super) pass_on: Vec<Part>,
    pub(super) guard: Guard,
}

/// Takes the requests of one channel.
pub(super) struct Taker {
    options: Options,
    intake: Intake,
    stop: CancellationToken,
    under_way: TaskTracker,
}

/// A request that was read.
struct Post {
    peer: SocketAddr,
    headers: HeaderMap,
    body: Bytes,
    /// Who sent it, where that has a name.
    user: Option<String>,
}

impl Taker {
    pub(super) fn new(options: Options, intake: Intake, stop: CancellationToken) -> Taker {
        Taker { options, intake, stop, under_way: TaskTracker::new() }
    }

    pub(super) fn channel(&self) -> &str {
        self.intake.channel()
    }

    pub(super) fn counters(&self) -> &Counters {
        self.intake.counters()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until what was begun is answered.
    pub(super) async fn finish(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }

    /// Takes a request. What can be known without its content is looked at first: nothing is read from whom nothing is taken.
    pub(super) async fn take(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Reply {
        let (head, mut content) = request.into_parts();
        let read = async {
            let user = match self.look(&head.headers, content.size_hint().lower()) {
                Ok(user) => user,
                Err(reply) => {
                    if !head.headers.contains_key(EXPECT) {
                        skip(&mut content).await;
                    }
                    return Err(reply);
                }
            };
            let body = self.read(content).await?;
            if let Err(refusal) = self.options.guard.verify(&head.headers, &body) {
                return Err(self.not_admitted(refusal.0));
            }
            Ok((user, body))
        };
        match read.await {
            Ok((user, body)) => {
                let post = Post { peer, headers: head.headers, body, user };
                // In a task of its own: a client that goes away takes its request with it, at whatever point that is.
                let taker = self.clone();
                let work = self.under_way.spawn(async move { taker.keep(post).await });
                work.await.unwrap_or_else(|_| {
                    let message = "this request met a bug in Labwire; please report it";
                    Reply::refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
                })
            }
            Err(reply) => {
                self.counters().requests_refused.add_one();
                warn!(channel = self.channel(), %peer, status = reply.status.as_u16(), "a request was refused");
                reply
            }
        }
    }

    fn not_admitted(&self, why: &str) -> Reply {
        let (name, value) = self.options.guard.challenge();
        Reply::refusal(StatusCode::UNAUTHORIZED, "unauthorized", why).with(name, value)
    }

    /// What the head alone shows. Gives the name of who it is.
    fn look(&self, headers: &HeaderMap, announced: u64) -> Result<Option<String>, Reply> {
        let user = self.options.guard.admit(headers).map_err(|refusal| self.not_admitted(refusal.0))?;
        let unfit = |message: &str| Reply::refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message);
        let is_coded = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
        if headers.get_all(CONTENT_ENCODING).iter().any(is_coded) {
            return Err(unfit("content that is compressed is not taken"));
        }
        if let Some(content_type) = headers.get(CONTENT_TYPE)
            && !self.fits(content_type)
        {
            return Err(unfit("content of this type is not taken here"));
        }
        for name in [IDEMPOTENCY_KEY, webhook::ID] {
            let is_key = |value: &HeaderValue| {
                (1..=MAX_KEY_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
            };
            if headers.get(name).is_some_and(|value| !is_key(value)) {
                let message = format!("`{name}` has 1 to {MAX_KEY_BYTES} visible ASCII characters and no blanks");
                return Err(Reply::refusal(StatusCode::BAD_REQUEST, "key", &message));
            }
        }
        if announced > self.options.max_body_bytes as u64 {
            return Err(self.too_large());
        }
        Ok(user.map(str::to_owned))
    }

    fn fits(&self, content_type: &HeaderValue) -> bool {
        let Ok(text) = content_type.to_str() else { return false };
        let (kind, parameters) = text.split_once(';').unwrap_or((text, ""));
        let kind = kind.trim().to_ascii_lowercase();
        if self.options.content_types.contains(&kind) {
            return true;
        }
        let mut charsets = parameters.split(';').filter_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
        });
        let is_utf8 = charsets.all(|charset| matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii"));
        match self.options.format.format() {
            Format::Json => is_utf8 && (kind == "application/json" || kind.ends_with("+json")),
            // Its character set is what MSH-18 says.
            Format::Hl7 => {
                kind == "text/plain"
                    || ["application/", "x-application/", "text/"].iter().any(|top| {
                        kind.strip_prefix(top)
                            .is_some_and(|kind| kind.starts_with("hl7-v2") || kind.starts_with("x-hl7"))
                    })
            }
            // Whatever it says it is.
            Format::Bytes => true,
            Format::Xml => kind.ends_with("/xml") || kind.ends_with("+xml"),
            Format::Csv => kind == "text/csv" || kind == "text/plain",
            Format::Text => is_utf8 && kind.starts_with("text/"),
        }
    }

    fn too_large(&self) -> Reply {
        let message = format!("the content is larger than {} bytes", self.options.max_body_bytes);
        last(Reply::refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &message))
    }

    async fn read(&self, mut content: Incoming) -> Result<Bytes, Reply> {
        let reading = async {
            let mut body = BytesMut::new();
            while let Some(frame) = content.frame().await {
                let broken =
                    |_| last(Reply::refusal(StatusCode::BAD_REQUEST, "broken", "the content did not come to its end"));
                let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
                if body.len() + data.len() > self.options.max_body_bytes {
                    return Err(self.too_large());
                }
                body.extend_from_slice(&data);
            }
            Ok(body.freeze())
        };
        timeout(self.options.body_timeout, reading).await.unwrap_or_else(|_| {
            let message = "the content took too long";
            Err(last(Reply::refusal(StatusCode::REQUEST_TIMEOUT, "too_slow", message)))
        })
    }

    /// Journals a request that was read, and finds its answer.
    async fn keep(&self, post: Post) -> Reply {
        if self.is_stopping() {
            return Reply::unavailable("stopping", "this channel takes nothing for the moment");
        }
        let (id, received_at) = (self.intake.next_id(), Timestamp::now());
        let origin = self.origin(&post);
        let meta = Meta { id, channel: self.channel().to_owned(), received_at, origin: origin.clone() };
        let source::Incoming { body, refs, rejected } = read(self.options.format.clone(), post.body.clone()).await;
        let read = body.map(|body| Message { meta, body, event: Arc::new(Event::default()) });
        let waits = self.options.awaited.is_some() && read.is_some();
        let waiter = waits.then(|| self.intake.waiter(id));
        let reply = match &read {
            Some(message) => self.options.answers.received(message),
            None => Reply::rejected(id, rejected.as_deref().unwrap_or_default()),
        };
        let accepted = self.intake.accept(Taken {
            id,
            received_at,
            body: post.body.clone(),
            read: read.as_ref().map(|message| message.body.clone()),
            format: self.options.format.format(),
            origin,
            refs,
            acknowledgement: (!waits).then(|| reply.to_bytes()),
            rejected: rejected.clone(),
            identity: read.as_ref().and_then(|message| self.identity(&post, message)),
        });
        let receipt = match accepted.await {
            Ok(receipt) => receipt,
            Err(error) => {
                debug!(channel = self.channel(), peer = %post.peer, %error, "a message could not be stored");
                let code = if error.is_full() { "disk_full" } else { "journal" };
                return Reply::unavailable(code, "the message was not stored, send it again later");
            }
        };
        if let Some(reason) = &rejected {
            warn!(channel = self.channel(), peer = %post.peer, message = %id, reason, "rejected");
        }
        let first = receipt.recipients().first().map_or(id, |recipient| recipient.id);
        match (receipt.repeat(), waiter, read) {
            // The key was another request's, and this one was not kept.
            (Repeat::OtherBody, _, _) if first != id => reused(),
            (Repeat::SameBody, _, Some(message)) => match receipt.acknowledgement().and_then(Reply::from_bytes) {
                Some(kept) => kept,
                // The channel waited for the outcome then, and does so now.
                None if waits => self.outcome(self.intake.waiter(first), message, first, false).await,
                // Its content was removed, or the channel waited for the outcome then.
                None => self.options.answers.received(&of(message, first, received_at)),
            },
            (_, Some(waiter), Some(message)) => self.outcome(waiter, message, id, true).await,
            _ => reply,
        }
    }

    /// Waits for what becomes of a message, and answers that.
    async fn outcome(&self, waiter: Waiter, message: Message, id: MessageId, is_new: bool) -> Reply {
        let Some(Awaited { until, longest }) = &self.options.awaited else { return reused() };
        let fate = self.intake.fate(waiter, until, *longest, is_new, &self.stop).await;
        debug!(channel = self.channel(), message = %id, end = fate.end.as_str(), "its outcome");
        self.options.answers.settled(&of(message, id, fate.received_at), &fate, &self.options.pass_on)
    }

    fn origin(&self, post: &Post) -> Origin {
        let mut origin = Origin {
            source: NAME.to_owned(),
            peer: Some(post.peer.to_string()),
            event_id: key_of(&post.headers).map(str::to_owned),
            ..Origin::default()
        };
        self.options.format.note(&mut origin);
        origin
    }

    /// What the request is known by when it comes again: the client's own key, else the sender and MSH-10 of HL7.
    fn identity(&self, post: &Post, message: &Message) -> Option<Identity> {
        let window = Some(self.options.duplicate_window?);
        let channel = self.channel();
        if let Some(key) = key_of(&post.headers) {
            let user = post.user.as_deref().unwrap_or_default();
            let key = format!("{channel}\rhttp\r{user}\r{key}");
            return Some(Identity { key, window, other_body: OtherBody::Refused });
        }
        let Body::Hl7(hl7) = &*message.body else { return None };
        let field = |path: &str| Some(hl7.text(&path.parse().ok()?).ok()??.into_owned());
        let control_id = field("MSH-10").filter(|id| !id.trim().is_empty() && id != "\"\"")?;
        let sender = ["MSH-3", "MSH-4"].map(|path| field(path).unwrap_or_default());
        let key = format!("{channel}\r{}\r{}\r{control_id}", sender[0], sender[1]);
        Some(Identity { key, window, other_body: OtherBody::Kept })
    }
}

/// Reads a little of what is not taken: a close with unread bytes is a reset, and a reset takes the answer with it. Whoever asked
/// first (`Expect`) sends nothing.
async fn skip(content: &mut Incoming) {
    let skipping = async {
        let mut left = SKIPPED_BYTES;
        while let Some(Ok(frame)) = content.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(SKIP_TIMEOUT, skipping).await;
}

/// Reads a message; a large one not on a thread that serves connections.
async fn read(format: FormatOption, body: Bytes) -> source::Incoming {
    if body.len() <= READ_AT_ONCE_BYTES {
        return format.read(&body);
    }
    let reading = tokio::task::spawn_blocking(move || format.read(&body));
    reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// The client's own name for its request.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    value(webhook::ID).or_else(|| value(IDEMPOTENCY_KEY))
}

/// A message under the id and time of its first arrival.
fn of(mut message: Message, id: MessageId, received_at: Timestamp) -> Message {
    (message.meta.id, message.meta.received_at) = (id, received_at);
    message
}

fn reused() -> Reply {
    let message = "this key came shortly before with another content; nothing was kept";
    Reply::refusal(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", message)
}

/// The last answer of its connection: what is left of the request is not read.
fn last(reply: Reply) -> Reply {
    reply.with(CONNECTION, HeaderValue::from_static("close"))
}

//! One peer: frames in, acknowledgements out, in order.

mod waiting;

use std::io;
use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::{debug, warn};

use super::NAME;
use super::clients::Sender;
use super::judge::{Judged, judge_with};
use super::policy::Policy;
use crate::hl7::{Charset, Limits};
use crate::journal::{Identity, OtherBody, Receipt, Repeat};
use crate::message::{Format, MessageId, Origin, Refs};
use crate::mllp::{self, Decoder, Event, Framing};
use crate::net::framing::Release;
use crate::net::tls::{Stream, TlsError};
use crate::source::ack::Awaited;
use crate::source::{Intake, Taken};

/// A peer that does not take its acknowledgement for so long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a last answer so much time is left to read what the peer was still sending: a close with unread bytes is a reset, and
/// a reset takes the answer with it.
const LINGER: Duration = Duration::from_secs(1);
/// So often an acknowledgement is sent again that the peer answers by NAK (MLLP release 2).
const MAX_REPEATS: u32 = 2;

/// The options of the source that a connection needs.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) max_frame_bytes: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) byte_timeout: Duration,
    pub(super) frame_timeout: Duration,
    pub(super) charset: Option<Charset>,
    pub(super) duplicate_window: Option<Duration>,
    pub(super) framing: Framing,
    pub(super) release: Release,
    pub(super) policy: Policy,
    /// What is waited for before a message is acknowledged; none where its receipt is enough.
    pub(super) awaited: Option<Awaited>,
}

/// Who calls.
pub(super) struct Peer {
    /// Address and port.
    pub(super) address: String,
    /// What its certificate lets it send; none where nothing is bound to certificates.
    pub(super) sender: Option<Sender>,
}

pub(super) struct Connection {
    stream: Stream,
    peer: String,
    sender: Option<Sender>,
    options: Arc<Options>,
    intake: Intake,
    stop: CancellationToken,
    decoder: Decoder,
    /// When the frame that is coming in began.
    frame_began: Option<Instant>,
    /// Whether the junk of the present gap was logged.
    junk_logged: bool,
    /// Whether a message was refused because the source is to stop.
    refused: bool,
    /// The last acknowledgement, for which no commit acknowledgement came yet (MLLP release 2), and how often it was repeated.
    unsettled: Option<(Bytes, u32)>,
}

/// Why a connection ends.
enum End {
    PeerClosed,
    Stopping,
    Idle,
    /// A frame did not come to its end in time.
    Slow(&'static str),
    Broken(io::Error),
    /// The peer does not read its acknowledgements.
    Deaf,
    /// The answer given was the last one; or none is due, and the reason was logged.
    GivenUp,
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        peer: Peer,
        options: Arc<Options>,
        intake: Intake,
        stop: CancellationToken,
    ) -> Self {
        let decoder = Decoder::framed(options.max_frame_bytes, options.framing);
        Connection {
            stream,
            peer: peer.address,
            sender: peer.sender,
            options,
            intake,
            stop,
            decoder,
            frame_began: None,
            junk_logged: false,
            refused: false,
            unsettled: None,
        }
    }

    /// Serves the peer until one side ends it.
    pub(super) async fn serve(mut self) {
        debug!(channel = self.intake.channel(), peer = self.peer, "connected");
        let stop = self.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let end = loop {
            if let Break(end) = self.take_all().await {
                break end;
            }
            match self.read(stopped.as_mut()).await {
                Continue(()) => {}
                Break(End::PeerClosed) => {
                    let last = self.decoder.finish();
                    let ended = match last {
                        Some(event) => self.handle(event).await,
                        None => Continue(()),
                    };
                    break ended.break_value().unwrap_or(End::PeerClosed);
                }
                Break(end) => break end,
            }
        };
        self.end(end).await;
    }

    /// Handles what is in the bytes read so far.
    async fn take_all(&mut self) -> ControlFlow<End> {
        while let Some(event) = self.decoder.next_event() {
            self.handle(event).await?;
        }
        Continue(())
    }

    /// Waits for bytes.
    async fn read(&mut self, stopped: Pin<&mut WaitForCancellationFuture<'_>>) -> ControlFlow<End> {
        let (deadline, late) = self.deadline();
        let waited_too_long = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let mut space = self.decoder.space();
        tokio::select! {
            biased;
            () = stopped => Break(End::Stopping),
            () = waited_too_long => Break(late),
            read = self.stream.read_buf(&mut space) => match read {
                Ok(0) => Break(End::PeerClosed),
                Ok(_) => Continue(()),
                // Without TLS's own farewell, as most peers leave. What is missing of a frame shows.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Break(End::PeerClosed),
                Err(error) => Break(End::Broken(error)),
            },
        }
    }

    /// Until when the next bytes must come, and what it means when they do not. Counted from now, not from the last byte: the
    /// time that the journal took is not the peer's.
    fn deadline(&mut self) -> (Option<Instant>, End) {
        if !self.decoder.in_frame() {
            return (self.options.idle_timeout.map(|longest| Instant::now() + longest), End::Idle);
        }
        let now = Instant::now();
        let whole_frame = *self.frame_began.get_or_insert(now) + self.options.frame_timeout;
        let next_byte = now + self.options.byte_timeout;
        if next_byte < whole_frame {
            (Some(next_byte), End::Slow("`byte_timeout` passed within a frame"))
        } else {
            (Some(whole_frame), End::Slow("`frame_timeout` passed"))
        }
    }

    async fn handle(&mut self, event: Event) -> ControlFlow<End> {
        let (channel, peer, counters) = (self.intake.channel(), &self.peer, self.intake.counters());
        match event {
            Event::Frame(raw) => {
                (self.frame_began, self.junk_logged) = (None, false);
                return match (self.options.release, &raw[..]) {
                    (Release::Two, [commit @ (mllp::ACK | mllp::NAK)]) => self.settle(*commit).await,
                    _ => self.take(raw).await,
                };
            }
            Event::Empty => {
                (self.frame_began, self.junk_logged) = (None, false);
                counters.frames_empty.add_one();
                debug!(channel, peer, "an empty frame");
            }
            Event::Junk(bytes) => {
                counters.junk_bytes.add(bytes as u64);
                if !std::mem::replace(&mut self.junk_logged, true) {
                    warn!(channel, peer, bytes, "bytes outside of any frame are skipped");
                }
            }
            Event::Restarted(bytes) => {
                self.frame_began = None;
                counters.frames_dropped.add_one();
                warn!(channel, peer, bytes, "a frame began within an unfinished one, which is given up");
            }
            Event::Incomplete(bytes) => {
                counters.frames_dropped.add_one();
                warn!(channel, peer, bytes, "the connection ended within a frame, which is given up");
            }
            Event::TooMuchJunk(bytes) => {
                counters.junk_bytes.add(bytes as u64);
                warn!(channel, peer, "closed: too many bytes outside of any frame");
                return Break(End::GivenUp);
            }
            Event::WrongProtocol(protocol) => {
                counters.wrong_protocol.add_one();
                warn!(channel, peer, %protocol, "closed: wrong protocol on this port, which speaks MLLP");
                return Break(End::GivenUp);
            }
            Event::TooLarge { head } => {
                counters.frames_dropped.add_one();
                warn!(
                    channel,
                    peer,
                    limit = self.options.max_frame_bytes,
                    "closed: a frame is larger than `max_frame`"
                );
                let judged = Judged::too_large(&head, self.options.max_frame_bytes);
                let id = self.intake.next_id();
                if self.options.release == Release::Two {
                    self.commit(mllp::NAK, id).await?;
                } else if judged.has_header() {
                    self.answer(judged.acknowledgement(id, Timestamp::now()), id).await?;
                }
                return Break(End::GivenUp);
            }
        }
        Continue(())
    }

    /// Takes a message in: journal first, then the answer.
    async fn take(&mut self, raw: Bytes) -> ControlFlow<End> {
        let received_at = Timestamp::now();
        let id = self.intake.next_id();
        self.unsettled = None;
        let mut judged = judge_with(&raw, &Limits::default(), self.options.charset);
        if let Some(sender) = &self.sender {
            judged = judged.of_another(sender);
        }
        let (mut judged, is_stale) = self.options.policy.judge(judged, received_at);
        if self.stop.is_cancelled() {
            debug!(channel = self.intake.channel(), peer = self.peer, "a message was refused: stopping");
            // What else was read already gets the same answer.
            self.refused = true;
            return self.refuse(&judged, id, received_at).await;
        }
        let waits = self.options.awaited.is_some() && judged.wants_outcome();
        let waiter = waits.then(|| self.intake.waiter(id));
        // Where it is waited for the outcome, the answer follows from that, which is in the journal itself.
        let acknowledgement = if waits { None } else { judged.acknowledgement(id, received_at).map(Bytes::from) };
        let accepted = self.intake.accept(Taken {
            id,
            received_at,
            body: raw,
            format: Format::Hl7,
            origin: Origin { stale_timestamp: is_stale, ..self.origin() },
            refs: judged.body().map(|body| Refs::of(body)).unwrap_or_default(),
            acknowledgement: acknowledgement.clone(),
            rejected: judged.rejection().map(str::to_owned),
            identity: self.identity(&judged),
            read: judged.take_body(),
        });
        match accepted.await {
            Ok(receipt) => {
                match judged.rejection() {
                    Some(reason) => {
                        warn!(channel = self.intake.channel(), peer = self.peer, message = %id, reason, "rejected")
                    }
                    None if receipt.repeat() == Repeat::SameBody => {}
                    None => debug!(channel = self.intake.channel(), peer = self.peer, message = %id, "received"),
                }
                self.note_stale(is_stale && receipt.repeat() != Repeat::SameBody, id);
                self.commit(mllp::ACK, id).await?;
                match waiter {
                    Some(waiter) => self.answer_outcome(&receipt, &judged, waiter).await,
                    None => self.acknowledge(&receipt, acknowledgement, id).await,
                }
            }
            // The journal says so once; the connection stays, because there may be room for the next one.
            Err(error) if error.is_full() => {
                debug!(channel = self.intake.channel(), peer = self.peer, %error, "a message could not be stored");
                self.refuse(&judged, id, received_at).await
            }
            Err(error) => {
                warn!(channel = self.intake.channel(), peer = self.peer, %error, "closed: a message could not be stored");
                self.refuse(&judged, id, received_at).await?;
                Break(End::GivenUp)
            }
        }
    }

    fn note_stale(&self, is_stale: bool, id: MessageId) {
        if is_stale {
            self.intake.counters().stale.add_one();
            let (channel, peer) = (self.intake.channel(), &self.peer);
            warn!(channel, peer, message = %id, "MSH-7 lies far back: an old message was sent again, or the sender's clock is wrong");
        }
    }

    fn origin(&self) -> Origin {
        Origin {
            source: NAME.to_owned(),
            peer: Some(self.peer.clone()),
            charset: self.options.charset.map(|charset| charset.name().into()),
            ..Origin::default()
        }
    }

    fn identity(&self, judged: &Judged) -> Option<Identity> {
        let window = self.options.duplicate_window?;
        let key = judged.key(self.intake.channel())?;
        Some(Identity { key, window: Some(window), other_body: OtherBody::Kept })
    }

    /// The one place where a message that is on disk is answered: one that came before as it was then.
    async fn acknowledge(
        &mut self,
        receipt: &Receipt,
        acknowledgement: Option<Bytes>,
        id: MessageId,
    ) -> ControlFlow<End> {
        match receipt.repeat() {
            // Where the content of the first one was removed, its acknowledgement is gone too: the sender still waits for one.
            Repeat::SameBody => self.answer(receipt.acknowledgement().or(acknowledgement.as_ref()), id).await,
            Repeat::No | Repeat::OtherBody => self.answer(acknowledgement, id).await,
        }
    }

    /// Says that a message was not taken, so that it is sent again.
    async fn refuse(&mut self, judged: &Judged, id: MessageId, at: Timestamp) -> ControlFlow<End> {
        match self.options.release {
            Release::One => self.answer(judged.refusal(id, at), id).await,
            Release::Two => self.commit(mllp::NAK, id).await,
        }
    }

    /// Sends an answer, if there is one.
    async fn answer(&mut self, content: Option<impl AsRef<[u8]>>, id: MessageId) -> ControlFlow<End> {
        let Some(content) = content else { return Continue(()) };
        let frame = self.options.framing.encode_rest(content.as_ref());
        if self.options.release == Release::Two {
            self.unsettled = Some((frame.clone(), 0));
        }
        self.write(&frame, id).await
    }

    /// Sends a commit acknowledgement, where the peer speaks MLLP release 2. It answers for the frame, whatever is in it.
    async fn commit(&mut self, byte: u8, id: MessageId) -> ControlFlow<End> {
        match self.options.release {
            Release::One => Continue(()),
            Release::Two => {
                let frame = self.options.framing.encode_rest(&[byte]);
                self.write(&frame, id).await
            }
        }
    }

    /// The peer's commit acknowledgement of what we answered last.
    async fn settle(&mut self, byte: u8) -> ControlFlow<End> {
        let (channel, peer) = (self.intake.channel(), &self.peer);
        let id = self.intake.next_id();
        match self.unsettled.take() {
            Some((frame, repeats)) if byte == mllp::NAK && repeats < MAX_REPEATS => {
                debug!(channel, peer, "the peer answered an acknowledgement by NAK; it is sent again");
                self.unsettled = Some((frame.clone(), repeats + 1));
                return self.write(&frame, id).await;
            }
            Some(_) if byte == mllp::NAK => {
                self.intake.counters().acknowledgements_lost.add_one();
                warn!(channel, peer, "the peer did not take its acknowledgement: expect the message again");
            }
            Some(_) => {}
            None => debug!(channel, peer, "passed over: a commit acknowledgement of nothing"),
        }
        Continue(())
    }

    /// Sends a frame in one write: peers exist that give up when a frame comes in pieces.
    async fn write(&mut self, frame: &[u8], id: MessageId) -> ControlFlow<End> {
        let writing = async {
            self.stream.write_all(frame).await?;
            self.stream.flush().await
        };
        let end = match timeout(WRITE_TIMEOUT, writing).await {
            Ok(Ok(())) => return Continue(()),
            Ok(Err(error)) => End::Broken(error),
            Err(_) => End::Deaf,
        };
        self.intake.counters().acknowledgements_lost.add_one();
        warn!(channel = self.intake.channel(), peer = self.peer, message = %id, "the acknowledgement could not be sent: expect the message again");
        Break(end)
    }

    /// Closes the connection.
    async fn end(mut self, end: End) {
        let (channel, peer, bytes) = (self.intake.channel(), &self.peer, self.decoder.held_bytes());
        let unfinished = self.decoder.in_frame();
        match &end {
            End::PeerClosed => debug!(channel, peer, "disconnected"),
            End::Stopping => debug!(channel, peer, "closed: stopping"),
            End::Idle => debug!(channel, peer, "closed: `idle_timeout` passed"),
            End::Broken(error) if TlsError::is_in(error) => {
                warn!(channel, peer, %error, "closed: an error of TLS")
            }
            End::Broken(error) => debug!(channel, peer, %error, "the connection broke"),
            End::Deaf => debug!(channel, peer, "closed: the peer takes no acknowledgements"),
            End::GivenUp => {}
            End::Slow(which) if self.decoder.awaits_return() => {
                warn!(
                    channel,
                    peer,
                    bytes,
                    "closed: {which}; its end byte came, but not the return after it: look at the sender's settings"
                );
            }
            End::Slow(which) => warn!(channel, peer, bytes, "closed: {which}"),
        }
        if unfinished {
            self.intake.counters().frames_dropped.add_one();
            debug!(channel, peer, bytes, "an unfinished frame is given up");
        }
        let answered_last = self.refused || matches!(end, End::GivenUp);
        if !answered_last && !self.stream.is_encrypted() {
            return;
        }
        // The farewell of TLS, where it is used; a peer that takes nothing is not waited for.
        let said_farewell = timeout(LINGER, self.stream.shutdown()).await.is_ok_and(|shut| shut.is_ok());
        if answered_last && said_farewell {
            let mut rest = [0; 4 << 10];
            let read_rest = async { while matches!(self.stream.read(&mut rest).await, Ok(count) if count > 0) {} };
            let _ = timeout(LINGER, read_rest).await;
        }
    }
}

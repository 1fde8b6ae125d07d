//! `labwire demo`: the engine at work in a temporary folder, with partners of its own. Needs nothing installed: the shipped
//! channels, their tables, templates and sample messages are in the binary.

mod peer;
mod site;
mod tell;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use super::{ExitCode, complain, print_line};
use crate::engine::Engine;
use crate::journal::{Disk, Journal, MessageState, Story};
use crate::message::MessageId;
use crate::server::Server;

use peer::Peer;
use site::{Exhibit, Input, Site};

/// Everything must have arrived after so long.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// End when every message has arrived, instead of staying for you to look around
    #[arg(long)]
    once: bool,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Demo {
    pub(super) fn run(self) -> ExitCode {
        let _logs = super::logs::start(LevelFilter::ERROR);
        let result = super::runtime().map_err(Failure::from).and_then(|runtime| {
            let result = runtime.block_on(self.show());
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        });
        match result {
            Ok(true) => ExitCode::Done,
            Ok(false) => ExitCode::No,
            Err(error) => {
                complain(error);
                ExitCode::No
            }
        }
    }

    /// True when every message arrived and was what the channel's test expects.
    async fn show(self) -> Result<bool, Failure> {
        // Before anything is made: a signal must not leave the folder and the key in it behind.
        let mut signals = Signals::new()?;
        let site = Site::build().await?;
        let data = site.folder().join("data");
        let journal: Arc<dyn Journal> = Arc::new(tokio::task::spawn_blocking(move || Disk::open(&data)).await??);
        let engine = Engine::start(&site.folder().join("channels"), journal.clone()).await?;
        if let Some(mistake) = engine.diagnostics().first() {
            return Err(mistake.to_string().into());
        }
        let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let api = server.address();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(engine.clone(), stop.clone()));
        let right = tokio::select! {
            right = show_all(&site, &engine, api) => right?,
            () = signals.any() => {
                signals.seen = true;
                false
            }
        };
        if !self.once && !signals.seen {
            tell::invite(&site, &engine, api);
            signals.any().await;
        }
        stop.cancel();
        engine.stop().await;
        serving.await??;
        journal.close().await?;
        site.close().await;
        Ok(right)
    }
}

/// What ends the demo: Ctrl-C, and the SIGTERM of whoever started it.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    seen: bool,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Signals { terminate, interrupt, seen: false })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn show_all(site: &Site, engine: &Engine, api: SocketAddr) -> Result<bool, Failure> {
    tell::introduce(site, engine, api);
    let start = Instant::now();
    let mut wrong = 0;
    for (number, exhibit) in (1..).zip(site.exhibits()) {
        wrong += usize::from(!show_exhibit(number, exhibit, site, engine, api).await?);
    }
    let count = site.exhibits().len();
    print_line(&format!(
        "{} of {count} messages arrived as expected, in {:.1} s; all of it is in the journal at {}",
        count - wrong,
        start.elapsed().as_secs_f64(),
        site.folder().join("data").display()
    ));
    Ok(wrong == 0)
}

async fn show_exhibit(
    number: usize,
    exhibit: &Exhibit,
    site: &Site,
    engine: &Engine,
    api: SocketAddr,
) -> Result<bool, Failure> {
    let started = Instant::now();
    let (id, answer) = hand_in(exhibit, engine, api).await?;
    let answered = started.elapsed();
    let story = come_to_rest(engine, id).await?;
    let arrived = site.arrived(exhibit, &story)?;
    let comparison = site.compare(exhibit, &arrived, engine);
    tell::way(number, exhibit, &answer, answered, &story, &arrived, &comparison);
    Ok(story.summary.state == MessageState::Sent && comparison.differences.is_empty())
}

/// Posts an event or sends a message; gives the message's id and what was answered.
async fn hand_in(exhibit: &Exhibit, engine: &Engine, api: SocketAddr) -> Result<(MessageId, String), Failure> {
    match exhibit.input {
        Input::Event(event) => {
            let answered = tokio::task::spawn_blocking(move || post(api, event)).await??;
            let id = answered
                .pointer("/messages/0/id")
                .and_then(serde_json::Value::as_str)
                .ok_or("the event fired no channel")?;
            Ok((id.parse()?, "202 Accepted".to_owned()))
        }
        Input::Hl7(message) => {
            let channel = engine.channel(exhibit.channel).ok_or("the channel is not loaded")?;
            let address = channel.listens_on().ok_or_else(|| format!("{}: {:?}", exhibit.channel, channel.state()))?;
            let exchange = move || -> Result<_, Failure> {
                let mut connection = super::send::Connection::open(&address.to_string(), Duration::from_secs(10))?;
                connection.exchange(message)?.ok_or_else(|| "the message asks for no answer".into())
            };
            let reply = tokio::task::spawn_blocking(exchange).await??;
            let control_id = crate::hl7::Header::scan(message)
                .map(|header| String::from_utf8_lossy(header.control_id()).into_owned());
            let query = crate::journal::Query {
                refs: control_id.into_iter().map(|id| (crate::message::RefKind::ControlId, id)).collect(),
                limit: 1,
                ..Default::default()
            };
            let found = engine.journal().search(&query)?.messages.first().map(|summary| summary.id);
            Ok((
                found.ok_or("the message is not in the journal")?,
                format!("{} of MSH-10 {}", reply.code, String::from_utf8_lossy(&reply.control_id)),
            ))
        }
    }
}

fn post(api: SocketAddr, event: &'static [u8]) -> Result<serde_json::Value, Failure> {
    let request = ureq::post(format!("http://{api}/api/v1/events")).content_type("application/json");
    Ok(request.send(event)?.body_mut().read_json()?)
}

/// Waits until nothing of a message waits any more.
async fn come_to_rest(engine: &Engine, id: MessageId) -> Result<Story, Failure> {
    let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
    loop {
        let story = engine.journal().story(id)?.ok_or("the message is not in the journal")?;
        let rests = !matches!(story.summary.state, MessageState::Received | MessageState::Queued);
        if rests || tokio::time::Instant::now() > deadline {
            return Ok(story);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

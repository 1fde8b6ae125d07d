//! `labwire run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};

use super::{ExitCode, complain, print_line};
use crate::channel::State;
use crate::config::ByteSize;
use crate::engine::{Engine, Retention, note_clock_jumps};
use crate::journal::{Amount, Disk, Journal, Margins};
use crate::server::Server;

/// Everything must have stopped after so long; what then still runs is cut off, and repeated after the next start.
const STOP_WITHIN: Duration = Duration::from_secs(9);

/// Requests that are under way when the engine stops may take so long.
const API_STOPS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Folder of channel files
    #[arg(long, default_value = "channels", env = "LABWIRE_CHANNELS")]
    channels: PathBuf,
    /// Folder of the journal
    #[arg(long, default_value = "data", env = "LABWIRE_DATA")]
    data: PathBuf,
    /// Address of the HTTP API: on this machine (loopback) only; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8080", env = "LABWIRE_LISTEN")]
    listen: SocketAddr,
    /// Below this much free space on the journal's disk, files are left where they are: "2GiB", or a part of the disk, "10%" (if
    /// not given: 10 %, but at least 256 MiB and at most 1 GiB)
    #[arg(long, value_parser = amount, env = "LABWIRE_DISK_LOW", value_name = "SIZE")]
    disk_low: Option<Amount>,
    /// Below this much, nothing is taken in; what is there still goes out (if not given: 5 %, but at least 128 MiB and at most
    /// 256 MiB)
    #[arg(long, value_parser = amount, env = "LABWIRE_DISK_RESERVE", value_name = "SIZE")]
    disk_reserve: Option<Amount>,
    /// The content of messages is kept for so long: "30d". What is unsent, or a dead letter, is kept for ever
    #[arg(long, value_parser = duration, default_value = "30d", env = "LABWIRE_KEEP", value_name = "TIME")]
    keep: Duration,
    /// What is known of messages without their content (states, references, attempts, who and why) is kept for so long, and not
    /// shorter than the content (if not given: 180 days, or as long as the content where that is longer)
    #[arg(long, value_parser = duration, env = "LABWIRE_KEEP_METADATA", value_name = "TIME")]
    keep_metadata: Option<Duration>,
    /// When more than this much of the journal's disk is used, the oldest messages go before their time, first their content, then
    /// the rest, but none that is younger than a day: "80%", or a size
    #[arg(long, value_parser = amount, default_value = "80%", env = "LABWIRE_PRUNE_AT", value_name = "SIZE")]
    prune_at: Amount,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = crate::config::Duration::parse(text).map(crate::config::Duration::get);
    duration.filter(|duration| !duration.is_zero()).ok_or_else(|| "write a time, as in 30d or 72h".to_owned())
}

/// What is known of messages is kept for so long, where nothing else is said.
const KEEP_METADATA: Duration = Duration::from_secs(180 * 24 * 3600);

/// A size or a part of a disk.
fn amount(text: &str) -> Result<Amount, String> {
    let percent = text.strip_suffix('%').map(|number| number.trim_end().parse::<u8>());
    match percent {
        Some(Ok(percent @ 0..=100)) => Ok(Amount::Percent(percent)),
        Some(_) => Err("a part of the disk is a whole number from 0 to 100 and %".to_owned()),
        None => ByteSize::parse(text)
            .map(|size| Amount::Bytes(size.bytes() as u64))
            .ok_or_else(|| "write a size, as in 512MiB, or a part of the disk, as in 5%".to_owned()),
    }
}

impl Run {
    pub(super) fn run(self) -> ExitCode {
        if !self.listen.ip().is_loopback() {
            complain(format!(
                "--listen {}: the API has no keys yet, so it listens on loopback only: use 127.0.0.1:{}",
                self.listen,
                self.listen.port()
            ));
            return ExitCode::Usage;
        }
        if self.keep_metadata.is_some_and(|metadata| metadata < self.keep) {
            complain(
                "--keep-metadata: is shorter than --keep; what is known of a message is kept at least as long as its content: \
                 give both the same time to let them go together",
            );
            return ExitCode::Usage;
        }
        if !self.channels.is_dir() {
            complain(format!("--channels {}: there is no such folder", self.channels.display()));
            return ExitCode::Usage;
        }
        let logs = super::logs::start(LevelFilter::INFO);
        let result = super::runtime().map_err(Into::into).and_then(|runtime| {
            let result = runtime.block_on(self.serve());
            runtime.shutdown_timeout(Duration::from_millis(500));
            result
        });
        // What is said at the end comes after the log.
        drop(logs);
        result.unwrap_or_else(|error| {
            complain(error);
            ExitCode::No
        })
    }

    async fn serve(self) -> Result<ExitCode, Box<dyn std::error::Error>> {
        // Before anything is opened, so that a signal that comes early is not lost.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let data = self.data.clone();
        let journal = tokio::task::spawn_blocking(move || Disk::open(&data)).await??;
        let margins = Margins { low: self.disk_low, reserve: self.disk_reserve };
        let journal: Arc<dyn Journal> = Arc::new(journal.with_margins(margins));
        for damage in journal.damage() {
            error!(damage, "the journal is damaged; everything else in it is intact");
        }
        let server = Server::bind(self.listen).await.map_err(|error| format!("--listen {}: {error}", self.listen))?;
        let api = server.address();
        let engine = Engine::start(&self.channels, journal.clone()).await?;
        announce(&engine, api);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(engine.clone(), stop.clone()));
        let watching = tokio::spawn(engine.clone().watch(stop.clone()));
        let clock = tokio::spawn(note_clock_jumps(stop.clone()));
        let keep_metadata = self.keep_metadata.unwrap_or(KEEP_METADATA.max(self.keep));
        let retention = Retention { keep: self.keep, keep_metadata, prune_at: self.prune_at };
        let retaining = tokio::spawn(engine.clone().retain(retention, stop.clone()));
        let warning = tokio::spawn(engine.clone().warn(stop.clone()));
        let failed = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            error = journal.failed() => Some(error),
        };
        match &failed {
            None => info!("stopping"),
            Some(error) => error!(%error, "stopping"),
        }
        stop.cancel();
        let stopping = async {
            engine.stop().await;
            // A client that is slow to send its request does not keep the journal from being closed well.
            let _ = tokio::time::timeout(API_STOPS_WITHIN, serving).await;
            let _ = watching.await;
            let _ = retaining.await;
            let _ = clock.await;
            let _ = warning.await;
            journal.close().await
        };
        tokio::select! {
            result = tokio::time::timeout(STOP_WITHIN, stopping) => match result {
                Ok(Ok(())) => info!("stopped"),
                Ok(Err(error)) => warn!(%error, "the journal was not closed"),
                Err(_) => warn!("something did not stop in time; it is cut off, and repeated after the next start"),
            },
            _ = terminate.recv() => warn!("stopped at once, on a second signal"),
            _ = interrupt.recv() => warn!("stopped at once, on a second signal"),
        }
        Ok(if failed.is_some() { ExitCode::No } else { ExitCode::Done })
    }
}

/// One line for each listener with its real address, then `ready`.
fn announce(engine: &Engine, api: SocketAddr) {
    for channel in engine.channels() {
        match (channel.listens_on(), channel.state()) {
            (Some(address), _) => print_line(&format!("channel {} listens on {address}", channel.name())),
            (None, State::Failed { reason }) => print_line(&format!("channel {} failed: {reason}", channel.name())),
            (None, _) => {}
        }
    }
    print_line(&format!("api listens on http://{api}"));
    print_line("ready");
}

//! The engine under measurement: its own process on a journal of its own, as an operator runs it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use super::Failure;
use super::process::{Process, Processes, Usage};
use crate::journal::MessageState;

/// An engine on which nothing moves for so long while something is left to do is stuck.
const MOVES_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// A channel's name and its file.
pub(super) type ChannelFile = (String, String);

pub(super) struct Engine {
    process: Process,
    folder: PathBuf,
    api: String,
    listeners: BTreeMap<String, String>,
    /// Messages that it has accepted.
    accepted: AtomicU64,
}

/// Messages per state.
pub(super) type States = BTreeMap<String, u64>;

#[derive(Deserialize)]
struct Listed {
    channels: Vec<Listing>,
}

#[derive(Deserialize)]
struct Listing {
    name: String,
    messages: States,
}

impl Engine {
    /// Starts it on these channels, in a folder of its own below `site`.
    pub(super) fn start(
        processes: &Processes,
        site: &Path,
        name: &str,
        channels: &[ChannelFile],
    ) -> Result<Engine, Failure> {
        let folder = site.join(name);
        std::fs::create_dir_all(folder.join("channels"))?;
        for (name, text) in channels {
            std::fs::write(folder.join("channels").join(format!("{name}.toml")), text)?;
        }
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", "--listen", "127.0.0.1:0", "--channels"]).arg(folder.join("channels"));
        command.arg("--data").arg(folder.join("data")).env_remove("LABWIRE_LOG");
        command.stdin(Stdio::null()).stderr(log);
        let (mut listeners, mut api) = (BTreeMap::new(), String::new());
        let process = processes.start(&mut command, |line| {
            if let Some((name, address)) =
                line.strip_prefix("channel ").and_then(|rest| rest.split_once(" listens on "))
            {
                listeners.insert(name.to_owned(), address.to_owned());
            } else if let Some(address) = line.strip_prefix("api listens on ") {
                api = address.to_owned();
            }
            line == "ready"
        });
        let process = process.map_err(|error| {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            format!("{error}; the engine's log:\n{log}")
        })?;
        if let Some((missing, _)) = channels.iter().find(|(name, _)| !listeners.contains_key(name)) {
            return Err(format!("channel {missing} does not listen").into());
        }
        Ok(Engine { process, folder, api, listeners, accepted: AtomicU64::new(0) })
    }

    /// Where a channel listens.
    pub(super) fn listener(&self, channel: &str) -> String {
        self.listeners.get(channel).cloned().unwrap_or_default()
    }

    /// Where all of them listen.
    pub(super) fn listeners(&self) -> Vec<String> {
        self.listeners.values().cloned().collect()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn usage(&self) -> Result<Usage, Failure> {
        self.process.usage()
    }

    /// How many messages of which channel are in which state.
    pub(super) fn states(&self) -> Result<BTreeMap<String, States>, Failure> {
        let mut response = ureq::get(format!("{}/api/v1/channels", self.api)).call()?;
        let listed: Listed = response.body_mut().with_config().limit(1 << 26).read_json()?;
        Ok(listed.channels.into_iter().map(|listing| (listing.name, listing.messages)).collect())
    }

    /// The same over all channels.
    pub(super) fn all_states(&self) -> Result<States, Failure> {
        let mut all = States::new();
        for (state, count) in self.states()?.into_values().flatten() {
            *all.entry(state).or_default() += count;
        }
        Ok(all)
    }

    /// Bytes that its journal takes on the disk now.
    pub(super) fn disk_bytes(&self) -> u64 {
        bytes_below(&self.folder.join("data"))
    }

    /// Removes what is finished and was received before a time.
    pub(super) fn prune(&self, before: Timestamp) -> Result<(), Failure> {
        let url = format!("{}/api/v1/journal/prune", self.api);
        ureq::post(url).send_json(serde_json::json!({ "before": before.to_string() }))?;
        Ok(())
    }

    /// Waits until so many more messages are there and nothing is left to do with any; in a channel of which `keeps` says yes, deliveries may stay queued.
    pub(super) fn drain(&self, accepted: u64, keeps: impl Fn(&str) -> bool) -> Result<(), Failure> {
        let accepted = self.accepted.fetch_add(accepted, Relaxed) + accepted;
        let mut before = None;
        let mut moved = Instant::now();
        loop {
            let states = self.states()?;
            let left = |(name, states): (&String, &States)| {
                let of = |state: MessageState| states.get(state.as_str()).copied().unwrap_or_default();
                of(MessageState::Received) + if keeps(name) { 0 } else { of(MessageState::Queued) }
            };
            let there: u64 = states.values().flat_map(BTreeMap::values).sum();
            if there >= accepted && states.iter().map(left).sum::<u64>() == 0 {
                return Ok(());
            }
            if before.as_ref() != Some(&states) {
                (before, moved) = (Some(states), Instant::now());
            } else if moved.elapsed() > MOVES_WITHIN {
                return Err(format!("the engine does nothing for {MOVES_WITHIN:?}: {states:?}").into());
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Ends it well; gives the bytes on disk that its messages came to.
    pub(super) fn stop(self) -> Result<u64, Failure> {
        let status = self.process.stop()?;
        if !status.success() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            return Err(format!("the engine ended with {status}; its log:\n{log}").into());
        }
        Ok(bytes_below(&self.folder.join("data")))
    }
}

/// What the disk has given to the files below a folder, as `du` counts.
fn bytes_below(folder: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    });
    bytes.sum()
}

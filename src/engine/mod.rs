//! The engine: all the channels, one journal, and how channel files that change take effect.

mod clock;
mod events;
mod moves;
mod orphans;
mod reload;
mod retention;
mod warnings;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tracing::{error, info};

use crate::channel::{self, Channel, ChannelContext, ChannelSpec};
use crate::diagnostic::Diagnostic;
use crate::journal::Journal;
use crate::message::MessageIds;

pub use clock::note_clock_jumps;
pub use events::{EventProblem, FireError, Fired};
pub use reload::Reloaded;
pub use retention::{Retention, oldest};

/// All the channels of one folder, at work over one journal.
pub struct Engine {
    folder: PathBuf,
    context: ChannelContext,
    channels: RwLock<BTreeMap<String, Arc<Channel>>>,
    diagnostics: RwLock<Vec<Diagnostic>>,
    /// The channel files as they were when they were last read.
    seen: Mutex<watch::Signature>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    /// Whether a channel's new source could not be opened at the last reload.
    has_stuck: AtomicBool,
    stopping: AtomicBool,
}

impl Engine {
    /// Reads the folder's channel files and starts the channels. Files with mistakes are reported and left out: the others work.
    pub async fn start(folder: &Path, journal: Arc<dyn Journal>) -> std::io::Result<Arc<Engine>> {
        let engine = Arc::new(Engine {
            folder: folder.to_owned(),
            context: ChannelContext {
                journal,
                ids: Arc::default(),
                doors: Arc::default(),
                transforming: Arc::new(Semaphore::new(channel::TRANSFORMING_CHANNELS)),
            },
            channels: RwLock::default(),
            diagnostics: RwLock::default(),
            seen: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            has_stuck: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        // Before the files are read: what changes from now on is seen as a change.
        engine.look();
        let set = channel::load_folder(folder)?;
        engine.show(set.diagnostics);
        for spec in set.channels {
            engine.add(spec).await;
        }
        engine.warn_of_orphans();
        Ok(engine)
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.context.journal
    }

    /// Where message ids come from.
    pub fn ids(&self) -> &MessageIds {
        &self.context.ids
    }

    /// The channels, by name.
    pub fn channels(&self) -> Vec<Arc<Channel>> {
        self.channels.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The channel of this name.
    pub fn channel(&self, name: &str) -> Option<Arc<Channel>> {
        self.channels.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The mistakes in channel files, as of the last reading.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        self.diagnostics.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops all channels at a message boundary, for good: no reload starts any after this.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stop_all().await;
        // A reload that was under way may have started one meanwhile.
        let _no_reload = self.reloading.lock().await;
        self.stop_all().await;
    }

    async fn stop_all(&self) {
        let channels = self.channels();
        join_all(channels.iter().map(|channel| channel.stop())).await;
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    async fn add(&self, spec: ChannelSpec) {
        let enabled = spec.enabled;
        let channel = Arc::new(Channel::new(spec, self.context.clone()));
        self.channels
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(channel.name().to_owned(), channel.clone());
        if enabled {
            channel.start().await;
        }
        info!(channel = channel.name(), enabled, "channel loaded");
    }

    fn show(&self, diagnostics: Vec<Diagnostic>) {
        let mut shown = self.diagnostics.write().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<String> = shown.iter().map(ToString::to_string).collect();
        for line in diagnostics.iter().map(ToString::to_string).filter(|line| !known.contains(line)) {
            error!("{line}");
        }
        *shown = diagnostics;
    }
}

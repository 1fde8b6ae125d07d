//! Reload: read all the files, compare, and touch only what changed. A file with a mistake changes nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use tracing::{error, info, warn};

use super::Engine;
use crate::channel::{self, Channel, ChannelSpec};

/// What a reload did, by channel name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// New channels.
    pub added: Vec<String>,
    /// Channels whose file changed.
    pub changed: Vec<String>,
    /// Channels whose file is gone.
    pub removed: Vec<String>,
    /// Channels whose new version could not be used; the old one goes on.
    pub kept: Vec<String>,
}

impl Engine {
    /// Reads the channel files again and puts what changed into effect.
    pub async fn reload(&self) -> Reloaded {
        let _one_at_a_time = self.reloading.lock().await;
        let mut done = Reloaded::default();
        let set = match channel::load_folder(&self.folder) {
            Ok(set) => set,
            Err(error) => {
                error!(%error, "the channel folder cannot be read; everything goes on as it was");
                return done;
            }
        };
        let broken: BTreeSet<String> = set.diagnostics.iter().map(|diagnostic| diagnostic.file.name.clone()).collect();
        let readable: BTreeSet<String> = set.channels.iter().map(|spec| spec.file.name.clone()).collect();
        let is_broken = |file: &str| {
            broken.contains(file) || (!readable.contains(file) && set.files.iter().any(|path| path == Path::new(file)))
        };

        let wanted: BTreeSet<String> = set.channels.iter().map(|spec| spec.name.to_string()).collect();
        for channel in self.channels() {
            let file = channel.spec().file.name.clone();
            if wanted.contains(channel.name()) {
                continue;
            }
            if is_broken(&file) {
                warn!(channel = channel.name(), file, "its file has mistakes; the last good version goes on");
                done.kept.push(channel.name().to_owned());
            } else {
                self.remove(&channel).await;
                done.removed.push(channel.name().to_owned());
            }
        }
        let mut changed = Vec::new();
        let mut added = Vec::new();
        for spec in set.channels {
            match self.channel(&spec.name) {
                Some(channel) if channel.spec().parts == spec.parts => {}
                Some(channel) => changed.push((channel, spec)),
                None => added.push(spec),
            }
        }
        self.replace_all(changed, &mut done).await;
        for spec in added {
            done.added.push(spec.name.to_string());
            self.add(spec).await;
        }
        self.show(set.diagnostics);
        done
    }

    async fn remove(&self, channel: &Arc<Channel>) {
        channel.stop().await;
        self.channels.write().unwrap_or_else(PoisonError::into_inner).remove(channel.name());
        info!(
            channel = channel.name(),
            "its file is gone: the channel is stopped; what waits in its queues stays in the journal"
        );
    }

    async fn replace_all(&self, changed: Vec<(Arc<Channel>, ChannelSpec)>, done: &mut Reloaded) {
        for (channel, spec) in changed {
            let name = channel.name().to_owned();
            let enabled = spec.enabled;
            let was_enabled = channel.spec().enabled;
            match channel.replace(spec).await {
                Ok(()) => {
                    match (was_enabled, enabled) {
                        (true, false) => channel.stop().await,
                        (false, true) => channel.start().await,
                        _ => {}
                    }
                    info!(channel = name, "its new version is in effect");
                    done.changed.push(name);
                }
                Err(error) => {
                    error!(channel = name, %error, "its new version cannot be used; the last good version goes on");
                    done.kept.push(name);
                }
            }
        }
    }
}

//! Reload: read all the files, compare, and touch only what changed. A file with a mistake changes nothing.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tracing::{error, info, warn};

use super::Engine;
use super::moves::{self, Stuck};
use super::watch::LOOK_EVERY;
use crate::channel::{self, Channel, ChannelSpec, Set};
use crate::diagnostic::{self, Diagnostic, SourceFile};

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

impl Reloaded {
    fn has_effect(&self) -> bool {
        !(self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty())
    }
}

impl Engine {
    /// Reads the channel files again and puts what changed into effect. Does nothing once the engine stops.
    pub async fn reload(&self) -> Reloaded {
        let _one_at_a_time = self.reloading.lock().await;
        let mut done = Reloaded::default();
        if self.is_stopping() {
            return done;
        }
        let running: Vec<Arc<ChannelSpec>> = self.channels().iter().map(|channel| channel.spec()).collect();
        let mut set = match channel::load_folder_beside(&self.folder, &running) {
            Ok(set) => set,
            Err(error) => {
                error!(%error, "the channel folder cannot be read; everything goes on as it was");
                return done;
            }
        };
        self.keep_or_remove(&set, &mut done).await;
        let mut changed = Vec::new();
        let mut added = Vec::new();
        for spec in std::mem::take(&mut set.channels) {
            match self.channel(&spec.name) {
                Some(channel) if channel.spec().parts == spec.parts => {}
                Some(channel) => changed.push((channel, spec)),
                None => added.push(spec),
            }
        }
        let stuck = self.replace_all(changed, &mut done).await;
        self.has_stuck.store(!stuck.is_empty(), Ordering::Relaxed);
        for spec in added {
            if self.is_stopping() {
                break;
            }
            done.added.push(spec.name.to_string());
            self.add(spec).await;
        }
        set.diagnostics.extend(stuck);
        diagnostic::sort(&mut set.diagnostics);
        self.show(set.diagnostics);
        if done.has_effect() {
            self.warn_of_orphans();
        }
        done
    }

    /// Stops the channels whose files are gone; those whose files have mistakes go on.
    async fn keep_or_remove(&self, set: &Set, done: &mut Reloaded) {
        for channel in self.channels() {
            let spec = channel.spec();
            if set.channels.iter().any(|wanted| wanted.name == spec.name) {
                continue;
            }
            if set.keeps(&spec) {
                // Once, not at each try to open another channel's source.
                if !self.diagnostics().iter().any(|shown| shown.file.name == spec.file.name) {
                    let file = &spec.file.name;
                    warn!(channel = channel.name(), file, "its file has mistakes; the last good version goes on");
                }
                done.kept.push(channel.name().to_owned());
            } else {
                self.remove(&channel).await;
                done.removed.push(channel.name().to_owned());
            }
        }
    }

    async fn remove(&self, channel: &Arc<Channel>) {
        channel.stop().await;
        self.channels.write().unwrap_or_else(PoisonError::into_inner).remove(channel.name());
        info!(
            channel = channel.name(),
            "its file is gone: the channel is stopped; what waits in its queues stays in the journal"
        );
    }

    /// Ports that become free come first, then those that change hands, then what leaves ports alone. Gives what could not be
    /// done.
    async fn replace_all(&self, changed: Vec<(Arc<Channel>, ChannelSpec)>, done: &mut Reloaded) -> Vec<Diagnostic> {
        let (mut moving, mut staying) = (Vec::new(), Vec::new());
        for (channel, spec) in changed {
            if !spec.enabled {
                channel.stop().await;
            }
            let moves = spec.enabled && channel.takes_in() && channel.spec().source_text != spec.source_text;
            if moves { moving.push((channel, spec)) } else { staying.push((channel, spec)) }
        }
        let (moved, stuck) = moves::make(moving).await;
        for channel in moved {
            in_effect(&channel, done);
        }
        let mut diagnostics = Vec::new();
        for Stuck { channel, spec, error } in stuck {
            diagnostics.push(unopened(&spec.file, &spec.source_span, &error));
            done.kept.push(channel.name().to_owned());
        }
        for (channel, spec) in staying {
            let starts = spec.enabled && !channel.spec().enabled;
            let (file, span) = (spec.file.clone(), spec.source_span.clone());
            if let Err(error) = channel.replace(spec).await {
                // Somebody resumed it between our look and now.
                diagnostics.push(unopened(&file, &span, &error.to_string()));
                done.kept.push(channel.name().to_owned());
                continue;
            }
            if starts && !self.is_stopping() {
                channel.start().await;
            }
            in_effect(&channel, done);
        }
        diagnostics
    }
}

fn in_effect(channel: &Channel, done: &mut Reloaded) {
    info!(channel = channel.name(), "its new version is in effect");
    done.changed.push(channel.name().to_owned());
}

/// Shown for as long as it lasts: somebody waits for this change to take effect.
fn unopened(file: &Arc<SourceFile>, span: &Range<usize>, error: &str) -> Diagnostic {
    Diagnostic {
        file: file.clone(),
        span: span.clone(),
        message: format!("its new version cannot be used: {error}"),
        label: String::new(),
        help: Some(format!("the last good version goes on; tried again every {} s", LOOK_EVERY.as_secs())),
    }
}

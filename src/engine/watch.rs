//! Watches the channel folder: by the system's notices, and by looking now and then, because notices get lost on network
//! folders and do not come for files that channels name elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use notify::event::{CreateKind, ModifyKind, RemoveKind};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Engine;

/// After a notice, so long without another before the files are read: editors save in several steps.
const QUIET: Duration = Duration::from_millis(150);
/// But no longer than this: a file that is written all the time must not keep the others from taking effect.
const QUIET_AT_MOST: Duration = Duration::from_secs(2);
/// How often to look without a notice.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Name, time and size of every file that matters.
pub(super) type Signature = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

impl Engine {
    /// Puts changes of the channel files into effect until `stop`.
    pub async fn watch(self: Arc<Engine>, stop: CancellationToken) {
        let (notices, mut noticed) = mpsc::channel::<()>(1);
        let engine = self.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may mean that notices were lost.
            if event.as_ref().map_or(true, |event| engine.concerns(event)) {
                // Full means that a notice is waiting already.
                let _ = notices.try_send(());
            }
        });
        let watched = match &mut watcher {
            Ok(watcher) => watcher.watch(&self.folder, RecursiveMode::Recursive).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = watched {
            warn!(%error, "the system does not watch the channel folder; it is looked at every {} s", LOOK_EVERY.as_secs());
        }
        while !stop.is_cancelled() {
            // A source that could not be opened is tried again at every look, although no file changed.
            if self.look() | self.has_stuck.load(Ordering::Relaxed) {
                self.reload().await;
            }
            tokio::select! {
                Some(()) = noticed.recv() => {}
                () = tokio::time::sleep(LOOK_EVERY) => continue,
                () = stop.cancelled() => return,
            }
            tokio::select! {
                _ = tokio::time::timeout(QUIET_AT_MOST, settle(&mut noticed)) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether a notice is about a folder or about a file that a channel is made of. Looking at files is no change.
    fn concerns(&self, event: &notify::Event) -> bool {
        let is_folder =
            matches!(event.kind, EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder))
                || (matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)))
                    && event.paths.iter().any(|path| path.is_dir()));
        if event.need_rescan() || is_folder {
            return true;
        }
        if event.kind.is_access() {
            return false;
        }
        // By file name: the system may name the folder otherwise than we do.
        let is_part = |path: &Path| {
            self.channels()
                .iter()
                .any(|channel| channel.spec().parts.keys().any(|part| part.file_name() == path.file_name()))
        };
        event.paths.iter().any(|path| {
            let in_parts = path.parent().is_some_and(|folder| folder.iter().any(|name| holds_parts(name.to_str())));
            is_channel_file(path) || in_parts || is_part(path)
        })
    }

    /// Whether a file changed since the last look: one in the folder, or one that a channel names elsewhere. Once too often is
    /// fine: a reload compares contents.
    pub(super) fn look(&self) -> bool {
        let mut now = Signature::new();
        walk(&self.folder, &mut now, false, 0);
        for channel in self.channels() {
            channel.spec().parts.keys().for_each(|path| note(path, &mut now));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = now != *seen;
        *seen = now;
        changed
    }
}

async fn settle(noticed: &mut mpsc::Receiver<()>) {
    while tokio::time::timeout(QUIET, noticed.recv()).await.is_ok_and(|notice| notice.is_some()) {}
}

/// A folder whose files channels name.
fn holds_parts(folder: Option<&str>) -> bool {
    matches!(folder, Some("templates" | "tables"))
}

fn is_channel_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".toml") && !name.starts_with('.')
}

/// Notes the channel files, and what lies in folders of templates and tables: a file with mistakes may name them, too.
fn walk(folder: &Path, signature: &mut Signature, all: bool, depth: usize) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth < 16 && name != "secrets" {
                walk(&path, signature, all || holds_parts(Some(name)), depth + 1);
            }
        } else if all || is_channel_file(&path) {
            note(&path, signature);
        }
    }
}

fn note(path: &Path, signature: &mut Signature) {
    let found = std::fs::metadata(path).map(|metadata| (metadata.modified().ok(), metadata.len()));
    signature.insert(path.to_owned(), found.unwrap_or((None, 0)));
}

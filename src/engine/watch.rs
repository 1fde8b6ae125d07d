//! Watches the channel folder: by the system's notices, and by looking now and then, because notices get lost on network
//! folders and do not come for files that channels name elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Engine;

/// After a notice, so long without another before the files are read: editors save in several steps.
const QUIET: Duration = Duration::from_millis(150);
/// How often to look without a notice.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Name, time and size of every file that matters.
pub(super) type Signature = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

impl Engine {
    /// Puts changes of the channel files into effect until `stop`.
    pub async fn watch(self: Arc<Engine>, stop: CancellationToken) {
        let (notices, mut noticed) = mpsc::channel::<()>(1);
        let mut watcher = notify::recommended_watcher(move |_| {
            // Full means that a notice is waiting already.
            let _ = notices.try_send(());
        });
        let watched = match &mut watcher {
            Ok(watcher) => watcher.watch(&self.folder, RecursiveMode::Recursive).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = watched {
            warn!(%error, "the system does not watch the channel folder; it is looked at every {} s", LOOK_EVERY.as_secs());
        }
        loop {
            if self.look() {
                self.reload().await;
            }
            tokio::select! {
                Some(()) = noticed.recv() => settle(&mut noticed).await,
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether a file changed since the last look: one in the folder, or one that a channel names elsewhere. Once too often is
    /// fine: a reload compares contents.
    pub(super) fn look(&self) -> bool {
        let mut now = Signature::new();
        walk(&self.folder, &mut now, 0);
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

fn walk(folder: &Path, signature: &mut Signature, depth: usize) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth < 16 { walk(&path, signature, depth + 1) } else { note(&path, signature) }
    }
}

fn note(path: &Path, signature: &mut Signature) {
    let found = std::fs::metadata(path).map(|metadata| (metadata.modified().ok(), metadata.len()));
    signature.insert(path.to_owned(), found.unwrap_or((None, 0)));
}

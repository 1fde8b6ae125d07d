//! What somebody should see to soon, although everything works: said in the log once a day, and shown for as long as it lasts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Engine;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl Engine {
    /// What somebody should see to soon, with the channel that it concerns: `channel results: source: our certificate …`. Reads
    /// files.
    pub fn warnings(&self) -> Vec<String> {
        let now = Timestamp::now();
        let of = |channel: &Arc<crate::channel::Channel>| {
            let spec = channel.spec();
            let found = if spec.enabled { spec.warnings(now) } else { Vec::new() };
            found.into_iter().map(move |warning| format!("channel {}: {warning}", spec.name)).collect::<Vec<_>>()
        };
        self.channels().iter().flat_map(of).collect()
    }

    /// Logs warnings until `stop`: each when it comes up, and anew when its text changes, as it does from day to day.
    pub async fn warn(self: Arc<Engine>, stop: CancellationToken) {
        let mut said = BTreeSet::new();
        while !stop.is_cancelled() {
            let engine = self.clone();
            // Files may lie on a network that does not answer.
            let Ok(now) = tokio::task::spawn_blocking(move || engine.warnings()).await else { return };
            let now: BTreeSet<String> = now.into_iter().collect();
            for warning in now.difference(&said) {
                warn!("{warning}");
            }
            said = now;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

//! What waits in the journal although no channel file speaks of it: after a channel or a destination was renamed or removed.

use std::collections::BTreeMap;

use tracing::warn;

use super::Engine;
use crate::journal::Waiting;

impl Engine {
    /// What waits without an owner, one sentence each. It was acknowledged, so somebody has to know.
    pub fn orphans(&self) -> Vec<String> {
        let waiting = match self.context.journal.waiting() {
            Ok(waiting) => waiting,
            Err(error) => return vec![error.to_string()],
        };
        let loaded: BTreeMap<String, Vec<String>> = self
            .channels()
            .iter()
            .map(|channel| {
                let destinations = &channel.spec().destinations;
                (
                    channel.name().to_owned(),
                    destinations.iter().map(|destination| destination.name.to_string()).collect(),
                )
            })
            .collect();
        let sentence = |waiting: Waiting| match waiting {
            Waiting::Messages { channel, .. } if loaded.contains_key(&channel) => None,
            Waiting::Messages { channel, count } => {
                let what = if count == 1 { "1 message waits".to_owned() } else { format!("{count} messages wait") };
                Some(format!("channel `{channel}`: {what} for its transformer, but no such channel is loaded"))
            }
            Waiting::Deliveries { lane, count } => {
                let why = match loaded.get(&lane.channel) {
                    None => "no such channel is loaded",
                    Some(destinations) if destinations.contains(&lane.destination) => return None,
                    Some(_) => "the channel file has no such destination",
                };
                let what = if count == 1 { "1 delivery waits".to_owned() } else { format!("{count} deliveries wait") };
                Some(format!("destination `{}` of channel `{}`: {what}, but {why}", lane.destination, lane.channel))
            }
        };
        waiting.into_iter().filter_map(sentence).collect()
    }

    pub(super) fn warn_of_orphans(&self) {
        for orphan in self.orphans() {
            warn!("{orphan}: give it its name back, and it is sent");
        }
    }
}

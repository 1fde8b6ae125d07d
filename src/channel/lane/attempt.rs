//! One attempt at a delivery.

use bytes::Bytes;

use super::{ChannelSpec, Connector, Lane};
use crate::destination::{Delivered, FaultClass, SendError};
use crate::journal::{DeliveryId, JournalError, Outgoing};

impl Lane {
    /// One attempt, on a connection that is made if there is none.
    pub(super) async fn attempt(
        &self,
        mut connector: Connector,
        spec: &ChannelSpec,
        at: usize,
        delivery: &DeliveryId,
        outgoing: &Outgoing,
    ) -> (Connector, Result<Delivered, SendError>) {
        if connector.is_none() {
            let destination = &spec.destinations[at];
            match destination.config.build(&spec.place(&destination.name, self.journal.folder())).await {
                Ok(mut built) => {
                    built.meet(&self.doors);
                    connector = Some(built);
                }
                Err(error) => return (None, Err(SendError::new(FaultClass::Configuration, error.to_string()))),
            }
        }
        let Some(destination) = &mut connector else {
            return (None, Err(SendError::new(FaultClass::Internal, "there is no connection")));
        };
        if destination.recalls() {
            match self.last_response(delivery) {
                Ok(response) => destination.recall(response),
                Err(error) => return (connector, Err(SendError::new(FaultClass::Internal, error.to_string()))),
            }
        }
        let result = destination.send(outgoing).await;
        (connector, result)
    }

    /// What was answered to the last attempt at a delivery.
    fn last_response(&self, delivery: &DeliveryId) -> Result<Option<Bytes>, JournalError> {
        let Some(story) = self.journal.story(delivery.message)? else { return Ok(None) };
        let ours = story.summary.deliveries.iter().position(|summary| summary.destination == delivery.destination);
        let attempts = ours.and_then(|ours| story.deliveries.into_iter().nth(ours)).map(|story| story.attempts);
        let last = attempts.into_iter().flatten().next_back().and_then(|tried| tried.response);
        last.map(|response| response.into_bytes(delivery.message)).transpose()
    }
}

//! A message that becomes several: each part goes through what is left of the steps, and has deliveries of its own.
//!
//! All of it happens in the whole's turn and is journaled as one event. So the parts leave where the whole would have left in
//! the order of arrival, and whatever kills the engine leaves the whole untouched, or all parts with their deliveries.

use std::sync::Arc;

use super::ChannelSpec;
use super::worker::{Processed, process as process_part};
use crate::hl7;
use crate::journal::{Journal, JournalError, NewPart, Received, Transformed};
use crate::message::{Body, Event, Format, MAX_PARTS, Message, MessageId, Meta, Origin, PartOf, RefKind, Refs};

/// Works out what becomes of a message's parts. `splits`: how many steps that split they have behind them.
pub(super) fn process(spec: &ChannelSpec, whole: &Message, place: &str, bodies: Vec<Body>, splits: u16) -> Processed {
    if bodies.is_empty() {
        return Processed::ended(Transformed::Filtered { place: format!("{place}: there is nothing in it") });
    }
    let count = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
    let mut parts: Vec<NewPart> = Vec::with_capacity(bodies.len());
    let (mut content, mut counted) = (0, 0);
    for (number, body) in (1..).zip(bodies) {
        let id = whole.meta.id.part(number);
        let (format, bytes, mut refs) = (body.format(), body.to_bytes(), Refs::of(&body));
        // A part of an event has no lab of its own.
        refs.add(RefKind::Lab, whole.meta.origin.lab.as_deref().unwrap_or_default());
        let origin = origin(whole, format, PartOf { of: whole.meta.id, number, splits });
        let meta = Meta { id, origin: origin.clone(), ..whole.meta.clone() };
        let Processed { outcome, deliveries, parts: of_part } =
            process_part(spec, Message { meta, body: Arc::new(body), event: whole.event.clone() });
        parts.push(NewPart { id, origin, format, refs, body: bytes, outcome, deliveries });
        parts.extend(of_part);
        content += parts[counted..].iter().map(content_of).sum::<usize>();
        counted = parts.len();
        if content > MAX_CONTENT_BYTES {
            let error = format!("it would become more than {} MiB", MAX_CONTENT_BYTES >> 20);
            return Processed::ended(Transformed::Errored { place: place.to_owned(), error });
        }
        if parts.len() > MAX_PARTS {
            let error = format!("it would become more than {MAX_PARTS} messages");
            return Processed::ended(Transformed::Errored { place: place.to_owned(), error });
        }
    }
    if !fits(&parts) {
        let error =
            "its parts have more deliveries than one record of the journal holds: split it into fewer".to_owned();
        return Processed::ended(Transformed::Errored { place: place.to_owned(), error });
    }
    Processed { outcome: Transformed::Split { parts: count }, deliveries: Vec::new(), parts }
}

/// All parts together, and what is sent of them, are no larger: they are in memory at a time.
const MAX_CONTENT_BYTES: usize = 256 << 20;

/// The bytes of a part and of what is sent of it.
fn content_of(part: &NewPart) -> usize {
    let outgoing = part.deliveries.iter().filter_map(|delivery| delivery.outgoing.as_ref());
    part.body.len() + outgoing.map(|outgoing| outgoing.content.len()).sum::<usize>()
}

/// Whether one record of the journal holds the parts: otherwise the channel would stand still over it.
fn fits(parts: &[NewPart]) -> bool {
    /// A record holds 65,535 bodies and 16 MiB of metadata; something is left for the record's own.
    const MAX_BODIES: usize = 65_000;
    const MAX_META_BYTES: usize = 15 << 20;
    /// Ids, names and times of a part, and of a delivery, beside what is counted.
    const PART_BYTES: usize = 640;
    const DELIVERY_BYTES: usize = 256;
    fn length(value: &impl serde::Serialize) -> usize {
        serde_json::to_vec(value).map_or(usize::MAX >> 32, |json| json.len())
    }
    let (mut bodies, mut bytes) = (0, 0);
    for part in parts {
        bodies += 1;
        bytes += PART_BYTES + length(&part.refs) + length(&part.origin) + length(&part.outcome);
        for delivery in &part.deliveries {
            bodies += usize::from(delivery.outgoing.is_some());
            bytes += DELIVERY_BYTES + delivery.outgoing.as_ref().map_or(0, |outgoing| length(&outgoing.properties));
        }
    }
    bodies <= MAX_BODIES && bytes <= MAX_META_BYTES
}

/// How a part came: as the whole did. Its bytes are ours, so that of what they are read in only HL7's fallback still holds.
fn origin(whole: &Message, format: Format, part: PartOf) -> Origin {
    let origin = whole.meta.origin.clone();
    Origin {
        charset: origin.charset.filter(|_| format == Format::Hl7),
        csv: origin.csv.filter(|_| format == Format::Csv),
        part: Some(Box::new(part)),
        ..origin
    }
}

/// What becomes of a part that is run again through a channel that does not split as often any more.
pub(super) fn no_longer_there() -> Transformed {
    Transformed::Errored {
        place: "split".to_owned(),
        error: "the channel has no such `split` step any more: reprocess the message that this one is a part of"
            .to_owned(),
    }
}

/// The event that a part is of, where the part itself is run again: the whole has it, as long as that is kept.
pub(super) fn event_of(origin: &Origin, journal: &dyn Journal) -> Result<Option<Event>, JournalError> {
    let Some(part) = origin.part.as_ref().filter(|_| origin.action.is_some()) else { return Ok(None) };
    let mut of: MessageId = part.of;
    loop {
        let whole = match journal.received(of) {
            Ok(Some(whole)) => whole,
            Ok(None) | Err(JournalError::Removed { .. } | JournalError::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Received { channel, received_at, origin, format, body, .. } = whole;
        if let Some(part) = &origin.part {
            of = part.of;
            continue;
        }
        let meta = Meta { id: of, channel, received_at, origin };
        let read = Message::read(meta, format, &body, &hl7::Limits::default());
        return Ok(read.ok().and_then(|message| Arc::into_inner(message.event)));
    }
}

//! What the demo prints.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::site::{Arrived, Comparison, Exhibit, Input, Site};
use crate::cli::print_line;
use crate::engine::Engine;
use crate::journal::{DeliveryState, Stored, Story};

pub(super) fn introduce(site: &Site, engine: &Engine, api: SocketAddr) {
    print_line("Labwire at work: three channels between a laboratory system, a partner lab and a hospital.");
    print_line("");
    print_line(&format!(
        "  the partner's SFTP server   {}  {}",
        site.partner().address(),
        site.partner().fingerprint()
    ));
    print_line(&format!("  the hospital's engine       {}  (MLLP, answers AA)", site.mirth().address()));
    for channel in engine.channels() {
        let spec = channel.spec();
        let from = channel.listens_on().map_or_else(
            || format!("action {} on http://{api}/api/v1/events", spec.action.unwrap_or(0)),
            |address| format!("MLLP on {address}"),
        );
        print_line(&format!("  channel {:<19} {from}", channel.name()));
    }
    print_line("");
}

/// A message's way: received, transformed, where it arrived, how long it took.
pub(super) fn way(
    number: usize,
    exhibit: &Exhibit,
    answer: &str,
    answered: Duration,
    story: &Story,
    arrived: &[Arrived],
    comparison: &Comparison,
) {
    let summary = &story.summary;
    let what = match exhibit.input {
        Input::Event(_) => format!("event, action {}", summary.origin.action.unwrap_or(0)),
        Input::Hl7(_) => "HL7 over MLLP".to_owned(),
    };
    print_line(&format!("{number}. {}  ({what}, {})", exhibit.title, exhibit.file));
    print_line(&format!(
        "   received     {} bytes as message {}, on disk and answered with {answer} after {:.1} ms",
        summary.bytes,
        summary.id,
        answered.as_secs_f64() * 1000.0
    ));
    if let Some(at) = story.transformed_at {
        let sizes: Vec<String> = story
            .deliveries
            .iter()
            .zip(&summary.deliveries)
            .filter_map(|(delivery, summary)| {
                let content = delivery.content.as_ref().and_then(Stored::kept)?;
                Some(format!("{} bytes for {}", content.len(), summary.destination))
            })
            .collect();
        print_line(&format!(
            "   transformed  by channel {} after {}: {}",
            summary.channel,
            millis(summary.received_at, at),
            sizes.join(", ")
        ));
    }
    if let Some(reason) = &summary.reason {
        print_line(&format!("   {}     {reason}", summary.state));
    }
    for (arrived, delivery) in
        arrived.iter().zip(summary.deliveries.iter().filter(|delivery| delivery.state != DeliveryState::Filtered))
    {
        let after =
            delivery.finished_at.map_or_else(String::new, |at| format!(" after {}", millis(summary.received_at, at)));
        let word = if arrived.state == DeliveryState::Sent { "arrived" } else { arrived.state.as_str() };
        print_line(&format!("   {word:<12} {}{after}", arrived.place));
        if let Some(error) = &delivery.error {
            print_line(&format!("                {error}"));
        }
    }
    if comparison.differences.is_empty() && comparison.compared > 0 {
        print_line("   content      is what the channel's test expects");
    }
    for difference in &comparison.differences {
        print_line(&format!("   DIFFERS      {difference}"));
    }
    print_line("");
}

fn millis(from: Timestamp, to: Timestamp) -> String {
    format!("{:.1} ms", to.duration_since(from).as_secs_f64() * 1000.0)
}

pub(super) fn invite(site: &Site, engine: &Engine, api: SocketAddr) {
    print_line("");
    print_line("Look around, in another terminal (Ctrl-C here ends it and removes the folder):");
    print_line(&format!("  labwire messages list --engine {api}"));
    print_line(&format!("  labwire channels --engine {api}"));
    if let Some(address) = engine.channels().iter().find_map(|channel| channel.listens_on()) {
        print_line(&format!("  labwire send {address} {}", site.folder().join("fixtures/hl7/oru-r01.hl7").display()));
    }
    print_line(&format!("  $EDITOR {}", site.folder().join("channels/hl7-results.toml").display()));
}

//! What can be wrong between channel files: one name twice, one port twice.
//!
//! A file whose channel runs keeps its name and its port against a new one: a copy that is lying about must not take over. Where
//! neither runs, nobody knows which was meant, so neither is taken.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::{ChannelSpec, Set};
use crate::diagnostic::Diagnostic;

/// Takes the specs out that want what another has, each with a diagnostic that names the other.
pub(super) fn check(set: &mut Set, running: &[Arc<ChannelSpec>]) {
    loop {
        // A running channel whose new version is refused goes on as it is, so that others may want what it still has: look again.
        let kept: Vec<&ChannelSpec> = running.iter().map(AsRef::as_ref).filter(|spec| set.keeps(spec)).collect();
        let found: Vec<Diagnostic> =
            set.channels.iter().flat_map(|spec| conflicts(spec, &set.channels, &kept, running)).collect();
        if found.is_empty() {
            return;
        }
        let broken: BTreeSet<&str> = found.iter().map(|diagnostic| &*diagnostic.file.name).collect();
        let (refused, channels) = std::mem::take(&mut set.channels)
            .into_iter()
            .partition::<Vec<_>, _>(|spec| broken.contains(&*spec.file.name));
        set.channels = channels;
        set.refused.extend(refused.into_iter().map(|spec| spec.name));
        set.diagnostics.extend(found);
    }
}

impl Set {
    /// Whether a running channel goes on as it is, because what would replace it was refused.
    pub fn keeps(&self, running: &ChannelSpec) -> bool {
        let is_read = self.channels.iter().any(|spec| spec.file.name == running.file.name);
        let is_there = self.files.iter().any(|path| path == Path::new(&running.file.name));
        let is_replaced = || self.channels.iter().any(|spec| spec.name == running.name);
        (is_there && !is_read) || (self.refused.contains(&running.name) && !is_replaced())
    }
}

fn conflicts(
    spec: &ChannelSpec,
    all: &[ChannelSpec],
    kept: &[&ChannelSpec],
    running: &[Arc<ChannelSpec>],
) -> Vec<Diagnostic> {
    let same_file = |other: &ChannelSpec| other.file.name == spec.file.name;
    let others = || kept.iter().copied().map(|kept| (kept, true)).chain(all.iter().map(|other| (other, false)));
    let rivals = || others().filter(|(other, _)| !same_file(other));
    let diagnostic = |span: &std::ops::Range<usize>, message: String, help: String| {
        let (file, span) = (spec.file.clone(), span.clone());
        Diagnostic { file, span, message, label: String::new(), help: Some(help) }
    };
    let mut found = Vec::new();

    let had_name = running.iter().any(|old| same_file(old) && old.name == spec.name);
    let mut same_name = rivals().filter(|(other, is_kept)| other.name == spec.name && (*is_kept || !had_name));
    if let Some((other, _)) = same_name.next() {
        let message = format!("two channels are called `{}`", spec.name);
        found.push(diagnostic(&spec.name_span, message, format!("the other one is {}", other.file.name)));
    }
    let resources = spec.resources();
    for (at, (resource, span)) in resources.iter().enumerate() {
        let holds = |other: &ChannelSpec| other.resources().iter().any(|(held, _)| held.conflicts_with(resource));
        if let Some((message, _)) = resources[..at].iter().find_map(|(other, _)| other.conflict(resource)) {
            let help = "another part of this channel has it, too".to_owned();
            found.push(diagnostic(span, message, help));
        }
        let had_it = running.iter().any(|old| same_file(old) && holds(old));
        if let Some((other, _)) = rivals().find(|(other, is_kept)| holds(other) && (*is_kept || !had_it)) {
            let others = other.resources();
            let conflict = others.iter().find_map(|(held, _)| resource.conflict(held));
            let Some((message, help)) = conflict else { continue };
            let help = format!("`{}` ({}) has it, too: {help}", other.name, other.file.name);
            found.push(diagnostic(span, message, help));
        }
    }
    found
}

//! What can be wrong between channels that feed each other: a name that leads nowhere, a channel that takes nothing from this one,
//! a loop.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::{ChannelSpec, Set};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::source::Feeders;

/// Takes the specs out that feed what they cannot, each with a diagnostic. What runs and goes on counts as it runs. A name that is
/// no channel's is a mistake only where all the files were read.
pub(super) fn check(set: &mut Set, running: &[Arc<ChannelSpec>], sees_all: bool) {
    let kept: Vec<&ChannelSpec> = running.iter().map(AsRef::as_ref).filter(|spec| set.keeps(spec)).collect();
    let all: Vec<&ChannelSpec> = set.channels.iter().chain(kept).collect();
    let is_known = |name: &str| {
        let is_there = || all.iter().any(|other| *other.name == *name);
        // One whose own file has mistakes comes when they are mended: until then, what is for it waits.
        !sees_all || set.refused.contains(name) || set.unread.contains(name) || is_there()
    };
    let mut found: Vec<Diagnostic> = set.channels.iter().flat_map(|spec| mistakes(spec, &all, &is_known)).collect();
    found.extend(set.channels.iter().flat_map(|spec| feeders(spec, &all, &is_known)));
    let broken: BTreeSet<&str> = found.iter().map(|diagnostic| &*diagnostic.file.name).collect();
    let (refused, channels) =
        std::mem::take(&mut set.channels).into_iter().partition::<Vec<_>, _>(|spec| broken.contains(&*spec.file.name));
    set.channels = channels;
    set.refused.extend(refused.into_iter().map(|spec| spec.name));
    set.diagnostics.extend(found);
}

fn diagnostic(spec: &ChannelSpec, span: Range<usize>, message: String, label: String, help: String) -> Diagnostic {
    Diagnostic { file: spec.file.clone(), span, message, label, help: Some(help) }
}

/// What is wrong with the channels that one feeds.
fn mistakes(spec: &ChannelSpec, all: &[&ChannelSpec], is_known: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for next in spec.destinations.iter().filter_map(|destination| destination.config.feeds()) {
        let (name, span) = (next.get_ref(), next.span());
        let Some(target) = all.iter().find(|other| *other.name == **name) else {
            if !is_known(name) {
                let takers = all.iter().filter(|other| other.source.takes_from().is_some());
                found.push(unknown(spec, span, name, takers.map(|other| &*other.name).collect()));
            }
            continue;
        };
        let message = match target.source.takes_from() {
            Some(Feeders::Only(names)) if !names.iter().any(|allowed| **allowed.get_ref() == *spec.name) => {
                let help = format!("add \"{}\" to `from` in {}", spec.name, target.file.name);
                let message = format!("channel `{name}` takes nothing from `{}`", spec.name);
                found.push(diagnostic(spec, span, message, "not in its `from`".to_owned(), help));
                continue;
            }
            Some(_) => way_back(spec, target, all),
            None => {
                let help = format!(
                    "only a channel with `type = \"channel\"` in its [source] can be fed: see {}",
                    target.file.name
                );
                let label = format!("its source is of type `{}`", target.source_kind);
                let message = format!("channel `{name}` takes nothing from other channels");
                found.push(diagnostic(spec, span, message, label, help));
                continue;
            }
        };
        if let Some(way) = message {
            let help = "what comes in would go round for ever: let one of them send elsewhere".to_owned();
            found.push(diagnostic(
                spec,
                span,
                format!("channels feed each other in a loop: {way}"),
                String::new(),
                help,
            ));
        }
    }
    found
}

fn unknown(spec: &ChannelSpec, span: Range<usize>, name: &str, known: Vec<&str>) -> Diagnostic {
    let label =
        did_you_mean(name, known.iter().copied()).map_or_else(String::new, |near| format!("did you mean `{near}`?"));
    let help = if known.is_empty() {
        "no channel here has a source of type `channel`".to_owned()
    } else {
        let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        format!("channels that can be fed: {}", names.join(", "))
    };
    diagnostic(spec, span, format!("no channel is called `{name}`"), label, help)
}

/// The shortest way from a channel through another back to it, as `a -> b -> a`.
fn way_back(from: &ChannelSpec, first: &ChannelSpec, all: &[&ChannelSpec]) -> Option<String> {
    let mut ways: Vec<Vec<&str>> = vec![vec![&from.name, &first.name]];
    let mut seen: BTreeSet<&str> = BTreeSet::from([&*first.name]);
    let mut at = 0;
    while at < ways.len() {
        let way = ways[at].clone();
        let last = *way.last()?;
        if last == &*from.name {
            return Some(way.join(" -> "));
        }
        let here = all.iter().find(|other| *other.name == *last);
        let feeds =
            here.iter().flat_map(|here| &here.destinations).filter_map(|destination| destination.config.feeds());
        for next in feeds.map(|next| next.get_ref().as_str()) {
            if next == &*from.name || seen.insert(next) {
                ways.push(way.iter().copied().chain([next]).collect());
            }
        }
        at += 1;
    }
    None
}

/// The names in a channel's `from` that are no channel's.
fn feeders(spec: &ChannelSpec, all: &[&ChannelSpec], is_known: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
    let Some(Feeders::Only(names)) = spec.source.takes_from() else { return Vec::new() };
    let unknown = names.iter().filter(|name| !is_known(name.get_ref()));
    let mistake = |name: &Spanned<String>| {
        let text = name.get_ref();
        let known = all.iter().map(|other| &*other.name).filter(|other| *other != &*spec.name);
        let label = did_you_mean(text, known).map_or_else(String::new, |near| format!("did you mean `{near}`?"));
        let help = "`from` names the channels that hand over to this one".to_owned();
        diagnostic(spec, name.span(), format!("no channel is called `{text}`"), label, help)
    };
    unknown.map(mistake).collect()
}

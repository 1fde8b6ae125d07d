//! What a channel file says, read and checked: nothing is opened yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::{Place, Resource};
use crate::destination::DestinationConfig;
use crate::diagnostic::SourceFile;
use crate::expr::Expression;
use crate::hl7::Charset;
use crate::source::SourceConfig;
use crate::transformer::Transformer;

use super::test::TestSpec;
use super::{Dispatch, Retry};

/// A channel's or a destination's name: letters, digits, `-`, `_` and `.`, at most 64.
pub type Name = Arc<str>;

/// A channel, read from its file.
#[derive(Debug)]
pub struct ChannelSpec {
    /// The channel's name, unique in the folder.
    pub name: Name,
    /// The action that it is bound to.
    pub action: Option<u16>,
    /// The lab that it is bound to; none for all.
    pub lab: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it is in service.
    pub enabled: bool,
    /// The source's kind.
    pub source_kind: &'static str,
    /// The source.
    pub source: Box<dyn SourceConfig>,
    /// The steps for every message.
    pub transformer: Transformer,
    /// Where messages go, in the order of the file.
    pub destinations: Vec<DestinationSpec>,
    /// What the file says should happen.
    pub tests: Vec<TestSpec>,
    /// The file.
    pub file: Arc<SourceFile>,
    /// The folder that relative paths start from.
    pub folder: PathBuf,
    /// Every file that makes the channel what it is (itself, templates, tables) with its content's hash.
    pub parts: BTreeMap<PathBuf, [u8; 32]>,
    /// The text of `[source]`: while it stays the same, a reload leaves the source running.
    pub source_text: String,
    /// Where the name stands, for mistakes that concern two files.
    pub name_span: std::ops::Range<usize>,
    /// Where `[source]` stands.
    pub source_span: std::ops::Range<usize>,
}

impl ChannelSpec {
    /// Where one of its connectors stands.
    pub fn place(&self, name: &str, data: Option<&Path>) -> Place {
        Place {
            folder: self.folder.clone(),
            channel: self.name.to_string(),
            name: name.to_owned(),
            data: data.map(Path::to_owned),
        }
    }

    /// What it needs alone, or with its like, and where its file says so. Nothing where it is out of service.
    pub fn resources(&self) -> Vec<(Resource, std::ops::Range<usize>)> {
        if !self.enabled {
            return Vec::new();
        }
        let source = self.source.resources().into_iter().map(|resource| (resource, self.source_span.clone()));
        let of = |destination: &DestinationSpec| {
            let span = destination.span.clone();
            destination.config.resources().into_iter().map(move |resource| (resource, span.clone()))
        };
        source.chain(self.destinations.iter().flat_map(of)).collect()
    }

    /// What somebody should see to soon, although everything works. Reads files.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let named = |name: &str, warnings: Vec<String>| {
            warnings.into_iter().map(|warning| format!("{name}: {warning}")).collect::<Vec<_>>()
        };
        let mut found = named("source", self.source.warnings(now));
        for destination in &self.destinations {
            found.extend(named(&destination.name, destination.config.warnings(now)));
        }
        found
    }

    /// Whether an event fires this channel.
    pub fn fires_on(&self, action: u16, lab: &str) -> bool {
        self.enabled
            && self.source_kind == crate::source::EventSource::NAME
            && self.action == Some(action)
            && self.lab.as_deref().is_none_or(|bound| bound == lab)
    }
}

/// One destination of a channel.
#[derive(Debug)]
pub struct DestinationSpec {
    /// Its name.
    pub name: Name,
    /// Where its table begins.
    pub span: std::ops::Range<usize>,
    /// Its kind.
    pub kind: &'static str,
    /// Its options.
    pub config: Box<dyn DestinationConfig>,
    /// Only messages for which this is true go here.
    pub when: Option<Expression>,
    /// Steps for this destination alone.
    pub transformer: Transformer,
    /// The character set that messages leave in; their own where none is given.
    pub charset: Option<Charset>,
    /// When a failed delivery is tried again.
    pub retry: Retry,
    /// In which order its deliveries leave, and what a fault or a dead letter means.
    pub dispatch: Dispatch,
    /// The folder of this machine that it writes to, as the file says it and with its place.
    pub writes_to: Option<toml::Spanned<String>>,
}

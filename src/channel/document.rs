//! From the text of channel files to specs: every mistake of every file in one go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Digest as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::retry::RetryKeys;
use super::test::{self, TestSpec};
use super::{ChannelSpec, DestinationSpec, Dispatch, Name, Retry, conflicts, links, output};
use crate::action;
use crate::config::{self, Entry, Table};
use crate::destination;
use crate::diagnostic::{Diagnostic, SourceFile, sort};
use crate::expr::Expression;
use crate::source::{self, CharsetOption, EventSource};
use crate::transformer::Transformer;

/// Keys of a channel file that hold tables of their own.
const TABLES: &[&str] = &["source", "transformer", "destination", "test", "retry"];
/// The plain keys of a channel file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// The channel's name, unique in the folder.
    #[schemars(with = "String")]
    name: Spanned<String>,
    /// Id of the action that the channel is bound to (`labwire actions` lists them).
    #[schemars(with = "Option<u16>")]
    action: Option<Spanned<u16>>,
    /// The lab that the channel is bound to; without it, all labs.
    lab: Option<String>,
    /// What the channel is for.
    description: Option<String>,
    /// `false` keeps the channel out of service.
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

/// Several channel files, read together.
#[derive(Debug, Default)]
pub struct Set {
    /// The channels whose files are without mistakes.
    pub channels: Vec<ChannelSpec>,
    /// The mistakes, in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// All the files that were read, also those with mistakes.
    pub files: Vec<PathBuf>,
    /// The names of channels that were refused because another has what they want.
    pub refused: BTreeSet<Name>,
    /// The names of channels whose own files have mistakes, as far as they can be told.
    pub unread: BTreeSet<Name>,
}

/// Reads every channel file below a folder: `*.toml`, but none in folders called `templates`, `tables`,
/// `profiles` or `secrets`, or hidden.
pub fn load_folder(folder: &Path) -> std::io::Result<Set> {
    load_folder_beside(folder, &[])
}

/// The same while channels run: what they have, a new file cannot take from them.
pub fn load_folder_beside(folder: &Path, running: &[Arc<ChannelSpec>]) -> std::io::Result<Set> {
    load(&[folder.to_owned()], running)
}

/// Reads the given files, and the channel files below the given folders.
pub fn load_paths(paths: &[PathBuf]) -> std::io::Result<Set> {
    load(paths, &[])
}

fn load(paths: &[PathBuf], running: &[Arc<ChannelSpec>]) -> std::io::Result<Set> {
    let mut files = BTreeSet::new();
    for path in paths {
        let metadata = std::fs::metadata(path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        if metadata.is_dir() {
            find(path, &mut files, 0)?;
        } else {
            files.insert(path.clone());
        }
    }
    let mut set = Set::default();
    let folders: Vec<&PathBuf> = paths.iter().filter(|path| path.is_dir()).collect();
    for path in files {
        match read(&path) {
            Ok(file) => {
                let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
                let (mut spec, mut diagnostics) = parse(&path, &file, &folder);
                diagnostics.extend(spec.iter().flat_map(|spec| output::check(spec, &folders)));
                // A mistake of that kind is one of the file, too.
                spec = spec.filter(|_| diagnostics.is_empty());
                if spec.is_none() {
                    set.unread.extend(name_in(&file.text).map(Name::from));
                }
                set.diagnostics.extend(diagnostics);
                set.channels.extend(spec);
            }
            Err(diagnostic) => set.diagnostics.push(*diagnostic),
        }
        set.files.push(path);
    }
    conflicts::check(&mut set, running);
    // Of a single file it cannot be told what stands in the others.
    let sees_all = paths.iter().all(|path| path.is_dir());
    links::check(&mut set, running, sees_all);
    sort(&mut set.diagnostics);
    Ok(set)
}

/// The name in a file that cannot be read whole.
fn name_in(text: &str) -> Option<&str> {
    let head = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    let mut values = head.filter_map(|line| line.trim_start().strip_prefix("name")?.trim_start().strip_prefix('='));
    values.next()?.trim_start().strip_prefix(['"', '\''])?.split(['"', '\'']).next()
}

/// Folders deeper than this are not searched: a loop of links must end.
const MAX_DEPTH: usize = 16;

fn find(folder: &Path, files: &mut BTreeSet<PathBuf>, depth: usize) -> std::io::Result<()> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", folder.display())))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if depth < MAX_DEPTH
                && !name.starts_with('.')
                && !["templates", "tables", "profiles", "secrets"].contains(&name)
            {
                find(&path, files, depth + 1)?;
            }
        } else if name.ends_with(".toml") && !name.starts_with('.') {
            files.insert(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Arc<SourceFile>, Box<Diagnostic>> {
    let fail = |text: String, at: usize, message: String| {
        let file = SourceFile::new(path, text);
        Box::new(Diagnostic { file, span: at..at, message, label: String::new(), help: None })
    };
    let bytes = std::fs::read(path).map_err(|error| fail(String::new(), 0, format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map(|text| SourceFile::new(path, text)).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        fail(text, at, "channel files are UTF-8; this byte is not".to_owned())
    })
}

/// Reads one channel file. A spec comes out only when there is no mistake in it.
pub fn parse(path: &Path, file: &Arc<SourceFile>, folder: &Path) -> (Option<ChannelSpec>, Vec<Diagnostic>) {
    let (table, errors) = DeTable::parse_recoverable(&file.text);
    if !errors.is_empty() {
        let diagnostics = errors.iter().map(|error| syntax(file, error)).collect();
        return (None, diagnostics);
    }
    let read = config::collect(file, folder, || channel(table, file));
    if !read.diagnostics.is_empty() {
        return (None, read.diagnostics);
    }
    let Some(mut spec) = read.value else {
        let message = "this file was not understood".to_owned();
        let diagnostic = Diagnostic { file: file.clone(), span: 0..0, message, label: String::new(), help: None };
        return (None, vec![diagnostic]);
    };
    spec.folder = folder.to_owned();
    spec.parts = read.named.into_iter().map(|path| (path.clone(), hash_of(&path))).collect();
    spec.parts.insert(path.to_owned(), sha2::Sha256::digest(&file.text).into());
    (Some(spec), Vec::new())
}

fn hash_of(path: &Path) -> [u8; 32] {
    std::fs::read(path).map(|bytes| sha2::Sha256::digest(bytes).into()).unwrap_or_default()
}

fn syntax(file: &Arc<SourceFile>, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    Diagnostic {
        file: file.clone(),
        span,
        message: "this is not TOML".to_owned(),
        label: error.message().to_owned(),
        help: None,
    }
}

fn channel(root: Spanned<DeTable<'_>>, file: &Arc<SourceFile>) -> Option<ChannelSpec> {
    let mut root = Table::new(root.into_inner(), 0..0, "");
    let mut take = |key: &str| root.take(key);
    let (source_entry, steps, destinations) = (take("source"), take("transformer"), take("destination"));
    let (tests, retry) = (take("test"), take("retry"));
    let head = root.read_with_more::<Head>(TABLES);

    let retry = retry.and_then(|entry| entry.into_table("retry")?.read::<RetryKeys>());
    let retry = retry.map_or(Retry::default(), |keys| keys.over(Retry::default()));
    let transformer = steps.map_or_else(Transformer::default, |entry| Transformer::parse(entry, "transformer"));
    let source_span = source_entry.as_ref().map_or(0..0, |entry| entry.key.span());
    let source_text =
        source_entry.as_ref().map_or(String::new(), |entry| format!("{:?}", plain(entry.value.get_ref())));
    let source = match source_entry {
        Some(entry) => source(entry),
        None => {
            let help = "write a [source] table with `type = \"mllp\"` or `type = \"event\"`".to_owned();
            config::report(0..0, "this channel has no source", "", Some(help));
            None
        }
    };
    let destinations = read_destinations(destinations, retry);
    let names: Vec<Name> = destinations.iter().map(|(name, _)| name.clone()).collect();
    let tests = tests.map_or_else(Vec::new, |entry| test::parse(entry, &names));
    if let Some(from) = source.as_ref().and_then(|(_, source)| source.answers_from())
        && !names.iter().any(|name| **name == **from.get_ref())
    {
        let message = format!("no destination of this channel is called `{}`", from.get_ref());
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        config::unknown_word(from.span(), message, from.get_ref(), &names);
    }
    let head = head?;
    check_name(head.name.get_ref(), &head.name.span(), "channel");
    check_action(&head, source.as_ref().map(|(kind, _)| *kind));
    let destinations: Option<Vec<DestinationSpec>> = destinations.into_iter().map(|(_, spec)| spec).collect();
    let (source_kind, source) = source?;
    Some(ChannelSpec {
        name_span: head.name.span(),
        name: head.name.into_inner().into(),
        action: head.action.map(Spanned::into_inner),
        lab: head.lab,
        description: head.description,
        enabled: head.enabled,
        source_kind,
        source,
        transformer,
        destinations: destinations?,
        tests,
        file: file.clone(),
        folder: PathBuf::new(),
        parts: BTreeMap::new(),
        source_text,
        source_span,
    })
}

/// The value without its places, for comparing.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| format!("{}={}", key.get_ref(), plain(value.get_ref())));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        DeValue::Array(items) => {
            format!("[{}]", items.iter().map(|item| plain(item.get_ref())).collect::<Vec<_>>().join(","))
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(word) => word.to_string(),
        DeValue::Datetime(time) => time.to_string(),
    }
}

fn source(entry: Entry<'_>) -> Option<(&'static str, Box<dyn source::SourceConfig>)> {
    let mut table = entry.into_table("[source]")?;
    let kinds: Vec<&str> = source::KINDS.iter().map(|kind| kind.name).collect();
    let name = kind_name(&mut table, "source", &kinds)?;
    let kind = source::KINDS.iter().find(|kind| kind.name == name)?;
    Some((kind.name, (kind.parse)(table)?))
}

/// Takes `type` out of a connector's table.
fn kind_name(table: &mut Table<'_>, what: &str, kinds: &[&str]) -> Option<String> {
    let Some(entry) = table.take("type") else {
        let help = format!("write `type = \"{}\"`: one of {}", kinds[0], kinds.join(", "));
        config::report(table.span(), format!("{} has no `type`", table.name()), "", Some(help));
        return None;
    };
    let name = entry.text()?;
    if kinds.contains(&name.get_ref().as_str()) {
        return Some(name.into_inner());
    }
    config::unknown_word(name.span(), format!("no {what} is called `{}`", name.get_ref()), name.get_ref(), kinds);
    None
}

/// The destinations by name, also those with mistakes: tests may name them.
fn read_destinations(entry: Option<Entry<'_>>, retry: Retry) -> Vec<(Name, Option<DestinationSpec>)> {
    let help = || {
        Some("write a [destination.NAME] table with `type = \"mllp\"`, `\"sftp\"`, `\"http\"` or `\"file\"`".to_owned())
    };
    let Some(entry) = entry else {
        config::report(0..0, "this channel has no destination", "", help());
        return Vec::new();
    };
    let key_span = entry.key.span();
    let Some(table) = entry.into_table("destination") else { return Vec::new() };
    let entries = table.into_entries();
    if entries.is_empty() {
        config::report(key_span.clone(), "this channel has no destination", "", help());
    }
    if let Some(first) = entries.iter().find(|entry| !entry.value.get_ref().is_table()) {
        let message = "a destination needs a name";
        config::report(first.key.span(), message, "this key stands directly in [destination]", help());
        return Vec::new();
    }
    entries.into_iter().map(|entry| (Name::from(entry.name()), read_destination(entry, retry))).collect()
}

fn read_destination(entry: Entry<'_>, retry: Retry) -> Option<DestinationSpec> {
    let (name, span) = (entry.name().to_owned(), entry.key.span());
    check_name(&name, &span, "destination");
    let mut table = entry.into_table(format!("[destination.{name}]"))?;
    let when = table.take("when").and_then(Entry::read::<Expression>);
    let owner = format!("destination.{name}.transformer");
    let transformer =
        table.take("transformer").map_or_else(Transformer::default, |steps| Transformer::parse(steps, &owner));
    let charset = table.take("charset").and_then(Entry::read::<CharsetOption>).map(|CharsetOption(charset)| charset);
    let own_retry = table.take("retry").and_then(|entry| entry.into_table("retry")?.read::<RetryKeys>());
    let kinds: Vec<&str> = destination::KINDS.iter().map(|kind| kind.name).collect();
    let kind = kind_name(&mut table, "destination", &kinds);
    let kind = destination::KINDS.iter().find(|known| Some(known.name) == kind.as_deref());
    let dispatch = Dispatch::take(&mut table, kind);
    let kind = kind?;
    let mut values = table.clone();
    let config = (kind.parse)(table)?;
    let writes_to = config.writes_to().and_then(|key| values.take(key)?.text());
    let retry = own_retry.map_or(retry, |keys| keys.over(retry));
    let dispatch = dispatch?;
    let (name, kind) = (name.into(), kind.name);
    Some(DestinationSpec { name, span, kind, config, when, transformer, charset, retry, dispatch, writes_to })
}

fn check_name(name: &str, span: &std::ops::Range<usize>, what: &str) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) || name.starts_with('.') {
        let help = "letters, digits, `-`, `_` and `.`, at most 64, as in \"bill-hl7-sftp\"".to_owned();
        config::report(span.clone(), format!("`{name}` cannot be the name of a {what}"), "", Some(help));
    }
}

fn check_action(head: &Head, source_kind: Option<&str>) {
    match &head.action {
        Some(id) if action::find(*id.get_ref()).is_none() => {
            let nearest = action::ACTIONS.iter().min_by_key(|action| action.id.abs_diff(*id.get_ref()));
            let help = nearest.map(|near| format!("`labwire actions` lists them; {} is {}", near.id, near.name));
            config::report(id.span(), format!("there is no action {}", id.get_ref()), "", help);
        }
        None if source_kind == Some(EventSource::NAME) => {
            let help = "write `action = 49` above [source]; `labwire actions` lists them".to_owned();
            config::report(head.name.span(), "an event source needs the channel's `action`", "", Some(help));
        }
        _ => {}
    }
}

/// The tests of every channel, with the mistakes that only matter to tests: a missing input file must not keep a channel from
/// running where its tests were not installed.
pub fn check_tests(set: &mut Set) {
    let mut found: Vec<Diagnostic> = set.channels.iter().flat_map(TestSpec::check_files).collect();
    set.diagnostics.append(&mut found);
    sort(&mut set.diagnostics);
}

/// What is wrong with the keys and certificates that channels refer to. For `labwire check` alone: where the engine runs, a source
/// that cannot be opened is tried again and shown, and a destination pauses.
pub fn check_secrets(set: &mut Set) {
    for spec in &set.channels {
        let of_destinations = spec.destinations.iter().flat_map(|destination| destination.config.mistakes());
        for mistake in spec.source.mistakes().into_iter().chain(of_destinations) {
            set.diagnostics.push(Diagnostic {
                file: spec.file.clone(),
                span: mistake.span,
                message: mistake.message,
                label: String::new(),
                help: None,
            });
        }
    }
    sort(&mut set.diagnostics);
}

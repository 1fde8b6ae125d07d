//! The reading of one file: where mistakes are reported, and how a file names other files.
//!
//! Serde hands no context to `Deserialize` and stops at the first error. So the context of the file being read is kept in a
//! thread-local for the time of [`collect`]: a newtype reports a mistake with its place, returns a stand-in, and reading goes on.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, SourceFile};

thread_local! {
    static CURRENT: RefCell<Vec<Context>> = const { RefCell::new(Vec::new()) };
}

struct Context {
    file: Arc<SourceFile>,
    folder: PathBuf,
    found: Vec<Diagnostic>,
    named: Vec<PathBuf>,
}

/// What came out of reading one file.
#[derive(Debug)]
pub struct Read<T> {
    /// What was read; may hold stand-ins where mistakes were found.
    pub value: T,
    /// The mistakes, in no order.
    pub diagnostics: Vec<Diagnostic>,
    /// The other files that it names: a change in one of them is a change of this file.
    pub named: Vec<PathBuf>,
}

/// Reads `file` by `read`, collecting what is reported meanwhile. Relative paths start at `folder`.
pub fn collect<T>(file: &Arc<SourceFile>, folder: &Path, read: impl FnOnce() -> T) -> Read<T> {
    let context = Context { file: file.clone(), folder: folder.to_owned(), found: Vec::new(), named: Vec::new() };
    CURRENT.with_borrow_mut(|stack| stack.push(context));
    let value = read();
    let context = CURRENT.with_borrow_mut(Vec::pop).expect("pushed above, and scopes nest");
    Read { value, diagnostics: context.found, named: context.named }
}

fn with<T>(use_it: impl FnOnce(&mut Context) -> T) -> T {
    CURRENT.with_borrow_mut(|stack| {
        use_it(stack.last_mut().expect("channel files are read inside config::collect, a bug otherwise"))
    })
}

/// Reports a mistake in the file that is being read.
pub fn report(span: Range<usize>, message: impl Into<String>, label: impl Into<String>, help: Option<String>) {
    with(|context| {
        let file = context.file.clone();
        context.found.push(Diagnostic { file, span, message: message.into(), label: label.into(), help });
    });
}

/// Reports a mistake in another file that this one names.
pub fn report_in(file: &Arc<SourceFile>, span: Range<usize>, message: impl Into<String>, label: impl Into<String>) {
    with(|context| {
        let help = Some(format!("{} names this file", context.file.name));
        let file = file.clone();
        context.found.push(Diagnostic { file, span, message: message.into(), label: label.into(), help });
    });
}

/// A path as the file writes it, from the file's own folder.
pub fn resolve(path: &str) -> PathBuf {
    with(|context| context.folder.join(path))
}

/// A place as messages name it at run time: `channels/a.toml:12`.
pub fn place_name(span: &Range<usize>) -> String {
    with(|context| format!("{}:{}", context.file.name, context.file.position(span.start).0))
}

/// Where a place within a string value lies in the file: `within` counts bytes of the value. Where the value is written with
/// escapes the two differ, and the whole value is the place.
pub fn text_place(value_span: &Range<usize>, value: &str, within: Range<usize>) -> Range<usize> {
    with(|context| {
        let written = context.file.text.get(value_span.clone()).unwrap_or("");
        match written.find(value) {
            Some(at) if !value.is_empty() => {
                let start = value_span.start + at;
                (start + within.start)..(start + within.end.max(within.start))
            }
            _ => value_span.clone(),
        }
    })
}

/// The text of a file that this one names at `span`; reports when it cannot be read. `what` is `template`, `table` …
pub fn load_text(span: &Range<usize>, path: &str, what: &str) -> Option<Arc<SourceFile>> {
    let (full, shown) = with(|context| {
        let full = context.folder.join(path);
        context.named.push(full.clone());
        let shown = Path::new(&context.file.name).parent().map_or_else(|| full.clone(), |folder| folder.join(path));
        (full, shown)
    });
    let problem = match std::fs::read(&full) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return Some(SourceFile::new(&shown, text)),
            Err(_) => "is not UTF-8".to_owned(),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let help = neighbours(&full, path);
            report(span.clone(), format!("{what} `{path}` does not exist"), "no such file", help);
            return None;
        }
        Err(error) => error.to_string(),
    };
    report(span.clone(), format!("{what} `{path}` cannot be read"), problem, None);
    None
}

/// "Did you mean" over the files that do exist beside the missing one.
fn neighbours(full: &Path, path: &str) -> Option<String> {
    let wanted = full.file_name()?.to_str()?;
    let names: Vec<String> = std::fs::read_dir(full.parent()?)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    match crate::diagnostic::did_you_mean(wanted, names.iter().map(String::as_str)) {
        Some(name) => {
            let folder = Path::new(path).parent().unwrap_or(Path::new(""));
            Some(format!("did you mean `{}`?", folder.join(name).display()))
        }
        None => Some("paths are relative to the channel file".to_owned()),
    }
}

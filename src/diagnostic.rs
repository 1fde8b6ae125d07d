//! What is wrong in a file that a person wrote, where, and what to write instead: drawn as a compiler draws it.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};

/// A file that was read, for showing places in it.
#[derive(Debug)]
pub struct SourceFile {
    /// The path as the user named it.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl SourceFile {
    /// A file's text under the name that diagnostics show.
    pub fn new(name: &Path, text: impl Into<String>) -> Arc<SourceFile> {
        Arc::new(SourceFile { name: name.display().to_string(), text: text.into() })
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// One mistake.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The bytes that are wrong.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// A word at the underlined place.
    pub label: String,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Line and column where the mistake begins, both from 1.
    pub fn position(&self) -> (usize, usize) {
        self.file.position(self.span.start)
    }

    /// The mistake drawn with its source line, as rustc does.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let text = &self.file.text;
        let span = self.visible_span();
        let annotation = AnnotationKind::Primary.span(span).label(self.label.as_str());
        let snippet = Snippet::source(text.as_str()).path(self.file.name.as_str()).annotation(annotation);
        let mut group = Level::ERROR.primary_title(self.message.as_str()).element(snippet);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }

    /// The span within the text, on character boundaries, and no longer than its first line: a whole multi-line table
    /// underlined helps nobody.
    fn visible_span(&self) -> Range<usize> {
        let text = &self.file.text;
        let mut start = self.span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let mut end = self.span.end.clamp(start, line_end);
        while !text.is_char_boundary(end) {
            end += 1;
        }
        start..end
    }
}

/// One line, for logs and machines: `file:line:column: message (help)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.position();
        write!(f, "{}:{line}:{column}: {}", self.file.name, self.message)?;
        if !self.label.is_empty() {
            write!(f, ": {}", self.label)?;
        }
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Puts diagnostics into the order in which a reader meets their places.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|a, b| (&a.file.name, a.span.start, &a.message).cmp(&(&b.file.name, b.span.start, &b.message)));
}

/// The known word nearest to a mistyped one, if one is near enough.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len().max(word.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested() {
        let known = ["filter", "set", "copy", "delete", "lookup", "template"];
        for (word, expected) in [
            ("fliter", Some("filter")),
            ("Set", Some("set")),
            ("tmplate", Some("template")),
            ("xyzzy", None),
            ("", None),
            ("sett", Some("set")),
        ] {
            assert_eq!(did_you_mean(word, known), expected, "{word}");
        }
    }

    #[test]
    fn positions_count_characters_from_one() {
        let file = SourceFile::new(Path::new("a.toml"), "é = 1\nbb = 2\n");
        assert_eq!(file.position(0), (1, 1));
        assert_eq!(file.position(3), (1, 3));
        assert_eq!(file.position(7), (2, 1));
        assert_eq!(file.position(999), (3, 1));
    }

    #[test]
    fn a_place_out_of_range_is_drawn_without_a_panic() {
        let file = SourceFile::new(Path::new("a.toml"), "é");
        for span in [0..0, 1..1, 0..1, 5..9] {
            let diagnostic =
                Diagnostic { file: file.clone(), span, message: "m".into(), label: String::new(), help: None };
            assert!(diagnostic.render(false).contains("a.toml"));
        }
    }
}

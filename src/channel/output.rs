//! What destinations write must not lie where channel files are read: a sender who chooses a file's name would write channels.

use std::path::{Component, Path, PathBuf};

use super::ChannelSpec;
use crate::diagnostic::Diagnostic;

/// A diagnostic for each destination that writes into one of the folders that channel files are read from.
pub(super) fn check(spec: &ChannelSpec, folders: &[&PathBuf]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for directory in spec.destinations.iter().filter_map(|destination| destination.writes_to.as_ref()) {
        let written = real(&spec.folder.join(fixed_part(directory.get_ref())));
        let Some(folder) = folders.iter().map(|folder| real(folder)).find(|folder| written.starts_with(folder)) else {
            continue;
        };
        let depth = real(&spec.folder).strip_prefix(&folder).map_or(0, |below| below.components().count());
        let text = directory.get_ref();
        let is_plain = !text.starts_with(['.', '/', '{']);
        let outside = "../".repeat(depth + 1) + if is_plain { text } else { "archive" };
        found.push(Diagnostic {
            file: spec.file.clone(),
            span: directory.span(),
            message: "files written here would be read as channel files".to_owned(),
            label: "this is inside the channel folder".to_owned(),
            help: Some(format!("write a folder outside, as in `{outside}`")),
        });
    }
    found
}

/// The folders before the first expression.
fn fixed_part(directory: &str) -> &str {
    let first = ["{{", "{%", "{#"].iter().filter_map(|open| directory.find(open)).min();
    match first {
        Some(at) => &directory[..directory[..at].rfind('/').map_or(0, |slash| slash + 1)],
        None => directory,
    }
}

/// The path without links and `..`, also where part of it does not exist yet.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut real = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => {
                real.pop();
            }
            other => {
                real.push(other);
                real = real.canonicalize().unwrap_or(real);
            }
        }
    }
    real
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_part_ends_before_the_folder_with_an_expression() {
        for (directory, expected) in [
            ("archive", "archive"),
            ("../archive/{{ a }}/b", "../archive/"),
            ("../archive-{{ a }}", "../"),
            ("{{ a }}", ""),
            ("/var/{% if a %}x{% endif %}", "/var/"),
        ] {
            assert_eq!(fixed_part(directory), expected, "{directory}");
        }
    }
}

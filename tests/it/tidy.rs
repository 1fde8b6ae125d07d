//! The shape of the house, as a test: import directions, lengths, words, licences.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::root;

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;

fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().to_owned(), text)
        })
        .collect()
}

/// What each module may use of the others, beside itself and the leaves. Dependencies point one way.
fn allowed(module: &str) -> Option<&'static [&'static str]> {
    const LEAVES: &[&str] = &["diagnostic", "monitor"];
    let modules: &[&str] = match module {
        "hl7" | "mllp" | "diagnostic" | "monitor" | "lookup_table" | "action" => &[],
        "config" => LEAVES,
        "message" => &["hl7"],
        "expr" => &["config", "diagnostic", "hl7", "lookup_table", "message"],
        "net" => &["config", "diagnostic", "hosted", "mllp"],
        "hosted" => &[],
        "journal" => &["message"],
        "transformer" => &["config", "diagnostic", "expr", "hl7", "lookup_table", "message"],
        "source" => &["config", "diagnostic", "expr", "hl7", "hosted", "journal", "message", "mllp", "monitor", "net"],
        "destination" => {
            &["config", "diagnostic", "expr", "hl7", "hosted", "journal", "message", "mllp", "monitor", "net"]
        }
        "channel" => &[
            "action",
            "config",
            "destination",
            "diagnostic",
            "expr",
            "hl7",
            "journal",
            "message",
            "monitor",
            "source",
            "transformer",
        ],
        "engine" => &["action", "channel", "diagnostic", "hl7", "journal", "message", "monitor", "source"],
        "server" => &["action", "channel", "engine", "hl7", "journal", "message", "monitor"],
        "cli" | "main" | "lib" => return None,
        other => panic!("module `{other}` is not in the table of allowed dependencies"),
    };
    Some(modules)
}

fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix("src").unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files("src") {
        let module = module_of(&path);
        let Some(allowed) = allowed(&module) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            let code = line.split("//").next().unwrap_or_default();
            for used in code.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_' || c.is_ascii_digit()).collect();
                if !used.is_empty() && used != module && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{}:{number}: `{module}` must not use `{used}`", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_modules_do_no_io() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files("src") {
        let pure = ["hl7", "mllp", "transformer", "expr"].contains(&module_of(&path).as_str());
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in ["tokio::", "std::fs", "std::net", "SystemTime", "Timestamp::now"] {
            if pure && product.contains(word) {
                wrong.push(format!("{} uses {word}", path.display()));
            }
        }
        if !path.ends_with("journal/index.rs") && product.contains("sled::") {
            wrong.push(format!("{} names sled", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files("src").into_iter().chain(rust_files("tests")) {
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            wrong.push(format!("{}: {lines} lines: what is the second thing in it?", path.display()));
        }
        let mut start: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let trimmed = line.trim_start();
            let is_function = trimmed.starts_with("fn ")
                || trimmed.starts_with("async fn ")
                || trimmed.starts_with("pub") && trimmed.contains(" fn ");
            match &start {
                None if is_function && !trimmed.ends_with([';', '}']) => {
                    start = Some((number, indent, trimmed.to_owned()))
                }
                Some((from, at, name)) if indent == *at && trimmed.starts_with('}') => {
                    if number - from + 1 > MAX_FUNCTION_LINES {
                        wrong.push(format!("{}:{}: {} lines: {name}", path.display(), from + 1, number - from + 1));
                    }
                    start = None;
                }
                Some((_, at, _)) if indent <= *at && trimmed.ends_with(';') => start = None,
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_say_what_a_file_holds() {
    for (path, _) in rust_files("src") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(!["util", "utils", "helper", "helpers", "common", "misc"].contains(&name), "{}", path.display());
    }
}

#[test]
fn nothing_is_left_undone() {
    let words = [
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["#[ig", "nore"].concat(),
        ["dbg", "!("].concat(),
        ["should", "_panic"].concat(),
    ];
    for (path, text) in rust_files("src").into_iter().chain(rust_files("tests")) {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} holds {word}", path.display());
        }
    }
}

#[test]
fn no_corpus_file_was_copied_into_the_project() {
    let corpora = root().join("../shared/corpora");
    if !corpora.is_dir() {
        println!("../shared/corpora is not there: nothing to compare with");
        return;
    }
    let mut theirs = BTreeSet::new();
    let mut folders = vec![corpora];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                theirs.insert(std::fs::read(path).unwrap());
            }
        }
    }
    for path in std::fs::read_dir(root().join("fixtures/hl7")).unwrap().map(|entry| entry.unwrap().path()) {
        assert!(!theirs.contains(&std::fs::read(&path).unwrap()), "{}", path.display());
    }
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_licence_is_one_that_we_may_ship() {
    // CC0-1.0: notify. Each of an `OR` suffices, each of an `AND` is needed.
    const FINE: &[&str] = &[
        "MIT",
        "MIT-0",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-1-Clause",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "0BSD",
        "Unicode-3.0",
        "Unlicense",
        "CC0-1.0",
        "BSL-1.0",
        "CDLA-Permissive-2.0",
    ];
    let mut wrong = Vec::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none").replace('/', " OR ").replace(['(', ')'], "");
        let fine =
            licence.split(" AND ").all(|needed| needed.split(" OR ").any(|choice| FINE.contains(&choice.trim())));
        if !fine {
            wrong.push(format!("{}: {licence}", package["name"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn duplicate_versions_are_known() {
    // What our dependencies bring in twice; a new pair is a decision to be made here.
    let known: BTreeSet<&str> =
        include_str!("duplicates.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata()["resolve"]["nodes"].as_array().unwrap() {
        let id = node["id"].as_str().unwrap();
        let package = id.rsplit('#').next().unwrap();
        let (name, version) =
            package.rsplit_once('@').unwrap_or((id.rsplit('/').next().unwrap().split('#').next().unwrap(), package));
        versions.entry(name.to_owned()).or_default().insert(version.to_owned());
    }
    let found: BTreeSet<&str> =
        versions.iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| name.as_str()).collect();
    let new: Vec<_> = found.difference(&known).collect();
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "new duplicates: {new:?}; no longer duplicates: {gone:?} (tests/it/duplicates.txt)"
    );
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let mut reason = false;
    for line in section.lines() {
        if line.starts_with('#') {
            reason = true;
        } else if line.trim().is_empty() {
            reason = false;
        } else if line.contains(" = ") {
            assert!(reason, "no reason stands above `{line}`");
        }
    }
}

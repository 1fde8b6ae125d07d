//! `labwire check`: every broken channel file of `fixtures/invalid` with the text that it brings forth beside it.
//! `LABWIRE_BLESS=1 cargo test` writes the `.stderr` files anew: look at what changed.

use std::path::{Path, PathBuf};

use crate::support::rig::labwire;
use crate::support::root;

/// The cases: a file, or a folder whose files belong together.
fn cases() -> Vec<PathBuf> {
    let folder = root().join("fixtures/invalid");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() { !["secrets", "tables", "templates"].contains(&name) } else { name.ends_with(".toml") }
        })
        .collect();
    cases.sort();
    cases
}

fn check(path: &Path) -> (i32, String) {
    let shown = path.strip_prefix(root()).unwrap();
    let output = labwire().current_dir(root()).arg("check").arg(shown).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn each_broken_file_brings_forth_its_diagnostics() {
    let bless = std::env::var_os("LABWIRE_BLESS").is_some();
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    for case in cases {
        let (code, text) = check(&case);
        assert_eq!(code, 1, "{}:\n{text}", case.display());
        let snapshot = case.with_extension("stderr");
        if bless {
            std::fs::write(&snapshot, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&snapshot).unwrap_or_default();
        if text != expected {
            wrong.push(format!("{}\n--- expected\n{expected}\n--- found\n{text}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn all_mistakes_of_all_files_come_in_one_run() {
    let together = labwire().current_dir(root()).args(["check", "fixtures/invalid"]).output().unwrap();
    let text = String::from_utf8(together.stdout).unwrap();
    for case in cases().iter().filter(|case| case.is_file()) {
        let name = case.strip_prefix(root()).unwrap().display().to_string();
        assert!(text.contains(&name), "{name} is not in:\n{text}");
    }
}

#[test]
fn the_shipped_channels_are_without_mistakes_and_their_tests_pass() {
    for command in ["check", "test"] {
        let output = labwire().current_dir(root()).args([command, "channels"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn json_names_file_line_and_column() {
    let output = labwire()
        .current_dir(root())
        .args(["check", "--format", "json", "fixtures/invalid/unknown-key.toml"])
        .output()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let diagnostic = &answer["diagnostics"][0];
    assert_eq!(diagnostic["file"], "fixtures/invalid/unknown-key.toml");
    assert!(diagnostic["line"].as_u64().unwrap() > 1, "{diagnostic}");
    assert!(diagnostic["column"].as_u64().unwrap() >= 1, "{diagnostic}");
    assert!(diagnostic["message"].as_str().unwrap().contains("unknown key"), "{diagnostic}");
}

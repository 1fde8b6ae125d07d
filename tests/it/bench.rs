//! `labwire bench`: that it runs to its end and accounts for every message, not how fast anything is.

use std::process::Stdio;

use serde_json::Value;

use crate::support::eventually::eventually;
use crate::support::rig::labwire;

fn bench(folder: &std::path::Path, arguments: &[&str]) -> (i32, String) {
    let output = labwire().arg("bench").args(arguments).arg("--quick").current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

fn positive(value: &Value, pointers: &[&str]) {
    for pointer in pointers {
        assert!(
            value.pointer(pointer).and_then(Value::as_f64).is_some_and(|found| found > 0.0),
            "{pointer}: {value:#}"
        );
    }
}

#[test]
fn every_message_of_every_shape_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text) = bench(folder.path(), &["--million", "--format", "json"]);
    assert_eq!(code, 0, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["whole"], true);
    let shapes = report["shapes"].as_array().unwrap();
    let names: Vec<&str> = shapes.iter().map(|shape| shape["shape"].as_str().unwrap()).collect();
    let all = ["receive", "receive-1", "whole", "whole-file", "sizes", "channels", "backlog", "grown", "restart"];
    assert_eq!(names, all);
    let (restart, shapes) = shapes.split_last().unwrap();
    starts(restart);
    positive(&shapes[7], &["/ratios/2/value"]);
    for shape in shapes {
        let name = shape["shape"].as_str().unwrap();
        let rows = shape["rows"].as_array().unwrap();
        let compared = ["channels", "backlog", "grown"].contains(&name);
        assert_eq!(rows.len(), if compared { 2 } else { if name == "sizes" { 4 } else { 1 } }, "{name}");
        assert!(!shape["ratios"].as_array().unwrap().is_empty(), "{name}");
        for row in rows {
            account(name, row);
            positive(row, &["/received_per_second", "/ack_ms/p99_9", "/engine/peak_kib", "/disk/bytes_per_message"]);
            if !compared {
                positive(row, &["/null_server/messages_per_second", "/raw/groups_per_second", "/raw/single_ms/p50"]);
            }
        }
    }
    positive(&shapes[3]["rows"][0], &["/raw/files_per_second", "/end_to_end_at_half/rate"]);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Nothing is lost or forgotten by a start.
fn starts(restart: &Value) {
    let starts = restart["starts"].as_array().unwrap();
    assert_eq!(starts.len(), 2, "{restart:#}");
    for start in starts {
        positive(start, &["/ready_after_ms", "/peak_kib"]);
        let states = &start["states"];
        assert!(states["queued"] == 500 && states["filtered"] == 500, "{restart:#}");
    }
}

/// What was sent was accepted, is in the journal in the state that it should come to, and arrived once at each end.
fn account(shape: &str, row: &Value) {
    let all = &row["in_all"];
    let number = |key: &str| all[key].as_u64().unwrap_or_else(|| panic!("{row:#}"));
    let (sent, ends) = (number("sent"), all["arrived"].as_array().unwrap());
    assert!(sent > 0 && sent == number("accepted") && number("rejected") + number("errors") == 0, "{row:#}");
    assert!(row["messages"].as_u64().unwrap() <= sent, "{row:#}");
    let (ends_of_shape, state) = match shape {
        "whole" => (2, "sent"),
        "whole-file" => (1, "sent"),
        _ => (0, "filtered"),
    };
    assert_eq!(ends.len(), ends_of_shape, "{row:#}");
    assert!(ends.iter().all(|end| end["messages"] == sent && end["repeated"] == 0), "{row:#}");
    positive(&row["in_all"], if ends.is_empty() { &[] } else { &["/arrived/0/latency_ms/p50"] });
    assert_eq!(all["states"][state], sent, "{row:#}");
    let queued = if row["label"] == "500 queued" { 500 } else { 0 };
    assert_eq!(all["states"]["queued"].as_u64().unwrap_or_default(), queued, "{row:#}");
}

#[test]
fn the_tables_hold_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir_in(folder.path()).unwrap();
    let data = elsewhere.path().to_str().unwrap();
    let (code, text) = bench(folder.path(), &["receive-1", "--data", data, "--format", "markdown"]);
    assert_eq!(code, 0, "{text}");
    for words in ["**The engine**", "| receive-1 | 1 × ", "**The limits: ", "**Ratios**", "append + fdatasync p50 |"] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    assert!(!text.contains("whole-file"), "{text}");
    let (code, text) = bench(folder.path(), &["receive-1"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ack ms p50/p99/p99.9") && text.contains("null server/s"), "{text}");

    assert_eq!(bench(folder.path(), &["nonsense"]).0, 2);
    let (code, text) = bench(folder.path(), &["receive", "--data", "nowhere"]);
    assert!(code == 2 && text.contains("--data nowhere"), "{text}");
}

#[test]
fn it_leaves_nothing_behind_when_it_is_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = labwire()
        .args(["bench", "receive", "--seconds", "600"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let engine = eventually("the engine runs", || {
        let site = std::fs::read_dir(folder.path()).unwrap().flatten().next()?;
        std::fs::read_to_string(site.path().join("receive/data/lock")).ok().filter(|lock| !lock.is_empty())
    });
    let pid: u32 = engine.split_whitespace().next().unwrap().parse().unwrap();
    assert!(std::process::Command::new("kill").arg(bench.id().to_string()).status().unwrap().success());
    let status = eventually("the benchmark ends", || bench.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the engine ended, too");
}

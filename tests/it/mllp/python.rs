//! A client that nobody here wrote: `mllp_send` of the Python package `hl7`.

use std::process::Command;

use labwire::message::RefKind;

use super::message;
use crate::support::listener::Listener;
use crate::support::python;

#[test]
fn mllp_send_of_python_hl7_is_acknowledged() {
    let listener = Listener::start("");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages.hl7");
    // Its `--loose` format: messages one after the other.
    std::fs::write(&file, [message("1"), message("2"), message("3")].concat()).unwrap();
    let output = Command::new(python::program("mllp_send"))
        .args(["--loose", "--port", &listener.address.port().to_string(), "--file"])
        .args([&file, std::path::Path::new("127.0.0.1")])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    for id in ["1", "2", "3"] {
        assert!(printed.contains(&format!("MSA|AA|{id}")), "{printed}");
    }
    let arrivals = listener.journal.arrivals();
    let ids: Vec<_> = arrivals.iter().map(|arrival| arrival.refs.first(RefKind::ControlId).unwrap()).collect();
    assert_eq!(ids, ["1", "2", "3"]);
}

//! The pollers `file` and `sftp`, by the real binary, real folders and real servers. Rows F64 to F70, A27 and A28 are named by their
//! tests.

mod capture;
mod hostile;
mod options;
mod remote;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::rig::Rig;

/// What makes a poller as quick as a test wants it.
const QUICK: &str = "every = \"100ms\"\nunchanged_polls = 1\nmin_age = \"0s\"\n";

/// A message that no other is like.
fn message(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|LAB|A|B|C|20260115||ORU^R01|{id}|P|2.5\rPID|1||P-{id}||Secretname^Anna\rOBX|1|NM|GLU||5.4\r")
        .into_bytes()
}

/// A rig, not running, whose channel `files` captures what is in its folder `in`.
fn rig(options: &str) -> Rig {
    let rig = Rig::new();
    std::fs::create_dir(inbox(&rig)).unwrap();
    rig.write("channels/files.toml", channel("files", &format!("type = \"file\"\ndirectory = \"../in\"\n{options}")));
    rig
}

/// A channel with this source that writes each message to a file in `out`.
fn channel(name: &str, source: &str) -> String {
    format!(
        "name = \"{name}\"\n[source]\n{source}\n[destination.out]\ntype = \"file\"\ndirectory = \"../out\"\n\
         file_name = \"{{{{ meta.id }}}}.hl7\"\n"
    )
}

fn inbox(rig: &Rig) -> PathBuf {
    rig.path().join("in")
}

/// Puts a file in place at once.
fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let temporary = folder.join(format!(".{}.new", name.replace('/', "_")));
    std::fs::write(&temporary, content).unwrap();
    std::fs::rename(&temporary, &path).unwrap();
    path
}

/// Makes a file look as if it had been written so long ago.
fn age(path: &Path, by: Duration) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

/// The files below a folder, sorted; folders are not among them.
fn files(folder: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                walk(root, &entry.path(), found);
            } else {
                found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// One of the references of each message, in the order in which they were received.
fn refs(messages: &[Value], kind: &str) -> Vec<String> {
    let of = |message: &Value| {
        let refs = message["refs"].as_array().unwrap().iter();
        refs.filter(|found| found["kind"] == kind).map(|found| found["value"].as_str().unwrap().to_owned()).next()
    };
    messages.iter().rev().filter_map(of).collect()
}

/// The MSH-10 of each message, in the order in which they were received.
fn control_ids(messages: &[Value]) -> Vec<String> {
    refs(messages, "control_id")
}

/// What the channel of this name shows.
fn view(rig: &Rig, channel: &str) -> Value {
    let (_, page) = rig.get("/api/v1/channels");
    page["channels"].as_array().unwrap().iter().find(|view| view["name"] == channel).unwrap().clone()
}

/// Waits for so many polls of a channel that polls every 100 ms, so that what was not to happen had its time.
fn let_some_polls_pass() {
    std::thread::park_timeout(Duration::from_millis(500));
}

//! The real `labwire run` on channel files given as text, on free ports.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::eventually::{eventually, eventually_within};

/// The binary under test.
pub fn labwire() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_labwire"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LABWIRE_") {
            command.env_remove(name);
        }
    }
    command
}

/// A folder with channel files and a data folder, and the engine on them while it runs.
pub struct Rig {
    folder: tempfile::TempDir,
    /// What `labwire run` is told beside the folders.
    pub arguments: Vec<&'static str>,
    /// Its environment, beside the test's own.
    pub environment: Vec<(String, String)>,
    /// While somebody holds it, nobody reads the log of the engine.
    pub deaf: Arc<Mutex<()>>,
    engine: Option<Running>,
}

struct Running {
    process: Child,
    api: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
    log: Arc<Mutex<String>>,
}

impl Rig {
    /// A rig whose engine does not run yet.
    pub fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("channels")).unwrap();
        Rig { folder, arguments: Vec::new(), environment: Vec::new(), deaf: Arc::default(), engine: None }
    }

    /// A rig with one channel, running.
    pub fn with(channel: &str) -> Rig {
        let mut rig = Rig::new();
        rig.write("channels/channel.toml", channel);
        rig.start();
        rig
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn channels(&self) -> PathBuf {
        self.path().join("channels")
    }

    /// Writes a file below the rig's folder, at once as editors do: under another name, then renamed.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, content).unwrap();
        std::fs::rename(&temporary, &path).unwrap();
        path
    }

    /// Starts the engine and waits until it is ready.
    pub fn start(&mut self) {
        assert!(self.try_start(), "the engine did not start:\n{}", self.log());
    }

    /// Starts the engine; false when it ended before it was ready.
    pub fn try_start(&mut self) -> bool {
        let mut process = labwire()
            .args(["run", "--listen", "127.0.0.1:0", "--channels"])
            .arg(self.channels())
            .arg("--data")
            .arg(self.path().join("data"))
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Arc<Mutex<String>> = Arc::default();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sink, deaf) = (log.clone(), self.deaf.clone());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                drop(deaf.lock().unwrap());
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut listeners = BTreeMap::new();
        let mut api = None;
        let mut ready = false;
        for line in BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some(rest) = line.strip_prefix("channel ")
                && let Some((name, address)) = rest.split_once(" listens on ")
            {
                listeners.insert(name.to_owned(), address.parse().unwrap());
            } else if let Some(address) = line.strip_prefix("api listens on http://") {
                api = address.parse().ok();
            } else if line == "ready" {
                ready = true;
                break;
            }
        }
        let api = api.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        if !ready {
            let _ = process.wait();
        }
        self.engine = Some(Running { process, api, listeners, log });
        ready
    }

    fn engine(&self) -> &Running {
        self.engine.as_ref().expect("the engine was started")
    }

    pub fn api(&self) -> SocketAddr {
        self.engine().api
    }

    /// The address that a channel listened on when the engine was ready.
    pub fn listener(&self, channel: &str) -> SocketAddr {
        *self.engine().listeners.get(channel).unwrap_or_else(|| panic!("{channel} does not listen:\n{}", self.log()))
    }

    /// What the engine wrote to standard error.
    pub fn log(&self) -> String {
        self.engine.as_ref().map(|engine| engine.log.lock().unwrap().clone()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.engine().process.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut engine = self.engine.take().expect("the engine was started");
        engine.process.kill().unwrap();
        engine.process.wait().unwrap();
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        let status = Command::new("kill").arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
        let mut engine = self.engine.take().expect("the engine was started");
        eventually_within(Duration::from_secs(11), "the engine ends on SIGTERM", || engine.process.try_wait().unwrap())
    }

    /// Sends a signal by its name, as `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success(), "kill -s {name}");
    }

    /// Whether the engine is no longer there.
    pub fn has_ended(&mut self) -> bool {
        self.engine.as_mut().expect("the engine was started").process.try_wait().unwrap().is_some()
    }

    /// Waits until the engine ends by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let engine = self.engine.as_mut().expect("the engine was started");
        eventually_within(Duration::from_secs(30), "the engine ends", || engine.process.try_wait().unwrap())
    }

    /// Runs a command of the binary against this engine; gives exit code and standard output.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = labwire();
        command.args(arguments).env("LABWIRE_ENGINE", self.api().to_string());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        let request = agent().get(format!("http://{}{path}", self.api()));
        answer(request.call().unwrap())
    }

    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> (u16, Value) {
        let request = agent().post(format!("http://{}{path}", self.api())).content_type("application/json");
        answer(request.send(body.as_ref()).unwrap())
    }

    /// All messages of the journal, newest first.
    pub fn messages(&self, query: &str) -> Vec<Value> {
        let (status, page) = self.get(&format!("/api/v1/messages?limit=1000{query}"));
        assert_eq!(status, 200, "{page}");
        page["messages"].as_array().unwrap().clone()
    }

    /// The whole story of a message.
    pub fn story(&self, id: &str) -> Value {
        let (status, story) = self.get(&format!("/api/v1/messages/{id}"));
        assert_eq!(status, 200, "{story}");
        story
    }

    /// Waits until the log has a text.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        eventually(&format!("the log has {text:?}"), || self.log().contains(text).then_some(()));
    }

    /// Waits until at least so many messages are sent.
    #[track_caller]
    pub fn wait_for_sent(&self, count: usize) -> Vec<Value> {
        let sent = || Some(self.messages("&state=sent")).filter(|messages| messages.len() >= count);
        eventually(&format!("{count} messages are sent"), sent)
    }

    /// Waits until so many messages are in a state.
    #[track_caller]
    pub fn wait_for(&self, state: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} messages are {state}"), || {
            Some(self.messages(&format!("&state={state}"))).filter(|messages| messages.len() == count)
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(engine) = &mut self.engine {
            let _ = engine.process.kill();
            let _ = engine.process.wait();
            if std::thread::panicking() {
                eprintln!("the engine's log:\n{}", engine.log.lock().unwrap());
            }
        }
    }
}

fn agent() -> ureq::Agent {
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(30)));
    config.build().into()
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.body_mut().read_json().unwrap_or_default())
}

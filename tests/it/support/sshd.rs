//! A real OpenSSH server on a free loopback port, with keys of its own, for the user who runs the tests.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::eventually::eventually_within;

const INSTALL: &str = "OpenSSH's server is missing; `make test` installs it, or: sudo apt-get install openssh-server";

/// The server; its processes end when this is dropped.
pub struct Sshd {
    folder: tempfile::TempDir,
    pub kinds: &'static [&'static str],
    /// More lines of its configuration.
    more: String,
    files: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Sshd {
    /// Starts a server that knows the public key `user_key`, with host keys of these kinds.
    pub fn start(user_key: &Path, kinds: &'static [&'static str]) -> Sshd {
        Sshd::start_with(user_key, kinds, "", None)
    }

    /// The same with more lines of configuration, and with files that lie elsewhere.
    pub fn start_with(user_key: &Path, kinds: &'static [&'static str], more: &str, files: Option<PathBuf>) -> Sshd {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        let files = files.unwrap_or_else(|| folder.path().join("files"));
        std::fs::copy(user_key.with_extension("pub"), folder.path().join("authorized_keys")).unwrap();
        let mut sshd = Sshd { folder, kinds, more: more.to_owned(), files, port: 0, process: None };
        sshd.make_host_keys();
        sshd.run();
        sshd
    }

    /// Where a login begins.
    pub fn files(&self) -> PathBuf {
        self.files.clone()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name to log in with.
    pub fn user() -> String {
        text_of(Command::new("id").arg("-un"))
    }

    /// The fingerprint of one of the host keys, as OpenSSH tells it.
    pub fn fingerprint(&self, kind: &str) -> String {
        fingerprint(&self.folder.path().join(format!("host_{kind}.pub")))
    }

    /// Takes new keys for old, as a partner does without telling.
    pub fn change_host_keys(&mut self) {
        self.kill();
        self.make_host_keys();
        self.run();
    }

    fn make_host_keys(&self) {
        for kind in self.kinds {
            let key = self.folder.path().join(format!("host_{kind}"));
            let _ = std::fs::remove_file(&key);
            keygen(&["-t", kind, "-f", key.to_str().unwrap()], "");
        }
    }

    /// Starts the server again after [`Sshd::kill`], on the port that it had.
    pub fn run(&mut self) {
        let program = find();
        if text_of(Command::new("id").arg("-u")) == "0" {
            // sshd of root wants an empty folder for its unprivileged half.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        for _ in 0..10 {
            let port = if self.port == 0 { free_port() } else { self.port };
            let mut process = Command::new(&program)
                .arg("-D")
                .arg("-e")
                .arg("-f")
                .arg(self.write_config(port))
                .stderr(std::fs::File::create(self.folder.path().join("log")).unwrap())
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let answers = eventually_within(Duration::from_secs(20), "sshd answers or ends", || {
                if process.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                let mut banner = [0; 4];
                let read = TcpStream::connect(("127.0.0.1", port)).and_then(|mut peer| peer.read_exact(&mut banner));
                (read.is_ok() && &banner == b"SSH-").then_some(true)
            });
            if answers {
                self.port = port;
                self.process = Some(process);
                return;
            }
        }
        panic!("sshd does not start:\n{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
    }

    fn write_config(&self, port: u16) -> PathBuf {
        let folder = self.folder.path().display();
        let host_keys: String = self.kinds.iter().map(|kind| format!("HostKey {folder}/host_{kind}\n")).collect();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n{host_keys}\
             AuthorizedKeysFile {folder}/authorized_keys\nSubsystem sftp internal-sftp -d {}\n{}",
            self.files.display(),
            self.more
        );
        let path = self.folder.path().join("config");
        std::fs::write(&path, config).unwrap();
        path
    }

    /// The processes that serve connections.
    pub fn sessions(&self) -> Vec<u32> {
        self.process.as_ref().map(|process| descendants(process.id())).unwrap_or_default()
    }

    /// How many connections there are: each has a process of its own directly below the server.
    pub fn connections(&self) -> usize {
        self.process.as_ref().map_or(0, |process| children(process.id()).len())
    }

    /// Kills the processes that serve connections; the server lives on.
    pub fn kill_sessions(&self) {
        for id in self.sessions() {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).stderr(Stdio::null()).status();
        }
    }

    /// Kills the server and all its sessions at once.
    pub fn kill(&mut self) {
        self.kill_sessions();
        let Some(mut process) = self.process.take() else { return };
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn children(parent: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn descendants(parent: u32) -> Vec<u32> {
    let children = children(parent);
    children.iter().flat_map(|child| descendants(*child)).chain(children.iter().copied()).collect()
}

fn find() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"];
    places.iter().map(PathBuf::from).find(|path| path.exists()).expect(INSTALL)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `ssh-keygen -q -N PASSPHRASE …`.
pub fn keygen(arguments: &[&str], passphrase: &str) {
    let done = Command::new("ssh-keygen").args(["-q", "-N", passphrase]).args(arguments).stdin(Stdio::null()).status();
    assert!(done.expect(INSTALL).success(), "ssh-keygen {arguments:?}");
}

/// The fingerprint of the key in a file.
pub fn fingerprint(file: &Path) -> String {
    let line = text_of(Command::new("ssh-keygen").arg("-lf").arg(file));
    line.split_whitespace().nth(1).unwrap().to_owned()
}

/// What a command prints, without the line break at its end.
pub fn text_of(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

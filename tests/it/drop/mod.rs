//! The hosted drop: `sftp_server` as a source and as a destination, used by OpenSSH's `sftp`, lftp, Python's paramiko and libssh2.

mod clients;
mod destination;
mod faults;
mod limits;
mod options;
mod security;
mod ssh;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::python;
use crate::support::rig::{Rig, labwire};
use crate::support::sshd::keygen;

/// An order as a partner sends it.
fn order(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|LIS|ACME|LAB|X|20260115||ORM^O01|{id}|P|2.5\rPID|1||P-{id}\rORC|NW|O-{id}\r").into_bytes()
}

/// A channel that takes what `user` uploads into the folder `orders`; `more` are further lines of its source.
fn channel(name: &str, user: &str, more: &str) -> String {
    let folder = if more.contains("folder = ") { "" } else { "folder = \"orders\"\n" };
    let keys =
        if more.contains("keys = ") { "" } else { "keys = { file = \"secrets/USER.pub\" }\n" }.replace("USER", user);
    format!(
        "name = \"{name}\"\n[source]\ntype = \"sftp_server\"\nlisten = \"127.0.0.1:0\"\nuser = \"{user}\"\n{keys}{folder}{more}\n\
         [destination.out]\ntype = \"file\"\ndirectory = \"../out/{name}\"\nfile_name = \"{{{{ meta.file_name }}}}-{{{{ meta.id }}}}\"\n"
    )
}

/// An engine with keys for `acme` and `bravo`.
struct Site {
    rig: Rig,
}

impl Site {
    fn new() -> Site {
        let rig = Rig::new();
        std::fs::create_dir(rig.channels().join("secrets")).unwrap();
        for user in ["acme", "bravo"] {
            keygen(&["-t", "ed25519", "-f", rig.channels().join("secrets").join(user).to_str().unwrap()], "");
        }
        Site { rig }
    }

    /// One channel, `orders` of `acme`, running.
    fn with(more: &str) -> Site {
        let mut site = Site::new();
        site.rig.write("channels/orders.toml", channel("orders", "acme", more));
        site.rig.start();
        site
    }

    fn address(&self) -> SocketAddr {
        self.rig.listener("orders")
    }

    fn key(&self, user: &str) -> PathBuf {
        self.rig.channels().join("secrets").join(user)
    }

    /// The folder `orders` of a user on the engine's disk.
    fn disk(&self, user: &str) -> PathBuf {
        self.rig.path().join("data/hosted/users").join(user).join("orders")
    }

    fn try_login(&self, user: &str, key: &str) -> Result<ssh2::Session, ssh2::Error> {
        let session = connect(self.address());
        session.userauth_pubkey_file(user, None, &self.key(key), None)?;
        Ok(session)
    }

    fn login(&self, user: &str) -> Sftp {
        let session = self.try_login(user, user).unwrap();
        let sftp = session.sftp().unwrap();
        Sftp { sftp }
    }

    /// Runs OpenSSH's `sftp` with a batch of commands; one that fails ends it, unless it begins with `-`.
    fn sftp(&self, user: &str, batch: &str) -> (bool, String) {
        let path = self.rig.write("batch", batch);
        let mut command = Command::new("sftp");
        command.arg("-P").arg(self.address().port().to_string()).args(openssh_options()).arg("-i").arg(self.key(user));
        run(command.arg("-b").arg(path).arg(format!("{user}@127.0.0.1")).current_dir(self.rig.path()))
    }

    /// Runs a Python script of this folder with paramiko: the address, the user, the key, then these arguments.
    fn python(&self, script: &str, user: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(python::program("python"));
        command.arg(crate::support::root().join("tests/it/drop").join(script));
        command.arg(self.address().port().to_string()).arg(user).arg(self.key(user)).args(arguments);
        run(command.current_dir(self.rig.path()))
    }

    /// The bodies of what was delivered, by file name without the id.
    fn delivered(&self, channel: &str) -> Vec<(String, Vec<u8>)> {
        let folder = self.rig.path().join("out").join(channel);
        let mut found: Vec<_> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.to_string_lossy().ends_with(".part"))
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                (name[..name.len() - 27].to_owned(), std::fs::read(&path).unwrap())
            })
            .collect();
        found.sort();
        found
    }
}

fn openssh_options() -> Vec<&'static str> {
    "-F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o StrictHostKeyChecking=no \
     -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o LogLevel=ERROR"
        .split_whitespace()
        .collect()
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// A connection before its login.
fn connect(address: SocketAddr) -> ssh2::Session {
    connect_on(TcpStream::connect(address).unwrap()).unwrap()
}

fn connect_on(stream: TcpStream) -> Result<ssh2::Session, ssh2::Error> {
    let mut session = ssh2::Session::new().unwrap();
    session.set_timeout(20_000);
    session.set_tcp_stream(stream);
    session.handshake()?;
    Ok(session)
}

/// The argon2 hash of a password, as the command makes it.
fn hash(password: &str) -> String {
    let mut process = labwire().args(["key", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    String::from_utf8(process.wait_with_output().unwrap().stdout).unwrap()
}

/// What SFTP answered: a status of its own (3: permission denied, 4: failure), or an error of libssh2.
fn status(error: &ssh2::Error) -> i32 {
    match error.code() {
        ssh2::ErrorCode::SFTP(code) | ssh2::ErrorCode::Session(code) => code,
    }
}

const NO_SUCH_FILE: i32 = 2;
const DENIED: i32 = 3;
const FAILURE: i32 = 4;

/// An SFTP session of libssh2.
struct Sftp {
    sftp: ssh2::Sftp,
}

impl Sftp {
    fn open(&self, path: &str, flags: ssh2::OpenFlags) -> Result<ssh2::File, i32> {
        self.sftp.open_mode(Path::new(path), flags, 0o644, ssh2::OpenType::File).map_err(|error| status(&error))
    }

    fn create(&self, path: &str) -> Result<ssh2::File, i32> {
        use ssh2::OpenFlags;
        self.open(path, OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE)
    }

    /// Uploads a file; the status where some part of it is refused.
    fn put(&self, path: &str, content: &[u8]) -> Result<(), i32> {
        let mut file = self.create(path)?;
        let written = file.write_all(content).map_err(|_| FAILURE);
        let closed = file.close().map_err(|error| status(&error));
        written.and(closed)
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, i32> {
        let mut content = Vec::new();
        let mut file = self.open(path, ssh2::OpenFlags::READ)?;
        std::io::Read::read_to_end(&mut file, &mut content).map_err(|_| FAILURE)?;
        Ok(content)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), i32> {
        self.sftp.rename(Path::new(from), Path::new(to), None).map_err(|error| status(&error))
    }

    fn remove(&self, path: &str) -> Result<(), i32> {
        self.sftp.unlink(Path::new(path)).map_err(|error| status(&error))
    }

    fn size(&self, path: &str) -> Result<u64, i32> {
        self.sftp.stat(Path::new(path)).map(|stat| stat.size.unwrap()).map_err(|error| status(&error))
    }

    fn names(&self, path: &str) -> Result<Vec<String>, i32> {
        let found = self.sftp.readdir(Path::new(path)).map_err(|error| status(&error))?;
        let mut names: Vec<String> =
            found.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        Ok(names)
    }
}

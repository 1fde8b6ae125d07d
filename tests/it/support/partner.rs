//! A partner's SFTP server, of either make, and the destination that uploads to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use labwire::config::{Place, Table, collect};
use labwire::destination::{Destination, DestinationConfig, KINDS, SendError};
use labwire::diagnostic::SourceFile;
use labwire::hosted::{Hosted, HostedConfig, Identity, Limits, User};
use labwire::journal::Outgoing;
use toml::de::DeTable;

use super::sshd::{Sshd, keygen};

/// Who made the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    OpenSsh,
    Hosted,
}

pub const MAKES: [Make; 2] = [Make::OpenSsh, Make::Hosted];

/// The password at the hosted server; OpenSSH's takes keys alone.
pub const PASSWORD: &str = "correct horse";

/// A server with one user, and a key that this user logs in with.
pub struct Partner {
    pub folder: tempfile::TempDir,
    server: Server,
}

enum Server {
    OpenSsh(Box<Sshd>),
    Hosted { hosted: Option<Hosted>, port: u16, host_key: &'static str, limits: Limits },
}

impl Partner {
    pub fn start(make: Make) -> Partner {
        Partner::start_with_key(make, &["-t", "ed25519"], "")
    }

    /// The same with a user key of another kind, as `ssh-keygen` makes it.
    pub fn start_with_key(make: Make, kind: &[&str], passphrase: &str) -> Partner {
        let folder = tempfile::tempdir().unwrap();
        keygen(&[kind, &["-f", folder.path().join("key").to_str().unwrap()]].concat(), passphrase);
        std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
        let server = match make {
            Make::OpenSsh => Server::OpenSsh(Box::new(Sshd::start(&folder.path().join("key"), &["ed25519"]))),
            Make::Hosted => Server::Hosted { hosted: None, port: 0, host_key: "host_key", limits: Limits::default() },
        };
        let mut partner = Partner { folder, server };
        if make == Make::Hosted {
            partner.run();
        }
        partner
    }

    /// OpenSSH's server with a host key of every kind.
    pub fn with_every_host_key() -> Partner {
        let mut partner = Partner::start(Make::OpenSsh);
        let sshd = Sshd::start(&partner.folder.path().join("key"), &["ed25519", "ecdsa", "rsa"]);
        partner.server = Server::OpenSsh(Box::new(sshd));
        partner
    }

    /// OpenSSH's server with host keys of these kinds, more lines of configuration, and files that may lie elsewhere.
    pub fn with_config(host_keys: &'static [&'static str], more: &str, files: Option<PathBuf>) -> Partner {
        let mut partner = Partner::start(Make::OpenSsh);
        let sshd = Sshd::start_with(&partner.folder.path().join("key"), host_keys, more, files);
        partner.server = Server::OpenSsh(Box::new(sshd));
        partner
    }

    /// Our own server, which takes files up to this size.
    pub async fn with_file_limit(file_bytes: u64) -> Partner {
        let mut partner = Partner::start(Make::Hosted);
        partner.kill().await;
        if let Server::Hosted { limits, .. } = &mut partner.server {
            limits.file_bytes = file_bytes;
        }
        partner.run();
        partner
    }

    /// What a login sees.
    pub fn files(&self) -> PathBuf {
        match &self.server {
            Server::OpenSsh(sshd) => sshd.files(),
            Server::Hosted { .. } => self.folder.path().join("files"),
        }
    }

    pub fn port(&self) -> u16 {
        match &self.server {
            Server::OpenSsh(sshd) => sshd.port(),
            Server::Hosted { port, .. } => *port,
        }
    }

    pub fn user(&self) -> String {
        match &self.server {
            Server::OpenSsh(_) => Sshd::user(),
            Server::Hosted { .. } => "acme".to_owned(),
        }
    }

    /// The fingerprint of its (first) host key.
    pub fn fingerprint(&self) -> String {
        match &self.server {
            Server::OpenSsh(sshd) => sshd.fingerprint(sshd.kinds[0]),
            Server::Hosted { hosted, .. } => hosted.as_ref().unwrap().fingerprint().to_owned(),
        }
    }

    /// The server, where it is OpenSSH's.
    pub fn sshd(&self) -> &Sshd {
        match &self.server {
            Server::OpenSsh(sshd) => sshd,
            Server::Hosted { .. } => panic!("this is not OpenSSH"),
        }
    }

    /// Starts OpenSSH's server again with new host keys of other kinds.
    pub fn change_kinds(&mut self, kinds: &'static [&'static str]) {
        let Server::OpenSsh(sshd) = &mut self.server else { panic!("this is not OpenSSH") };
        sshd.kinds = kinds;
        sshd.change_host_keys();
    }

    /// Ends it with everything it is doing.
    pub async fn kill(&mut self) {
        match &mut self.server {
            Server::OpenSsh(sshd) => sshd.kill(),
            Server::Hosted { hosted, .. } => {
                tokio::time::timeout(Duration::from_secs(10), hosted.take().unwrap().stop())
                    .await
                    .expect("the server stops")
            }
        }
    }

    /// Starts it again where it was.
    pub fn run(&mut self) {
        let public = std::fs::read_to_string(self.folder.path().join("key.pub")).unwrap();
        let (root, path) = (self.files(), self.folder.path().to_owned());
        match &mut self.server {
            Server::OpenSsh(sshd) => sshd.run(),
            Server::Hosted { hosted, port, host_key, limits } => {
                let user = User { name: "acme".into(), password: Some(PASSWORD.into()), keys: vec![public], root };
                let started = Hosted::start(HostedConfig {
                    listen: ([127, 0, 0, 1], *port).into(),
                    identity: Identity::File(path.join(host_key)),
                    users: vec![user],
                    limits: limits.clone(),
                });
                let started = started.unwrap();
                *port = started.address().port();
                *hosted = Some(started);
            }
        }
    }

    /// Starts it again with another host key.
    pub async fn change_host_key(&mut self) {
        match &mut self.server {
            Server::OpenSsh(sshd) => sshd.change_host_keys(),
            Server::Hosted { host_key, .. } => {
                *host_key = "other_host_key";
                self.kill().await;
                self.run();
            }
        }
    }

    /// The options of a destination that uploads here with the key; `more` replaces or adds.
    pub fn options(&self, more: &[(&str, &str)]) -> String {
        let mut options = vec![
            ("host", "\"127.0.0.1\"".to_owned()),
            ("port", self.port().to_string()),
            ("user", format!("\"{}\"", self.user())),
            ("key", "{ file = \"key\" }".to_owned()),
            ("host_key", format!("\"{}\"", self.fingerprint())),
            ("file_name", "\"{{ meta.id }}.hl7\"".to_owned()),
            ("timeout", "\"10s\"".to_owned()),
        ];
        for (key, value) in more {
            options.retain(|(known, _)| known != key);
            if !value.is_empty() {
                options.push((key, (*value).to_owned()));
            }
        }
        options.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
    }

    /// A destination with these options.
    pub async fn destination(&self, more: &[(&str, &str)]) -> Box<dyn Destination> {
        let place = Place {
            folder: self.folder.path().to_owned(),
            channel: "a-channel".into(),
            name: "partner".into(),
            data: None,
        };
        parse(&self.options(more), self.folder.path()).expect("the options are right").build(&place).await.unwrap()
    }
}

/// Reads the options of an `sftp` destination; the diagnostics when there are any.
pub fn parse(options: &str, folder: &Path) -> Result<Box<dyn DestinationConfig>, Vec<String>> {
    parse_kind("sftp", options, folder)
}

/// The same for a destination of any kind.
pub fn parse_kind(kind: &str, options: &str, folder: &Path) -> Result<Box<dyn DestinationConfig>, Vec<String>> {
    let file = SourceFile::new(Path::new("channel.toml"), options);
    let read = collect(&file, folder, || {
        let entries = DeTable::parse(&file.text).unwrap().into_inner();
        let kind = KINDS.iter().find(|known| known.name == kind).unwrap();
        (kind.parse)(Table::new(entries, 0..options.len(), "[destination.partner]"))
    });
    match read.value {
        Some(config) if read.diagnostics.is_empty() => Ok(config),
        _ => Err(read.diagnostics.iter().map(ToString::to_string).collect()),
    }
}

/// What leaves for the partner.
pub fn outgoing(directory: &str, file_name: &str, content: impl Into<Bytes>) -> Outgoing {
    let properties = [("directory", directory), ("file_name", file_name)];
    Outgoing {
        content: content.into(),
        properties: properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

/// Sends, and gives the answer as text.
pub async fn send(destination: &mut Box<dyn Destination>, outgoing: &Outgoing) -> Result<String, SendError> {
    let delivered = destination.send(outgoing).await?;
    Ok(String::from_utf8(delivered.response.expect("an answer").to_vec()).unwrap())
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Bytes that look like nothing, and no two stretches of them are alike.
pub fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut block = Vec::with_capacity(1 << 16);
    while block.len() < 1 << 16 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend(state.to_le_bytes());
    }
    let mut content = Vec::with_capacity(bytes + block.len());
    while content.len() < bytes {
        block[..8].copy_from_slice(&content.len().to_le_bytes());
        content.extend_from_slice(&block);
    }
    content.truncate(bytes);
    content.into()
}

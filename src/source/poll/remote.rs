//! A folder on an SFTP server.
//!
//! Design constraints:
//! - Nothing that the server says is believed further than it goes: names are checked, sizes are limits to nothing, and whatever has
//!   no end is left after as much as was asked for.
//! - One connection, made anew where it broke.

use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ssh2::{ErrorCode, FileStat, RenameFlags};

use super::folder::{Content, Facts, Fault, Folder, Kind, Lost, Name};
use crate::net::ssh::{Client, Connected, Plug, SshError};

/// A file must be read within this time: a server that gives a byte now and then is left.
const READ_WITHIN: Duration = Duration::from_secs(600);

/// Status codes of SFTP, and what libssh2 calls the end of a folder.
mod status {
    pub(super) const NO_SUCH_FILE: i32 = 2;
    pub(super) const PERMISSION_DENIED: i32 = 3;
    pub(super) const NO_SUCH_PATH: i32 = 10;
    pub(super) const ALREADY_EXISTS: i32 = 11;
    pub(super) const END_OF_FOLDER: i32 = -16;
}

/// A folder on an SFTP server.
pub(in crate::source) struct Remote {
    client: Client,
    root: PathBuf,
    plug: Arc<Plug>,
    open: Option<Open>,
}

struct Open {
    /// Before `sftp`, so that it is dropped first: with its socket shut, libssh2 does not wait for the peer's farewell.
    _connected: Connected,
    sftp: ssh2::Sftp,
}

impl Remote {
    /// The folder under this path; `plug` ends what is waiting.
    pub(in crate::source) fn new(client: Client, root: PathBuf, plug: Arc<Plug>) -> Remote {
        Remote { client, root, plug, open: None }
    }

    fn server(&self) -> String {
        format!("{}:{}", self.client.target().host, self.client.target().port)
    }

    fn sftp(&self) -> Result<&ssh2::Sftp, Fault> {
        self.open.as_ref().map(|open| &open.sftp).ok_or_else(|| Fault::Lost(Lost::new("no connection")))
    }

    fn connect(&mut self) -> Result<(), Lost> {
        let connected = self.client.connect(&self.plug).map_err(|error| Lost {
            is_serious: matches!(error, SshError::HostKey { .. } | SshError::Login { .. } | SshError::Key { .. }),
            reason: error.to_string(),
        })?;
        let sftp = connected.session.sftp().map_err(|error| {
            let (server, user) = (self.server(), &self.client.target().user);
            Lost::new(format!(
                "{server} lets `{user}` in but does not start SFTP: {}; ask the partner whether this user may use SFTP",
                error.message()
            ))
        })?;
        self.open = Some(Open { _connected: connected, sftp });
        Ok(())
    }

    /// What an error means; a broken connection is let go of.
    fn fault(&mut self, doing: &str, error: &ssh2::Error) -> Fault {
        match error.code() {
            ErrorCode::SFTP(status::NO_SUCH_FILE | status::NO_SUCH_PATH) => Fault::Missing,
            ErrorCode::SFTP(status::ALREADY_EXISTS) => Fault::Exists,
            ErrorCode::SFTP(status::PERMISSION_DENIED) => Fault::Refused("permission denied".to_owned()),
            ErrorCode::SFTP(code) => Fault::Refused(format!("the server says no (SFTP status {code})")),
            ErrorCode::Session(_) => {
                self.open = None;
                Fault::Lost(Lost::new(format!(
                    "connection to {} lost while {doing}: {}",
                    self.server(),
                    error.message()
                )))
            }
        }
    }

    fn on<T>(&mut self, doing: &str, work: impl FnOnce(&ssh2::Sftp) -> Result<T, ssh2::Error>) -> Result<T, Fault> {
        let done = work(self.sftp()?);
        done.map_err(|error| self.fault(doing, &error))
    }
}

fn facts(stat: &FileStat) -> Facts {
    let seconds = i64::try_from(stat.mtime.unwrap_or(0)).unwrap_or(i64::MAX);
    Facts { size: stat.size.unwrap_or(0), modified: seconds.saturating_mul(1_000_000_000) }
}

impl Folder for Remote {
    fn open(&mut self) -> Result<(), Lost> {
        // One that was kept may have died meanwhile.
        let root = self.root.clone();
        for attempt in 0..2 {
            if self.open.is_none() {
                self.connect()?;
            }
            match self.on("looking for the folder", |sftp| sftp.stat(&root)) {
                Ok(stat) if stat.perm.is_some() && !stat.is_dir() => {
                    return Err(Lost::new(format!("{} on {} is not a folder", root.display(), self.server())));
                }
                Ok(_) => return Ok(()),
                Err(Fault::Lost(lost)) if attempt > 0 => return Err(lost),
                Err(Fault::Lost(_)) => {}
                Err(Fault::Refused(reason)) => {
                    return Err(Lost::new(format!("folder {} on {}: {reason}", root.display(), self.server())));
                }
                Err(Fault::Missing | Fault::Exists) => {
                    return Err(Lost::new(format!(
                        "there is no folder {} on {}; ask the partner, or change `directory`",
                        root.display(),
                        self.server()
                    )));
                }
            }
        }
        Err(Lost::new(format!("connection to {} lost", self.server())))
    }

    fn rest(&mut self) {
        // A partner may allow one connection at a time: one that is not used is given back.
        self.open = None;
    }

    fn list(&mut self, path: &Path, each: &mut dyn FnMut(Option<Name>, Kind) -> ControlFlow<()>) -> Result<(), Fault> {
        let path = self.root.join(path);
        let mut folder = self.on("opening the folder", |sftp| sftp.opendir(&path))?;
        loop {
            match folder.readdir() {
                Ok((name, mut stat)) => {
                    if matches!(name.as_os_str().as_encoded_bytes(), b"." | b"..") {
                        continue;
                    }
                    if (stat.size.is_none() || stat.mtime.is_none())
                        && let Some(name) = Name::new(name.as_os_str())
                    {
                        // Some servers list names alone.
                        let file = path.join(name.as_path());
                        match self.on("looking at a file", |sftp| sftp.lstat(&file)) {
                            Ok(found) => stat = found,
                            Err(Fault::Lost(lost)) => return Err(Fault::Lost(lost)),
                            Err(_) => continue,
                        }
                    }
                    let kind = match stat.perm {
                        None => Kind::File(facts(&stat)),
                        Some(_) if stat.is_file() => Kind::File(facts(&stat)),
                        Some(_) if stat.is_dir() => Kind::Folder,
                        Some(_) => Kind::Other,
                    };
                    if each(Name::new(name.as_os_str()), kind).is_break() {
                        return Ok(());
                    }
                }
                Err(error) if error.code() == ErrorCode::Session(status::END_OF_FOLDER) => return Ok(()),
                Err(error) => return Err(self.fault("listing the folder", &error)),
            }
        }
    }

    fn read(&mut self, path: &Path, limit: u64) -> Result<Content, Fault> {
        let path = self.root.join(path);
        let mut file = self.on("opening a file", |sftp| sftp.open(&path))?;
        let begun = Instant::now();
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let left = usize::try_from(limit - bytes.len() as u64).unwrap_or(usize::MAX).min(buffer.len());
            let count = match file.read(&mut buffer[..left]) {
                Ok(count) => count,
                // The crate drops the status here; whether the connection lives is found out by asking something.
                Err(error) => {
                    file.stat().map_err(|error| self.fault("reading a file", &error))?;
                    return Err(Fault::Refused(error.kind().to_string()));
                }
            };
            if count == 0 {
                break;
            }
            if begun.elapsed() > READ_WITHIN {
                self.open = None;
                return Err(Fault::Lost(Lost::new(format!("{} takes too long to give a file", self.server()))));
            }
            bytes.extend_from_slice(&buffer[..count]);
        }
        let stat = file.stat().map_err(|error| self.fault("reading a file", &error))?;
        Ok(Content { bytes, facts: facts(&stat) })
    }

    fn facts(&mut self, path: &Path) -> Result<Facts, Fault> {
        let path = self.root.join(path);
        let stat = self.on("looking at a file", |sftp| sftp.lstat(&path))?;
        let is_file = stat.perm.is_none() || stat.is_file();
        if is_file { Ok(facts(&stat)) } else { Err(Fault::Refused("it is no file".to_owned())) }
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Fault> {
        let path = self.root.join(path);
        match self.on("looking for a file", |sftp| sftp.lstat(&path)) {
            Ok(_) => Ok(true),
            Err(Fault::Missing) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Fault> {
        let paths = (self.root.join(from), self.root.join(to));
        // Without flags: version 3 of the protocol never renames over another file.
        let renamed = self.on("renaming a file", |sftp| sftp.rename(&paths.0, &paths.1, Some(RenameFlags::empty())));
        match renamed {
            Err(Fault::Refused(reason)) => {
                // Most servers do not say that the name is taken.
                if self.exists(to)? { Err(Fault::Exists) } else { Err(Fault::Refused(reason)) }
            }
            renamed => renamed,
        }
    }

    fn make_folder(&mut self, path: &Path) -> Result<(), Fault> {
        let whole = self.root.join(path);
        let mut made = PathBuf::new();
        for part in whole.components() {
            made.push(part);
            // One that is there already is refused in as many ways as there are servers.
            let is_ours = !whole.starts_with(&self.root) || (made.starts_with(&self.root) && made != self.root);
            if is_ours && let Err(Fault::Lost(lost)) = self.on("making a folder", |sftp| sftp.mkdir(&made, 0o770)) {
                return Err(Fault::Lost(lost));
            }
        }
        Ok(())
    }

    fn delete(&mut self, path: &Path) -> Result<(), Fault> {
        let path = self.root.join(path);
        self.on("deleting a file", |sftp| sftp.unlink(&path))
    }
}

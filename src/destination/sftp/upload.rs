//! One upload: temporary name, sync, size, rename. Blocking.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ssh2::{ErrorCode, FileStat, OpenFlags, OpenType, RenameFlags};

use super::super::{Delivered, FaultClass, SendError};
use crate::journal::Outgoing;
use crate::net::ssh::{Client, Connected, Plug, SshError};

/// How long a connection without work is kept.
pub(super) const IDLE: Duration = Duration::from_secs(30);

/// Most names of a folder that are looked at in search of leftovers.
const NAMES: usize = 50_000;
/// Most leftovers that are remembered, over all folders.
const LEFTOVERS: usize = 1_000;
/// Most folders that are remembered as searched.
const FOLDERS: usize = 1_000;

/// Status codes of SFTP.
mod status {
    pub(super) const NO_SUCH_FILE: i32 = 2;
    pub(super) const PERMISSION_DENIED: i32 = 3;
    pub(super) const OP_UNSUPPORTED: i32 = 8;
    pub(super) const NO_SUCH_PATH: i32 = 10;
    pub(super) const NO_SPACE: i32 = 14;
    pub(super) const QUOTA: i32 = 15;
}

/// Uploads to one server, one file at a time, on a connection that is kept.
pub(super) struct Uploader {
    client: Client,
    kept: Option<Kept>,
    /// Temporary files of earlier attempts, by folder; a folder is in here once it was searched.
    leftovers: HashMap<String, Vec<String>>,
    /// A rename whose answer never came.
    unanswered: Option<Names>,
}

struct Kept {
    /// Before `sftp`, so that it is dropped first: with its socket shut, libssh2 does not wait for the peer to close the channel.
    connected: Connected,
    sftp: ssh2::Sftp,
    used: Instant,
}

/// What an upload goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    directory: String,
    file_name: String,
    temporary: String,
}

impl Names {
    /// The temporary name is new for every attempt: what a dead connection left on its way can then never be mistaken for ours.
    fn of(outgoing: &Outgoing) -> Result<Names, SendError> {
        let content = |message: &str| SendError::new(FaultClass::Content, message);
        let property = |name: &str| outgoing.properties.get(name).filter(|value| !value.is_empty()).cloned();
        let (Some(directory), Some(file_name)) = (property("directory"), property("file_name")) else {
            return Err(content("this delivery was queued without a folder and a file name"));
        };
        if file_name.contains(['/', '\0']) || directory.contains('\0') {
            return Err(content("the file name of this delivery holds characters that a name cannot have"));
        }
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let temporary = format!(".{file_name}.{epoch:016}.part");
        Ok(Names { directory, file_name, temporary })
    }

    /// As people read it.
    fn shown(&self) -> String {
        self.path(&self.file_name).trim_start_matches("./").to_owned()
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory.trim_end_matches('/'))
    }

    fn last(&self) -> String {
        self.path(&self.file_name)
    }
}

/// Whether `name` is a temporary name for `file_name`, of whatever attempt.
fn is_leftover(name: &str, file_name: &str) -> bool {
    leftover_of(name) == Some(file_name)
}

/// The file name that a temporary name was made for.
fn leftover_of(name: &str) -> Option<&str> {
    let (file_name, epoch) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
    (epoch.len() == 16 && epoch.bytes().all(|byte| byte.is_ascii_digit())).then_some(file_name)
}

/// Why an upload ended without success.
enum Failure {
    /// The connection is of no use any more.
    Lost { doing: &'static str, reason: String },
    /// The server answered; the connection is fine.
    Answered(SendError),
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Failure {
        Failure::Answered(error)
    }
}

/// What an upload begins with. A kept connection that fails here was dead before, and nothing was lost.
const FIRST_STEP: &str = "looking for the file";

/// The server's answer: a value, or its status code.
type Answer<T> = Result<T, i32>;

/// Tells an answer of the server from a broken connection.
fn answer<T>(doing: &'static str, result: Result<T, ssh2::Error>) -> Result<Answer<T>, Failure> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => match error.code() {
            ErrorCode::SFTP(code) => Ok(Err(code)),
            ErrorCode::Session(_) => Err(Failure::Lost { doing, reason: error.message().to_owned() }),
        },
    }
}

fn delivered(what: String) -> Delivered {
    Delivered { response: Some(Bytes::from(what)) }
}

impl Uploader {
    pub(super) fn new(client: Client) -> Uploader {
        Uploader { client, kept: None, leftovers: HashMap::new(), unanswered: None }
    }

    /// Tries once. A kept connection that turns out to be dead is replaced without ado.
    pub(super) fn deliver(&mut self, outgoing: &Outgoing, plug: &Plug) -> Result<Delivered, SendError> {
        let names = Names::of(outgoing)?;
        self.hang_up();
        if let Some(kept) = self.kept.take().filter(|kept| plug.hold(&kept.connected.socket).is_ok()) {
            match self.deliver_on(kept, &names, &outgoing.content) {
                Err(Failure::Lost { doing: FIRST_STEP, .. }) => {}
                other => return other.map_err(|failure| self.explain(failure)),
            }
        }
        let fresh = self.connect(plug)?;
        self.deliver_on(fresh, &names, &outgoing.content).map_err(|failure| self.explain(failure))
    }

    /// Closes the connection if it has not been used for a while.
    pub(super) fn hang_up(&mut self) {
        self.kept.take_if(|kept| kept.used.elapsed() >= IDLE);
    }

    fn connect(&self, plug: &Plug) -> Result<Kept, SendError> {
        let failed = |error: SshError| SendError::new(class_of(&error), error.to_string());
        let connected = self.client.connect(plug).map_err(failed)?;
        match connected.session.sftp() {
            Ok(sftp) => Ok(Kept { sftp, connected, used: Instant::now() }),
            Err(error) => Err(SendError::new(
                FaultClass::Answer,
                format!(
                    "{} lets `{}` in but does not start SFTP: {}; ask the partner whether this user may use SFTP",
                    self.server(),
                    self.client.target().user,
                    error.message()
                ),
            )),
        }
    }

    fn server(&self) -> String {
        format!("{}:{}", self.client.target().host, self.client.target().port)
    }

    fn deliver_on(&mut self, mut kept: Kept, names: &Names, content: &[u8]) -> Result<Delivered, Failure> {
        let result = self.upload(&kept.sftp, names, content);
        match &result {
            Err(Failure::Lost { .. }) => self.remember(names),
            Ok(_) | Err(Failure::Answered(_)) => {
                kept.used = Instant::now();
                self.kept = Some(kept);
            }
        }
        result
    }

    fn explain(&self, failure: Failure) -> SendError {
        match failure {
            Failure::Answered(error) => error,
            Failure::Lost { doing, reason } => SendError::new(
                FaultClass::Reset,
                format!("connection to {} lost while {doing}: {reason}", self.server()),
            ),
        }
    }

    fn upload(&mut self, sftp: &ssh2::Sftp, names: &Names, content: &[u8]) -> Result<Delivered, Failure> {
        if let Some(found) = look(FIRST_STEP, sftp, &names.last())? {
            return compare(sftp, names, &found, content);
        }
        if let Some(earlier) = self
            .unanswered
            .take_if(|earlier| earlier.directory == names.directory && earlier.file_name == names.file_name)
            && look("looking for an earlier attempt", sftp, &earlier.path(&earlier.temporary))?.is_none()
        {
            // The rename was asked for when the whole file was there, and neither name is left.
            return Ok(delivered(format!(
                "stored {} ({} bytes); the connection broke during the rename, the file was since taken away",
                names.shown(),
                content.len()
            )));
        }
        self.clean_up(sftp, names)?;
        let temporary = names.path(&names.temporary);
        let uploaded = write(sftp, names, content).and_then(|()| self.rename(sftp, names, content));
        if let Err(Failure::Answered(_)) = &uploaded
            && answer("cleaning up", sftp.unlink(Path::new(&temporary)))?.is_err_and(|code| !is_missing(code))
        {
            self.remember(names);
        }
        uploaded
    }

    /// The last step. Whatever is under the final name stays.
    fn rename(&mut self, sftp: &ssh2::Sftp, names: &Names, content: &[u8]) -> Result<Delivered, Failure> {
        let (temporary, last) = (names.path(&names.temporary), names.last());
        self.unanswered = Some(names.clone());
        let renamed =
            answer("renaming", sftp.rename(Path::new(&temporary), Path::new(&last), Some(RenameFlags::empty())))?;
        self.unanswered = None;
        match (renamed, renamed.is_err().then(|| look("looking who has the name", sftp, &last)).transpose()?.flatten())
        {
            (Ok(()), _) => Ok(delivered(format!("stored {} ({} bytes)", names.shown(), content.len()))),
            (Err(_), Some(found)) => {
                let compared = compare(sftp, names, &found, content)?;
                let _ = answer("cleaning up", sftp.unlink(Path::new(&temporary)))?;
                Ok(compared)
            }
            (Err(code), None) => Err(refused("give the file its name", code)),
        }
    }

    /// Removes what earlier attempts at the same file left behind.
    fn clean_up(&mut self, sftp: &ssh2::Sftp, names: &Names) -> Result<(), Failure> {
        if !self.leftovers.contains_key(&names.directory) {
            if self.leftovers.len() >= FOLDERS {
                self.leftovers.clear();
            }
            let found = search(sftp, &names.directory)?;
            self.leftovers.insert(names.directory.clone(), found);
        }
        let Some(known) = self.leftovers.get_mut(&names.directory) else { return Ok(()) };
        let (ours, others) = std::mem::take(known).into_iter().partition(|name| is_leftover(name, &names.file_name));
        *known = others;
        let ours: Vec<String> = ours;
        for name in ours {
            // One that cannot be removed is the partner's to remove.
            let _ = answer("cleaning up", sftp.unlink(Path::new(&names.path(&name))))?;
        }
        Ok(())
    }

    /// The temporary file may be there still.
    fn remember(&mut self, names: &Names) {
        let known: usize = self.leftovers.values().map(Vec::len).sum();
        if let Some(folder) = self.leftovers.get_mut(&names.directory).filter(|_| known < LEFTOVERS) {
            folder.push(names.temporary.clone());
        }
    }
}

fn is_missing(code: i32) -> bool {
    matches!(code, status::NO_SUCH_FILE | status::NO_SUCH_PATH)
}

/// What is under a path.
fn look(doing: &'static str, sftp: &ssh2::Sftp, path: &str) -> Result<Option<FileStat>, Failure> {
    match answer(doing, sftp.stat(Path::new(path)))? {
        Ok(found) => Ok(Some(found)),
        Err(_) => Ok(None),
    }
}

/// Temporary files in a folder, as far as the server lets us look. Names from a server are compared, never used as paths
/// unless they are of our own form.
fn search(sftp: &ssh2::Sftp, directory: &str) -> Result<Vec<String>, Failure> {
    let Ok(mut folder) = answer("listing", sftp.opendir(Path::new(directory)))? else { return Ok(vec![]) };
    let mut found = Vec::new();
    for _ in 0..NAMES {
        // libssh2 reports the end of a folder as an error of its own; a broken connection shows in the next step.
        let Ok((name, _)) = folder.readdir() else { break };
        if let Some(name) = name.to_str().filter(|name| leftover_of(name).is_some() && !name.contains('/')) {
            found.push(name.to_owned());
        }
        if found.len() == LEFTOVERS {
            break;
        }
    }
    Ok(found)
}

/// Writes the temporary file, whole and synced.
fn write(sftp: &ssh2::Sftp, names: &Names, content: &[u8]) -> Result<(), Failure> {
    let path = names.path(&names.temporary);
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
    let opened = answer("opening the file", sftp.open_mode(Path::new(&path), flags, 0o640, OpenType::File))?;
    let mut file = opened.map_err(|code| refused("open a file", code))?;
    if let Err(error) = file.write_all(content) {
        // The crate drops the status code here; whether the connection lives is found out by asking something.
        let _ = answer("writing", sftp.stat(Path::new(&path)))?;
        return Err(SendError::new(
            FaultClass::Full,
            format!("the server stopped taking the file: {error}; its disk or quota may be full"),
        )
        .into());
    }
    match answer("syncing", file.fsync())? {
        Ok(()) | Err(status::OP_UNSUPPORTED) => {}
        Err(code) => return Err(refused("put the file on its disk", code)),
    }
    answer("closing the file", file.close())?.map_err(|code| refused("close the file", code))?;
    let size = answer("checking the size", sftp.stat(Path::new(&path)))?.map_err(|code| {
        if is_missing(code) {
            Failure::from(SendError::new(
                FaultClass::Answer,
                "the temporary file was taken away before it had its name; ask the partner to leave files alone whose name begins with a dot",
            ))
        } else {
            refused("show the file's size", code)
        }
    })?;
    match size.size {
        Some(size) if size == content.len() as u64 => Ok(()),
        Some(size) => {
            Err(SendError::new(FaultClass::Answer, format!("the server has {size} of {} bytes", content.len())).into())
        }
        None => Err(SendError::new(FaultClass::Answer, "the server does not tell the file's size").into()),
    }
}

/// Decides about a file that is under the final name already.
fn compare(sftp: &ssh2::Sftp, names: &Names, found: &FileStat, content: &[u8]) -> Result<Delivered, Failure> {
    let conflict = |what: &str| {
        SendError::new(
            FaultClass::Conflict,
            format!(
                "conflict: {what}; nothing was overwritten; see why two messages have one `file_name`, or remove the other file and retry"
            ),
        )
    };
    if found.is_dir() {
        return Err(conflict("a folder has this file's name").into());
    }
    if found.size.is_some_and(|size| size != content.len() as u64) {
        return Err(conflict("a file of another size has this name").into());
    }
    let there = |how: &str| Ok(delivered(format!("already there{how}: {} ({} bytes)", names.shown(), content.len())));
    let Ok(file) = answer("reading back", sftp.open(Path::new(&names.last())))? else {
        return there(", with the same size (it cannot be read)");
    };
    match same_content(file, content) {
        Ok(true) => there(""),
        Ok(false) => Err(conflict("a file with other content has this name").into()),
        Err(error) => {
            let _ = answer("reading back", sftp.stat(Path::new(&names.last())))?;
            Err(SendError::new(
                FaultClass::Answer,
                format!("a file has this name, and reading it back failed: {error}"),
            )
            .into())
        }
    }
}

fn same_content(mut file: impl Read, mut expected: &[u8]) -> std::io::Result<bool> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        match expected.split_at_checked(count) {
            _ if count == 0 => return Ok(expected.is_empty()),
            Some((same, rest)) if *same == buffer[..count] => expected = rest,
            _ => return Ok(false),
        }
    }
}

/// A refusal in words that say what to do. Neither folder nor file is named: both are made from the message, and the text is
/// logged. The message's own story shows them.
fn refused(what: &str, code: i32) -> Failure {
    let (class, message) = match code {
        code if is_missing(code) => (
            FaultClass::Folder,
            "the folder is not on the server; create it there, or change `directory` (`labwire messages show` names it)"
                .to_owned(),
        ),
        status::PERMISSION_DENIED => (
            FaultClass::Permission,
            format!(
                "permission denied: the server does not let us {what} in its folder; ask the partner for the right to write there"
            ),
        ),
        status::NO_SPACE | status::QUOTA => {
            (FaultClass::Full, format!("disk or quota full: the server does not let us {what} in its folder"))
        }
        code => (
            FaultClass::Answer,
            format!(
                "the server does not let us {what} in its folder (SFTP status {code}); its disk or quota may be full"
            ),
        ),
    };
    SendError::new(class, message).into()
}

/// Why there is no connection.
fn class_of(error: &SshError) -> FaultClass {
    match error {
        SshError::Resolve { .. } => FaultClass::Dns,
        SshError::Connect { error, .. } => FaultClass::of_connecting(error),
        SshError::HostKey { .. } => FaultClass::HostKey,
        SshError::Login { .. } | SshError::Key { .. } => FaultClass::Authentication,
        SshError::Handshake { .. } | SshError::Lost { .. } | SshError::Pulled => FaultClass::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(directory: &str, file_name: &str) -> Outgoing {
        let properties = [("directory", directory), ("file_name", file_name)];
        let properties = properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Outgoing { content: Bytes::new(), properties }
    }

    #[test]
    fn names_are_joined_as_the_server_reads_them() {
        for (directory, path, shown) in [
            (".", "./a.hl7", "a.hl7"),
            ("in", "in/a.hl7", "in/a.hl7"),
            ("in/", "in/a.hl7", "in/a.hl7"),
            ("/", "/a.hl7", "/a.hl7"),
            ("/x/y", "/x/y/a.hl7", "/x/y/a.hl7"),
        ] {
            let names = Names::of(&outgoing(directory, "a.hl7")).unwrap();
            assert_eq!((names.last().as_str(), names.shown().as_str()), (path, shown), "{directory}");
            assert!(is_leftover(&names.temporary, "a.hl7"), "{}", names.temporary);
        }
    }

    #[test]
    fn a_delivery_without_usable_names_is_rejected() {
        for broken in
            [Outgoing::default(), outgoing("in", ""), outgoing("", "a"), outgoing("in", "../a"), outgoing("in", "a\0")]
        {
            assert_eq!(Names::of(&broken).unwrap_err().class, FaultClass::Content);
        }
    }

    #[test]
    fn only_our_own_temporary_files_are_leftovers() {
        for (name, ours) in [
            (".a.hl7.1764000000000000.part", true),
            (".a.hl7.1764000000000000.par", false),
            ("a.hl7.1764000000000000.part", false),
            (".a.hl7.176400000000000x.part", false),
            (".a.hl7.17.part", false),
            (".b.hl7.1764000000000000.part", false),
            (".a.hl7..part", false),
            (".part", false),
            ("", false),
        ] {
            assert_eq!(is_leftover(name, "a.hl7"), ours, "{name}");
        }
    }

    #[test]
    fn content_is_compared_to_its_last_byte() {
        let content = vec![7; 600_000];
        assert!(same_content(&content[..], &content).unwrap());
        assert!(same_content(&[][..], &[]).unwrap());
        assert!(!same_content(&content[1..], &content).unwrap());
        assert!(!same_content(&content[..], &content[1..]).unwrap());
        let mut other = content.clone();
        other[599_999] = 8;
        assert!(!same_content(&other[..], &content).unwrap());
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (code, word, class) in [
            (2, "create it there", FaultClass::Folder),
            (3, "permission denied", FaultClass::Permission),
            (14, "full", FaultClass::Full),
            (15, "full", FaultClass::Full),
            (4, "status 4", FaultClass::Answer),
        ] {
            let Failure::Answered(error) = refused("open a file", code) else { panic!("{code}") };
            assert_eq!(error.class, class, "{code}");
            assert!(error.message.contains(word) && error.message.contains("folder"), "{}", error.message);
        }
    }
}

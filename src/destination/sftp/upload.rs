//! One upload: temporary name, sync, size, rename. Blocking.

mod place;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

use bytes::Bytes;
use ssh2::{ErrorCode, FileStat, OpenFlags, OpenType, RenameFlags, Sftp};

use super::super::files::{Exists, NUMBERS, Parcel, Permissions};
use super::super::{Delivered, FaultClass, SendError};
use super::TakenAway;
use crate::net::ssh::{Lease, OpenError, Plug, SftpSession, SshError};
use place::{Live, Names, folders, leftover_of, looks_temporary};

/// Most names of a folder that are looked at in search of leftovers.
const NAMES: usize = 50_000;
/// Most leftovers that are remembered, over all folders.
const LEFTOVERS: usize = 1_000;
/// Most folders that are remembered as searched.
const FOLDERS: usize = 1_000;
/// The permissions of what is made, where the channel file says nothing.
const FILE: Permissions = Permissions(0o640);
const FOLDER: Permissions = Permissions(0o750);

/// Status codes of SFTP.
mod status {
    pub(super) const NO_SUCH_FILE: i32 = 2;
    pub(super) const PERMISSION_DENIED: i32 = 3;
    pub(super) const OP_UNSUPPORTED: i32 = 8;
    pub(super) const NO_SUCH_PATH: i32 = 10;
    pub(super) const NO_SPACE: i32 = 14;
    pub(super) const QUOTA: i32 = 15;
}

/// How files are put in place, as the channel file says it.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    pub(super) mkdir: bool,
    pub(super) permissions: Option<Permissions>,
    pub(super) folder_permissions: Option<Permissions>,
    pub(super) prefix: String,
    pub(super) suffix: String,
    pub(super) exists: Exists,
    pub(super) taken_away: Option<TakenAway>,
}

/// Uploads to one server, one delivery at a time.
pub(super) struct Uploader {
    manner: Manner,
    /// Temporary files of earlier attempts, by folder; a folder is in here once it was searched.
    leftovers: HashMap<String, Vec<String>>,
    /// A rename whose answer never came, and of what.
    unanswered: Option<(Names, Bytes)>,
}

/// Why an upload ended without success.
enum Failure {
    /// The connection is of no use any more.
    Lost { doing: &'static str, reason: String },
    /// The server answered; the connection is fine.
    Answered(SendError),
}

impl Failure {
    /// A connection that failed at its first step is replaced; after it, things have happened.
    fn but_not_first(self, is_first: bool) -> Failure {
        match self {
            Failure::Lost { doing: FIRST_STEP, reason } if !is_first => {
                Failure::Lost { doing: "looking for the next file", reason }
            }
            other => other,
        }
    }
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

impl Uploader {
    pub(super) fn new(manner: Manner) -> Uploader {
        Uploader { manner, leftovers: HashMap::new(), unanswered: None }
    }

    /// Tries once. A kept connection that turns out to be dead is replaced without ado.
    pub(super) fn deliver(&mut self, parcel: &Parcel, lease: &Lease, plug: &Plug) -> Result<Delivered, SendError> {
        let server = format!("{}:{}", lease.target().host, lease.target().port);
        let explain = |failure| explain(&server, failure);
        if let Some(kept) = lease.kept(plug) {
            match self.deliver_on(kept, parcel, lease) {
                Err(Failure::Lost { doing: FIRST_STEP, .. }) => {}
                other => return other.map_err(explain),
            }
        }
        let failed = |error: OpenError| SendError::new(class_of(&error), error.to_string());
        let fresh = lease.connect(plug).map_err(failed)?;
        self.deliver_on(fresh, parcel, lease).map_err(explain)
    }

    fn deliver_on(&mut self, session: SftpSession, parcel: &Parcel, lease: &Lease) -> Result<Delivered, Failure> {
        let result = self.place_all(&session.sftp, parcel);
        if let Ok(_) | Err(Failure::Answered(_)) = &result {
            lease.keep(session);
        }
        result
    }

    /// Puts the companions in place, then what announces them.
    fn place_all(&mut self, sftp: &Sftp, parcel: &Parcel) -> Result<Delivered, Failure> {
        let mut said = Vec::new();
        for item in &parcel.items {
            let mut names = Names::of(parcel, item, &self.manner);
            let _live = Live::hold(&names.temporary);
            let result = self.upload(sftp, &mut names, &item.content);
            if let Err(Failure::Lost { .. }) = &result {
                self.remember(&names);
            }
            said.push(result.map_err(|failure| failure.but_not_first(said.is_empty()))?);
        }
        said.reverse();
        Ok(Delivered { response: Some(Bytes::from(said.join("; before it "))) })
    }

    fn upload(&mut self, sftp: &Sftp, names: &mut Names, content: &Bytes) -> Result<String, Failure> {
        let replaces = match self.judge(sftp, names, content)? {
            Judged::Done(said) => {
                self.unanswered.take_if(|(earlier, _)| earlier.last() == names.last());
                return Ok(said);
            }
            Judged::Free => false,
            Judged::Replace => true,
        };
        if self.was_taken_away(sftp, names, content)? {
            // The rename was asked for when the whole file was there, and neither name is left.
            return Ok(format!(
                "stored {} ({} bytes); the connection broke during the rename, the file was since taken away",
                names.shown(),
                content.len()
            ));
        }
        if self.manner.mkdir && names.temporary_directory != names.directory {
            self.make_folders(sftp, &names.directory)?;
        }
        self.clean_up(sftp, names)?;
        let uploaded = match self.write(sftp, names, content) {
            Ok(Written::Whole) => self.rename(sftp, names, content, replaces),
            Ok(Written::TakenAway) => {
                return Ok(format!(
                    "sent {} ({} bytes); it was taken away under its temporary name",
                    names.shown(),
                    content.len()
                ));
            }
            Err(failure) => Err(failure),
        };
        if let Err(Failure::Answered(_)) = &uploaded
            && answer("cleaning up", sftp.unlink(Path::new(&names.temporary())))?.is_err_and(|code| !is_missing(code))
        {
            self.remember(names);
        }
        uploaded
    }

    /// Whether an earlier attempt, whose rename was not answered, had its file taken away since.
    fn was_taken_away(&mut self, sftp: &Sftp, names: &Names, content: &Bytes) -> Result<bool, Failure> {
        // Another message of the same name is another matter.
        let same = |(earlier, of): &&(Names, Bytes)| earlier.last() == names.last() && of == content;
        let Some((earlier, _)) = self.unanswered.as_ref().filter(same) else { return Ok(false) };
        let taken = self.manner.taken_away != Some(TakenAway::Retry) && is_gone(sftp, earlier)?;
        // Only now: where the server could not tell, the next attempt asks again.
        self.unanswered = None;
        Ok(taken)
    }

    /// Looks what has the name, and what that means.
    fn judge(&self, sftp: &Sftp, names: &mut Names, content: &[u8]) -> Result<Judged, Failure> {
        for number in 0..NUMBERS {
            names.number(number);
            let Some(found) = look(FIRST_STEP, sftp, &names.last())? else { return Ok(Judged::Free) };
            let compared = match (self.manner.exists, found.is_dir()) {
                (Exists::Keep, false) => {
                    return Ok(Judged::Done(format!("already there, and left as it is: {}", names.shown())));
                }
                _ => compare(sftp, names, &found, content),
            };
            match (self.manner.exists, compared) {
                (_, Ok(said)) => return Ok(Judged::Done(said)),
                (Exists::Number, Err(Failure::Answered(error))) if error.class == FaultClass::Conflict => {}
                (Exists::Overwrite, Err(Failure::Answered(error)))
                    if error.class == FaultClass::Conflict && !found.is_dir() =>
                {
                    return Ok(Judged::Replace);
                }
                (_, Err(failure)) => return Err(failure),
            }
        }
        let message =
            format!("conflict: {NUMBERS} files have this name with a number; see why messages share a `file_name`");
        Err(SendError::new(FaultClass::Conflict, message).into())
    }

    /// The last step. Whatever is under the final name stays, unless it is to be replaced.
    fn rename(&mut self, sftp: &Sftp, names: &Names, content: &Bytes, replaces: bool) -> Result<String, Failure> {
        let (temporary, last) = (names.temporary(), names.last());
        if replaces {
            // SFTP 3 has no renaming over a file. The new one is whole by now, beside it.
            let removed = answer("removing the old file", sftp.unlink(Path::new(&last)))?;
            removed
                .or_else(|code| if is_missing(code) { Ok(()) } else { Err(refused("remove the old file", code)) })?;
        }
        self.unanswered = Some((names.clone(), content.clone()));
        let renamed =
            answer("renaming", sftp.rename(Path::new(&temporary), Path::new(&last), Some(RenameFlags::empty())))?;
        self.unanswered = None;
        let Err(code) = renamed else {
            return Ok(format!("stored {} ({} bytes)", names.shown(), content.len()));
        };
        match look("looking who has the name", sftp, &last)? {
            Some(found) => {
                let compared = compare(sftp, names, &found, content)?;
                let _ = answer("cleaning up", sftp.unlink(Path::new(&temporary)))?;
                Ok(compared)
            }
            None => Err(refused("give the file its name", code)),
        }
    }

    /// Makes what is missing of a folder's path.
    fn make_folders(&self, sftp: &Sftp, directory: &str) -> Result<(), Failure> {
        const DOING: &str = "making the folder";
        if look(DOING, sftp, directory)?.is_some() {
            return Ok(());
        }
        let mode = self.manner.folder_permissions;
        for folder in folders(directory) {
            if look(DOING, sftp, &folder)?.is_some() {
                continue;
            }
            let path = Path::new(&folder);
            let made = answer(DOING, sftp.mkdir(path, mode.unwrap_or(FOLDER).0 as i32))?;
            // Another lane may have made it meanwhile.
            if let Err(code) = made
                && look(DOING, sftp, &folder)?.is_none()
            {
                return Err(refused("make the folder", code));
            }
            if let Some(mode) = mode.filter(|_| made.is_ok()) {
                answer(DOING, sftp.setstat(path, permissions(mode)))?
                    .map_err(|code| refused("set the permissions of the folder", code))?;
            }
        }
        Ok(())
    }

    fn open(&self, sftp: &Sftp, names: &Names) -> Result<Answer<ssh2::File>, Failure> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        let mode = self.manner.permissions.unwrap_or(FILE).0 as i32;
        answer("opening the file", sftp.open_mode(Path::new(&names.temporary()), flags, mode, OpenType::File))
    }

    /// Writes the temporary file, whole and synced.
    fn write(&self, sftp: &Sftp, names: &Names, content: &[u8]) -> Result<Written, Failure> {
        let path = names.temporary();
        let mut opened = self.open(sftp, names)?;
        if self.manner.mkdir && opened.as_ref().is_err_and(|code| is_missing(*code)) {
            self.make_folders(sftp, &names.temporary_directory)?;
            opened = self.open(sftp, names)?;
        }
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
        if let Some(mode) = self.manner.permissions {
            // What a file is made with is less what the server's umask takes away.
            answer("setting the permissions", file.setstat(permissions(mode)))?
                .map_err(|code| refused("set the permissions of the file", code))?;
        }
        match answer("syncing", file.fsync())? {
            Ok(()) | Err(status::OP_UNSUPPORTED) => {}
            Err(code) => return Err(refused("put the file on its disk", code)),
        }
        answer("closing the file", file.close())?.map_err(|code| refused("close the file", code))?;
        let size = match answer("checking the size", sftp.stat(Path::new(&path)))? {
            Ok(found) => found.size,
            Err(code) if is_missing(code) && self.manner.taken_away == Some(TakenAway::Sent) => {
                return Ok(Written::TakenAway);
            }
            Err(code) if is_missing(code) => {
                let message = "the temporary file was taken away before it had its name; ask the partner to leave files alone whose name \
                               begins with a dot, or choose another `temporary` name or folder";
                return Err(SendError::new(FaultClass::Answer, message).into());
            }
            Err(code) => return Err(refused("show the file's size", code)),
        };
        match size {
            Some(size) if size == content.len() as u64 => Ok(Written::Whole),
            Some(size) => {
                let message = format!("the server has {size} of {} bytes", content.len());
                Err(SendError::new(FaultClass::Answer, message).into())
            }
            None => Err(SendError::new(FaultClass::Answer, "the server does not tell the file's size").into()),
        }
    }

    /// Removes what earlier attempts at the same file left behind.
    fn clean_up(&mut self, sftp: &Sftp, names: &Names) -> Result<(), Failure> {
        let folder = &names.temporary_directory;
        if !self.leftovers.contains_key(folder) {
            if self.leftovers.len() >= FOLDERS {
                self.leftovers.clear();
            }
            let found = search(sftp, folder, &self.manner)?;
            self.leftovers.insert(folder.clone(), found);
        }
        let Some(known) = self.leftovers.get_mut(folder) else { return Ok(()) };
        let is_ours = |name: &String| leftover_of(name, &self.manner) == Some(&names.first) && !Live::is(name);
        let (ours, others) = std::mem::take(known).into_iter().partition(is_ours);
        *known = others;
        let ours: Vec<String> = ours;
        for name in ours {
            // One that cannot be removed is the partner's to remove.
            let _ = answer("cleaning up", sftp.unlink(Path::new(&place::path(folder, &name))))?;
        }
        Ok(())
    }

    /// The temporary file may be there still.
    fn remember(&mut self, names: &Names) {
        let known: usize = self.leftovers.values().map(Vec::len).sum();
        if let Some(folder) = self.leftovers.get_mut(&names.temporary_directory).filter(|_| known < LEFTOVERS) {
            folder.push(names.temporary.clone());
        }
    }
}

/// What is to be done about a name.
enum Judged {
    /// Nobody has it.
    Free,
    /// Nothing: the file is there.
    Done(String),
    /// What has it goes.
    Replace,
}

/// What became of a temporary file.
enum Written {
    Whole,
    /// It was whole, and then it was gone, which means that the partner has it.
    TakenAway,
}

fn permissions(mode: Permissions) -> FileStat {
    FileStat { size: None, uid: None, gid: None, perm: Some(mode.0), atime: None, mtime: None }
}

fn explain(server: &str, failure: Failure) -> SendError {
    match failure {
        Failure::Answered(error) => error,
        Failure::Lost { doing, reason } => {
            SendError::new(FaultClass::Reset, format!("connection to {server} lost while {doing}: {reason}"))
        }
    }
}

fn is_missing(code: i32) -> bool {
    matches!(code, status::NO_SUCH_FILE | status::NO_SUCH_PATH)
}

/// What is under a path.
fn look(doing: &'static str, sftp: &Sftp, path: &str) -> Result<Option<FileStat>, Failure> {
    match answer(doing, sftp.stat(Path::new(path)))? {
        Ok(found) => Ok(Some(found)),
        Err(_) => Ok(None),
    }
}

/// Whether neither the temporary nor the final name is there, and the server leaves no doubt about it: a folder that is missing or
/// closed to us says nothing about what was in it.
fn is_gone(sftp: &Sftp, earlier: &Names) -> Result<bool, Failure> {
    const DOING: &str = "looking for an earlier attempt";
    const WHAT: &str = "look for an earlier attempt";
    for path in [earlier.temporary(), earlier.last()] {
        match answer(DOING, sftp.stat(Path::new(&path)))? {
            Ok(_) => return Ok(false),
            Err(status::NO_SUCH_FILE) => {}
            Err(code) => return Err(refused(WHAT, code)),
        }
    }
    for folder in [&earlier.temporary_directory, &earlier.directory] {
        // As in the paths of the files: nothing before their `/` is the server's outermost folder.
        let folder = if folder.is_empty() { "/" } else { folder.as_str() };
        answer(DOING, sftp.stat(Path::new(folder)))?.map_err(|code| refused(WHAT, code))?;
    }
    Ok(true)
}

/// Temporary files in a folder, as far as the server lets us look. Names from a server are compared, never used as paths
/// unless they are of our own form.
fn search(sftp: &Sftp, directory: &str, manner: &Manner) -> Result<Vec<String>, Failure> {
    let Ok(mut folder) = answer("listing", sftp.opendir(Path::new(directory)))? else { return Ok(vec![]) };
    let mut found = Vec::new();
    for _ in 0..NAMES {
        // libssh2 reports the end of a folder as an error of its own; a broken connection shows in the next step.
        let Ok((name, _)) = folder.readdir() else { break };
        if let Some(name) = name.to_str().filter(|name| looks_temporary(name, manner)) {
            found.push(name.to_owned());
        }
        if found.len() == LEFTOVERS {
            break;
        }
    }
    Ok(found)
}

/// Decides about a file that is under the final name already.
fn compare(sftp: &Sftp, names: &Names, found: &FileStat, content: &[u8]) -> Result<String, Failure> {
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
    let there = |how: &str| Ok(format!("already there{how}: {} ({} bytes)", names.shown(), content.len()));
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
            "the folder is not on the server; create it there, set `mkdir = true`, or change `directory` (`labwire messages show` names it)"
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
fn class_of(error: &OpenError) -> FaultClass {
    let OpenError::Ssh(error) = error else { return FaultClass::Answer };
    match error {
        SshError::Algorithms { .. } => FaultClass::Protocol,
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

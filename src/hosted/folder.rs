//! The folder of one channel, on disk and as its partner sees it. Blocking.
//!
//! | on disk | what it is | the client sees |
//! |---|---|---|
//! | `NAME`, mode 0400 | accepted, or placed for the partner | `NAME`; it can be neither changed nor replaced |
//! | `NAME.incomplete`, 0600 | being uploaded, or interrupted | the same in lists; as `NAME` it can be uploaded on, or given up |
//! | `NAME.tmp` (a temporary name), 0600 | waits for its name | the same |
//!
//! A file arrives when it is closed under its own name, or renamed to it. Then its content goes to the channel ([`Capture`]), and the
//! client's answer waits for the verdict. All that matters is on disk: after a restart the folder is as it was.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, OpenOptionsExt, Permissions, PermissionsExt};
use russh_sftp::protocol::{File as Entry, FileAttributes, OpenFlags, StatusCode};

use super::files::{Listing, Opened, Refusal};
use super::jail::attributes;
use super::place::is_unfinished;
use super::rules::{Access, Capture, Captured, INCOMPLETE, PLACED_MODE, Rules, Verdict, fits, make_folder};
use super::upload::{Reader, Upload, Usage, Writer, check_attributes};
use super::view::Who;

/// A folder, open.
pub(super) struct Folder {
    channel: String,
    dir: Dir,
    rules: Rules,
    capture: Option<Arc<dyn Capture>>,
    /// Whether its channel still opens it. Held while a file arrives, so that closing waits for that.
    is_open: RwLock<bool>,
    /// Taken before that of an upload, and that before the one of `usage`.
    names: Mutex<Names>,
    usage: Mutex<Usage>,
    /// Whether it was told that the folder is full.
    told_full: AtomicBool,
}

#[derive(Default)]
struct Names {
    /// What is being uploaded, by the name that it has meanwhile.
    uploads: HashMap<String, Weak<Upload>>,
    /// The names, old and new, of what arrives just now.
    arriving: HashSet<String>,
    /// What was not taken when it was closed, by the name that it has meanwhile. Clients exist that take no notice of that answer
    /// and look for the file instead (paramiko): it is not there under its own name.
    failed: HashSet<String>,
}

impl Names {
    fn live(&self, stored: &str) -> Option<Arc<Upload>> {
        self.uploads.get(stored).and_then(Weak::upgrade)
    }

    fn check_free(&self, name: &str) -> Result<(), Refusal> {
        if self.arriving.contains(name) { Err(Refusal::failure("this file is just being accepted")) } else { Ok(()) }
    }
}

fn is_placed(found: &Metadata) -> bool {
    found.mode() & 0o200 == 0
}

/// Whether the partner sees it. One who picks up sees nothing that is not placed; a file that is just being placed has its last
/// mode before it has its name.
fn is_shown(access: Access, name: &str, found: &Metadata) -> bool {
    access != Access::Download || (is_placed(found) && !is_unfinished(name))
}

fn accepted() -> Refusal {
    Refusal::denied("this file was accepted: it cannot be changed, replaced or deleted any more")
}

impl Folder {
    /// Opens the folder, and makes it where it is missing.
    pub(super) fn open(
        channel: String,
        disk: &Path,
        rules: Rules,
        capture: Option<Arc<dyn Capture>>,
    ) -> io::Result<Folder> {
        make_folder(disk)?;
        let folder = Folder {
            channel,
            dir: Dir::open_ambient_dir(disk, ambient_authority())?,
            rules,
            capture,
            is_open: RwLock::new(true),
            names: Mutex::default(),
            usage: Mutex::default(),
            told_full: AtomicBool::new(false),
        };
        folder.sweep()?;
        Ok(folder)
    }

    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Closes it for good, once nothing arrives any more.
    pub(super) fn close(&self) {
        *self.is_open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    pub(super) fn is_open(&self) -> bool {
        *self.is_open.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_open(&self) -> Result<(), Refusal> {
        if self.is_open() { Ok(()) } else { Err(Refusal::failure("this folder is closed for now; try again later")) }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self, what: String) -> Refusal {
        if !self.told_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(channel = self.channel, "hosted SFTP: the folder is full, uploads are refused");
        }
        Refusal::failure(what)
    }

    /// Room for so many more bytes.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), Refusal> {
        let mut usage = self.usage();
        let limit = self.rules.quota_bytes;
        match usage.bytes.checked_add(bytes).filter(|sum| *sum <= limit) {
            Some(sum) => {
                usage.bytes = sum;
                Ok(())
            }
            None => Err(self.full(format!("the folder is full: it may hold {limit} bytes; try again later"))),
        }
    }

    pub(super) fn give_back(&self, bytes: u64) {
        let mut usage = self.usage();
        usage.bytes = usage.bytes.saturating_sub(bytes);
        self.told_full.store(false, Ordering::Relaxed);
    }

    /// A plain file of this name; links and all else are not there.
    fn look(&self, name: &str) -> Option<Metadata> {
        self.dir.symlink_metadata(name).ok().filter(Metadata::is_file)
    }

    /// What a client's name stands for: a file of that name, or one that is to become it.
    fn find(&self, name: &str) -> Result<(String, Metadata), Refusal> {
        let incomplete = format!("{name}{INCOMPLETE}");
        let found = self.look(name).map(|found| (name.to_owned(), found));
        let goes_on = || !self.names().failed.contains(&incomplete);
        let found =
            found.or_else(|| self.look(&incomplete).filter(|_| goes_on()).map(|found| (incomplete.clone(), found)));
        let visible = |(stored, found): &(String, Metadata)| is_shown(self.rules.access, stored, found);
        found.filter(visible).ok_or_else(|| StatusCode::NoSuchFile.into())
    }

    pub(super) fn attributes(&self, name: &str) -> Result<FileAttributes, Refusal> {
        self.find(name).map(|(_, found)| attributes(&found))
    }

    pub(super) fn folder_attributes(&self) -> Result<FileAttributes, Refusal> {
        Ok(attributes(&self.dir.dir_metadata()?))
    }

    pub(super) fn list(&self) -> Result<Listing, Refusal> {
        let access = self.rules.access;
        Ok(Box::new(self.dir.entries()?.filter_map(move |entry| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let found = entry.metadata().ok().filter(Metadata::is_file)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            is_shown(access, &name, &found).then(|| Ok(Entry::new(name, attributes(&found))))
        })))
    }

    /// Times of what is being uploaded can be set. Those of what was accepted stay as they are, and no error says so: clients set
    /// them as the last thing that they do.
    pub(super) fn set_attributes(&self, name: &str, wanted: &FileAttributes) -> Result<(), Refusal> {
        check_attributes(wanted)?;
        let (stored, found) = self.find(name)?;
        match (is_placed(&found), wanted.size, self.names().live(&stored)) {
            (true, None, _) => Ok(()),
            (true, Some(_), _) => Err(accepted()),
            (false, Some(_), _) => Err(Refusal::failure("open the file to change its length")),
            (false, None, Some(_)) => Err(Refusal::failure("this file is being uploaded")),
            (false, None, None) => {
                let file = self.dir.open_with(&stored, OpenOptions::new().write(true))?.into_std();
                Ok(super::jail::set_times(&file, wanted)?)
            }
        }
    }

    pub(super) fn open_file(
        self: &Arc<Folder>,
        name: &str,
        flags: OpenFlags,
        who: &Who,
    ) -> Result<Box<dyn Opened>, Refusal> {
        self.check_open()?;
        let writes = OpenFlags::WRITE | OpenFlags::APPEND | OpenFlags::TRUNCATE | OpenFlags::CREATE;
        if flags.intersects(writes) { self.write(name, flags, who) } else { self.read(name) }
    }

    fn read(self: &Arc<Folder>, name: &str) -> Result<Box<dyn Opened>, Refusal> {
        let (stored, found) = self.find(name)?;
        if self.rules.access == Access::Upload {
            return Err(Refusal::denied("nothing can be read in this folder"));
        }
        if !is_placed(&found) {
            return Err(Refusal::failure("this file is not complete"));
        }
        let file = self.dir.open(&stored)?.into_std();
        Ok(Box::new(Reader { folder: self.clone(), file }))
    }

    /// Whether a file may be uploaded under this name; gives the name that it has meanwhile.
    fn check_name(&self, name: &str) -> Result<String, Refusal> {
        if self.rules.access == Access::Download {
            return Err(Refusal::denied("nothing can be changed in this folder"));
        }
        fits(name).map_err(Refusal::denied)?;
        if name.ends_with(INCOMPLETE) {
            return Err(Refusal::denied("names with this ending are the server's own: use the name without it"));
        }
        if self.rules.is_temporary(name) {
            return Ok(name.to_owned());
        }
        if !self.rules.takes(name) {
            return Err(Refusal::denied("files with names like this one are not taken here"));
        }
        Ok(format!("{name}{INCOMPLETE}"))
    }

    fn write(self: &Arc<Folder>, name: &str, flags: OpenFlags, who: &Who) -> Result<Box<dyn Opened>, Refusal> {
        let stored = self.check_name(name)?;
        let is_final = stored != name;
        let mut names = self.names();
        names.check_free(name)?;
        names.check_free(&stored)?;
        if self.look(name).is_some_and(|found| is_placed(&found)) {
            return Err(accepted());
        }
        if is_final && self.rules.by_rename {
            return Err(Refusal::denied("upload under a temporary name, then rename"));
        }
        if [name, &stored].iter().any(|name| self.dir.symlink_metadata(name).is_ok_and(|found| !found.is_file())) {
            return Err(Refusal::failure("something that is no file has this name"));
        }
        let before = self.look(&stored);
        let exclusive = flags.contains(OpenFlags::CREATE | OpenFlags::EXCLUDE);
        match &before {
            None if !flags.contains(OpenFlags::CREATE) => return Err(StatusCode::NoSuchFile.into()),
            Some(_) if exclusive && !is_final => return Err(Refusal::failure("there is a file of this name")),
            _ => {}
        }
        if let Some(other) = names.live(&stored) {
            // Mostly of a connection that is gone, which nobody has noticed yet.
            other.end("another connection uploads this file now");
        }
        if before.is_none() {
            self.count_one_more()?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        options.truncate(exclusive || flags.contains(OpenFlags::TRUNCATE));
        let file = self.dir.open_with(&stored, &options).inspect_err(|_| self.count_one_less(before.is_none()))?;
        let (file, had) = (file.into_std(), before.map_or(0, |found| found.len()));
        let bytes = file.metadata()?.len();
        self.give_back(had.saturating_sub(bytes));
        let upload = Arc::new(Upload::new(file, bytes));
        names.uploads.retain(|_, upload| upload.strong_count() > 0);
        names.uploads.insert(stored.clone(), Arc::downgrade(&upload));
        names.failed.remove(&stored);
        let append = flags.contains(OpenFlags::APPEND);
        Ok(Box::new(Writer { folder: self.clone(), upload, name: name.to_owned(), stored, append, who: who.clone() }))
    }

    fn count_one_more(&self) -> Result<(), Refusal> {
        let mut usage = self.usage();
        if usage.files >= self.rules.quota_files {
            let limit = self.rules.quota_files;
            return Err(self.full(format!("the folder is full: it may hold {limit} files; try again later")));
        }
        usage.files += 1;
        Ok(())
    }

    fn count_one_less(&self, is_one: bool) {
        let mut usage = self.usage();
        usage.files -= u64::from(is_one && usage.files > 0);
        self.told_full.store(false, Ordering::Relaxed);
    }

    /// A client closed what it uploaded.
    pub(super) fn closed(&self, stored: &str, name: &str, upload: &Arc<Upload>, who: &Who) -> Result<(), Refusal> {
        if stored == name && !upload.has_gap() {
            upload.sync()?;
            upload.end("this file is closed");
            return Ok(self.dir.open(".")?.sync_all()?);
        }
        let mut names = self.names();
        let still_ours = names.live(stored).is_some_and(|live| Arc::ptr_eq(&live, upload));
        if !still_ours {
            return Err(Refusal::failure("another connection uploads this file now"));
        }
        upload.end("this file is closed");
        names.uploads.remove(stored);
        if upload.has_gap() {
            names.failed.insert(stored.to_owned());
            return Err(Refusal::failure("not all of this file could be written: it was not taken, upload it again"));
        }
        self.arrive(names, stored, name, who)
    }

    pub(super) fn rename(&self, from: &str, to: &str, who: &Who) -> Result<(), Refusal> {
        self.check_open()?;
        let (stored, found) = self.find(from)?;
        let stored_to = self.check_name(to)?;
        if is_placed(&found) {
            return Err(accepted());
        }
        if stored.ends_with(INCOMPLETE) {
            return Err(Refusal::failure("the upload of this file was interrupted: go on with it, or begin again"));
        }
        let names = self.names();
        for name in [from, to, &stored_to] {
            names.check_free(name)?;
        }
        if names.failed.contains(from) {
            return Err(Refusal::failure("not all of this file could be written: upload it again"));
        }
        if names.live(from).is_some() || names.live(&stored_to).is_some() {
            return Err(Refusal::failure("this file is being uploaded"));
        }
        if stored_to == to {
            if self.look(to).is_some() {
                return Err(Refusal::failure("there is a file of this name"));
            }
            return Ok(self.dir.rename(from, &self.dir, to)?);
        }
        self.arrive(names, from, to, who)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Refusal> {
        self.check_open()?;
        let (stored, found) = self.find(name)?;
        let mut names = self.names();
        names.check_free(&stored)?;
        match (is_placed(&found), self.rules.access) {
            (true, Access::Download) if !self.rules.may_delete => {
                return Err(Refusal::denied("nothing can be deleted in this folder"));
            }
            (true, Access::Upload | Access::Both) => return Err(accepted()),
            _ => {}
        }
        if let Some(upload) = names.uploads.remove(&stored).and_then(|upload| upload.upgrade()) {
            upload.end("this file was deleted");
        }
        self.discard(&stored)
    }

    /// Removes a file and what is in the books for it.
    fn discard(&self, stored: &str) -> Result<(), Refusal> {
        let bytes = self.look(stored).map_or(0, |found| found.len());
        self.dir.remove_file(stored)?;
        self.give_back(bytes);
        self.count_one_less(true);
        Ok(())
    }

    /// A file is complete and has its name: it goes to the channel.
    fn arrive(&self, mut names: MutexGuard<'_, Names>, stored: &str, name: &str, who: &Who) -> Result<(), Refusal> {
        let capture = self.capture.as_ref().ok_or(StatusCode::PermissionDenied)?;
        if self.look(name).is_some_and(|found| is_placed(&found)) {
            return Err(accepted());
        }
        names.arriving.extend([stored.to_owned(), name.to_owned()]);
        drop(names);
        let result = self.hand_over(&**capture, stored, name, who);
        let mut names = self.names();
        names.arriving.remove(stored);
        names.arriving.remove(name);
        if result.is_err() && self.look(stored).is_some() && stored.ends_with(INCOMPLETE) {
            names.failed.insert(stored.to_owned());
        }
        result
    }

    fn hand_over(&self, capture: &dyn Capture, stored: &str, name: &str, who: &Who) -> Result<(), Refusal> {
        let is_open = self.is_open.read().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            return Err(Refusal::failure("this folder is closed for now; try again later"));
        }
        let mut content = Vec::new();
        let limit = self.rules.max_bytes;
        self.dir.open(stored)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
        // It was written when more was allowed.
        if content.len() as u64 > limit {
            return Err(Refusal::failure(format!("a file has at most {limit} bytes here")));
        }
        let file = Captured { name: name.to_owned(), user: who.user.clone(), peer: who.peer, content };
        match capture.capture(file) {
            Verdict::Taken => {
                // From here on the journal has it: what goes wrong with our copy is not the client's.
                if let Err(error) = self.settle(stored, name) {
                    tracing::warn!(channel = self.channel, %error, "hosted SFTP: an accepted file cannot be put in its place");
                }
                Ok(())
            }
            Verdict::Rejected(reason) => {
                self.discard(stored)?;
                Err(Refusal::failure(format!("rejected: {reason}")))
            }
            Verdict::NotStored(reason) => {
                self.dir.open(stored)?.sync_all()?;
                Err(Refusal::failure(reason))
            }
        }
    }

    /// What was accepted stays to be seen, or goes.
    fn settle(&self, stored: &str, name: &str) -> io::Result<()> {
        if self.rules.keep == Some(Duration::ZERO) {
            return self.discard(stored).map_err(|_| io::Error::other("it cannot be removed"));
        }
        self.dir.set_permissions(stored, Permissions::from_mode(PLACED_MODE))?;
        self.dir.rename(stored, &self.dir, name)
    }

    /// Removes what has had its time, and counts what is there.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let now = SystemTime::now();
        let mut names = self.names();
        names.uploads.retain(|_, upload| upload.strong_count() > 0);
        names.failed.retain(|stored| self.look(stored).is_some());
        let mut usage = Usage::default();
        for entry in self.dir.entries()? {
            let entry = entry?;
            let Some(found) = entry.metadata().ok().filter(Metadata::is_file) else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            let in_use = names.uploads.contains_key(&name) || names.arriving.contains(&name);
            let is_done = is_placed(&found) && is_shown(self.rules.access, &name, &found);
            let longest = if is_done { self.rules.keep } else { Some(self.rules.keep_incomplete) };
            let is_over = longest.is_some_and(|longest| age(&found, now) >= longest);
            if is_over && !in_use && entry.remove_file().is_ok() {
                continue;
            }
            usage.bytes = usage.bytes.saturating_add(found.len());
            usage.files += 1;
        }
        *self.usage() = usage;
        Ok(())
    }

    /// How often to do so.
    pub(super) fn sweeps_every(&self) -> Duration {
        let shortest = self.rules.keep.unwrap_or(Duration::MAX).min(self.rules.keep_incomplete);
        (shortest / 4).clamp(Duration::from_millis(250), Duration::from_secs(60))
    }
}

/// For how long it has been as it is. By the time of its last change of any kind, which no client can set.
fn age(found: &Metadata, now: SystemTime) -> Duration {
    let nanos = u32::try_from(found.ctime_nsec()).unwrap_or_default();
    let changed = SystemTime::UNIX_EPOCH + Duration::new(u64::try_from(found.ctime()).unwrap_or_default(), nanos);
    now.duration_since(changed).unwrap_or_default()
}

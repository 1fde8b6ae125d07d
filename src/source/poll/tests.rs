//! Polls of a folder in which something happens at the worst moment.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::folder::{Content, Facts, Fault, Folder, Kind, Lost, Name};
use super::round::Round;
use super::{Local, PollOptions, Rules};
use crate::config::Table;
use crate::diagnostic::SourceFile;
use crate::journal::Disk;
use crate::message::MessageIds;
use crate::monitor::Counters;
use crate::source::{Intake, Schedule};

/// A folder of this machine in which the first file that is read is written anew as soon as that is done.
struct Rewritten {
    local: Local,
    root: PathBuf,
    anew: Option<&'static str>,
}

impl Folder for Rewritten {
    fn open(&mut self) -> Result<(), Lost> {
        self.local.open()
    }

    fn list(&mut self, path: &Path, each: &mut dyn FnMut(Option<Name>, Kind) -> ControlFlow<()>) -> Result<(), Fault> {
        self.local.list(path, each)
    }

    fn read(&mut self, path: &Path, limit: u64) -> Result<Content, Fault> {
        let content = self.local.read(path, limit)?;
        if let Some(anew) = self.anew.take() {
            std::fs::write(self.root.join(path), anew).expect("written");
        }
        Ok(content)
    }

    fn facts(&mut self, path: &Path) -> Result<Facts, Fault> {
        self.local.facts(path)
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Fault> {
        self.local.exists(path)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Fault> {
        self.local.rename(from, to)
    }

    fn make_folder(&mut self, path: &Path) -> Result<(), Fault> {
        self.local.make_folder(path)
    }

    fn delete(&mut self, path: &Path) -> Result<(), Fault> {
        self.local.delete(path)
    }
}

/// What a source's table says.
pub(super) fn rules(text: &str) -> Rules {
    let file = SourceFile::new(Path::new("a.toml"), text.to_owned());
    let read = crate::config::collect(&file, Path::new("."), || {
        let entries = toml::de::DeTable::parse(&file.text).expect("TOML").into_inner();
        let mut table = Table::new(entries, 0..0, "[source]");
        let schedule = Schedule::take(&mut table, None).expect("a schedule");
        let (options, _) = PollOptions::read(table, &[]);
        (schedule, options.expect("options"))
    });
    let (schedule, options) = read.value;
    Rules { kind: "file", host: None, options: Arc::new(options), schedule, settle: Duration::ZERO }
}

#[test]
fn a_file_that_is_written_anew_after_it_was_read_is_not_put_away_unread() {
    for after in ["\"delete\"", "{ move = \"done\" }"] {
        let (data, inbox) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let root = inbox.path().to_owned();
        let path = root.join("a.txt");
        std::fs::write(&path, "first").expect("written");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let _entered = runtime.enter();
        let disk = Arc::new(Disk::open(data.path()).expect("it opens"));
        let ids = Arc::new(MessageIds::default());
        let intake = Intake::new("c".into(), disk, ids, Arc::new(Notify::new()), Arc::new(Counters::default()));
        let rules = rules(&format!(
            "every = \"1s\"\nformat = \"text\"\nunchanged_polls = 1\nmin_age = \"0s\"\nafter = {after}\n"
        ));
        let folder = Rewritten { local: Local::new(root.clone()), root, anew: Some("first and second") };
        let mut round = Round::new(Box::new(folder), rules);
        let stop = CancellationToken::new();
        let mut newest = || {
            round.run(&intake, runtime.handle(), &stop).expect("polled");
            intake.newest().expect("searched").expect("a message").id
        };
        let first = newest();
        assert_eq!(std::fs::read(&path).expect("it stays"), b"first and second", "{after}");
        let second = newest();
        assert_ne!(first, second, "{after}: it is captured as a new one");
        assert!(!path.exists(), "{after}");
    }
}

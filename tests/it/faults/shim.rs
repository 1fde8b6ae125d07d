//! `shim.c`, compiled once, and the file that tells it what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::rig::Rig;
use crate::support::root;

/// Makes the disk under the engine misbehave, on paths that contain a word.
pub(super) struct Shim {
    folder: tempfile::TempDir,
}

impl Shim {
    /// Preloads the shim into the next engine of the rig; it does nothing yet.
    pub(super) fn load(rig: &mut Rig, path: &str) -> Shim {
        let shim = Shim { folder: tempfile::tempdir().unwrap() };
        let library = shim.folder.path().join("shim.so");
        let compiled = Command::new("gcc")
            .args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(root().join("tests/it/faults/shim.c"))
            .arg("-ldl")
            .output()
            .expect("gcc is there: the build needs it");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        shim.calm();
        shim.wrong_by(0);
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        rig.environment.extend([
            ("LD_PRELOAD".to_owned(), text(&library)),
            ("SHIM_PATH".to_owned(), path.to_owned()),
            ("SHIM_CONTROL".to_owned(), text(&shim.control())),
            ("SHIM_CLOCK".to_owned(), text(&shim.clock())),
        ]);
        shim
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    fn clock(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// What is to happen from now on: `VERB[:NUMBER[:CALL[:after]]] [MORE-OF-THE-PATH]`, see `shim.c`.
    pub(super) fn act(&self, action: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, action).unwrap();
        std::fs::rename(new, self.control()).unwrap();
    }

    /// Nothing more.
    pub(super) fn calm(&self) {
        self.act("");
    }

    /// Sets the engine's wall clock wrong by so many seconds; the monotonic one goes on as it was.
    pub(super) fn wrong_by(&self, seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        // In place: the engine has this very file mapped.
        let file = std::fs::File::options().write(true).create(true).truncate(false).open(self.clock()).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

//! Small disks: in memory, and ext4 in an image file. Both need root; without it the rows that use them say so and end.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::rig::Rig;

/// A mounted file system, unmounted when dropped.
pub(crate) struct Mount {
    folder: tempfile::TempDir,
    image: Option<PathBuf>,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

impl Mount {
    fn new(arguments: &[&str], image: Option<PathBuf>) -> Option<Mount> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let mounted = run("mount", &[arguments, &[path]].concat());
        if !mounted {
            println!("not run: mount {arguments:?} is not possible here (root can, where there are loop devices)");
        }
        mounted.then_some(Mount { folder, image })
    }

    /// A disk in memory.
    pub(crate) fn tmpfs(mebibytes: u32) -> Option<Mount> {
        Mount::new(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"], None)
    }

    /// An ext4 file system in a new image file, which lies in memory where that is possible. `more` goes to `mkfs.ext4`.
    pub(super) fn ext4(image: &Path, mebibytes: u64, more: &[&str]) -> Option<Mount> {
        std::fs::File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
        let path = image.to_str().unwrap();
        if !run("mkfs.ext4", &[&["-q", "-F", "-E", "nodiscard,lazy_itable_init=0"], more, &[path]].concat()) {
            println!("not run: mkfs.ext4 is not possible here");
            return None;
        }
        Mount::image(image)
    }

    /// An image that exists.
    pub(super) fn image(image: &Path) -> Option<Mount> {
        Mount::new(&["-o", "loop,nodiscard", image.to_str().unwrap()], Some(image.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The file that holds the file system.
    pub(super) fn image_file(&self) -> &Path {
        self.image.as_deref().expect("it is one in an image")
    }

    /// The rig's data folder is on this disk, of which the engine keeps nothing free: it is too small for that.
    pub(super) fn hold_data_of(&self, rig: &mut Rig) {
        rig.arguments = vec!["--disk-low", "0B", "--disk-reserve", "0B"];
        let data = self.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::os::unix::fs::symlink(data, rig.path().join("data")).unwrap();
    }

    /// `mount -o remount,OPTIONS`.
    pub(super) fn remount(&self, options: &str) {
        assert!(run("mount", &["-o", &format!("remount,{options}"), self.path().to_str().unwrap()]), "{options}");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Fills the disk to the last byte.
    pub(super) fn fill(&self) {
        use std::io::Write as _;
        let mut filler = std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives back what [`Mount::fill`] took.
    pub(super) fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l", self.folder.path().to_str().unwrap()]);
    }
}

/// A folder in memory where there is one.
pub(super) fn memory() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

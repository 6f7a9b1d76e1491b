//! A small disk of its own, to be filled up.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system in memory, where the machine lets the test mount one. Unmounted at the end.
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many MiB; says so where that is not permitted.
    pub fn new(mib: u32) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(directory.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("left out: this user may not mount a file system");
            return None;
        }
        Some(Self { directory })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes every byte that is left, as another program would.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [64 * 1024, 4096, 1] {
            let piece = vec![1; size];
            while file.write_all(&piece).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was just killed may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

//! Files that only their owner can read, whatever the umask: the data directory holds content, tokens and keys.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of a file.
const FILE: u32 = 0o600;
/// Mode of a directory.
const DIRECTORY: u32 = 0o700;
/// Permissions of the group and of others.
const OTHERS: u32 = 0o077;
/// The sticky bit, set on shared directories such as /tmp.
const STICKY: u32 = 0o1000;

/// Sets the umask so that only the owner can read files that this process and its libraries create. Call it once, at
/// start.
pub fn restrict_new_files() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(OTHERS));
}

/// Opens a file for reading and writing. Creates it if it is missing; removes others' permissions if it exists.
///
/// # Errors
/// As [`OpenOptions::open`].
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE)
        .open(path)?;
    tighten(path, &file.metadata()?)?;
    Ok(file)
}

/// Creates a new file that only its owner can read.
///
/// # Errors
/// As [`OpenOptions::open`], and when the file exists.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE).open(path)
}

/// Replaces a file atomically: after a crash it has either the old or the new content.
///
/// # Errors
/// When it cannot be written, flushed or renamed into place.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // A temporary file left by an earlier process may have another mode, or be a link.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // On a full disk a partial file would waste space.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates a directory and its parents, unless it exists.
///
/// # Errors
/// As [`DirBuilder::create`].
pub fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)
}

/// Removes others' permissions from a data directory and from copilotd's own files in it, and logs what was changed and
/// what could not be. Failures do not keep the process from starting.
pub fn tighten_directory(directory: &Path) {
    let mut changed = Vec::new();
    let mut foreign = false;
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<PathBuf>>(),
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "cannot list the data directory; the permissions of its files were not checked");
            return;
        }
    };
    for path in entries {
        if !is_ours(&path) {
            foreign = true;
            continue;
        }
        note(
            &path,
            fs::symlink_metadata(&path).and_then(|about| tighten(&path, &about)),
            &mut changed,
        );
    }
    let about = fs::metadata(directory);
    if about.as_ref().is_ok_and(|about| is_shared(directory, about, foreign)) {
        tracing::warn!(
            directory = %directory.display(),
            "the data directory is shared with other programs, so its permissions were left unchanged; use a separate directory"
        );
    } else {
        note(
            directory,
            about.and_then(|about| tighten(directory, &about)),
            &mut changed,
        );
    }
    if !changed.is_empty() {
        let paths = changed.join(", ");
        tracing::warn!(paths, "files were accessible to other users; removed that access");
    }
}

/// Whether copilotd must not change a directory's mode: `/`, a sticky directory, or the working directory when it also
/// holds foreign files.
fn is_shared(directory: &Path, about: &fs::Metadata, foreign: bool) -> bool {
    let same = |other: io::Result<PathBuf>| {
        directory
            .canonicalize()
            .ok()
            .is_some_and(|path| other.ok().is_some_and(|other| path == other))
    };
    about.mode() & STICKY != 0 || same(Ok(PathBuf::from("/"))) || (foreign && same(std::env::current_dir()))
}

/// Whether copilotd created this file of a data directory.
fn is_ours(path: &Path) -> bool {
    const NAMES: [&str; 6] = [
        "copilotd.lock",
        "knowledge.lock",
        "copilotd.standby",
        "demo.json",
        "zendesk.json",
        "slack.json",
    ];
    const BEGINNINGS: [&str; 6] = [
        "copilotd.audit",
        "copilotd.db",
        "copilotd.reserve",
        "copilotd.state",
        "knowledge.db",
        "knowledge.reserve",
    ];
    const ENDS: [&str; 2] = [".key", ".tmp"];
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    NAMES.contains(&name)
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || ENDS.iter().any(|end| name.ends_with(end))
}

fn note(path: &Path, tightened: io::Result<bool>, changed: &mut Vec<String>) {
    match tightened {
        Ok(true) => changed.push(path.display().to_string()),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot remove other users' permissions on this file");
        }
    }
}

/// Removes others' permissions; returns whether they had any. Links and devices are left unchanged.
fn tighten(path: &Path, about: &fs::Metadata) -> io::Result<bool> {
    let mode = about.permissions().mode();
    if mode & OTHERS == 0 || !(about.is_file() || about.is_dir()) {
        return Ok(false);
    }
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !OTHERS))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_private_also_over_what_was_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        for left in [&path, &directory.path().join("a.tmp")] {
            fs::write(left, "old").unwrap();
            fs::set_permissions(left, Permissions::from_mode(0o666)).unwrap();
        }
        write(&path, b"new").unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"new".to_vec()));
        assert!(!directory.path().join("a.tmp").exists());
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        open(&path).unwrap();
        open(&directory.path().join("b")).unwrap();
        assert_eq!((mode(&path), mode(&directory.path().join("b"))), (0o600, 0o600));
        let inner = directory.path().join("x/y");
        create_directory(&inner).unwrap();
        assert_eq!((mode(&inner), mode(inner.parent().unwrap())), (0o700, 0o700));
    }

    #[test]
    fn a_directory_is_tightened_with_what_is_copilotds_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
            path
        };
        let ours = [
            "copilotd.db",
            "copilotd.db-wal",
            "knowledge.db",
            "knowledge.db-wal",
            "copilotd.lock",
            "ticket.key",
            "demo.json",
        ]
        .map(file);
        let other = file("notes.txt");
        let target = file("target");
        std::os::unix::fs::symlink(&target, directory.path().join("linked.key")).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        tighten_directory(directory.path());
        for path in &ours {
            assert_eq!(mode(path), 0o600, "{}", path.display());
        }
        assert_eq!(
            (mode(&other), mode(&target)),
            (0o644, 0o644),
            "not copilotd's, and not the target of a link"
        );
        assert_eq!(mode(directory.path()), 0o700);
        // A sticky directory keeps its mode.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        tighten_directory(directory.path());
        assert_eq!(mode(directory.path()), 0o777);
    }
}

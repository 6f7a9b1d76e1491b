//! Files that only their owner may read, whatever the umask says: what copilotd keeps holds content, tokens and keys.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of a file.
const FILE: u32 = 0o600;
/// Mode of a directory.
const DIRECTORY: u32 = 0o700;
/// Rights of the group and of everybody.
const OTHERS: u32 = 0o077;
/// Set on directories that many share, such as /tmp.
const STICKY: u32 = 0o1000;

/// Lets every file that this process and its libraries create be its owner's alone. Call it once, at start.
pub fn restrict_new_files() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(OTHERS));
}

/// Opens a file for reading and writing, creates it if it is missing, and takes away the rights of others if it is there.
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

/// Creates a file that was not there, for its owner alone.
///
/// # Errors
/// As [`OpenOptions::open`], also when there is one.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE).open(path)
}

/// Writes a file that is there as a whole or as it was before.
///
/// # Errors
/// When it cannot be written, flushed or put in place.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // One that an earlier process left may have another mode, or be a link.
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
        // On a full disk half a file would keep space from others.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates a directory, with those above it, unless it is there.
///
/// # Errors
/// As [`DirBuilder::create`].
pub fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)
}

/// Takes the rights of others away from a data directory and from the files in it that are copilotd's, and says so once.
/// What it cannot change it names: the process serves all the same.
pub fn tighten_directory(directory: &Path) {
    let mut changed = Vec::new();
    let mut foreign = false;
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<PathBuf>>(),
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "the data directory cannot be listed");
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
            "the data directory is shared with others and keeps its mode; give copilotd a directory of its own"
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
        tracing::warn!(paths, "others could read these; now only their owner can");
    }
}

/// Whether a directory is not copilotd's to change: the root, one that many write to, or the one that the process was started
/// in, when it holds other things too.
fn is_shared(directory: &Path, about: &fs::Metadata, foreign: bool) -> bool {
    let same = |other: io::Result<PathBuf>| {
        directory
            .canonicalize()
            .ok()
            .is_some_and(|path| other.ok().is_some_and(|other| path == other))
    };
    about.mode() & STICKY != 0 || same(Ok(PathBuf::from("/"))) || (foreign && same(std::env::current_dir()))
}

/// Whether copilotd made a file of a data directory.
fn is_ours(path: &Path) -> bool {
    const NAMES: [&str; 5] = [
        "copilotd.lock",
        "copilotd.standby",
        "demo.json",
        "zendesk.json",
        "slack.json",
    ];
    const BEGINNINGS: [&str; 4] = ["copilotd.audit", "copilotd.db", "copilotd.reserve", "copilotd.state"];
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
            tracing::warn!(path = %path.display(), %error, "others may read this, and its mode cannot be changed");
        }
    }
}

/// Takes away the rights of others; returns whether they had any. Links and devices stay as they are.
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
        // One that many write to stays open to them.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        tighten_directory(directory.path());
        assert_eq!(mode(directory.path()), 0o777);
    }
}

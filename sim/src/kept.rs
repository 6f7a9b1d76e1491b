//! A simulator's state in a file, so that it survives a restart of the process.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use serde::de::DeserializeOwned;

/// Reads the state from `file`; `None` if the file does not exist yet.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read_error(file, &error)),
    };
    let state = serde_json::from_slice(&text).map_err(|error| read_error(file, &io::Error::from(error)))?;
    Ok(Some(state))
}

/// Replaces `file` atomically.
pub(crate) fn write(file: &Path, state: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    // A temporary file left behind may be readable by others.
    if let Err(error) = fs::remove_file(&temporary)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&temporary)?.write_all(state)?;
    fs::rename(temporary, file)
}

fn read_error(file: &Path, error: &io::Error) -> io::Error {
    let text = format!("cannot read the simulated state in {}: {error}", file.display());
    io::Error::new(error.kind(), text)
}

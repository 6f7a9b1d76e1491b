//! A simulator's state in a file, so that a vendor outlives the process that plays it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::de::DeserializeOwned;

/// Reads what `file` holds; nothing when there is none yet.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(said(file, &error)),
    };
    let state = serde_json::from_slice(&text).map_err(|error| said(file, &io::Error::from(error)))?;
    Ok(Some(state))
}

/// Replaces `file`: it is there as a whole or as it was.
pub(crate) fn write(file: &Path, state: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    fs::write(&temporary, state)?;
    fs::rename(temporary, file)
}

fn said(file: &Path, error: &io::Error) -> io::Error {
    let text = format!("cannot read the simulated state in {}: {error}", file.display());
    io::Error::new(error.kind(), text)
}

//! Small files in the data directory: secrets that have to stay the same across restarts.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;

use crate::private_files;

/// Returns the random key in the file `name`, which is created on first use and readable only by its owner.
pub fn key(directory: &Path, name: &str) -> anyhow::Result<[u8; 32]> {
    let path = directory.join(name);
    let bad = || {
        format!(
            "{} does not contain a key of 64 hexadecimal digits (32 bytes)",
            path.display()
        )
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = hex::encode(rand::random::<[u8; 32]>());
            write(&path, &text)?;
            text
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let bytes = hex::decode(text.trim()).with_context(bad)?;
    bytes.try_into().map_err(|_| anyhow::anyhow!(bad()))
}

/// Writes a file atomically; only its owner can read it.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    private_files::write(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

//! Small files in the data directory: secrets that have to stay the same over restarts.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;

use crate::private_files;

/// Returns the random key in `name`, made on first use and readable by its owner alone.
pub fn key(directory: &Path, name: &str) -> anyhow::Result<[u8; 32]> {
    let path = directory.join(name);
    let bad = || format!("{} does not hold a key of 32 bytes in hexadecimal", path.display());
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

/// Writes a file that only its owner may read; it is there as a whole or not at all.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    private_files::write(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

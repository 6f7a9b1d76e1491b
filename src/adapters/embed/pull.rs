//! `copilotd models pull`: fetches a model's files and keeps those whose hashes are right.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::files::{KnownFile, ModelKind, hash};

/// Longest time for one file.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// A file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The source did not give it.
    #[error("{url} cannot be fetched")]
    Fetch {
        /// Its address.
        url: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The source gave another one.
    #[error("{url} is not the file it should be: {found}")]
    Altered {
        /// Its address.
        url: String,
        /// What it is instead.
        found: String,
    },
    /// It could not be written.
    #[error("{path} cannot be written")]
    Write {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Fetches the files of `kind` from `source` (an address; the file's name is added to `source/<model>/`) into
/// `directory`. Files that are right already are left as they are; the number of those fetched is returned.
pub async fn pull(
    client: &reqwest::Client,
    kind: ModelKind,
    source: &str,
    directory: &Path,
) -> Result<usize, PullError> {
    let own = directory.join(kind.name());
    let mut fetched = 0;
    for file in kind.files() {
        let path = own.join(file.name);
        let write = |source| PullError::Write {
            path: path.display().to_string(),
            source,
        };
        if tokio::fs::read(&path)
            .await
            .is_ok_and(|bytes| hash(&bytes) == file.sha256)
        {
            continue;
        }
        let url = format!("{}/{}/{}", source.trim_end_matches('/'), kind.name(), file.name);
        let bytes = fetch(client, &url, file).await?;
        tokio::fs::create_dir_all(&own).await.map_err(write)?;
        // Under its own name there is only ever a whole file.
        let part = own.join(format!("{}.part", file.name));
        let mut written = tokio::fs::File::create(&part).await.map_err(write)?;
        written.write_all(&bytes).await.map_err(write)?;
        written.sync_all().await.map_err(write)?;
        tokio::fs::rename(&part, &path).await.map_err(write)?;
        fetched += 1;
    }
    Ok(fetched)
}

async fn fetch(client: &reqwest::Client, url: &str, file: &KnownFile) -> Result<Vec<u8>, PullError> {
    let failed = |source| PullError::Fetch {
        url: url.to_owned(),
        source,
    };
    let altered = |found: String| PullError::Altered {
        url: url.to_owned(),
        found,
    };
    let answer = client.get(url).timeout(PATIENCE).send().await.map_err(failed)?;
    let mut answer = answer.error_for_status().map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if bytes.len() as u64 + chunk.len() as u64 > file.max_bytes {
            return Err(altered(format!("it has more than {} bytes", file.max_bytes)));
        }
        bytes.extend_from_slice(&chunk);
    }
    match hash(&bytes) {
        found if found == file.sha256 => Ok(bytes),
        found => Err(altered(format!("sha256 {found}"))),
    }
}

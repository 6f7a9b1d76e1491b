//! `copilotd models pull`: downloads a model's files and keeps those whose hashes are correct.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::files::{KnownFile, ModelKind, hash};
use crate::response_body::{self, BodyError};

/// Longest time for one file.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Why a file was not downloaded.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("cannot download {url}")]
    Fetch {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// The source sent another file.
    #[error("{url} is not the expected file: {found}")]
    Altered {
        url: String,
        /// How it differs.
        found: String,
    },
    #[error("cannot write {path}")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// Downloads the files of `kind` from `source` (a URL; `<model>/` and the file's name are appended) into `directory`.
/// Files that are correct already are kept; returns the number of downloaded files.
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
        // A file gets its own name only once it is complete.
        let part = own.join(format!("{}.part", file.name));
        let mut written = tokio::fs::File::create(&part).await.map_err(write)?;
        written.write_all(&bytes).await.map_err(write)?;
        written.sync_all().await.map_err(write)?;
        tokio::fs::rename(&part, &path).await.map_err(write)?;
        fetched += 1;
    }
    Ok(fetched)
}

async fn fetch(client: &reqwest::Client, url: &str, file: &KnownFile) -> Result<Bytes, PullError> {
    let failed = |source| PullError::Fetch {
        url: url.to_owned(),
        source,
    };
    let altered = |found: String| PullError::Altered {
        url: url.to_owned(),
        found,
    };
    let answer = client.get(url).timeout(DOWNLOAD_TIMEOUT).send().await.map_err(failed)?;
    let mut answer = answer.error_for_status().map_err(failed)?;
    let bytes = response_body::read(&mut answer, file.max_bytes).await;
    let bytes = bytes.map_err(|error| match error {
        BodyError::Network(error) => failed(error),
        error @ BodyError::TooLarge(_) => altered(error.to_string()),
    })?;
    match hash(&bytes) {
        found if found == file.sha256 => Ok(bytes),
        found => Err(altered(format!("sha256 {found}"))),
    }
}

//! `copilotd models pull`: fetches a model's files from a server or a directory, and keeps those whose hashes are
//! correct.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::io::AsyncWriteExt;

use super::files::{KnownFile, ModelKind, hash};
use crate::response_body::{self, BodyError};

/// Longest time for one file.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// What is in the address of a repository's files on Hugging Face and on servers that imitate it, between the
/// repository and the revision.
const RESOLVE: &str = "/resolve/";

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("cannot download {url}")]
    Fetch {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The source has another file.
    #[error("{place} is not the expected file: {found}")]
    Altered {
        place: String,
        /// How it differs.
        found: String,
    },
    /// The source has no such file.
    #[error("{file} was not found at any of {}", places.join(", "))]
    Missing {
        file: &'static str,
        /// Where it was looked for.
        places: Vec<String>,
    },
    #[error("cannot write {path}")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// Where the files of models are fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A repository on Hugging Face: `https://host/owner/name/resolve/revision`, to which a file's path is appended.
    Repository(String),
    /// A server of several models: `MODEL/FILE` is appended.
    Server(String),
    /// A directory, of one model's files or of several models.
    Directory(PathBuf),
}

impl Source {
    fn parse(text: &str) -> Self {
        let url = text.trim_end_matches('/').to_owned();
        match text.split_once("://") {
            None => Self::Directory(PathBuf::from(text)),
            Some((_, path)) if path.contains(RESOLVE) => Self::Repository(url),
            Some(_) => Self::Server(url),
        }
    }

    /// Returns where a file may be, the likeliest place first.
    fn places(&self, kind: ModelKind, file: &KnownFile) -> Vec<String> {
        let names = || std::iter::once(&file.name).chain(file.elsewhere);
        match self {
            // What has the plain name there is more often the original than the variant that is wanted.
            Self::Repository(url) => names()
                .skip(1)
                .chain([&file.name])
                .map(|name| format!("{url}/{name}"))
                .collect(),
            Self::Server(url) => vec![format!("{url}/{}/{}", kind.name(), file.name)],
            Self::Directory(path) => [path.join(kind.name()), path.clone()]
                .iter()
                .flat_map(|path| names().map(move |name| path.join(name).display().to_string()))
                .collect(),
        }
    }
}

/// Fetches the files of `kind` from `source` into `directory`: from a URL that ends in `resolve/` and a revision as
/// from Hugging Face, from any other URL with `<model>/` and the file's name appended, and from a directory with either
/// layout. Files that are correct already are kept; returns the number of fetched files.
pub async fn pull(
    client: &reqwest::Client,
    kind: ModelKind,
    source: &str,
    directory: &Path,
) -> Result<usize, PullError> {
    let own = directory.join(kind.name());
    let source = Source::parse(source);
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
        let bytes = find(client, &source, kind, file).await?;
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

/// Returns the file from the first place that has the right one. If none has, what is wrong at the first place that has
/// one.
async fn find(
    client: &reqwest::Client,
    source: &Source,
    kind: ModelKind,
    file: &KnownFile,
) -> Result<Bytes, PullError> {
    let places = source.places(kind, file);
    let mut altered = None;
    for place in &places {
        let found = match source {
            Source::Directory(_) => read(PathBuf::from(place), file.max_bytes).await,
            Source::Repository(_) | Source::Server(_) => fetch(client, place, file.max_bytes).await,
        };
        let said = match found? {
            Found::Nothing => continue,
            Found::TooLarge(said) => said,
            Found::Bytes(bytes) => match hash(&bytes) {
                found if found == file.sha256 => return Ok(bytes),
                found => format!("sha256 {found}"),
            },
        };
        altered.get_or_insert(PullError::Altered {
            place: place.clone(),
            found: said,
        });
    }
    let file = file.name;
    Err(altered.unwrap_or(PullError::Missing { file, places }))
}

/// What is at a place.
enum Found {
    Nothing,
    Bytes(Bytes),
    /// More than the file may have.
    TooLarge(String),
}

async fn read(path: PathBuf, max_bytes: usize) -> Result<Found, PullError> {
    let shown = path.display().to_string();
    let failed = |source| PullError::Read { path: shown, source };
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(max_bytes as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(bytes) if bytes.len() > max_bytes => Ok(Found::TooLarge(format!("more than {max_bytes} bytes"))),
        Ok(bytes) => Ok(Found::Bytes(bytes.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(failed(error)),
    }
}

async fn fetch(client: &reqwest::Client, url: &str, max_bytes: usize) -> Result<Found, PullError> {
    let failed = |source| PullError::Fetch {
        url: url.to_owned(),
        source,
    };
    let answer = client.get(url).timeout(DOWNLOAD_TIMEOUT).send().await.map_err(failed)?;
    if answer.status() == StatusCode::NOT_FOUND {
        return Ok(Found::Nothing);
    }
    let mut answer = answer.error_for_status().map_err(failed)?;
    match response_body::read(&mut answer, max_bytes).await {
        Ok(bytes) => Ok(Found::Bytes(bytes)),
        Err(BodyError::Network(error)) => Err(failed(error)),
        Err(error @ BodyError::TooLarge(_)) => Ok(Found::TooLarge(error.to_string())),
    }
}

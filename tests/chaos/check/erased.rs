//! Erased text is nowhere: not in the files, not in the store, not in the log lines.

use std::fmt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use mongodb::Client;
use mongodb::bson::{Document, doc};

/// Prefix of all secrets; files are searched for it once.
const BEGINNING: &[u8] = b"secret-";

/// Where erased text was found.
#[derive(Debug, Default, PartialEq)]
pub struct Traces(pub Vec<String>);

impl fmt::Display for Traces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(10)];
        write!(formatter, "{} traces of erased text: {shown:?}", self.0.len())
    }
}

/// Searches all files under the directories, and all documents of a store, for any of the secrets.
pub async fn everywhere(directories: &[&Path], store: Option<&str>, secrets: &[String]) -> Traces {
    let mut traces = Vec::new();
    for file in directories.iter().flat_map(|directory| files(directory)) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        traces.extend(found(&bytes, secrets).map(|secret| format!("{secret} in {}", file.display())));
    }
    if let Some(url) = store {
        for (collection, text) in documents(url).await {
            traces.extend(found(text.as_bytes(), secrets).map(|secret| format!("{secret} in {collection}")));
        }
    }
    traces.sort();
    traces.dedup();
    Traces(traces)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn found<'a>(bytes: &'a [u8], secrets: &'a [String]) -> impl Iterator<Item = &'a String> {
    memchr::memmem::find_iter(bytes, BEGINNING)
        .filter_map(|at| secrets.iter().find(|secret| bytes[at..].starts_with(secret.as_bytes())))
}

/// Returns every document of the database as text, with its collection.
async fn documents(url: &str) -> Vec<(String, String)> {
    let database = Client::with_uri_str(url)
        .await
        .expect("the store runs")
        .database("copilotd");
    let mut all = Vec::new();
    for name in database.list_collection_names().await.expect("the store runs") {
        let documents = database
            .collection::<Document>(&name)
            .find(doc! {})
            .await
            .expect("the store runs");
        let documents: Vec<Document> = documents.try_collect().await.expect("the store runs");
        all.extend(
            documents
                .into_iter()
                .map(|document| (name.clone(), document.to_string())),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_found_in_any_file_and_another_is_not_taken_for_it() {
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(directory.path().join("below")).unwrap();
        std::fs::write(directory.path().join("below/wal"), b"\0\0secret-1-u1-1.\0").unwrap();
        let secrets = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let search = async |names: &[&str]| everywhere(&[directory.path()], None, &secrets(names)).await.0.len();
        assert_eq!(search(&["secret-1-u1-1."]).await, 1);
        assert_eq!(search(&["secret-1-u1-10.", "secret-1-u11-1."]).await, 0);
    }
}

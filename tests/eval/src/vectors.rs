//! A cache of vectors outside the checkout: embedding a set takes minutes, and its texts never change.
//!
//! A directory per space holds files of records: SHA-256 of purpose, a zero byte and the text; then the components as 32-bit
//! floats, lowest byte first. Vectors of different models and engines are never mixed, since each space has a directory.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use copilotd_actors::ports::{EmbedRequest, Embedder, Purpose, Space, Urgency, Vector};
use sha2::{Digest as _, Sha256};

/// Texts of one request: few, so that an interruption loses little.
const BATCH: usize = 16;
const HASH_BYTES: usize = 32;

type Key = [u8; HASH_BYTES];

/// The vectors of one space.
#[derive(Debug)]
pub struct Vectors {
    space: Space,
    directory: PathBuf,
    dimensions: usize,
    vectors: HashMap<Key, Vector>,
}

impl Vectors {
    /// Opens the vectors of a space, of `dimensions` components, below the directory `cache`. There may be none yet.
    pub fn open(cache: &Path, space: &Space, dimensions: usize) -> anyhow::Result<Self> {
        let directory = cache.join(&**space);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let mut vectors = Self {
            space: Space::clone(space),
            directory,
            dimensions,
            vectors: HashMap::new(),
        };
        for entry in fs::read_dir(&vectors.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "bin") {
                vectors.load(&path)?;
            }
        }
        Ok(vectors)
    }

    /// Returns the vector of a text.
    pub fn get(&self, purpose: Purpose, text: &str) -> anyhow::Result<&Vector> {
        let vector = self.vectors.get(&key(purpose, text));
        vector.with_context(|| {
            format!(
                "no vector of {} is cached for {:?}",
                self.space,
                text.chars().take(60).collect::<String>()
            )
        })
    }

    /// Embeds those texts that have no vector, and stores their vectors. Without an embedder it lists them in a file, for
    /// whoever embeds them elsewhere, and fails.
    pub async fn ensure<'a>(
        &mut self,
        embedder: Option<&dyn Embedder>,
        purpose: Purpose,
        texts: impl Iterator<Item = &'a str>,
    ) -> anyhow::Result<()> {
        let mut lacking = self.lacking(purpose, texts);
        if lacking.is_empty() {
            return Ok(());
        }
        let Some(embedder) = embedder else {
            return self.list(purpose, &lacking);
        };
        // Texts of similar length make full batches.
        lacking.sort_by_key(|text| text.len());
        let path = self.directory.join("embedded.bin");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        for (done, batch) in lacking.chunks(BATCH).enumerate() {
            let request = EmbedRequest {
                texts: batch.iter().map(|text| (*text).to_owned()).collect(),
                purpose,
                urgency: match purpose {
                    Purpose::Query => Urgency::Foreground,
                    Purpose::Passage => Urgency::Background,
                },
            };
            for (text, vector) in batch.iter().zip(embedder.embed(request).await?) {
                ensure!(
                    *vector.space() == self.space,
                    "the embedder's space is {}, not {}",
                    vector.space(),
                    self.space
                );
                write(&mut file, key(purpose, text), vector.values())?;
                self.vectors.insert(key(purpose, text), vector);
            }
            if done % 32 == 31 {
                eprintln!("embedded {} of {} texts", (done + 1) * BATCH, lacking.len());
            }
        }
        file.sync_all()?;
        Ok(())
    }

    fn list(&self, purpose: Purpose, texts: &[&str]) -> anyhow::Result<()> {
        let path = self.directory.join("missing.jsonl");
        let rows = texts
            .iter()
            .map(|text| serde_json::json!([name(purpose), text]).to_string() + "\n");
        fs::write(&path, rows.collect::<String>())?;
        bail!(
            "{} texts have no vector of {}; they are listed in {}",
            texts.len(),
            self.space,
            path.display()
        )
    }

    fn lacking<'a>(&self, purpose: Purpose, texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let mut seen = HashSet::new();
        let is_new = |text: &&str| {
            let key = key(purpose, text);
            !self.vectors.contains_key(&key) && seen.insert(key)
        };
        texts.filter(is_new).collect()
    }

    /// Reads a file; a record that an interruption cut off is cut away.
    fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let bytes = fs::read(path)?;
        let record = HASH_BYTES + 4 * self.dimensions;
        let records = bytes.chunks_exact(record);
        if !records.remainder().is_empty() {
            let whole = bytes.len() - records.remainder().len();
            OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
        }
        for record in records {
            let (hash, values) = record.split_at(HASH_BYTES);
            let values = values
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
            let vector = Vector::unit(&self.space, values.collect())
                .with_context(|| format!("{} holds a vector without direction", path.display()))?;
            self.vectors.insert(hash.try_into()?, vector);
        }
        Ok(())
    }
}

fn name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Query => "query",
        Purpose::Passage => "passage",
    }
}

fn key(purpose: Purpose, text: &str) -> Key {
    Sha256::new()
        .chain_update(name(purpose))
        .chain_update([0])
        .chain_update(text)
        .finalize()
        .into()
}

fn write(file: &mut File, key: Key, values: &[f32]) -> anyhow::Result<()> {
    // One write per record: an interruption leaves at most one cut-off record, at the end.
    let record: Vec<u8> = key
        .into_iter()
        .chain(values.iter().flat_map(|value| value.to_le_bytes()))
        .collect();
    file.write_all(&record)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use copilotd_actors::ports::EmbedError;

    use super::*;

    /// Embeds a text as its length.
    #[derive(Debug)]
    struct Lengths;

    #[async_trait]
    impl Embedder for Lengths {
        async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
            let vector =
                |text: &String| Vector::unit(&"m".into(), vec![text.len() as f32, 1.0]).expect("has a direction");
            Ok(request.texts.iter().map(vector).collect())
        }
    }

    #[tokio::test]
    async fn vectors_are_kept_per_space_and_purpose_and_survive_an_interruption() {
        let cache = tempfile::tempdir().unwrap();
        let open = |space: &str| Vectors::open(cache.path(), &space.into(), 2).unwrap();
        let texts = || ["one", "three", "one"].into_iter();
        let mut vectors = open("m");
        vectors.ensure(Some(&Lengths), Purpose::Query, texts()).await.unwrap();
        let expected = vectors.get(Purpose::Query, "one").unwrap().clone();
        assert!(vectors.get(Purpose::Passage, "one").is_err());
        assert!(open("n").get(Purpose::Query, "one").is_err());

        let path = cache.path().join("m/embedded.bin");
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 2 * (HASH_BYTES + 8));
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut vectors = open("m");
        assert!(vectors.get(Purpose::Query, "one").unwrap().cosine(&expected) > 0.999);
        assert!(
            vectors
                .ensure(None, Purpose::Query, texts())
                .await
                .unwrap_err()
                .to_string()
                .starts_with("1 texts")
        );
        assert_eq!(
            fs::read_to_string(cache.path().join("m/missing.jsonl")).unwrap(),
            "[\"query\",\"three\"]\n"
        );
        vectors.ensure(Some(&Lengths), Purpose::Query, texts()).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[tokio::test]
    async fn an_embedder_of_another_space_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let mut vectors = Vectors::open(cache.path(), &"other".into(), 2).unwrap();
        let refused = vectors
            .ensure(Some(&Lengths), Purpose::Query, ["one"].into_iter())
            .await;
        assert!(refused.unwrap_err().to_string().contains("space is m, not other"));
    }
}

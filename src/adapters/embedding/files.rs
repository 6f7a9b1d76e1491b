//! The files of the embedding models: their names, and the hashes by which they are verified.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use copilotd_actors::ports::Space;
use sha2::{Digest, Sha256};

/// A model that can run in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// A static table of word pieces: light and fast, weaker on paraphrases.
    Wordllama,
    /// all-MiniLM-L6-v2.
    Minilm,
}

/// One file of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownFile {
    /// File name in the model's directory.
    pub(super) name: &'static str,
    /// In hex.
    pub(super) sha256: &'static str,
    pub(super) max_bytes: usize,
}

const WORDLLAMA: [KnownFile; 2] = [
    KnownFile {
        name: "l2_supercat_256.safetensors",
        sha256: "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        max_bytes: 20 << 20,
    },
    KnownFile {
        name: "tokenizer.json",
        sha256: "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
        max_bytes: 4 << 20,
    },
];

const MINILM: [KnownFile; 3] = [
    KnownFile {
        name: "model.safetensors",
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        max_bytes: 100 << 20,
    },
    KnownFile {
        name: "tokenizer.json",
        sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        max_bytes: 4 << 20,
    },
    KnownFile {
        name: "config.json",
        sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        max_bytes: 64 << 10,
    },
];

impl ModelKind {
    pub const ALL: [Self; 2] = [Self::Wordllama, Self::Minilm];

    /// Returns the name, which is also the name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wordllama => "wordllama-l2-256",
            Self::Minilm => "all-MiniLM-L6-v2",
        }
    }

    pub(super) fn files(self) -> &'static [KnownFile] {
        match self {
            Self::Wordllama => &WORDLLAMA,
            Self::Minilm => &MINILM,
        }
    }

    /// Identifies the model to those who store vectors: other weights are another model.
    pub(super) fn space(self) -> Space {
        format!("{}@{}", self.name(), &self.files()[0].sha256[..16]).into()
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ModelKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("must be one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Why the files of a model are unusable.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file is missing or unreadable.
    #[error("{model}: cannot read {}; run `copilotd models pull` to fetch it", path.display())]
    Unreadable {
        model: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file differs from the one that this program knows.
    #[error("{model}: {} has an unexpected sha256 ({found}); run `copilotd models pull` to replace it", path.display())]
    Altered {
        model: String,
        path: PathBuf,
        /// Its actual hash, in hex.
        found: String,
    },
    /// The files are the right ones and still cannot be loaded.
    #[error("cannot load {model}: {message}")]
    Unusable { model: String, message: String },
}

/// Files of a model whose hashes are correct.
#[derive(Debug)]
pub struct ModelFiles {
    kind: ModelKind,
    contents: Vec<Vec<u8>>,
}

impl ModelFiles {
    /// Reads the files of `kind` below `directory` and verifies them. What was verified is what is used: nothing is
    /// read twice.
    pub fn open(kind: ModelKind, directory: &Path) -> Result<Self, FilesError> {
        let read = |file: &KnownFile| {
            let path = directory.join(kind.name()).join(file.name);
            let mut bytes = Vec::new();
            let opened = std::fs::File::open(&path);
            opened
                .and_then(|opened| opened.take(file.max_bytes as u64).read_to_end(&mut bytes))
                .map_err(|source| FilesError::Unreadable {
                    model: kind.to_string(),
                    path: path.clone(),
                    source,
                })?;
            match hash(&bytes) {
                found if found == file.sha256 => Ok(bytes),
                found => Err(FilesError::Altered {
                    model: kind.to_string(),
                    path,
                    found,
                }),
            }
        };
        let contents = kind.files().iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { kind, contents })
    }

    pub(super) fn get(&self, name: &str) -> &[u8] {
        let place = self.kind.files().iter().position(|file| file.name == name);
        place.map_or(&[], |place| &self.contents[place])
    }

    pub(super) fn unusable(&self, error: impl fmt::Display) -> FilesError {
        FilesError::Unusable {
            model: self.kind.to_string(),
            message: error.to_string(),
        }
    }
}

pub(super) fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_altered_files_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let opened = ModelFiles::open(ModelKind::Wordllama, directory.path());
        assert!(matches!(opened, Err(FilesError::Unreadable { .. })), "{opened:?}");
        let own = directory.path().join(ModelKind::Wordllama.name());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("l2_supercat_256.safetensors"), "something else").unwrap();
        let opened = ModelFiles::open(ModelKind::Wordllama, directory.path());
        assert!(matches!(opened, Err(FilesError::Altered { .. })), "{opened:?}");
    }

    #[test]
    fn names_are_read_back() {
        for kind in ModelKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("other".parse::<ModelKind>().is_err());
    }
}

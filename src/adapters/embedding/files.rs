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
    /// bge-small-en-v1.5, its weights in eight bits.
    BgeSmall,
}

/// One file of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownFile {
    /// File name in the model's directory.
    pub(super) name: &'static str,
    /// Paths at which repositories of models have it, if that is not its name.
    pub(super) elsewhere: &'static [&'static str],
    /// In hex.
    pub(super) sha256: &'static str,
    pub(super) max_bytes: usize,
}

const BGE_SMALL: [KnownFile; 2] = [
    KnownFile {
        name: "model.onnx",
        elsewhere: &["onnx/model_quantized.onnx", "onnx/model_int8.onnx", "onnx/model.onnx"],
        sha256: "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
        max_bytes: 40 << 20,
    },
    KnownFile {
        name: "tokenizer.json",
        elsewhere: &[],
        sha256: "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
        max_bytes: 4 << 20,
    },
];

impl ModelKind {
    pub const ALL: [Self; 1] = [Self::BgeSmall];

    /// Returns the name, which is also the name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::BgeSmall => "bge-small-en-v1.5",
        }
    }

    pub(super) fn files(self) -> &'static [KnownFile] {
        match self {
            Self::BgeSmall => &BGE_SMALL,
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
        let opened = ModelFiles::open(ModelKind::BgeSmall, directory.path());
        assert!(matches!(opened, Err(FilesError::Unreadable { .. })), "{opened:?}");
        let own = directory.path().join(ModelKind::BgeSmall.name());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("model.onnx"), "something else").unwrap();
        let opened = ModelFiles::open(ModelKind::BgeSmall, directory.path());
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

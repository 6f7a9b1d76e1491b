//! The static table of wordllama: a text is the mean of its word pieces' rows.

use ndarray::{Array1, Array2, ArrayView1};
use tokenizers::Tokenizer;

use super::Encoder;
use super::files::{FilesError, ModelFiles};
use super::tensors::Tensors;

/// Numbers in a row.
const DIMENSION: usize = 256;

/// The loaded table.
pub(super) struct Table {
    tokenizer: Tokenizer,
    rows: Array2<f32>,
}

impl Table {
    pub(super) fn load(files: &ModelFiles) -> Result<Self, FilesError> {
        let mut tokenizer =
            Tokenizer::from_bytes(files.get("tokenizer.json")).map_err(|error| files.unusable(error))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| files.unusable(error))?;
        let rows = Tensors::read(files.get("l2_supercat_256.safetensors"))
            .and_then(|tensors| tensors.rows("embedding.weight", DIMENSION))
            .map_err(|error| files.unusable(error))?;
        if rows.is_empty() {
            return Err(files.unusable("the embedding table is empty"));
        }
        Ok(Self { tokenizer, rows })
    }

    fn row(&self, id: u32) -> ArrayView1<'_, f32> {
        // An id past the table is its last row's, as in the reference.
        let last = self.rows.nrows() - 1;
        self.rows.row(usize::try_from(id).unwrap_or(last).min(last))
    }
}

impl Encoder for Table {
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
        let one = |text: &&str| {
            let encoded = self.tokenizer.encode(*text, false).map_err(|error| error.to_string())?;
            let mut sum = Array1::zeros(DIMENSION);
            for id in encoded.get_ids() {
                sum += &self.row(*id);
            }
            Ok(sum.to_vec())
        };
        texts.iter().map(one).collect()
    }
}

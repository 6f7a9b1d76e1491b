//! The static table of wordllama: a text is the mean of its word pieces' rows.

use candle_core::{DType, Device, safetensors};
use tokenizers::Tokenizer;

use super::Encoder;
use super::files::{FilesError, ModelFiles};

/// Numbers in a row.
const DIMENSION: usize = 256;

/// The loaded table.
pub(super) struct Table {
    tokenizer: Tokenizer,
    rows: Vec<f32>,
}

impl Table {
    pub(super) fn load(files: &ModelFiles) -> Result<Self, FilesError> {
        let mut tokenizer =
            Tokenizer::from_bytes(files.get("tokenizer.json")).map_err(|error| files.unusable(error))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| files.unusable(error))?;
        let tensors = safetensors::load_buffer(files.get("l2_supercat_256.safetensors"), &Device::Cpu)
            .map_err(|error| files.unusable(error))?;
        let table = tensors
            .get("embedding.weight")
            .ok_or_else(|| files.unusable("the file contains no embedding table"))?;
        let rows = table
            .to_dtype(DType::F32)
            .and_then(|table| table.flatten_all())
            .and_then(|table| table.to_vec1())
            .map_err(|error| files.unusable(error))?;
        Ok(Self { tokenizer, rows })
    }

    fn row(&self, id: u32) -> &[f32] {
        // An id beyond the table gets the last row, as in the reference implementation.
        let last = self.rows.len() / DIMENSION - 1;
        let row = usize::try_from(id).unwrap_or(last).min(last);
        &self.rows[row * DIMENSION..(row + 1) * DIMENSION]
    }
}

impl Encoder for Table {
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
        let one = |text: &&str| {
            let encoded = self.tokenizer.encode(*text, false).map_err(|error| error.to_string())?;
            let mut sum = vec![0.0; DIMENSION];
            for id in encoded.get_ids() {
                for (sum, value) in sum.iter_mut().zip(self.row(*id)) {
                    *sum += value;
                }
            }
            Ok(sum)
        };
        texts.iter().map(one).collect()
    }
}

//! all-MiniLM-L6-v2: the mean of the last layer over a text's tokens.

use tokenizers::{Tokenizer, TruncationParams};

use super::Encoder;
use super::bert::{Bert, Config};
use super::files::{FilesError, ModelFiles};
use super::tensors::Tensors;

/// Tokens of a text that count; the model was trained on no more.
const MAX_TOKENS: usize = 256;

/// The loaded model.
pub(super) struct MiniLm {
    tokenizer: Tokenizer,
    model: Bert,
}

impl MiniLm {
    pub(super) fn load(files: &ModelFiles) -> Result<Self, FilesError> {
        let mut tokenizer =
            Tokenizer::from_bytes(files.get("tokenizer.json")).map_err(|error| files.unusable(error))?;
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            max_length: MAX_TOKENS,
            ..TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| files.unusable(error))?;
        let config: Config = serde_json::from_slice(files.get("config.json")).map_err(|error| files.unusable(error))?;
        let model = Tensors::read(files.get("model.safetensors"))
            .and_then(|tensors| Bert::load(&tensors, &config))
            .map_err(|error| files.unusable(error))?;
        Ok(Self { tokenizer, model })
    }
}

impl Encoder for MiniLm {
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
        let mut ids = Vec::with_capacity(texts.len());
        for text in texts {
            let tokens = self.tokenizer.encode(*text, true).map_err(|error| error.to_string())?;
            ids.push(tokens.get_ids().to_vec());
        }
        self.model.mean(&ids)
    }
}

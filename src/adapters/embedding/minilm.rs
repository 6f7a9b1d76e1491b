//! all-MiniLM-L6-v2 by candle: the mean of the last layer over a text's tokens.

use candle_core::{DType, Device, Result as Computed, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::{Tokenizer, TruncationParams};

use super::Encoder;
use super::files::{FilesError, ModelFiles};

/// Tokens of a text that count; the model was trained on no more.
const MAX_TOKENS: usize = 256;

/// The loaded model.
pub(super) struct MiniLm {
    tokenizer: Tokenizer,
    model: BertModel,
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
        let weights = files.get("model.safetensors");
        let model = VarBuilder::from_slice_safetensors(weights, DType::F32, &Device::Cpu)
            .and_then(|weights| BertModel::load(weights, &config))
            .map_err(|error| files.unusable(error))?;
        Ok(Self { tokenizer, model })
    }

    /// Runs texts of about the same length, the shorter ones padded.
    fn forward(&self, batch: &[(usize, Vec<u32>)]) -> Computed<Vec<Vec<f32>>> {
        let longest = batch.iter().map(|(_, ids)| ids.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(batch.len() * longest);
        let mut mask = Vec::with_capacity(batch.len() * longest);
        for (_, text) in batch {
            let padding = longest - text.len();
            ids.extend(text.iter().copied().chain(std::iter::repeat_n(0, padding)));
            mask.extend(std::iter::repeat_n(1_u32, text.len()).chain(std::iter::repeat_n(0, padding)));
        }
        let shape = (batch.len(), longest);
        let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let states = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let mask = mask.to_dtype(DType::F32)?;
        let sum = states.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?;
        sum.broadcast_div(&mask.sum_keepdim(1)?)?.to_vec2()
    }
}

impl Encoder for MiniLm {
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
        let mut encoded = Vec::with_capacity(texts.len());
        for (place, text) in texts.iter().enumerate() {
            let tokens = self.tokenizer.encode(*text, true).map_err(|error| error.to_string())?;
            encoded.push((place, tokens.get_ids().to_vec()));
        }
        // In a batch each text costs as much as the longest: texts of similar length are batched together.
        encoded.sort_by_key(|(_, ids)| ids.len());
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut rest = &encoded[..];
        while let Some((_, shortest)) = rest.first() {
            let limit = shortest.len() + shortest.len() / 4 + 4;
            let (batch, after) = rest.split_at(rest.partition_point(|(_, ids)| ids.len() <= limit));
            let computed = self.forward(batch).map_err(|error| error.to_string())?;
            for ((place, _), vector) in batch.iter().zip(computed) {
                vectors[*place] = vector;
            }
            rest = after;
        }
        Ok(vectors)
    }
}

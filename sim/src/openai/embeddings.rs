//! Embeddings without a model: each word is hashed to a few positions, so texts that share words are close to each
//! other.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::model::step::Refusal;
use crate::model::usage::tokens;

const DEFAULT_DIMENSIONS: u64 = 1536;
const PLACES_PER_WORD: u64 = 8;

/// Answers `POST /v1/embeddings`.
pub(crate) fn answer(body: &Value) -> Result<Value, Box<Refusal>> {
    let model = body["model"]
        .as_str()
        .filter(|model| !model.is_empty())
        .ok_or_else(|| Refusal::invalid("you must provide a model parameter", None))?;
    let inputs = inputs(&body["input"]).ok_or_else(|| {
        Refusal::invalid(
            "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference.",
            None,
        )
    })?;
    let dimensions = match &body["dimensions"] {
        Value::Null => DEFAULT_DIMENSIONS,
        value => value
            .as_u64()
            .filter(|wanted| (1..=4096).contains(wanted))
            .ok_or_else(|| Refusal::invalid("Invalid value for 'dimensions'.", Some("dimensions")))?,
    };
    let base64 = match body["encoding_format"].as_str() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(Refusal::invalid(
                "Invalid value for 'encoding_format': expected 'float' or 'base64'.",
                Some("encoding_format"),
            ));
        }
    };
    let used: u64 = inputs.iter().map(|input| tokens(input)).sum();
    let data: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let vector = embed(input, dimensions);
            let embedding = if base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                json!(base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    Ok(json!({
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }))
}

/// Reads a text, texts, token numbers or lists of these; nothing may be empty.
fn inputs(input: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Array(numbers) if !numbers.is_empty() && numbers.iter().all(Value::is_u64) => {
            Some(numbers.iter().map(Value::to_string).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    };
    match input {
        Value::Array(items) if items.iter().any(|item| !item.is_u64()) => items.iter().map(one).collect(),
        value => one(value).map(|input| vec![input]),
    }
}

fn embed(text: &str, dimensions: u64) -> Vec<f32> {
    let mut vector = vec![0_f32; usize::try_from(dimensions).unwrap_or_default()];
    let words = text.split(|character: char| !character.is_alphanumeric());
    for word in words.filter(|word| !word.is_empty()) {
        for place in 0..PLACES_PER_WORD {
            let mut hasher = DefaultHasher::new();
            (word.to_lowercase(), place).hash(&mut hasher);
            let hash = hasher.finish();
            let at = usize::try_from((hash >> 1) % dimensions).unwrap_or_default();
            vector[at] += if hash & 1 == 0 { 1.0 } else { -1.0 };
        }
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length == 0.0 {
        // OpenAI's vectors have length 1, even for a text without words.
        vector[0] = 1.0;
    } else {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    vector
}

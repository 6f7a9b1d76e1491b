//! Embeddings: one document asked for and passed on as it is, once it is clear that it holds what was asked for.

use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use serde_json::Value;

use crate::adapters::provider::Errors;
use crate::adapters::provider::lenient::{Members, items};
use crate::gateway::embed::Inputs;

/// Bytes that make a token, about, where the provider does not count.
const BYTES_PER_TOKEN: u64 = 4;

/// What an answer has to hold.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Embeddings.
    embeddings: usize,
    /// Tokens of the inputs, about.
    tokens: u64,
}

impl Wanted {
    /// An embedding for each input.
    pub fn of(inputs: &Inputs) -> Self {
        Self {
            embeddings: inputs.len(),
            tokens: estimate(inputs),
        }
    }
}

/// Reads what a list of embeddings cost in tokens, or why it is none.
pub fn read(body: &[u8], wanted: Wanted, errors: &Errors) -> Result<Usage, ModelError> {
    let body = String::from_utf8_lossy(body);
    let list = Members::read(body.trim()).ok_or_else(|| errors.malformed("it sent something that is not an answer"))?;
    if let Some(error) = list.get("error") {
        return Err(errors.in_stream(&serde_json::from_str(error.get()).unwrap_or(Value::Null)));
    }
    let data = list.get("data").filter(|data| data.get().starts_with('['));
    if items(data).len() != wanted.embeddings {
        return Err(errors.malformed("it did not send an embedding for each input"));
    }
    let usage = Members::of(list.get("usage")).unwrap_or_default();
    let told = usage.count("prompt_tokens").known().filter(|&tokens| tokens > 0);
    Ok(Usage {
        prompt_tokens: told.unwrap_or(wanted.tokens),
        ..Usage::default()
    })
}

fn estimate(inputs: &Inputs) -> u64 {
    match inputs {
        Inputs::Texts(texts) => texts
            .iter()
            .map(|text| (text.len() as u64).div_ceil(BYTES_PER_TOKEN))
            .sum(),
        Inputs::Tokens { tokens, .. } => *tokens,
    }
}

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::command::FailureClass;

    use super::*;

    #[test]
    fn a_list_has_one_embedding_for_each_input() {
        let inputs = Inputs::Texts(vec!["eight by".into(), "x".into()]);
        for (body, expected) in [
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":7}}"#, Ok(7)),
            (r#"{"data":[{},{}]}"#, Ok(3)),
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":0}}"#, Ok(3)),
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":-7}}"#, Ok(3)),
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":"7.0"}}"#, Ok(7)),
            (r#"{"data":[{}]}"#, Err(FailureClass::Malformed)),
            (r#"{"error":{"message":"x","code":429}}"#, Err(FailureClass::Rate)),
            ("<html>", Err(FailureClass::Malformed)),
        ] {
            let read = read(body.as_bytes(), Wanted::of(&inputs), &Errors::new("main", Vec::new()));
            let tokens = read.map(|usage| usage.prompt_tokens).map_err(|error| error.class);
            assert_eq!(tokens, expected, "{body}");
        }
    }
}

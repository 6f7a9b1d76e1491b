//! Embeddings: one document, passed on unchanged once it is clear that it contains what was requested.

use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use serde_json::Value;

use crate::adapters::llm::provider::Errors;
use crate::adapters::llm::provider::lenient::{Members, items};

/// Reads the usage of a list of `wanted` embeddings, if reported; fails if it is not such a list.
pub fn read(body: &[u8], wanted: usize, errors: &Errors) -> Result<Option<Usage>, ModelError> {
    let body = String::from_utf8_lossy(body);
    let list = Members::read(body.trim())
        .ok_or_else(|| errors.malformed("the provider sent a response that is not an answer"))?;
    if let Some(error) = list.get("error") {
        return Err(errors.in_stream(&serde_json::from_str(error.get()).unwrap_or(Value::Null)));
    }
    let data = list.get("data").filter(|data| data.get().starts_with('['));
    if items(data).len() != wanted {
        return Err(errors.malformed("the provider did not send an embedding for each input"));
    }
    let usage = Members::of(list.get("usage")).unwrap_or_default();
    let told = usage.count("prompt_tokens").known().filter(|&tokens| tokens > 0);
    Ok(told.map(|prompt_tokens| Usage {
        prompt_tokens,
        ..Usage::default()
    }))
}

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::failure::FailureClass;

    use super::*;

    #[test]
    fn a_list_has_one_embedding_for_each_input() {
        for (body, expected) in [
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":7}}"#, Ok(Some(7))),
            (r#"{"data":[{},{}]}"#, Ok(None)),
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":0}}"#, Ok(None)),
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":-7}}"#, Ok(None)),
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":"7.0"}}"#, Ok(Some(7))),
            (r#"{"data":[{}]}"#, Err(FailureClass::Malformed)),
            (r#"{"error":{"message":"x","code":429}}"#, Err(FailureClass::Rate)),
            ("<html>", Err(FailureClass::Malformed)),
        ] {
            let read = read(body.as_bytes(), 2, &Errors::new("main", Vec::new()));
            let tokens = read
                .map(|usage| usage.map(|usage| usage.prompt_tokens))
                .map_err(|error| error.class);
            assert_eq!(tokens, expected, "{body}");
        }
    }
}

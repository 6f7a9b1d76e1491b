//! Reads a list of embeddings. It is passed on as it is; here is read what it used, and whether it is whole.

use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::adapters::provider::Errors;
use crate::gateway::embed::{EmbedBody, Inputs};

/// Bytes that make a token, about, where the provider does not count.
const BYTES_PER_TOKEN: u64 = 4;

#[derive(Deserialize)]
struct List {
    data: Option<Vec<IgnoredAny>>,
    usage: Option<ListUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ListUsage {
    prompt_tokens: Option<u64>,
}

/// Reads what `answer` used; it has to hold one embedding for each input of `asked`.
pub fn read(answer: &[u8], asked: &EmbedBody, errors: &Errors) -> Result<Usage, ModelError> {
    let list: List = serde_json::from_slice(answer)
        .map_err(|_| errors.malformed("it sent something that is not a list of embeddings"))?;
    if let Some(error) = list.error.filter(|error| !error.is_null()) {
        return Err(errors.in_stream(&error));
    }
    if list.data.is_none_or(|data| data.len() != asked.inputs().len()) {
        return Err(errors.malformed("it did not send an embedding for each input"));
    }
    let counted = || match asked.inputs() {
        Inputs::Texts(texts) => (texts.iter().map(String::len).sum::<usize>() as u64).div_ceil(BYTES_PER_TOKEN),
        Inputs::Tokens { tokens, .. } => *tokens,
    };
    Ok(Usage {
        prompt_tokens: list.usage.and_then(|usage| usage.prompt_tokens).unwrap_or_else(counted),
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::command::FailureClass;

    use super::*;

    #[test]
    fn a_list_is_whole_or_malformed() {
        let asked = EmbedBody::parse(br#"{"model":"m","input":["one","two"]}"#).unwrap();
        for (answer, expected) in [
            (r#"{"data":[{},{}],"usage":{"prompt_tokens":7}}"#, Ok(7)),
            (r#"{"data":[{},{}]}"#, Ok(2)),
            (r#"{"data":[{}]}"#, Err(FailureClass::Malformed)),
            ("{}", Err(FailureClass::Malformed)),
            ("<html>", Err(FailureClass::Malformed)),
            (
                r#"{"error":{"message":"x","type":"server_error"}}"#,
                Err(FailureClass::Overload),
            ),
        ] {
            let read = read(answer.as_bytes(), &asked, &Errors::new("main", Vec::new()));
            let read = read.map(|usage| usage.prompt_tokens).map_err(|error| error.class);
            assert_eq!(read, expected, "{answer}");
        }
    }
}

//! Embeddings: one request, executed like a chat request for a whole answer.

use bytes::Bytes;
use copilotd_actors::domain::usage::Usage;
use serde::Serialize;
use serde_json::value::RawValue;

use super::body::{Change, InvalidBody, Members, invalid, raw, typed, write_members};
use super::call::Caller;
use super::embed_input::WireInput;
use crate::error::LimitState;

/// Most inputs of one request.
pub const MAX_INPUTS: usize = 2_048;

/// An embeddings request.
#[derive(Debug, Clone)]
pub struct EmbedCall {
    /// Who calls.
    pub caller: Caller,
    /// Name of a route, or `provider/model`.
    pub route: String,
    /// The request body.
    pub body: EmbedBody,
}

/// The gateway's reply to an embeddings request.
#[derive(Debug, Clone)]
pub struct EmbedReply {
    /// Target that answered, as `provider/model`.
    pub model: String,
    /// Number of requests sent to providers.
    pub attempts: u32,
    /// Usage including cost.
    pub usage: Usage,
    /// State of the tightest rate limits, if any apply.
    pub limits: Vec<LimitState>,
    /// OpenAI's list of embeddings as JSON.
    pub body: Bytes,
}

/// Embeddings as an upstream answered them.
#[derive(Debug, Clone)]
pub struct EmbedAnswer {
    /// OpenAI's list of embeddings as JSON.
    pub body: Bytes,
    /// Usage including cost.
    pub usage: Usage,
}

/// The body of an embeddings request, split at its top level like a chat body.
#[derive(Clone)]
pub struct EmbedBody {
    members: Members,
    model: String,
    inputs: Inputs,
}

/// What is to be embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inputs {
    /// Texts.
    Texts(Vec<String>),
    /// Token ids of the model; only their number is kept.
    Tokens {
        /// Number of inputs.
        inputs: usize,
        /// Number of tokens.
        tokens: u64,
    },
}

impl EmbedBody {
    /// Parses a body.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidBody> {
        let members = Members::parse(bytes)?;
        let model: String = typed(
            "model",
            members.get("model").unwrap_or(RawValue::NULL),
            "must be a string",
        )?;
        if model.is_empty() {
            return Err(invalid("model", "must name a model"));
        }
        let input = members.get("input").ok_or_else(|| invalid("input", "is missing"))?;
        let input: WireInput = typed("input", input, "must be a string, an array of strings, or tokens")?;
        let inputs = input.0.filter(|inputs| (1..=MAX_INPUTS).contains(&inputs.len()));
        let number = || invalid("input", &format!("must contain between 1 and {MAX_INPUTS} inputs"));
        let inputs = inputs.ok_or_else(number)?;
        Ok(Self { members, model, inputs })
    }

    /// Builds a body that asks for vectors of `texts` as floats; the upstream inserts the model name.
    pub fn of(texts: Vec<String>) -> Self {
        Self::with(texts, None, None)
    }

    /// Like [`EmbedBody::of`], for vectors of this many numbers, if the model can make shorter ones, and with what the
    /// texts are, for models that ask for an `input_type`.
    pub fn with(texts: Vec<String>, dimensions: Option<usize>, input_type: Option<&str>) -> Self {
        let members = Members::of([
            ("model", raw(&"")),
            ("input", raw(&texts)),
            ("encoding_format", raw(&"float")),
            ("dimensions", dimensions.and_then(|dimensions| raw(&dimensions))),
            ("input_type", input_type.and_then(|input_type| raw(&input_type))),
        ]);
        Self {
            members,
            model: String::new(),
            inputs: Inputs::Texts(texts),
        }
    }

    /// Returns the requested model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Returns the inputs.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Returns a member, as it was written.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.members.get(name)
    }

    /// Returns the approximate size in bytes.
    pub fn size(&self) -> usize {
        self.members.size()
    }

    /// Serialises the body with `model` in place of its own.
    pub fn write(&self, model: &impl Serialize) -> Bytes {
        let changes: [Change<'_>; 1] = [("model", raw(model))];
        write_members(&self.members, &changes)
    }
}

impl Inputs {
    /// Returns the number of inputs.
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens { inputs, .. } => *inputs,
        }
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for EmbedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Content is never logged.
        f.debug_struct("EmbedBody")
            .field("model", &self.model)
            .field("inputs", &self.inputs.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_input_is_read_and_written_as_it_came() {
        for (input, expected) in [
            (r#""a""#, Some(1)),
            (r#"["a", "b"]"#, Some(2)),
            (r#"["a", 1]"#, None),
            ("[[1], 1]", None),
            ("[1, -1]", None),
            ("[1.5]", None),
            ("[[1], [\"a\"]]", None),
            ("[[]]", Some(1)),
            ("[1, 2, 3]", Some(1)),
            ("[[1], [2, 3]]", Some(2)),
            ("[]", None),
            ("7", None),
            ("null", None),
        ] {
            let text = format!(r#"{{"model":"m","input":{input},"dimensions":2}}"#);
            let body = EmbedBody::parse(text.as_bytes());
            assert_eq!(body.as_ref().ok().map(|body| body.inputs().len()), expected, "{input}");
            if let Ok(body) = body {
                assert_eq!(body.write(&"x"), text.replace("\"m\"", "\"x\""));
            }
        }
    }
}

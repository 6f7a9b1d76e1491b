//! Counts tokens by ourselves when a provider does not say how many it used.

use std::sync::Arc;

use copilotd_actors::domain::usage::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;
use tiktoken_rs::o200k_base_singleton;

use crate::gateway::body::ChatBody;

/// Text that is counted at once. The tokenizer's time grows faster than the text when the text has no spaces.
const SLICE: usize = 4 * 1024;
/// Answer text that is kept; what is longer is counted and let go.
const KEPT: usize = 16 * 1024;
/// What the protocol adds to each message, and to the whole prompt.
const PER_MESSAGE: u64 = 3;
const PER_PROMPT: u64 = 3;
/// What the protocol adds to each tool, about.
const PER_TOOL: u64 = 8;

/// What was said so far, on both sides.
#[derive(Debug, Clone)]
pub struct Transcript {
    prompt: Arc<ChatBody>,
    answer: String,
    counted: u64,
    written: u64,
}

impl Transcript {
    /// Begins with a prompt. Nothing is copied.
    pub fn new(prompt: Arc<ChatBody>) -> Self {
        Self {
            prompt,
            answer: String::new(),
            counted: 0,
            written: 0,
        }
    }

    /// Returns how many bytes of the answer were added.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Adds a piece of the answer.
    pub fn add(&mut self, piece: &str) {
        self.written += piece.len() as u64;
        self.answer.push_str(piece);
        if self.answer.len() > KEPT {
            self.counted += tokens(&self.answer);
            self.answer.clear();
        }
    }

    /// Counts everything. Takes milliseconds for a long prompt, so it runs beside the event loop.
    pub async fn estimate(self) -> Usage {
        let bytes = self.bytes();
        // The tokenizer gives up on some texts by panicking; a coarse number is better than none.
        tokio::task::spawn_blocking(move || self.count())
            .await
            .unwrap_or(Usage {
                prompt_tokens: bytes.0 / 4,
                completion_tokens: bytes.1 / 4,
                ..Usage::default()
            })
    }

    fn count(&self) -> Usage {
        Usage {
            prompt_tokens: prompt_tokens(&self.prompt),
            completion_tokens: self.counted + tokens(&self.answer),
            ..Usage::default()
        }
    }

    fn bytes(&self) -> (u64, u64) {
        (
            self.prompt.messages().get().len() as u64,
            self.counted * 4 + self.answer.len() as u64,
        )
    }
}

/// Counts a prompt: its messages and tools. What is written in a way that nobody here knows counts as JSON.
pub fn prompt_tokens(body: &ChatBody) -> u64 {
    let messages: Vec<&RawValue> = serde_json::from_str(body.messages().get()).unwrap_or_default();
    let messages: u64 = messages
        .into_iter()
        .map(|message| PER_MESSAGE + message_tokens(message))
        .sum();
    let tools: Vec<&RawValue> = body
        .get("tools")
        .and_then(|tools| serde_json::from_str(tools.get()).ok())
        .unwrap_or_default();
    let tools: u64 = tools.into_iter().map(|tool| PER_TOOL + tool_tokens(tool)).sum();
    PER_PROMPT + messages + tools
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(String),
    Parts(#[serde(borrow)] Vec<Part<'a>>),
}

#[derive(Deserialize)]
struct Part<'a> {
    text: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    name: Option<String>,
    description: Option<String>,
    arguments: Option<String>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

fn message_tokens(message: &RawValue) -> u64 {
    let Ok(message) = serde_json::from_str::<Message<'_>>(message.get()) else {
        return tokens(message.get());
    };
    let content = match message.content {
        None => 0,
        Some(Content::Text(text)) => tokens(&text),
        Some(Content::Parts(parts)) => parts.iter().filter_map(|part| part.text.as_deref()).map(tokens).sum(),
    };
    let calls = message
        .tool_calls
        .into_iter()
        .flatten()
        .filter_map(|call| call.function);
    content + calls.map(|function| function_tokens(&function)).sum::<u64>()
}

fn tool_tokens(tool: &RawValue) -> u64 {
    match serde_json::from_str::<Call<'_>>(tool.get()) {
        Ok(Call {
            function: Some(function),
        }) => function_tokens(&function),
        _ => tokens(tool.get()),
    }
}

fn function_tokens(function: &Function<'_>) -> u64 {
    let texts = [&function.name, &function.description, &function.arguments];
    let texts = texts.into_iter().flatten().map(|text| tokens(text)).sum::<u64>();
    texts + function.parameters.map_or(0, |parameters| tokens(parameters.get()))
}

fn tokens(text: &str) -> u64 {
    let mut rest = text;
    let mut sum = 0;
    while !rest.is_empty() {
        let (slice, tail) = rest.split_at(rest.floor_char_boundary(SLICE));
        sum += o200k_base_singleton().encode_ordinary(slice).len() as u64;
        rest = tail;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_are_counted_in_pieces_and_let_go() {
        let body = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
        let mut transcript = Transcript::new(Arc::new(body));
        for _ in 0..20_000 {
            transcript.add(" word");
        }
        assert!(transcript.answer.capacity() <= 4 * KEPT);
        let counted = transcript.count().completion_tokens;
        assert!((19_900..=20_200).contains(&counted), "{counted}");
    }

    #[test]
    fn prompts_are_counted_in_every_form_of_content() {
        let count = |messages: &str| {
            let text = format!(r#"{{"model":"m","messages":{messages}}}"#);
            prompt_tokens(&ChatBody::parse(text.as_bytes()).unwrap())
        };
        let plain = count(r#"[{"role":"user","content":"three plain words"}]"#);
        assert_eq!(plain, PER_PROMPT + PER_MESSAGE + 3);
        let parts = r#"[{"role":"user","content":[{"type":"text","text":"three plain words"},{"type":"image_url"}]}]"#;
        assert_eq!(count(parts), plain);
        let calls = r#"[{"role":"assistant","tool_calls":[{"function":{"name":"three","arguments":" plain words"}}]}]"#;
        assert_eq!(count(calls), plain);
    }

    #[test]
    fn a_text_without_spaces_is_counted_in_time() {
        assert!(tokens(&"é".repeat(50_000)) > 1_000);
    }
}

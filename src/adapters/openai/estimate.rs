//! Counts tokens by ourselves when a provider does not say how many it used.

use std::sync::Arc;

use copilotd_actors::domain::prompt::PromptMessage;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ToolOffer;
use tiktoken_rs::o200k_base_singleton;

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
    messages: Arc<Vec<PromptMessage>>,
    tools: Arc<Vec<ToolOffer>>,
    answer: String,
    counted: u64,
}

impl Transcript {
    /// Begins with a prompt. Nothing is copied.
    pub fn new(messages: Arc<Vec<PromptMessage>>, tools: Arc<Vec<ToolOffer>>) -> Self {
        Self {
            messages,
            tools,
            answer: String::new(),
            counted: 0,
        }
    }

    /// Adds a piece of the answer.
    pub fn add(&mut self, piece: &str) {
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
        let messages: u64 = self
            .messages
            .iter()
            .map(|message| PER_MESSAGE + parts(message, tokens))
            .sum();
        let tools: u64 = self
            .tools
            .iter()
            .map(|tool| {
                PER_TOOL + tokens(&tool.name) + tokens(&tool.description) + tokens(&tool.parameters.to_string())
            })
            .sum();
        Usage {
            prompt_tokens: PER_PROMPT + messages + tools,
            completion_tokens: self.counted + tokens(&self.answer),
            ..Usage::default()
        }
    }

    fn bytes(&self) -> (u64, u64) {
        let length = |text: &str| text.len() as u64;
        let prompt = self.messages.iter().map(|message| parts(message, length)).sum();
        (prompt, self.counted * 4 + length(&self.answer))
    }
}

fn parts(message: &PromptMessage, measure: impl Fn(&str) -> u64) -> u64 {
    match message {
        PromptMessage::System { text } | PromptMessage::User { text } => measure(text),
        PromptMessage::Assistant { text, calls } => {
            let calls: u64 = calls
                .iter()
                .map(|call| measure(&call.name) + measure(&call.arguments.to_string()))
                .sum();
            measure(text) + calls
        }
        PromptMessage::Tool { content, .. } => measure(content),
    }
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
        let mut transcript = Transcript::new(Arc::new(Vec::new()), Arc::new(Vec::new()));
        for _ in 0..20_000 {
            transcript.add(" word");
        }
        assert!(transcript.answer.capacity() <= 4 * KEPT);
        let counted = transcript.count().completion_tokens;
        assert!((19_900..=20_200).contains(&counted), "{counted}");
    }

    #[test]
    fn a_text_without_spaces_is_counted_in_time() {
        assert!(tokens(&"é".repeat(50_000)) > 1_000);
    }
}

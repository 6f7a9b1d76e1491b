//! Writes answers in OpenAI's format.

use bytes::Bytes;
use copilotd_actors::domain::usage::Usage;
use serde_json::{Value, json};

/// Which model answers: part of every chunk.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) model: String,
    /// Seconds since 1970.
    pub(super) created: i64,
    /// If usage is wanted, every chunk has the member; otherwise none.
    pub(super) include_usage: bool,
}

impl Identity {
    /// Writes a chunk of the only choice.
    pub(super) fn delta(&self, delta: &Value, finish: Option<&str>) -> Bytes {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        self.chunk(json!([choice]), &Value::Null)
    }

    /// Writes the chunk that reports usage.
    pub(super) fn report(&self, usage: &Usage) -> Bytes {
        self.chunk(json!([]), &report(usage))
    }

    fn chunk(&self, choices: Value, usage: &Value) -> Bytes {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = usage.clone();
        }
        chunk.to_string().into()
    }
}

/// Writes a usage report.
pub(super) fn report(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens(),
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    })
}

//! Approximate token counts, and how much of a prompt the provider's cache would know.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Value, json};

/// Characters per token.
const CHARS_PER_TOKEN: u64 = 4;
/// Block size of the cache in tokens.
const BLOCK_TOKENS: u64 = 16;
/// Blocks remembered; the oldest are forgotten first.
const MAX_BLOCKS: usize = 200_000;

/// Counts a text's tokens: one per four characters, rounded up.
pub(crate) fn tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(CHARS_PER_TOKEN)
}

/// Usage of one completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    pub(crate) completion: u64,
}

impl Usage {
    pub(crate) fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        })
    }
}

/// Prefixes of earlier prompts, as running hashes over the blocks.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl PrefixCache {
    /// Returns how many of the prompt's tokens are a known prefix, and remembers this prompt.
    pub(crate) fn read_and_remember(&mut self, model: &str, prompt: &str) -> u64 {
        let block_chars = usize::try_from(BLOCK_TOKENS * CHARS_PER_TOKEN).unwrap_or(usize::MAX);
        let mut hasher = DefaultHasher::new();
        model.hash(&mut hasher);
        let mut cached = 0;
        let mut still_known = true;
        let mut in_block = 0;
        for character in prompt.chars() {
            character.hash(&mut hasher);
            in_block += 1;
            if in_block < block_chars {
                continue;
            }
            in_block = 0;
            let prefix = hasher.finish();
            let new = self.known.insert(prefix);
            still_known &= !new;
            if still_known {
                cached += BLOCK_TOKENS;
            }
            if new {
                self.order.push_back(prefix);
            }
        }
        while self.order.len() > MAX_BLOCKS {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_prefix_is_cached_per_model() {
        let mut cache = PrefixCache::default();
        let first = "a".repeat(640);
        let longer = format!("{first}{}", "b".repeat(640));
        let other = format!("c{first}");
        assert_eq!(cache.read_and_remember("m", &first), 0);
        assert_eq!(cache.read_and_remember("m", &longer), 160);
        assert_eq!(cache.read_and_remember("m", &longer), 320);
        assert_eq!(cache.read_and_remember("other", &longer), 0);
        assert_eq!(cache.read_and_remember("m", &other), 0);
        assert_eq!(tokens("12345"), 2);
    }
}

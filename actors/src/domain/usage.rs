//! What model calls used and what that cost.

use serde::{Deserialize, Serialize};

/// Billionths of a US dollar. Integers add up exactly; floats are made only at the edge.
pub type NanoUsd = u64;

/// Tokens and money of one model call, or of several added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompts, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of the answers, reasoning included.
    pub completion_tokens: u64,
    /// Prompt tokens that the provider read from its cache.
    pub cached_tokens: u64,
    /// What it cost.
    #[serde(default)]
    pub cost: NanoUsd,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.cost = self.cost.saturating_add(other.cost);
    }
}

impl Usage {
    /// Returns all tokens, of prompts and answers.
    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// Usage of a whole turn, over all steps and attempts, or of a whole conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotalUsage {
    /// The sum.
    #[serde(flatten)]
    pub sum: Usage,
    /// Models that took part, in order of first use; at most [`TotalUsage::MODELS`].
    pub models: Vec<String>,
}

impl TotalUsage {
    /// Most models that are named.
    pub const MODELS: usize = 8;

    /// Adds the usage of one call to `model`.
    pub fn add(&mut self, model: &str, usage: Usage) {
        self.sum += usage;
        if self.models.len() < Self::MODELS && !self.models.iter().any(|known| known == model) {
            self.models.push(model.to_owned());
        }
    }

    /// Adds another total.
    pub fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        for model in &other.models {
            self.add(model, Usage::default());
        }
    }
}

/// Price of a model in nano-dollars per million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Fresh prompt tokens.
    pub input: NanoUsd,
    /// Prompt tokens read from the provider's cache.
    pub cached_input: NanoUsd,
    /// Tokens of the answer.
    pub output: NanoUsd,
}

impl Price {
    /// Returns what `usage` costs, rounded up to a whole nano-dollar.
    pub fn cost(&self, usage: &Usage) -> NanoUsd {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        let sum = u128::from(fresh) * u128::from(self.input)
            + u128::from(cached) * u128::from(self.cached_input)
            + u128::from(usage.completion_tokens) * u128::from(self.output);
        NanoUsd::try_from(sum.div_ceil(1_000_000)).unwrap_or(NanoUsd::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_are_part_of_the_prompt_and_cost_their_own_price() {
        // 2.50, 1.25 and 10 dollars a million.
        let price = Price {
            input: 2_500_000_000,
            cached_input: 1_250_000_000,
            output: 10_000_000_000,
        };
        let usage = Usage {
            prompt_tokens: 1_000,
            cached_tokens: 400,
            completion_tokens: 100,
            cost: 0,
        };
        assert_eq!(price.cost(&usage), 600 * 2_500 + 400 * 1_250 + 100 * 10_000);
        assert_eq!(
            price.cost(&Usage {
                cached_tokens: 9_999,
                ..usage
            }),
            1_000 * 1_250 + 100 * 10_000
        );
    }
}

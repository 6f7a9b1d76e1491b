//! The usage of model calls and its cost.

use serde::{Deserialize, Serialize};

/// Billionths of a US dollar. Integers add up exactly; converted to floats only at the edge.
pub type NanoUsd = u64;

/// Formats an amount in dollars, exactly.
pub fn dollars(amount: NanoUsd) -> String {
    format!("{}.{:09}", amount / 1_000_000_000, amount % 1_000_000_000)
}

/// Tokens and cost of one model call, or the sum of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompts, including those read from and written to the provider's cache.
    pub prompt_tokens: u64,
    /// Tokens of the answers, including reasoning.
    pub completion_tokens: u64,
    /// Prompt tokens that the provider read from its cache.
    pub cached_tokens: u64,
    /// Prompt tokens that the provider wrote to its cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// Reasoning tokens of the answers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u64,
    /// The cost.
    #[serde(default)]
    pub cost: NanoUsd,
    /// Whether any of it is our own estimate, because the provider did not report it. Nothing is learned from an
    /// estimate.
    #[serde(default, skip_serializing_if = "is_false")]
    pub estimated: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.cache_write_tokens = self.cache_write_tokens.saturating_add(other.cache_write_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
        self.cost = self.cost.saturating_add(other.cost);
        self.estimated = self.estimated || other.estimated;
    }
}

impl Usage {
    /// Returns whether nothing was used.
    pub fn is_nothing(&self) -> bool {
        self.total_tokens() == 0 && self.cost == 0
    }

    /// Returns the tokens of prompts and answers together.
    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// The usage of one lost model call: its process, or the actor that read it, died before it was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostUsage {
    /// The model that was called.
    pub model: String,
    /// The estimated usage.
    pub usage: Usage,
}

/// Usage of a whole turn, over all steps and attempts, or of a whole conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotalUsage {
    /// The sum.
    #[serde(flatten)]
    pub sum: Usage,
    /// Models that were used, in order of first use; at most [`TotalUsage::MODELS`].
    pub models: Vec<String>,
}

impl TotalUsage {
    /// Maximum number of models that are listed.
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
    /// Uncached prompt tokens.
    pub input: NanoUsd,
    /// Prompt tokens read from the provider's cache.
    pub cached_input: NanoUsd,
    /// Prompt tokens written to the provider's cache.
    pub cache_write: NanoUsd,
    /// Tokens of the answer.
    pub output: NanoUsd,
    /// Reasoning tokens of the answer.
    pub reasoning: NanoUsd,
}

impl Price {
    /// Returns the price of a model that charges one rate for all prompt tokens and one for all answer tokens.
    pub const fn flat(input: NanoUsd, output: NanoUsd) -> Self {
        Self {
            input,
            cached_input: input,
            cache_write: input,
            output,
            reasoning: output,
        }
    }

    /// Returns the higher price of each class of tokens.
    #[must_use]
    pub fn dearer(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached_input: self.cached_input.max(other.cached_input),
            cache_write: self.cache_write.max(other.cache_write),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }

    /// Returns the cost of `usage`, rounded up to a whole nano-dollar. A token belongs to one class: parts that
    /// together exceed their whole are cut down to it.
    pub fn cost(&self, usage: &Usage) -> NanoUsd {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let written = usage.cache_write_tokens.min(usage.prompt_tokens - cached);
        let fresh = usage.prompt_tokens - cached - written;
        let reasoned = usage.reasoning_tokens.min(usage.completion_tokens);
        let said = usage.completion_tokens - reasoned;
        let sum: u128 = [
            (fresh, self.input),
            (cached, self.cached_input),
            (written, self.cache_write),
            (said, self.output),
            (reasoned, self.reasoning),
        ]
        .into_iter()
        .map(|(tokens, price)| u128::from(tokens) * u128::from(price))
        .sum();
        NanoUsd::try_from(sum.div_ceil(1_000_000)).unwrap_or(NanoUsd::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One cent.
    const CENT: NanoUsd = 10_000_000;

    /// Builds a usage from prompt, cached, cache-write, completion and reasoning tokens.
    fn usage(tokens: [u64; 5]) -> Usage {
        let [
            prompt_tokens,
            cached_tokens,
            cache_write_tokens,
            completion_tokens,
            reasoning_tokens,
        ] = tokens;
        Usage {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_write_tokens,
            reasoning_tokens,
            ..Usage::default()
        }
    }

    #[test]
    fn money_is_written_exactly() {
        for (amount, text) in [(0, "0.000000000"), (1, "0.000000001"), (12_345_678_901, "12.345678901")] {
            assert_eq!(dollars(amount), text);
        }
    }

    #[test]
    fn each_class_of_tokens_is_billed_at_its_own_price() {
        // Dollars per million, as price lists give them: 2.50 and 10, cached 1.25.
        let halved = Price {
            cached_input: 125 * CENT,
            ..Price::flat(250 * CENT, 1_000 * CENT)
        };
        // 3 and 15, cache read a tenth, cache write a quarter more.
        let written = Price {
            cached_input: 30 * CENT,
            cache_write: 375 * CENT,
            ..Price::flat(300 * CENT, 1_500 * CENT)
        };
        // Reasoning at half the price of the answer.
        let thinking = Price {
            reasoning: 200 * CENT,
            ..Price::flat(100 * CENT, 400 * CENT)
        };
        let cases = [
            (
                "a million of each",
                halved,
                [1_000_000, 0, 0, 1_000_000, 0],
                1_250 * CENT,
            ),
            (
                "reasoning is output",
                halved,
                [0, 0, 0, 1_000_000, 900_000],
                1_000 * CENT,
            ),
            ("part cached", halved, [1_000, 400, 0, 100, 0], 3_000_000),
            ("first call", written, [100_000, 0, 90_000, 1_000, 0], 382_500_000),
            ("second call", written, [100_000, 90_000, 0, 1_000, 0], 72_000_000),
            ("read and written", written, [10_000, 6_000, 3_000, 0, 0], 16_050_000),
            (
                "thought",
                thinking,
                [1_000, 0, 0, 1_000, 750],
                1_000_000 + 1_000_000 + 1_500_000,
            ),
            ("a fraction is rounded up", Price::flat(1, 1), [1, 0, 0, 0, 0], 1),
            ("more cached than sent", halved, [1_000, 9_999, 9_999, 0, 0], 1_250_000),
            ("more thought than written", thinking, [0, 0, 0, 10, 99], 20_000),
            ("nothing", halved, [0; 5], 0),
        ];
        for (name, price, tokens, cost) in cases {
            assert_eq!(price.cost(&usage(tokens)), cost, "{name}");
        }
        assert_eq!(
            Price::flat(NanoUsd::MAX, 0).cost(&usage([u64::MAX, 0, 0, 0, 0])),
            NanoUsd::MAX
        );
    }

    #[test]
    fn records_from_before_the_new_classes_decode_and_new_ones_stay_short() {
        let old = r#"{"prompt_tokens":3,"completion_tokens":2,"cached_tokens":1,"cost":7}"#;
        let read: Usage = serde_json::from_str(old).unwrap();
        assert_eq!(
            read,
            Usage {
                cost: 7,
                ..usage([3, 1, 0, 2, 0])
            }
        );
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
        let full = usage([3, 1, 1, 2, 1]);
        let text = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Usage>(&text).unwrap(), full);
        let total: TotalUsage = serde_json::from_str(&format!(r#"{},"models":[]}}"#, &old[..old.len() - 1])).unwrap();
        assert_eq!(total.sum, read);
    }

    #[test]
    fn sums_add_up_class_by_class() {
        let mut sum = usage([3, 1, 1, 2, 1]);
        sum += usage([30, 10, 10, 20, 10]);
        assert_eq!(sum, usage([33, 11, 11, 22, 11]));
    }

    #[test]
    fn a_sum_is_an_estimate_if_any_part_of_it_is_and_says_so_only_then() {
        let counted = Usage {
            estimated: true,
            ..usage([3, 0, 0, 2, 0])
        };
        for (parts, estimated) in [
            (vec![], false),
            (vec![usage([1; 5])], false),
            (vec![usage([1; 5]), counted], true),
            (vec![counted, usage([1; 5])], true),
        ] {
            let mut total = TotalUsage::default();
            parts.into_iter().for_each(|part| total.add("m", part));
            assert_eq!(total.sum.estimated, estimated);
            let text = serde_json::to_string(&total).unwrap();
            assert_eq!(text.contains("estimated"), estimated, "{text}");
            assert_eq!(serde_json::from_str::<TotalUsage>(&text).unwrap(), total);
            let mut merged = TotalUsage::default();
            merged.merge(&total);
            assert_eq!(merged.sum.estimated, estimated);
        }
    }
}

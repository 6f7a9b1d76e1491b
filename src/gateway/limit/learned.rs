//! What a model's answers are like, by tenant: how long they are, and how many tokens a byte of prompt makes. Learned from what
//! was really used, so that a reservation neither strangles a tenant nor lets it run away.

use std::sync::{Arc, Mutex, PoisonError};

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::Usage;
use moka::sync::Cache;

/// Pairs of tenant and model that are remembered.
const MAX_PAIRS: u64 = 10_000;
/// Answers before what was learned is believed.
const MIN_ANSWERS: f64 = 20.0;
/// Expected of an answer as long as nothing is known of its like.
const DEFAULT_OUTPUT: u64 = 1_024;
/// Share of answers that are no longer than what is reserved for them.
const QUANTILE: f64 = 0.95;
/// What an older answer counts for when another one comes: the last hundred or so make the picture.
const DECAY: f64 = 0.99;
/// Steps of the length's logarithm: four to each doubling.
const STEPS: usize = 96;
/// Prompt tokens per thousand bytes, as long as nothing is known: text of any language has fewer.
const DEFAULT_DENSITY: u64 = 500;

/// All that was learned. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Learned(Cache<(TenantId, String), Arc<Mutex<Model>>>);

#[derive(Debug, Clone)]
struct Model {
    /// Weight of the answers by length.
    lengths: [f64; STEPS],
    answers: f64,
    /// Highest density seen, sinking slowly.
    density: f64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            lengths: [0.0; STEPS],
            answers: 0.0,
            density: 0.0,
        }
    }
}

impl Default for Learned {
    fn default() -> Self {
        Self(Cache::new(MAX_PAIRS))
    }
}

/// What a call is expected to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Tokens of the prompt, at most.
    pub prompt: u64,
    /// Tokens of the answer.
    pub output: u64,
}

impl Learned {
    /// Expects what a prompt of `bytes` and an answer of at most `max_output` tokens will use.
    pub fn expect(&self, tenant: &TenantId, model: &str, bytes: u64, max_output: Option<u64>) -> Expected {
        let known = self.0.get(&(tenant.clone(), model.to_owned()));
        let (density, output) = known.map_or((DEFAULT_DENSITY, DEFAULT_OUTPUT), |known| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            (known.density(), known.quantile().unwrap_or(DEFAULT_OUTPUT))
        });
        Expected {
            prompt: bytes.saturating_mul(density).div_ceil(1_000),
            output: max_output.map_or(output, |max| output.min(max)),
        }
    }

    /// Learns from an answer that came to its end.
    pub fn learn(&self, tenant: &TenantId, model: &str, bytes: u64, usage: &Usage) {
        let known = self.0.get_with((tenant.clone(), model.to_owned()), Arc::default);
        known.lock().unwrap_or_else(PoisonError::into_inner).learn(bytes, usage);
    }
}

impl Model {
    #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    fn learn(&mut self, bytes: u64, usage: &Usage) {
        for length in &mut self.lengths {
            *length *= DECAY;
        }
        self.answers = self.answers * DECAY + 1.0;
        self.lengths[step(usage.completion_tokens)] += 1.0;
        if bytes > 0 {
            let density = usage.prompt_tokens as f64 * 1_000.0 / bytes as f64;
            self.density = density.max(self.density * DECAY);
        }
    }

    /// A margin of a tenth lies on top: a bound that is passed once in a while is settled as debt.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "densities are small and positive"
    )]
    fn density(&self) -> u64 {
        if self.answers < MIN_ANSWERS {
            return DEFAULT_DENSITY.max(self.density as u64);
        }
        (self.density * 1.1) as u64 + 1
    }

    fn quantile(&self) -> Option<u64> {
        if self.answers < MIN_ANSWERS {
            return None;
        }
        let all: f64 = self.lengths.iter().sum();
        let mut below = 0.0;
        let found = self.lengths.iter().position(|weight| {
            below += weight;
            below >= all * QUANTILE
        });
        found.map(upper)
    }
}

/// The step of a length: four to each doubling.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "logarithms of token counts are small and positive"
)]
fn step(tokens: u64) -> usize {
    let log = ((tokens.max(1)) as f64).log2() * 4.0;
    (log.ceil() as usize).min(STEPS - 1)
}

/// The longest answer of a step.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as above"
)]
fn upper(step: usize) -> u64 {
    2_f64.powf(step as f64 / 4.0).floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u64, completion: u64) -> Usage {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            ..Usage::default()
        }
    }

    #[test]
    fn what_is_expected_comes_near_what_is_used() {
        let (learned, tenant) = (Learned::default(), "acme".parse::<TenantId>().unwrap());
        let expect = |max| learned.expect(&tenant, "m", 4_000, max);
        assert_eq!(
            expect(None),
            Expected {
                prompt: 2_000,
                output: DEFAULT_OUTPUT
            }
        );
        assert_eq!(expect(Some(100)).output, 100);
        for n in 0..200 {
            learned.learn(&tenant, "m", 4_000, &usage(1_000, 80 + n % 40));
        }
        let known = expect(None);
        assert!((1_000..=1_110).contains(&known.prompt), "{known:?}");
        assert!((115..=150).contains(&known.output), "{known:?}");
        // Another tenant's answers teach nothing.
        let other = "globex".parse::<TenantId>().unwrap();
        assert_eq!(learned.expect(&other, "m", 4_000, None).output, DEFAULT_OUTPUT);
        // A change is followed.
        for _ in 0..300 {
            learned.learn(&tenant, "m", 4_000, &usage(1_000, 2_000));
        }
        assert!(expect(None).output >= 2_000);
    }

    #[test]
    fn steps_hold_their_lengths() {
        for tokens in [1, 2, 3, 7, 100, 1_024, 99_999, u64::MAX] {
            let found = step(tokens);
            assert!(found == STEPS - 1 || upper(found) >= tokens, "{tokens}");
        }
    }
}

//! Statistics of a model's answers, by tenant: answer lengths, and prompt tokens per byte. They are learned from
//! actual usage, so that a reservation neither throttles a tenant needlessly nor lets it overspend, and so that a call
//! whose process died is recorded close to its actual usage.
//!
//! The ledger stores changes beside its records, and the next process starts with them. Estimates are never learned
//! from.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::Usage;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Most pairs of tenant and model that are remembered.
pub const MAX_PAIRS: u64 = 10_000;
/// Answers needed before the statistics are used.
const MIN_ANSWERS: f64 = 20.0;
/// Answer tokens that are expected while nothing is known.
const DEFAULT_OUTPUT: u64 = 1_024;
/// Share of answers that are no longer than what is reserved for them.
const QUANTILE: f64 = 0.95;
/// Decay of older answers with each new one: about the last hundred count.
const DECAY: f64 = 0.99;
/// Steps of the logarithmic length histogram: four per doubling.
const STEPS: usize = 96;
/// Prompt tokens per thousand bytes while nothing is known: text of any language has fewer.
const DEFAULT_DENSITY: u64 = 500;

/// Tokens that are expected of an answer that is invisible before its end, while nothing is known: for accounting, not
/// for reservations.
const DEFAULT_TYPICAL: u64 = 256;
/// Approximate bytes per token while nothing is known.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Tokens that a model writes per second while nothing is known.
const DEFAULT_SPEED: f64 = 40.0;
/// Shortest time from which an answer's speed is computed.
const SHORTEST: Duration = Duration::from_millis(50);

/// Most growth expected of an answer until its next update: the first piece says little about speed.
const MOST_GROWTH: f64 = 16.0;

type Pair = (TenantId, String);

/// All statistics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AnswerStatistics {
    models: Cache<Pair, Arc<Mutex<Model>>>,
    /// Pairs that changed since they were stored.
    changed: Arc<Mutex<HashSet<Pair>>>,
}

/// Statistics of one tenant's answers from one model. Sums cover about the last hundred answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Model {
    /// Weight of the answers per length step; missing steps at the end are zero.
    lengths: Vec<f64>,
    answers: f64,
    /// Highest density seen, decaying slowly.
    density: f64,
    prompt_tokens: f64,
    prompt_bytes: f64,
    cached_tokens: f64,
    completion_tokens: f64,
    /// Tokens and bytes of the answers whose bytes were seen.
    written_tokens: f64,
    written_bytes: f64,
    took_ms: f64,
}

/// Statistics of one pair, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredStatistics {
    /// The tenant.
    pub tenant: TenantId,
    /// The model, as the configuration names it.
    pub model: String,
    /// The statistics as JSON.
    pub known: String,
}

/// A completed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletedAnswer<'a> {
    /// Bytes of the request.
    pub prompt_bytes: u64,
    /// Bytes of the answer, where they were seen.
    pub written: u64,
    /// Usage as the provider reported it.
    pub usage: &'a Usage,
    /// Time from the request to the end.
    pub took: Duration,
}

/// Progress of a call in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InFlightCall {
    /// Bytes of the request.
    pub prompt_bytes: u64,
    /// Bytes of the answer so far.
    pub written: u64,
    /// Usage that the provider reported so far.
    pub reported: Option<Usage>,
    /// Time from the request to the first content, if it has arrived.
    pub first_content: Option<Duration>,
    /// Time since the request.
    pub elapsed: Duration,
    /// Time until the next update; the call is assumed to die in the middle of it.
    pub until_next: Duration,
    /// Most tokens of one answer, if the request limits it.
    pub max_output: Option<u64>,
    /// Number of answers (`n`).
    pub answers: u64,
    /// Whether it progresses invisibly: a document, or a model that reasons before it answers.
    pub is_unseen: bool,
}

impl Default for AnswerStatistics {
    fn default() -> Self {
        Self {
            models: Cache::new(MAX_PAIRS),
            changed: Arc::default(),
        }
    }
}

/// What a call is expected to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedUsage {
    /// Upper bound of the prompt's tokens.
    pub prompt: u64,
    /// Tokens of the answer.
    pub output: u64,
}

impl AnswerStatistics {
    /// Returns the expected usage of a prompt of `bytes` and an answer of at most `max_output` tokens.
    pub fn expect(&self, tenant: &TenantId, model: &str, bytes: u64, max_output: Option<u64>) -> ExpectedUsage {
        let known = self.known(tenant, model);
        let (density, output) = known.map_or((DEFAULT_DENSITY, DEFAULT_OUTPUT), |known| {
            (known.density(), known.quantile().unwrap_or(DEFAULT_OUTPUT))
        });
        ExpectedUsage {
            prompt: bytes.saturating_mul(density).div_ceil(1_000),
            output: max_output.map_or(output, |max| output.min(max)),
        }
    }

    /// Estimates the usage of a call that dies before its next update.
    pub fn estimate(&self, tenant: &TenantId, model: &str, call: &InFlightCall) -> Usage {
        self.known(tenant, model).unwrap_or_default().estimate(call)
    }

    /// Estimates the answer tokens of a call that died before it was first observed.
    pub fn begun_for(&self, tenant: &TenantId, model: &str, time: Duration) -> u64 {
        self.known(tenant, model).unwrap_or_default().begun_for(time)
    }

    /// Learns from a completed answer.
    pub fn learn(&self, tenant: &TenantId, model: &str, ended: CompletedAnswer<'_>) {
        let pair = (tenant.clone(), model.to_owned());
        let known = self.models.get_with(pair.clone(), Arc::default);
        known.lock().learn(ended);
        let mut changed = self.changed.lock();
        if (changed.len() as u64) < MAX_PAIRS {
            changed.insert(pair);
        }
    }

    /// Takes the statistics that changed since the last call.
    pub fn take_changed(&self) -> Vec<StoredStatistics> {
        let changed = std::mem::take(&mut *self.changed.lock());
        let row = |(tenant, model): Pair| {
            let known = self.known(&tenant, &model)?;
            let known = serde_json::to_string(&known).ok()?;
            Some(StoredStatistics { tenant, model, known })
        };
        changed.into_iter().filter_map(row).collect()
    }

    /// Puts back statistics that could not be stored.
    pub fn put_back(&self, rows: Vec<StoredStatistics>) {
        let pairs = rows.into_iter().map(|row| (row.tenant, row.model));
        self.changed.lock().extend(pairs);
    }

    /// Restores what earlier processes learned. What cannot be parsed is learned from scratch.
    pub fn restore(&self, rows: impl IntoIterator<Item = StoredStatistics>) {
        for StoredStatistics { tenant, model, known } in rows {
            if let Ok(mut known) = serde_json::from_str::<Model>(&known) {
                known.lengths.truncate(STEPS);
                self.models.insert((tenant, model), Arc::new(Mutex::new(known)));
            }
        }
    }

    /// Deletes a tenant's statistics.
    pub fn forget(&self, tenant: &TenantId) {
        self.changed.lock().retain(|(of, _)| of != tenant);
        let pairs: Vec<_> = self.models.iter().map(|(pair, _)| pair).collect();
        for pair in pairs.iter().filter(|pair| pair.0 == *tenant) {
            self.models.invalidate(pair.as_ref());
        }
    }

    fn known(&self, tenant: &TenantId, model: &str) -> Option<Model> {
        let known = self.models.get(&(tenant.clone(), model.to_owned()))?;
        let known = known.lock().clone();
        Some(known)
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "token counts are far below 2^52, and nothing here is negative"
)]
impl Model {
    fn learn(&mut self, ended: CompletedAnswer<'_>) {
        let CompletedAnswer {
            prompt_bytes,
            written,
            usage,
            took,
        } = ended;
        let step = step(usage.completion_tokens);
        if self.lengths.len() <= step {
            self.lengths.resize(step + 1, 0.0);
        }
        for length in &mut self.lengths {
            *length *= DECAY;
        }
        self.lengths[step] += 1.0;
        let add = |sum: &mut f64, value: f64| *sum = *sum * DECAY + value;
        add(&mut self.answers, 1.0);
        add(&mut self.completion_tokens, usage.completion_tokens as f64);
        add(&mut self.took_ms, took.as_millis() as f64);
        if prompt_bytes > 0 {
            let density = usage.prompt_tokens as f64 * 1_000.0 / prompt_bytes as f64;
            self.density = density.max(self.density * DECAY);
            add(&mut self.prompt_tokens, usage.prompt_tokens as f64);
            add(&mut self.prompt_bytes, prompt_bytes as f64);
            add(&mut self.cached_tokens, usage.cached_tokens as f64);
        }
        if written > 0 {
            add(&mut self.written_tokens, usage.completion_tokens as f64);
            add(&mut self.written_bytes, written as f64);
        }
    }

    /// With a margin of a tenth on top: an occasional excess is settled as debt.
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

    /// Mean answer length in tokens.
    fn typical(&self) -> f64 {
        ratio(self.completion_tokens, self.answers).unwrap_or(DEFAULT_TYPICAL as f64)
    }

    /// The share of a typical answer that is written in `time`.
    fn begun_for(&self, time: Duration) -> u64 {
        let Some(mean) = ratio(self.took_ms, self.answers).filter(|mean| *mean > 0.0) else {
            return (time.as_secs_f64() * DEFAULT_SPEED).ceil() as u64;
        };
        let part = (time.as_millis() as f64 / mean).min(1.0);
        (self.typical() * part).ceil() as u64
    }

    fn estimate(&self, call: &InFlightCall) -> Usage {
        let reported = call.reported.unwrap_or_default();
        let per_prompt_byte = ratio(self.prompt_tokens, self.prompt_bytes).unwrap_or(1.0 / BYTES_PER_TOKEN);
        let (prompt_tokens, cached_tokens) = if reported.prompt_tokens > 0 {
            (reported.prompt_tokens, reported.cached_tokens)
        } else {
            let tokens = (call.prompt_bytes as f64 * per_prompt_byte).ceil();
            let cached = ratio(self.cached_tokens, self.prompt_tokens).unwrap_or(0.0).min(1.0);
            (tokens as u64, (tokens * cached) as u64)
        };
        let most = call
            .max_output
            .map_or(u64::MAX, |most| most.saturating_mul(call.answers.max(1)));
        Usage {
            prompt_tokens,
            cached_tokens,
            completion_tokens: self.output(call).min(most).max(reported.completion_tokens),
            ..reported
        }
    }

    /// Tokens written so far, plus what half of the time until the next update adds at the same speed.
    fn output(&self, call: &InFlightCall) -> u64 {
        if call.written == 0 {
            let unseen = self.typical() * call.answers.max(1) as f64;
            return if call.is_unseen { unseen.ceil() as u64 } else { 0 };
        }
        let per_byte = ratio(self.written_tokens, self.written_bytes).unwrap_or(1.0 / BYTES_PER_TOKEN);
        let so_far = call.written as f64 * per_byte;
        let writing = call
            .elapsed
            .saturating_sub(call.first_content.unwrap_or_default())
            .max(SHORTEST);
        let more = so_far * call.until_next.as_secs_f64() / 2.0 / writing.as_secs_f64();
        (so_far + more.min(so_far * MOST_GROWTH)).ceil() as u64
    }
}

fn ratio(part: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| part / of)
}

/// Histogram step of a length: four per doubling.
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

    /// An answer to 4,000 bytes that took two seconds, at two bytes per token.
    fn ended(usage: &Usage) -> CompletedAnswer<'_> {
        CompletedAnswer {
            prompt_bytes: 4_000,
            written: usage.completion_tokens * 2,
            usage,
            took: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_call_that_dies_is_estimated_by_how_far_it_had_come() {
        let (learned, acme) = (AnswerStatistics::default(), "acme".parse::<TenantId>().unwrap());
        let second = Duration::from_secs(1);
        let call = InFlightCall {
            prompt_bytes: 4_000,
            written: 400,
            first_content: Some(second),
            elapsed: 3 * second,
            until_next: 2 * second,
            answers: 1,
            ..InFlightCall::default()
        };
        let tokens = |call: InFlightCall| {
            let usage = learned.estimate(&acme, "m", &call);
            (usage.prompt_tokens, usage.completion_tokens)
        };
        let document = InFlightCall {
            written: 0,
            is_unseen: true,
            ..call
        };
        let reported = Some(usage(777, 1));
        let cases = [
            ("half of what the next two seconds bring is added", call, (1_000, 150)),
            (
                "looked at all the time",
                InFlightCall {
                    until_next: Duration::ZERO,
                    ..call
                },
                (1_000, 100),
            ),
            (
                "never more than it may have",
                InFlightCall {
                    max_output: Some(120),
                    ..call
                },
                (1_000, 120),
            ),
            (
                "what its provider said of the prompt",
                InFlightCall { reported, ..call },
                (777, 150),
            ),
            (
                "nothing has come yet",
                InFlightCall {
                    written: 0,
                    first_content: None,
                    ..call
                },
                (1_000, 0),
            ),
            ("nothing is seen of a document", document, (1_000, DEFAULT_TYPICAL)),
            (
                "nor of an embedding",
                InFlightCall {
                    max_output: Some(0),
                    ..document
                },
                (1_000, 0),
            ),
            (
                "first piece",
                InFlightCall {
                    elapsed: second,
                    until_next: 9 * second,
                    written: 4,
                    ..call
                },
                (1_000, 17),
            ),
        ];
        for (name, call, expected) in cases {
            assert_eq!(tokens(call), expected, "{name}");
        }
        assert_eq!(learned.begun_for(&acme, "m", second), 40, "nothing is known");
        // A single answer teaches the length of an answer and the tokens per byte.
        learned.learn(&acme, "m", ended(&usage(2_000, 300)));
        assert_eq!(tokens(call), (2_000, 300));
        assert_eq!(tokens(document), (2_000, 300));
        assert_eq!(learned.begun_for(&acme, "m", second), 150);
        assert_eq!(learned.begun_for(&acme, "m", 9 * second), 300);
    }

    #[test]
    fn what_was_learned_survives_its_process() {
        let (learned, acme) = (AnswerStatistics::default(), "acme".parse::<TenantId>().unwrap());
        for n in 0..200 {
            learned.learn(&acme, "m", ended(&usage(1_000, 80 + n % 40)));
        }
        let rows = learned.take_changed();
        assert_eq!(rows.len(), 1);
        assert_eq!(learned.take_changed(), []);
        learned.put_back(rows.clone());
        assert_eq!(learned.take_changed(), rows);
        let damaged = StoredStatistics {
            known: "{".to_owned(),
            model: "other".to_owned(),
            ..rows[0].clone()
        };
        let next = AnswerStatistics::default();
        next.restore(rows.into_iter().chain([damaged]));
        let expect = |learned: &AnswerStatistics, model| learned.expect(&acme, model, 4_000, None);
        assert_eq!(expect(&next, "m"), expect(&learned, "m"));
        assert_eq!(expect(&next, "other").output, DEFAULT_OUTPUT);
        // Nothing has to be stored again until something changes.
        assert_eq!(next.take_changed(), []);
    }

    #[test]
    fn what_is_expected_comes_near_what_is_used() {
        let (learned, tenant) = (AnswerStatistics::default(), "acme".parse::<TenantId>().unwrap());
        let expect = |max| learned.expect(&tenant, "m", 4_000, max);
        assert_eq!(
            expect(None),
            ExpectedUsage {
                prompt: 2_000,
                output: DEFAULT_OUTPUT
            }
        );
        assert_eq!(expect(Some(100)).output, 100);
        for n in 0..200 {
            learned.learn(&tenant, "m", ended(&usage(1_000, 80 + n % 40)));
        }
        let known = expect(None);
        assert!((1_000..=1_110).contains(&known.prompt), "{known:?}");
        assert!((115..=150).contains(&known.output), "{known:?}");
        // Another tenant's answers teach nothing.
        let other = "globex".parse::<TenantId>().unwrap();
        assert_eq!(learned.expect(&other, "m", 4_000, None).output, DEFAULT_OUTPUT);
        // Changes are followed.
        for _ in 0..300 {
            learned.learn(&tenant, "m", ended(&usage(1_000, 2_000)));
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

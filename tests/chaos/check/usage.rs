//! Usage is what the provider counted.
//!
//! For each turn, this must hold between its usage and the calls that the provider saw for it:
//! - An undisturbed turn (one attempt, each call completed and answered by one message) has exactly the provider's
//!   tokens, cached ones too, and their cost.
//! - Any other turn has at least the tokens of the calls whose answers are in the log, and at most those of all calls.
//!   A call that did not complete, or that a death lost, may be an estimate: for its prompt at most [`PROMPT_FACTOR`]
//!   times the provider's count, for its answer at most the whole one or [`ESTIMATE`]. For each death, wait, reset and
//!   early end, as many calls as one step may try ([`TRIES`]) may be counted that the provider never saw: what was lost
//!   on the way there cannot be distinguished from what was processed.

use std::collections::HashMap;

use serde_json::Value;

use super::effects::mark_in;
use super::{Summary, Turn};
use crate::findings::Promise;
use crate::support::world::World;

/// Longest answer assumed for a call that died.
const ESTIMATE: u64 = 1_024;
/// Upper bound of our count of a prompt over the provider's, which counts four characters as a token.
const PROMPT_FACTOR: u64 = 3;
/// Calls that one step of a turn may make, including failures.
const TRIES: u64 = 8;
/// US dollars per million tokens, as configured.
const PRICES: [f64; 3] = [2.0, 1.0, 8.0];

/// A model call as the provider saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    step: u64,
    prompt: u64,
    cached: u64,
    /// Tokens of the complete answer.
    completion: u64,
    completed: bool,
}

/// Returns the provider's calls by the mark in their prompts.
pub async fn calls(world: &World) -> HashMap<String, Vec<Call>> {
    let mut calls: HashMap<String, Vec<Call>> = HashMap::new();
    let told = world.get(&world.openai, "calls").await;
    for call in told["calls"].as_array().into_iter().flatten() {
        if let Some(mark) = call["last_user"].as_str().and_then(mark_in) {
            let number = |name: &str| call[name].as_u64().unwrap_or_default();
            calls.entry(mark.to_owned()).or_default().push(Call {
                step: number("step"),
                prompt: number("prompt_tokens"),
                cached: number("cached_tokens"),
                completion: number("completion_tokens"),
                completed: call["outcome"] == "completed",
            });
        }
    }
    calls
}

pub fn check(
    mark: &str,
    turn: &Turn,
    calls: &HashMap<String, Vec<Call>>,
    summary: &mut Summary,
    broken: &mut impl FnMut(Promise, String),
) {
    let calls = calls.get(mark).map_or(&[][..], Vec::as_slice);
    let (usage, facts) = (Usage::of(&turn.view["usage"]), Facts::of(turn));
    summary.exact += usize::from(facts.is_undisturbed(calls));
    if let Err(what) = judge(&usage, &facts, calls) {
        broken(Promise::Usage, format!("{mark} {what}; {usage:?} {facts:?} {calls:?}"));
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Usage {
    prompt: u64,
    cached: u64,
    completion: u64,
    cost_usd: f64,
}

impl Usage {
    fn of(view: &Value) -> Self {
        let number = |name: &str| view[name].as_u64().unwrap_or_default();
        Self {
            prompt: number("prompt_tokens"),
            cached: number("cached_tokens"),
            completion: number("completion_tokens"),
            cost_usd: view["cost_usd"].as_f64().unwrap_or_default(),
        }
    }
}

/// What a turn's log says about its calls.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Facts {
    /// Messages that the model ended.
    answers: u64,
    attempts: u64,
    /// Discarded answers, waits, and turns that did not complete.
    troubles: u64,
}

impl Facts {
    fn of(turn: &Turn) -> Self {
        let count = |find: &dyn Fn(&str) -> bool| turn.events.iter().filter(|event| find(&event.name)).count() as u64;
        let completed = turn.events.iter().filter(|event| event.name == "message.completed");
        let answers = completed.filter(|event| event.data["finish"] != "cancelled").count() as u64;
        let all = count(&|name| name == "message.completed");
        Self {
            answers,
            attempts: count(&|name| name == "turn.started"),
            troubles: count(&|name| ["message.reset", "turn.waiting", "model.fallback"].contains(&name))
                + (all - answers)
                + u64::from(turn.status() != "completed"),
        }
    }

    fn is_undisturbed(&self, calls: &[Call]) -> bool {
        self.attempts == 1
            && self.troubles == 0
            && calls.iter().all(|call| call.completed)
            && calls.len() as u64 == self.answers
    }
}

fn judge(usage: &Usage, facts: &Facts, calls: &[Call]) -> Result<(), String> {
    let sum = |part: fn(&Call) -> u64| calls.iter().map(part).sum::<u64>();
    let all = (sum(|call| call.prompt), sum(|call| call.completion));
    if facts.is_undisturbed(calls) {
        let cached = sum(|call| call.cached);
        let [input, from_cache, output] = PRICES;
        let millionths = (all.0 - cached) as f64 * input + cached as f64 * from_cache + all.1 as f64 * output;
        if (usage.prompt, usage.cached, usage.completion) != (all.0, cached, all.1) {
            return Err(format!(
                "does not equal the provider's {all:?}, {cached} of them cached"
            ));
        }
        if (usage.cost_usd - millionths / 1e6).abs() > 1e-9 {
            return Err(format!("should cost {}", millionths / 1e6));
        }
        return Ok(());
    }
    let (least, most) = bounds(Some(facts), calls);
    let within = (least.prompt..=most.prompt).contains(&usage.prompt)
        && (least.completion..=most.completion).contains(&usage.completion);
    within.then_some(()).ok_or(format!("is outside {least:?} to {most:?}"))
}

/// Tokens of prompts and answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tokens {
    pub prompt: u64,
    pub completion: u64,
}

impl std::ops::AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.completion += other.completion;
    }
}

/// Returns the least and the most usage allowed for a turn's calls; without facts, because its log is gone, the least
/// is zero.
fn bounds(facts: Option<&Facts>, calls: &[Call]) -> (Tokens, Tokens) {
    let sum = |part: fn(&Call) -> u64| calls.iter().map(part).sum::<u64>();
    if facts.is_some_and(|facts| facts.is_undisturbed(calls)) {
        let exact = Tokens {
            prompt: sum(|call| call.prompt),
            completion: sum(|call| call.completion),
        };
        return (exact, exact);
    }
    // Each answer in the log is a completed call of its step.
    let answers = facts.map_or(0, |facts| facts.answers);
    let least = |part: fn(&Call) -> u64| -> u64 {
        let of_step = |step| calls.iter().filter(move |call| call.completed && call.step == step);
        (0..answers).filter_map(|step| of_step(step).map(part).min()).sum()
    };
    let lost = TRIES * facts.map_or(2, |facts| facts.attempts.saturating_sub(1) + facts.troubles);
    let dearest = calls.iter().map(|call| call.prompt).fold(ESTIMATE, u64::max);
    let prompt = |call: &Call| {
        if call.completed {
            call.prompt
        } else {
            call.prompt * PROMPT_FACTOR
        }
    };
    let completion = |call: &Call| {
        if call.completed {
            call.completion
        } else {
            call.completion.max(ESTIMATE)
        }
    };
    (
        Tokens {
            prompt: least(|call| call.prompt),
            completion: least(|call| call.completion),
        },
        Tokens {
            prompt: calls.iter().map(prompt).sum::<u64>() + lost * dearest * PROMPT_FACTOR,
            completion: calls.iter().map(completion).sum::<u64>() + lost * ESTIMATE,
        },
    )
}

/// Returns the least and the most that the ledger may have for a turn; `turn` if its log can still be read. A call
/// whose process died before the ledger entry was stored is an estimate, whatever became of it.
pub fn of_ledger(turn: Option<&Turn>, calls: &[Call], booked: bool) -> (Tokens, Tokens) {
    let facts = turn.map(Facts::of);
    let undisturbed = facts.as_ref().is_some_and(|facts| facts.is_undisturbed(calls));
    if undisturbed && booked {
        return bounds(facts.as_ref(), calls);
    }
    let doubtful: Vec<Call> = calls
        .iter()
        .map(|call| Call {
            completed: false,
            ..call.clone()
        })
        .collect();
    let (_, most) = bounds(facts.as_ref(), &doubtful);
    (Tokens::default(), most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(step: u64, completed: bool) -> Call {
        Call {
            step,
            prompt: 100,
            cached: 10,
            completion: 20,
            completed,
        }
    }

    fn usage(prompt: u64, completion: u64) -> Usage {
        Usage {
            prompt,
            cached: 10,
            completion,
            cost_usd: (90.0 * 2.0 + 10.0 + 20.0 * 8.0) / 1e6,
        }
    }

    fn facts(answers: u64, attempts: u64, troubles: u64) -> Facts {
        Facts {
            answers,
            attempts,
            troubles,
        }
    }

    #[test]
    fn an_undisturbed_turn_is_exact() {
        let right = |usage: Usage| judge(&usage, &facts(1, 1, 0), &[call(0, true)]).is_ok();
        assert!(right(usage(100, 20)));
        assert!(!right(usage(101, 20)));
        assert!(!right(usage(100, 19)));
        let cheap = Usage {
            cost_usd: 0.0,
            ..usage(100, 20)
        };
        assert!(!right(cheap));
        let uncached = Usage {
            cached: 0,
            ..usage(100, 20)
        };
        assert!(!right(uncached));
    }

    #[test]
    fn a_disturbed_turn_counts_what_is_in_the_log_and_no_more_than_was_asked() {
        let twice = [call(0, false), call(0, true)];
        let judge = |prompt, completion, facts| judge(&usage(prompt, completion), &facts, &twice).is_ok();
        let right = |prompt, completion| judge(prompt, completion, facts(1, 2, 1));
        assert!(right(200, 40));
        assert!(right(100, 20), "the call that died may be booked later");
        assert!(!right(99, 20), "less than the answer that is there");
        assert!(!right(100, 19));
        assert!(right(400, 20 + ESTIMATE), "an estimate");
        let never_seen = 2 * TRIES;
        assert!(right(400 + never_seen * 3 * ESTIMATE, 20 + (1 + never_seen) * ESTIMATE));
        assert!(!right(401 + never_seen * 3 * ESTIMATE, 40), "a prompt that nobody sent");
        assert!(
            !right(200, 21 + (1 + never_seen) * ESTIMATE),
            "an answer that nobody gave"
        );
        assert!(
            judge(400, 20 + ESTIMATE, facts(1, 1, 0)),
            "one attempt, the call before the answer failed"
        );
        assert!(!judge(401, 40, facts(1, 1, 0)), "nothing was lost on the way");
    }
}

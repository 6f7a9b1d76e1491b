//! How limits apply to a call: its expected usage is reserved, once for all its attempts.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::compute::{self, ComputeError};
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::domain::usage::{NanoUsd, Usage};
use copilotd_actors::ports::Clock;

use crate::error::{GatewayError, GatewayErrorKind, LimitState};
use crate::limit::{
    AnswerStatistics, CallPermits, Demand, LimitExceeded, LimitName, LimitRefusal, Limiter, Reservation,
};
use crate::request::body::ChatBody;
use crate::request::call::{Caller, Purpose};
use crate::request::embed::{EmbedBody, Inputs};
use crate::routing::Route;
use crate::spending::Subject;

/// `Retry-After` when a prompt could not be counted.
const COUNT_PAUSE: Duration = Duration::from_secs(1);

/// What the gateway needs to enforce limits.
#[derive(Debug)]
pub(super) struct CallLimits {
    pub limiter: Arc<dyn Limiter>,
    pub learned: AnswerStatistics,
    pub prices: PriceList,
    pub clock: Arc<dyn Clock>,
    pub permits: CallPermits,
}

/// The size of a prompt, for a reservation.
pub(super) struct Prompt<'a> {
    pub bytes: u64,
    pub max_output: Option<u64>,
    /// Number of answers (`n`).
    pub answers: u64,
    /// What is tokenised for an exact count.
    pub text: Text<'a>,
}

/// The text of a prompt.
pub(super) enum Text<'a> {
    Chat(&'a Arc<ChatBody>),
    Embed(&'a Arc<EmbedBody>),
}

impl<'a> Prompt<'a> {
    pub(super) fn chat(body: &'a Arc<ChatBody>) -> Self {
        Self {
            bytes: body.size() as u64,
            max_output: body.max_tokens(),
            answers: body.choices(),
            text: Text::Chat(body),
        }
    }

    pub(super) fn embed(body: &'a Arc<EmbedBody>) -> Self {
        Self {
            bytes: body.size() as u64,
            max_output: Some(0),
            answers: 1,
            text: Text::Embed(body),
        }
    }
}

impl CallLimits {
    /// Reserves the expected usage of a request. The prompt is estimated by a learned upper bound; if that is refused
    /// and an exact count may change it, the tokens are counted, but only up to the number that is refused in any case.
    pub(super) async fn reserve(
        &self,
        caller: &Caller,
        route: &Route,
        prompt: Prompt<'_>,
    ) -> Result<Arc<Reservation>, GatewayError> {
        let tenant = caller.scope.tenant();
        let model = route.targets.first().map_or("", |target| target.name.model.as_str());
        let expected = self.learned.expect(tenant, model, prompt.bytes, prompt.max_output);
        let output = expected.output.saturating_mul(prompt.answers);
        let demand = |prompt: u64| self.demand(caller, model, prompt, output);
        let permit = self.permits.take(&caller.scope).ok_or_else(|| self.too_many_calls())?;
        let ask = |demand| self.limiter.reserve(&caller.scope, Subject::of(caller), demand);
        let lease = match ask(demand(expected.prompt)).await {
            Ok(lease) => lease,
            Err(refused) => {
                let Some(most) = self.most_prompt(&refused, model, output, expected.prompt) else {
                    return Err(refused.into());
                };
                let exact = count(tenant, &prompt.text, most).await?;
                if exact > most {
                    return Err(refused.into());
                }
                ask(demand(exact)).await?
            }
        };
        Ok(Arc::new(Reservation::new(Arc::clone(&self.limiter), lease).at(permit)))
    }

    /// The error when the tenant has as many concurrent calls as one tenant may have.
    fn too_many_calls(&self) -> GatewayError {
        let second = Duration::from_secs(1);
        let name = LimitName::Calls;
        LimitExceeded {
            name,
            of: "tenant",
            retry_after: Some(second),
            state: LimitState {
                name,
                limit: u64::try_from(self.permits.most()).unwrap_or(u64::MAX),
                remaining: 0,
                reset: second,
            },
        }
        .into()
    }

    /// Returns the most tokens that the prompt may have to fit where `expected` was refused; `None` if counting does
    /// not help.
    fn most_prompt(&self, refused: &LimitRefusal, model: &str, output: u64, expected: u64) -> Option<u64> {
        let LimitRefusal::LimitExceeded(exceeded) = refused else {
            return None;
        };
        let below = expected.checked_sub(1)?;
        // A prompt that can never fit is recognised by counting up to the whole limit.
        let state = &exceeded.state;
        let room = if exceeded.retry_after.is_some() {
            state.remaining
        } else {
            state.limit
        };
        match exceeded.name {
            LimitName::Requests | LimitName::Calls => None,
            LimitName::Tokens => Some(room.checked_sub(output)?.min(below)),
            LimitName::UsdPerDay | LimitName::UsdPerMonth => {
                let cost = |prompt: u64| {
                    let usage = Usage {
                        prompt_tokens: prompt,
                        completion_tokens: output,
                        ..Usage::default()
                    };
                    self.cost(model, &usage).unwrap_or(0)
                };
                most_affordable(room, expected, cost)
            }
        }
    }

    fn demand(&self, caller: &Caller, model: &str, prompt: u64, output: u64) -> Demand {
        let usage = Usage {
            prompt_tokens: prompt,
            completion_tokens: output,
            ..Usage::default()
        };
        Demand {
            // A turn was counted when it was submitted.
            requests: u64::from(caller.purpose == Purpose::Endpoint || caller.purpose == Purpose::Embedding),
            tokens: usage.total_tokens(),
            // The embedding of a question is part of its turn or search, and audits are few.
            calls: u64::from(!matches!(caller.purpose, Purpose::Lookup | Purpose::Retrieval)),
            cost: self.cost(model, &usage).unwrap_or(0),
        }
    }

    /// Returns the current cost of `usage` for `model`, if its price is known.
    pub(super) fn cost(&self, model: &str, usage: &Usage) -> Option<NanoUsd> {
        let price = self.prices.at(model, self.clock.now())?;
        Some(price.cost(usage))
    }

    /// Counts a turn when it is submitted, and refuses it when a budget is exhausted.
    pub(super) async fn admit(&self, caller: &Caller) -> Result<(), GatewayError> {
        if let Some(refused) = self.limiter.exhausted(&caller.scope, Subject::of(caller)).await {
            return Err(refused.into());
        }
        let demand = Demand {
            requests: 1,
            ..Demand::default()
        };
        let lease = self.limiter.reserve(&caller.scope, Subject::of(caller), demand).await?;
        self.limiter.settle(lease, crate::limit::ActualUsage::default());
        Ok(())
    }
}

/// Returns the largest number below `bound` that costs at most `room`; `cost` must be monotonic.
fn most_affordable(room: NanoUsd, bound: u64, cost: impl Fn(u64) -> NanoUsd) -> Option<u64> {
    let (mut low, mut too_many) = (0, bound);
    while low < too_many {
        let middle = low.midpoint(too_many);
        if cost(middle) <= room {
            low = middle + 1;
        } else {
            too_many = middle;
        }
    }
    low.checked_sub(1)
}

/// Counts a prompt's tokens as JSON, which gives a few more than its provider will count; stops above `most`.
async fn count(tenant: &TenantId, text: &Text<'_>, most: u64) -> Result<u64, GatewayError> {
    fn of_chat(body: &ChatBody) -> Vec<&str> {
        ["messages", "tools", "functions", "response_format"]
            .into_iter()
            .filter_map(|name| Some(body.get(name)?.get()))
            .collect()
    }
    fn of_inputs(body: &EmbedBody) -> Vec<&str> {
        match body.inputs() {
            Inputs::Texts(texts) => texts.iter().map(String::as_str).collect(),
            Inputs::Tokens { .. } => Vec::new(),
        }
    }
    let counted = match text {
        Text::Chat(body) => compute::count_tokens(Some(tenant), body, of_chat, most).await,
        Text::Embed(body) => match body.inputs() {
            Inputs::Texts(_) => compute::count_tokens(Some(tenant), body, of_inputs, most).await,
            Inputs::Tokens { tokens, .. } => Ok(*tokens),
        },
    };
    counted.map_err(|error| {
        let message = match error {
            ComputeError::Full => "too many large prompts of this tenant are waiting to be tokenized; retry later",
            ComputeError::Panicked => "the tokens of this prompt could not be counted",
        };
        let mut error = GatewayError::new(GatewayErrorKind::LimitsUnavailable, message);
        error.retry_after = Some(COUNT_PAUSE);
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_money_buys() {
        for (room, bound, base, expected) in [
            (100, 1_000, 0, Some(10)),
            (100, 5, 0, Some(4)),
            (100, 1_000, 95, Some(0)),
            (100, 1_000, 101, None),
            (0, 1_000, 0, Some(0)),
            (u64::MAX, 1_000, 0, Some(999)),
            (100, 0, 0, None),
        ] {
            let most = most_affordable(room, bound, |number| base + number * 10);
            assert_eq!(most, expected, "{room} {bound} {base}");
        }
    }
}

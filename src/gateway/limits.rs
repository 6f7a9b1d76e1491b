//! Limits on the way of a call: what it is expected to use is reserved, once for all its attempts.

use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::domain::tokens;
use copilotd_actors::domain::usage::{NanoUsd, Usage};
use copilotd_actors::ports::Clock;

use super::body::ChatBody;
use super::call::{Caller, GatewayError, Purpose};
use super::embed::{EmbedBody, Inputs};
use super::limit::{Demand, Learned, Limiter, Refused, Reservation, Subject};
use super::route::Route;

/// Above so many bytes the tokenizer runs off the async threads.
const INLINE_BYTES: usize = 16 * 1024;

/// What the gateway needs to limit.
#[derive(Debug)]
pub(super) struct Limits {
    pub limiter: Arc<dyn Limiter>,
    pub learned: Learned,
    pub prices: PriceList,
    pub clock: Arc<dyn Clock>,
}

/// What a prompt is counted by.
pub(super) struct Prompt<'a> {
    pub bytes: u64,
    pub max_output: Option<u64>,
    /// How many answers there will be.
    pub answers: u64,
    /// What the exact count is made of.
    pub text: Text<'a>,
}

/// The text of a prompt.
pub(super) enum Text<'a> {
    Chat(&'a ChatBody),
    Embed(&'a EmbedBody),
}

impl<'a> Prompt<'a> {
    pub(super) fn chat(body: &'a ChatBody) -> Self {
        Self {
            bytes: body.size() as u64,
            max_output: body.max_tokens(),
            answers: body.choices(),
            text: Text::Chat(body),
        }
    }

    pub(super) fn embed(body: &'a EmbedBody) -> Self {
        Self {
            bytes: body.size() as u64,
            max_output: Some(0),
            answers: 1,
            text: Text::Embed(body),
        }
    }
}

impl Limits {
    /// Reserves what a request is expected to use. A learned bound stands for the prompt; where it would be refused, the
    /// tokens are counted.
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
        let ask = |demand| self.limiter.reserve(tenant, Subject::of(caller), demand);
        let lease = match ask(demand(expected.prompt)).await {
            Ok(lease) => lease,
            Err(refused @ Refused::Unavailable { .. }) => return Err(refused.into()),
            Err(refused) => {
                let exact = count(&prompt.text).await;
                if exact >= expected.prompt {
                    return Err(refused.into());
                }
                ask(demand(exact)).await?
            }
        };
        Ok(Arc::new(Reservation::new(Arc::clone(&self.limiter), lease)))
    }

    fn demand(&self, caller: &Caller, model: &str, prompt: u64, output: u64) -> Demand {
        let usage = Usage {
            prompt_tokens: prompt,
            completion_tokens: output,
            ..Usage::default()
        };
        Demand {
            // A turn was counted when it was taken.
            requests: u64::from(caller.purpose == Purpose::Endpoint || caller.purpose == Purpose::Embedding),
            tokens: usage.total_tokens(),
            // A look-up in the cache goes on within its question's call; of audits there are few.
            calls: u64::from(caller.purpose != Purpose::Lookup),
            cost: self.cost(model, &usage).unwrap_or(0),
        }
    }

    /// Returns what `usage` of `model` costs now, if its price is known.
    pub(super) fn cost(&self, model: &str, usage: &Usage) -> Option<NanoUsd> {
        let price = self.prices.at(model, self.clock.now())?;
        Some(price.cost(usage))
    }

    /// Counts a turn at the door, and refuses it when a budget is used up.
    pub(super) async fn admit(&self, caller: &Caller) -> Result<(), GatewayError> {
        let tenant = caller.scope.tenant();
        if let Some(refused) = self.limiter.exhausted(tenant, Subject::of(caller)).await {
            return Err(refused.into());
        }
        let demand = Demand {
            requests: 1,
            ..Demand::default()
        };
        let lease = self.limiter.reserve(tenant, Subject::of(caller), demand).await?;
        self.limiter.settle(lease, super::limit::Spent::default());
        Ok(())
    }

    /// Learns from an answer that came to its end.
    pub(super) fn learn(&self, tenant: &TenantId, model: &str, bytes: u64, usage: &Usage) {
        self.learned.learn(tenant, model, bytes, usage);
    }
}

/// Counts a prompt's tokens: those of its JSON, which are a few more than its provider will count.
async fn count(text: &Text<'_>) -> u64 {
    let parts: Vec<String> = match text {
        Text::Chat(body) => ["messages", "tools", "functions", "response_format"]
            .into_iter()
            .filter_map(|name| body.get(name))
            .map(|part| part.get().to_owned())
            .collect(),
        Text::Embed(body) => match body.inputs() {
            Inputs::Texts(texts) => texts.clone(),
            Inputs::Tokens { tokens, .. } => return *tokens,
        },
    };
    let sum = move || parts.iter().map(|part| tokens::count(part)).sum::<u64>();
    let bytes = match text {
        Text::Chat(body) => body.size(),
        Text::Embed(body) => body.size(),
    };
    if bytes < INLINE_BYTES {
        return sum();
    }
    // The closure does not panic, and the runtime outlives its calls.
    tokio::task::spawn_blocking(sum).await.unwrap_or(u64::MAX)
}

//! Providers, routes and prices.

use std::collections::BTreeMap;
use std::time::Duration;

use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::domain::usage::{NanoUsd, Price};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use secrecy::SecretString;
use serde::Deserialize;

use super::cache::RouteCache;
use super::prices::list_price;
use super::{Config, milliseconds};

/// A server with language models.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its name.
    pub name: String,
    /// The protocol it speaks.
    #[serde(default)]
    pub kind: ProviderKind,
    /// Its address, with the version.
    pub base_url: String,
    api_key: Option<SecretString>,
    #[serde(default)]
    api_keys: Vec<SecretString>,
    /// How a key is sent; by the address when missing.
    pub auth: Option<ProviderAuth>,
    /// Headers that go with each request.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretString>,
    /// Whether a plain http address speaks HTTP/2 from the first byte.
    #[serde(default)]
    pub http2: bool,
    /// Where it runs.
    pub region: Option<String>,
    /// Whether only tenants with keys of their own may call it.
    #[serde(default)]
    pub own_keys_only: bool,
    /// Longest answer, in tokens, where a request does not say one; for Anthropic's protocol, which insists on it.
    pub max_tokens: Option<u64>,
    /// Whether usage is asked for with `stream_options`, in OpenAI's protocol.
    #[serde(default = "yes")]
    pub stream_options: bool,
    /// Whether a hash of the user is sent as `user` with a conversation's calls, in OpenAI's protocol.
    #[serde(default = "yes")]
    pub user: bool,
}

impl Provider {
    /// Whether another configuration means the same server, asked in the same way; its keys may be others.
    pub fn is_same_server(&self, other: &Self) -> bool {
        let of = |provider: &Self| {
            let Self {
                name,
                kind,
                base_url,
                api_key: _,
                api_keys: _,
                auth,
                headers: _,
                http2,
                region,
                own_keys_only,
                max_tokens,
                stream_options,
                user,
            } = provider.clone();
            let asked = (stream_options, user);
            (
                name,
                kind,
                base_url,
                auth,
                http2,
                region,
                own_keys_only,
                max_tokens,
                asked,
            )
        };
        of(self) == of(other)
    }

    /// Lists its keys; none for a server that needs none.
    pub fn keys(&self) -> impl Iterator<Item = &SecretString> {
        self.api_key.iter().chain(&self.api_keys)
    }
}

/// The protocol of a provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// OpenAI's chat completions, as most servers speak it.
    #[default]
    Openai,
    /// Anthropic's messages.
    Anthropic,
}

/// How a provider wants its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderAuth {
    /// `Authorization: Bearer`.
    Bearer,
    /// `api-key`.
    ApiKey,
}

/// A name behind which models stand.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Models, in order of preference; never empty.
    pub targets: Vec<Target>,
    /// The clocks of a call.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Whether pieces are passed on as they come.
    #[serde(default)]
    pub mode: Mode,
    /// How long a call waits for the preferred target, where that asks for patience, before another one is asked in its place.
    #[serde(default, rename = "patience_ms", deserialize_with = "milliseconds")]
    pub patience: Duration,
    /// Whether another target is asked beside one whose first token is unusually late.
    #[serde(default)]
    pub hedge: bool,
    /// Answers that are kept and given again.
    #[serde(default)]
    pub cache: RouteCache,
}

impl Route {
    /// Returns the context that every target has: a fallback has to take the same prompt.
    pub fn context_tokens(&self) -> u64 {
        self.targets
            .iter()
            .map(|target| target.context_tokens)
            .min()
            .unwrap_or(0)
    }

    /// Returns the name of the preferred model.
    pub fn model(&self) -> &str {
        self.targets.first().map_or("", |target| &target.model)
    }
}

/// A model of a provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name of the provider.
    pub provider: String,
    /// Name of the model there.
    pub model: String,
    /// Its context.
    pub context_tokens: u64,
    /// Share among equals; targets without one are tried in order.
    pub weight: Option<u32>,
    /// Whether it can be offered tools.
    #[serde(default = "yes")]
    pub tools: bool,
    /// Whether it can be held to a schema.
    #[serde(default = "yes")]
    pub schema: bool,
    /// Whether it goes on with an answer whose beginning is given.
    #[serde(default)]
    pub prefill: bool,
    /// Whether it thinks before it speaks.
    #[serde(default)]
    pub reasoning: bool,
}

fn yes() -> bool {
    true
}

/// The four clocks of a model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until the connection stands.
    #[serde(rename = "connect_ms", deserialize_with = "milliseconds")]
    pub connect: Duration,
    /// Until the first piece of the answer.
    #[serde(rename = "first_token_ms", deserialize_with = "milliseconds")]
    pub first_token: Duration,
    /// The same where the model thinks before it speaks.
    #[serde(rename = "first_token_reasoning_ms", deserialize_with = "milliseconds")]
    pub first_token_reasoning: Duration,
    /// Between two pieces.
    #[serde(rename = "idle_ms", deserialize_with = "milliseconds")]
    pub idle: Duration,
    /// For the whole answer.
    #[serde(rename = "total_ms", deserialize_with = "milliseconds")]
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(2_000),
            first_token: Duration::from_millis(10_000),
            first_token_reasoning: Duration::from_millis(60_000),
            idle: Duration::from_millis(15_000),
            total: Duration::from_millis(120_000),
        }
    }
}

/// Whether a route passes pieces on as they come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As they come.
    #[default]
    Live,
    /// Only the whole answer.
    Buffered,
}

/// What a model costs from a day on, in US dollars per million tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// Name of the model, as in targets.
    pub model: String,
    /// First day of this price, in UTC; from ever when missing.
    pub from: Option<Date>,
    /// Fresh prompt tokens.
    pub input: f64,
    /// Prompt tokens read from the provider's cache; as `input` when missing.
    pub cached_input: Option<f64>,
    /// Prompt tokens written to the provider's cache; as `input` when missing.
    pub cache_write: Option<f64>,
    /// Tokens of the answer.
    pub output: f64,
    /// Tokens that were thought and not said; as `output` when missing.
    pub reasoning: Option<f64>,
}

impl ModelPrice {
    /// Returns the price in exact integers.
    pub fn price(&self) -> Price {
        Price {
            input: nano_usd(self.input),
            cached_input: nano_usd(self.cached_input.unwrap_or(self.input)),
            cache_write: nano_usd(self.cache_write.unwrap_or(self.input)),
            output: nano_usd(self.output),
            reasoning: nano_usd(self.reasoning.unwrap_or(self.output)),
        }
    }

    /// Returns the first moment of this price.
    fn begin(&self) -> Timestamp {
        let midnight = |day: Date| TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok();
        self.from.and_then(midnight).unwrap_or(Timestamp::MIN)
    }
}

/// Turns dollars into nano-dollars. `as` saturates, so that an absurd number is a huge price and not a small one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, as wanted"
)]
pub(super) fn nano_usd(usd: f64) -> NanoUsd {
    (usd * 1e9).round() as NanoUsd
}

impl Config {
    /// Returns what each model costs and did cost: what `[[prices]]` says from its day on, else what its vendor lists. Where two
    /// vendors serve a model under one name, the dearer counts.
    pub fn price_list(&self) -> PriceList {
        let listed = self
            .routes
            .iter()
            .flat_map(|route| &route.targets)
            .filter_map(|target| {
                let provider = self.provider(&target.provider)?;
                Some((&target.model, list_price(&provider.base_url, &target.model)?))
            });
        let mut dearest: BTreeMap<&String, Price> = BTreeMap::new();
        for (model, price) in listed {
            let known = dearest.entry(model).or_insert(price);
            *known = known.dearer(price);
        }
        let listed = dearest
            .into_iter()
            .map(|(model, price)| (model.clone(), Timestamp::MIN, price));
        let configured = self
            .prices
            .iter()
            .map(|price| (price.model.clone(), price.begin(), price.price()));
        listed.chain(configured).collect()
    }
}

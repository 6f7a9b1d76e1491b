//! Providers, routes and prices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use copilotd_actors::domain::file::FileKind;
use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::domain::usage::{NanoUsd, Price};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::value::StrDeserializer;

use super::cache::RouteCache;
use super::prices::list_price;
use super::{Config, milliseconds};

/// A service that runs models.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Name of the provider.
    pub name: String,
    /// Its protocol.
    #[serde(default)]
    pub kind: ProviderKind,
    /// Base URL, including the API version.
    pub base_url: String,
    api_key: Option<SecretString>,
    #[serde(default)]
    api_keys: Vec<SecretString>,
    /// How a key is sent; derived from the address if missing.
    pub auth: Option<ProviderAuth>,
    /// Headers that are sent with each request.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretString>,
    /// Whether a plain http address is spoken to in HTTP/2 with prior knowledge.
    #[serde(default)]
    pub http2: bool,
    /// Region where it runs.
    pub region: Option<String>,
    /// Whether only tenants with their own keys may call it.
    #[serde(default)]
    pub own_keys_only: bool,
    /// Default of `max_tokens`, for Anthropic's protocol, which requires it.
    pub max_tokens: Option<u64>,
    /// Whether usage is requested with `stream_options`, in OpenAI's protocol.
    #[serde(default = "yes")]
    pub stream_options: bool,
    /// Whether a hash of the user is sent as `user` with calls of conversations, in OpenAI's protocol.
    #[serde(default = "yes")]
    pub user: bool,
}

impl Provider {
    /// Whether another configuration means the same server, called in the same way. Keys and headers may differ.
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

    /// Returns its keys; none for a server that needs none.
    pub fn keys(&self) -> impl Iterator<Item = &SecretString> {
        self.api_key.iter().chain(&self.api_keys)
    }
}

/// The protocol of a provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// OpenAI's chat completions, which most servers speak.
    #[default]
    Openai,
    /// Anthropic's Messages API.
    Anthropic,
}

/// What a protocol has. Every match names all kinds, so that a new one does not compile without an answer.
impl ProviderKind {
    /// Returns the kind of a name in the configuration.
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::deserialize(StrDeserializer::<serde::de::value::Error>::new(name)).ok()
    }

    /// Whether models of such a provider can embed texts.
    pub(super) fn embeds(self) -> bool {
        match self {
            Self::Openai => true,
            Self::Anthropic => false,
        }
    }

    /// Whether each request names a longest answer, so that `max_tokens` can be set.
    pub(super) fn needs_max_tokens(self) -> bool {
        match self {
            Self::Openai => false,
            Self::Anthropic => true,
        }
    }

    /// Whether it has OpenAI's members `stream_options` and `user`.
    pub(super) fn has_openai_members(self) -> bool {
        match self {
            Self::Openai => true,
            Self::Anthropic => false,
        }
    }
}

/// How a key is sent to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderAuth {
    /// The header `Authorization: Bearer`.
    Bearer,
    /// The header `api-key`.
    ApiKey,
}

/// A named model: an ordered list of targets.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Name of the route.
    pub name: String,
    /// Targets in order of preference; never empty.
    pub targets: Vec<Target>,
    /// Timeouts of a call.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Whether answers are streamed as they arrive.
    #[serde(default)]
    pub mode: Mode,
    /// How long a call waits for the preferred target's Retry-After before it falls back to another one.
    #[serde(default, rename = "patience_ms", deserialize_with = "milliseconds")]
    pub patience: Duration,
    /// Whether a second target is tried beside one whose first token is unusually late.
    #[serde(default)]
    pub hedge: bool,
    /// The answer cache.
    #[serde(default)]
    pub cache: RouteCache,
}

impl Route {
    /// Returns the smallest context of all targets: a fallback has to accept the same prompt.
    pub fn context_tokens(&self) -> u64 {
        self.targets
            .iter()
            .map(|target| target.context_tokens)
            .min()
            .unwrap_or(0)
    }

    /// Returns the kinds of attached files that one of its targets reads, beside text.
    pub fn reads(&self) -> Vec<FileKind> {
        let kinds: BTreeSet<FileKind> = self.targets.iter().flat_map(|target| &target.reads).copied().collect();
        kinds.into_iter().collect()
    }

    /// Returns the name of the preferred model.
    pub fn model(&self) -> &str {
        self.targets.first().map_or("", |target| &target.model)
    }
}

/// A model of a provider, as an entry of a route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name of the provider.
    pub provider: String,
    /// The provider's name of the model.
    pub model: String,
    /// Size of its context, in tokens.
    pub context_tokens: u64,
    /// Share among adjacent targets with a weight; targets without one are tried in order.
    pub weight: Option<u32>,
    /// Whether it supports tools.
    #[serde(default = "yes")]
    pub tools: bool,
    /// Whether it supports structured output.
    #[serde(default = "yes")]
    pub schema: bool,
    /// Whether it continues an answer whose beginning is given.
    #[serde(default)]
    pub prefill: bool,
    /// The kinds of attached files that it reads, beside text: `image`, `pdf`.
    #[serde(default)]
    pub reads: Vec<FileKind>,
    /// Whether it reasons before it answers.
    #[serde(default)]
    pub reasoning: bool,
}

pub(super) fn yes() -> bool {
    true
}

/// Timeouts of a model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until the connection is established.
    #[serde(rename = "connect_ms", deserialize_with = "milliseconds")]
    pub connect: Duration,
    /// Until the first chunk of the answer.
    #[serde(rename = "first_token_ms", deserialize_with = "milliseconds")]
    pub first_token: Duration,
    /// The same for models that reason before they answer.
    #[serde(rename = "first_token_reasoning_ms", deserialize_with = "milliseconds")]
    pub first_token_reasoning: Duration,
    /// Between two chunks.
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

/// Whether a route streams answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Chunks are passed on as they arrive.
    #[default]
    Live,
    /// Only whole answers are passed on.
    Buffered,
}

/// The price of a model from a day on, in US dollars per million tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// Name of the model, as in targets.
    pub model: String,
    /// First day of this price, in UTC; if missing, it has always been valid.
    pub from: Option<Date>,
    /// Uncached prompt tokens.
    pub input: f64,
    /// Prompt tokens read from the provider's cache; as `input` if missing.
    pub cached_input: Option<f64>,
    /// Prompt tokens written to the provider's cache; as `input` if missing.
    pub cache_write: Option<f64>,
    /// Completion tokens.
    pub output: f64,
    /// Reasoning tokens; as `output` if missing.
    pub reasoning: Option<f64>,
}

impl ModelPrice {
    /// Returns the price in integers of nano-dollars.
    pub fn price(&self) -> Price {
        Price {
            input: nano_usd(self.input),
            cached_input: nano_usd(self.cached_input.unwrap_or(self.input)),
            cache_write: nano_usd(self.cache_write.unwrap_or(self.input)),
            output: nano_usd(self.output),
            reasoning: nano_usd(self.reasoning.unwrap_or(self.output)),
        }
    }

    /// Returns when this price begins.
    fn begin(&self) -> Timestamp {
        let midnight = |day: Date| TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok();
        self.from.and_then(midnight).unwrap_or(Timestamp::MIN)
    }
}

/// Converts dollars to nano-dollars. `as` saturates, so that an absurd number gives a huge price, not a small one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, as wanted"
)]
pub(super) fn nano_usd(usd: f64) -> NanoUsd {
    (usd * 1e9).round() as NanoUsd
}

impl Config {
    /// Returns the current and past prices of each model: those of `[[prices]]` from their day on, else the vendor's
    /// list price. Where two vendors serve a model of the same name, the higher price counts.
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

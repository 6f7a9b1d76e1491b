//! Metrics of model calls by provider, model, route and tenant: every call in the usage ledger, whatever its purpose.
//!
//! Invariant: at most [`MAX_SERIES`] label sets, and as many again without a tenant's name, however many tenants and
//! routes there are. Every label value comes from the configuration or this file, never from a caller or provider.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::usage::LostUsage;
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::meter::{AttemptRecord, LostEstimate, Meter, Outcome, UnreportedAttempts};
use copilotd_gateway::request::call::CacheOutcome;
use copilotd_gateway::target::TargetName;
use jiff::Timestamp;
use metrics::{Counter, Histogram, Label, counter, histogram};
use parking_lot::Mutex;
use uuid::Uuid;

use super::initial_counters::outcomes;
use super::tenants::{self, OTHER};

/// Maximum number of label sets that name a tenant; sets without one may be as many again.
const MAX_SERIES: usize = 1_000;
/// The route label of calls that name a model directly, as `provider/model`.
const DIRECT: &str = "direct";

static SERIES: LazyLock<Mutex<KnownSeries>> = LazyLock::new(Mutex::default);

/// The label sets in use.
#[derive(Default)]
struct KnownSeries {
    labels: HashSet<CallLabels>,
    /// By their labels, which are in `labels` or name nothing.
    series: HashMap<CallLabels, Arc<CallSeries>>,
}

/// The metrics of one label set. Finding a metric by its labels costs more than counting, so each is kept once it is
/// used; not before, because the page shows every metric that was found once.
struct CallSeries {
    labels: CallLabels,
    /// In the order of [`outcomes`].
    calls: Vec<(&'static str, OnceLock<Counter>)>,
    tokens: [(&'static str, OnceLock<Counter>); 3],
    cost: OnceLock<Counter>,
    estimated: OnceLock<Counter>,
    seconds: OnceLock<Histogram>,
    first_content: OnceLock<Histogram>,
}

/// The labels of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CallLabels {
    provider: String,
    model: String,
    route: String,
    tenant: String,
}

/// Counts attempts and passes them on to another meter.
#[derive(Debug)]
pub struct CallMetrics(Option<Arc<dyn Meter>>);

impl CallMetrics {
    /// Wraps `next`, if there is one.
    pub fn around(next: Option<Arc<dyn Meter>>) -> Arc<Self> {
        Arc::new(Self(next))
    }
}

#[async_trait]
impl Meter for CallMetrics {
    fn began(&self, id: Uuid, lost: LostEstimate) {
        if let Some(next) = &self.0 {
            next.began(id, lost);
        }
    }

    fn attempted(&self, attempt: AttemptRecord) {
        // A cache hit is not a model call; the cache counts it.
        if attempt.cache != CacheOutcome::Hit {
            record(&attempt);
        }
        if let Some(next) = &self.0 {
            next.attempted(attempt);
        }
    }

    fn attempted_at(&self, at: Timestamp, attempt: AttemptRecord) {
        // The process that made the attempt died before counting it.
        record(&attempt);
        if let Some(next) = &self.0 {
            next.attempted_at(at, attempt);
        }
    }

    async fn unreported(
        &self,
        scope: &TenantScope,
        of: &UnreportedAttempts,
        by_this_process: bool,
    ) -> Result<Vec<LostUsage>, LogError> {
        match &self.0 {
            Some(next) => next.unreported(scope, of, by_this_process).await,
            None => Ok(Vec::new()),
        }
    }

    fn has_room(&self) -> bool {
        self.0.as_ref().is_none_or(|next| next.has_room())
    }

    async fn wait_for_room(&self) -> bool {
        match &self.0 {
            Some(next) => next.wait_for_room().await,
            None => true,
        }
    }
}

/// Initialises the counters of a route's target to zero.
pub fn start(route: &str, provider: &str, model: &str) {
    for route in [route, DIRECT] {
        let labels = CallLabels {
            provider: provider.to_owned(),
            model: model.to_owned(),
            route: route.to_owned(),
            tenant: OTHER.to_owned(),
        };
        let series = SERIES.lock().of(labels);
        for outcome in outcomes() {
            series.call(outcome, 0);
        }
        series.tokens([0; 3]);
        series.cost(0);
        series.estimated(0);
    }
}

fn record(attempt: &AttemptRecord) {
    let labels = CallLabels {
        provider: attempt.target.provider.clone(),
        model: attempt.target.model.clone(),
        route: route(&attempt.route, &attempt.target),
        tenant: tenants::label(attempt.caller.scope.tenant()),
    };
    let series = SERIES.lock().of(labels);
    let usage = &attempt.usage;
    series.call(attempt.outcome.code(), 1);
    series.tokens([usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens]);
    series.cost(usage.cost);
    series.estimated(u64::from(attempt.is_estimated || usage.estimated));
    // The duration of a call that died with its process is unknown.
    if attempt.outcome != Outcome::Lost {
        series.seconds(attempt.took);
    }
    if let Some(first) = attempt.first_content {
        series.first_content(first);
    }
}

impl KnownSeries {
    /// Returns the metrics of a call, with less specific labels if there are too many label sets.
    fn of(&mut self, labels: CallLabels) -> Arc<CallSeries> {
        if let Some(series) = self.series.get(&labels) {
            return Arc::clone(series);
        }
        let labels = labels.bounded(&mut self.labels);
        let series = self.series.entry(labels.clone());
        Arc::clone(series.or_insert_with(|| Arc::new(CallSeries::new(labels))))
    }
}

impl CallSeries {
    fn new(labels: CallLabels) -> Self {
        Self {
            labels,
            calls: outcomes().map(|outcome| (outcome, OnceLock::new())).collect(),
            tokens: ["prompt", "cached", "completion"].map(|kind| (kind, OnceLock::new())),
            cost: OnceLock::new(),
            estimated: OnceLock::new(),
            seconds: OnceLock::new(),
            first_content: OnceLock::new(),
        }
    }

    fn call(&self, outcome: &'static str, times: u64) {
        let register = || counter!("copilotd_model_calls_total", self.labels.with("outcome", outcome));
        match self.calls.iter().find(|(known, _)| *known == outcome) {
            Some((_, counter)) => counter.get_or_init(register).increment(times),
            None => register().increment(times),
        }
    }

    /// Counts prompt, cached and completion tokens.
    fn tokens(&self, tokens: [u64; 3]) {
        for ((kind, counter), tokens) in self.tokens.iter().zip(tokens) {
            let register = || counter!("copilotd_tokens_total", self.labels.with("kind", kind));
            counter.get_or_init(register).increment(tokens);
        }
    }

    /// Counted in billionths of a dollar, which add up exactly; the metrics page shows dollars.
    fn cost(&self, nano_usd: u64) {
        let register = || counter!("copilotd_model_cost_usd_total", self.labels.all());
        self.cost.get_or_init(register).increment(nano_usd);
    }

    fn estimated(&self, times: u64) {
        let register = || counter!("copilotd_model_calls_estimated_total", self.labels.all());
        self.estimated.get_or_init(register).increment(times);
    }

    fn seconds(&self, took: Duration) {
        let register = || histogram!("copilotd_model_call_seconds", self.labels.all());
        self.seconds.get_or_init(register).record(took.as_secs_f64());
    }

    fn first_content(&self, after: Duration) {
        let register = || histogram!("copilotd_model_first_content_seconds", self.labels.all());
        self.first_content.get_or_init(register).record(after.as_secs_f64());
    }
}

/// Returns the route label: the name, or [`DIRECT`] if the caller named the target.
fn route(name: &str, target: &TargetName) -> String {
    if name == target.to_string() {
        DIRECT.to_owned()
    } else {
        name.to_owned()
    }
}

impl CallLabels {
    /// Returns these labels while the limit allows it, otherwise less specific ones.
    fn bounded(self, known: &mut HashSet<Self>) -> Self {
        let others = Self {
            tenant: OTHER.to_owned(),
            ..self.clone()
        };
        for (labels, most) in [(self, MAX_SERIES), (others, 2 * MAX_SERIES)] {
            if known.contains(&labels) {
                return labels;
            }
            if known.len() < most {
                known.insert(labels.clone());
                return labels;
            }
        }
        Self {
            provider: OTHER.to_owned(),
            model: OTHER.to_owned(),
            route: OTHER.to_owned(),
            tenant: OTHER.to_owned(),
        }
    }

    fn all(&self) -> Vec<Label> {
        vec![
            Label::new("provider", self.provider.clone()),
            Label::new("model", self.model.clone()),
            Label::new("route", self.route.clone()),
            Label::new("tenant", self.tenant.clone()),
        ]
    }

    fn with(&self, name: &'static str, value: &'static str) -> Vec<Label> {
        let mut labels = self.all();
        labels.push(Label::new(name, value));
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(model: usize, tenant: usize) -> CallLabels {
        CallLabels {
            provider: "main".to_owned(),
            model: format!("m{model}"),
            route: "default".to_owned(),
            tenant: format!("t{tenant}"),
        }
    }

    #[test]
    fn a_model_that_a_caller_names_makes_no_route() {
        let target = TargetName {
            provider: "main".to_owned(),
            model: "org/large".to_owned(),
        };
        for (name, expected) in [("default", "default"), ("main/org/large", DIRECT)] {
            assert_eq!(route(name, &target), expected);
        }
    }

    #[test]
    fn labels_are_bounded_however_many_tenants_and_models_there_are() {
        let mut known = HashSet::new();
        let mut shown = HashSet::new();
        for tenant in 0..MAX_SERIES {
            assert_eq!(labels(0, tenant).bounded(&mut known), labels(0, tenant));
        }
        for (model, tenant) in (0..3 * MAX_SERIES).flat_map(|model| [(model, 0), (model, 5_000 + model)]) {
            let found = labels(model, tenant).bounded(&mut known);
            let of_other_tenant = CallLabels {
                tenant: OTHER.to_owned(),
                ..labels(model, tenant)
            };
            let is_known = model == 0 && tenant == 0;
            assert!(
                is_known || found == of_other_tenant || found.model == OTHER,
                "{found:?}"
            );
            shown.insert(found);
        }
        // The first thousand label sets stay unchanged.
        assert_eq!(labels(0, 7).bounded(&mut known), labels(0, 7));
        assert_eq!(known.len(), 2 * MAX_SERIES);
        assert!(shown.len() <= MAX_SERIES + 2, "{}", shown.len());
    }
}

//! Metrics of model calls by provider, model, route and tenant: every call in the usage ledger, whatever its purpose.
//!
//! Invariant: at most [`MAX_SERIES`] label sets, and as many again without a tenant's name, however many tenants and
//! routes there are. Every label value comes from the configuration or this file, never from a caller or provider.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use copilotd_actors::domain::usage::LostUsage;
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::meter::{AttemptRecord, LostEstimate, Meter, Outcome, UnreportedAttempts};
use copilotd_gateway::request::call::CacheOutcome;
use copilotd_gateway::target::TargetName;
use jiff::Timestamp;
use metrics::{Label, counter, histogram};
use parking_lot::Mutex;
use uuid::Uuid;

use super::initial_counters::outcomes;
use super::tenants::{self, OTHER};

/// Maximum number of label sets that name a tenant; sets without one may be as many again.
const MAX_SERIES: usize = 1_000;
/// The route label of calls that name a model directly, as `provider/model`.
const DIRECT: &str = "direct";

static SERIES: LazyLock<Mutex<HashSet<CallLabels>>> = LazyLock::new(Mutex::default);

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
        let labels = labels.bounded(&mut SERIES.lock());
        for outcome in outcomes() {
            counter!("copilotd_model_calls_total", labels.with("outcome", outcome)).increment(0);
        }
        for kind in ["prompt", "cached", "completion"] {
            counter!("copilotd_tokens_total", labels.with("kind", kind)).increment(0);
        }
        counter!("copilotd_model_cost_usd_total", labels.all()).increment(0);
        counter!("copilotd_model_calls_estimated_total", labels.all()).increment(0);
    }
}

fn record(attempt: &AttemptRecord) {
    let labels = CallLabels {
        provider: attempt.target.provider.clone(),
        model: attempt.target.model.clone(),
        route: route(&attempt.route, &attempt.target),
        tenant: tenants::label(attempt.caller.scope.tenant()),
    };
    let labels = labels.bounded(&mut SERIES.lock());
    let usage = &attempt.usage;
    let outcome = attempt.outcome.code();
    counter!("copilotd_model_calls_total", labels.with("outcome", outcome)).increment(1);
    for (kind, tokens) in [
        ("prompt", usage.prompt_tokens),
        ("cached", usage.cached_tokens),
        ("completion", usage.completion_tokens),
    ] {
        counter!("copilotd_tokens_total", labels.with("kind", kind)).increment(tokens);
    }
    // Counted in billionths of a dollar, which add up exactly; the metrics page shows dollars.
    counter!("copilotd_model_cost_usd_total", labels.all()).increment(usage.cost);
    let estimated = attempt.is_estimated || usage.estimated;
    counter!("copilotd_model_calls_estimated_total", labels.all()).increment(u64::from(estimated));
    // The duration of a call that died with its process is unknown.
    if attempt.outcome != Outcome::Lost {
        histogram!("copilotd_model_call_seconds", labels.all()).record(attempt.took.as_secs_f64());
    }
    if let Some(first) = attempt.first_content {
        histogram!("copilotd_model_first_content_seconds", labels.all()).record(first.as_secs_f64());
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

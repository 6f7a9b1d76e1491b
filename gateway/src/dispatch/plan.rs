//! Plans a request: its route, the targets its tenant may use, and its expected usage.
//!
//! Invariant: a call is sent to a target only with a key that [`Access`] returned for the call's tenant.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::tenancy::TenantScope;
use tokio::time::Instant;

use super::attempt::CallContext;
use super::bill::Bill;
use super::execution::{Execution, ExecutionRequest, ReadyAnswer};
use super::limits::{CallLimits, Prompt};
use super::resume::TargetFailure;
use super::{ModelCard, billed, failure};
use crate::access::{Access, TenantPolicy};
use crate::error::{GatewayError, GatewayErrorKind, LimitState};
use crate::meter::Meter;
use crate::request::body::ChatBody;
use crate::request::call::{CacheOutcome, Caller, Purpose};
use crate::request::embed::{EmbedCall, EmbedReply};
use crate::request::prompt_tokens::Prompt as Counted;
use crate::request::report::ReportCarrier;
use crate::routing as route;
use crate::routing::{Candidate, FailoverPlan, Ranking, Route, TargetWithKeys};
use crate::target::{Kind, Target, TargetName};

/// Total time that a request waits for providers that want it to be retried later.
const PATIENCE: Duration = Duration::from_secs(10);
/// `Retry-After` when usage cannot be recorded.
const LEDGER_RETRY: Duration = Duration::from_secs(5);
/// Longest time for one request, whatever its route says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Knows the routes, and who may use them and how much.
#[derive(Debug, Clone)]
pub(super) struct Planner {
    pub(super) routes: Arc<HashMap<String, Arc<Route>>>,
    pub(super) access: Arc<dyn Access>,
    pub(super) meter: Option<Arc<dyn Meter>>,
    pub(super) limits: Option<Arc<CallLimits>>,
    /// Attempts that ended and whose tokens are being counted.
    pub(super) counting: Arc<Bill>,
}

/// Features that a request needs from a model.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    pub(super) tools: bool,
    pub(super) schema: bool,
}

impl ChatBody {
    pub(super) fn needs(&self) -> Needs {
        Needs {
            tools: self.has_tools(),
            schema: self.has_schema(),
        }
    }
}

impl Planner {
    /// Embeds texts. `within` bounds the whole call and is divided among the targets.
    pub(super) async fn embed(&self, call: EmbedCall, within: Option<Duration>) -> Result<EmbedReply, GatewayError> {
        let route = self.route(&call.route)?;
        let body = Arc::new(call.body);
        let request = ExecutionRequest::Embed(Arc::clone(&body));
        let mut execution = self.execution(&route, call.caller, request, Needs::default(), body.size(), &[])?;
        if let Some(within) = within {
            execution.limit_time(within);
        }
        let limits = self.reserve(&mut execution, &route, Prompt::embed(&body)).await?;
        let (candidate, got) = Self::answered(&mut execution).await?;
        let ReadyAnswer::Embedded(answer) = got else {
            unreachable!("an embedding was asked for")
        };
        let usage = execution.context.bill.total().await;
        let tenant = execution.context.caller.scope.tenant();
        Ok(EmbedReply {
            model: execution.plan.target(candidate).name.to_string(),
            attempts: execution.plan.attempts(),
            usage,
            limits,
            body: billed::document(tenant, answer.body, ReportCarrier::Embeddings, answer.usage, usage).await,
        })
    }

    /// Reserves usage for all attempts of an execution; returns the state of the rate limits.
    pub(super) async fn reserve(
        &self,
        execution: &mut Execution,
        route: &Route,
        prompt: Prompt<'_>,
    ) -> Result<Vec<LimitState>, GatewayError> {
        self.wait_for_ledger_room().await?;
        let Some(limits) = &self.limits else {
            return Ok(Vec::new());
        };
        let reservation = limits.reserve(&execution.context.caller, route, prompt).await?;
        let standings = reservation.standings().to_vec();
        execution.context.reservation = Some(reservation);
        Ok(standings)
    }

    /// Lets a call wait until it can be recorded, which slows calls down to the pace of the store; refuses it if that
    /// takes too long.
    pub(super) async fn wait_for_ledger_room(&self) -> Result<(), GatewayError> {
        if let Some(meter) = &self.meter
            && !meter.has_room()
            && !meter.wait_for_room().await
        {
            return Err(Self::no_ledger_room());
        }
        Ok(())
    }

    fn no_ledger_room() -> GatewayError {
        let message = "usage cannot be recorded at the moment, so no new model calls are accepted";
        let mut error = GatewayError::new(GatewayErrorKind::LimitsUnavailable, message);
        error.retry_after = Some(LEDGER_RETRY);
        error
    }

    /// Runs an execution; a failure becomes the caller's error.
    pub(super) async fn answered(execution: &mut Execution) -> Result<(Candidate, ReadyAnswer), GatewayError> {
        if let Some(found) = execution.run().await {
            return Ok(found);
        }
        let (only_keys, attempts) = (execution.plan.only_keys_failed(), execution.plan.attempts());
        Err(match execution.plan.failure(Instant::now()) {
            Some(error) => failure::before(error, only_keys, attempts),
            None => GatewayError::new(
                GatewayErrorKind::Timeout,
                "the time limit was reached before a model could be called",
            ),
        })
    }

    /// Returns the policy that applies to a tenant's call.
    pub(super) fn policy(&self, scope: &TenantScope, route: &Route) -> Result<Arc<TenantPolicy>, GatewayError> {
        self.access.policy(scope).ok_or_else(|| forbidden(route))
    }

    /// Plans one request. Targets in `avoided` come last.
    pub(super) fn execution(
        &self,
        route: &Route,
        caller: Caller,
        request: ExecutionRequest,
        needs: Needs,
        prompt_bytes: usize,
        avoided: &[TargetFailure],
    ) -> Result<Execution, GatewayError> {
        let (kind, body) = match &request {
            ExecutionRequest::Live(body, _) | ExecutionRequest::Buffered(body) => (Kind::Stream, Some(body)),
            ExecutionRequest::Whole(body) => (Kind::Document, Some(body)),
            ExecutionRequest::Embed(_) => (Kind::Document, None),
        };
        let prompt = match &request {
            ExecutionRequest::Live(body, _) | ExecutionRequest::Buffered(body) | ExecutionRequest::Whole(body) => {
                Counted::chat(Arc::clone(body))
            }
            ExecutionRequest::Embed(body) => Counted::embed(Arc::clone(body)),
        };
        // Checked only where it makes a difference.
        let is_begun =
            route.targets.iter().any(|target| target.prefill) && body.is_some_and(|body| body.begins_answer());
        let (max_output, answers) = body.map_or((Some(0), 1), |body| (body.max_tokens(), body.choices()));
        let mut targets = self.targets(&caller.scope, route, needs, kind, is_begun)?;
        targets.sort_by_key(|(target, _)| avoided.iter().any(|(failed, _)| *failed == target.name));
        // A turn waits in its conversation instead, where its user sees it.
        let patience = match caller.purpose {
            Purpose::Turn => Duration::ZERO,
            _ => PATIENCE,
        };
        Ok(Execution {
            request,
            context: CallContext {
                caller: Arc::new(caller),
                route: route.name.as_str().into(),
                meter: self.meter.clone(),
                limits: self.limits.clone(),
                cache: CacheOutcome::Bypass,
                reservation: None,
                bill: Arc::default(),
                counting: Arc::clone(&self.counting),
                prompt,
                prompt_bytes: prompt_bytes as u64,
                max_output,
                answers,
            },
            timeouts: route.timeouts,
            first_token_reasoning: route.first_token_reasoning.max(route.timeouts.first_token),
            hedges: route.hedges.clone(),
            plan: FailoverPlan::new(targets, patience, Instant::now() + route.timeouts.total.min(LONGEST))
                .with_hold(route.patience),
            is_time_limited: false,
            failures: Vec::new(),
        })
    }

    /// Lists the targets of a request, best first. A target without a key, which requires permission, is left out. A
    /// request whose last message begins the answer goes to targets that support prefill, if there is one.
    fn targets(
        &self,
        scope: &TenantScope,
        route: &Route,
        needs: Needs,
        kind: Kind,
        is_begun: bool,
    ) -> Result<Vec<TargetWithKeys>, GatewayError> {
        let keyed = |target: &Arc<Target>| Some((Arc::clone(target), self.access.keys(scope, target)?));
        let allowed: Vec<_> = route.targets.iter().filter_map(keyed).collect();
        if allowed.is_empty() {
            return Err(forbidden(route));
        }
        let able = |(target, _): &(Arc<Target>, _)| (!needs.tools || target.tools) && (!needs.schema || target.schema);
        let mut able: Vec<_> = allowed.into_iter().filter(able).map(Some).collect();
        if able.is_empty() {
            let message = format!(
                "no model of {:?} supports the requested tools or JSON schema",
                route.name
            );
            return Err(GatewayError::new(GatewayErrorKind::Invalid, message));
        }
        let goes_on = |keyed: &Option<(Arc<Target>, _)>| keyed.as_ref().is_some_and(|(target, _)| target.prefill);
        if is_begun && able.iter().any(goes_on) {
            able.retain(goes_on);
        }
        let standing = |keyed: &Option<(Arc<Target>, _)>| {
            let target = keyed.as_ref().map(|(target, _)| target);
            Ranking {
                weight: target.and_then(|target| target.weight),
                score: target.map_or(0.0, |target| target.state.with(|health, _| health.score(kind))),
            }
        };
        let standings: Vec<Ranking> = able.iter().map(standing).collect();
        let order = route::order(&standings, |n| rand::random_range(0..n));
        Ok(order.into_iter().filter_map(|index| able[index].take()).collect())
    }

    /// Lists the models that `scope` may use, ordered by id.
    pub(super) fn models(&self, scope: &TenantScope) -> Vec<ModelCard> {
        let mut cards = Vec::new();
        for route in self.routes.values() {
            let allowed: Vec<&Arc<Target>> = route
                .targets
                .iter()
                .filter(|target| self.access.allowed(scope, target))
                .collect();
            cards.extend(allowed.iter().map(|target| ModelCard {
                id: target.name.to_string(),
                owner: target.name.provider.clone(),
                context_tokens: target.context_tokens,
            }));
            cards.extend(
                allowed
                    .iter()
                    .map(|target| target.context_tokens)
                    .max()
                    .map(|context_tokens| ModelCard {
                        id: route.name.clone(),
                        owner: "copilotd".to_owned(),
                        context_tokens,
                    }),
            );
        }
        cards.sort_by(|a, b| a.id.cmp(&b.id));
        cards.dedup_by(|a, b| a.id == b.id);
        cards
    }

    /// Returns the route of that name, or a route with one target that some route has.
    pub(super) fn route(&self, name: &str) -> Result<Arc<Route>, GatewayError> {
        if let Some(route) = self.routes.get(name) {
            return Ok(Arc::clone(route));
        }
        let target = TargetName::parse(name);
        let named = |route: &&Arc<Route>| route.targets.iter().any(|known| Some(&known.name) == target.as_ref());
        let route = self.routes.values().find(named).ok_or_else(|| {
            GatewayError::new(
                GatewayErrorKind::UnknownRoute,
                format!("the model {name:?} does not exist or you do not have access to it"),
            )
        })?;
        let targets = route
            .targets
            .iter()
            .filter(|known| Some(&known.name) == target.as_ref());
        Ok(Arc::new(Route {
            name: name.to_owned(),
            targets: targets.cloned().collect(),
            timeouts: route.timeouts,
            first_token_reasoning: route.first_token_reasoning,
            patience: route.patience,
            mode: route.mode,
            hedges: route.hedges.clone(),
        }))
    }
}

fn forbidden(route: &Route) -> GatewayError {
    let message = format!("this tenant may not use the model {:?}", route.name);
    GatewayError::new(GatewayErrorKind::Forbidden, message)
}

//! The gateway, which every model call passes through: those of turns and summaries, and those of other services
//! through the OpenAI-compatible endpoint. It decides whether a call may run, on which target, and what happens when
//! that target fails.
//!
//! Invariant: a call is sent to a target only with a key that [`crate::access::Access`] returned for the call's tenant.

mod attempt;
pub(crate) mod attempt_usage;
mod bill;
mod billed;
mod cached;
mod circuit;
mod document_embedder;
pub(crate) mod execution;
mod failure;
mod limits;
mod plan;
mod progress;
pub(crate) mod resume;
mod route_embedder;
mod turn;

use std::collections::HashMap;
use std::sync::Arc;

pub use crate::meter::{AttemptRecord, LostEstimate, Meter, Outcome};
use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::guardrails::Guardrails;
use copilotd_actors::ports::{Clock, Embedder};
use copilotd_actors::tenancy::TenantScope;
use futures::{StreamExt, stream};

use crate::access::Access;
pub use crate::access::TenantPolicy;
use crate::answer::{Answer, Reply};
use crate::cache::{Cache, Hit, Knowledge, Settings};
use crate::error::GatewayError;
use crate::guardrail::Guard;
use crate::limit::{AnswerStatistics, CallPermits, Limiter};
use crate::request::call::{CacheOutcome, Caller, GatewayCall, Mode};
use crate::request::embed::{EmbedCall, EmbedReply};
use crate::routing::Route;
pub use cached::Embeddings;
use cached::{LookupRequest, LookupResult, RouteCaches};
pub use document_embedder::{DocumentModel, TextForm};
use execution::{ExecutionRequest, ReadyAnswer};
use limits::{CallLimits, Prompt};
use plan::Planner;
use resume::FallbackMemory;

/// The gateway; one per process.
#[derive(Debug)]
pub struct Gateway {
    planner: Planner,
    cached: Option<RouteCaches>,
    turns: FallbackMemory,
    guardrails: Guardrails,
}

/// A model that a tenant may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// Name of a route, or `provider/model`.
    pub id: String,
    /// Name of the provider; `copilotd` for a route.
    pub owner: String,
    /// Context window: prompt and answer together, in tokens.
    pub context_tokens: u64,
}

impl Gateway {
    /// Creates a gateway for `routes`, with the keys of `access`.
    pub fn new(routes: Vec<Route>, access: Arc<dyn Access>) -> Self {
        let routes = routes
            .into_iter()
            .map(|route| (route.name.clone(), Arc::new(route)))
            .collect();
        Self {
            planner: Planner {
                routes: Arc::new(routes),
                access,
                meter: None,
                limits: None,
                counting: Arc::default(),
            },
            cached: None,
            turns: FallbackMemory::default(),
            guardrails: Guardrails::default(),
        }
    }

    /// Applies these detectors, beside tenants' deny rules, to requests of the endpoint and their answers.
    #[must_use]
    pub fn with_guardrails(mut self, guardrails: Guardrails) -> Self {
        self.guardrails = guardrails;
        self
    }

    /// Returns the guardrails of the endpoint; turns use the same detectors.
    pub fn guardrails(&self) -> &Guardrails {
        &self.guardrails
    }

    /// Reports every attempt to `meter`.
    #[must_use]
    pub fn with_meter(mut self, meter: Arc<dyn Meter>) -> Self {
        self.planner.meter = Some(meter);
        self
    }

    /// Reserves the expected usage of every call with `limiter`. Expected costs come from `prices`.
    #[must_use]
    pub fn with_limits(mut self, limiter: Arc<dyn Limiter>, prices: PriceList, clock: Arc<dyn Clock>) -> Self {
        self.planner.limits = Some(Arc::new(CallLimits {
            limiter,
            learned: AnswerStatistics::default(),
            prices,
            clock,
            permits: CallPermits::default(),
        }));
        self
    }

    /// Starts with what earlier processes learned about models' answers. Call it after [`Gateway::with_limits`].
    #[must_use]
    pub fn with_learned(mut self, learned: AnswerStatistics) -> Self {
        if let Some(limits) = self.planner.limits.as_mut().and_then(Arc::get_mut) {
            limits.learned = learned;
        }
        self
    }

    /// Bounds one tenant's concurrent calls by the file descriptors that the process has for provider connections.
    pub fn bound_calls(&self, files: usize) {
        if let Some(limits) = &self.planner.limits {
            limits.permits.bound(files);
        }
    }

    /// Answers requests on the listed `routes` from `cache`.
    #[must_use]
    pub fn with_cache(
        mut self,
        cache: Arc<Cache>,
        routes: HashMap<String, (Settings, Embeddings)>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        self.cached = Some(RouteCaches { cache, routes, clock });
        self
    }

    /// Returns whether the local embedding model for semantic lookups is loaded; `None` if no route uses it.
    pub fn embeds(&self) -> Option<bool> {
        let mut routes = self.cached.as_ref()?.routes.values();
        routes.find_map(|(_, embeddings)| match embeddings {
            Embeddings::Local(embedder) => Some(embedder.is_some()),
            Embeddings::None | Embeddings::Route(_) => None,
        })
    }

    /// Returns whether the store of the limits is reachable; `None` if limits are kept in this process.
    pub fn limits_ready(&self) -> Option<bool> {
        self.planner.limits.as_ref()?.limiter.is_ready()
    }

    /// Waits until the usage of finished calls is visible to other processes.
    pub async fn settled(&self) {
        self.planner.counting.total().await;
        if let Some(limits) = &self.planner.limits {
            limits.limiter.settled().await;
        }
    }

    /// Deletes a tenant's cached answers, or those of one of its routes. Returns how many.
    pub fn forget(&self, scope: &TenantScope, route: Option<&str>) -> usize {
        let cached = self.cached.as_ref();
        cached.map_or(0, |cached| cached.cache.forget(scope, route))
    }

    /// Whether a call of the tenant is in flight, including calls that no request waits for.
    pub fn is_calling(&self, scope: &TenantScope) -> bool {
        let limits = self.planner.limits.as_ref();
        limits.is_some_and(|limits| limits.permits.is_calling(scope))
    }

    /// Deletes everything stored for a tenant: cached answers and limit counters. Returns how many of each.
    ///
    /// # Errors
    /// When the store of the limits does not respond.
    pub async fn forget_tenant(&self, scope: &TenantScope) -> Result<(u64, u64), String> {
        let answers = self
            .cached
            .as_ref()
            .map_or(0, |cached| cached.cache.forget_tenant(scope));
        let counted = match &self.planner.limits {
            Some(limits) => {
                limits.learned.forget(scope.tenant());
                limits.limiter.forget(scope).await?
            }
            None => 0,
        };
        Ok((answers as u64, counted))
    }

    /// Counts a turn against the request rate when it is submitted. Refuses it when the rate limit is reached, a budget
    /// is exhausted, or the usage of its calls could not be recorded.
    pub async fn admit(&self, caller: &Caller) -> Result<(), GatewayError> {
        self.planner.wait_for_ledger_room().await?;
        match &self.planner.limits {
            Some(limits) => limits.admit(caller).await,
            None => Ok(()),
        }
    }

    /// Answers a chat request.
    pub async fn chat(&self, call: GatewayCall) -> Result<Reply, GatewayError> {
        let GatewayCall {
            caller,
            route,
            body,
            mode,
            cache: cache_control,
            knowledge,
        } = call;
        let route = self.planner.route(&route)?;
        let body = Arc::new(body);
        let request = match (body.stream(), mode.unwrap_or(route.mode)) {
            (false, _) => ExecutionRequest::Whole(Arc::clone(&body)),
            (true, Mode::Live) => ExecutionRequest::Live(Arc::clone(&body), true),
            (true, Mode::Buffered) => ExecutionRequest::Buffered(Arc::clone(&body)),
        };
        let mut execution = self
            .planner
            .execution(&route, caller, request, body.needs(), body.size(), &[])?;
        // Read together with the keys: a tenant that is removed meanwhile has neither.
        let policy = self.planner.policy(&execution.context.caller.scope, &route)?;
        let limits = self
            .planner
            .reserve(&mut execution, &route, Prompt::chat(&body))
            .await?;
        let scope = execution.context.caller.scope.clone();
        let guard = |policy| Guard {
            guardrails: self.guardrails.clone(),
            scope: scope.clone(),
            policy,
        };
        guard(Arc::clone(&policy)).admit(&body).await?;
        let (mut pending_fill, mut policy) = (None, policy);
        let mut cache = CacheOutcome::Bypass;
        if let Some(cached) = &self.cached {
            let lookup_request = LookupRequest {
                route: &route.name,
                body: &body,
                cache_control,
                knowledge: Knowledge {
                    tenant: &policy.knowledge_version,
                    caller: knowledge.as_deref().unwrap_or_default(),
                },
            };
            let lookup_result = cached
                .look_up(&self.planner, &execution.context.caller, lookup_request)
                .await;
            // The lookup may have waited for another caller's answer, so read the tenant's policy again; the tenant may
            // also have been removed.
            policy = self.planner.policy(&execution.context.caller.scope, &route)?;
            match lookup_result {
                LookupResult::Bypass => {}
                LookupResult::Miss(lead) => {
                    (pending_fill, cache) = (Some(lead), CacheOutcome::Miss);
                    execution.context.cache = cache;
                }
                LookupResult::Hit(hit) => {
                    let Hit { kept, audit, .. } = *hit;
                    if let Some(audit) = audit {
                        self.check(audit, &route, Caller::clone(&execution.context.caller), &body);
                    }
                    let answer = cached.replay(&kept, &body);
                    self.record_hit(&execution, &kept);
                    let answer = guard(policy).guarded(&body, answer).await?;
                    let (answer, cost) = billed::answer(&execution.context, &body, answer, kept.usage).await;
                    return Ok(Reply {
                        model: kept.by.map_or(kept.model, |by| by.to_string()),
                        attempts: 0,
                        cache: CacheOutcome::Hit,
                        cost,
                        limits,
                        answer,
                    });
                }
            }
        }
        let answered = Planner::answered(&mut execution).await;
        let (candidate, got) = answered.map_err(|error| guard(Arc::clone(&policy)).withhold_matching(error))?;
        let (attempts, context) = (execution.plan.attempts(), execution.context.clone());
        let target = execution.plan.target(candidate).name.clone();
        if let Some(pending_fill) = &mut pending_fill {
            pending_fill.by = Some(target.clone());
        }
        let (answer, usage) = match got {
            ReadyAnswer::Whole(whole) => (Answer::Whole(whole.body), Some(whole.usage)),
            ReadyAnswer::Embedded(answer) => (Answer::Whole(answer.body), Some(answer.usage)),
            ReadyAnswer::Stream { held, rest } => {
                let pieces = stream::iter(held.into_iter().map(Ok)).chain(rest).boxed();
                (
                    Answer::Stream(crate::dispatch::resume::resumable(execution, candidate, pieces)),
                    None,
                )
            }
        };
        // The cache stores what the model said, before guardrails: rules may change.
        let answer = cached::store_answer(pending_fill, answer, usage);
        let answer = guard(policy).guarded(&body, answer).await?;
        let (answer, cost) = billed::answer(&context, &body, answer, usage.unwrap_or_default()).await;
        Ok(Reply {
            model: target.to_string(),
            attempts,
            cache,
            cost,
            limits,
            answer,
        })
    }

    /// Embeds texts.
    pub async fn embed(&self, call: EmbedCall) -> Result<EmbedReply, GatewayError> {
        self.planner.embed(call, None).await
    }

    /// Returns what embeds the documents of tenants, and their questions, with a model of a provider.
    pub fn document_embedder(&self, model: DocumentModel) -> Arc<dyn Embedder> {
        Arc::new(document_embedder::DocumentEmbedder::new(&self.planner, model))
    }

    /// Lists the models that `scope` may use, ordered by id.
    pub fn models(&self, scope: &TenantScope) -> Vec<ModelCard> {
        self.planner.models(scope)
    }
}

//! The cache lookup of a chat request: after permission and reservation, before any model is called. A hit counts as
//! one request against the rate limit and costs no tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::compute;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::Clock;
use futures::{StreamExt, stream};

use super::Gateway;
use super::execution::{Execution, ExecutionRequest, ReadyAnswer};
use super::limits::Prompt;
use super::plan::Planner;
use super::route_embedder::RouteEmbedder;
use crate::answer::Answer;
use crate::cache::{
    Audit, Cache, CachedAnswer, Hit, Knowledge, Lookup, PendingFill, Question, Rules, Settings, Skip, question,
};
use crate::meter::{AttemptRecord, Outcome};
use crate::request::body::ChatBody;
use crate::request::call::{CacheControl, CacheOutcome, Caller, Purpose};
use crate::routing::Route;
use crate::target::TargetName;
use copilotd_actors::ports::Embedder;

/// Embedding model that finds similar questions of a route.
#[derive(Debug, Clone)]
pub enum Embeddings {
    /// None: only identical questions are found.
    None,
    /// A model in this process; `None` if it could not be loaded.
    Local(Option<Arc<dyn Embedder>>),
    /// The models of a route, charged to the caller.
    Route(Arc<str>),
}

/// The cache with the settings of the routes that use it.
#[derive(Debug)]
pub(super) struct RouteCaches {
    pub(super) cache: Arc<Cache>,
    pub(super) routes: HashMap<String, (Settings, Embeddings)>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Result of a cache lookup.
pub(super) enum LookupResult {
    Hit(Box<Hit>),
    Miss(Box<PendingFill>),
    Bypass,
}

/// What to look up.
#[derive(Clone, Copy)]
pub(super) struct LookupRequest<'a> {
    pub(super) route: &'a str,
    pub(super) body: &'a Arc<ChatBody>,
    pub(super) cache_control: CacheControl,
    pub(super) knowledge: Knowledge<'a>,
}

impl RouteCaches {
    /// Looks up an answer.
    pub(super) async fn look_up(
        &self,
        planner: &Planner,
        caller: &Caller,
        lookup_request: LookupRequest<'_>,
    ) -> LookupResult {
        let LookupRequest {
            route,
            cache_control,
            knowledge,
            ..
        } = lookup_request;
        let Some((settings, embeddings)) = self.routes.get(route) else {
            return LookupResult::Bypass;
        };
        let embedder: Option<Arc<dyn Embedder>> = match embeddings {
            Embeddings::None => None,
            Embeddings::Local(embedder) => embedder.clone(),
            Embeddings::Route(name) => Some(Arc::new(RouteEmbedder::new(planner, caller, name))),
        };
        let bar = match cache_control {
            CacheControl::AtLeast(thousandths) => Some(f32::from(thousandths) / 1_000.0),
            CacheControl::Use | CacheControl::Bypass => None,
        };
        let lookup_result = match read_question(caller, lookup_request, settings.rules.clone()).await {
            Ok(question) => {
                self.cache.set_knowledge_version(&caller.scope, knowledge.tenant);
                match self.cache.look_up(question, settings, embedder, bar).await {
                    Lookup::Hit(hit) => LookupResult::Hit(hit),
                    Lookup::Lead(pending_fill) => LookupResult::Miss(pending_fill),
                }
            }
            Err(skip) => {
                count(Skip::code(skip));
                return LookupResult::Bypass;
            }
        };
        count(if matches!(lookup_result, LookupResult::Hit(_)) {
            "hit"
        } else {
            "miss"
        });
        lookup_result
    }

    /// Converts a cached answer to the requested form.
    pub(super) fn replay(&self, kept: &CachedAnswer, body: &ChatBody) -> Answer {
        let id = format!("chatcmpl-{}", uuid::Uuid::now_v7().simple());
        let created = self.clock.now().as_second();
        if body.stream() {
            let pieces = kept.pieces(&id, created, body.include_usage());
            Answer::Stream(stream::iter(pieces.into_iter().map(Ok)).boxed())
        } else {
            Answer::Whole(kept.whole(&id, created))
        }
    }
}

/// Extracts the question from a body; from a large one on the compute pool.
async fn read_question(caller: &Caller, lookup_request: LookupRequest<'_>, rules: Rules) -> Result<Question, Skip> {
    let (by, route, body) = (
        caller.clone(),
        lookup_request.route.to_owned(),
        Arc::clone(lookup_request.body),
    );
    let cache_control = lookup_request.cache_control;
    let (of_tenant, of_caller) = (
        lookup_request.knowledge.tenant.to_owned(),
        lookup_request.knowledge.caller.to_owned(),
    );
    let read = move || {
        let knowledge = Knowledge {
            tenant: &of_tenant,
            caller: &of_caller,
        };
        question(&by, &route, &body, knowledge, cache_control, &rules)
    };
    // If it cannot be read now, the model is called.
    let read = compute::run(Some(caller.scope.tenant()), lookup_request.body.size(), read).await;
    read.unwrap_or(Err(Skip::Long))
}

fn count(outcome: &'static str) {
    metrics::counter!("copilotd_cache_lookups_total", "outcome" => outcome).increment(1);
}

/// Stores the model's answer, if it is complete and cacheable.
pub(super) fn store_answer(pending_fill: Option<Box<PendingFill>>, answer: Answer, usage: Option<Usage>) -> Answer {
    let Some(pending_fill) = pending_fill else {
        return answer;
    };
    match answer {
        Answer::Whole(body) => {
            if let Some(kept) = CachedAnswer::from_whole(&body, usage.unwrap_or_default())
                && let Some((audit, fresh)) = pending_fill.fill(kept)
            {
                tokio::spawn(audit.settle(Some(fresh)));
            }
            Answer::Whole(body)
        }
        Answer::Stream(stream) => Answer::Stream(pending_fill.record(stream)),
    }
}

impl Gateway {
    /// Records a cache hit: it has no cost, but counts as a request.
    pub(super) fn record_hit(&self, execution: &Execution, kept: &CachedAnswer) {
        let Some(meter) = &self.planner.meter else { return };
        let unknown = || TargetName {
            provider: String::new(),
            model: kept.model.clone(),
        };
        meter.attempted(AttemptRecord {
            id: None,
            caller: Arc::clone(&execution.context.caller),
            route: Arc::clone(&execution.context.route),
            target: kept.by.clone().unwrap_or_else(unknown),
            key: String::new(),
            number: 0,
            model: Some(kept.model.clone()),
            usage: Usage::default(),
            is_estimated: false,
            outcome: Outcome::Finished(Finish::Stop),
            cache: CacheOutcome::Hit,
            first_content: None,
            took: Duration::ZERO,
        });
    }

    /// Calls the model to check a cache hit, charged to the tenant, so that the cache learns from it.
    pub(super) fn check(&self, audit: Audit, route: &Arc<Route>, caller: Caller, body: &ChatBody) {
        let mut body = body.clone();
        // Neither can fail: both members were valid when the body was parsed.
        if body.remove("stream_options").is_err() || body.remove("stream").is_err() {
            return;
        }
        let body = Arc::new(body);
        let caller = Caller {
            purpose: Purpose::Audit,
            ..caller
        };
        let Ok(mut execution) = self.planner.execution(
            route,
            caller,
            ExecutionRequest::Whole(Arc::clone(&body)),
            body.needs(),
            body.size(),
            &[],
        ) else {
            return;
        };
        let (limits, route) = (self.planner.limits.clone(), Arc::clone(route));
        tokio::spawn(async move {
            if let Some(limits) = limits {
                match limits
                    .reserve(&execution.context.caller, &route, Prompt::chat(&body))
                    .await
                {
                    Ok(reservation) => execution.context.reservation = Some(reservation),
                    // An audit never uses capacity that a caller could use.
                    Err(_) => return,
                }
            }
            let fresh = match execution.run().await {
                Some((_, ReadyAnswer::Whole(whole))) => CachedAnswer::from_whole(&whole.body, whole.usage),
                _ => None,
            };
            audit.settle(fresh).await;
        });
    }
}

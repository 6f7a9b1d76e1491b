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
use super::execution::{Ask, Drive, Got};
use super::limits::Prompt;
use super::plan::Planner;
use super::route_embedder::RouteEmbedder;
use crate::answer::Answer;
use crate::cache::embedder::Embedder;
use crate::cache::{Audit, Cache, Found, Hit, Kept, Knowledge, Question, Rules, Settings, Skip, Ticket, question};
use crate::meter::{Attempted, Outcome};
use crate::request::body::ChatBody;
use crate::request::call::{CacheOutcome, CacheWish, Caller, Purpose};
use crate::routing::Route;
use crate::target::TargetName;

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
pub(super) struct Cached {
    pub(super) cache: Arc<Cache>,
    pub(super) routes: HashMap<String, (Settings, Embeddings)>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Result of a cache lookup.
pub(super) enum Looked {
    Hit(Box<Hit>),
    Miss(Box<Ticket>),
    Bypass,
}

/// What to look up.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) route: &'a str,
    pub(super) body: &'a Arc<ChatBody>,
    pub(super) wish: CacheWish,
    pub(super) knowledge: Knowledge<'a>,
}

impl Cached {
    /// Looks up an answer.
    pub(super) async fn look_up(&self, planner: &Planner, caller: &Caller, asked: Asked<'_>) -> Looked {
        let Asked {
            route, wish, knowledge, ..
        } = asked;
        let Some((settings, embeddings)) = self.routes.get(route) else {
            return Looked::Bypass;
        };
        let embedder: Option<Arc<dyn Embedder>> = match embeddings {
            Embeddings::None => None,
            Embeddings::Local(embedder) => embedder.clone(),
            Embeddings::Route(name) => Some(Arc::new(RouteEmbedder::new(planner, caller, name))),
        };
        let bar = match wish {
            CacheWish::AtLeast(thousandths) => Some(f32::from(thousandths) / 1_000.0),
            CacheWish::Use | CacheWish::Bypass => None,
        };
        let looked = match read_question(caller, asked, settings.rules.clone()).await {
            Ok(question) => {
                self.cache.rests_on(caller.scope.tenant(), knowledge.tenant);
                match self.cache.look_up(question, settings, embedder, bar).await {
                    Found::Hit(hit) => Looked::Hit(hit),
                    Found::Lead(ticket) => Looked::Miss(ticket),
                }
            }
            Err(skip) => {
                count(Skip::code(skip));
                return Looked::Bypass;
            }
        };
        count(if matches!(looked, Looked::Hit(_)) {
            "hit"
        } else {
            "miss"
        });
        looked
    }

    /// Converts a cached answer to the requested form.
    pub(super) fn replay(&self, kept: &Kept, body: &ChatBody) -> Answer {
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
async fn read_question(caller: &Caller, asked: Asked<'_>, rules: Rules) -> Result<Question, Skip> {
    let (by, route, body) = (caller.clone(), asked.route.to_owned(), Arc::clone(asked.body));
    let wish = asked.wish;
    let (of_tenant, of_caller) = (asked.knowledge.tenant.to_owned(), asked.knowledge.caller.to_owned());
    let read = move || {
        let knowledge = Knowledge {
            tenant: &of_tenant,
            caller: &of_caller,
        };
        question(&by, &route, &body, knowledge, wish, &rules)
    };
    // If it cannot be read now, the model is called.
    let read = compute::run(Some(caller.scope.tenant()), asked.body.size(), read).await;
    read.unwrap_or(Err(Skip::Long))
}

fn count(outcome: &'static str) {
    metrics::counter!("copilotd_cache_lookups_total", "outcome" => outcome).increment(1);
}

/// Stores the model's answer, if it is complete and cacheable.
pub(super) fn keep(ticket: Option<Box<Ticket>>, answer: Answer, usage: Option<Usage>) -> Answer {
    let Some(ticket) = ticket else { return answer };
    match answer {
        Answer::Whole(body) => {
            if let Some(kept) = Kept::from_whole(&body, usage.unwrap_or_default())
                && let Some((audit, fresh)) = ticket.fill(kept)
            {
                tokio::spawn(audit.settle(Some(fresh)));
            }
            Answer::Whole(body)
        }
        Answer::Stream(stream) => Answer::Stream(ticket.record(stream)),
    }
}

impl Gateway {
    /// Records a cache hit: it has no cost, but counts as a request.
    pub(super) fn note_hit(&self, drive: &Drive, kept: &Kept) {
        let Some(meter) = &self.planner.meter else { return };
        let unknown = || TargetName {
            provider: String::new(),
            model: kept.model.clone(),
        };
        meter.attempted(Attempted {
            id: None,
            caller: Arc::clone(&drive.books.caller),
            route: Arc::clone(&drive.books.route),
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
        let Ok(mut drive) = self.planner.drive(
            route,
            caller,
            Ask::Whole(Arc::clone(&body)),
            body.needs(),
            body.size(),
            &[],
        ) else {
            return;
        };
        let (limits, route) = (self.planner.limits.clone(), Arc::clone(route));
        tokio::spawn(async move {
            if let Some(limits) = limits {
                match limits.reserve(&drive.books.caller, &route, Prompt::chat(&body)).await {
                    Ok(reservation) => drive.books.reservation = Some(reservation),
                    // An audit never uses capacity that a caller could use.
                    Err(_) => return,
                }
            }
            let fresh = match drive.run().await {
                Some((_, Got::Whole(whole))) => Kept::from_whole(&whole.body, whole.usage),
                _ => None,
            };
            audit.settle(fresh).await;
        });
    }
}

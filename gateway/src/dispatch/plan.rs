//! Plans the way of a request: its route, the targets its tenant may use, and what it is expected to use.
//!
//! Invariant: a call leaves for a target only with a key that [`Access`] handed out for its tenant.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::tenancy::TenantScope;
use tokio::time::Instant;

use super::attempt::Books;
use super::bill::Bill;
use super::drive::{Ask, Drive, Got};
use super::limits::{Limits, Prompt};
use super::rescue::Failed;
use super::{ModelCard, billed, failure};
use crate::access::{Access, Terms};
use crate::error::{GatewayError, GatewayErrorKind, LimitState};
use crate::meter::Meter;
use crate::request::body::ChatBody;
use crate::request::call::{CacheOutcome, Caller, Purpose};
use crate::request::embed::{EmbedCall, EmbedReply};
use crate::request::prompt_tokens::Prompt as Counted;
use crate::request::report::Bearer;
use crate::routing as route;
use crate::routing::{Keyed, Place, Route, Standing, Trip};
use crate::target::{Kind, Target, TargetName};

/// How long a request waits for providers that ask for patience, all in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to come back where what calls use cannot be recorded.
const BOOKS_RETRY: Duration = Duration::from_secs(5);
/// Longest time for one request, whatever its route says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Knows the routes, and who may use them and how much.
#[derive(Debug, Clone)]
pub(super) struct Planner {
    pub(super) routes: Arc<HashMap<String, Arc<Route>>>,
    pub(super) access: Arc<dyn Access>,
    pub(super) meter: Option<Arc<dyn Meter>>,
    pub(super) limits: Option<Arc<Limits>>,
    /// Attempts that are over and are being counted.
    pub(super) counting: Arc<Bill>,
}

/// What a request needs of a model.
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
    /// Embeds texts; within that time, if so, which its targets then share.
    pub(super) async fn embed(&self, call: EmbedCall, within: Option<Duration>) -> Result<EmbedReply, GatewayError> {
        let route = self.route(&call.route)?;
        let body = Arc::new(call.body);
        let ask = Ask::Embed(Arc::clone(&body));
        let mut drive = self.drive(&route, call.caller, ask, Needs::default(), body.size(), &[])?;
        if let Some(within) = within {
            drive.hurry(within);
        }
        let limits = self.reserve(&mut drive, &route, Prompt::embed(&body)).await?;
        let (place, got) = Self::answered(&mut drive).await?;
        let Got::Embedded(answer) = got else {
            unreachable!("an embedding was asked for")
        };
        let usage = drive.books.bill.total().await;
        let tenant = drive.books.caller.scope.tenant();
        Ok(EmbedReply {
            model: drive.trip.target(place).name.to_string(),
            attempts: drive.trip.attempts(),
            usage,
            limits,
            body: billed::document(tenant, answer.body, Bearer::Embeddings, answer.usage, usage).await,
        })
    }

    /// Reserves for all attempts of a drive; returns where the rates stand now.
    pub(super) async fn reserve(
        &self,
        drive: &mut Drive,
        route: &Route,
        prompt: Prompt<'_>,
    ) -> Result<Vec<LimitState>, GatewayError> {
        self.has_room_in_books()?;
        let Some(limits) = &self.limits else {
            return Ok(Vec::new());
        };
        let reservation = limits.reserve(&drive.books.caller, route, prompt).await?;
        let standings = reservation.standings().to_vec();
        drive.books.reservation = Some(reservation);
        Ok(standings)
    }

    /// Refuses a call that could not be accounted for.
    pub(super) fn has_room_in_books(&self) -> Result<(), GatewayError> {
        if self.meter.as_ref().is_none_or(|meter| meter.has_room()) {
            return Ok(());
        }
        let message = "usage cannot be recorded at the moment, so no new model calls are accepted";
        let mut error = GatewayError::new(GatewayErrorKind::LimitsUnavailable, message);
        error.retry_after = Some(BOOKS_RETRY);
        Err(error)
    }

    /// Runs a drive; what the caller is told when it fails.
    pub(super) async fn answered(drive: &mut Drive) -> Result<(Place, Got), GatewayError> {
        if let Some(found) = drive.run().await {
            return Ok(found);
        }
        let (only_keys, attempts) = (drive.trip.only_keys_failed(), drive.trip.attempts());
        Err(match drive.trip.failure(Instant::now()) {
            Some(error) => failure::before(error, only_keys, attempts),
            None => GatewayError::new(GatewayErrorKind::Timeout, "there was no time left to ask a model"),
        })
    }

    /// Returns the terms on which a call is answered.
    pub(super) fn terms(&self, scope: &TenantScope, route: &Route) -> Result<Arc<Terms>, GatewayError> {
        self.access.terms(scope).ok_or_else(|| forbidden(route))
    }

    /// Plans the way of one request. `avoided` targets come last.
    pub(super) fn drive(
        &self,
        route: &Route,
        caller: Caller,
        ask: Ask,
        needs: Needs,
        prompt_bytes: usize,
        avoided: &[Failed],
    ) -> Result<Drive, GatewayError> {
        let (kind, body) = match &ask {
            Ask::Live(body, _) | Ask::Buffered(body) => (Kind::Stream, Some(body)),
            Ask::Whole(body) => (Kind::Document, Some(body)),
            Ask::Embed(_) => (Kind::Document, None),
        };
        let prompt = match &ask {
            Ask::Live(body, _) | Ask::Buffered(body) | Ask::Whole(body) => Counted::chat(Arc::clone(body)),
            Ask::Embed(body) => Counted::embed(Arc::clone(body)),
        };
        // Looked at only where it makes a difference.
        let is_begun =
            route.targets.iter().any(|target| target.prefill) && body.is_some_and(|body| body.begins_answer());
        let (max_output, answers) = body.map_or((Some(0), 1), |body| (body.max_tokens(), body.choices()));
        let mut targets = self.targets(&caller.scope, route, needs, kind, is_begun)?;
        targets.sort_by_key(|(target, _)| avoided.iter().any(|(failed, _)| *failed == target.name));
        // A turn waits where its user sees it.
        let patience = match caller.purpose {
            Purpose::Turn => Duration::ZERO,
            _ => PATIENCE,
        };
        Ok(Drive {
            ask,
            books: Books {
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
            trip: Trip::new(targets, patience, Instant::now() + route.timeouts.total.min(LONGEST))
                .holding(route.patience),
            is_hurried: false,
            failures: Vec::new(),
        })
    }

    /// Lists where a request may go, best first. Without a key, which only a permission brings, a target is not among them.
    /// What goes on with an answer takes those that are begun, if there is such a target.
    fn targets(
        &self,
        scope: &TenantScope,
        route: &Route,
        needs: Needs,
        kind: Kind,
        is_begun: bool,
    ) -> Result<Vec<Keyed>, GatewayError> {
        let keyed = |target: &Arc<Target>| Some((Arc::clone(target), self.access.keys(scope, target)?));
        let allowed: Vec<_> = route.targets.iter().filter_map(keyed).collect();
        if allowed.is_empty() {
            return Err(forbidden(route));
        }
        let able = |(target, _): &(Arc<Target>, _)| (!needs.tools || target.tools) && (!needs.schema || target.schema);
        let mut able: Vec<_> = allowed.into_iter().filter(able).map(Some).collect();
        if able.is_empty() {
            let message = format!("no model of {:?} takes tools or a schema as asked for", route.name);
            return Err(GatewayError::new(GatewayErrorKind::Invalid, message));
        }
        let goes_on = |keyed: &Option<(Arc<Target>, _)>| keyed.as_ref().is_some_and(|(target, _)| target.prefill);
        if is_begun && able.iter().any(goes_on) {
            able.retain(goes_on);
        }
        let standing = |keyed: &Option<(Arc<Target>, _)>| {
            let target = keyed.as_ref().map(|(target, _)| target);
            Standing {
                weight: target.and_then(|target| target.weight),
                score: target.map_or(0.0, |target| target.state.with(|health, _| health.score(kind))),
            }
        };
        let standings: Vec<Standing> = able.iter().map(standing).collect();
        let order = route::order(&standings, |n| rand::random_range(0..n));
        Ok(order.into_iter().filter_map(|index| able[index].take()).collect())
    }

    /// Lists what `scope` may name as a model, ordered by id.
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

    /// Finds a route by its name, or makes one of a target that some route has.
    pub(super) fn route(&self, name: &str) -> Result<Arc<Route>, GatewayError> {
        if let Some(route) = self.routes.get(name) {
            return Ok(Arc::clone(route));
        }
        let target = TargetName::parse(name);
        let named = |route: &&Arc<Route>| route.targets.iter().any(|known| Some(&known.name) == target.as_ref());
        let route = self.routes.values().find(named).ok_or_else(|| {
            GatewayError::new(
                GatewayErrorKind::UnknownRoute,
                format!("the model {name:?} does not exist or may not be used"),
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
    let message = format!("the model {:?} may not be used", route.name);
    GatewayError::new(GatewayErrorKind::Forbidden, message)
}

//! The gateway: the way of every model call, a turn's, a summary's, or another service's through the OpenAI-compatible
//! endpoint. It decides whether a call may run, where it runs, and what happens when that fails.
//!
//! Invariant: a call leaves for a target only with a key that [`route::Access`] handed out for its tenant.

mod attempt;
pub mod body;
pub mod cache;
mod cached;
pub mod call;
mod drive;
pub mod embed;
pub mod embedder;
mod failure;
pub mod ledger;
pub mod limit;
mod limits;
mod rescue;
pub mod route;
mod turn;
pub mod upstream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use attempt::{Attempted, Meter, Outcome};
use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::ports::Clock;
use copilotd_actors::tenancy::TenantScope;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use attempt::Books;
use cache::{Cache, Hit, Settings};
use cached::{Cached, Looked};
use call::{
    Answer, CacheOutcome, Caller, GatewayCall, GatewayError, GatewayErrorKind, LimitState, Mode, Purpose, Reply,
};
use drive::{Ask, Drive, Got};
use embed::{EmbedCall, EmbedReply};
use limit::{Learned, Limiter};
use limits::{Limits, Prompt};
use rescue::{Failed, Turns};
use route::{Access, Keyed, Kind, Place, Route, Standing, Target, TargetName, Trip};

/// How long a request waits for providers that ask for patience, all in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time for one request, whatever its route says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The gateway. One per process.
#[derive(Debug)]
pub struct Gateway {
    routes: HashMap<String, Arc<Route>>,
    access: Arc<dyn Access>,
    meter: Option<Arc<dyn Meter>>,
    limits: Option<Arc<Limits>>,
    cached: Option<Cached>,
    turns: Turns,
}

/// What a request needs of a model.
#[derive(Debug, Clone, Copy, Default)]
struct Needs {
    tools: bool,
    schema: bool,
}

impl body::ChatBody {
    fn needs(&self) -> Needs {
        Needs {
            tools: self.has_tools(),
            schema: self.has_schema(),
        }
    }
}

/// A model that a tenant may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// A route's name, or `provider/model`.
    pub id: String,
    /// The provider; `copilotd` for a route.
    pub owner: String,
    /// Tokens of prompt and answer together.
    pub context_tokens: u64,
}

impl Gateway {
    /// A gateway to `routes`, with the keys of `access`.
    pub fn new(routes: Vec<Route>, access: Arc<dyn Access>) -> Self {
        let routes = routes
            .into_iter()
            .map(|route| (route.name.clone(), Arc::new(route)))
            .collect();
        Self {
            routes,
            access,
            meter: None,
            limits: None,
            cached: None,
            turns: Turns::default(),
        }
    }

    /// Tells `meter` of every attempt.
    #[must_use]
    pub fn with_meter(mut self, meter: Arc<dyn Meter>) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Has every call reserve what it is expected to use. Costs are expected by `prices`.
    #[must_use]
    pub fn with_limits(mut self, limiter: Arc<dyn Limiter>, prices: PriceList, clock: Arc<dyn Clock>) -> Self {
        self.limits = Some(Arc::new(Limits {
            limiter,
            learned: Learned::default(),
            prices,
            clock,
        }));
        self
    }

    /// Answers questions from `cache` on those routes that have settings.
    #[must_use]
    pub fn with_cache(mut self, cache: Arc<Cache>, settings: HashMap<String, Settings>, clock: Arc<dyn Clock>) -> Self {
        self.cached = Some(Cached { cache, settings, clock });
        self
    }

    /// Tells whether near questions can be found; none when no route wants that.
    pub fn embeds(&self) -> Option<bool> {
        let cached = self.cached.as_ref()?;
        let wanted = cached.settings.values().any(|settings| settings.semantic);
        wanted.then(|| cached.cache.embeds())
    }

    /// Tells whether the store of the limits answers; none when they are this process's own.
    pub fn limits_ready(&self) -> Option<bool> {
        self.limits.as_ref()?.limiter.is_ready()
    }

    /// Waits until what the calls used stands where other processes see it.
    pub async fn settled(&self) {
        if let Some(limits) = &self.limits {
            limits.limiter.settled().await;
        }
    }

    /// Forgets the answers that are kept for a tenant, or for one of its routes. Returns how many.
    pub fn forget(&self, scope: &TenantScope, route: Option<&str>) -> usize {
        let cached = self.cached.as_ref();
        cached.map_or(0, |cached| cached.cache.forget(scope.tenant(), route))
    }

    /// Counts a turn at the door; refuses it when the rate of requests is reached or a budget used up.
    pub async fn admit(&self, caller: &Caller) -> Result<(), GatewayError> {
        match &self.limits {
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
            cache: wish,
        } = call;
        let route = self.route(&route)?;
        let body = Arc::new(body);
        let ask = match (body.stream(), mode.unwrap_or(route.mode)) {
            (false, _) => Ask::Whole(Arc::clone(&body)),
            (true, Mode::Live) => Ask::Live(Arc::clone(&body), true),
            (true, Mode::Buffered) => Ask::Buffered(Arc::clone(&body)),
        };
        let mut drive = self.drive(&route, caller, ask, body.needs(), body.size(), &[])?;
        let limits = self.reserve(&mut drive, &route, Prompt::chat(&body)).await?;
        let mut ticket = None;
        let mut cache = CacheOutcome::Bypass;
        if let Some(cached) = &self.cached {
            match cached.look_up(&drive.books.caller, &route.name, &body, wish).await {
                Looked::Bypass => {}
                Looked::Miss(lead) => {
                    (ticket, cache) = (Some(lead), CacheOutcome::Miss);
                    drive.books.cache = cache;
                }
                Looked::Hit(hit) => {
                    let Hit { kept, audit, .. } = *hit;
                    if let Some(audit) = audit {
                        self.check(audit, &route, Caller::clone(&drive.books.caller), &body);
                    }
                    let (answer, cost) = cached.replay(&kept, &body);
                    self.note_hit(&drive, &kept);
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
        let (place, got) = self.answered(&mut drive).await?;
        let attempts = drive.trip.attempts();
        let target = drive.trip.target(place).name.clone();
        if let Some(ticket) = &mut ticket {
            ticket.by = Some(target.clone());
        }
        let (answer, usage) = match got {
            Got::Whole(whole) => (Answer::Whole(whole.body), Some(whole.usage)),
            Got::Embedded(answer) => (Answer::Whole(answer.body), Some(answer.usage)),
            Got::Stream { held, rest } => {
                let pieces = stream::iter(held.into_iter().map(Ok)).chain(rest).boxed();
                (Answer::Stream(rescue::continued(drive, place, pieces)), None)
            }
        };
        Ok(Reply {
            model: target.to_string(),
            attempts,
            cache,
            cost: usage.map(|usage| usage.cost),
            limits,
            answer: cached::keep(ticket, answer, usage),
        })
    }

    /// Embeds texts.
    pub async fn embed(&self, call: EmbedCall) -> Result<EmbedReply, GatewayError> {
        let route = self.route(&call.route)?;
        let body = Arc::new(call.body);
        let ask = Ask::Embed(Arc::clone(&body));
        let mut drive = self.drive(&route, call.caller, ask, Needs::default(), body.size(), &[])?;
        let limits = self.reserve(&mut drive, &route, Prompt::embed(&body)).await?;
        let (place, got) = self.answered(&mut drive).await?;
        let Got::Embedded(answer) = got else {
            unreachable!("an embedding was asked for")
        };
        Ok(EmbedReply {
            model: drive.trip.target(place).name.to_string(),
            attempts: drive.trip.attempts(),
            usage: answer.usage,
            limits,
            body: answer.body,
        })
    }

    /// Reserves for all attempts of a drive; returns where the rates stand now.
    async fn reserve(
        &self,
        drive: &mut Drive,
        route: &Route,
        prompt: Prompt<'_>,
    ) -> Result<Vec<LimitState>, GatewayError> {
        let Some(limits) = &self.limits else {
            return Ok(Vec::new());
        };
        let reservation = limits.reserve(&drive.books.caller, route, prompt).await?;
        let standings = reservation.standings().to_vec();
        drive.books.reservation = Some(reservation);
        Ok(standings)
    }

    /// Runs a drive; what the caller is told when it fails.
    async fn answered(&self, drive: &mut Drive) -> Result<(Place, Got), GatewayError> {
        if let Some(found) = drive.run().await {
            return Ok(found);
        }
        let (only_keys, attempts) = (drive.trip.only_keys_failed(), drive.trip.attempts());
        Err(match drive.trip.failure() {
            Some(error) => failure::before(error, only_keys, attempts),
            None => GatewayError::new(GatewayErrorKind::Timeout, "there was no time left to ask a model"),
        })
    }

    /// Plans the way of one request. `avoided` targets come last.
    fn drive(
        &self,
        route: &Route,
        caller: Caller,
        ask: Ask,
        needs: Needs,
        prompt_bytes: usize,
        avoided: &[Failed],
    ) -> Result<Drive, GatewayError> {
        let kind = match ask {
            Ask::Live(..) | Ask::Buffered(_) => Kind::Stream,
            Ask::Whole(_) | Ask::Embed(_) => Kind::Document,
        };
        let mut targets = self.targets(&caller.scope, route, needs, kind)?;
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
                prompt_bytes: prompt_bytes as u64,
            },
            timeouts: route.timeouts,
            hedges: route.hedges.clone(),
            trip: Trip::new(targets, patience, Instant::now() + route.timeouts.total.min(LONGEST)),
            failures: Vec::new(),
        })
    }

    /// Lists where a request may go, best first. Without a key, which only a permission brings, a target is not among them.
    fn targets(
        &self,
        scope: &TenantScope,
        route: &Route,
        needs: Needs,
        kind: Kind,
    ) -> Result<Vec<Keyed>, GatewayError> {
        let keyed = |target: &Arc<Target>| Some((Arc::clone(target), self.access.keys(scope, target)?));
        let allowed: Vec<_> = route.targets.iter().filter_map(keyed).collect();
        if allowed.is_empty() {
            let message = format!("the model {:?} may not be used", route.name);
            return Err(GatewayError::new(GatewayErrorKind::Forbidden, message));
        }
        let able = |(target, _): &(Arc<Target>, _)| (!needs.tools || target.tools) && (!needs.schema || target.schema);
        let mut able: Vec<_> = allowed.into_iter().filter(able).map(Some).collect();
        if able.is_empty() {
            let message = format!("no model of {:?} takes tools or a schema as asked for", route.name);
            return Err(GatewayError::new(GatewayErrorKind::Invalid, message));
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
    pub fn models(&self, scope: &TenantScope) -> Vec<ModelCard> {
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
    fn route(&self, name: &str) -> Result<Arc<Route>, GatewayError> {
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
            mode: route.mode,
            hedges: route.hedges.clone(),
        }))
    }
}

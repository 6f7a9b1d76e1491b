//! The gateway: the way of every model call, a turn's, a summary's, or another service's through the OpenAI-compatible
//! endpoint. It decides whether a call may run, where it runs, and what happens when that fails.
//!
//! Invariant: a call leaves for a target only with a key that [`route::Access`] handed out for its tenant.

pub mod body;
pub mod call;
pub mod embed;
pub mod route;
pub mod turn;
pub mod upstream;

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::ports::ModelError;
use copilotd_actors::tenancy::TenantScope;
use futures::StreamExt;

use call::{Answer, CacheOutcome, GatewayCall, GatewayError, GatewayErrorKind, Reply};
use embed::{EmbedCall, EmbedReply};
use route::{Access, Key, Route, Target, TargetName};
use upstream::UpstreamCall;

/// The gateway. One per process.
#[derive(Debug)]
pub struct Gateway {
    routes: HashMap<String, Arc<Route>>,
    access: Arc<dyn Access>,
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
        Self { routes, access }
    }

    /// Answers a chat request.
    pub async fn chat(&self, call: GatewayCall) -> Result<Reply, GatewayError> {
        let scope = &call.caller.scope;
        let route = self.route(&call.route)?;
        let (target, key) = self.first(scope, &route)?;
        let stream = call.body.stream();
        let upstream_call = UpstreamCall {
            body: Arc::new(call.body),
            timeouts: route.timeouts,
            chunks: true,
            conversation: call.caller.conversation,
        };
        let mut reply = Reply {
            model: target.name.to_string(),
            attempts: 1,
            cache: CacheOutcome::Bypass,
            cost: None,
            answer: Answer::Whole(bytes::Bytes::new()),
        };
        if stream {
            let pieces = key
                .upstream
                .stream(&upstream_call)
                .await
                .map_err(|error| failed(error, 1))?;
            reply.answer = Answer::Stream(pieces.map(|item| item.map_err(|error| failed(error, 1))).boxed());
        } else {
            let whole = key
                .upstream
                .whole(&upstream_call)
                .await
                .map_err(|error| failed(error, 1))?;
            reply.cost = Some(whole.usage.cost);
            reply.answer = Answer::Whole(whole.body);
        }
        Ok(reply)
    }

    /// Embeds texts.
    pub async fn embed(&self, call: EmbedCall) -> Result<EmbedReply, GatewayError> {
        let route = self.route(&call.route)?;
        let (target, key) = self.first(&call.caller.scope, &route)?;
        let answer = key
            .upstream
            .embed(&call.body, route.timeouts)
            .await
            .map_err(|error| failed(error, 1))?;
        Ok(EmbedReply {
            model: target.name.to_string(),
            attempts: 1,
            usage: answer.usage,
            body: answer.body,
        })
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
        }))
    }

    fn first(&self, scope: &TenantScope, route: &Route) -> Result<(Arc<Target>, Arc<Key>), GatewayError> {
        let found = route.targets.iter().find_map(|target| {
            let keys = self.access.keys(scope, target)?;
            Some((Arc::clone(target), Arc::clone(keys.first()?)))
        });
        found.ok_or_else(|| {
            let message = format!("the model {:?} does not exist or may not be used", route.name);
            GatewayError::new(GatewayErrorKind::Forbidden, message)
        })
    }
}

/// What a caller is told of a failure.
fn failed(error: ModelError, attempts: u32) -> GatewayError {
    let kind = match error.class {
        FailureClass::Key => GatewayErrorKind::CredentialsExhausted,
        FailureClass::Rate => GatewayErrorKind::RateLimited,
        FailureClass::ContextLength => GatewayErrorKind::ContextTooLong,
        FailureClass::ContentPolicy => GatewayErrorKind::ContentPolicy,
        FailureClass::Rejected => GatewayErrorKind::Invalid,
        FailureClass::Silence => GatewayErrorKind::Timeout,
        FailureClass::Cut => GatewayErrorKind::Cut,
        FailureClass::Overload | FailureClass::Malformed | FailureClass::Network => GatewayErrorKind::Unavailable,
    };
    GatewayError {
        kind,
        message: error.message,
        retry_after: error.retry_after,
        refusal: error.refusal,
        limit: None,
        attempts,
    }
}

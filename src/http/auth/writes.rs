//! The rate of writes: how many requests that change something a tenant and each of its users may send per minute.
//!
//! Every extractor of a [`Caller`] counts a request whose method is not safe, before its body is read, so that a new route
//! cannot forget it. Only the OpenAI-compatible routes are left out: the rate of requests limits those. The buckets are this
//! process's own, whatever store the rates of model use are in: they protect this process and its store.
//!
//! Other changes of administrators also count by the key that signed their tokens: tokens are free to mint.
//!
//! Invariant: what protects a tenant (revoking a key or a token, suspending) counts against its own credential alone, so that neither a
//! flood of the tenant's users nor a leaked key of another name can hold it up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use axum::http::request::Parts;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Clock;
use metrics::counter;

use super::Caller;
use crate::config::Config;
use crate::gateway::limit::{Demand, Exceeded, Limiter as _, LocalLimiter, Refused, Spent, TenantLimits};
use crate::gateway::spending::Subject;
use crate::http::problem::{Code, Problem, RateLimit};

/// Buckets of writes, for all tenants.
#[derive(Debug)]
pub struct WriteLimits(LocalLimiter);

/// Whose buckets a write counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// The tenant's and the user's.
    User,
    /// The credential's alone: routes of administrators and operators.
    Admin,
}

/// In the extensions of a request that was counted: two extractors of one handler are one write.
#[derive(Debug, Clone, Copy)]
struct Counted;

impl WriteLimits {
    /// Full buckets for the tenants of a configuration.
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> Self {
        Self(LocalLimiter::new(Self::prepare(config), clock))
    }

    /// The limits that a configuration asks for.
    pub fn prepare(config: &Config) -> HashMap<TenantId, TenantLimits> {
        let tenants = config.tenants.iter();
        tenants
            .map(|tenant| (tenant.id.clone(), tenant.limits.writes()))
            .collect()
    }

    /// Replaces the limits. What was used stays used.
    pub fn take(&self, limits: HashMap<TenantId, TenantLimits>) {
        self.0.replace(limits);
    }

    /// Counts a request that may write; refuses it when a bucket is empty.
    pub(super) async fn admit(&self, parts: &mut Parts, caller: &Caller, writer: Writer) -> Result<(), Problem> {
        if parts.method.is_safe() || parts.extensions.get::<Counted>().is_some() {
            return Ok(());
        }
        let subjects = match writer {
            Writer::User => vec![Subject::Tenant, Subject::User(caller.user.clone())],
            Writer::Admin => {
                let mut subjects = vec![Subject::Key(caller.credential.as_str().to_owned())];
                let signer = caller.credential.source();
                if signer != caller.credential.as_str() && !is_protective(&parts.method, parts.uri.path()) {
                    subjects.push(Subject::Key(signer.to_owned()));
                }
                subjects
            }
        };
        let one = Demand {
            requests: 1,
            ..Demand::default()
        };
        match self.0.reserve(caller.scope.tenant(), subjects, one).await {
            Ok(lease) => {
                self.0.settle(lease, Spent::default());
                parts.extensions.insert(Counted);
                Ok(())
            }
            Err(Refused::Exceeded(exceeded)) => Err(refused(&exceeded)),
            // A limiter of this process always answers.
            Err(Refused::Unavailable { .. }) => Ok(()),
        }
    }
}

/// Whether a request takes a right away.
pub(in crate::http) fn is_protective(method: &Method, path: &str) -> bool {
    match path.strip_prefix("/v1/admin/") {
        Some(rest) => {
            let revokes_key = method == Method::DELETE && rest.starts_with("api-keys/");
            revokes_key || (method == Method::POST && rest == "revocations")
        }
        // Operators suspend by changing a tenant.
        None => !method.is_safe() && path.starts_with("/v1/operator/"),
    }
}

fn refused(exceeded: &Exceeded) -> Problem {
    let whose = match exceeded.of {
        "key" => "credential",
        other => other,
    };
    counter!("copilotd_writes_refused_total", "of" => whose).increment(1);
    let Exceeded { state, retry_after, .. } = exceeded;
    let limit = RateLimit {
        policy: "writes",
        quota: state.limit,
        window: Some(Duration::from_secs(60)),
        remaining: state.remaining,
        reset: state.reset,
    };
    let problem = Problem::new(Code::RateLimited)
        .detail(format!("the {whose}'s limit writes_per_minute is reached"))
        .rate_limit(&limit);
    match retry_after {
        Some(wait) => problem.retry_after(*wait),
        None => problem,
    }
}

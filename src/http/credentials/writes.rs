//! Write rate limits: requests that change something, per minute, for a tenant and each of its users. Searches, which are
//! sent as `POST` and change nothing, have buckets of their own.
//!
//! Every extractor of a [`Caller`] counts a request whose method is not safe, before its body is read, so a new route
//! cannot forget to. The OpenAI-compatible routes are exempt: the limits on model calls apply to them. The buckets are
//! local to this process, wherever the model call limits are stored: they protect this process and its store.
//!
//! Administrators' changes also count against the key that signed their token, because tokens are free to mint.
//!
//! Invariant: protective requests (revoking a key or token, suspending) count against their own credential only, so
//! that neither a flood from the tenant's users nor another, leaked key can block them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use axum::http::request::Parts;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Clock;
use copilotd_gateway::limit::{
    ActualUsage, Demand, LimitExceeded, LimitRefusal, Limiter as _, LocalLimiter, TenantLimits,
};
use copilotd_gateway::spending::Subject;
use metrics::counter;

use super::Caller;
use crate::config::Config;
use crate::http::problems::{Code, Problem, RateLimit};

/// The write buckets and the search buckets of all tenants.
#[derive(Debug)]
pub struct WriteLimits {
    writes: LocalLimiter,
    searches: LocalLimiter,
}

/// The limits of a configuration, by tenant.
#[derive(Debug)]
pub struct PreparedLimits {
    writes: HashMap<TenantId, TenantLimits>,
    searches: HashMap<TenantId, TenantLimits>,
}

/// Which buckets a request counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteSubject {
    /// The tenant's and the user's.
    User,
    /// The tenant's and the user's for searches.
    Search,
    /// The credential's only: routes of administrators and operators.
    Admin,
}

/// Marks a request as counted: two extractors of one handler count one write.
#[derive(Debug, Clone, Copy)]
struct WriteCounted;

impl WriteLimits {
    /// Creates full buckets for the tenants of a configuration.
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> Self {
        let PreparedLimits { writes, searches } = Self::prepare(config);
        Self {
            writes: LocalLimiter::new(writes, Arc::clone(&clock)),
            searches: LocalLimiter::new(searches, clock),
        }
    }

    /// Returns the limits of a configuration.
    pub fn prepare(config: &Config) -> PreparedLimits {
        let tenants = || config.tenants.iter();
        PreparedLimits {
            writes: tenants()
                .map(|tenant| (tenant.id.clone(), tenant.limits.writes()))
                .collect(),
            searches: tenants()
                .map(|tenant| (tenant.id.clone(), tenant.limits.searches()))
                .collect(),
        }
    }

    /// Replaces the limits. Used capacity stays used.
    pub fn take(&self, limits: PreparedLimits) {
        self.writes.replace(limits.writes);
        self.searches.replace(limits.searches);
    }

    /// Counts a request if it may write; refuses it when a bucket is empty.
    pub(super) async fn admit(&self, parts: &mut Parts, caller: &Caller, writer: WriteSubject) -> Result<(), Problem> {
        if parts.method.is_safe() || parts.extensions.get::<WriteCounted>().is_some() {
            return Ok(());
        }
        let subjects = match writer {
            WriteSubject::User | WriteSubject::Search => vec![Subject::Tenant, Subject::User(caller.user.clone())],
            WriteSubject::Admin => {
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
        let (limiter, policy) = match writer {
            WriteSubject::Search => (&self.searches, "searches"),
            WriteSubject::User | WriteSubject::Admin => (&self.writes, "writes"),
        };
        match limiter.reserve(&caller.scope, subjects, one).await {
            Ok(lease) => {
                limiter.settle(lease, ActualUsage::default());
                parts.extensions.insert(WriteCounted);
                Ok(())
            }
            Err(LimitRefusal::LimitExceeded(exceeded)) => Err(refused(policy, &exceeded)),
            // The local limiter is never unavailable.
            Err(LimitRefusal::Unavailable { .. }) => Ok(()),
        }
    }
}

/// Whether a request revokes or suspends something.
pub(crate) fn is_protective(method: &Method, path: &str) -> bool {
    match path.strip_prefix("/v1/admin/") {
        Some(rest) => {
            let revokes_key = method == Method::DELETE && rest.starts_with("api-keys/");
            revokes_key || (method == Method::POST && rest == "revocations")
        }
        // Operators suspend a tenant by changing it.
        None => !method.is_safe() && path.starts_with("/v1/operator/"),
    }
}

fn refused(policy: &'static str, exceeded: &LimitExceeded) -> Problem {
    let whose = match exceeded.of {
        "key" => "credential",
        other => other,
    };
    match policy {
        "searches" => counter!("copilotd_knowledge_searches_refused_total", "of" => whose).increment(1),
        _ => counter!("copilotd_writes_refused_total", "of" => whose).increment(1),
    }
    let LimitExceeded { state, retry_after, .. } = exceeded;
    let limit = RateLimit {
        policy,
        quota: state.limit,
        window: Some(Duration::from_secs(60)),
        remaining: state.remaining,
        reset: state.reset,
    };
    let problem = Problem::new(Code::RateLimited)
        .detail(format!("the {whose} has reached its {policy}_per_minute limit"))
        .rate_limit(&limit);
    match retry_after {
        Some(wait) => problem.retry_after(*wait),
        None => problem,
    }
}

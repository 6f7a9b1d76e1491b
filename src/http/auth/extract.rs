//! Callers as arguments of handlers.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use copilotd_actors::ports::Clock;

use super::refusal::lacks;
use super::{Caller, FailureLimit, Jwks, Refusal, Scopes, Tickets, Verifier};
use crate::http::account::Account;
use crate::http::problem::Problem;

/// Longest credential that is looked at.
const MAX_CREDENTIAL: usize = 8 * 1024;
/// Names the user that an API key acts for.
const ON_BEHALF: &str = "x-copilotd-user";

/// Everything that is needed to say who is calling. Part of the router's state, as `Arc<Authenticator>`.
#[derive(Debug)]
pub struct Authenticator {
    /// Verifies credentials.
    pub verifier: Verifier,
    /// Fetches keys that issuers publish.
    pub jwks: Jwks,
    /// Issues and verifies tickets.
    pub tickets: Tickets,
    /// Slows down who guesses.
    pub failures: FailureLimit,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Authenticator {
    /// Says who sends a request with these headers.
    pub async fn authenticate(&self, parts: &Parts) -> Result<Caller, Problem> {
        let credential = bearer(&parts.headers)?;
        let on_behalf = on_behalf(&parts.headers)?;
        let now = self.clock.now();
        if let Some(known) = self.verifier.recall(credential, on_behalf, now) {
            return Ok(known?);
        }
        let client = self.failures.client(&parts.extensions, &parts.headers);
        self.failures.admit(client, now)?;
        let mut examined = self.verifier.examine(credential, on_behalf, now);
        if examined == Err(Refusal::Unknown)
            && let Some(published) = self.verifier.unknown_key(credential)
            && self.jwks.refresh(&self.verifier, &published).await
        {
            examined = self.verifier.examine(credential, on_behalf, now);
        }
        examined.map_err(|refusal| {
            self.failures.count(client, now);
            refusal.into()
        })
    }
}

/// Returns the one bearer credential of the headers.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::Missing)?;
    let text = value.to_str().map_err(|_error| Refusal::Unreadable)?;
    let (scheme, credential) = text.split_once(' ').ok_or(Refusal::Unreadable)?;
    let credential = credential.trim_matches(' ');
    let one = values.next().is_none() && scheme.eq_ignore_ascii_case("bearer");
    let sane = !credential.is_empty() && credential.len() <= MAX_CREDENTIAL && !credential.contains(' ');
    if one && sane {
        Ok(credential)
    } else {
        Err(Refusal::Unreadable)
    }
}

fn on_behalf(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(ON_BEHALF).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::OnBehalf);
    }
    std::str::from_utf8(value.as_bytes())
        .map(Some)
        .map_err(|_error| Refusal::OnBehalf)
}

impl Caller {
    /// Refuses a caller that lacks a scope.
    pub fn require(&self, scope: Scopes) -> Result<(), Problem> {
        if self.scopes.contains(scope) {
            Ok(())
        } else {
            Err(lacks(scope))
        }
    }
}

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Arc<Authenticator>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // Two arguments of one handler are one verification; layers behind find the caller here too.
        if let Some(caller) = parts.extensions.get::<Self>() {
            return Ok(caller.clone());
        }
        let authenticator = Arc::<Authenticator>::from_ref(state);
        let caller = authenticator.authenticate(parts).await?;
        Account::admit(&parts.extensions, &caller, &authenticator)?;
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

macro_rules! scoped {
    ($($(#[$doc:meta])* $name:ident, $scope:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(pub Caller);

        impl<S> FromRequestParts<S> for $name
        where
            S: Send + Sync,
            Arc<Authenticator>: FromRef<S>,
        {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let caller = Caller::from_request_parts(parts, state).await?;
                caller.require(Scopes::$scope)?;
                Ok(Self(caller))
            }
        }
    )*};
}

scoped! {
    /// A caller with the scope `chat`.
    Chat, CHAT;
    /// A caller with the scope `gateway`.
    Gateway, GATEWAY;
    /// A caller with the scope `knowledge`.
    Knowledge, KNOWLEDGE;
    /// A caller with the scope `admin`.
    Admin, ADMIN;
    /// A caller with the scope `operator`.
    Operator, OPERATOR;
}

//! Extractors that give handlers their authenticated caller.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use copilotd_actors::ports::Clock;

use super::address::FailureSource;
use super::refusal::lacks;
use super::writes::WriteSubject;
use super::{Caller, FailureLimit, Jwks, Refusal, Scopes, Tickets, Verifier, WriteLimits};
use crate::http::account::Account;
use crate::http::problems::Problem;
use crate::telemetry;

/// Maximum length of a credential.
const MAX_CREDENTIAL: usize = 8 * 1024;
/// The header naming the user that an API key acts for.
const ON_BEHALF: &str = "x-copilotd-user";

/// Everything needed to authenticate a request. Part of the router's state, as `Arc<Authenticator>`.
#[derive(Debug)]
pub struct Authenticator {
    pub verifier: Verifier,
    /// Fetches issuers' JWKS.
    pub jwks: Jwks,
    pub tickets: Tickets,
    /// Limits failures per address.
    pub failures: FailureLimit,
    /// Limits requests that change something.
    pub writes: WriteLimits,
    pub clock: Arc<dyn Clock>,
}

impl Authenticator {
    /// Authenticates a request by its headers.
    ///
    /// Invariant: a valid credential is accepted, whatever others sent from the same address. Only failures are
    /// limited: beyond the limit they are answered 429 instead of 401, and requests from that address are verified one
    /// at a time.
    pub async fn authenticate(&self, parts: &Parts) -> Result<Caller, Problem> {
        let (refusal, source) = match self.identify(parts).await {
            Ok(caller) => return Ok(caller),
            Err(refused) => refused,
        };
        refusal.count();
        match source.map(|source| self.failures.count(source)) {
            Some(Err(too_many)) => Err(too_many),
            Some(Ok(())) | None => Err(refusal.into()),
        }
    }

    /// Returns the caller, or the refusal and, for a failure that took work to detect, the source to count it against.
    async fn identify(&self, parts: &Parts) -> Result<Caller, (Refusal, Option<FailureSource>)> {
        let free = |refusal| (refusal, None);
        let credential = bearer(&parts.headers).map_err(free)?;
        let on_behalf = on_behalf(&parts.headers).map_err(free)?;
        let now = self.clock.now();
        if let Some(known) = self.verifier.lookup_cached(credential, on_behalf, now) {
            return known.map_err(free);
        }
        let source = self.failures.source(&parts.extensions, &parts.headers, credential);
        let examine = async || {
            let _turn = self.failures.turn(source).await;
            self.verifier.examine(credential, on_behalf, now)
        };
        let mut examined = examine().await;
        if examined == Err(Refusal::Unknown)
            && let Some(published) = self.verifier.unknown_key(credential)
            && self.jwks.refresh(&self.verifier, &published).await
        {
            examined = examine().await;
        }
        examined.map_err(|refusal| (refusal, source.filter(|_| refusal.is_invalid_credential())))
    }
}

/// Returns the single bearer credential of the headers.
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
    /// Returns a 403 if the caller lacks a scope.
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
        let authenticator = Arc::<Authenticator>::from_ref(state);
        let caller = identify(parts, &authenticator).await?;
        authenticator.writes.admit(parts, &caller, WriteSubject::User).await?;
        Ok(caller)
    }
}

/// Authenticates a request and stores the caller in its extensions. Does not count a write: the handler's own extractor
/// knows which bucket that belongs to.
pub async fn identify(parts: &mut Parts, authenticator: &Arc<Authenticator>) -> Result<Caller, Problem> {
    // Verified once per request, however many extractors and layers ask.
    if let Some(caller) = parts.extensions.get::<Caller>() {
        return Ok(caller.clone());
    }
    let caller = authenticator.authenticate(parts).await?;
    telemetry::count_request(caller.scope.tenant());
    Account::admit(&parts.extensions, &caller, authenticator)?;
    parts.extensions.insert(caller.clone());
    Ok(caller)
}

macro_rules! scoped {
    ($($(#[$doc:meta])* $name:ident, $scope:ident, $writer:expr;)*) => {$(
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
                let authenticator = Arc::<Authenticator>::from_ref(state);
                let caller = identify(parts, &authenticator).await?;
                caller.require(Scopes::$scope)?;
                let writer: Option<WriteSubject> = $writer;
                if let Some(writer) = writer {
                    authenticator.writes.admit(parts, &caller, writer).await?;
                }
                Ok(Self(caller))
            }
        }
    )*};
}

scoped! {
    /// A caller with the scope `chat`.
    Chat, CHAT, Some(WriteSubject::User);
    /// A caller with the scope `gateway`. Its requests count as model calls, not as writes.
    Gateway, GATEWAY, None;
    /// A caller with the scope `knowledge`.
    Knowledge, KNOWLEDGE, Some(WriteSubject::User);
    /// A caller with the scope `knowledge` who searches.
    KnowledgeSearch, KNOWLEDGE, Some(WriteSubject::Search);
    /// A caller with the scope `admin`.
    Admin, ADMIN, Some(WriteSubject::Admin);
    /// A caller with the scope `operator`.
    Operator, OPERATOR, Some(WriteSubject::Admin);
}

//! Authentication and authorisation: credentials, their scopes, and the tenant scope that only they open.
//!
//! [`Verifier`] turns a credential into a [`Caller`]; [`Authenticator`] does so for requests, with a limit on failures
//! per address and issuer. Handlers take [`Chat`], [`Gateway`], [`Knowledge`], [`KnowledgeSearch`], [`Admin`] or
//! [`Operator`] as an argument, so the required scope is part of the handler's signature.

mod address;
mod api_key;
mod explain;
mod extract;
mod jwks;
mod jwt;
mod keys;
mod refusal;
mod stream;
mod ticket;
mod token;
mod verifier;
mod writes;

use std::fmt;
use std::sync::Arc;

pub use address::FailureLimit;
pub use api_key::new_api_key;
use copilotd_actors::domain::ids::{TenantId, UserId};
use copilotd_actors::tenancy::TenantScope;
pub use explain::{Explanation, Finding, explain};
pub use extract::{Admin, Authenticator, Chat, Gateway, Knowledge, KnowledgeSearch, Operator, identify};
use jiff::{SignedDuration, Timestamp};
pub use jwks::Jwks;
pub use refusal::Refusal;
pub(crate) use refusal::left_out;
pub use stream::StreamAccess;
pub use ticket::{IssuedTicket, PositionSigner, TicketAdmission, Tickets, without_mac};
pub use token::{Grant, MintError, mint};
pub use verifier::{PreparedKeys, Verifier};
pub use writes::WriteLimits;
pub(crate) use writes::is_protective;

use copilotd_gateway::request::role::Role;

use copilotd_actors::domain::access::revocation::CLOCK_SKEW;
pub use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::access::token_identity::TokenIdentity;

/// Tolerated clock skew.
pub const SKEW: SignedDuration = CLOCK_SKEW;
/// Maximum life of a token, and how long a credential without an expiry lets a stream be reopened.
pub const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A verified caller. The only way for a request to obtain a [`TenantScope`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The tenant to act for.
    pub scope: TenantScope,
    /// The user to act as.
    pub user: UserId,
    pub scopes: Scopes,
    /// The caller's role in its tenant; `None` for a ticket.
    pub role: Option<Role>,
    /// The single roles that a user token names, bounded; empty for all other credentials.
    pub roles: Arc<[String]>,
    /// The credential's id, for the audit log and revocation.
    pub credential: CredentialId,
    /// Expiry of the credential; streams close then. Many API keys have none.
    pub expires_at: Option<Timestamp>,
    pub kind: CredentialKind,
    /// What revocations match on; `None` for an API key and its tickets, which are revoked with the key.
    pub token: Option<TokenIdentity>,
}

impl Caller {
    /// Returns the user to act as; none for an API key that acts for no user.
    pub fn acting_user(&self) -> Option<&UserId> {
        let is_key = self.kind == CredentialKind::ApiKey && self.user.is_key();
        (!is_key).then_some(&self.user)
    }
}

/// A kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// A JWT signed by the tenant's backend.
    UserToken,
    /// An API key.
    ApiKey,
    /// A stream ticket, issued to one of the others.
    Ticket,
}

/// Identifies a credential without disclosing it: `key:…` or `jwt:<signing key>:<hash of the token>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CredentialId(Arc<str>);

impl CredentialId {
    /// Builds the id from the credential's source and, for a token, a part of its hash.
    fn new(source: &str, token: Option<&str>) -> Self {
        match token {
            Some(hash) => Self(format!("{source}:{hash}").into()),
            None => Self(source.into()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the source: the API key itself, or the key that signed the token.
    fn source(&self) -> &str {
        match self.0.rsplit_once(':') {
            Some((source, _)) if self.0.starts_with("jwt:") => source,
            _ => &self.0,
        }
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Opens the scope of a tenant whose credential has just been verified. Called only in this module.
#[expect(clippy::disallowed_methods, reason = "this is the credential verifier")]
fn open_scope(tenant: TenantId) -> TenantScope {
    TenantScope::from_verified(tenant)
}

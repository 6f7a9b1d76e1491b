//! Access to streams: by a credential with the scope `chat`, or by a ticket in the query.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::header;
use axum::http::request::Parts;
use copilotd_actors::domain::ids::ConversationId;

use super::{Admission, Authenticator, Caller, Refusal, Scopes};
use crate::http::account::Account;
use crate::http::problem::{Code, Problem};

/// A caller that may read streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAccess {
    /// The caller.
    pub caller: Caller,
    /// The one conversation that a ticket admits; with a credential it is any of the caller's own.
    pub only: Option<ConversationId>,
}

impl StreamAccess {
    /// Refuses a ticket of another conversation, as if this one did not exist.
    pub fn admit(&self, conversation: ConversationId) -> Result<(), Problem> {
        match self.only {
            Some(only) if only != conversation => Err(Problem::new(Code::NotFound)),
            _ => Ok(()),
        }
    }
}

impl<S> FromRequestParts<S> for StreamAccess
where
    S: Send + Sync,
    Arc<Authenticator>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // A credential in the header wins: a ticket in the address may be an old one.
        let ticket = ticket(parts.uri.query().unwrap_or_default());
        let Some(ticket) = ticket.filter(|_| !parts.headers.contains_key(header::AUTHORIZATION)) else {
            let caller = Caller::from_request_parts(parts, state).await?;
            caller.require(Scopes::CHAT)?;
            return Ok(Self { caller, only: None });
        };
        let authenticator = Arc::<Authenticator>::from_ref(state);
        let resuming = parts.headers.contains_key("last-event-id");
        let now = authenticator.clock.now();
        // Not behind the limit on failures: a signature of ours is as cheap to check as a remembered token, and readers
        // that come back after a cut must not be held up by what others sent from the same address.
        let Admission { caller, conversation } = authenticator.tickets.verify(ticket, now, resuming)?;
        if !authenticator.verifier.is_live(&caller.credential) {
            return Err(Refusal::Revoked.into());
        }
        Account::admit(&parts.extensions, &caller, &authenticator)?;
        parts.extensions.insert(caller.clone());
        Ok(Self {
            caller,
            only: Some(conversation),
        })
    }
}

/// Finds the ticket in a query. Its characters need no percent-encoding.
fn ticket(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("ticket="))
}

//! Access to streams: by a credential with the scope `chat`, or by a ticket in the query.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use copilotd_actors::domain::ids::ConversationId;

use super::ticket::PositionSigner;
use super::{Admission, Authenticator, Caller, Scopes};
use crate::http::account::Account;
use crate::http::problem::{Code, Problem};
use crate::telemetry;

/// A caller that may read streams.
#[derive(Debug, Clone)]
pub struct StreamAccess {
    /// The caller.
    pub caller: Caller,
    /// The one conversation that a ticket admits; with a credential it is any of the caller's own.
    pub only: Option<ConversationId>,
    /// Signs the positions of a stream that a ticket opens.
    pub positions: Option<PositionSigner>,
    /// The event id that the request resumes from, as it was sent.
    pub resume_from: Option<String>,
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
        let resume_from = resume_from(&parts.headers, &parts.uri);
        let Some(ticket) = ticket.filter(|_| !parts.headers.contains_key(header::AUTHORIZATION)) else {
            let caller = Caller::from_request_parts(parts, state).await?;
            caller.require(Scopes::CHAT)?;
            return Ok(Self {
                caller,
                only: None,
                positions: None,
                resume_from,
            });
        };
        let authenticator = Arc::<Authenticator>::from_ref(state);
        let now = authenticator.clock.now();
        // Not behind the limit on failures: a signature of ours is as cheap to check as a remembered token, and readers
        // that come back after a cut must not be held up by what others sent from the same address.
        let admitted = authenticator.tickets.verify(ticket, now, resume_from.as_deref());
        let live = admitted.and_then(|admission| match authenticator.verifier.is_live(&admission.caller) {
            true => Ok(admission),
            false => Err(authenticator.verifier.why_ended(&admission.caller)),
        });
        let Admission {
            caller,
            conversation,
            positions,
        } = live.inspect_err(|refusal| refusal.count())?;
        telemetry::count_request(caller.scope.tenant());
        Account::admit(&parts.extensions, &caller, &authenticator)?;
        parts.extensions.insert(caller.clone());
        Ok(Self {
            caller,
            only: Some(conversation),
            positions: Some(positions),
            resume_from,
        })
    }
}

/// Returns the event id that a request resumes from: `Last-Event-ID` wins over `?after=`. What is no single text is one that is no
/// position. An empty header says what a missing one does: some clients send it before they have seen an event.
fn resume_from(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    const NO_POSITION: &str = "\u{fffd}";
    let mut values = headers.get_all("last-event-id").iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes().trim_ascii().is_empty() => {}
        (Some(value), None) => return Some(value.to_str().unwrap_or(NO_POSITION).to_owned()),
        (Some(_), Some(_)) => return Some(NO_POSITION.to_owned()),
        (None, _) => {}
    }
    // A query that cannot be read is refused by the handler.
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    let after = pairs.into_iter().find(|(name, _)| name == "after");
    after.map(|(_, position)| position)
}

/// Finds the ticket in a query. Its characters need no percent-encoding.
fn ticket(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("ticket="))
}

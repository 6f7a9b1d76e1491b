//! Access to streams: with a credential of scope `chat`, or with a ticket in the query.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use copilotd_actors::domain::ids::ConversationId;

use super::ticket::PositionSigner;
use super::{Authenticator, Caller, Scopes, TicketAdmission};
use crate::http::account::Account;
use crate::http::problems::{Code, Problem};
use crate::telemetry;

/// Permission to read streams.
#[derive(Debug, Clone)]
pub struct StreamAccess {
    pub caller: Caller,
    /// The only conversation that a ticket admits; `None` with a credential, which admits all of the caller's own.
    pub only: Option<ConversationId>,
    /// Signs the positions of a stream opened with a ticket.
    pub positions: Option<PositionSigner>,
    /// The event id to resume from, as sent.
    pub resume_from: Option<String>,
}

impl StreamAccess {
    /// Answers 404 to a ticket for another conversation.
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
        // A credential in the header wins: a ticket in the URL may be an old one.
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
        // Not subject to the failure limit: our own MAC is as cheap to check as a cached token, and readers that
        // reconnect must not be held up by what others sent from the same address.
        let admitted = authenticator.tickets.verify(ticket, now, resume_from.as_deref());
        let live = admitted.and_then(|admission| match authenticator.verifier.is_live(&admission.caller) {
            true => Ok(admission),
            false => Err(authenticator.verifier.why_ended(&admission.caller)),
        });
        let TicketAdmission {
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

/// Returns the event id that a request resumes from: `Last-Event-ID` wins over `?after=`. A header that is repeated or
/// not text gives an invalid position. An empty header counts as missing: some clients send it before the first event.
fn resume_from(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    const NO_POSITION: &str = "\u{fffd}";
    let mut values = headers.get_all("last-event-id").iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes().trim_ascii().is_empty() => {}
        (Some(value), None) => return Some(value.to_str().unwrap_or(NO_POSITION).to_owned()),
        (Some(_), Some(_)) => return Some(NO_POSITION.to_owned()),
        (None, _) => {}
    }
    // The handler refuses an unparsable query.
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    let after = pairs.into_iter().find(|(name, _)| name == "after");
    after.map(|(_, position)| position)
}

/// Finds the ticket in a query. Tickets need no percent-encoding.
fn ticket(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("ticket="))
}

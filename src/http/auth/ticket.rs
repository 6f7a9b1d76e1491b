//! Tickets: what a browser's `EventSource`, which cannot send headers, opens a stream with.
//!
//! A ticket is signed and not stored, so that it works on any node and after any restart. It is opened within a minute;
//! a reader that comes back with `Last-Event-ID` may use it again until the credential it was issued to ends.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use copilotd_actors::domain::ids::{ConversationId, TenantId, UserId};
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Caller, CredentialId, CredentialKind, DAY, Refusal, open_scope};
use crate::scopes::Scopes;

/// Time in which a ticket has to be opened first.
const OPEN_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// Begins every ticket, so that one is recognised where it leaks.
const PREFIX: &str = "cpt_";
/// Longest ticket that is looked at.
const MAX_LENGTH: usize = 4_096;
/// Keeps this use of the key apart from any other.
const CONTEXT: &[u8] = b"copilotd stream ticket 1\0";

/// Signs and verifies tickets.
#[derive(Clone)]
pub struct Tickets(Hmac<Sha256>);

/// A new ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The ticket.
    pub ticket: String,
    /// It has to be opened before.
    pub open_until: Timestamp,
    /// A reader that resumes may use it until then.
    pub resume_until: Timestamp,
}

/// What a ticket admits to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The caller it was issued to, with the scope `chat` alone.
    pub caller: Caller,
    /// The conversation whose stream, and whose turns' streams, it admits.
    pub conversation: ConversationId,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    /// Conversation.
    c: ConversationId,
    /// Tenant.
    t: TenantId,
    /// User.
    u: UserId,
    /// Credential it was issued to.
    k: String,
    /// Issued at, in Unix seconds.
    i: i64,
    /// Ends at, in Unix seconds.
    e: i64,
}

impl Tickets {
    /// Signs with `key`, which has to be random and stay the same over restarts.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    /// Issues a ticket for the streams of `conversation`, which the caller has to own.
    pub fn issue(&self, conversation: ConversationId, caller: &Caller, now: Timestamp) -> Issued {
        let resume_until = caller.expires_at.unwrap_or(now + DAY);
        let payload = Payload {
            c: conversation,
            t: caller.scope.tenant().clone(),
            u: caller.user.clone(),
            k: caller.credential.as_str().to_owned(),
            i: now.as_second(),
            e: resume_until.as_second(),
        };
        let payload = serde_json::to_vec(&payload).expect("strings and numbers are serialisable");
        let payload = URL_SAFE_NO_PAD.encode(payload);
        let signature = URL_SAFE_NO_PAD.encode(self.mac(&payload).finalize().into_bytes());
        Issued {
            ticket: format!("{PREFIX}{payload}.{signature}"),
            open_until: (now + OPEN_WITHIN).min(resume_until),
            resume_until,
        }
    }

    /// Verifies a ticket. `resuming` says that the request bears `Last-Event-ID`.
    ///
    /// The caller has to ask the verifier too whether the credential is still live.
    pub fn verify(&self, ticket: &str, now: Timestamp, resuming: bool) -> Result<Admission, Refusal> {
        let payload = self.signed_payload(ticket).ok_or(Refusal::Unknown)?;
        let at = |seconds| Timestamp::from_second(seconds).map_err(|_error| Refusal::Unknown);
        let (issued_at, expires_at) = (at(payload.i)?, at(payload.e)?);
        if now >= expires_at {
            return Err(Refusal::Expired);
        }
        if !resuming && now.duration_since(issued_at) > OPEN_WITHIN {
            return Err(Refusal::TicketNotOpened);
        }
        Ok(Admission {
            caller: Caller {
                scope: open_scope(payload.t),
                user: payload.u,
                scopes: Scopes::CHAT,
                role: None,
                credential: CredentialId(payload.k.into()),
                expires_at: Some(expires_at),
                kind: CredentialKind::Ticket,
            },
            conversation: payload.c,
        })
    }

    /// Returns the payload only after its signature was compared, in constant time.
    fn signed_payload(&self, ticket: &str) -> Option<Payload> {
        let text = Some(ticket)
            .filter(|ticket| ticket.len() <= MAX_LENGTH)?
            .strip_prefix(PREFIX)?;
        let (payload, signature) = text.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.mac(payload).verify_slice(&signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    fn mac(&self, payload: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(CONTEXT).chain_update(payload)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets([redacted])")
    }
}

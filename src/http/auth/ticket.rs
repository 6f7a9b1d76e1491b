//! Tickets: what a browser's `EventSource`, which cannot send headers, opens a stream with.
//!
//! A ticket is signed and not stored, so that it works on any node and after any restart. It opens streams for a minute. After that it
//! only resumes: every event id of a stream that a ticket opened ends in a MAC over ticket and position, and a reader that comes
//! back has to show such an id. So a ticket that leaks after its minute, in a proxy's log for instance, opens nothing.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use copilotd_actors::domain::conversation::stream::PositionSuffix;
use copilotd_actors::domain::ids::{ConversationId, TenantId, UserId};
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Caller, CredentialId, CredentialKind, DAY, Refusal, SKEW, open_scope};
use crate::revocations::TokenMark;
use crate::scopes::Scopes;

/// Time in which a ticket has to be opened first.
const OPEN_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// Begins every ticket, so that one is recognised where it leaks.
const PREFIX: &str = "cpt_";
/// Longest ticket that is looked at.
const MAX_LENGTH: usize = 4_096;
/// Keep the two uses of the key apart from each other and from any other.
const CONTEXT: &[u8] = b"copilotd stream ticket 1\0";
const POSITION_CONTEXT: &[u8] = b"copilotd stream position 1\0";
/// Stands between a position and its MAC in an event id.
const SEPARATOR: char = '~';
/// Bytes of a position's MAC, and of its base64url.
const MAC_BYTES: usize = 16;
const MAC_TEXT: usize = 22;

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
#[derive(Debug, Clone)]
pub struct Admission {
    /// The caller it was issued to, with the scope `chat` alone.
    pub caller: Caller,
    /// The conversation whose stream, and whose turns' streams, it admits.
    pub conversation: ConversationId,
    /// Signs the positions of a stream that it opens.
    pub positions: PositionSigner,
}

/// Signs positions for one ticket.
#[derive(Clone)]
pub struct PositionSigner(Hmac<Sha256>);

impl PositionSigner {
    /// Whether `id` is a position that a stream of this ticket sent: exactly that text and its MAC, compared in constant time.
    fn signed(&self, id: &str) -> bool {
        let Some((position, mac)) = id.split_once(SEPARATOR) else {
            return false;
        };
        let mut bytes = [0; MAC_BYTES];
        let whole = mac.len() == MAC_TEXT && URL_SAFE_NO_PAD.decode_slice(mac, &mut bytes) == Ok(MAC_BYTES);
        whole && self.mac(position).verify_truncated_left(&bytes).is_ok()
    }

    fn mac(&self, position: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(position)
    }
}

impl PositionSuffix for PositionSigner {
    fn write(&self, position: &str, out: &mut String) {
        let mac = self.mac(position).finalize().into_bytes();
        out.push(SEPARATOR);
        URL_SAFE_NO_PAD.encode_string(&mac[..MAC_BYTES], out);
    }
}

impl fmt::Debug for PositionSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PositionSigner([redacted])")
    }
}

/// Returns the position of an event id, without what a ticket's stream adds to it.
pub fn without_mac(id: &str) -> &str {
    id.split_once(SEPARATOR).map_or(id, |(position, _mac)| position)
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
    /// When that token was issued, in Unix seconds, if it says so.
    n: Option<i64>,
    /// Digest of that token's `jti`, if it has one.
    j: Option<String>,
    /// A random number, so that no two tickets are the same and each signs its own positions.
    r: u64,
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
            n: caller
                .token
                .as_ref()
                .and_then(|token| token.issued_at)
                .map(Timestamp::as_second),
            j: caller
                .token
                .as_ref()
                .and_then(|token| token.jti)
                .map(|digest| digest.to_string()),
            r: rand::random(),
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

    /// Verifies a ticket. `resume_from` is the event id that the request resumes from, if it does.
    ///
    /// The caller has to ask the verifier too whether the credential is still live.
    pub fn verify(&self, ticket: &str, now: Timestamp, resume_from: Option<&str>) -> Result<Admission, Refusal> {
        let (payload, positions) = self.signed_payload(ticket).ok_or(Refusal::Unknown)?;
        let at = |seconds| Timestamp::from_second(seconds).map_err(|_error| Refusal::Unknown);
        let (issued_at, expires_at) = (at(payload.i)?, at(payload.e)?);
        if now >= expires_at {
            return Err(Refusal::Expired);
        }
        // One of the future is none of this minute: the clock was set back.
        let age = now.duration_since(issued_at);
        let is_fresh = (-SKEW..=OPEN_WITHIN).contains(&age);
        if !is_fresh && !resume_from.is_some_and(|id| positions.signed(id)) {
            return Err(Refusal::TicketNotOpened);
        }
        let is_of_token = payload.k.starts_with("jwt:");
        let optional = |seconds: Option<i64>| seconds.map(at).transpose();
        let jti = payload
            .j
            .map(|digest| digest.parse().map_err(|_invalid| Refusal::Unknown));
        let token = TokenMark {
            issued_at: optional(payload.n)?,
            jti: jti.transpose()?,
        };
        Ok(Admission {
            caller: Caller {
                scope: open_scope(payload.t),
                user: payload.u,
                scopes: Scopes::CHAT,
                role: None,
                credential: CredentialId(payload.k.into()),
                expires_at: Some(expires_at),
                kind: CredentialKind::Ticket,
                token: is_of_token.then_some(token),
            },
            conversation: payload.c,
            positions,
        })
    }

    /// Returns the payload only after its signature was compared, in constant time.
    fn signed_payload(&self, ticket: &str) -> Option<(Payload, PositionSigner)> {
        let text = Some(ticket)
            .filter(|ticket| ticket.len() <= MAX_LENGTH)?
            .strip_prefix(PREFIX)?;
        let (payload, signature) = text.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.mac(payload).verify_slice(&signature).ok()?;
        // The signature is the ticket's: it has one length, so that nothing of it can be taken for a part of a position.
        let signer = self.0.clone().chain_update(POSITION_CONTEXT).chain_update(&signature);
        let payload = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        Some((payload, PositionSigner(signer)))
    }

    fn mac(&self, payload: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(CONTEXT).chain_update(payload)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets([redacted])")
    }
}

//! Stream tickets, with which a browser's `EventSource`, which cannot send headers, opens a stream.
//!
//! A ticket is signed and not stored, so it works on any node and after any restart. It opens streams for a minute.
//! After that it only resumes: every event id of a stream opened with a ticket ends in a MAC over ticket and position,
//! and a reader that reconnects must send such an id. So a ticket that leaks after its minute, for instance in a
//! proxy's log, opens nothing.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use copilotd_actors::domain::conversation::stream::PositionSuffix;
use copilotd_actors::domain::ids::{ConversationId, TenantId, UserId};
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Caller, CredentialId, CredentialKind, DAY, Refusal, SKEW, open_scope};
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::access::token_identity::TokenIdentity;

/// Time within which a ticket must be used to open a stream.
const OPEN_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// Prefix of every ticket, so that leaked ones can be recognised.
const PREFIX: &str = "cpt_";
/// Maximum length of a ticket.
const MAX_LENGTH: usize = 4_096;
/// Separate the two uses of the key from each other and from any other.
const CONTEXT: &[u8] = b"copilotd stream ticket 1\0";
const POSITION_CONTEXT: &[u8] = b"copilotd stream position 1\0";
/// Separates a position from its MAC in an event id.
const SEPARATOR: char = '~';
/// Length of a position's MAC, in bytes and in base64url characters.
const MAC_BYTES: usize = 16;
const MAC_TEXT: usize = 22;

/// Signs and verifies tickets.
#[derive(Clone)]
pub struct Tickets(Hmac<Sha256>);

/// A new ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedTicket {
    pub ticket: String,
    /// Until when it can open a stream.
    pub open_until: Timestamp,
    /// Until when it can resume a stream.
    pub resume_until: Timestamp,
}

/// What a valid ticket gives access to.
#[derive(Debug, Clone)]
pub struct TicketAdmission {
    /// The caller it was issued to, reduced to the scope `chat`.
    pub caller: Caller,
    /// The conversation whose stream and turn streams it opens.
    pub conversation: ConversationId,
    /// Signs the positions of streams it opens.
    pub positions: PositionSigner,
}

/// Signs positions for one ticket.
#[derive(Clone)]
pub struct PositionSigner(Hmac<Sha256>);

impl PositionSigner {
    /// Whether `id` is a position that a stream of this ticket sent: position and MAC, compared in constant time.
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

/// Returns the position of an event id, without the MAC of a ticket's stream.
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
    /// `iat` of that token, in Unix seconds, if present.
    n: Option<i64>,
    /// Digest of that token's `jti`, if present.
    j: Option<String>,
    /// A random number: no two tickets are equal, and each signs its own positions.
    r: u64,
    /// Time of issue, in Unix seconds.
    i: i64,
    /// Expiry, in Unix seconds.
    e: i64,
}

impl Tickets {
    /// Signs with `key`, which must be random and stay the same across restarts.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    /// Issues a ticket for the streams of `conversation`, which the caller must own.
    pub fn issue(&self, conversation: ConversationId, caller: &Caller, now: Timestamp) -> IssuedTicket {
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
        IssuedTicket {
            ticket: format!("{PREFIX}{payload}.{signature}"),
            open_until: (now + OPEN_WITHIN).min(resume_until),
            resume_until,
        }
    }

    /// Verifies a ticket. `resume_from` is the event id that the request resumes from, if any.
    ///
    /// Does not check whether the underlying credential is still live: ask [`super::Verifier::is_live`] too.
    pub fn verify(&self, ticket: &str, now: Timestamp, resume_from: Option<&str>) -> Result<TicketAdmission, Refusal> {
        let (payload, positions) = self.signed_payload(ticket).ok_or(Refusal::Unknown)?;
        let at = |seconds| Timestamp::from_second(seconds).map_err(|_error| Refusal::Unknown);
        let (issued_at, expires_at) = (at(payload.i)?, at(payload.e)?);
        if now >= expires_at {
            return Err(Refusal::Expired);
        }
        // A ticket from the future beyond the skew is not fresh: the clock was set back.
        let age = now.duration_since(issued_at);
        let is_fresh = (-SKEW..=OPEN_WITHIN).contains(&age);
        if !is_fresh && !resume_from.is_some_and(|id| positions.signed(id)) {
            return Err(Refusal::TicketTooOld);
        }
        let is_of_token = payload.k.starts_with("jwt:");
        let optional = |seconds: Option<i64>| seconds.map(at).transpose();
        let jti = payload
            .j
            .map(|digest| digest.parse().map_err(|_invalid| Refusal::Unknown));
        let token = TokenIdentity {
            issued_at: optional(payload.n)?,
            jti: jti.transpose()?,
        };
        Ok(TicketAdmission {
            caller: Caller {
                scope: open_scope(payload.t),
                user: payload.u,
                scopes: Scopes::CHAT,
                role: None,
                roles: Arc::default(),
                credential: CredentialId(payload.k.into()),
                expires_at: Some(expires_at),
                kind: CredentialKind::Ticket,
                token: is_of_token.then_some(token),
            },
            conversation: payload.c,
            positions,
        })
    }

    /// Returns the payload after verifying its signature in constant time.
    fn signed_payload(&self, ticket: &str) -> Option<(Payload, PositionSigner)> {
        let text = Some(ticket)
            .filter(|ticket| ticket.len() <= MAX_LENGTH)?
            .strip_prefix(PREFIX)?;
        let (payload, signature) = text.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.mac(payload).verify_slice(&signature).ok()?;
        // The signature has a fixed length, so no part of it can be mistaken for part of a position.
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

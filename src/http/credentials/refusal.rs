//! Why a credential is refused, and the matching problem response.

use std::time::Duration;

use axum::http::{HeaderValue, header};

use crate::http::problems::{Code, Problem, Retry};
use copilotd_actors::domain::access::scopes::Scopes;

/// Why a credential is refused. Everything up to the signature check gives the same answer, so that nobody can find out
/// which issuers, keys or algorithms are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("missing Authorization header: send Authorization: Bearer <credential>")]
    Missing,
    #[error("malformed Authorization header: send it once, as Authorization: Bearer <credential>")]
    Unreadable,
    /// Wrong form, unknown issuer or key, wrong algorithm or signature.
    #[error("invalid credential: no known key matches it")]
    Unknown,
    #[error("the credential was revoked")]
    Revoked,
    #[error("the tenant is suspended")]
    Suspended,
    /// The credential is valid, or was when it was last verified, but its tenant's settings have a fault.
    #[error("the tenant's settings are invalid")]
    LeftOut,
    #[error("the token has no {0} claim")]
    MissingClaim(&'static str),
    /// A claim has the wrong type.
    #[error("the token's {claim} claim must be {expected}")]
    InvalidClaim {
        claim: &'static str,
        expected: &'static str,
    },
    #[error("the token contains a duplicate claim")]
    DuplicateClaim,
    #[error("the token's claims are not a JSON object, or are nested too deeply")]
    MalformedClaims,
    #[error("the token's aud claim must be or contain \"copilotd\"")]
    Audience,
    #[error("the token's tenant claim is not the tenant of its issuer")]
    Tenant,
    #[error(
        "the token's sub claim must be 1 to 256 bytes without control characters, and must not start with the reserved \
         prefix key:"
    )]
    Subject,
    #[error("the credential has expired (for a token: its exp claim is in the past)")]
    Expired,
    #[error("the token is not valid yet: its nbf or iat claim is in the future")]
    NotYetValid,
    #[error("the token is valid for more than 24 hours: its exp claim is too far from now or from iat")]
    TooLong,
    /// A ticket was used after 60 seconds without an event id of a stream that it opened.
    #[error(
        "the ticket is older than 60 seconds: it can only resume a stream, with an event id of a stream opened with it"
    )]
    TicketTooOld,
    /// `x-copilotd-user` does not name a user.
    #[error("x-copilotd-user must be one header of 1 to 256 bytes without control characters, and not a reserved name")]
    OnBehalf,
    /// A user token was sent with `x-copilotd-user` naming another user.
    #[error("only an API key may act for another user: remove x-copilotd-user or use an API key")]
    OnBehalfNotAllowed,
}

impl Refusal {
    /// Counts the refusal in the metrics and logs it at debug level.
    pub(super) fn count(&self) {
        tracing::debug!(reason = %self, "credential refused");
        metrics::counter!("copilotd_auth_failures_total", "reason" => self.reason()).increment(1);
    }

    /// Whether the credential itself is invalid, as opposed to a valid one that is not allowed here.
    pub(super) fn is_invalid_credential(self) -> bool {
        match self {
            Self::Unknown
            | Self::MissingClaim(_)
            | Self::InvalidClaim { .. }
            | Self::DuplicateClaim
            | Self::MalformedClaims
            | Self::Audience
            | Self::Tenant
            | Self::Subject
            | Self::Expired
            | Self::NotYetValid
            | Self::TooLong => true,
            Self::Missing
            | Self::Unreadable
            | Self::Revoked
            | Self::Suspended
            | Self::LeftOut
            | Self::TicketTooOld
            | Self::OnBehalf
            | Self::OnBehalfNotAllowed => false,
        }
    }

    /// The metric label. Refusals that give the same answer share a label: the metrics page may be public.
    fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::LeftOut => "left_out",
            Self::MissingClaim(_)
            | Self::InvalidClaim { .. }
            | Self::DuplicateClaim
            | Self::MalformedClaims
            | Self::Audience
            | Self::Tenant
            | Self::Subject => "claims",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet",
            Self::TooLong => "too_long",
            Self::TicketTooOld => "ticket_too_old",
            Self::OnBehalf | Self::OnBehalfNotAllowed => "on_behalf",
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::OnBehalf => Self::new(Code::Invalid).detail(refusal.to_string()),
            Refusal::OnBehalfNotAllowed | Refusal::Suspended => Self::new(Code::Forbidden).detail(refusal.to_string()),
            Refusal::LeftOut => left_out(),
            Refusal::Missing => unauthenticated(refusal, "Bearer realm=\"copilotd\""),
            _ => unauthenticated(refusal, "Bearer realm=\"copilotd\", error=\"invalid_token\""),
        }
    }
}

fn unauthenticated(refusal: Refusal, challenge: &'static str) -> Problem {
    Problem::new(Code::Unauthenticated)
        .detail(refusal.to_string())
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// Builds the 403 for a credential that lacks a scope.
pub(super) fn lacks(scope: Scopes) -> Problem {
    tracing::debug!(%scope, "credential refused: missing scope");
    let challenge = format!("Bearer realm=\"copilotd\", error=\"insufficient_scope\", scope=\"{scope}\"");
    let problem = Problem::new(Code::Forbidden).detail(format!("the credential lacks the scope \"{scope}\""));
    match HeaderValue::from_str(&challenge) {
        Ok(value) => problem.header(header::WWW_AUTHENTICATE, value),
        Err(_not_ascii) => problem,
    }
}

/// The tenant is left out because its settings have a fault that an operator must fix.
pub(crate) fn left_out() -> Problem {
    Problem::new(Code::Unavailable)
        .detail(
            "this tenant is not served because its settings are invalid; ask the operator of the server to fix them",
        )
        .retry(Retry::Safe)
        .retry_after(Duration::from_secs(30))
}

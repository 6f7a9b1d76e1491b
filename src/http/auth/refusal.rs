//! Why a credential is not accepted, and how that is answered.

use axum::http::{HeaderValue, header};

use crate::http::problem::{Code, Problem};
use crate::http::refusal::left_out;
use crate::scopes::Scopes;

/// Why a credential is not accepted. What comes before the check of the signature is one answer, so that nobody learns
/// which issuers, keys or algorithms there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("an Authorization header with a bearer credential is needed")]
    Missing,
    /// The header is not a single bearer credential.
    #[error("the Authorization header is not a single bearer credential")]
    Unreadable,
    /// It is not known: wrong form, issuer, key, algorithm or signature.
    #[error("the credential is not known")]
    Unknown,
    /// It was taken back.
    #[error("the credential was revoked")]
    Revoked,
    /// It is right, and nothing of its tenant is accepted.
    #[error("the tenant is suspended")]
    Suspended,
    /// It is right, or was when it was verified last, and the settings of its tenant have a fault.
    #[error("the settings of the tenant have a fault")]
    LeftOut,
    /// A claim is not there.
    #[error("the token has no claim {0}")]
    ClaimMissing(&'static str),
    /// A claim is of the wrong kind.
    #[error("the token's claim {claim} has to be {expected}")]
    ClaimForm {
        /// Its name.
        claim: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// Two claims have one name.
    #[error("the token has two claims of the same name")]
    ClaimTwice,
    /// The claims are no JSON object, or nested too deeply.
    #[error("the token's claims cannot be read: they have to be a JSON object that is not nested deeply")]
    ClaimsUnreadable,
    /// The `aud` claim is not ours.
    #[error("the token's claim aud is not \"copilotd\" and does not list it")]
    Audience,
    /// The `tenant` claim is not the issuer's tenant.
    #[error("the token's claim tenant is not the tenant that its issuer signs for")]
    Tenant,
    /// The `sub` claim does not name a user.
    #[error(
        "the token's claim sub is not 1 to 256 bytes without control characters, or begins with key:, which is reserved"
    )]
    Subject,
    /// Its end has come.
    #[error("the credential has expired (for a token: its claim exp has passed)")]
    Expired,
    /// Its beginning has not come, or it says that it was issued later than now.
    #[error("the token is not valid yet: its claim nbf or iat is in the future")]
    NotYet,
    /// Its end is too far away from now or from its beginning.
    #[error("the token lives longer than 24 hours: its claim exp is too far from now, or from iat")]
    TooLong,
    /// A ticket was used after its minute without an id of a stream that it opened.
    #[error("the ticket is older than 60 seconds: it only resumes, from an event id of a stream that it opened")]
    TicketNotOpened,
    /// `x-copilotd-user` does not name a user.
    #[error("x-copilotd-user is not a single name of 1 to 256 bytes without control characters, or is reserved")]
    OnBehalf,
    /// A user token came with `x-copilotd-user`.
    #[error("only an API key may act for another user")]
    NotAKey,
}

impl Refusal {
    /// Counts it in the metrics, and tells the log at debug level.
    pub(super) fn count(&self) {
        tracing::debug!(reason = %self, "credential refused");
        metrics::counter!("copilotd_auth_failures_total", "reason" => self.reason()).increment(1);
    }

    /// Whether the credential itself is not valid, as against one that is right and may not do this.
    pub(super) fn says_invalid(self) -> bool {
        match self {
            Self::Unknown
            | Self::ClaimMissing(_)
            | Self::ClaimForm { .. }
            | Self::ClaimTwice
            | Self::ClaimsUnreadable
            | Self::Audience
            | Self::Tenant
            | Self::Subject
            | Self::Expired
            | Self::NotYet
            | Self::TooLong => true,
            Self::Missing
            | Self::Unreadable
            | Self::Revoked
            | Self::Suspended
            | Self::LeftOut
            | Self::TicketNotOpened
            | Self::OnBehalf
            | Self::NotAKey => false,
        }
    }

    /// Names it in the metrics. What is one answer is one name: the page may be public.
    fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::LeftOut => "left_out",
            Self::ClaimMissing(_)
            | Self::ClaimForm { .. }
            | Self::ClaimTwice
            | Self::ClaimsUnreadable
            | Self::Audience
            | Self::Tenant
            | Self::Subject => "claims",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::TooLong => "too_long",
            Self::TicketNotOpened => "ticket_too_old",
            Self::OnBehalf | Self::NotAKey => "on_behalf",
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::OnBehalf => Self::new(Code::Invalid).detail(refusal.to_string()),
            Refusal::NotAKey | Refusal::Suspended => Self::new(Code::Forbidden).detail(refusal.to_string()),
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

/// Makes the 403 of a credential that lacks a scope.
pub(super) fn lacks(scope: Scopes) -> Problem {
    tracing::debug!(%scope, "credential refused: it lacks the scope");
    let challenge = format!("Bearer realm=\"copilotd\", error=\"insufficient_scope\", scope=\"{scope}\"");
    let problem = Problem::new(Code::Forbidden).detail(format!("the credential lacks the scope {scope}"));
    match HeaderValue::from_str(&challenge) {
        Ok(value) => problem.header(header::WWW_AUTHENTICATE, value),
        Err(_not_ascii) => problem,
    }
}

//! Explains whether a credential is accepted, for `copilotd token verify`: all checks at once and in detail, which
//! outsiders must not see.
//!
//! Uses the same checks as requests do. Only the order differs: a request stops at the first fault, this continues.

use copilotd_actors::ports::ServingState;
use jiff::{SignedDuration, Timestamp};

use super::jwt::{self, AUDIENCE, Claims, TokenSigner};
use super::keys::{ApiKey, Keys, UnusableKey};
use super::{Jwks, Verifier, api_key};
use crate::config::Config;
use copilotd_actors::domain::access::scopes::Scopes;

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the check passed.
    pub holds: bool,
    /// What was found, for the operator.
    pub text: String,
}

/// The results of all checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Explanation {
    /// Whether the credential is accepted.
    pub fn accepted(&self) -> bool {
        self.findings.iter().all(|finding| finding.holds)
    }

    fn note(&mut self, holds: bool, text: impl Into<String>) {
        let text = text.into();
        self.findings.push(Finding { holds, text });
    }

    fn note_all<T, E: ToString>(&mut self, result: Result<T, E>, good: impl FnOnce(&T) -> String) -> Option<T> {
        match result {
            Ok(value) => {
                self.note(true, good(&value));
                Some(value)
            }
            Err(error) => {
                self.note(false, error.to_string());
                None
            }
        }
    }
}

/// Checks a credential against a configuration. Fetches the issuer's JWKS if needed.
///
/// # Errors
/// When a key of the configuration cannot be used.
pub async fn explain(config: &Config, credential: &str, now: Timestamp) -> Result<Explanation, UnusableKey> {
    let verifier = Verifier::new(config)?;
    if let Some(published) = verifier.unknown_key(credential)
        && let Ok(jwks) = Jwks::new()
    {
        // If the fetch fails, the missing key shows up in the findings.
        jwks.refresh(&verifier, &published).await;
    }
    let keys = verifier.keys();
    let mut found = Explanation::default();
    if credential.starts_with(api_key::PREFIX) {
        of_key(&keys, credential, now, &mut found);
    } else {
        of_token(&keys, credential, now, &mut found);
    }
    Ok(found)
}

fn of_key(keys: &Keys, credential: &str, now: Timestamp, found: &mut Explanation) {
    let key = api_key::hash_of(credential).and_then(|hash| keys.api_key(&hash));
    let Some(ApiKey {
        tenant,
        user,
        source,
        expires_at,
        ..
    }) = key
    else {
        found.note(
            false,
            "no API key in the configuration file matches this one; keys created through the API are stored by the \
             running server: see copilotd key list",
        );
        return;
    };
    found.note(
        true,
        format!("API key of tenant {tenant}; without x-copilotd-user it acts as user {user}"),
    );
    match expires_at {
        Some(end) => found.note(*end > now, format!("expiry: {end}, {}", distance(*end, now))),
        None => found.note(true, "expiry: none"),
    }
    serving_state(keys.serving_state(tenant), tenant.as_str(), found);
    if let Some(scopes) = keys.granted(source) {
        found.note(scopes != Scopes::NONE, format!("granted scopes: {}", named(scopes)));
    }
}

fn of_token(keys: &Keys, token: &str, now: Timestamp, found: &mut Explanation) {
    let signed = jwt::signer(token, keys);
    let Some(TokenSigner { key, iss }) = found.note_all(signed, |TokenSigner { key, iss }| {
        let kid = key.kid.as_ref().map(|kid| format!(", kid {kid:?}")).unwrap_or_default();
        let alg = key.alg.algorithm();
        format!(
            "signature: valid, by issuer {iss:?} of tenant {} ({alg:?}{kid})",
            key.tenant
        )
    }) else {
        return;
    };
    let Some(claims) = found.note_all(Claims::of_verified(token), |_| {
        "claims: a JSON object without duplicate members".to_owned()
    }) else {
        return;
    };
    found.note_all(jwt::audience(&claims), |()| format!("aud: contains {AUDIENCE:?}"));
    found.note_all(jwt::tenant(&claims, key), |()| format!("tenant: {}", key.tenant));
    found.note_all(jwt::user(&claims), |user| format!("sub: {user}"));
    if let Some(times) = found.note_all(jwt::times(&claims), |times| {
        let end = times.expires_at;
        format!("exp: {end}, {}", distance(end, now))
    }) {
        found.note_all(times.check(now), |()| "exp, nbf and iat: valid now".to_owned());
        if times.issued_at.is_none() {
            found.note(
                true,
                "iat: missing, so revoking its user's tokens always revokes this one",
            );
        }
    }
    let claimed = found.note_all(claims.scopes(), |scopes| match *scopes {
        Scopes::NONE => "scope: missing, or without a known name".to_owned(),
        scopes => format!("scope: {scopes}"),
    });
    serving_state(keys.serving_state(&key.tenant), key.tenant.as_str(), found);
    if let (Some(claimed), Some(granted)) = (claimed, keys.granted(&key.source)) {
        let left = claimed.intersection(granted);
        let without = claimed.without(granted);
        let mut text = format!("granted scopes: {}", named(left));
        if without != Scopes::NONE {
            text += &format!("; the issuer {iss:?} may not grant: {without}");
        }
        // Such a token is no use to anybody, although requests are refused for their route and not for the token.
        found.note(left != Scopes::NONE, text);
    }
}

fn serving_state(serving_state: ServingState, tenant: &str, found: &mut Explanation) {
    match serving_state {
        ServingState::Served => {}
        ServingState::Suspended => found.note(
            false,
            format!("tenant {tenant} is suspended: none of its credentials are accepted"),
        ),
        ServingState::LeftOut => found.note(
            false,
            format!(
                "the settings of tenant {tenant} are invalid: none of its credentials are accepted until they are fixed"
            ),
        ),
    }
}

fn named(scopes: Scopes) -> String {
    if scopes == Scopes::NONE {
        return "none: every route that needs a scope answers 403".to_owned();
    }
    scopes.to_string()
}

/// Formats the distance to a time for people.
fn distance(at: Timestamp, now: Timestamp) -> String {
    let left = SignedDuration::from_secs(at.duration_since(now).as_secs());
    if left.is_negative() {
        format!("{:#} ago", left.abs())
    } else {
        format!("in {left:#}")
    }
}

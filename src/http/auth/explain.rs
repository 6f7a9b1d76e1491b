//! What holds of a credential and what does not, for `copilotd token verify`: everything at once and by name, which nobody outside may learn.
//!
//! It is looked at by the same functions that requests are. Only the order differs: a request ends at the first fault, this goes on.

use copilotd_actors::ports::Standing;
use jiff::{SignedDuration, Timestamp};

use super::jwt::{self, AUDIENCE, Claims, Signed};
use super::keys::{ApiKey, Keys, UnusableKey};
use super::{Jwks, Verifier, api_key};
use crate::config::Config;
use crate::scopes::Scopes;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is as it has to be.
    pub holds: bool,
    /// What was found, for whoever runs the server.
    pub text: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// In the order in which it was looked at.
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

/// Explains a credential by a configuration. Keys that its issuer publishes are fetched.
///
/// # Errors
/// When a key of the configuration cannot be used.
pub async fn explain(config: &Config, credential: &str, now: Timestamp) -> Result<Explanation, UnusableKey> {
    let verifier = Verifier::new(config)?;
    if let Some(published) = verifier.unknown_key(credential)
        && let Ok(jwks) = Jwks::new()
    {
        // Whether there is a key now is part of what is found.
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
            "no API key of the configuration has the hash of this one; keys that an administrator made are kept by the running server: \
             see copilotd key list",
        );
        return;
    };
    found.note(
        true,
        format!("it is an API key of tenant {tenant}; without x-copilotd-user it acts as the user {user}"),
    );
    match expires_at {
        Some(end) => found.note(*end > now, format!("it ends at {end}, {}", distance(*end, now))),
        None => found.note(true, "it has no end"),
    }
    standing(keys.standing(tenant), tenant.as_str(), found);
    let scopes = keys.granted(source).unwrap_or(Scopes::NONE);
    found.note(true, format!("it grants: {}", named(scopes)));
}

fn of_token(keys: &Keys, token: &str, now: Timestamp, found: &mut Explanation) {
    let signed = jwt::signer(token, keys);
    let Some(Signed { key, iss }) = found.note_all(signed, |Signed { key, iss }| {
        let kid = key.kid.as_ref().map(|kid| format!(", kid {kid:?}")).unwrap_or_default();
        let alg = key.alg.algorithm();
        format!(
            "signature: made by the issuer {iss:?} of tenant {} ({alg:?}{kid})",
            key.tenant
        )
    }) else {
        return;
    };
    let Some(claims) = found.note_all(Claims::of_verified(token), |_| {
        "claims: a JSON object, each claim once".to_owned()
    }) else {
        return;
    };
    found.note_all(jwt::audience(&claims), |()| format!("aud: names {AUDIENCE:?}"));
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
                "iat: there is none, so a revocation of its user's tokens always hits it",
            );
        }
    }
    let claimed = found.note_all(claims.scopes(), |scopes| format!("scope: {}", named(*scopes)));
    standing(keys.standing(&key.tenant), key.tenant.as_str(), found);
    if let (Some(claimed), Some(granted)) = (claimed, keys.granted(&key.source)) {
        let left = claimed.intersection(granted);
        let without = claimed.without(granted);
        let mut text = format!("it grants: {}", named(left));
        if without != Scopes::NONE {
            text += &format!("; the issuer {iss:?} may not grant: {without}");
        }
        found.note(true, text);
    }
}

fn standing(standing: Standing, tenant: &str, found: &mut Explanation) {
    match standing {
        Standing::Served => {}
        Standing::Suspended => found.note(
            false,
            format!("the tenant {tenant} is suspended: none of its credentials is accepted"),
        ),
        Standing::LeftOut => found.note(
            false,
            format!("the settings of the tenant {tenant} have a fault: none of its credentials is accepted until it is mended"),
        ),
    }
}

fn named(scopes: Scopes) -> String {
    if scopes == Scopes::NONE {
        return "nothing: every route that needs a scope answers 403".to_owned();
    }
    scopes.to_string()
}

/// How far a moment is away, for a person.
fn distance(at: Timestamp, now: Timestamp) -> String {
    let left = SignedDuration::from_secs(at.duration_since(now).as_secs());
    if left.is_negative() {
        format!("{:#} ago", left.abs())
    } else {
        format!("in {left:#}")
    }
}

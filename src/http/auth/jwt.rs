//! User tokens. A key verifies by its own algorithm alone, whatever the token's header says.

use copilotd_actors::domain::ids::UserId;
use jiff::Timestamp;
use jsonwebtoken::{TokenData, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::keys::{IssuerKey, KEY_USER, Keys};
use super::{DAY, Refusal, SKEW};
use crate::role::Role;
use crate::scopes::Scopes;

/// The `aud` claim that names us.
pub(super) const AUDIENCE: &str = "copilotd";

/// A token that was verified but for the time.
pub(super) struct Verified {
    pub key: IssuerKey,
    pub user: UserId,
    pub scopes: Scopes,
    pub role: Role,
    pub times: Times,
}

/// When a token is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub not_before: Option<Timestamp>,
    pub expires_at: Timestamp,
}

impl Times {
    /// Checks the token's time against the present.
    pub fn check(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.expires_at.duration_since(now) > DAY + SKEW {
            return Err(Refusal::TooLong);
        }
        if self.expires_at.duration_since(now) <= -SKEW {
            return Err(Refusal::Expired);
        }
        match self.not_before {
            Some(not_before) if not_before.duration_since(now) > SKEW => Err(Refusal::NotYet),
            _ => Ok(()),
        }
    }
}

/// The claims we read; others are the issuer's own business.
#[derive(Deserialize)]
struct Claims {
    aud: Audience,
    sub: String,
    tenant: String,
    exp: f64,
    nbf: Option<f64>,
    #[serde(default)]
    scope: String,
    // Of whatever form an issuer gives them: they only say who is alike.
    #[serde(default)]
    roles: Value,
    #[serde(default)]
    groups: Value,
    #[serde(default)]
    entitlements: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

/// Returns the issuer and the key that a token names, which proves nothing.
pub(super) fn names(token: &str) -> Option<(String, Option<String>)> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    let Unverified { iss } = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some((iss, header.kid))
}

/// Verifies a token by the keys of the issuer that it names.
pub(super) fn verify(token: &str, keys: &Keys) -> Result<Verified, Refusal> {
    let header = jsonwebtoken::decode_header(token).map_err(|_error| Refusal::Unknown)?;
    // RFC 7515, section 4.1.11: what is marked critical and not understood makes the token invalid.
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Refusal::Unknown);
    }
    // The issuer is read before the signature is checked, but only to find the keys that may check it.
    let Unverified { iss } =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_error| Refusal::Unknown)?;
    let (key, claims) = keys
        .issuer(&iss, header.kid.as_deref())
        .filter(|key| key.alg.algorithm() == header.alg)
        .find_map(|key| Some((key, signed_claims(token, key)?)))
        .ok_or(Refusal::Unknown)?;
    accept(key, &iss, claims)
}

fn signed_claims(token: &str, key: &IssuerKey) -> Option<Claims> {
    let mut validation = Validation::new(key.alg.algorithm());
    // The library would ask the system's clock; `accept` and `Times::check` do all this with the caller's.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let decoded: TokenData<Claims> = jsonwebtoken::decode(token, &key.key, &validation).ok()?;
    Some(decoded.claims)
}

fn accept(key: &IssuerKey, iss: &str, claims: Claims) -> Result<Verified, Refusal> {
    let for_us = match &claims.aud {
        Audience::One(one) => one == AUDIENCE,
        Audience::Several(several) => several.iter().any(|one| one == AUDIENCE),
    };
    if !for_us {
        return Err(Refusal::Audience);
    }
    if claims.tenant != key.tenant.as_str() {
        return Err(Refusal::Tenant);
    }
    let user: UserId = claims.sub.parse().map_err(|_invalid| Refusal::Subject)?;
    if user.as_str().starts_with(KEY_USER) {
        return Err(Refusal::Subject);
    }
    let times = Times {
        not_before: claims.nbf.map(timestamp).transpose()?,
        expires_at: timestamp(claims.exp)?,
    };
    Ok(Verified {
        key: key.clone(),
        user,
        scopes: Scopes::from_claim(&claims.scope),
        role: Role::of_token(
            iss,
            &claims.scope,
            [&claims.roles, &claims.groups, &claims.entitlements],
        ),
        times,
    })
}

/// Reads a NumericDate, of which the fraction is left out.
fn timestamp(seconds: f64) -> Result<Timestamp, Refusal> {
    if !seconds.is_finite() || seconds.abs() > 1e11 {
        return Err(Refusal::TooLong);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fraction is left out, and the range was checked"
    )]
    Timestamp::from_second(seconds as i64).map_err(|_error| Refusal::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_checked_with_a_minute_of_skew() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let at = |seconds: i64| now + jiff::SignedDuration::from_secs(seconds);
        for (not_before, expires, expected) in [
            (None, 3_600, Ok(())),
            (None, -59, Ok(())),
            (None, -60, Err(Refusal::Expired)),
            (None, 24 * 3_600 + 60, Ok(())),
            (None, 24 * 3_600 + 61, Err(Refusal::TooLong)),
            (Some(60), 3_600, Ok(())),
            (Some(61), 3_600, Err(Refusal::NotYet)),
            (Some(-1_000_000), 3_600, Ok(())),
        ] {
            let times = Times {
                not_before: not_before.map(at),
                expires_at: at(expires),
            };
            assert_eq!(times.check(now), expected, "{not_before:?} {expires}");
        }
    }

    #[test]
    fn absurd_dates_are_no_dates() {
        for seconds in [f64::NAN, f64::INFINITY, 1e300, -1e300, 1e12] {
            assert_eq!(timestamp(seconds), Err(Refusal::TooLong), "{seconds}");
        }
    }
}

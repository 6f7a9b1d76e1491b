//! User tokens. A key verifies by its own algorithm alone, whatever the token's header says.

use copilotd_actors::domain::ids::UserId;
use jiff::Timestamp;
use jsonwebtoken::{TokenData, Validation};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::keys::{IssuerKey, KEY_USER, Keys};
use super::{DAY, Refusal, SKEW};
use crate::revocations::JtiDigest;
use crate::role::Role;
use crate::scopes::Scopes;

/// The `aud` claim that names us.
pub(super) const AUDIENCE: &str = "copilotd";

/// Most keys that the signature of one token is checked by.
const MAX_TRIES: usize = 16;

/// A token that was verified but for the time.
pub(super) struct Verified {
    pub key: IssuerKey,
    pub user: UserId,
    pub scopes: Scopes,
    pub role: Role,
    pub times: Times,
    pub jti: Option<JtiDigest>,
}

/// When a token is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub issued_at: Option<Timestamp>,
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
        if let Some(issued_at) = self.issued_at {
            // A revocation is kept for as long as a token may live: one that lived longer would come back to life after it.
            if self.expires_at.duration_since(issued_at) > DAY + SKEW {
                return Err(Refusal::TooLong);
            }
            if issued_at.duration_since(now) > SKEW {
                return Err(Refusal::NotYet);
            }
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
    // Of whatever form: they were never asked for.
    iat: Option<Value>,
    jti: Option<Value>,
    #[serde(default)]
    scope: String,
}

/// The claims of a token whose signature was verified: those we read, and all of them, of which an issuer's `role_claims` name some.
struct SignedClaims {
    read: Claims,
    all: Value,
}

impl<'de> Deserialize<'de> for SignedClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = Value::Object(deserializer.deserialize_map(EachOnce)?);
        let read = Claims::deserialize(&all).map_err(D::Error::custom)?;
        Ok(Self { read, all })
    }
}

/// Reads an object whose members have different names: of a claim that is given twice, two readers may believe different ones.
struct EachOnce;

impl<'de> Visitor<'de> for EachOnce {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, value)) = members.next_entry()? {
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom("a claim is given twice"));
            }
        }
        Ok(all)
    }
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

/// Returns the issuer that a token names, which proves nothing.
pub(super) fn issuer(token: &str) -> Option<String> {
    let Unverified { iss } = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some(iss)
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
        // Only a token without `kid` has so many to be tried: what a forged one costs has a bound.
        .take(MAX_TRIES)
        .find_map(|key| Some((key, signed_claims(token, key)?)))
        .ok_or(Refusal::Unknown)?;
    accept(key, &iss, claims)
}

fn signed_claims(token: &str, key: &IssuerKey) -> Option<SignedClaims> {
    let mut validation = Validation::new(key.alg.algorithm());
    // The library would ask the system's clock; `accept` and `Times::check` do all this with the caller's.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let decoded: TokenData<SignedClaims> = jsonwebtoken::decode(token, &key.key, &validation).ok()?;
    Some(decoded.claims)
}

fn accept(key: &IssuerKey, iss: &str, claims: SignedClaims) -> Result<Verified, Refusal> {
    let SignedClaims { read: claims, all } = claims;
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
    // What is no time says as little as a missing one: such a token counts as issued before any revocation.
    let issued_at = claims.iat.as_ref().and_then(Value::as_f64);
    let jti = claims.jti.as_ref().map(|jti| match jti {
        Value::String(jti) => JtiDigest::of(jti),
        other => JtiDigest::of(&other.to_string()),
    });
    let times = Times {
        issued_at: issued_at.and_then(|seconds| timestamp(seconds).ok()),
        not_before: claims.nbf.map(timestamp).transpose()?,
        expires_at: timestamp(claims.exp)?,
    };
    Ok(Verified {
        key: key.clone(),
        user,
        scopes: Scopes::from_claim(&claims.scope),
        role: Role::of_token(iss, key.role_claims.iter(), &all),
        times,
        jti,
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
                issued_at: None,
                not_before: not_before.map(at),
                expires_at: at(expires),
            };
            assert_eq!(times.check(now), expected, "{not_before:?} {expires}");
        }
        let day = 24 * 3_600;
        for (issued, expires, expected) in [
            (0, 3_600, Ok(())),
            (60, 3_600, Ok(())),
            (61, 3_600, Err(Refusal::NotYet)),
            (-day + 10, 10, Ok(())),
            (-day + 10, 70, Ok(())),
            // Once refused as too long, it does not become good later.
            (-day + 10, 71, Err(Refusal::TooLong)),
            (-30 * day, 10, Err(Refusal::TooLong)),
        ] {
            let times = Times {
                issued_at: Some(at(issued)),
                not_before: None,
                expires_at: at(expires),
            };
            assert_eq!(times.check(now), expected, "{issued} {expires}");
        }
    }

    #[test]
    fn absurd_dates_are_no_dates() {
        for seconds in [f64::NAN, f64::INFINITY, 1e300, -1e300, 1e12] {
            assert_eq!(timestamp(seconds), Err(Refusal::TooLong), "{seconds}");
        }
    }
}

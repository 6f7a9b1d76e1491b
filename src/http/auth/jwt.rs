//! User tokens. A key verifies by its own algorithm alone, whatever the token's header says.

use copilotd_actors::domain::ids::UserId;
use copilotd_gateway::request::role::Role;
use jiff::Timestamp;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::keys::{IssuerKey, KEY_USER, Keys};
use super::{DAY, Refusal, SKEW};
use crate::revocations::JtiDigest;
use crate::scopes::Scopes;

/// The `aud` claim that names us.
pub(super) const AUDIENCE: &str = "copilotd";

/// Most keys that the signature of one token is checked by.
const MAX_TRIES: usize = 16;
/// What a claim that is a time has to be (RFC 7519).
const NUMERIC_DATE: &str = "a number: seconds since 1970-01-01T00:00:00Z";
/// Most characters of an unverified name that are logged.
const MAX_NAME: usize = 200;

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

/// The claims of a token, each of them once.
pub(super) struct Claims(Map<String, Value>);

/// What is read off a token's payload before it is known to be what we want.
struct Members {
    all: Map<String, Value>,
    given_twice: bool,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EachOnce)
    }
}

/// Reads an object and notes whether its members have different names: of a claim that is given twice, two readers may believe different
/// ones.
struct EachOnce;

impl<'de> Visitor<'de> for EachOnce {
    type Value = Members;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members, A::Error> {
        let (mut all, mut given_twice) = (Map::new(), false);
        while let Some((name, value)) = members.next_entry()? {
            given_twice |= all.insert(name, value).is_some();
        }
        Ok(Members { all, given_twice })
    }
}

impl Claims {
    /// Reads the claims of a token whose signature was verified.
    pub fn of_verified(token: &str) -> Result<Self, Refusal> {
        let members: Members =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_error| Refusal::ClaimsUnreadable)?;
        if members.given_twice {
            return Err(Refusal::ClaimTwice);
        }
        Ok(Self(members.all))
    }

    /// Returns a claim; `null` is none.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, claim: &'static str) -> Result<&str, Refusal> {
        let value = self.get(claim).ok_or(Refusal::ClaimMissing(claim))?;
        let expected = "a string";
        value.as_str().ok_or(Refusal::ClaimForm { claim, expected })
    }

    fn time(&self, claim: &'static str) -> Result<Option<f64>, Refusal> {
        let expected = NUMERIC_DATE;
        let number = |value: &Value| value.as_f64().ok_or(Refusal::ClaimForm { claim, expected });
        self.get(claim).map(number).transpose()
    }

    fn is_for_us(&self) -> Result<bool, Refusal> {
        let claim = "aud";
        let expected = "a string or a list of strings";
        match self.get(claim).ok_or(Refusal::ClaimMissing(claim))? {
            Value::String(one) => Ok(one == AUDIENCE),
            Value::Array(several) if several.iter().all(Value::is_string) => {
                Ok(several.iter().any(|one| one.as_str() == Some(AUDIENCE)))
            }
            _ => Err(Refusal::ClaimForm { claim, expected }),
        }
    }

    /// Returns the scopes that it claims.
    pub fn scopes(&self) -> Result<Scopes, Refusal> {
        let (claim, expected) = ("scope", "a string of names with spaces between them");
        let text = self
            .get(claim)
            .map(|value| value.as_str().ok_or(Refusal::ClaimForm { claim, expected }));
        Ok(Scopes::from_claim(text.transpose()?.unwrap_or_default()))
    }
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

/// Why it is not known who signed a token. Its sender is told that the credential is not known and nothing else, so that nobody learns which
/// issuers and keys there are; the log at debug level and `copilotd token verify` say it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unknown {
    #[error("it is not a JWT: three base64url parts with dots between them, of which the first two are JSON objects")]
    NotAJwt,
    #[error("its header has crit, enc or zip, which are not supported")]
    Critical,
    #[error("its payload has no claim iss that is a string")]
    NoIssuerClaim,
    #[error("no tenant has an issuer with iss = {0:?}")]
    Issuer(String),
    #[error("the issuer has no key with kid = {0:?}")]
    Kid(String),
    #[error("the issuer has no key yet: none could be fetched from its jwks_url")]
    NoKey,
    #[error("its alg is {token}, and the issuer's key is for {known} alone")]
    Algorithm { token: String, known: String },
    #[error("its signature does not fit the issuer's key: another key or secret signed it, or it was changed")]
    Signature,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not known who signed it.
    Unknown(Unknown),
    /// It is, and what it says is not accepted.
    Refused(Refusal),
}

impl From<Unknown> for Fault {
    fn from(unknown: Unknown) -> Self {
        Self::Unknown(unknown)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Verifies a token by the keys of the issuer that it names.
pub(super) fn verify(token: &str, keys: &Keys) -> Result<Verified, Fault> {
    let Signed { key, iss } = signer(token, keys)?;
    Ok(accept(key, &iss, &Claims::of_verified(token)?)?)
}

/// Who signed a token.
pub(super) struct Signed<'a> {
    pub key: &'a IssuerKey,
    pub iss: String,
}

/// Finds the key that signed a token.
pub(super) fn signer<'a>(token: &str, keys: &'a Keys) -> Result<Signed<'a>, Unknown> {
    let header = jsonwebtoken::decode_header(token).map_err(|_error| Unknown::NotAJwt)?;
    // RFC 7515, section 4.1.11: what is marked critical and not understood makes the token invalid.
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Unknown::Critical);
    }
    // The issuer is read before the signature is checked, but only to find the keys that may check it.
    let Unverified { iss } =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_error| Unknown::NoIssuerClaim)?;
    let (signed, signature) = token.rsplit_once('.').ok_or(Unknown::NotAJwt)?;
    let mut unknown = match header.kid.clone() {
        _ if !keys.knows(&iss) => Unknown::Issuer(clipped(&iss)),
        Some(kid) if keys.issuer(&iss, None).next().is_some() => Unknown::Kid(clipped(&kid)),
        _ => Unknown::NoKey,
    };
    // Only a token without `kid` has so many to be tried: what a forged one costs has a bound.
    let mut tries = 0;
    for key in keys.issuer(&iss, header.kid.as_deref()) {
        if key.alg.algorithm() != header.alg {
            if unknown != Unknown::Signature {
                let (token, known) = (format!("{:?}", header.alg), format!("{:?}", key.alg.algorithm()));
                unknown = Unknown::Algorithm { token, known };
            }
            continue;
        }
        if tries == MAX_TRIES {
            break;
        }
        tries += 1;
        let verified = jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &key.key, header.alg);
        if verified.unwrap_or(false) {
            return Ok(Signed { key, iss });
        }
        unknown = Unknown::Signature;
    }
    Err(unknown)
}

/// What a stranger may write into the log of a name.
fn clipped(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

fn accept(key: &IssuerKey, iss: &str, claims: &Claims) -> Result<Verified, Refusal> {
    audience(claims)?;
    tenant(claims, key)?;
    let (user, times) = (user(claims)?, times(claims)?);
    let jti = claims.get("jti").map(|jti| match jti {
        Value::String(jti) => JtiDigest::of(jti),
        other => JtiDigest::of(&other.to_string()),
    });
    let scopes = claims.scopes()?;
    let all = Value::Object(claims.0.clone());
    Ok(Verified {
        key: key.clone(),
        user,
        scopes,
        role: Role::of_token(iss, key.role_claims.iter(), &all),
        times,
        jti,
    })
}

/// Checks that a token is for us.
pub(super) fn audience(claims: &Claims) -> Result<(), Refusal> {
    if claims.is_for_us()? {
        Ok(())
    } else {
        Err(Refusal::Audience)
    }
}

/// Checks that a token is of the tenant that its issuer signs for.
pub(super) fn tenant(claims: &Claims, key: &IssuerKey) -> Result<(), Refusal> {
    if claims.text("tenant")? == key.tenant.as_str() {
        Ok(())
    } else {
        Err(Refusal::Tenant)
    }
}

/// Reads the user of a token.
pub(super) fn user(claims: &Claims) -> Result<UserId, Refusal> {
    let user: UserId = claims.text("sub")?.parse().map_err(|_invalid| Refusal::Subject)?;
    if user.as_str().starts_with(KEY_USER) {
        return Err(Refusal::Subject);
    }
    Ok(user)
}

/// Reads when a token is valid.
pub(super) fn times(claims: &Claims) -> Result<Times, Refusal> {
    // What is no time says as little as a missing one: such a token counts as issued before any revocation.
    let issued_at = claims.get("iat").and_then(Value::as_f64);
    let not_before = claims.time("nbf")?.map(|seconds| {
        let (claim, expected) = ("nbf", NUMERIC_DATE);
        timestamp(seconds).map_err(|_absurd| Refusal::ClaimForm { claim, expected })
    });
    Ok(Times {
        issued_at: issued_at.and_then(|seconds| timestamp(seconds).ok()),
        not_before: not_before.transpose()?,
        expires_at: timestamp(claims.time("exp")?.ok_or(Refusal::ClaimMissing("exp"))?)?,
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

//! User tokens. A key verifies with its configured algorithm only, whatever the token's header says.

use std::sync::Arc;

use copilotd_actors::domain::access::roles::bounded_roles;
use copilotd_actors::domain::ids::UserId;
use copilotd_gateway::request::role::{self, Role};
use jiff::Timestamp;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::keys::{IssuerKey, Keys};
use super::{DAY, Refusal, SKEW};
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::access::token_identity::JtiDigest;

/// The required `aud` claim.
pub(super) const AUDIENCE: &str = "copilotd";

/// Maximum number of keys tried for one token's signature.
const MAX_TRIES: usize = 16;
/// The form of a time claim (RFC 7519).
const NUMERIC_DATE: &str = "a number of seconds since 1970-01-01T00:00:00Z";
/// Maximum characters of an unverified name in the log.
const MAX_NAME: usize = 200;

/// A token whose signature and claims were verified, except for its times.
pub(super) struct VerifiedToken {
    pub key: IssuerKey,
    pub user: UserId,
    pub scopes: Scopes,
    pub role: Role,
    pub roles: Arc<[String]>,
    pub times: Times,
    pub jti: Option<JtiDigest>,
}

/// The validity period of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub issued_at: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub expires_at: Timestamp,
}

impl Times {
    /// Checks the times against `now`.
    pub fn check(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.expires_at.duration_since(now) > DAY + SKEW {
            return Err(Refusal::TooLong);
        }
        if self.expires_at.duration_since(now) <= -SKEW {
            return Err(Refusal::Expired);
        }
        if let Some(issued_at) = self.issued_at {
            // Revocations are stored for the maximum life of a token: a longer-lived token would become valid again.
            if self.expires_at.duration_since(issued_at) > DAY + SKEW {
                return Err(Refusal::TooLong);
            }
            if issued_at.duration_since(now) > SKEW {
                return Err(Refusal::NotYetValid);
            }
        }
        match self.not_before {
            Some(not_before) if not_before.duration_since(now) > SKEW => Err(Refusal::NotYetValid),
            _ => Ok(()),
        }
    }
}

/// The claims of a token, without duplicates.
pub(super) struct Claims(Map<String, Value>);

/// The members of a token's payload as parsed.
struct Members {
    all: Map<String, Value>,
    has_duplicates: bool,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Parses an object and notes duplicate members: of a duplicate claim, two parsers may use different values.
struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members, A::Error> {
        let (mut all, mut has_duplicates) = (Map::new(), false);
        while let Some((name, value)) = members.next_entry()? {
            has_duplicates |= all.insert(name, value).is_some();
        }
        Ok(Members { all, has_duplicates })
    }
}

impl Claims {
    /// Parses the claims of a token whose signature was verified.
    pub fn of_verified(token: &str) -> Result<Self, Refusal> {
        let members: Members =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_error| Refusal::MalformedClaims)?;
        if members.has_duplicates {
            return Err(Refusal::DuplicateClaim);
        }
        Ok(Self(members.all))
    }

    /// Returns a claim; `null` counts as missing.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, claim: &'static str) -> Result<&str, Refusal> {
        let value = self.get(claim).ok_or(Refusal::MissingClaim(claim))?;
        let expected = "a string";
        value.as_str().ok_or(Refusal::InvalidClaim { claim, expected })
    }

    fn time(&self, claim: &'static str) -> Result<Option<f64>, Refusal> {
        let expected = NUMERIC_DATE;
        let number = |value: &Value| value.as_f64().ok_or(Refusal::InvalidClaim { claim, expected });
        self.get(claim).map(number).transpose()
    }

    fn has_our_audience(&self) -> Result<bool, Refusal> {
        let claim = "aud";
        let expected = "a string or a list of strings";
        match self.get(claim).ok_or(Refusal::MissingClaim(claim))? {
            Value::String(one) => Ok(one == AUDIENCE),
            Value::Array(several) if several.iter().all(Value::is_string) => {
                Ok(several.iter().any(|one| one.as_str() == Some(AUDIENCE)))
            }
            _ => Err(Refusal::InvalidClaim { claim, expected }),
        }
    }

    /// Returns the claimed scopes.
    pub fn scopes(&self) -> Result<Scopes, Refusal> {
        let (claim, expected) = ("scope", "a string of space-separated names");
        let text = self
            .get(claim)
            .map(|value| value.as_str().ok_or(Refusal::InvalidClaim { claim, expected }));
        Ok(Scopes::from_claim(text.transpose()?.unwrap_or_default()))
    }
}

#[derive(Deserialize)]
struct UnverifiedClaims {
    iss: String,
}

/// Returns a token's `iss` claim, unverified.
pub(super) fn issuer(token: &str) -> Option<String> {
    let UnverifiedClaims { iss } = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some(iss)
}

/// Returns a token's `iss` claim and `kid`, unverified.
pub(super) fn names(token: &str) -> Option<(String, Option<String>)> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    let UnverifiedClaims { iss } = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some((iss, header.kid))
}

/// Why a token's signer could not be determined. The client only learns that the credential is invalid, so that nobody
/// can find out which issuers and keys exist; the debug log and `copilotd token verify` give the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unknown {
    #[error("not a JWT: expected three base64url parts separated by dots, the first two of them JSON objects")]
    NotAJwt,
    #[error("unsupported JWT header: crit, enc and zip are not supported")]
    Critical,
    #[error("the iss claim is missing or not a string")]
    NoIssuerClaim,
    #[error("no tenant has an issuer with iss {0:?}")]
    Issuer(String),
    #[error("the issuer has no key with kid {0:?}")]
    Kid(String),
    #[error("the issuer has no key yet: its jwks_url could not be fetched")]
    NoKey,
    #[error("the token's alg is {token}, but the issuer's key is for {known}")]
    Algorithm { token: String, known: String },
    #[error("signature mismatch: the token was signed with another key or secret, or was changed")]
    Signature,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The signer is unknown.
    Unknown(Unknown),
    /// The signer is known, but the token's claims are refused.
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

/// Verifies a token with the keys of the issuer that it names.
pub(super) fn verify(token: &str, keys: &Keys) -> Result<VerifiedToken, Fault> {
    let TokenSigner { key, iss } = signer(token, keys)?;
    Ok(accept(key, &iss, &Claims::of_verified(token)?)?)
}

/// The verified signer of a token.
pub(super) struct TokenSigner<'a> {
    pub key: &'a IssuerKey,
    pub iss: String,
}

/// Finds the key that signed a token.
pub(super) fn signer<'a>(token: &str, keys: &'a Keys) -> Result<TokenSigner<'a>, Unknown> {
    let header = jsonwebtoken::decode_header(token).map_err(|_error| Unknown::NotAJwt)?;
    // RFC 7515, section 4.1.11: a critical header that is not understood makes the token invalid.
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Unknown::Critical);
    }
    // The issuer is read before the signature is verified, but only to find the keys to verify it with.
    let UnverifiedClaims { iss } =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_error| Unknown::NoIssuerClaim)?;
    let (signed, signature) = token.rsplit_once('.').ok_or(Unknown::NotAJwt)?;
    let mut unknown = match header.kid.clone() {
        _ if !keys.has_issuer(&iss) => Unknown::Issuer(truncated(&iss)),
        Some(kid) if keys.issuer(&iss, None).next().is_some() => Unknown::Kid(truncated(&kid)),
        _ => Unknown::NoKey,
    };
    // Only a token without `kid` has many candidate keys: this bounds the cost of a forged one.
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
            return Ok(TokenSigner { key, iss });
        }
        unknown = Unknown::Signature;
    }
    Err(unknown)
}

/// Truncates an unverified name for the log.
fn truncated(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

fn accept(key: &IssuerKey, iss: &str, claims: &Claims) -> Result<VerifiedToken, Refusal> {
    audience(claims)?;
    tenant(claims, key)?;
    let (user, times) = (user(claims)?, times(claims)?);
    let jti = claims.get("jti").map(|jti| match jti {
        Value::String(jti) => JtiDigest::of(jti),
        other => JtiDigest::of(&other.to_string()),
    });
    let scopes = claims.scopes()?;
    let all = Value::Object(claims.0.clone());
    Ok(VerifiedToken {
        key: key.clone(),
        user,
        scopes,
        role: Role::of_token(iss, key.role_claims.iter(), &all),
        roles: bounded_roles(role::names_in_token(key.role_claims.iter(), &all)).into(),
        times,
        jti,
    })
}

/// Checks the `aud` claim.
pub(super) fn audience(claims: &Claims) -> Result<(), Refusal> {
    if claims.has_our_audience()? {
        Ok(())
    } else {
        Err(Refusal::Audience)
    }
}

/// Checks that the `tenant` claim is the issuer's tenant.
pub(super) fn tenant(claims: &Claims, key: &IssuerKey) -> Result<(), Refusal> {
    if claims.text("tenant")? == key.tenant.as_str() {
        Ok(())
    } else {
        Err(Refusal::Tenant)
    }
}

/// Returns the user from the `sub` claim.
pub(super) fn user(claims: &Claims) -> Result<UserId, Refusal> {
    let user: UserId = claims.text("sub")?.parse().map_err(|_invalid| Refusal::Subject)?;
    if user.is_key() {
        return Err(Refusal::Subject);
    }
    Ok(user)
}

/// Parses the `iat`, `nbf` and `exp` claims.
pub(super) fn times(claims: &Claims) -> Result<Times, Refusal> {
    // An invalid `iat` is treated like a missing one: the token counts as issued before any revocation.
    let issued_at = claims.get("iat").and_then(Value::as_f64);
    let not_before = claims.time("nbf")?.map(|seconds| {
        let (claim, expected) = ("nbf", NUMERIC_DATE);
        timestamp(seconds).map_err(|_absurd| Refusal::InvalidClaim { claim, expected })
    });
    Ok(Times {
        issued_at: issued_at.and_then(|seconds| timestamp(seconds).ok()),
        not_before: not_before.transpose()?,
        expires_at: timestamp(claims.time("exp")?.ok_or(Refusal::MissingClaim("exp"))?)?,
    })
}

/// Converts a NumericDate, dropping the fraction.
fn timestamp(seconds: f64) -> Result<Timestamp, Refusal> {
    if !seconds.is_finite() || seconds.abs() > 1e11 {
        return Err(Refusal::TooLong);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fraction is dropped, and the range was checked"
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
            (Some(61), 3_600, Err(Refusal::NotYetValid)),
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
            (61, 3_600, Err(Refusal::NotYetValid)),
            (-day + 10, 10, Ok(())),
            (-day + 10, 70, Ok(())),
            // Once refused as too long, it does not become valid later.
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
    fn out_of_range_dates_are_refused() {
        for seconds in [f64::NAN, f64::INFINITY, 1e300, -1e300, 1e12] {
            assert_eq!(timestamp(seconds), Err(Refusal::TooLong), "{seconds}");
        }
    }
}

//! Minting of user tokens, for `copilotd token` and the demo. In production the tenant's own backend signs them.

use copilotd_actors::domain::ids::{TenantId, UserId};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::DAY;
use super::jwt::AUDIENCE;
use crate::config::{Alg, Config, Issuer};
use copilotd_actors::domain::access::scopes::Scopes;

/// What a minted token grants.
#[derive(Debug, Clone)]
pub struct Grant {
    pub tenant: TenantId,
    pub user: UserId,
    pub scopes: Scopes,
    /// Lifetime, at most 24 hours.
    pub life: SignedDuration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    #[error("unknown tenant {0}: it is not in the configuration")]
    NoTenant(TenantId),
    /// The configuration holds public keys only.
    #[error(
        "no issuer of tenant {0} has an HS256 secret; with a public key, sign the token where the private key is stored"
    )]
    NoSecret(TenantId),
    /// No issuer with a secret may grant the scopes.
    #[error(
        "no issuer of tenant {0} with an HS256 secret may grant the scopes {1}: add them to the issuer's scopes; \
         the scope operator also needs operator = true on the tenant"
    )]
    NotGranted(TenantId, Scopes),
    #[error("a token's lifetime must be from 1 second to 24 hours")]
    Life,
    #[error("user names starting with key: are reserved for API keys")]
    Reserved,
    #[error("the token could not be signed")]
    Sign,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'static str,
    sub: &'a str,
    tenant: &'a str,
    iat: i64,
    exp: i64,
    scope: String,
}

/// Signs a token with the tenant's first HS256 secret that may grant the scopes.
pub fn mint(config: &Config, grant: &Grant, now: Timestamp) -> Result<SecretString, MintError> {
    if grant.life < SignedDuration::from_secs(1) || grant.life > DAY {
        return Err(MintError::Life);
    }
    if grant.user.is_key() {
        return Err(MintError::Reserved);
    }
    let tenant = grant.tenant.as_str();
    let tenant = config
        .tenant(tenant)
        .ok_or_else(|| MintError::NoTenant(grant.tenant.clone()))?;
    let signing = |issuer: &Issuer| issuer.alg == Alg::Hs256 && issuer.secret.is_some();
    let mut issuers = tenant.issuers.iter().filter(|issuer| signing(issuer)).peekable();
    if issuers.peek().is_none() {
        return Err(MintError::NoSecret(grant.tenant.clone()));
    }
    let grants = |issuer: &&Issuer| issuer.scopes.intersection(tenant.grantable()).contains(grant.scopes);
    let (issuer, secret) = issuers
        .find(grants)
        .and_then(|issuer| Some((issuer, issuer.secret.as_ref()?)))
        .ok_or_else(|| MintError::NotGranted(grant.tenant.clone(), grant.scopes))?;
    let mut header = Header::new(issuer.alg.algorithm());
    header.kid.clone_from(&issuer.kid);
    let claims = Claims {
        iss: &issuer.iss,
        aud: AUDIENCE,
        sub: grant.user.as_str(),
        tenant: grant.tenant.as_str(),
        iat: now.as_second(),
        exp: (now + grant.life).as_second(),
        scope: grant.scopes.to_string(),
    };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    jsonwebtoken::encode(&header, &claims, &key)
        .map(Into::into)
        .map_err(|_error| MintError::Sign)
}

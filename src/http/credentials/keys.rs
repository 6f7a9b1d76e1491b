//! The keys of one configuration that verify credentials.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::hash::fingerprint;
use copilotd_actors::domain::ids::{TenantId, UserId};
use copilotd_actors::ports::ServingState;
use jiff::Timestamp;
use jsonwebtoken::DecodingKey;
use secrecy::ExposeSecret;

use crate::config::{Alg, Config, Issuer, ServingStates};

/// All keys of a configuration.
#[derive(Debug, Default, Clone)]
pub(super) struct Keys {
    issuers: HashMap<String, Vec<IssuerKey>>,
    api_keys: HashMap<KeyHash, ApiKey>,
    /// Issuers with a JWKS URL.
    published: Vec<JwksIssuer>,
    /// What credentials are verified by; removing a source invalidates its credentials.
    sources: HashMap<Arc<str>, SourceGrant>,
    standings: ServingStates,
    /// API keys of tenants that are left out because of a fault in their settings; these grant no access.
    left_out: HashMap<KeyHash, LeftOutKey>,
}

/// An API key of a tenant that is left out.
#[derive(Debug, Clone)]
pub(super) struct LeftOutKey {
    pub tenant: TenantId,
    pub expires_at: Option<Timestamp>,
}

/// What an issuer's key or an API key may grant.
#[derive(Debug, Clone)]
struct SourceGrant {
    tenant: TenantId,
    /// The most that its credentials may be granted, whatever they claim.
    scopes: Scopes,
}

/// A key that verifies tokens.
#[derive(Debug, Clone)]
pub(super) struct IssuerKey {
    pub tenant: TenantId,
    pub alg: Alg,
    pub kid: Option<String>,
    pub key: DecodingKey,
    pub source: Arc<str>,
    /// The claims that make up a token's role.
    pub role_claims: Arc<[String]>,
    /// The JWKS URL it was fetched from, if any.
    pub published: Option<Arc<str>>,
}

/// An issuer with a JWKS URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksIssuer {
    pub tenant: TenantId,
    /// The `iss` claim.
    pub iss: String,
    /// The only accepted algorithm.
    pub alg: Alg,
    /// The JWKS URL.
    pub url: Arc<str>,
    /// The claims that make up a token's role.
    pub role_claims: Arc<[String]>,
    /// The scopes that its tokens may be granted.
    pub scopes: Scopes,
}

impl JwksIssuer {
    /// Whether both name the same keys of the same issuer, ignoring the scopes.
    pub(super) fn is_same_source(&self, other: &Self) -> bool {
        let place = |published: &Self| {
            (
                published.alg,
                Arc::clone(&published.url),
                Arc::clone(&published.role_claims),
            )
        };
        (&self.tenant, &self.iss) == (&other.tenant, &other.iss) && place(self) == place(other)
    }
}

/// An API key.
#[derive(Debug, Clone)]
pub(super) struct ApiKey {
    pub tenant: TenantId,
    /// The user it acts as without `x-copilotd-user`.
    pub user: UserId,
    pub source: Arc<str>,
    pub expires_at: Option<Timestamp>,
    /// Last use, in milliseconds since 1970; shared with later configurations.
    pub used: Arc<AtomicI64>,
}

/// A key of the configuration is unusable, although loading checks them all.
#[derive(Debug, thiserror::Error)]
#[error("cannot use a key of tenant {tenant}: {reason}")]
pub struct UnusableKey {
    tenant: TenantId,
    reason: &'static str,
}

impl Keys {
    /// Collects the keys of all tenants.
    pub fn of(config: &Config) -> Result<Self, UnusableKey> {
        let mut keys = Self {
            standings: ServingStates::of_config(config),
            ..Self::default()
        };
        for tenant in &config.tenants {
            let left_out = tenant.left_out.iter().flat_map(|known| &known.api_keys);
            keys.left_out.extend(left_out.map(|key| {
                let (tenant, expires_at) = (tenant.id.clone(), key.expires_at);
                (key.hash, LeftOutKey { tenant, expires_at })
            }));
            let unusable = |reason| UnusableKey {
                tenant: tenant.id.clone(),
                reason,
            };
            let granting = |scopes: Scopes| SourceGrant {
                tenant: tenant.id.clone(),
                scopes: scopes.intersection(tenant.grantable()),
            };
            for issuer in &tenant.issuers {
                if let Some(url) = &issuer.jwks_url {
                    keys.published.push(JwksIssuer {
                        tenant: tenant.id.clone(),
                        iss: issuer.iss.clone(),
                        alg: issuer.alg,
                        url: url.as_str().into(),
                        role_claims: issuer.role_claims().into(),
                        scopes: granting(issuer.scopes).scopes,
                    });
                    continue;
                }
                let material = issuer
                    .material()
                    .ok_or_else(|| unusable("it has no secret or public key"))?
                    .expose_secret();
                let source: Arc<str> = source_of(&tenant.id, issuer, material).into();
                keys.sources.insert(Arc::clone(&source), granting(issuer.scopes));
                keys.issuers.entry(issuer.iss.clone()).or_default().push(IssuerKey {
                    tenant: tenant.id.clone(),
                    alg: issuer.alg,
                    kid: issuer.kid.clone(),
                    key: issuer.alg.key(material).map_err(unusable)?,
                    source,
                    role_claims: issuer.role_claims().into(),
                    published: None,
                });
            }
            for key in &tenant.api_keys {
                // The hash is part of the id: a new key under an old name is another credential.
                let fingerprint = hex::encode(&key.hash.bytes()[..8]);
                let source: Arc<str> = format!("key:{}/{}:{fingerprint}", tenant.id, key.name).into();
                let Ok(user) = UserId::of_key(&key.name) else {
                    // One bad key in a stored record: refuse that key and no other.
                    tracing::error!(
                        tenant = %tenant.id, source = %source,
                        "API key ignored: its name is not valid in a user id; revoke it and create another one"
                    );
                    continue;
                };
                keys.sources.insert(Arc::clone(&source), granting(key.scopes));
                let key_of_tenant = ApiKey {
                    tenant: tenant.id.clone(),
                    user,
                    source,
                    expires_at: key.expires_at,
                    used: Arc::default(),
                };
                keys.api_keys.insert(key.hash, key_of_tenant);
            }
        }
        Ok(keys)
    }

    /// Lists the issuers with a JWKS URL.
    pub fn published(&self) -> &[JwksIssuer] {
        &self.published
    }

    /// Replaces the keys fetched earlier from the same URL.
    pub fn publish(&mut self, published: &JwksIssuer, fetched: Vec<IssuerKey>) {
        let known = self.issuers.entry(published.iss.clone()).or_default();
        let (gone, kept) = std::mem::take(known)
            .into_iter()
            .partition(|key| key.published.as_ref() == Some(&published.url));
        let gone: Vec<IssuerKey> = gone;
        *known = kept;
        for key in gone {
            self.sources.remove(&key.source);
        }
        for key in fetched {
            let granting = SourceGrant {
                tenant: key.tenant.clone(),
                scopes: published.scopes,
            };
            self.sources.insert(Arc::clone(&key.source), granting);
            self.issuers.entry(published.iss.clone()).or_default().push(key);
        }
    }

    /// Carries over from the previous configuration the keys fetched for unchanged issuers, and the last use of API
    /// keys.
    pub fn carry_over(&mut self, older: &Self) {
        for (hash, key) in &mut self.api_keys {
            if let Some(known) = older.api_keys.get(hash).filter(|known| known.tenant == key.tenant) {
                key.used = Arc::clone(&known.used);
            }
        }
        for published in self.published.clone() {
            let same = |key: &&IssuerKey| {
                key.published.as_ref() == Some(&published.url)
                    && key.tenant == published.tenant
                    && key.alg == published.alg
                    && key.role_claims == published.role_claims
            };
            let known = older.issuers.get(&published.iss).into_iter().flatten();
            let fetched = known.filter(same).cloned().collect();
            self.publish(&published, fetched);
        }
    }

    /// Whether an issuer with this `iss` is configured, even if its keys are not known yet.
    pub fn has_issuer(&self, iss: &str) -> bool {
        self.issuers.contains_key(iss) || self.published.iter().any(|published| published.iss == iss)
    }

    /// Lists the keys of an issuer that match a token's `kid`.
    pub fn issuer<'a, 'k>(
        &'a self,
        iss: &str,
        kid: Option<&'k str>,
    ) -> impl Iterator<Item = &'a IssuerKey> + use<'a, 'k> {
        let fits = move |key: &&IssuerKey| match (kid, &key.kid) {
            (Some(wanted), Some(known)) => wanted == known,
            // A token or key without `kid` matches any.
            _ => true,
        };
        self.issuers.get(iss).into_iter().flatten().filter(fits)
    }

    /// Finds an API key by its hash. The hash covers 256 random bits, so lookup timing reveals nothing useful.
    pub fn api_key(&self, hash: &KeyHash) -> Option<&ApiKey> {
        self.api_keys.get(hash)
    }

    /// Finds an API key of a tenant that is left out, unless a served tenant has the same key.
    pub fn left_out(&self, hash: &KeyHash) -> Option<&LeftOutKey> {
        self.left_out.get(hash).filter(|_| !self.api_keys.contains_key(hash))
    }

    /// Lists the last use of each API key in this process.
    pub fn uses(&self) -> impl Iterator<Item = (&TenantId, &KeyHash, Timestamp)> {
        self.api_keys.iter().filter_map(|(hash, key)| {
            let ms = key.used.load(Ordering::Relaxed);
            let at = Timestamp::from_millisecond(ms).ok().filter(|_| ms > 0)?;
            Some((&key.tenant, hash, at))
        })
    }

    /// Returns the scopes that `source` may grant now; `None` when it is gone or its tenant is not served.
    pub fn granted(&self, source: &str) -> Option<Scopes> {
        let granting = self.sources.get(source)?;
        (self.serving_state(&granting.tenant) == ServingState::Served).then_some(granting.scopes)
    }

    /// Returns whether a tenant is served, suspended or left out.
    pub fn serving_state(&self, tenant: &TenantId) -> ServingState {
        self.standings.of(tenant)
    }
}

/// Derives the id of an issuer's key from a hash over all its settings. Role claims are included: otherwise cached
/// tokens would keep their old roles after a change.
fn source_of(tenant: &TenantId, issuer: &Issuer, material: &str) -> String {
    let kid = issuer.kid.as_deref().unwrap_or_default();
    let role_claims = issuer.role_claims();
    let mut parts = vec![tenant.as_str(), &issuer.iss, kid, material];
    parts.extend(role_claims.iter().map(String::as_str));
    let print = fingerprint(&parts);
    format!("jwt:{}", hex::encode(&print[..8]))
}

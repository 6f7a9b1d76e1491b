//! The keys that verify credentials, out of one configuration.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use copilotd_actors::domain::ids::{TenantId, UserId};
use copilotd_actors::ports::Standing;
use jiff::Timestamp;
use jsonwebtoken::DecodingKey;
use secrecy::ExposeSecret;

use crate::config::{Alg, Config, Issuer, KeyHash, Standings};
use crate::fingerprint::fingerprint;
use crate::scopes::Scopes;

/// Begins the users that API keys act as by themselves. No token and no header may claim one.
pub(super) const KEY_USER: &str = "key:";

/// All keys of a configuration.
#[derive(Debug, Default, Clone)]
pub(super) struct Keys {
    issuers: HashMap<String, Vec<IssuerKey>>,
    api_keys: HashMap<KeyHash, ApiKey>,
    /// Issuers whose keys are fetched.
    published: Vec<Published>,
    /// What vouches for credentials; a credential whose source is gone is gone with it.
    sources: HashMap<Arc<str>, Granting>,
    /// Which tenants are served.
    standings: Standings,
    /// API keys of tenants that are left out for a fault of their settings; by these nobody is let in.
    left_out: HashMap<KeyHash, LeftOutKey>,
}

/// An API key of a tenant that is left out.
#[derive(Debug, Clone)]
pub(super) struct LeftOutKey {
    pub tenant: TenantId,
    pub expires_at: Option<Timestamp>,
}

/// What vouches for credentials: an issuer's key, or an API key.
#[derive(Debug, Clone)]
struct Granting {
    tenant: TenantId,
    /// The scopes that its credentials can have, whatever they say.
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
    /// The claims that are a token's role.
    pub role_claims: Arc<[String]>,
    /// Where it was fetched, if it was.
    pub published: Option<Arc<str>>,
}

/// An issuer that publishes its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its tenant.
    pub tenant: TenantId,
    /// The `iss` claim.
    pub iss: String,
    /// The one algorithm.
    pub alg: Alg,
    /// Where the keys are.
    pub url: Arc<str>,
    /// The claims that are a token's role.
    pub role_claims: Arc<[String]>,
    /// The scopes that its tokens may grant.
    pub scopes: Scopes,
}

impl Published {
    /// Whether the two are the same keys of the same issuer, whatever these may grant.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
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
    /// When it was used last, in milliseconds since 1970; shared with the keys of a later configuration.
    pub used: Arc<AtomicI64>,
}

/// A key of the configuration cannot be used, though loading checks them all.
#[derive(Debug, thiserror::Error)]
#[error("cannot use a key of tenant {tenant}: {reason}")]
pub struct UnusableKey {
    tenant: TenantId,
    reason: &'static str,
}

impl Keys {
    /// Reads the keys of all tenants.
    pub fn of(config: &Config) -> Result<Self, UnusableKey> {
        let mut keys = Self {
            standings: Standings::of_config(config),
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
            let granting = |scopes: Scopes| Granting {
                tenant: tenant.id.clone(),
                scopes: scopes.intersection(tenant.grantable()),
            };
            for issuer in &tenant.issuers {
                if let Some(url) = &issuer.jwks_url {
                    keys.published.push(Published {
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
                    .ok_or_else(|| unusable("it has no material"))?
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
                // The hash is part of the name: a new key under an old name is another credential.
                let fingerprint = hex::encode(&key.hash.bytes()[..8]);
                let source: Arc<str> = format!("key:{}/{}:{fingerprint}", tenant.id, key.name).into();
                let user = format!("{KEY_USER}{}", key.name);
                let Ok(user) = user.parse() else {
                    // A stored record of which only one key is wrong: that key is refused, and nobody else.
                    tracing::error!(tenant = %tenant.id, source = %source, "an API key has no name that a user can have; it is refused");
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

    /// Lists the issuers whose keys are fetched.
    pub fn published(&self) -> &[Published] {
        &self.published
    }

    /// Puts fetched keys in the place of those that were fetched there before.
    pub fn publish(&mut self, published: &Published, fetched: Vec<IssuerKey>) {
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
            let granting = Granting {
                tenant: key.tenant.clone(),
                scopes: published.scopes,
            };
            self.sources.insert(Arc::clone(&key.source), granting);
            self.issuers.entry(published.iss.clone()).or_default().push(key);
        }
    }

    /// Takes over what was fetched for another configuration, where this one names the same place, and when keys were used.
    pub fn take_over(&mut self, older: &Self) {
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

    /// Whether there is an issuer of this name, whatever is known of its keys.
    pub fn knows(&self, iss: &str) -> bool {
        self.issuers.contains_key(iss) || self.published.iter().any(|published| published.iss == iss)
    }

    /// Lists the keys of an issuer that fit a token's header.
    pub fn issuer<'a, 'k>(
        &'a self,
        iss: &str,
        kid: Option<&'k str>,
    ) -> impl Iterator<Item = &'a IssuerKey> + use<'a, 'k> {
        let fits = move |key: &&IssuerKey| match (kid, &key.kid) {
            (Some(wanted), Some(known)) => wanted == known,
            // A token without `kid` may be of any key, and a key without one of any token.
            _ => true,
        };
        self.issuers.get(iss).into_iter().flatten().filter(fits)
    }

    /// Finds an API key by its hash. The hash is of 256 random bits: how long the search takes tells nothing of use.
    pub fn api_key(&self, hash: &KeyHash) -> Option<&ApiKey> {
        self.api_keys.get(hash)
    }

    /// Finds an API key of a tenant that is left out. One that another tenant has too is that one's.
    pub fn left_out(&self, hash: &KeyHash) -> Option<&LeftOutKey> {
        self.left_out.get(hash).filter(|_| !self.api_keys.contains_key(hash))
    }

    /// Lists when each API key was used last, as far as this process knows.
    pub fn uses(&self) -> impl Iterator<Item = (&TenantId, &KeyHash, Timestamp)> {
        self.api_keys.iter().filter_map(|(hash, key)| {
            let ms = key.used.load(Ordering::Relaxed);
            let at = Timestamp::from_millisecond(ms).ok().filter(|_| ms > 0)?;
            Some((&key.tenant, hash, at))
        })
    }

    /// Returns the scopes that `source` may grant now; none when it does not vouch for credentials any more.
    pub fn granted(&self, source: &str) -> Option<Scopes> {
        let granting = self.sources.get(source)?;
        (self.standing(&granting.tenant) == Standing::Served).then_some(granting.scopes)
    }

    /// Whether anything of a tenant is accepted.
    pub fn standing(&self, tenant: &TenantId) -> Standing {
        self.standings.of(tenant)
    }
}

/// Names a key of an issuer by a hash over all that it is. With other role claims it is another one: what is remembered of its tokens
/// would else keep the old roles.
fn source_of(tenant: &TenantId, issuer: &Issuer, material: &str) -> String {
    let kid = issuer.kid.as_deref().unwrap_or_default();
    let role_claims = issuer.role_claims();
    let mut parts = vec![tenant.as_str(), &issuer.iss, kid, material];
    parts.extend(role_claims.iter().map(String::as_str));
    let print = fingerprint(&parts);
    format!("jwt:{}", hex::encode(&print[..8]))
}

//! Turns credentials into callers, caches verified tokens, and refuses revoked ones.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::access::token_identity::TokenIdentity;
use copilotd_actors::domain::ids::{TenantId, UserId};
use copilotd_actors::ports::ServingState;
use copilotd_gateway::request::role::Role;
use jiff::Timestamp;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::jwt::{self, Fault, Times};
use super::keys::{ApiKey, IssuerKey, JwksIssuer, Keys, UnusableKey};
use super::{Caller, CredentialId, CredentialKind, Refusal, api_key, open_scope};
use crate::config::Config;
use crate::revocations::RevocationList;

/// Maximum number of cached tokens. An evicted token is verified again.
const MAX_CACHED_TOKENS: u64 = 20_000;

/// Verifies credentials with the keys of the live configuration, which may be replaced at any time.
#[derive(Debug)]
pub struct Verifier {
    keys: RwLock<Arc<Keys>>,
    /// Keyed by the hash of the whole token: the token itself is not stored.
    tokens: moka::sync::Cache<[u8; 32], Arc<CachedToken>>,
    /// User tokens that are refused although their signature is valid.
    revocations: Arc<RevocationList>,
    changed: watch::Sender<()>,
}

/// The prepared keys of a configuration that is about to take effect.
#[derive(Debug)]
pub struct PreparedKeys(Keys);

/// A token whose signature and claims were verified. Its grant is looked up on each use in the keys current at that
/// time.
#[derive(Debug)]
struct CachedToken {
    /// With the scopes as claimed, before they are limited to what its source may grant.
    caller: Caller,
    times: Times,
}

impl Verifier {
    /// Creates a verifier for `config` without revocations.
    pub fn new(config: &Config) -> Result<Self, UnusableKey> {
        Self::with_revocations(config, Arc::default())
    }

    /// Creates a verifier for `config` with a revocation list.
    pub fn with_revocations(config: &Config, revocations: Arc<RevocationList>) -> Result<Self, UnusableKey> {
        Ok(Self {
            keys: RwLock::new(Arc::new(Keys::of(config)?)),
            tokens: moka::sync::Cache::new(MAX_CACHED_TOKENS),
            revocations,
            changed: watch::Sender::new(()),
        })
    }

    /// Replaces the keys by those of a new configuration. Credentials of removed keys stop working immediately.
    pub fn replace(&self, config: &Config) -> Result<(), UnusableKey> {
        self.take(Self::prepare(config)?);
        Ok(())
    }

    /// Builds the keys of a new configuration.
    pub fn prepare(config: &Config) -> Result<PreparedKeys, UnusableKey> {
        Keys::of(config).map(PreparedKeys)
    }

    /// Puts prepared keys into effect.
    pub fn take(&self, PreparedKeys(mut keys): PreparedKeys) {
        let mut known = self.keys.write();
        keys.carry_over(&known);
        *known = Arc::new(keys);
        drop(known);
        self.changed.send_replace(());
    }

    /// Lists the issuers with a JWKS URL.
    pub(super) fn published(&self) -> Vec<JwksIssuer> {
        self.keys().published().to_vec()
    }

    /// Puts fetched keys into effect. Tokens of keys that are no longer among them are refused from now on.
    pub(super) fn publish(&self, published: &JwksIssuer, fetched: Vec<IssuerKey>) {
        let mut known = self.keys.write();
        // A reload may have removed the issuer meanwhile, or changed what it may grant.
        let present = known
            .published()
            .iter()
            .find(|known| known.is_same_source(published))
            .cloned();
        if let Some(present) = present {
            Arc::make_mut(&mut known).publish(&present, fetched);
        }
        drop(known);
        self.changed.send_replace(());
    }

    /// Returns the issuer whose JWKS may contain a token's unknown key.
    pub(super) fn unknown_key(&self, token: &str) -> Option<JwksIssuer> {
        let keys = self.keys();
        if keys.published().is_empty() {
            return None;
        }
        let (iss, kid) = jwt::names(token)?;
        let published = keys.published().iter().find(|published| published.iss == iss)?;
        let known = keys
            .issuer(&iss, kid.as_deref())
            .any(|key| key.published.is_some() && (kid.is_none() || key.kid == kid));
        (!known).then(|| published.clone())
    }

    /// Verifies a credential. `on_behalf` is the value of `x-copilotd-user`.
    pub fn verify(&self, credential: &str, on_behalf: Option<&str>, now: Timestamp) -> Result<Caller, Refusal> {
        match self.lookup_cached(credential, on_behalf, now) {
            Some(known) => known,
            None => self.examine(credential, on_behalf, now),
        }
    }

    /// Answers from the cache with no cryptography but a hash; `None` if the credential must be examined.
    pub(super) fn lookup_cached(
        &self,
        credential: &str,
        on_behalf: Option<&str>,
        now: Timestamp,
    ) -> Option<Result<Caller, Refusal>> {
        if credential.starts_with(api_key::PREFIX) {
            let hash = api_key::hash_of(credential)?;
            let keys = self.keys();
            if let Some(key) = keys.left_out(&hash) {
                let ended = key.expires_at.is_some_and(|end| end <= now);
                let refusal = if ended {
                    Refusal::Expired
                } else {
                    not_served(&keys, &key.tenant)?
                };
                return Some(Err(refusal));
            }
            return keys.api_key(&hash).map(|key| self.of_key(key, &keys, on_behalf, now));
        }
        let known = self.tokens.get(&digest(credential))?;
        let keys = self.keys();
        let Some(granted) = keys.granted(known.caller.credential.source()) else {
            // The keys of a tenant that is left out are unknown, but an earlier verification still holds: refuse with
            // the true reason.
            let tenant = known.caller.scope.tenant();
            let refusal = not_served(&keys, tenant)?;
            let valid = self.of_token(&known, Scopes::NONE, on_behalf, now);
            return Some(valid.and(Err(refusal)));
        };
        // Cached tokens of a replaced key never get here.
        Some(self.of_token(&known, granted, on_behalf, now))
    }

    /// Verifies a credential that is not cached.
    pub(super) fn examine(&self, credential: &str, on_behalf: Option<&str>, now: Timestamp) -> Result<Caller, Refusal> {
        if credential.starts_with(api_key::PREFIX) {
            tracing::debug!("credential refused: unknown API key");
            return Err(Refusal::Unknown);
        }
        let keys = self.keys();
        let verified = jwt::verify(credential, &keys).map_err(|fault| match fault {
            Fault::Refused(refusal) => refusal,
            Fault::Unknown(reason) => {
                tracing::debug!(%reason, "credential refused: the token's signer could not be verified");
                Refusal::Unknown
            }
        })?;
        verified.times.check(now)?;
        if let Some(refusal) = not_served(&keys, &verified.key.tenant) {
            return Err(refusal);
        }
        if let Some(issued_at) = verified.times.issued_at.filter(|at| *at > now) {
            self.revocations
                .issued_ahead(&verified.key.tenant, &verified.user, issued_at, now);
        }
        let hash = digest(credential);
        // The id covers the signed part only: anyone can derive a second valid ECDSA signature, and with it another
        // token that is not the revoked one.
        let signed = credential.rsplit_once('.').map_or(credential, |(signed, _)| signed);
        let name = hex::encode(&digest(signed)[..16]);
        let known = Arc::new(CachedToken {
            caller: Caller {
                scope: open_scope(verified.key.tenant),
                user: verified.user,
                scopes: verified.scopes,
                role: Some(verified.role),
                roles: verified.roles,
                credential: CredentialId::new(&verified.key.source, Some(&name)),
                expires_at: Some(verified.times.expires_at),
                kind: CredentialKind::UserToken,
                token: Some(TokenIdentity {
                    issued_at: verified.times.issued_at,
                    jti: verified.jti,
                }),
            },
            times: verified.times,
        });
        self.tokens.insert(hash, Arc::clone(&known));
        let granted = keys.granted(known.caller.credential.source()).ok_or(Refusal::Unknown)?;
        self.of_token(&known, granted, on_behalf, now)
    }

    fn of_token(
        &self,
        known: &CachedToken,
        granted: Scopes,
        on_behalf: Option<&str>,
        now: Timestamp,
    ) -> Result<Caller, Refusal> {
        known.times.check(now)?;
        if on_behalf.is_some_and(|user| user != known.caller.user.as_str()) {
            return Err(Refusal::OnBehalfNotAllowed);
        }
        if self.is_revoked(&known.caller) {
            return Err(Refusal::Revoked);
        }
        let mut caller = known.caller.clone();
        caller.scopes = caller.scopes.intersection(granted);
        Ok(caller)
    }

    fn of_key(&self, key: &ApiKey, keys: &Keys, on_behalf: Option<&str>, now: Timestamp) -> Result<Caller, Refusal> {
        if key.expires_at.is_some_and(|end| end <= now) {
            return Err(Refusal::Expired);
        }
        if let Some(refusal) = not_served(keys, &key.tenant) {
            return Err(refusal);
        }
        let user = match on_behalf {
            None => key.user.clone(),
            Some(user) => {
                let user = user.parse::<UserId>().map_err(|_invalid| Refusal::OnBehalf)?;
                if user.is_key() && user != key.user {
                    return Err(Refusal::OnBehalf);
                }
                user
            }
        };
        let scopes = keys.granted(&key.source).ok_or(Refusal::Unknown)?;
        key.used.fetch_max(now.as_millisecond(), Ordering::Relaxed);
        Ok(Caller {
            scope: open_scope(key.tenant.clone()),
            user,
            scopes,
            role: Some(Role::of_key(Arc::clone(&key.source))),
            roles: Arc::default(),
            credential: CredentialId::new(&key.source, None),
            expires_at: key.expires_at,
            kind: CredentialKind::ApiKey,
            token: None,
        })
    }

    /// Lists the last use of each API key in this process.
    pub fn uses(&self) -> Vec<(TenantId, KeyHash, Timestamp)> {
        let keys = self.keys();
        let owned = |(tenant, hash, at): (&TenantId, &KeyHash, Timestamp)| (tenant.clone(), *hash, at);
        keys.uses().map(owned).collect()
    }

    /// Whether a verified caller's source still exists, may still grant its scopes, and the caller is not revoked. Does
    /// not check expiry. Streams of the OpenAI endpoint ask too: their callers need not have `chat`.
    pub fn is_live(&self, caller: &Caller) -> bool {
        let granted = self.keys().granted(caller.credential.source());
        granted.is_some_and(|granted| granted.contains(caller.scopes)) && !self.is_revoked(caller)
    }

    /// Why a once verified caller that is no longer live is refused.
    pub fn why_ended(&self, caller: &Caller) -> Refusal {
        let left_out = self.keys().serving_state(caller.scope.tenant()) == ServingState::LeftOut;
        if left_out && !self.is_revoked(caller) {
            Refusal::LeftOut
        } else {
            Refusal::Revoked
        }
    }

    /// Waits until a caller is no longer live, by revocation or because its key was removed; streams end then.
    pub async fn ended(&self, caller: &Caller) {
        let mut keys = self.changed.subscribe();
        let mut revocations = self.revocations.watch(caller.scope.tenant());
        // Both senders live as long as `self`: waiting never fails.
        while self.is_live(caller) {
            let changed = tokio::select! {
                changed = keys.changed() => changed,
                changed = revocations.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn is_revoked(&self, caller: &Caller) -> bool {
        let (tenant, credential) = (caller.scope.tenant(), caller.credential.as_str());
        let hits = |token: &TokenIdentity| self.revocations.hits(tenant, &caller.user, token, credential);
        caller.token.as_ref().is_some_and(hits)
    }

    /// Returns the current keys.
    pub(super) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read())
    }
}

/// Why a tenant's credentials are refused; `None` if the tenant is served.
fn not_served(keys: &Keys, tenant: &TenantId) -> Option<Refusal> {
    match keys.serving_state(tenant) {
        ServingState::Served => None,
        ServingState::LeftOut => Some(Refusal::LeftOut),
        ServingState::Suspended => Some(Refusal::Suspended),
    }
}

fn digest(credential: &str) -> [u8; 32] {
    Sha256::digest(credential.as_bytes()).into()
}

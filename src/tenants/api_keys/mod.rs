//! API keys of tenants: created, listed and revoked.
//!
//! Invariant: a stored key, even a revoked one, has precedence over the same key in a tenant's table.

mod by_tenant;
mod ended;
mod last_uses;

use std::fmt;
use std::sync::Arc;

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::{KeyId, Requester, StoredKey};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use dashmap::DashMap;
use jiff::Timestamp;
use tokio::sync::{Mutex, OwnedMutexGuard};

pub(super) use by_tenant::KeysByTenant;
use ended::forgotten;
use last_uses::LastUses;

use super::current::LiveTenants;
use super::entry::Entry;
use super::error::ChangeError;
use super::live::{Live, prepare};
use super::view::Origin;
use crate::audit::Action;
use crate::config::ApiKey;

/// Most keys of a tenant that are neither revoked nor expired.
const MAX_KEYS: usize = 500;

/// The API keys of all tenants.
pub struct ApiKeys {
    live: Arc<Live>,
    last_uses: LastUses,
    /// One lock per tenant, so that its administrators wait for each other and not for those of other tenants.
    turns: DashMap<TenantId, Arc<Mutex<()>>>,
}

/// An API key to create.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// Name of the key.
    pub name: String,
    /// Scopes of the key.
    pub scopes: Scopes,
    /// The user who creates it.
    pub by: String,
    /// When it expires, if ever.
    pub expires_at: Option<Timestamp>,
}

/// An API key as an administrator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// Id of the key.
    pub id: KeyId,
    /// Name of the key.
    pub name: String,
    /// Scopes of the key.
    pub scopes: Scopes,
    /// Whether it is in the file or stored.
    pub origin: Origin,
    /// When and by whom it was created; unknown for keys of the file.
    pub made: Option<(Timestamp, String)>,
    /// When it expires, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKeys {
    /// Reads when keys were last used.
    pub(super) async fn open(live: Arc<Live>) -> Result<Self, LogError> {
        let last_uses = LastUses::open(Arc::clone(&live.store)).await?;
        Ok(Self {
            live,
            last_uses,
            turns: DashMap::new(),
        })
    }

    /// Lists a tenant's keys, newest first, those of the file last, with their effective scopes.
    pub fn list(&self, scope: &TenantScope) -> Vec<KeyView> {
        let current = self.live.current();
        let tenant = scope.tenant();
        let known = current.config.tenants.iter().find(|known| known.id == *tenant);
        let grantable = known.map_or(Scopes::NONE, |known| known.grantable());
        let stored = current.keys.iter().filter(|key| key.tenant == *tenant);
        let mut views: Vec<KeyView> = stored
            .clone()
            .map(|key| view_of(key, grantable, self.last_uses.of(&key.hash)))
            .collect();
        for key in known.into_iter().flat_map(|known| &known.api_keys) {
            if !stored.clone().any(|known| known.hash == key.hash) {
                views.push(KeyView {
                    id: KeyId::of(&key.hash),
                    name: key.name.clone(),
                    scopes: key.scopes.intersection(grantable),
                    origin: Origin::File,
                    made: None,
                    expires_at: key.expires_at,
                    revoked_at: None,
                    last_used_at: self.last_uses.of(&key.hash),
                });
            }
        }
        views
    }

    /// Creates a key, which is accepted once this returns.
    pub async fn create(&self, scope: &TenantScope, new: NewKey, by: &Requester) -> Result<KeyView, ChangeError> {
        let _turn = self.turn(scope.tenant()).await;
        let source = self.live.source.lock().await;
        let current = self.live.read(&source).await?;
        let now = self.live.clock.now();
        let tenant = scope.tenant();
        let known = current.config.tenants.iter().find(|known| known.id == *tenant);
        let live = known.map_or(&[][..], |known| &known.api_keys);
        if live.iter().any(|key| key.name == new.name) {
            return Err(ChangeError::Exists(format!("a key named {:?}", new.name)));
        }
        if live.len() >= MAX_KEYS {
            let message = format!("the tenant already has {MAX_KEYS} keys, the limit; revoke one that is not used");
            return Err(ChangeError::Conflict(message));
        }
        let grantable = known.map_or(Scopes::NONE, |known| known.grantable());
        let key = StoredKey {
            tenant: tenant.clone(),
            hash: new.hash,
            name: new.name,
            scopes: new.scopes.intersection(grantable),
            created_at: now,
            created_by: Some(new.by),
            expires_at: new.expires_at,
            revoked_at: None,
        };
        let forgotten = forgotten(&current.keys, tenant, now);
        let kept = current
            .keys
            .iter()
            .filter(|key| !forgotten.contains(&key.hash))
            .cloned();
        let keys = std::iter::once(key.clone()).chain(kept).collect();
        let after = current.with_keys(&self.live.globals, keys, now);
        let parts = self.live.parts();
        let commits = prepare(&parts, &after.config)?;
        let id = KeyId::of(&key.hash).to_string();
        self.live
            .record(tenant, Action::KeyCreated, id, vec!["/api_keys".to_owned()], by)
            .await?;
        self.live.store.put_key(&key).await?;
        if !forgotten.is_empty() {
            let forgotten: Vec<KeyHash> = forgotten.into_iter().collect();
            self.live.store.delete_keys(&forgotten).await?;
        }
        self.live.apply(after, commits);
        Ok(view_of(&key, grantable, None))
    }

    /// Revokes a key. Once this returns it is refused, and its streams end. Does nothing if it was already revoked.
    pub async fn revoke(&self, scope: &TenantScope, id: KeyId, by: &Requester) -> Result<(), ChangeError> {
        let _turn = self.turn(scope.tenant()).await;
        let source = self.live.source.lock().await;
        let current = self.live.read_or_cached(&source).await;
        let now = self.live.clock.now();
        let tenant = scope.tenant();
        let is_it = |key: &&StoredKey| key.tenant == *tenant && KeyId::of(&key.hash) == id;
        let stored = current.keys.iter().find(is_it).cloned();
        let known = stored.or_else(|| key_of_table(&current, scope, id, now));
        let mut key = known.ok_or(ChangeError::Missing)?;
        if key.revoked_at.is_some() {
            return Ok(());
        }
        key.revoked_at = Some(now);
        let others = current.keys.iter().filter(|known| known.hash != key.hash).cloned();
        let keys = std::iter::once(key.clone()).chain(others).collect();
        let after = current.with_keys(&self.live.globals, keys, now);
        self.live
            .record(
                tenant,
                Action::KeyRevoked,
                id.to_string(),
                vec!["/api_keys".to_owned()],
                by,
            )
            .await?;
        self.live.store.put_key(&key).await?;
        self.live.apply_despite_failures(after);
        Ok(())
    }

    /// Records when keys were last used, in memory and in the store.
    pub async fn record_last_uses(&self, uses: Vec<(KeyHash, Timestamp)>) -> Result<(), LogError> {
        self.last_uses.record(uses).await
    }

    /// Deletes what is known of a tenant's keys beside its stored records.
    pub(super) async fn forget_uses(
        &self,
        tenant: &TenantId,
        entry: &Entry,
        stored: &[StoredKey],
    ) -> Result<(), LogError> {
        // Keys of its table have no stored record, but their last use may be stored.
        let of_table: Vec<KeyHash> = entry.table_keys().map(|key| key.hash).collect();
        if !of_table.is_empty() {
            self.live.store.delete_keys(&of_table).await?;
        }
        let stored = stored.iter().filter(|key| key.tenant == *tenant).map(|key| &key.hash);
        self.last_uses.forget(of_table.iter().chain(stored));
        Ok(())
    }

    /// Forgets the lock of a tenant that was deleted.
    pub(super) fn forget_turn(&self, tenant: &TenantId) {
        self.turns.remove(tenant);
    }

    /// Waits until no other administrator of the tenant is making a change. Operators do not wait here: suspending a
    /// tenant must not queue behind its administrators.
    async fn turn(&self, tenant: &TenantId) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&self.turns.entry(tenant.clone()).or_default());
        turn.lock_owned().await
    }
}

/// Finds a key in the tenant's table, even if the tenant is left out.
fn key_of_table(current: &LiveTenants, scope: &TenantScope, id: KeyId, now: Timestamp) -> Option<StoredKey> {
    let entry = current.tenants.get(scope.tenant())?;
    let key: ApiKey = entry.table_keys().find(|key| KeyId::of(&key.hash) == id)?;
    Some(StoredKey {
        tenant: scope.tenant().clone(),
        hash: key.hash,
        name: key.name,
        scopes: key.scopes,
        created_at: now,
        created_by: None,
        expires_at: key.expires_at,
        revoked_at: None,
    })
}

fn view_of(key: &StoredKey, grantable: Scopes, last_used_at: Option<Timestamp>) -> KeyView {
    KeyView {
        id: KeyId::of(&key.hash),
        name: key.name.clone(),
        scopes: key.scopes.intersection(grantable),
        origin: match key.created_by {
            Some(_) => Origin::Stored,
            None => Origin::File,
        },
        made: key.created_by.clone().map(|by| (key.created_at, by)),
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        last_used_at,
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").finish_non_exhaustive()
    }
}

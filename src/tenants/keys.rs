//! API keys of tenants: created, listed and revoked.

use std::collections::{HashMap, HashSet};

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::{KeyId, Requester, StoredKey};
use copilotd_actors::tenancy::TenantScope;
use jiff::{SignedDuration, Timestamp};

use super::current::{LiveTenants, Origin};
use super::error::ChangeError;
use super::registry::{TenantRegistry, prepare};
use crate::audit::Action;
use crate::config::ApiKey;

/// Most keys of a tenant that are neither revoked nor expired.
const MAX_KEYS: usize = 500;
/// How long a revoked or expired key is still listed.
const ENDED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Most revoked or expired keys of a tenant that are still listed; bounded because every change reads all keys.
const MAX_ENDED: usize = 500;

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

impl TenantRegistry {
    /// Lists a tenant's keys, newest first, those of the file last, with their effective scopes.
    pub fn keys(&self, scope: &TenantScope) -> Vec<KeyView> {
        let current = self.current();
        let uses = self.uses.lock();
        let tenant = scope.tenant();
        let known = current.config.tenants.iter().find(|known| known.id == *tenant);
        let grantable = known.map_or(Scopes::NONE, |known| known.grantable());
        let stored = current.keys.iter().filter(|key| key.tenant == *tenant);
        let mut views: Vec<KeyView> = stored.clone().map(|key| view_of(key, grantable, &uses)).collect();
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
                    last_used_at: uses.get(&key.hash).copied(),
                });
            }
        }
        views
    }

    /// Creates a key, which is accepted once this returns.
    pub async fn create_key(&self, scope: &TenantScope, new: NewKey, by: &Requester) -> Result<KeyView, ChangeError> {
        let _turn = self.turn(scope.tenant()).await;
        let source = self.source.lock().await;
        let current = self.read(&source).await?;
        let now = self.clock.now();
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
        let after = current.with_keys(&self.globals, keys, now);
        let parts = self.parts();
        let commits = prepare(&parts, &after.config)?;
        let id = KeyId::of(&key.hash).to_string();
        self.record(tenant, Action::KeyCreated, id, vec!["/api_keys".to_owned()], by)
            .await?;
        self.store.put_key(&key).await?;
        if !forgotten.is_empty() {
            let forgotten: Vec<KeyHash> = forgotten.into_iter().collect();
            self.store.delete_keys(&forgotten).await?;
        }
        self.apply(after, commits);
        Ok(view_of(&key, grantable, &HashMap::new()))
    }

    /// Revokes a key. Once this returns it is refused, and its streams end. Does nothing if it was already revoked.
    pub async fn revoke_key(&self, scope: &TenantScope, id: KeyId, by: &Requester) -> Result<(), ChangeError> {
        let _turn = self.turn(scope.tenant()).await;
        let source = self.source.lock().await;
        let current = self.read_or_cached(&source).await;
        let now = self.clock.now();
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
        let after = current.with_keys(&self.globals, keys, now);
        self.record(
            tenant,
            Action::KeyRevoked,
            id.to_string(),
            vec!["/api_keys".to_owned()],
            by,
        )
        .await?;
        self.store.put_key(&key).await?;
        self.apply_despite_failures(after);
        Ok(())
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

/// Returns the keys to delete: those of all tenants that ended longer than [`ENDED`] ago, and of this tenant also those
/// that ended before the newest [`MAX_ENDED`].
fn forgotten(keys: &[StoredKey], tenant: &TenantId, now: Timestamp) -> HashSet<KeyHash> {
    let past = keys.iter().filter(|key| is_past(key, now));
    let mut forgotten: HashSet<KeyHash> = past.map(|key| key.hash).collect();
    // A revoked key of the file has to be remembered for as long as it is in the file.
    let own = keys
        .iter()
        .filter(|key| key.tenant == *tenant && key.created_by.is_some());
    let mut ended: Vec<(Timestamp, KeyHash)> = own
        .filter_map(|key| Some((key.revoked_at.or(key.expires_at.filter(|end| *end <= now))?, key.hash)))
        .collect();
    ended.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    forgotten.extend(ended.into_iter().skip(MAX_ENDED).map(|(_, hash)| hash));
    forgotten
}

fn is_past(key: &StoredKey, now: Timestamp) -> bool {
    let long_ago = |end: Option<Timestamp>| end.is_some_and(|end| now.duration_since(end) > ENDED);
    // A revoked key of the file has to be remembered for as long as it is in the file.
    key.created_by.is_some() && (long_ago(key.revoked_at) || long_ago(key.expires_at))
}

fn view_of(key: &StoredKey, grantable: Scopes, uses: &HashMap<KeyHash, Timestamp>) -> KeyView {
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
        last_used_at: uses.get(&key.hash).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_keys_are_bounded_and_those_that_count_are_kept() {
        let now: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let key = |tenant: &str, n: u32, stored: bool, ended_ago: Option<i64>| StoredKey {
            tenant: tenant.parse().unwrap(),
            hash: KeyHash::of(&format!("{tenant} {n} {stored}")),
            name: n.to_string(),
            scopes: Scopes::CHAT,
            created_at: now,
            created_by: stored.then(|| "root".to_owned()),
            expires_at: None,
            revoked_at: ended_ago.map(|minutes| now - SignedDuration::from_mins(minutes)),
        };
        let mut keys = Vec::new();
        for n in 0..2 * u32::try_from(MAX_ENDED).unwrap() {
            keys.push(key("acme", n, true, Some(i64::from(n))));
            keys.push(key("globex", n, true, Some(i64::from(n))));
            keys.push(key("acme", n, false, Some(i64::from(n))));
        }
        for n in 0..10 {
            keys.push(key("initech", n, true, None));
            keys.push(key("initech", 100 + n, true, Some(31 * 24 * 60)));
        }
        let gone = forgotten(&keys, &"acme".parse().unwrap(), now);
        for key in &keys {
            let minutes = key.revoked_at.map(|at| now.duration_since(at).as_mins());
            let expected = match (key.tenant.as_str(), &key.created_by, minutes) {
                (_, Some(_), Some(minutes)) if minutes > 30 * 24 * 60 => true,
                ("acme", Some(_), Some(minutes)) => minutes >= 500,
                _ => false,
            };
            assert_eq!(gone.contains(&key.hash), expected, "{key:?}");
        }
    }
}

//! The revocations in force, in memory: checked on every request.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::domain::access::revocation::{Revocation, RevocationId, Subject};
use copilotd_actors::domain::access::token_identity::{JtiDigest, TokenIdentity};
use copilotd_actors::domain::ids::{TenantId, UserId};
use dashmap::DashMap;
use jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::watch;

/// The revocations in force of all tenants. Each tenant's are separate, so that one that revokes a lot does not wake
/// other tenants' streams.
#[derive(Debug, Default)]
pub struct RevocationList {
    tenants: DashMap<TenantId, Arc<TenantEntry>>,
    /// All users' tokens of every tenant issued up to this time are revoked: a stored revocation is unreadable, down to
    /// its tenant.
    everywhere: RwLock<Option<Timestamp>>,
}

#[derive(Debug)]
struct TenantEntry {
    revocations: RwLock<TenantRevocations>,
    changed: watch::Sender<()>,
}

impl Default for TenantEntry {
    fn default() -> Self {
        Self {
            revocations: RwLock::default(),
            changed: watch::Sender::new(()),
        }
    }
}

#[derive(Debug, Default)]
struct TenantRevocations {
    /// All users' tokens issued up to this time are revoked: a stored revocation of the tenant is unreadable.
    everyone: Option<Timestamp>,
    all: HashMap<RevocationId, Revocation>,
    /// Tokens of a user issued up to this time are revoked.
    users: HashMap<UserId, Timestamp>,
    tokens: HashMap<TokenKey, RevocationId>,
    /// The latest `iat` of each user that was ahead of our clock when the token was seen: a revocation has to include
    /// it.
    ahead: HashMap<UserId, Timestamp>,
}

/// Most users per tenant in `ahead`; beyond it, entries that are past are dropped, then all.
const MAX_AHEAD: usize = 10_000;

/// Identifies one token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum TokenKey {
    Jti(JtiDigest),
    /// Hash of the whole token, in hexadecimal: the last part of its credential's name. The part before it names the
    /// signing key and may change with the configuration.
    Hash(String),
}

impl TokenKey {
    /// Returns the keys that an id given by an administrator may mean.
    fn of_id(id: &str) -> Vec<Self> {
        let mut keys = vec![Self::Jti(JtiDigest::of(id))];
        keys.extend(hash_in(id).map(|hash| Self::Hash(hash.to_owned())));
        keys
    }
}

/// Extracts the hash of a token from its credential's name, `jwt:<key>:<hash>`.
fn hash_in(credential: &str) -> Option<&str> {
    let (_, hash) = credential.strip_prefix("jwt:")?.rsplit_once(':')?;
    Some(hash)
}

impl TenantRevocations {
    fn insert(&mut self, revocation: Revocation) {
        let id = revocation.id();
        match &revocation.subject {
            Subject::User(user) => _ = self.users.insert(user.clone(), revocation.revoked_at),
            Subject::Token(token) => self
                .tokens
                .extend(TokenKey::of_id(token).into_iter().map(|key| (key, id))),
        }
        self.all.insert(id, revocation);
    }

    fn remove(&mut self, id: RevocationId) {
        let Some(revocation) = self.all.remove(&id) else { return };
        match &revocation.subject {
            Subject::User(user) => _ = self.users.remove(user),
            Subject::Token(_) => self.tokens.retain(|_, of| *of != id),
        }
    }

    fn hits(&self, user: &UserId, token: &TokenIdentity, credential: &str) -> bool {
        let of_user = is_issued_by(token, self.users.get(user).copied()) || is_issued_by(token, self.everyone);
        if of_user || self.tokens.is_empty() {
            return of_user;
        }
        let by_jti = token.jti.map(TokenKey::Jti);
        let by_hash = hash_in(credential).map(|hash| TokenKey::Hash(hash.to_owned()));
        by_jti
            .into_iter()
            .chain(by_hash)
            .any(|key| self.tokens.contains_key(&key))
    }
}

/// Whether a token was issued at `moment` or earlier; if there is such a moment. `iat` has whole seconds: a token issued
/// in the second of the revocation is revoked, and so is one without `iat`.
fn is_issued_by(token: &TokenIdentity, moment: Option<Timestamp>) -> bool {
    moment.is_some_and(|moment| token.issued_at.is_none_or(|issued_at| issued_at <= moment))
}

impl RevocationList {
    /// Records that a valid token's `iat` is later than now.
    pub fn issued_ahead(&self, tenant: &TenantId, user: &UserId, issued_at: Timestamp, now: Timestamp) {
        let of_tenant = self.of(tenant);
        let mut revocations = of_tenant.revocations.write();
        if revocations.ahead.len() >= MAX_AHEAD {
            revocations.ahead.retain(|_, at| *at > now);
            if revocations.ahead.len() >= MAX_AHEAD {
                revocations.ahead.clear();
            }
        }
        let latest = revocations.ahead.entry(user.clone()).or_insert(issued_at);
        *latest = issued_at.max(*latest);
    }

    /// Returns the time up to which a revocation of the subject has to reach: now, or the latest `iat` seen ahead of
    /// it.
    pub(super) fn reach(&self, tenant: &TenantId, subject: &Subject, now: Timestamp) -> Timestamp {
        let Subject::User(user) = subject else { return now };
        let ahead = self.of(tenant).read(|revocations| revocations.ahead.get(user).copied());
        ahead.map_or(now, |ahead| ahead.max(now))
    }

    /// Whether a token is revoked.
    pub fn hits(&self, tenant: &TenantId, user: &UserId, token: &TokenIdentity, credential: &str) -> bool {
        if is_issued_by(token, *self.everywhere.read()) {
            return true;
        }
        let of_tenant = self.tenants.get(tenant).map(|found| Arc::clone(&found));
        of_tenant.is_some_and(|of_tenant| of_tenant.read(|revocations| revocations.hits(user, token, credential)))
    }

    /// Returns a receiver of every change of a tenant's revocations.
    pub fn watch(&self, tenant: &TenantId) -> watch::Receiver<()> {
        self.of(tenant).changed.subscribe()
    }

    /// Puts a revocation in force, in place of an earlier one of the same subject.
    pub(super) fn enforce(&self, revocation: Revocation) {
        let of_tenant = self.of(&revocation.tenant);
        of_tenant.write(|revocations| revocations.insert(revocation));
    }

    /// Revokes the tokens of all users that were issued up to `moment`: of a tenant, or of every tenant.
    pub(super) fn revoke_all(&self, tenant: Option<&TenantId>, moment: Timestamp) {
        match tenant {
            Some(tenant) => self.of(tenant).write(|revocations| revocations.everyone = Some(moment)),
            None => *self.everywhere.write() = Some(moment),
        }
    }

    /// Ends every [`Self::revoke_all`].
    pub(super) fn end_revoke_all(&self) {
        *self.everywhere.write() = None;
        for tenant in &self.tenants {
            tenant.revocations.write().everyone = None;
        }
    }

    /// Removes a revocation.
    pub(super) fn remove(&self, tenant: &TenantId, id: RevocationId) {
        self.of(tenant).write(|revocations| revocations.remove(id));
    }

    /// Removes a tenant's expired revocations.
    pub(super) fn forget_expired(&self, tenant: &TenantId, now: Timestamp) {
        let of_tenant = self.of(tenant);
        let mut revocations = of_tenant.revocations.write();
        let expired: Vec<RevocationId> = revocations
            .all
            .iter()
            .filter(|(_, revocation)| revocation.expires_at <= now)
            .map(|(id, _)| *id)
            .collect();
        expired.into_iter().for_each(|id| revocations.remove(id));
    }

    /// Removes everything of a tenant.
    pub(super) fn forget(&self, tenant: &TenantId) {
        self.tenants.remove(tenant);
    }

    /// Finds a tenant's revocation.
    pub(super) fn get(&self, tenant: &TenantId, id: RevocationId) -> Option<Revocation> {
        self.of(tenant).read(|revocations| revocations.all.get(&id).cloned())
    }

    /// Counts a tenant's revocations.
    pub(super) fn count(&self, tenant: &TenantId) -> usize {
        self.of(tenant).read(|revocations| revocations.all.len())
    }

    /// Lists a tenant's revocations, newest first.
    pub(super) fn all(&self, tenant: &TenantId) -> Vec<Revocation> {
        let mut all: Vec<Revocation> = self
            .of(tenant)
            .read(|revocations| revocations.all.values().cloned().collect());
        all.sort_by_key(|revocation| (std::cmp::Reverse(revocation.revoked_at), revocation.id()));
        all
    }

    fn of(&self, tenant: &TenantId) -> Arc<TenantEntry> {
        if let Some(found) = self.tenants.get(tenant) {
            return Arc::clone(&found);
        }
        Arc::clone(&self.tenants.entry(tenant.clone()).or_default())
    }
}

impl TenantEntry {
    fn read<T>(&self, look: impl FnOnce(&TenantRevocations) -> T) -> T {
        look(&self.revocations.read())
    }

    fn write(&self, change: impl FnOnce(&mut TenantRevocations)) {
        change(&mut self.revocations.write());
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::access::revocation::STORED_FOR;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn revocation(tenant: &str, subject: Subject, revoked_at: Timestamp) -> Revocation {
        Revocation {
            tenant: tenant.parse().unwrap(),
            subject,
            revoked_at,
            expires_at: revoked_at + STORED_FOR,
            revoked_by: "root".to_owned(),
            reason: None,
        }
    }

    fn hits(
        list: &RevocationList,
        tenant: &str,
        user: &str,
        issued_at: Option<i64>,
        jti: &str,
        credential: &str,
    ) -> bool {
        let token = TokenIdentity {
            issued_at: issued_at.map(at),
            jti: (!jti.is_empty()).then(|| JtiDigest::of(jti)),
        };
        list.hits(&tenant.parse().unwrap(), &user.parse().unwrap(), &token, credential)
    }

    #[test]
    fn a_user_s_tokens_up_to_the_moment_are_hit_and_nobody_else_s() {
        let list = RevocationList::default();
        let moment = at(10) + jiff::SignedDuration::from_millis(400);
        list.enforce(revocation("acme", Subject::User("ada".parse().unwrap()), moment));
        for (tenant, user, issued_at, hit) in [
            ("acme", "ada", Some(-3_600), true),
            ("acme", "ada", Some(10), true),
            ("acme", "ada", Some(11), false),
            ("acme", "ada", None, true),
            ("acme", "Ada", Some(10), false),
            ("acme", "ada ", Some(10), false),
            ("acme", "bob", Some(10), false),
            ("globex", "ada", Some(10), false),
        ] {
            assert_eq!(
                hits(&list, tenant, user, issued_at, "", "jwt:k:h"),
                hit,
                "{tenant} {user} {issued_at:?}"
            );
        }
    }

    #[test]
    fn a_token_is_hit_by_its_jti_or_its_credential_whatever_key_signed_it() {
        let list = RevocationList::default();
        list.enforce(revocation("acme", Subject::Token("j-1".into()), at(0)));
        list.enforce(revocation("acme", Subject::Token("jwt:oldkey:cafe".into()), at(0)));
        for (tenant, jti, credential, hit) in [
            ("acme", "j-1", "jwt:k:h", true),
            ("acme", "j-2", "jwt:k:h", false),
            ("acme", "", "jwt:k:cafe", true),
            ("acme", "", "jwt:oldkey:cafe", true),
            ("acme", "", "jwt:oldkey:beef", false),
            ("acme", "jwt:oldkey:cafe", "jwt:k:h", true),
            ("globex", "j-1", "jwt:oldkey:cafe", false),
        ] {
            assert_eq!(
                hits(&list, tenant, "ada", Some(0), jti, credential),
                hit,
                "{tenant} {jti} {credential}"
            );
        }
        let acme = "acme".parse().unwrap();
        list.remove(&acme, RevocationId::of(&acme, &Subject::Token("j-1".into())));
        assert!(!hits(&list, "acme", "ada", Some(0), "j-1", "jwt:k:h"));
        assert!(hits(&list, "acme", "ada", Some(0), "", "jwt:k:cafe"));
    }

    #[test]
    fn what_has_expired_is_forgotten() {
        let list = RevocationList::default();
        let acme: TenantId = "acme".parse().unwrap();
        for (user, seconds) in [("ada", 0), ("bob", 100)] {
            list.enforce(revocation("acme", Subject::User(user.parse().unwrap()), at(seconds)));
        }
        list.forget_expired(&acme, at(50) + STORED_FOR);
        assert_eq!(list.count(&acme), 1);
        assert!(!hits(&list, "acme", "ada", None, "", "jwt:k:h") && hits(&list, "acme", "bob", None, "", "jwt:k:h"));
    }

    #[test]
    fn a_change_wakes_its_own_tenant_alone() {
        let list = RevocationList::default();
        let watch = |tenant: &str| list.watch(&tenant.parse().unwrap());
        let (acme, globex) = (watch("acme"), watch("globex"));
        list.enforce(revocation("acme", Subject::User("ada".parse().unwrap()), at(0)));
        assert!(acme.has_changed().unwrap() && !globex.has_changed().unwrap());
    }

    #[test]
    fn a_revocation_reaches_what_a_clock_ahead_has_issued() {
        let list = RevocationList::default();
        let (acme, ada) = ("acme".parse().unwrap(), "ada".parse::<UserId>().unwrap());
        let subject = Subject::User(ada.clone());
        assert_eq!(list.reach(&acme, &subject, at(0)), at(0));
        for issued in [30, 55, 40] {
            list.issued_ahead(&acme, &ada, at(issued), at(0));
        }
        assert_eq!(list.reach(&acme, &subject, at(1)), at(55));
        assert_eq!(list.reach(&acme, &subject, at(100)), at(100));
        assert_eq!(list.reach(&"globex".parse().unwrap(), &subject, at(1)), at(1));
        assert_eq!(list.reach(&acme, &Subject::Token("j".into()), at(1)), at(1));
        for n in 0..3 * MAX_AHEAD {
            list.issued_ahead(&acme, &format!("user-{n}").parse().unwrap(), at(50), at(0));
        }
        assert!(list.of(&acme).read(|revocations| revocations.ahead.len()) <= MAX_AHEAD);
    }
}

//! For how long revoked and expired keys are remembered.

use std::collections::HashSet;

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::StoredKey;
use jiff::{SignedDuration, Timestamp};

/// How long a revoked or expired key is still listed.
const ENDED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Most revoked or expired keys of a tenant that are still listed; bounded because every change reads all keys.
const MAX_ENDED: usize = 500;

/// Returns the keys to delete: those of all tenants that ended longer than [`ENDED`] ago, and of this tenant also those
/// that ended before the newest [`MAX_ENDED`].
pub(super) fn forgotten(keys: &[StoredKey], tenant: &TenantId, now: Timestamp) -> HashSet<KeyHash> {
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

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::access::scopes::Scopes;

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

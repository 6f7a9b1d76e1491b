//! Storage quotas of a tenant and each of its users: conversations, and bytes of the log.

/// What is stored. Erased conversations do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredAmount {
    /// Number of conversations.
    pub conversations: u64,
    /// Bytes of their records.
    pub bytes: u64,
}

/// What a tenant and one of its users have stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredTotals {
    /// The tenant: all its users together.
    pub tenant: StoredAmount,
    /// One user.
    pub user: StoredAmount,
}

/// How much may be stored; none means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Maximum number of conversations.
    pub conversations: Option<u64>,
    /// Maximum bytes of their records.
    pub bytes: Option<u64>,
}

/// The quotas of a tenant and of each of its users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    /// The tenant: all its users together.
    pub tenant: Quota,
    /// Each user.
    pub user: Quota,
}

/// A quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {of}'s {name} quota of {limit} is used up")]
pub struct QuotaExceeded {
    /// Whose quota: `tenant` or `user`.
    pub of: &'static str,
    /// The quota's name in the configuration.
    pub name: &'static str,
    /// The quota's limit.
    pub limit: u64,
}

impl Quotas {
    /// Returns whether there are no limits, so that nothing has to be counted.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses another record, or another conversation, if a quota is used up.
    ///
    /// The last append within a quota may exceed it: its size is bounded, and an accepted turn must be able to finish.
    pub fn check(&self, stored: &StoredTotals, is_new: bool) -> Result<(), QuotaExceeded> {
        for (of, quota, stored) in [
            ("user", &self.user, &stored.user),
            ("tenant", &self.tenant, &stored.tenant),
        ] {
            let exceeded = |name, limit| QuotaExceeded { of, name, limit };
            if let Some(limit) = quota.conversations
                && is_new
                && stored.conversations >= limit
            {
                return Err(exceeded("conversations", limit));
            }
            if let Some(limit) = quota.bytes
                && stored.bytes >= limit
            {
                return Err(exceeded("log_bytes", limit));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_named() {
        let quota = |conversations, bytes| Quota {
            conversations: Some(conversations),
            bytes: Some(bytes),
        };
        let quotas = Quotas {
            tenant: quota(10, 1_000),
            user: quota(3, 100),
        };
        let none = Quotas::default();
        let cases = [
            ((0, 0), (0, 0), true, None),
            ((9, 999), (2, 99), true, None),
            ((9, 999), (3, 99), true, Some(("user", "conversations"))),
            ((9, 999), (3, 99), false, None),
            ((10, 999), (2, 99), true, Some(("tenant", "conversations"))),
            ((10, 999), (3, 99), false, None),
            ((9, 999), (2, 100), false, Some(("user", "log_bytes"))),
            ((9, 1_000), (2, 99), false, Some(("tenant", "log_bytes"))),
            ((u64::MAX, u64::MAX), (2, 99), false, Some(("tenant", "log_bytes"))),
        ];
        for (tenant, user, is_new, expected) in cases {
            let stored = |(conversations, bytes)| StoredAmount { conversations, bytes };
            let totals = StoredTotals {
                tenant: stored(tenant),
                user: stored(user),
            };
            let refused = quotas.check(&totals, is_new).err().map(|met| (met.of, met.name));
            assert_eq!(refused, expected, "{totals:?} {is_new}");
            assert_eq!(none.check(&totals, is_new), Ok(()));
        }
        assert!(none.is_unlimited() && !quotas.is_unlimited());
    }
}

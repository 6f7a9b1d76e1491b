//! Money spent, and by whom.

use std::collections::HashMap;

use copilotd_actors::domain::ids::{TenantId, UserId};
use copilotd_actors::domain::usage::NanoUsd;

use crate::request::call::{Caller, Purpose};

/// Whose limit it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The tenant as a whole.
    Tenant,
    /// One of the tenant's users.
    User(UserId),
    /// One of the tenant's API keys.
    Key(String),
}

impl Subject {
    /// Returns `tenant`, `user` or `key`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::User(_) => "user",
            Self::Key(_) => "key",
        }
    }

    /// Returns the subjects whose limits apply to a caller.
    pub fn of(caller: &Caller) -> Vec<Self> {
        // Documents belong to nobody but the tenant.
        if matches!(caller.purpose, Purpose::Retrieval | Purpose::Ingestion) {
            return vec![Self::Tenant];
        }
        let key = caller.api_key.clone().map(Self::Key);
        [Self::Tenant, Self::User(caller.user.clone())]
            .into_iter()
            .chain(key)
            .collect()
    }
}

/// Spending in the current day and month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spending {
    /// The tenant that pays.
    pub tenant: TenantId,
    /// The user.
    pub user: String,
    /// Name of the API key, if one was used.
    pub api_key: Option<String>,
    /// Spent in the day.
    pub day: NanoUsd,
    /// Spent in the month.
    pub month: NanoUsd,
}

/// Sums one tenant's spending of the day and the month, for the tenant, its users and its keys.
pub fn owed<'a>(spendings: impl IntoIterator<Item = &'a Spending>) -> HashMap<Subject, (NanoUsd, NanoUsd)> {
    let mut owed: HashMap<Subject, (NanoUsd, NanoUsd)> = HashMap::new();
    for spending in spendings {
        let user = spending.user.parse().ok().map(Subject::User);
        let key = spending.api_key.clone().map(Subject::Key);
        for subject in [Subject::Tenant].into_iter().chain(user).chain(key) {
            let (day, month) = owed.entry(subject).or_default();
            *day = day.saturating_add(spending.day);
            *month = month.saturating_add(spending.month);
        }
    }
    owed
}

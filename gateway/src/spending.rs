//! Money that was spent, and by whom.

use std::collections::HashMap;

use copilotd_actors::domain::ids::{TenantId, UserId};
use copilotd_actors::domain::usage::NanoUsd;

use crate::request::call::Caller;

/// Whose limit it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The tenant as a whole.
    Tenant,
    /// One of its users.
    User(UserId),
    /// One of its keys.
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

    /// Returns whose limits a caller meets.
    pub fn of(caller: &Caller) -> Vec<Self> {
        let key = caller.api_key.clone().map(Self::Key);
        [Self::Tenant, Self::User(caller.user.clone())]
            .into_iter()
            .chain(key)
            .collect()
    }
}

/// What somebody spent in the present day and month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spending {
    /// Who pays.
    pub tenant: TenantId,
    /// The user.
    pub user: String,
    /// The key, if one was used.
    pub api_key: Option<String>,
    /// Of the day.
    pub day: NanoUsd,
    /// Of the month.
    pub month: NanoUsd,
}

/// Sums spendings of one tenant up, in the day and the month, for it, its users and its keys.
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

//! A usage store in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::usage::{LostUsage, Usage};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::ledger::{
    GroupBy, TenantsGroupBy, TenantsUsageQuery, TenantsUsageRow, UsageEntries, UsageQuery, UsageRecord, UsageRow,
    UsageStore,
};
use copilotd_gateway::limit::StoredStatistics;
use copilotd_gateway::meter::{AttemptRecord, Outcome, UnreportedAttempts};
use copilotd_gateway::request::call::CacheOutcome;
use copilotd_gateway::spending::Spending;
use copilotd_gateway::target::TargetName;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::gateway::caller;

/// A usage store in memory.
#[derive(Default)]
pub struct MemoryUsage {
    kept: Mutex<Vec<UsageRecord>>,
    open: Mutex<Vec<UsageRecord>>,
    learned: Mutex<Vec<(Timestamp, StoredStatistics)>>,
    refuses: Mutex<Option<Refuses>>,
    writes: Mutex<usize>,
    takes: Mutex<Duration>,
    joins: bool,
}

/// The error with which the store refuses entries, if it does.
type Refuses = Box<dyn Fn(&UsageEntries) -> Option<LogError> + Send>;

impl MemoryUsage {
    /// Creates a store that waits for another write until the deadline, in vain.
    pub fn joining() -> Self {
        Self {
            joins: true,
            ..Self::default()
        }
    }

    /// Refuses entries from now on with this error.
    pub fn refuse(&self, refuses: impl Fn(&UsageEntries) -> Option<LogError> + Send + 'static) {
        *self.refuses.lock() = Some(Box::new(refuses));
    }

    /// Takes this long for each write from now on.
    pub fn slow_down(&self, takes: Duration) {
        *self.takes.lock() = takes;
    }

    /// Accepts everything again.
    pub fn take_all(&self) {
        *self.refuses.lock() = None;
    }

    /// Returns how often something was stored.
    pub fn writes(&self) -> usize {
        *self.writes.lock()
    }

    /// Returns the stored open attempts.
    pub fn notes(&self) -> Vec<UsageRecord> {
        self.open.lock().clone()
    }

    /// Returns the outcome of each attempt.
    pub fn outcomes(&self) -> Vec<String> {
        let kept = self.kept.lock();
        kept.iter().map(|record| record.outcome.clone()).collect()
    }

    /// Returns the number of stored open attempts.
    pub fn open(&self) -> usize {
        self.open.lock().len()
    }
}

#[async_trait]
impl UsageStore for MemoryUsage {
    async fn add_usage(&self, entries: &Arc<UsageEntries>) -> Result<(), LogError> {
        let takes = *self.takes.lock();
        tokio::time::sleep(takes).await;
        let refused = self.refuses.lock().as_ref().and_then(|refuses| refuses(entries));
        if let Some(error) = refused {
            return Err(error);
        }
        *self.writes.lock() += 1;
        let (mut kept, mut open) = (self.kept.lock(), self.open.lock());
        for record in &entries.begun {
            open.retain(|known| known.id != record.id);
            open.push(record.clone());
        }
        for record in &entries.ended {
            if !kept.iter().any(|known| known.id == record.id) {
                kept.push(record.clone());
            }
        }
        open.retain(|record| !entries.closed.contains(&record.id));
        Ok(())
    }

    fn joins_writes(&self) -> bool {
        self.joins
    }

    async fn add_usage_by(&self, entries: &Arc<UsageEntries>, deadline: Instant) -> Result<(), LogError> {
        if self.joins {
            tokio::time::sleep_until(deadline).await;
        }
        self.add_usage(entries).await
    }

    async fn record_lost_usage(&self) -> Result<usize, LogError> {
        let ended = std::mem::take(&mut *self.open.lock());
        let count = ended.len();
        self.add_usage(&Arc::new(ended.into())).await?;
        Ok(count)
    }

    async fn unreported_usage(&self, scope: &TenantScope, of: &UnreportedAttempts) -> Result<Vec<LostUsage>, LogError> {
        let (kept, turn) = (self.kept.lock(), of.turn.to_string());
        let is_looked_for = |record: &&UsageRecord| {
            let is_recent = of.asked_at.is_some_and(|asked_at| record.at >= asked_at);
            record.tenant == *scope.tenant()
                && record.turn.as_ref() == Some(&turn)
                && record.at >= of.began_at
                && (record.outcome == "lost" || is_recent)
                && record.usage.total_tokens() > 0
        };
        let usage = |record: &UsageRecord| LostUsage {
            model: record.model.clone(),
            usage: record.usage,
        };
        Ok(kept.iter().filter(is_looked_for).map(usage).collect())
    }

    async fn save_learned(&self, learned: &[StoredStatistics], at: Timestamp) -> Result<(), LogError> {
        let mut known = self.learned.lock();
        for row in learned {
            known.retain(|(_, other)| (&other.tenant, &other.model) != (&row.tenant, &row.model));
            known.push((at, row.clone()));
        }
        Ok(())
    }

    async fn learned(&self, limit: usize) -> Result<Vec<StoredStatistics>, LogError> {
        let mut known = self.learned.lock().clone();
        known.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(known.into_iter().take(limit).map(|(_, row)| row).collect())
    }

    async fn sum_usage(&self, scope: &TenantScope, query: &UsageQuery) -> Result<Vec<UsageRow>, LogError> {
        let kept = self.kept.lock();
        let mut groups: BTreeMap<String, UsageRow> = BTreeMap::new();
        for record in kept
            .iter()
            .filter(|record| record.tenant == *scope.tenant() && query.from <= record.at && record.at < query.to)
        {
            let group = match query.group_by {
                GroupBy::Day => record.at.strftime("%Y-%m-%d").to_string(),
                GroupBy::User => record.user.clone(),
                GroupBy::Copilot => record.copilot.clone().unwrap_or_default(),
                GroupBy::Model => record.model.clone(),
                GroupBy::Key => record.api_key.clone().unwrap_or_default(),
                GroupBy::Route => record.route.clone(),
            };
            add(groups.entry(group.clone()).or_default(), group, record);
        }
        Ok(groups.into_values().take(query.limit).collect())
    }

    async fn sum_tenants_usage(&self, query: &TenantsUsageQuery) -> Result<Vec<TenantsUsageRow>, LogError> {
        let kept = self.kept.lock();
        let mut groups: BTreeMap<(Option<String>, String), UsageRow> = BTreeMap::new();
        let wanted = |record: &&UsageRecord| {
            query.from <= record.at
                && record.at < query.to
                && query.tenant.as_ref().is_none_or(|tenant| *tenant == record.tenant)
        };
        for record in kept.iter().filter(wanted) {
            let group = match query.group_by {
                TenantsGroupBy::Tenant => record.tenant.to_string(),
                TenantsGroupBy::Key => record.api_key.clone().unwrap_or_default(),
                TenantsGroupBy::Route => record.route.clone(),
                TenantsGroupBy::Day => record.at.strftime("%Y-%m-%d").to_string(),
            };
            let tenant = query.group_by.by_tenant().then(|| record.tenant.to_string());
            add(groups.entry((tenant, group.clone())).or_default(), group, record);
        }
        let rows = groups.into_iter().take(query.limit);
        Ok(rows.map(|((tenant, _), row)| TenantsUsageRow { tenant, row }).collect())
    }

    async fn spendings(&self, day: Timestamp, month: Timestamp) -> Result<Vec<Spending>, LogError> {
        let kept = self.kept.lock();
        let mut found: Vec<Spending> = Vec::new();
        for record in kept.iter().filter(|record| record.at >= month && record.usage.cost > 0) {
            let same = |spending: &&mut Spending| {
                (&spending.tenant, &spending.user, &spending.api_key) == (&record.tenant, &record.user, &record.api_key)
            };
            let today = if record.at >= day { record.usage.cost } else { 0 };
            match found.iter_mut().find(same) {
                Some(spending) => {
                    spending.day += today;
                    spending.month += record.usage.cost;
                }
                None => found.push(Spending {
                    tenant: record.tenant.clone(),
                    user: record.user.clone(),
                    api_key: record.api_key.clone(),
                    day: today,
                    month: record.usage.cost,
                }),
            }
        }
        Ok(found)
    }

    async fn prune_usage(&self, before: Timestamp) -> Result<(), LogError> {
        self.kept.lock().retain(|record| record.at >= before);
        self.learned.lock().retain(|(at, _)| *at >= before);
        Ok(())
    }
}

fn add(row: &mut UsageRow, group: String, record: &UsageRecord) {
    row.group = group;
    if record.cache == "hit" {
        row.cache_hits += 1;
    } else {
        row.calls += 1;
    }
    row.estimated_calls += u64::from(record.is_estimated);
    row.usage += record.usage;
    row.usage.estimated |= record.is_estimated;
}

/// A record of acme.
pub fn record(at: &str, user: &str, model: &str, cost: u64) -> UsageRecord {
    UsageRecord {
        id: uuid::Uuid::now_v7(),
        tenant: "acme".parse().unwrap(),
        at: at.parse().unwrap(),
        user: user.to_owned(),
        api_key: None,
        copilot: Some("support".to_owned()),
        conversation: Some("conv_1".to_owned()),
        turn: None,
        purpose: "turn".to_owned(),
        route: "default".to_owned(),
        provider: "main".to_owned(),
        model: model.to_owned(),
        key: "main#1".to_owned(),
        attempt: 1,
        usage: copilotd_actors::domain::usage::Usage {
            prompt_tokens: 100,
            completion_tokens: 10,
            cached_tokens: 40,
            cache_write_tokens: 5,
            reasoning_tokens: 3,
            cost,
            estimated: false,
        },
        is_estimated: false,
        cache: "bypass".to_owned(),
        outcome: "ok".to_owned(),
        first_content_ms: Some(12),
        took_ms: 345,
    }
}

/// An attempt on the OpenAI-compatible routes with no usage.
pub fn attempt(id: u128, outcome: Outcome) -> AttemptRecord {
    AttemptRecord {
        id: Some(Uuid::from_u128(id)),
        caller: Arc::new(caller()),
        route: "default".into(),
        target: TargetName {
            provider: "a".to_owned(),
            model: "gpt".to_owned(),
        },
        key: "a#1".to_owned(),
        number: 1,
        model: None,
        usage: Usage::default(),
        is_estimated: outcome == Outcome::Lost,
        outcome,
        cache: CacheOutcome::Bypass,
        first_content: None,
        took: Duration::ZERO,
    }
}

//! Builds the limiter for all tenants.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Clock;
use copilotd_gateway::ledger::UsageStore;
use copilotd_gateway::limit::{Limiter, LocalLimiter, TenantLimits};
use copilotd_gateway::spending::Spending;

use crate::adapters::limiter::redis::{RedisLimiter, RedisOptions};
use crate::config::{Config, LimitStore};

/// Builds the limiter. `spent` is the initial spending of local budgets; shared ones read the ledger themselves.
pub fn limiter(
    config: &Config,
    limits: HashMap<TenantId, TenantLimits>,
    clock: Arc<dyn Clock>,
    spent: &[Spending],
    ledger: &Arc<dyn UsageStore>,
) -> anyhow::Result<Arc<dyn Limiter>> {
    match &config.limits {
        LimitStore::Local => {
            let limiter = LocalLimiter::new(limits, clock);
            limiter.spent(spent);
            Ok(Arc::new(limiter))
        }
        LimitStore::Redis {
            url,
            prefix,
            local_share,
            max_outage,
        } => {
            let options = RedisOptions {
                prefix: prefix.clone(),
                local_share: *local_share,
                max_outage: *max_outage,
                ..RedisOptions::new(url.clone())
            };
            let limiter = RedisLimiter::start(options, limits, Arc::clone(ledger), clock);
            Ok(Arc::new(limiter.context("limits.url")?))
        }
    }
}

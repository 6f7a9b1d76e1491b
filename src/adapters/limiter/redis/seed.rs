//! What budgets start from: when the process starts, with new limits, and after Redis has lost its data.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::NanoUsd;
use copilotd_gateway::limit::{Period, TenantLimits};
use copilotd_gateway::spending::{self, Spending, Subject};
use tokio::time::{Instant, timeout};

use super::link::RedisUnavailable;
use super::script::{Operation, Request};
use super::{Shared, Table};

/// Longest time that a request waits for the ledger.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Accounts that one run of the script takes over.
const BATCH: usize = 100;

impl Shared {
    /// Writes what the ledger knows to Redis, unless that is done. Doing it twice changes nothing: the larger of two
    /// sums counts.
    pub(super) async fn seed(&self, table: &Table) -> Result<(), RedisUnavailable> {
        if table.is_seeded.load(Ordering::SeqCst) {
            return Ok(());
        }
        let seeded = timeout(LEDGER_TIMEOUT, async {
            let _one = self.seeding.lock().await;
            if table.is_seeded.load(Ordering::SeqCst) {
                return Ok(());
            }
            let operation = if self.has_begun.load(Ordering::SeqCst) {
                Operation::Look
            } else {
                Operation::Begin
            };
            self.take_over(table, operation).await?;
            self.has_begun.store(true, Ordering::SeqCst);
            table.is_seeded.store(true, Ordering::SeqCst);
            Ok(())
        });
        seeded.await.unwrap_or_else(|_| Err(away()))
    }

    async fn take_over(&self, table: &Table, operation: Operation) -> Result<(), RedisUnavailable> {
        let now = self.clock.now();
        let (day, month) = (Period::Day.around(now).0, Period::Month.around(now).0);
        let spendings = self.ledger.spendings(day, month).await.map_err(|error| {
            tracing::warn!(%error, "cannot read the ledger to initialise budgets in the limits store (Redis); refusing calls subject to a budget until it can be read");
            away()
        })?;
        let mut of: HashMap<&TenantId, Vec<&Spending>> = HashMap::new();
        for spending in &spendings {
            of.entry(&spending.tenant).or_default().push(spending);
        }
        for (tenant, limits) in &table.tenants {
            if ![&limits.tenant, &limits.user, &limits.key]
                .iter()
                .any(|limits| limits.has_budget())
            {
                continue;
            }
            let spendings = of.remove(tenant).unwrap_or_default();
            let owed: Vec<(Subject, (NanoUsd, NanoUsd))> = spending::owed(spendings)
                .into_iter()
                .filter(|(subject, _)| !limits.of(subject).is_empty())
                .collect();
            for part in owed.chunks(BATCH) {
                self.record(tenant, limits, part, operation).await?;
            }
            // The mark comes last: whoever sees it may rely on the rest.
            self.record(tenant, limits, &[], Operation::Owed).await?;
        }
        Ok(())
    }

    async fn record(
        &self,
        tenant: &TenantId,
        limits: &TenantLimits,
        owed: &[(Subject, (NanoUsd, NanoUsd))],
        operation: Operation,
    ) -> Result<(), RedisUnavailable> {
        let (subjects, owed): (Vec<_>, Vec<_>) = owed.iter().cloned().unzip();
        let request = Request {
            limits: *limits,
            owed: &owed,
            ..self.request(tenant, &subjects)
        };
        self.link.ask(&request.invocation(operation)).await.map(drop)
    }
}

/// The error of a request of which nothing was sent.
fn away() -> RedisUnavailable {
    RedisUnavailable {
        since: Instant::now(),
        sent: false,
    }
}

//! Removes usage records of tenants that are being deleted from a batch: they must not prevent the others' from being
//! stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_gateway::ledger::{UsageEntries, UsageRecord};
use copilotd_gateway::limit::StoredStatistics;

use super::tenant_fence::{TenantFence, WritePass};

/// Returns what was learned for tenants that take writes, with the passes to write it.
pub(crate) fn learned_by_open_tenants<'a>(
    fence: &'a TenantFence,
    learned: &[StoredStatistics],
) -> (Vec<StoredStatistics>, Vec<WritePass<'a>>) {
    let tenants: BTreeSet<&TenantId> = learned.iter().map(|row| &row.tenant).collect();
    let passes = fence.enter_all(tenants);
    let open: BTreeSet<&TenantId> = passes.iter().map(WritePass::tenant).collect();
    let rows = learned.iter().filter(|row| open.contains(&row.tenant)).cloned();
    (rows.collect(), passes)
}

/// Returns the entries of tenants that take writes, with the passes to write them.
pub(crate) fn entries_of_open_tenants<'a>(
    fence: &'a TenantFence,
    entries: &Arc<UsageEntries>,
) -> (Arc<UsageEntries>, Vec<WritePass<'a>>) {
    let tenants: BTreeSet<&TenantId> = entries
        .begun
        .iter()
        .chain(&entries.ended)
        .map(|record| &record.tenant)
        .collect();
    let passes = fence.enter_all(tenants.iter().copied());
    if passes.len() == tenants.len() {
        return (Arc::clone(entries), passes);
    }
    let open: BTreeSet<&TenantId> = passes.iter().map(WritePass::tenant).collect();
    let kept = |records: &[UsageRecord]| {
        let records = records.iter().filter(|record| open.contains(&record.tenant));
        records.cloned().collect()
    };
    let entries = UsageEntries {
        begun: kept(&entries.begun),
        ended: kept(&entries.ended),
        // Ids alone: what they name is erased, or another tenant's.
        closed: entries.closed.clone(),
    };
    (Arc::new(entries), passes)
}

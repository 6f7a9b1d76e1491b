//! Guards an answer while it arrives: short pieces on the calling thread, long ones on the compute pool.

use crate::compute;
use crate::domain::guardrail::pipeline::UNCHECKED_RULE;
use crate::domain::guardrail::{BlockedByRule, OutputGuard};
use crate::domain::ids::TenantId;
use crate::ports::DetectorError;

/// Lets `work` change a guard, on the compute pool if its cost is high.
pub async fn guarding<G, T>(
    tenant: &TenantId,
    cost: usize,
    mut guard: G,
    work: impl FnOnce(&mut G) -> T + Send + 'static,
) -> Result<(G, T), DetectorError>
where
    G: Send + 'static,
    T: Send + 'static,
{
    let run = move || {
        let done = work(&mut guard);
        (guard, done)
    };
    Ok(compute::run(Some(tenant), cost, run).await?)
}

/// Adds a piece to an answer and returns what passes now. What cannot be checked is blocked.
pub async fn push(tenant: &TenantId, guard: &mut OutputGuard, piece: String) -> Result<String, BlockedByRule> {
    let cost = OutputGuard::cost(&piece);
    if cost <= compute::INLINE_COST {
        return guard.push(&piece);
    }
    Box::pin(step(tenant, guard, cost, move |guard| guard.push(&piece))).await
}

/// Ends an answer and returns what was held back. What cannot be checked is blocked.
pub async fn finish(tenant: &TenantId, guard: &mut OutputGuard) -> Result<String, BlockedByRule> {
    let cost = guard.cost_of_finish();
    if cost <= compute::INLINE_COST {
        return guard.finish();
    }
    Box::pin(step(tenant, guard, cost, OutputGuard::finish)).await
}

/// Until the work is done, the guard in its place lets nothing pass: it stays there if the caller is dropped.
async fn step(
    tenant: &TenantId,
    guard: &mut OutputGuard,
    cost: usize,
    work: impl FnOnce(&mut OutputGuard) -> Result<String, BlockedByRule> + Send + 'static,
) -> Result<String, BlockedByRule> {
    let taken = std::mem::replace(guard, OutputGuard::spent());
    match guarding(tenant, cost, taken, work).await {
        Ok((back, passed)) => {
            *guard = back;
            passed
        }
        Err(_) => Err(BlockedByRule {
            rule: UNCHECKED_RULE.to_owned(),
            released: String::new(),
        }),
    }
}

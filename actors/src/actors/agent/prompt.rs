//! Assembly of a step's prompt on the compute pool.

use std::sync::Arc;

use crate::compute::{self, ComputeError};
use crate::domain::context::memory::{Entry, Memory};
use crate::domain::context::project::{self, Prompt};
use crate::domain::context::tokens;
use crate::domain::guardrail as guard;
use crate::domain::ids::{Seq, TenantId};
use crate::domain::policy::Policy;

/// Assembles a prompt that fits, if possible: if it is too long, the pending summary is used now instead of at the next
/// turn. Returns the prompt and the last sequence number that its summary covers.
pub(super) async fn fit(
    tenant: &TenantId,
    memory: Memory,
    needs_summary: bool,
    policy: &Arc<Policy>,
) -> Result<(Prompt, Option<Seq>), ComputeError> {
    let shorter = memory.with_pending();
    let upto = |memory: &Memory| memory.summary.as_ref().map(|summary| summary.upto_seq);
    if !needs_summary || shorter.is_none() {
        let summary_upto_seq = upto(&memory);
        let prompt = assemble(tenant, memory, Arc::clone(policy)).await?;
        if shorter.is_none() || prompt.tokens <= policy.memory.context_tokens {
            return Ok((prompt, summary_upto_seq));
        }
    }
    let shorter = shorter.unwrap_or_default();
    let summary_upto_seq = upto(&shorter);
    Ok((assemble(tenant, shorter, Arc::clone(policy)).await?, summary_upto_seq))
}

/// Assembles the prompt. Messages not yet counted are counted first, one slice at a time.
async fn assemble(tenant: &TenantId, memory: Memory, policy: Arc<Policy>) -> Result<Prompt, ComputeError> {
    count_entries(tenant, &memory).await?;
    let summary = memory.summary.as_ref().map_or(0, |summary| summary.text.len());
    let counted = (policy.instructions.len() + summary) * tokens::COST_PER_BYTE;
    // The messages have been counted; this is the cost of writing them out and of searching tool results for marks.
    let entries = memory.blocks.iter().flat_map(|block| &block.entries);
    let cost = counted + entries.map(|entry| entry.bytes()).sum::<usize>() * guard::COST_PER_BYTE;
    compute::run(Some(tenant), cost, move || project::prompt(&memory, &policy)).await
}

/// Counts the tokens of every message in the window; each entry caches its own count.
pub(crate) async fn count_entries(tenant: &TenantId, memory: &Memory) -> Result<(), ComputeError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let entries = memory.blocks.iter().flat_map(|block| &block.entries);
    for entry in entries {
        match entry.uncounted_bytes() {
            0 => continue,
            uncounted => bytes += uncounted,
        }
        batch.push(Arc::clone(entry));
        if bytes >= compute::SLICE {
            count_batch(tenant, std::mem::take(&mut batch), std::mem::take(&mut bytes)).await?;
        }
    }
    count_batch(tenant, batch, bytes).await
}

async fn count_batch(tenant: &TenantId, batch: Vec<Arc<Entry>>, bytes: usize) -> Result<(), ComputeError> {
    let count = move || {
        for entry in batch {
            entry.tokens();
        }
    };
    compute::run(Some(tenant), bytes * tokens::COST_PER_BYTE, count).await
}

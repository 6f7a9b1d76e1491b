//! Gathers what a step's prompt may be made of and assembles it on the compute pool.

use std::sync::Arc;

use serde_json::Value;

use crate::compute::{self, ComputeError};
use crate::domain::context::assemble::{self, Assembled, Budget, TooLarge};
use crate::domain::context::gathered::{Gathered, Passage};
use crate::domain::context::memory::{Entry, Memory};
use crate::domain::context::tokens;
use crate::domain::guardrail as guard;
use crate::domain::ids::TenantId;
use crate::domain::policy::Policy;
use crate::domain::sent_prompt::ToolOffer;
use crate::domain::tool::client;
use crate::domain::weight;

/// Gathers and assembles the prompt. Messages not yet counted are counted first, one slice at a time.
pub(super) async fn assemble(
    tenant: &TenantId,
    memory: Memory,
    needs_summary: bool,
    policy: &Arc<Policy>,
    response_schema: Option<Arc<Value>>,
    client_tools: &Arc<Vec<ToolOffer>>,
    passages: Vec<Passage>,
) -> Result<Result<Assembled, TooLarge>, ComputeError> {
    count_entries(tenant, &memory).await?;
    let counted = Gathered::counted_bytes(&memory, policy) * tokens::COST_PER_BYTE;
    // The messages have been counted; this is the cost of writing them out and of searching tool results for marks.
    let entries = memory.blocks.iter().flat_map(|block| &block.entries);
    let written = entries.map(|entry| entry.bytes()).sum::<usize>() * guard::COST_PER_BYTE;
    let schema = response_schema.as_deref().map_or(0, weight::of);
    let of_page = client::weight(client_tools) * tokens::COST_PER_BYTE;
    let (policy, client_tools) = (Arc::clone(policy), Arc::clone(client_tools));
    let work = move || {
        let mut gathered = Gathered::count(memory, needs_summary, &policy, response_schema.as_deref());
        gathered.offer(&policy, &client_tools);
        gathered.passages = passages;
        assemble::assemble(&gathered, Budget::of(&policy.memory))
    };
    compute::run(Some(tenant), counted + written + schema + of_page, work).await
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

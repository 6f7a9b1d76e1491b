//! Erasing a tenant: first all its work is stopped, then each store is emptied, and the tenant's own record is deleted
//! last.
//!
//! Invariant: nothing is erased until no request, conversation or model call of the tenant is in flight and the store
//! accepts no writes for it. So once a pass finds nothing, nothing is left. Every step can be repeated.

use std::time::Duration;

use copilotd_actors::crash;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Job, TenantData};

use super::retention::scope;
use super::runner::Dependencies;

/// How long to wait for conversations to end before logging that they have not.
const STOPPING: Duration = Duration::from_secs(20);
/// How often to check whether requests are still in flight. They end by their own timeouts.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Checks after which a warning is logged: every minute.
const CHECKS_PER_WARNING: u32 = 600;
/// Most passes over all stores; each one after the first should find nothing.
const PASSES: usize = 10;

/// What is erased besides the store's data: documents, cached answers, the limiter's counters, and the tenant's own record.
const OTHER_STORES: [&str; 5] = ["knowledge", "turn_vectors", "cache", "limits", "definition"];

/// Runs the remaining steps of a deletion.
pub(super) async fn run(parts: &Dependencies, job: &mut Job, tenant: &TenantId) -> anyhow::Result<()> {
    if parts.registry.is_marked(tenant, job.id).await? {
        erase(parts, job, tenant).await?;
    } else if job.state.receipt.is_empty() {
        let why = "the server stopped before the deletion started; request it again";
        job.finish(Some(why.to_owned()), parts.clock.now());
        parts.store.put_job(job).await?;
        return Ok(());
    } else {
        // The tenant's record was deleted, and the process died before it could finish the job.
        parts.eraser.scrub().await?;
        reopen(parts, tenant);
    }
    crash::point("tenant.after:definition");
    let now = parts.clock.now();
    job.erased("definition", 0, now);
    job.state.progress.done = job.state.progress.total;
    job.finish(None, now);
    parts.store.put_job(job).await?;
    tracing::info!(job = %job.id, %tenant, "tenant deleted");
    Ok(())
}

/// Allows a tenant with this id to be created again: no work of the old one is in flight.
fn reopen(parts: &Dependencies, tenant: &TenantId) {
    parts.eraser.reopen_tenant(tenant);
    parts.directory.reopen_tenant(tenant);
}

async fn erase(parts: &Dependencies, job: &mut Job, tenant: &TenantId) -> anyhow::Result<()> {
    job.state.progress.total = (TenantData::ALL.len() + OTHER_STORES.len()) as u64;
    parts.store.put_job(job).await?;
    crash::point("tenant.before:stop");
    stop(parts, tenant).await?;
    crash::point("tenant.after:stop");
    for pass in 0.. {
        let mut found = 0;
        for (index, data) in TenantData::ALL.into_iter().enumerate() {
            crash::point(&format!("tenant.before:{}", data.name()));
            let erased = parts.eraser.erase_tenant(tenant, data).await?;
            found += erased;
            job.erased(data.name(), erased, parts.clock.now());
            if pass == 0 {
                job.state.progress.done = index as u64 + 1;
                parts.store.put_job(job).await?;
            }
        }
        if found == 0 {
            break;
        }
        anyhow::ensure!(pass < PASSES, "data of the tenant is still being written");
    }
    parts.eraser.scrub().await?;
    crash::point("tenant.after:scrub");
    // Nothing is stored any more, and what is being ingested meanwhile finds its document gone.
    let knowledge = parts.index.erase_tenant(&scope(tenant)).await?;
    let knowledge = knowledge.stores.iter().map(|(_, erased)| erased).sum();
    let vectors = match &parts.recollection {
        Some(recollection) => recollection.erase_tenant(&scope(tenant)).await?,
        None => 0,
    };
    let (answers, counted) = parts
        .gateway
        .forget_tenant(&scope(tenant))
        .await
        .map_err(anyhow::Error::msg)?;
    parts.audit.forget(tenant);
    parts.revocations.forget(tenant);
    let now = parts.clock.now();
    job.erased("knowledge", knowledge, now);
    job.erased("turn_vectors", vectors, now);
    job.erased("cache", answers, now);
    job.erased("limits", counted, now);
    job.state.progress.done = job.state.progress.total - 1;
    parts.store.put_job(job).await?;
    crash::point("tenant.before:definition");
    let removed = async {
        parts.eraser.delete_tenant(tenant, job.id).await?;
        // Its row has to be overwritten too, like all others.
        parts.eraser.scrub().await
    };
    let finished = parts
        .registry
        .finish_deletion(tenant, removed, || reopen(parts, tenant));
    finished.await?;
    job.erased("definition", 1, parts.clock.now());
    Ok(())
}

/// Stops all work of the tenant and keeps new work from starting.
async fn stop(parts: &Dependencies, tenant: &TenantId) -> anyhow::Result<()> {
    // The tenant's standing has already cancelled its open turns; no conversation is started any more.
    parts.directory.close_tenant(tenant);
    while parts.directory.stop_tenant(tenant, STOPPING).await > 0 {
        tracing::warn!(%tenant, "tenant deletion: conversations are still running; waiting for them to end");
    }
    parts.eraser.close_tenant(tenant).await?;
    let scope = scope(tenant);
    for look in 1_u32.. {
        if !(parts.is_busy)(&scope) {
            break;
        }
        if look.is_multiple_of(CHECKS_PER_WARNING) {
            tracing::warn!(%tenant, "tenant deletion: requests are still in flight; waiting for them to end");
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    // Conversations that such requests have started.
    while parts.directory.stop_tenant(tenant, STOPPING).await > 0 {}
    if let Some(ledger) = &parts.ledger {
        ledger.flushed().await;
    }
    Ok(())
}

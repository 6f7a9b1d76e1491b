//! Erasing a tenant: first everything of it is stopped, then each store is emptied, and the tenant's own record goes last.
//!
//! Invariant: nothing is erased before no request, no conversation and no model call of the tenant is under way and the store takes no
//! write of it; so nothing is left when the last pass has found nothing. Every step can be done twice.

use std::time::Duration;

use copilotd_actors::crash;
use copilotd_actors::domain::ids::TenantId;

use super::record::Job;
use super::runner::Parts;
use super::store::TenantData;

/// How long one look waits for conversations to end.
const STOPPING: Duration = Duration::from_secs(20);
/// How often is looked whether requests are still being answered. They end by their own timeouts.
const LOOK: Duration = Duration::from_millis(100);
/// Looks after which it is told that they take long.
const LONG: u32 = 600;
/// Most passes over all stores; each after the first should find nothing.
const PASSES: usize = 10;

/// What is erased besides the store's data: answers of the cache, what limits have counted, the tenant's own record.
const OTHER_STORES: [&str; 3] = ["cache", "limits", "definition"];

/// Does what is left to do.
pub(super) async fn run(parts: &Parts, job: &mut Job, tenant: &TenantId) -> anyhow::Result<()> {
    if parts.roster.is_marked(tenant, job.id).await? {
        erase(parts, job, tenant).await?;
    } else if job.state.receipt.is_empty() {
        let why = "the server stopped before the deletion began; ask again";
        job.finish(Some(why.to_owned()), parts.clock.now());
        parts.store.put_job(job).await?;
        return Ok(());
    } else {
        // The record was removed, and the process died before it could say so.
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

/// Lets a tenant of this id be made again: nothing of the old one is under way.
fn reopen(parts: &Parts, tenant: &TenantId) {
    parts.eraser.reopen_tenant(tenant);
    parts.directory.reopen_tenant(tenant);
}

async fn erase(parts: &Parts, job: &mut Job, tenant: &TenantId) -> anyhow::Result<()> {
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
        anyhow::ensure!(pass < PASSES, "something is still being written for the tenant");
    }
    parts.eraser.scrub().await?;
    crash::point("tenant.after:scrub");
    let (answers, counted) = parts.gateway.forget_tenant(tenant).await.map_err(anyhow::Error::msg)?;
    parts.audit.forget(tenant);
    parts.revocations.forget(tenant);
    let now = parts.clock.now();
    job.erased("cache", answers, now);
    job.erased("limits", counted, now);
    job.state.progress.done = job.state.progress.total - 1;
    parts.store.put_job(job).await?;
    crash::point("tenant.before:definition");
    let removed = async {
        parts.eraser.delete_tenant(tenant, job.id).await?;
        // Its row has to be overwritten like all others.
        parts.eraser.scrub().await
    };
    let finished = parts.roster.finish_deletion(tenant, removed, || reopen(parts, tenant));
    finished.await?;
    job.erased("definition", 1, parts.clock.now());
    Ok(())
}

/// Ends everything that is under way for the tenant, and keeps more from beginning.
async fn stop(parts: &Parts, tenant: &TenantId) -> anyhow::Result<()> {
    // Its standing has cancelled what its conversations were at; none is started any more.
    parts.directory.close_tenant(tenant);
    while parts.directory.stop_tenant(tenant, STOPPING).await > 0 {
        tracing::warn!(%tenant, "conversations of a tenant that is being deleted have not ended yet; waiting");
    }
    parts.eraser.close_tenant(tenant).await?;
    for look in 1_u32.. {
        if !(parts.is_busy)(tenant) {
            break;
        }
        if look.is_multiple_of(LONG) {
            tracing::warn!(%tenant, "requests of a tenant that is being deleted are still being answered; waiting");
        }
        tokio::time::sleep(LOOK).await;
    }
    // Whatever a request has started meanwhile.
    while parts.directory.stop_tenant(tenant, STOPPING).await > 0 {}
    if let Some(ledger) = &parts.ledger {
        ledger.flushed().await;
    }
    Ok(())
}

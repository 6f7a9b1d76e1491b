//! Exporting a tenant's conversations as JSON lines, one conversation after another, newest first.
//!
//! Invariants: only a few lines are in memory at a time; lines of a conversation are stored under its id, so that
//! erasing it erases them from finished and unfinished results; a resumed job starts from the beginning.

use std::collections::HashSet;
use std::time::Duration;

use copilotd_actors::crash;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::{ConversationId, TurnId, UserId};
use copilotd_actors::ports::{Job, JobStatus, ListQuery, LogError, Order, Piece, PieceOutcome};
use jiff::Timestamp;
use uuid::Uuid;

use super::line::{Line, LineError};
use super::runner::Dependencies;

/// Longest result, in bytes.
pub const MAX_RESULT_BYTES: u64 = 1 << 30;
/// Conversations per page of the list.
const PAGE: usize = 50;
/// Messages per read; each may be long.
const MESSAGES: usize = 4;
/// Conversations between two updates of the job's stored progress.
const PROGRESS_INTERVAL: u64 = 25;
/// Most attempts to write an export when the store does not answer; each starts from the beginning.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_secs(2);

/// Why writing an export failed.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Store(#[from] LogError),
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("the export would be larger than {MAX_RESULT_BYTES} bytes; limit it with from and to")]
    TooLong,
}

/// Writes the export and ends the job.
pub(super) async fn run(parts: &Dependencies, mut job: Job, from: Option<Timestamp>, to: Option<Timestamp>) {
    let mut attempt = 1;
    let error = loop {
        let error = match write(parts, &mut job, from, to).await {
            Ok(()) => break None,
            Err(error) => error,
        };
        tracing::warn!(job = %job.id, tenant = %job.scope.tenant(), attempt, %error, "export attempt failed; temporary failures are retried");
        match &error {
            ExportError::TooLong => break Some(error.to_string()),
            ExportError::Store(LogError::Refused(_)) => break Some("the store refused to store the result".to_owned()),
            _ if attempt >= ATTEMPTS => break Some("the export failed repeatedly; request it again later".to_owned()),
            _ => {}
        }
        tokio::time::sleep(PAUSE * attempt).await;
        attempt += 1;
    };
    if error.is_some() {
        // A partial result is useless. The sweep deletes what cannot be deleted now.
        let _ = parts.store.delete_pieces(&job.scope, job.id).await;
    }
    job.state.progress.total = job.state.progress.done;
    let failed = error.is_some();
    job.finish(error, parts.clock.now());
    if failed {
        job.state.status = JobStatus::Failed;
    }
    let mut pause = PAUSE;
    loop {
        match parts.store.put_job(&job).await {
            Ok(()) => break,
            // The tenant is being deleted, and the job with it.
            Err(LogError::Refused(_)) => return,
            Err(error) => {
                tracing::warn!(job = %job.id, tenant = %job.scope.tenant(), %error, "could not store the final status of an export; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(60));
            }
        }
    }
    tracing::info!(
        job = %job.id, tenant = %job.scope.tenant(), conversations = job.state.progress.done, failed,
        "export finished"
    );
}

async fn write(
    parts: &Dependencies,
    job: &mut Job,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> Result<(), ExportError> {
    let scope = job.scope.clone();
    parts.store.delete_pieces(&scope, job.id).await?;
    job.state.progress.done = 0;
    job.state.progress.total = expected(parts, job).await?;
    parts.store.put_job(job).await?;
    let mut written = ResultWriter {
        parts,
        job: job.clone(),
        n: 0,
        bytes: 0,
    };
    // No id is smaller than the nil UUID: conversations created exactly at `to` are excluded.
    let mut before = to.map(|to| (to, ConversationId::new(Uuid::nil())));
    loop {
        let query = ListQuery {
            before,
            limit: PAGE,
            ..ListQuery::default()
        };
        let page = parts.log.list(&scope, &query).await?;
        for header in &page {
            if from.is_some_and(|from| header.created_at < from) {
                return Ok(());
            }
            written.conversation(header).await?;
            crash::point("export.after:conversation");
            job.state.progress.done += 1;
            job.state.progress.total = job.state.progress.total.max(job.state.progress.done);
            if job.state.progress.done.is_multiple_of(PROGRESS_INTERVAL) {
                parts.store.put_job(job).await?;
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => before = Some((last.created_at, last.id)),
            _ => return Ok(()),
        }
    }
}

/// Returns how many conversations the tenant has: the most that will be exported.
async fn expected(parts: &Dependencies, job: &Job) -> Result<u64, LogError> {
    let Ok(nobody) = "nobody".parse::<UserId>() else {
        return Ok(0);
    };
    let stored = parts.log.stored(&job.scope, &nobody).await?;
    Ok(stored.tenant.conversations)
}

/// The part of a result that has been written.
struct ResultWriter<'a> {
    parts: &'a Dependencies,
    job: Job,
    n: u64,
    bytes: u64,
}

impl ResultWriter<'_> {
    /// Writes the lines of a conversation, unless it was erased meanwhile.
    async fn conversation(&mut self, header: &Header) -> Result<(), ExportError> {
        let (log, scope) = (&self.parts.log, &self.job.scope.clone());
        let mut line = Line::new(header);
        let mut known: HashSet<TurnId> = HashSet::new();
        let mut after = None;
        loop {
            let records = log.read_messages(scope, header.id, after, Order::Asc, MESSAGES).await?;
            let (number, last) = (records.len(), records.last().map(|last| last.seq));
            for record in records {
                if let Some(turn) = record.turn.filter(|turn| known.insert(*turn)) {
                    let found = log.read_turn(scope, turn).await?;
                    let own = found.filter(|found| found.conversation == header.id);
                    if let Some(own) = own {
                        line.turn(scope, own.records).await?;
                    }
                }
                line.message(scope, record).await?;
                if line.is_full() && !self.put(header.id, line.take()?).await? {
                    return Ok(());
                }
            }
            match last {
                Some(last) if number == MESSAGES => after = Some(last),
                _ => break,
            }
        }
        if !line.is_empty() {
            self.put(header.id, line.take()?).await?;
        }
        Ok(())
    }

    /// Stores lines; returns false if their conversation was erased.
    async fn put(&mut self, conversation: ConversationId, lines: Vec<u8>) -> Result<bool, ExportError> {
        self.bytes = self.bytes.saturating_add(lines.len() as u64);
        if self.bytes > MAX_RESULT_BYTES {
            return Err(ExportError::TooLong);
        }
        self.n += 1;
        let piece = Piece {
            n: self.n,
            conversation,
            lines,
        };
        let outcome = self.parts.store.put_piece(&self.job.scope, self.job.id, &piece).await?;
        Ok(outcome == PieceOutcome::Stored)
    }
}

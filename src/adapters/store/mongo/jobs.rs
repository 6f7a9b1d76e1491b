//! Jobs and their results in MongoDB: a document for each job and for each piece of a result.

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, JobId};
use copilotd_actors::ports::{Job, JobStore, LogError, Piece, PieceOutcome};
use copilotd_actors::tenancy::TenantScope;
use futures::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};

use super::documents::{Head, Key, number, seq};
use super::failure::Failure;
use super::read::name_of;
use super::usage::{as_future, date};
use super::{MongoLog, append};
use crate::adapters::store::text::stored_scope;
use crate::adapters::store::unreadable::skip_unreadable;

/// Pieces that one call deletes.
const PIECES_AT_ONCE: i64 = 16;

#[async_trait]
impl JobStore for MongoLog {
    async fn put_job(&self, job: &Job) -> Result<(), LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(job.scope.tenant())?;
        let state = serde_json::to_string(&job.state)
            .map_err(|error| LogError::Refused(format!("a job cannot be written as JSON: {error}")))?;
        let document = doc! {
            "_id": job.id.to_string(),
            "tenant": job.scope.tenant().as_str(),
            "open": !job.state.status.is_terminal(),
            "created_at": date(job.state.created_at),
            "expires_at": job.expires_at().map_or(Bson::Null, |at| Bson::DateTime(date(at))),
            "state": state,
        };
        Ok(self.put(&self.collections.jobs, document).await?)
    }

    async fn job(&self, scope: &TenantScope, id: JobId) -> Result<Option<Job>, LogError> {
        let which = doc! { "_id": id.to_string(), "tenant": scope.tenant().as_str() };
        let found = self.collections.call(self.collections.jobs.find_one(which)).await?;
        found.as_ref().map(job).transpose()
    }

    async fn jobs_of(&self, scope: &TenantScope, limit: usize) -> Result<Vec<Job>, LogError> {
        let which = doc! { "tenant": scope.tenant().as_str() };
        self.find_jobs(which, doc! { "created_at": -1, "_id": 1 }, limit).await
    }

    async fn open_jobs(&self) -> Result<Vec<Job>, LogError> {
        let order = doc! { "created_at": 1, "_id": 1 };
        self.find_jobs(doc! { "open": true }, order, usize::MAX).await
    }

    async fn expired_jobs(&self, now: Timestamp, limit: usize) -> Result<Vec<Job>, LogError> {
        let which = doc! { "expires_at": { "$lte": date(now) } };
        self.find_jobs(which, doc! { "expires_at": 1, "_id": 1 }, limit).await
    }

    async fn delete_job(&self, scope: &TenantScope, id: JobId) -> Result<(), LogError> {
        self.delete_pieces(scope, id).await?;
        let which = doc! { "_id": id.to_string(), "tenant": scope.tenant().as_str() };
        self.collections.call(self.collections.jobs.delete_one(which)).await?;
        Ok(())
    }

    async fn put_piece(&self, scope: &TenantScope, job: JobId, piece: &Piece) -> Result<PieceOutcome, LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let key = Key::new(scope, piece.conversation);
        if !self.is_readable(&key).await? {
            return Ok(PieceOutcome::Erased);
        }
        let id = piece_id(scope, job, piece.n)?;
        let document = doc! {
            "_id": &id,
            "tenant": scope.tenant().as_str(),
            "job": job.to_string(),
            "n": number(piece.n)?,
            "conversation": piece.conversation.to_string(),
            "lines": Binary { subtype: BinarySubtype::Generic, bytes: piece.lines.clone() },
        };
        self.put(&self.collections.job_pieces, document).await?;
        // Erased meanwhile, and perhaps cleaned already: then this piece was stored after that.
        if !self.is_readable(&key).await? {
            let late = self.collections.job_pieces.delete_one(doc! { "_id": &id });
            self.collections.call(late).await?;
            return Ok(PieceOutcome::Erased);
        }
        Ok(PieceOutcome::Stored)
    }

    async fn next_piece(&self, scope: &TenantScope, job: JobId, after: u64) -> Result<Option<Piece>, LogError> {
        let which = doc! {
            "tenant": scope.tenant().as_str(),
            "job": job.to_string(),
            "n": { "$gt": number(after)? },
        };
        let find = self.collections.job_pieces.find_one(which).sort(doc! { "n": 1 });
        let found = self.collections.call(find).await?;
        found.as_ref().map(piece).transpose()
    }

    async fn delete_pieces(&self, scope: &TenantScope, job: JobId) -> Result<u64, LogError> {
        let which = doc! { "tenant": scope.tenant().as_str(), "job": job.to_string() };
        let pieces = &self.collections.job_pieces;
        Ok(self.delete_all(pieces, which, PIECES_AT_ONCE).await?)
    }
}

impl MongoLog {
    /// Deletes the pieces about an erased conversation.
    pub(super) async fn erase_pieces(&self, key: &Key) -> Result<u64, Failure> {
        let which = doc! { "tenant": key.tenant.as_str(), "conversation": key.conversation.to_string() };
        self.delete_all(&self.collections.job_pieces, which, PIECES_AT_ONCE)
            .await
    }

    /// Returns whether the log exists and has no tombstone.
    pub(super) async fn is_readable(&self, key: &Key) -> Result<bool, Failure> {
        let head = append::head(&self.collections, &self.heads, key).await?;
        Ok(matches!(head, Some(Head { tombstone: None, .. })))
    }

    async fn find_jobs(&self, which: Document, order: Document, limit: usize) -> Result<Vec<Job>, LogError> {
        let limit = i64::try_from(limit).unwrap_or(0);
        let find = self.collections.jobs.find(which).sort(order).limit(limit);
        let found: Vec<Document> = self
            .collections
            .call(as_future(async { find.await?.try_collect().await }))
            .await?;
        let read = |document: &Document| skip_unreadable("job", name_of(document), job(document)).transpose();
        found.iter().filter_map(read).collect()
    }
}

/// Neither part can contain the slash.
fn piece_id(scope: &TenantScope, job: JobId, n: u64) -> Result<String, LogError> {
    Ok(format!("{}/{job}/{}", scope.tenant(), number(n)?))
}

fn job(document: &Document) -> Result<Job, LogError> {
    let text = |name: &str| document.get_str(name).map_err(|error| corrupt(&error));
    Ok(Job {
        id: text("_id")?.parse::<JobId>().map_err(|error| corrupt(&error))?,
        scope: stored_scope(text("tenant")?)?,
        state: serde_json::from_str(text("state")?).map_err(|error| corrupt(&error))?,
    })
}

fn piece(document: &Document) -> Result<Piece, LogError> {
    let n = document.get_i64("n").map_err(|error| corrupt(&error))?;
    let conversation = document.get_str("conversation").map_err(|error| corrupt(&error))?;
    let lines = document.get_binary_generic("lines").map_err(|error| corrupt(&error))?;
    Ok(Piece {
        n: seq(n)?,
        conversation: conversation
            .parse::<ConversationId>()
            .map_err(|error| corrupt(&error))?,
        lines: lines.clone(),
    })
}

fn corrupt(error: &dyn std::fmt::Display) -> LogError {
    LogError::Corrupt(format!("a job: {error}"))
}

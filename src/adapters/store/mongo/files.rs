//! Attached files in MongoDB: a document for each, and one for each piece of its content.
//!
//! A file's `_id` is that of its upload, under which its pieces are stored; `id` is the file's own from the end of the upload
//! until it is deleted. An erasure may come between the check of a conversation and a write: the check is repeated afterwards,
//! and what was written is deleted.
//!
//! A write whose outcome is unknown may reach the server after its upload was deleted. So the document of a deleted upload
//! stays, without content or owner, until the sweep of a day later has deleted such pieces too.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use async_trait::async_trait;
use bytes::Bytes;
use copilotd_actors::domain::file::{FileInfo, FileQuota, charge};
use copilotd_actors::domain::ids::{ConversationId, FileId, UserId};
use copilotd_actors::ports::{FileStore, FileUpload, Finished, LogError, StoredFile, UploadStep};
use copilotd_actors::tenancy::TenantScope;
use futures::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use tokio::sync::MutexGuard;

use super::MongoLog;
use super::documents::Key;
use super::failure::Failure;
use super::usage::{as_future, date};

/// Pieces that one call of a deletion deletes.
const PIECES_AT_ONCE: i64 = 16;

/// It was an upload, and is deleted but for pieces that come late.
const DELETED: i32 = -2;
/// It is being deleted.
const DELETING: i32 = -1;
/// It is being uploaded.
const PARTIAL: i32 = 0;
/// It is a file. Each prompt that refers to it adds one.
const WHOLE: i32 = 1;

#[async_trait]
impl FileStore for MongoLog {
    async fn begin_file(&self, scope: &TenantScope, upload: &FileUpload) -> Result<UploadStep, LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let key = Key::new(scope, upload.conversation);
        if !self.is_readable(&key).await? {
            return Ok(UploadStep::Erased);
        }
        let fresh = doc! { "$setOnInsert": {
            "tenant": scope.tenant().as_str(),
            "id": upload.id.to_string(),
            "conversation": upload.conversation.to_string(),
            "user": upload.user.as_str(),
            "created_at": date(upload.begun_at),
            "state": PARTIAL,
            "bytes": 0_i64,
        } };
        let files = &self.collections.files;
        let which = doc! { "_id": document_id(scope, upload.id) };
        self.collections
            .call(files.update_one(which.clone(), fresh).upsert(true))
            .await?;
        if !self.is_readable(&key).await? {
            self.collections.call(files.delete_one(which)).await?;
            return Ok(UploadStep::Erased);
        }
        Ok(UploadStep::Stored)
    }

    async fn put_file_piece(
        &self,
        scope: &TenantScope,
        upload: &FileUpload,
        number: u32,
        bytes: Bytes,
    ) -> Result<UploadStep, LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let content = document_id(scope, upload.id);
        let piece = doc! {
            "tenant": scope.tenant().as_str(),
            "content": &content,
            "n": i64::from(number),
            "bytes": Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() },
        };
        let which = doc! { "_id": format!("{content}/{number}") };
        let pieces = &self.collections.file_pieces;
        self.collections
            .call(pieces.replace_one(which.clone(), piece).upsert(true))
            .await?;
        // Whoever deletes the file's document does so after its pieces, so this one is either found there or deleted here.
        let open = doc! { "_id": content, "state": PARTIAL };
        let is_open = self.collections.call(self.collections.files.find_one(open)).await?;
        let key = Key::new(scope, upload.conversation);
        if is_open.is_none() || !self.is_readable(&key).await? {
            self.collections.call(pieces.delete_one(which)).await?;
            return Ok(UploadStep::Erased);
        }
        Ok(UploadStep::Stored)
    }

    async fn finish_file(
        &self,
        scope: &TenantScope,
        upload: &FileUpload,
        file: &StoredFile,
        quota: FileQuota,
    ) -> Result<Finished, LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        // This process is the only writer, so that two uploads together cannot exceed the quota.
        let _counting = self.finishing_files.of(scope).await;
        if let Some(known) = self.file(scope, file.id).await? {
            return Ok(Finished::Exists(Box::new(known)));
        }
        let key = Key::new(scope, upload.conversation);
        if !self.is_readable(&key).await? {
            return Ok(Finished::Erased);
        }
        let of_tenant = self.stored_files(doc! { "tenant": scope.tenant().as_str() }).await?;
        let of_user = doc! { "tenant": scope.tenant().as_str(), "user": upload.user.as_str() };
        let of_user = self.stored_files(of_user).await?;
        if let Some(exceeded) = quota.exceeded(of_tenant, of_user, file.info.bytes) {
            return Ok(Finished::Full(exceeded));
        }
        let whole = doc! { "$set": {
            "id": file.id.to_string(),
            "state": WHOLE,
            "bytes": i64::try_from(file.info.bytes).unwrap_or(i64::MAX),
            "charge": i64::try_from(charge(file.info.bytes)).unwrap_or(i64::MAX),
            "name": &file.info.name,
            "media_type": file.info.media_type.as_str(),
            "sha256": &file.info.sha256,
        } };
        let open = doc! { "_id": document_id(scope, upload.id), "state": PARTIAL };
        let finished = self
            .collections
            .call(self.collections.files.update_one(open, whole))
            .await?;
        if finished.matched_count == 0 {
            return Ok(Finished::Erased);
        }
        if !self.is_readable(&key).await? {
            self.erase_files(&key).await?;
            return Ok(Finished::Erased);
        }
        Ok(Finished::Stored)
    }

    async fn abort_file(&self, scope: &TenantScope, upload: FileId) -> Result<(), LogError> {
        self.lease.check()?;
        let which = doc! { "_id": document_id(scope, upload), "state": PARTIAL };
        self.erase_file(which).await?;
        Ok(())
    }

    async fn file(&self, scope: &TenantScope, id: FileId) -> Result<Option<StoredFile>, LogError> {
        let found = self
            .collections
            .call(self.collections.files.find_one(whole(scope, id)))
            .await?;
        found.as_ref().map(file).transpose()
    }

    async fn file_piece(&self, scope: &TenantScope, id: FileId, number: u32) -> Result<Option<Bytes>, LogError> {
        let found = self
            .collections
            .call(self.collections.files.find_one(whole(scope, id)))
            .await?;
        let Some(content) = found.as_ref().and_then(|found| found.get_str("_id").ok()) else {
            return Ok(None);
        };
        let which = doc! { "_id": format!("{content}/{number}") };
        let piece = self
            .collections
            .call(self.collections.file_pieces.find_one(which))
            .await?;
        let bytes = |piece: Document| {
            let bytes = piece.get_binary_generic("bytes").map_err(|error| corrupt(&error))?;
            Ok(Bytes::copy_from_slice(bytes))
        };
        piece.map(bytes).transpose()
    }

    async fn reference_files(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        user: &UserId,
        ids: &[FileId],
    ) -> Result<Result<Vec<StoredFile>, FileId>, LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let mut files = Vec::with_capacity(ids.len());
        for id in ids {
            let mut own = whole(scope, *id);
            own.insert("conversation", conversation.to_string());
            own.insert("user", user.as_str());
            let referenced = self
                .collections
                .files
                .find_one_and_update(own, doc! { "$inc": { "state": 1 } })
                .return_document(ReturnDocument::After);
            match self.collections.call(referenced).await? {
                Some(found) => files.push(file(&found)?),
                None => return Ok(Err(*id)),
            }
        }
        Ok(Ok(files))
    }

    async fn release_files(&self, scope: &TenantScope, ids: &[FileId]) -> Result<(), LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        for id in ids {
            let mut referenced = whole(scope, *id);
            referenced.insert("state", doc! { "$gt": WHOLE });
            let release = doc! { "$inc": { "state": -1 } };
            let files = &self.collections.files;
            self.collections.call(files.update_one(referenced, release)).await?;
        }
        Ok(())
    }

    async fn delete_file(&self, scope: &TenantScope, id: FileId) -> Result<bool, LogError> {
        self.lease.check()?;
        Ok(self.erase_file(whole(scope, id)).await?)
    }

    async fn sweep_files(&self, scope: &TenantScope, before: Timestamp, limit: usize) -> Result<u64, LogError> {
        self.lease.check()?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let due = doc! {
            "tenant": scope.tenant().as_str(),
            "state": { "$lte": WHOLE },
            "created_at": { "$lt": date(before) },
        };
        let mut swept = 0;
        for id in self.ids(&self.collections.files, due, limit).await? {
            // Checked again: a prompt may refer to it by now.
            let which = doc! { "_id": id, "state": { "$lte": WHOLE } };
            swept += u64::from(self.erase_file(which).await?);
        }
        Ok(swept)
    }
}

impl MongoLog {
    /// Deletes the files of a conversation, unfinished uploads included; returns their number.
    pub(super) async fn erase_files(&self, key: &Key) -> Result<u64, Failure> {
        let of = doc! { "tenant": key.tenant.as_str(), "conversation": key.conversation.to_string() };
        let mut erased = 0;
        loop {
            let ids = self.ids(&self.collections.files, of.clone(), PIECES_AT_ONCE).await?;
            if ids.is_empty() {
                return Ok(erased);
            }
            for id in ids {
                erased += u64::from(self.erase_file(doc! { "_id": id }).await?);
            }
        }
    }

    /// Deletes a file: first from view, then its pieces, then its document. Returns whether there was one, or an upload.
    async fn erase_file(&self, which: Document) -> Result<bool, Failure> {
        let files = &self.collections.files;
        let Some(found) = self.collections.call(files.find_one(which.clone())).await? else {
            return Ok(false);
        };
        let content = found.get_str("_id").map_err(|error| corrupt(&error))?;
        let upload = content.rsplit('/').next().unwrap_or_default();
        let state = found.get_i32("state").map_err(|error| corrupt(&error))?;
        // If the process dies now, the sweep finds it.
        let hiding = if state == DELETED { DELETED } else { DELETING };
        let hidden = doc! {
            "$set": { "id": upload, "state": hiding, "created_at": DateTime::from_millis(0) },
            "$unset": { "name": "", "sha256": "" },
        };
        let mut same = which;
        same.insert("_id", content);
        if self
            .collections
            .call(files.update_one(same, hidden))
            .await?
            .matched_count
            == 0
        {
            return Ok(false);
        }
        let pieces = doc! { "content": content };
        self.delete_all(&self.collections.file_pieces, pieces, PIECES_AT_ONCE)
            .await?;
        let own = doc! { "_id": content };
        // All pieces of a file were acknowledged before it was one; those of an upload that was cut off may come late.
        if state >= WHOLE || state == DELETED {
            self.collections.call(files.delete_one(own)).await?;
        } else {
            let deleted = doc! {
                "$set": { "state": DELETED, "created_at": DateTime::now() },
                "$unset": { "conversation": "", "user": "" },
            };
            self.collections.call(files.update_one(own, deleted)).await?;
        }
        Ok(state != DELETED)
    }

    /// Returns what files count for in a quota.
    async fn stored_files(&self, mut of: Document) -> Result<u64, Failure> {
        of.insert("state", doc! { "$gt": PARTIAL });
        let sum = [
            doc! { "$match": of },
            doc! { "$group": { "_id": null, "bytes": { "$sum": "$charge" } } },
        ];
        let files = &self.collections.files;
        let found: Vec<Document> = self
            .collections
            .call(as_future(async { files.aggregate(sum).await?.try_collect().await }))
            .await?;
        let sum = found.first().and_then(|sum| {
            let whole = sum.get_i64("bytes");
            whole.or_else(|_| sum.get_i32("bytes").map(i64::from)).ok()
        });
        Ok(sum.unwrap_or(0).unsigned_abs())
    }
}

/// Locks, each for some of the tenants: a file is counted and becomes visible while nobody else's of its tenant does.
#[derive(Debug, Default)]
pub(super) struct TenantLocks([tokio::sync::Mutex<()>; 16]);

impl TenantLocks {
    async fn of(&self, scope: &TenantScope) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        scope.tenant().hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % 16).unwrap_or_default();
        self.0[place].lock().await
    }
}

/// No part can contain the slash.
fn document_id(scope: &TenantScope, upload: FileId) -> String {
    format!("{}/{upload}", scope.tenant())
}

/// Filter for a file that can be read.
fn whole(scope: &TenantScope, id: FileId) -> Document {
    doc! { "tenant": scope.tenant().as_str(), "id": id.to_string(), "state": { "$gt": PARTIAL } }
}

fn file(document: &Document) -> Result<StoredFile, LogError> {
    let name = |name: &str| document.get_str(name).map_err(|error| corrupt(&error));
    let created_at = document.get_datetime("created_at").map_err(|error| corrupt(&error))?;
    let bytes = document.get_i64("bytes").map_err(|error| corrupt(&error))?;
    Ok(StoredFile {
        id: name("id")?.parse().map_err(|error| corrupt(&error))?,
        conversation: name("conversation")?.parse().map_err(|error| corrupt(&error))?,
        user: name("user")?.parse().map_err(|error| corrupt(&error))?,
        created_at: Timestamp::from_millisecond(created_at.timestamp_millis()).map_err(|error| corrupt(&error))?,
        info: FileInfo {
            name: name("name")?.to_owned(),
            media_type: name("media_type")?.parse().map_err(|error| corrupt(&error))?,
            bytes: bytes.unsigned_abs(),
            sha256: name("sha256")?.to_owned(),
        },
    })
}

fn corrupt(error: &dyn std::fmt::Display) -> LogError {
    LogError::Corrupt(format!("a file: {error}"))
}

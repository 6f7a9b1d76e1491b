//! The store of files that users attach to their prompts.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use jiff::Timestamp;

use super::LogError;
use crate::domain::file::{Exceeded, FileInfo, FileQuota};
use crate::domain::ids::{ConversationId, FileId, UserId};
use crate::tenancy::TenantScope;

/// The largest piece of a file's content, in bytes.
pub const PIECE_BYTES: usize = 256 * 1024;

/// Stores files, each in pieces. One test suite checks every implementation.
///
/// Contract:
/// - *Tenancy*: a file belongs to one tenant, user and conversation. No call sees another tenant's.
/// - *Whole or absent*: a file is found only once [`FileStore::finish_file`] has returned, with all its pieces.
/// - *Erased*: nothing is added to an erased conversation, and its erasure deletes its files and unfinished uploads.
/// - *Kept while referenced*: [`FileStore::sweep_files`] never deletes a file for which [`FileStore::reference_files`] has
///   returned it, unless it was released.
/// - *Repeatable*: a deletion that was cut off is completed by the next one, or by the sweep.
#[async_trait]
pub trait FileStore: Send + Sync + fmt::Debug {
    /// Begins an upload. It has no effect on what can be read.
    async fn begin_file(&self, scope: &TenantScope, upload: &FileUpload) -> Result<UploadStep, LogError>;

    /// Stores a piece of at most [`PIECE_BYTES`]; they are numbered from 0 without a gap.
    async fn put_file_piece(
        &self,
        scope: &TenantScope,
        upload: &FileUpload,
        number: u32,
        bytes: Bytes,
    ) -> Result<UploadStep, LogError>;

    /// Makes an upload a file with this id, unless there is one or it would exceed a quota. The pieces of
    /// an upload that becomes no file are deleted with [`FileStore::abort_file`].
    async fn finish_file(
        &self,
        scope: &TenantScope,
        upload: &FileUpload,
        file: &StoredFile,
        quota: FileQuota,
    ) -> Result<Finished, LogError>;

    /// Deletes an unfinished upload.
    async fn abort_file(&self, scope: &TenantScope, upload: FileId) -> Result<(), LogError>;

    /// Finds a file.
    async fn file(&self, scope: &TenantScope, id: FileId) -> Result<Option<StoredFile>, LogError>;

    /// Reads a piece of a file; none after the last one.
    async fn file_piece(&self, scope: &TenantScope, id: FileId, number: u32) -> Result<Option<Bytes>, LogError>;

    /// Marks files of one user and conversation as referenced by one more prompt, and returns them in the order of `ids`. Returns the
    /// first id that is no such file instead, if there is one; others may be marked then.
    async fn reference_files(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        user: &UserId,
        ids: &[FileId],
    ) -> Result<Result<Vec<StoredFile>, FileId>, LogError>;

    /// Takes one mark off each of these files: their prompt was refused. Without it they are kept for too long.
    async fn release_files(&self, scope: &TenantScope, ids: &[FileId]) -> Result<(), LogError>;

    /// Deletes a file, in bounded steps. Returns whether there was one.
    async fn delete_file(&self, scope: &TenantScope, id: FileId) -> Result<bool, LogError>;

    /// Deletes at most `limit` files that no prompt refers to, and unfinished uploads, that were begun before `before`. Returns
    /// how many.
    async fn sweep_files(&self, scope: &TenantScope, before: Timestamp, limit: usize) -> Result<u64, LogError>;
}

/// An upload in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUpload {
    /// A new id: no two uploads share one, also if they become the same file.
    pub id: FileId,
    /// The conversation.
    pub conversation: ConversationId,
    /// Who uploads it.
    pub user: UserId,
    /// When it began.
    pub begun_at: Timestamp,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its id.
    pub id: FileId,
    /// The conversation: prompts of others cannot refer to it.
    pub conversation: ConversationId,
    /// Who uploaded it: prompts of others cannot refer to it.
    pub user: UserId,
    /// Name, type, size and hash.
    pub info: FileInfo,
    /// When its upload began.
    pub created_at: Timestamp,
}

/// What came of a step of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadStep {
    /// It is stored.
    Stored,
    /// The conversation is erased or unknown: nothing was stored.
    Erased,
}

/// What came of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// It is a file now.
    Stored,
    /// A file with that id was there already.
    Exists(Box<StoredFile>),
    /// The conversation was erased meanwhile.
    Erased,
    /// It would exceed this quota.
    Full(Exceeded),
}

/// Reads a file piece by piece, each when it is asked for.
pub fn content<'a>(
    store: &'a dyn FileStore,
    scope: &'a TenantScope,
    id: FileId,
) -> BoxStream<'a, Result<Bytes, LogError>> {
    stream::try_unfold(0, move |number| async move {
        let piece = store.file_piece(scope, id, number).await?;
        Ok(piece.map(|piece| (piece, number + 1)))
    })
    .boxed()
}

//! Files in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::domain::file::{FileQuota, charge};
use crate::domain::ids::{ConversationId, FileId, TenantId, UserId};
use crate::ports::{FileStore, FileUpload, Finished, LogError, StoredFile, UploadStep};
use crate::tenancy::TenantScope;

/// [`FileStore`] in memory. Every conversation is known until it is erased. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    uploads: BTreeMap<(TenantId, FileId), (FileUpload, Vec<Bytes>)>,
    files: BTreeMap<(TenantId, FileId), Entry>,
    erased: BTreeSet<(TenantId, ConversationId)>,
}

#[derive(Debug)]
struct Entry {
    file: StoredFile,
    pieces: Vec<Bytes>,
    references: u32,
}

impl State {
    fn is_erased(&self, scope: &TenantScope, conversation: ConversationId) -> bool {
        self.erased.contains(&(scope.tenant().clone(), conversation))
    }
}

impl MemoryFiles {
    /// Erases the files and uploads of a conversation. Returns how many.
    pub fn erase(&self, tenant: &TenantId, conversation: ConversationId) -> u64 {
        let mut state = self.0.lock();
        state.erased.insert((tenant.clone(), conversation));
        let before = state.files.len() + state.uploads.len();
        state
            .files
            .retain(|(of, _), entry| of != tenant || entry.file.conversation != conversation);
        state
            .uploads
            .retain(|(of, _), (upload, _)| of != tenant || upload.conversation != conversation);
        (before - state.files.len() - state.uploads.len()) as u64
    }

    /// Returns the number of files and unfinished uploads.
    pub fn len(&self) -> usize {
        let state = self.0.lock();
        state.files.len() + state.uploads.len()
    }

    /// Returns whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn key(scope: &TenantScope, id: FileId) -> (TenantId, FileId) {
    (scope.tenant().clone(), id)
}

#[async_trait]
impl FileStore for MemoryFiles {
    async fn begin_file(&self, scope: &TenantScope, upload: &FileUpload) -> Result<UploadStep, LogError> {
        let mut state = self.0.lock();
        if state.is_erased(scope, upload.conversation) {
            return Ok(UploadStep::Erased);
        }
        let begun = (upload.clone(), Vec::new());
        state.uploads.insert(key(scope, upload.id), begun);
        Ok(UploadStep::Stored)
    }

    async fn put_file_piece(
        &self,
        scope: &TenantScope,
        upload: &FileUpload,
        number: u32,
        bytes: Bytes,
    ) -> Result<UploadStep, LogError> {
        let mut state = self.0.lock();
        let Some((_, pieces)) = state.uploads.get_mut(&key(scope, upload.id)) else {
            return Ok(UploadStep::Erased);
        };
        if pieces.len() != number as usize {
            return Err(LogError::Refused(format!(
                "piece {number} does not follow the last one"
            )));
        }
        pieces.push(bytes);
        Ok(UploadStep::Stored)
    }

    async fn finish_file(
        &self,
        scope: &TenantScope,
        upload: &FileUpload,
        file: &StoredFile,
        quota: FileQuota,
    ) -> Result<Finished, LogError> {
        let mut state = self.0.lock();
        if let Some(known) = state.files.get(&key(scope, file.id)) {
            return Ok(Finished::Exists(Box::new(known.file.clone())));
        }
        let of_tenant = state.files.iter().filter(|((tenant, _), _)| tenant == scope.tenant());
        let (mut of_all, mut of_user) = (0, 0);
        for (_, entry) in of_tenant {
            let bytes = charge(entry.file.info.bytes);
            of_all += bytes;
            of_user += if entry.file.user == file.user { bytes } else { 0 };
        }
        if let Some(exceeded) = quota.exceeded(of_all, of_user, file.info.bytes) {
            return Ok(Finished::Full(exceeded));
        }
        let Some((_, pieces)) = state.uploads.remove(&key(scope, upload.id)) else {
            return Ok(Finished::Erased);
        };
        let entry = Entry {
            file: file.clone(),
            pieces,
            references: 0,
        };
        state.files.insert(key(scope, file.id), entry);
        Ok(Finished::Stored)
    }

    async fn abort_file(&self, scope: &TenantScope, upload: FileId) -> Result<(), LogError> {
        self.0.lock().uploads.remove(&key(scope, upload));
        Ok(())
    }

    async fn file(&self, scope: &TenantScope, id: FileId) -> Result<Option<StoredFile>, LogError> {
        Ok(self.0.lock().files.get(&key(scope, id)).map(|entry| entry.file.clone()))
    }

    async fn file_piece(&self, scope: &TenantScope, id: FileId, number: u32) -> Result<Option<Bytes>, LogError> {
        let state = self.0.lock();
        let entry = state.files.get(&key(scope, id));
        Ok(entry.and_then(|entry| entry.pieces.get(number as usize).cloned()))
    }

    async fn reference_files(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        user: &UserId,
        ids: &[FileId],
    ) -> Result<Result<Vec<StoredFile>, FileId>, LogError> {
        let mut state = self.0.lock();
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let entry = state.files.get_mut(&key(scope, *id));
            let own = entry.filter(|entry| entry.file.conversation == conversation && entry.file.user == *user);
            let Some(entry) = own else {
                return Ok(Err(*id));
            };
            entry.references += 1;
            found.push(entry.file.clone());
        }
        Ok(Ok(found))
    }

    async fn release_files(&self, scope: &TenantScope, ids: &[FileId]) -> Result<(), LogError> {
        let mut state = self.0.lock();
        for id in ids {
            if let Some(entry) = state.files.get_mut(&key(scope, *id)) {
                entry.references = entry.references.saturating_sub(1);
            }
        }
        Ok(())
    }

    async fn delete_file(&self, scope: &TenantScope, id: FileId) -> Result<bool, LogError> {
        Ok(self.0.lock().files.remove(&key(scope, id)).is_some())
    }

    async fn sweep_files(&self, scope: &TenantScope, before: Timestamp, limit: usize) -> Result<u64, LogError> {
        let mut state = self.0.lock();
        let is_due = |((tenant, _), entry): &(&(TenantId, FileId), &Entry)| {
            tenant == scope.tenant() && entry.references == 0 && entry.file.created_at < before
        };
        let due: Vec<_> = state.files.iter().filter(is_due).map(|(key, _)| key.clone()).collect();
        let begun = state
            .uploads
            .iter()
            .filter(|((tenant, _), (upload, _))| tenant == scope.tenant() && upload.begun_at < before);
        let stale: Vec<_> = begun.map(|(key, _)| key.clone()).collect();
        let mut swept = 0;
        for key in due.into_iter().take(limit) {
            state.files.remove(&key);
            swept += 1;
        }
        for key in stale.into_iter().take(limit.saturating_sub(swept)) {
            state.uploads.remove(&key);
            swept += 1;
        }
        Ok(swept as u64)
    }
}

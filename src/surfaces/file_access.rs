//! The store of attached files, as requests use it.

use std::sync::Arc;

use copilotd_actors::domain::content::{Input, Part};
use copilotd_actors::domain::file::MAX_FILES;
use copilotd_actors::domain::ids::{ConversationId, FileId};
use copilotd_actors::ports::FileStore;
use copilotd_actors::tenancy::TenantScope;

use crate::http::budget::{Budget, Holder, Limits, Reservation};
use crate::http::credentials::Caller;
use crate::http::extract::invalid;
use crate::http::problems::{Code, Problem};

/// Uploads that are received at a time. Each holds a piece in memory, which is charged to its caller, and may take minutes.
const UPLOADS: Limits = Limits {
    process: 64,
    tenant: 32,
    key: 32,
    user: 8,
    // Uploads need a credential.
    addresses: 1,
    address: 1,
};

/// The store of files, and the slots of uploads.
#[derive(Debug, Clone)]
pub struct FileAccess {
    pub(crate) store: Arc<dyn FileStore>,
    uploads: Arc<Budget>,
}

impl FileAccess {
    /// Wraps the store of this process.
    pub fn new(store: Arc<dyn FileStore>) -> Self {
        Self {
            store,
            uploads: Budget::of_units(UPLOADS),
        }
    }

    /// Takes one of the caller's slots for an upload.
    pub(crate) fn slot(&self, caller: &Caller) -> Result<Reservation, Problem> {
        let slot = self.uploads.try_reserve(&Holder::caller(caller), 1);
        slot.map_err(|_full| {
            Problem::new(Code::Overloaded).detail("too many files are being uploaded at once; wait for one to end")
        })
    }

    /// Completes a prompt with what is known of its files, and marks them as referenced: before the turn is stored, so that a
    /// crash in between keeps a file for too long and never loses one. Returns the marked files.
    ///
    /// # Errors
    /// A 422 for a file that the caller did not upload to this conversation, whether or not it exists, and for too many files.
    pub(crate) async fn referenced(
        &self,
        caller: &Caller,
        conversation: ConversationId,
        mut input: Input,
    ) -> Result<(Input, Vec<FileId>), Problem> {
        let ids: Vec<FileId> = input.files().collect();
        let Input::Parts(parts) = &mut input else {
            return Ok((input, ids));
        };
        if ids.is_empty() {
            return Ok((input, ids));
        }
        if ids.len() > MAX_FILES {
            return Err(invalid("/input", format!("must have at most {MAX_FILES} files")));
        }
        let found = self
            .store
            .reference_files(&caller.scope, conversation, &caller.user, &ids);
        let found = found.await?;
        let missing = found.as_ref().err().copied();
        let mut infos = found.unwrap_or_default().into_iter().map(|file| file.info);
        for (place, part) in parts.iter_mut().enumerate() {
            let Part::File { file_id, info } = part else { continue };
            if missing == Some(*file_id) {
                let marked = ids.iter().position(|id| id == file_id).unwrap_or_default();
                self.release(&caller.scope, &ids[..marked]).await;
                let message = "is not a file that this user uploaded to this conversation";
                return Err(invalid(&format!("/input/{place}/file_id"), message));
            }
            *info = infos.next();
        }
        Ok((input, ids))
    }

    /// Takes back the marks of a prompt that was refused.
    pub(crate) async fn release(&self, scope: &TenantScope, ids: &[FileId]) {
        if ids.is_empty() {
            return;
        }
        if let Err(error) = self.store.release_files(scope, ids).await {
            tracing::warn!(tenant = %scope.tenant(), files = ids.len(), %error, "the files of a refused prompt could not be released; they are kept until their conversation is erased");
        }
    }
}

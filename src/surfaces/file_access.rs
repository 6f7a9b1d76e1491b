//! The store of attached files, as requests use it.

use std::sync::Arc;

use copilotd_actors::domain::content::{Input, Part};
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::ports::FileStore;
use tokio::sync::Semaphore;

use crate::http::credentials::Caller;
use crate::http::extract::invalid;
use crate::http::problems::Problem;

/// Uploads that one process receives at a time. Each holds a piece in memory, which is charged to its caller.
const UPLOADS: usize = 64;

/// The store of files, and the slots of uploads.
#[derive(Debug, Clone)]
pub struct FileAccess {
    pub(crate) store: Arc<dyn FileStore>,
    pub(crate) uploads: Arc<Semaphore>,
}

impl FileAccess {
    /// Wraps the store of this process.
    pub fn new(store: Arc<dyn FileStore>) -> Self {
        Self {
            store,
            uploads: Arc::new(Semaphore::new(UPLOADS)),
        }
    }

    /// Completes a prompt with what is known of its files, and marks them as referenced: before the turn is stored, so that a
    /// crash in between keeps a file for too long and never loses one.
    ///
    /// # Errors
    /// A 422 for a file that the caller did not upload to this conversation, whether or not it exists.
    pub(crate) async fn referenced(
        &self,
        caller: &Caller,
        conversation: ConversationId,
        mut input: Input,
    ) -> Result<Input, Problem> {
        let ids: Vec<_> = input.files().collect();
        let Input::Parts(parts) = &mut input else {
            return Ok(input);
        };
        if ids.is_empty() {
            return Ok(input);
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
                let message = "is not a file that this user uploaded to this conversation";
                return Err(invalid(&format!("/input/{place}/file_id"), message));
            }
            *info = infos.next();
        }
        Ok(input)
    }
}

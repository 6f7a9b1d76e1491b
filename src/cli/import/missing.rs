//! Deletes documents of the collection that the source does not have.

use copilotd_actors::domain::ids::ExternalId;
use serde_json::Value;

use super::Import;
use super::send::Refused;
use crate::cli::{Failure, print};

/// Metadata of documents that the server itself keeps up to date.
const SYNC_SOURCE: &str = "sync_source";

impl Import<'_> {
    /// Deletes at most `most` documents; nothing if it is not certain that the source was read as a whole.
    pub(super) async fn delete_missing(&mut self, most: u64) -> Result<(), Failure> {
        if self.tally.failed > 0 {
            return Err(Failure::failed(format!(
                "{} documents failed, so nothing was deleted: it is not certain what is missing",
                self.tally.failed
            )));
        }
        if self.ids.is_empty() {
            return Err(Failure::failed("the source has no document, so nothing was deleted"));
        }
        let missing = match self.missing(most).await {
            Ok(missing) => missing,
            Err(refused) => return self.stop(refused),
        };
        if missing.len() as u64 > most {
            return Err(Failure::failed(format!(
                "more than {most} documents of the collection are not in the source, so nothing was deleted; check the \
                 source, or raise --delete-missing"
            )));
        }
        for id in missing {
            if self.args.dry_run {
                print(&format!("would delete {id}\n"))?;
            } else if let Err(refused) = self.client.delete(&id).await {
                match refused {
                    Refused::Document(reason) => {
                        self.fail(id.as_str(), &reason);
                        continue;
                    }
                    refused => return self.stop(refused),
                }
            } else {
                self.progress.say(&format!("deleted {id}"));
            }
            self.tally.deleted += 1;
        }
        Ok(())
    }

    fn stop(&mut self, refused: Refused) -> Result<(), Failure> {
        if let Refused::Document(reason) | Refused::Everything(reason) = refused {
            self.stopped = Some(reason);
        }
        Ok(())
    }

    /// Lists the documents that the source does not have, at most one more than `most`.
    async fn missing(&self, most: u64) -> Result<Vec<ExternalId>, Refused> {
        let (mut missing, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let (documents, next) = self.client.page(cursor.as_deref()).await?;
            for document in &documents {
                if let Some(id) = deletable(document)
                    && !self.ids.contains(&id)
                {
                    missing.push(id);
                }
                if missing.len() as u64 > most {
                    return Ok(missing);
                }
            }
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(missing),
            }
        }
    }
}

/// Returns the id of a document that an import may delete.
fn deletable(document: &Value) -> Option<ExternalId> {
    let is_synchronised = !document["metadata"][SYNC_SOURCE].is_null();
    let id = document["external_id"].as_str().filter(|_| !is_synchronised)?;
    id.parse().ok()
}

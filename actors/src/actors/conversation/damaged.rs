//! Erasing a conversation whose log cannot be read: needs only its owner and the log's last sequence number.

use ractor::{ActorProcessingErr, RpcReplyPort};

use super::message::{Accepted, Principal, Refusal, Reply};
use super::{Conversation, State, crash_points, refuse};
use crate::domain::conversation::decide::Rejection;
use crate::domain::conversation::header::Header;
use crate::domain::conversation::stream::EncodedRecord;
use crate::domain::event::{Event, Record};
use crate::ports::{Append, LogError};

impl Conversation {
    /// Appends a tombstone after the damaged or missing records. The store deletes the rest without reading it.
    pub(super) async fn erase_damaged(
        &self,
        state: &State,
        principal: &Principal,
        by: String,
        reply: RpcReplyPort<Reply>,
    ) -> Result<(), ActorProcessingErr> {
        let found = match self.owned_header(state, principal).await {
            Ok(found) => found,
            Err(error) => return refuse(Some(reply), refusal_of_reading(&error)),
        };
        let Some((mut header, end)) = found else {
            return refuse(Some(reply), Rejection::NotFound.into());
        };
        let record = Record {
            seq: end + 1,
            at: self.shared.ports.clock.now(),
            turn: None,
            event: Event::ConversationErased { by },
        };
        header.apply(&record);
        // The records of open turns are deleted with the rest.
        header.open_turns = 0;
        let records = vec![record];
        let append = Append {
            conversation: state.core.id,
            user: header.user.clone(),
            append_id: self.shared.ports.ids.uuid(),
            records: records.clone().into(),
            header: header.clone(),
        };
        crash_points("append.before", &records);
        let result = self.shared.ports.log.append(&state.scope, &append).await;
        crash_points("append.after", &records);
        if let Err(error) = result {
            tracing::warn!(tenant = %state.scope.tenant(), conversation = %state.core.id, %error, "damaged conversation could not be erased");
            return refuse(Some(reply), refusal(&error));
        }
        tracing::info!(conversation = %state.core.id, tenant = %state.scope.tenant(), "damaged conversation erased");
        if let Some(tail) = self.shared.hub.existing(&state.scope, state.core.id) {
            tail.publish(records.iter().map(EncodedRecord::new).collect(), None);
        }
        // The caller may have gone; the change is stored all the same.
        let _ = reply.send(Ok(Accepted {
            header,
            turn: None,
            records,
            position: None,
        }));
        Ok(())
    }

    /// Returns the answer to all other requests: that the conversation is damaged, but only to those who may know of
    /// it.
    pub(super) async fn refusal_of_damaged(&self, state: &State, principal: &Principal) -> Refusal {
        match self.owned_header(state, principal).await {
            Ok(None) => Rejection::NotFound.into(),
            Ok(Some(_)) => Refusal::Damaged,
            Err(error) => refusal_of_reading(&error),
        }
    }

    /// Returns the header, if there is one that the caller may erase, and the log's last sequence number.
    async fn owned_header(&self, state: &State, principal: &Principal) -> Result<Option<(Header, u64)>, LogError> {
        let (log, id) = (&self.shared.ports.log, state.core.id);
        let header = log.header(&state.scope, id).await?;
        let own = |header: &Header| !header.erased && (header.user == principal.user || principal.admin);
        let Some(header) = header.filter(own) else {
            return Ok(None);
        };
        Ok(Some((header, log.end(&state.scope, id).await?)))
    }
}

fn refusal(error: &LogError) -> Refusal {
    match error {
        LogError::Corrupt(_) => Refusal::Damaged,
        LogError::Refused(_) => Refusal::Refused {
            disk_full: error.is_disk_full(),
        },
        LogError::Erased => Rejection::NotFound.into(),
        LogError::Conflict(_) | LogError::Unavailable(_) => Refusal::Unavailable,
    }
}

fn refusal_of_reading(error: &LogError) -> Refusal {
    match refusal(error) {
        Refusal::Unavailable => Refusal::NotStored,
        other => other,
    }
}

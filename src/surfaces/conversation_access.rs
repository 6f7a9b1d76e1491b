//! Finds conversations and turns for a caller, and sends commands to them.
//!
//! Invariant: whose conversations a request reaches is decided by an [`Asker`] alone, from the scopes of the verified
//! caller and from the operation. An operation for the owner reaches no other user's conversation, whatever the scopes.

use std::sync::Arc;

use copilotd_actors::actors::conversation::{Accepted, Principal, Refusal};
use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::{ConversationId, Seq, TurnId, UserId};
use copilotd_actors::ports::{EventLog, TurnRecords};

use crate::audit::AuditLog;
use crate::http::credentials::{Caller, Scopes};
use crate::http::problems::{Code, Problem};
use crate::http::response_memory::PageMemory;

/// A caller, and whose conversations it reaches in one operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    caller: &'a Caller,
    reach: Reach,
}

/// Whose conversations an operation reaches, always within the caller's tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The caller's own.
    Own,
    /// Those of every user.
    Tenant,
}

impl<'a> Asker<'a> {
    /// For operations on the caller's own conversations.
    pub(crate) fn owner(caller: &'a Caller) -> Self {
        Self {
            caller,
            reach: Reach::Own,
        }
    }

    /// For operations that an administrator may perform on any user's conversation. Other callers need the scope `chat`
    /// and reach their own.
    pub(crate) fn owner_or_admin(caller: &'a Caller) -> Result<Self, Problem> {
        // An auditor's credential does not need the scope `chat`.
        if caller.scopes.contains(Scopes::ADMIN) {
            return Ok(Self {
                caller,
                reach: Reach::Tenant,
            });
        }
        caller.require(Scopes::CHAT)?;
        Ok(Self::owner(caller))
    }

    /// Whether content of `user` is the caller's own. Requires the scope `chat`: otherwise an administrator's key, which
    /// may name any user, could read that user's content without a reason.
    pub(crate) fn is_own(&self, user: &UserId) -> bool {
        *user == self.caller.user && self.caller.scopes.contains(Scopes::CHAT)
    }

    fn reaches(&self, user: &UserId) -> bool {
        *user == self.caller.user || self.reach == Reach::Tenant
    }

    /// The caller in the form that the actors expect.
    fn principal(&self) -> Principal {
        Principal {
            user: self.caller.user.clone(),
            admin: self.reach == Reach::Tenant,
        }
    }
}

/// Access to stored and running conversations.
#[derive(Clone)]
pub struct ConversationAccess {
    /// Where conversations are stored.
    pub log: Arc<dyn EventLog>,
    /// Looks up running conversations.
    pub directory: Directory,
    /// Where reads of other users' content are recorded.
    pub audit: Arc<AuditLog>,
}

impl ConversationAccess {
    /// Finds a conversation; one that the caller does not reach is answered 404.
    pub(crate) async fn find(&self, asker: Asker<'_>, id: ConversationId) -> Result<Header, Problem> {
        let header = self.log.header(&asker.caller.scope, id).await?;
        header
            .filter(|header| asker.reaches(&header.user) && !header.erased)
            .ok_or_else(|| Problem::new(Code::NotFound))
    }

    /// Finds a turn; one that the caller does not reach is answered 404. Reads the whole turn, which requires a
    /// [`PageMemory`].
    pub(crate) async fn find_turn(
        &self,
        asker: Asker<'_>,
        id: TurnId,
        _room: &PageMemory,
    ) -> Result<TurnRecords, Problem> {
        let found = self.log.read_turn_and_header(&asker.caller.scope, id).await?;
        found
            // Records of an erased conversation exist until the reconciler removes them, but clients must not see them.
            .filter(|(turn, header)| asker.reaches(&turn.user) && !header.erased)
            .map(|(turn, _)| turn)
            .ok_or_else(|| Problem::new(Code::NotFound))
    }

    /// Finds the conversation of a turn and the sequence number of its first record; a turn that the caller does not
    /// reach is answered 404. Reads only turns of which this process knows nothing.
    pub(crate) async fn find_turn_start(
        &self,
        asker: Asker<'_>,
        id: TurnId,
        room: &PageMemory,
    ) -> Result<(ConversationId, Seq), Problem> {
        if let Some(open) = self.directory.open_turn(&asker.caller.scope, id) {
            return match asker.reaches(&open.user) {
                true => Ok((open.conversation, open.first_seq)),
                false => Err(Problem::new(Code::NotFound)),
            };
        }
        let found = self.find_turn(asker, id, room).await?;
        let first = found.records.first().map_or(1, |record| record.seq);
        Ok((found.conversation, first))
    }

    /// Creates a conversation under an id that was made up for it.
    pub(crate) async fn create(
        &self,
        asker: Asker<'_>,
        id: ConversationId,
        command: Command,
    ) -> Result<Accepted, Refusal> {
        let (scope, principal) = (&asker.caller.scope, asker.principal());
        self.directory.create(scope, id, &principal, command).await
    }

    /// Sends a command to a conversation.
    pub(crate) async fn execute(
        &self,
        asker: Asker<'_>,
        id: ConversationId,
        command: Command,
    ) -> Result<Accepted, Refusal> {
        let (scope, principal) = (&asker.caller.scope, asker.principal());
        self.directory.execute(scope, id, &principal, command).await
    }
}

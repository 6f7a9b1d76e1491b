//! Checks before a command from outside is decided: whether its idempotency key was used before, and whether its tenant
//! and user may store more.
//!
//! They read the store within the handler that appends, so nothing comes between the answer and the append: concurrent
//! copies of one request become one turn.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::timeout;

use super::copies::{self, KeyUse};
use super::{Conversation, Principal, Refusal, State};
use crate::domain::conversation::command::Command;
use crate::domain::conversation::decide::Rejection;
use crate::domain::conversation::screen::ScreenedCommand;
use crate::domain::ids::TurnId;
use crate::ports::{FactsError, LogError, WithdrawnTurn};

/// What is known about a command before it is decided.
pub(super) enum KeyLookup {
    /// Not seen before, or known to the state, which handles it.
    New(Box<ScreenedCommand>),
    /// An earlier request with the same key and body created this turn.
    Copy(TurnId),
}

impl Conversation {
    /// Finds the turn that was created with a submission's idempotency key during the key's life. The state remembers
    /// the latest keys; all others are found in the log, because the id of a turn with a key is derived from it. If the
    /// key is free, the submission gets such an id.
    pub(super) async fn known(&self, state: &State, mut command: ScreenedCommand) -> Result<KeyLookup, Refusal> {
        let now = self.shared.ports.clock.now();
        let Command::Submit {
            idempotency: Some(asked),
            ..
        } = command.command()
        else {
            return Ok(KeyLookup::New(Box::new(command)));
        };
        if state.core.live().is_none() || state.core.keys.find(&asked.key, now).is_some() {
            return Ok(KeyLookup::New(Box::new(command)));
        }
        let log = self.shared.ports.log.as_ref();
        match copies::find(log, &state.scope, state.core.id, asked, now)
            .await
            .map_err(unavailable)?
        {
            KeyUse::Copy(turn) => Ok(KeyLookup::Copy(turn)),
            KeyUse::Free(turn) => {
                command.set_turn(turn);
                Ok(KeyLookup::New(Box::new(command)))
            }
            KeyUse::Taken => Err(Rejection::KeyReused.into()),
        }
    }

    /// Refuses what would add to a log whose tenant or user has reached a storage quota. Never refuses what ends or
    /// erases something, nor the copy of an earlier request.
    pub(super) async fn check_quotas(
        &self,
        state: &State,
        principal: &Principal,
        command: &Command,
    ) -> Result<(), Refusal> {
        let (book, now) = (state.core.book.as_ref(), self.shared.ports.clock.now());
        let is_new = match (command, book) {
            (Command::Create { .. }, None) => true,
            (Command::Submit { turn, idempotency, .. }, Some(book)) => {
                let keyed = idempotency.as_ref();
                let copied = keyed.is_some_and(|asked| state.core.keys.find(&asked.key, now).is_some());
                if copied || book.accepted.contains(turn) {
                    return Ok(());
                }
                false
            }
            (Command::Update { .. } | Command::GiveFeedback { .. }, Some(_)) => false,
            _ => return Ok(()),
        };
        let quotas = self.shared.ports.policies.quotas(&state.scope);
        if quotas.is_unlimited() || book.is_some_and(|book| book.header.erased) {
            return Ok(());
        }
        let owner = book.map_or(&principal.user, |book| &book.header.user);
        let stored = self.shared.ports.log.stored(&state.scope, owner).await;
        Ok(quotas.check(&stored.map_err(unavailable)?, is_new)?)
    }
}

/// How long a submission waits until the facts of the turn that it replaces are withdrawn.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(5);

impl Conversation {
    /// Withdraws what was learned from a turn, before the record that replaces it is stored: afterwards no fact rests on it,
    /// whatever dies meanwhile. If that record is not stored in the end, some facts are lost and nothing else.
    pub(super) async fn withdraw_facts(&self, state: &State, turn: TurnId) -> Result<(), Refusal> {
        let (Some(facts), Some(book)) = (&self.shared.ports.facts, &state.core.book) else {
            return Ok(());
        };
        let withdrawn = WithdrawnTurn {
            user: book.header.user.clone(),
            conversation: state.core.id,
            turn,
        };
        let withdraw = AssertUnwindSafe(facts.withdraw(&state.scope, &withdrawn)).catch_unwind();
        let error = match timeout(WITHDRAW_TIMEOUT, withdraw).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => error,
            Ok(Err(_)) => FactsError::Unavailable("the call panicked".to_owned()),
            Err(_) => FactsError::TimedOut(WITHDRAW_TIMEOUT),
        };
        tracing::warn!(tenant = %state.scope.tenant(), conversation = %state.core.id, %turn, %error, "facts learned from a turn could not be withdrawn; refusing the request that replaces it, nothing was stored");
        Err(Refusal::NotStored)
    }
}

fn unavailable(error: LogError) -> Refusal {
    tracing::warn!(%error, "stored quota usage or idempotency keys could not be read; refusing the request, nothing was stored");
    Refusal::NotStored
}

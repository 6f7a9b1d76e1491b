//! What is looked up before a command from outside is decided: whether its idempotency key was used before, and whether its
//! tenant and its user may keep more.
//!
//! The look-ups read the store, within the one handler that appends. So nothing comes between the answer and the append, and
//! copies of one request that arrive at once are one turn.

use super::{Conversation, Refusal, State};
use crate::conversation::Asker;
use crate::domain::command::Command;
use crate::domain::conversation::KEY_LIFE;
use crate::domain::decide::Rejection;
use crate::domain::event::{Event, Idempotency, Record};
use crate::domain::ids::TurnId;
use crate::domain::screen::Screened;
use crate::ports::LogError;

/// Uses of one key on different days that are told apart; beyond that the client has to choose another key.
const MAX_ROUNDS: u32 = 64;

/// What is known of a command before it is decided.
pub(super) enum Known {
    /// It has not been seen, or the state knows it.
    New(Box<Screened>),
    /// An earlier request with its key and its body made this turn.
    Copy(TurnId),
}

impl Conversation {
    /// Finds the turn that a submission's idempotency key has made within its life. The state remembers the latest keys; all
    /// others are found in the log, since a turn with a key has an id that is derived from it. A key that is free gives the
    /// submission such an id.
    pub(super) async fn known(&self, state: &State, mut command: Screened) -> Result<Known, Refusal> {
        let now = self.shared.ports.clock.now();
        let Command::Submit {
            idempotency: Some(asked),
            ..
        } = command.command()
        else {
            return Ok(Known::New(Box::new(command)));
        };
        if state.core.live().is_none() || state.core.keys.find(&asked.key, now).is_some() {
            return Ok(Known::New(Box::new(command)));
        }
        for round in 0..MAX_ROUNDS {
            let id = TurnId::derived(state.core.id, &asked.key, round);
            let found = self.shared.ports.log.read_turn(&state.scope, id).await;
            let Some(found) = found.map_err(unavailable)? else {
                command.set_turn(id);
                return Ok(Known::New(Box::new(command)));
            };
            match found.records.first() {
                Some(first) if now.duration_since(first.at) >= KEY_LIFE => {}
                Some(first) if used_for(first) == Some(asked) => return Ok(Known::Copy(id)),
                _ => break,
            }
        }
        Err(Rejection::KeyReused.into())
    }

    /// Refuses what would add to a log whose tenant or user keeps as much as it may. What ends or erases something is never
    /// refused, nor is the copy of an earlier request.
    pub(super) async fn has_room(&self, state: &State, asker: &Asker, command: &Command) -> Result<(), Refusal> {
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
        let owner = book.map_or(&asker.user, |book| &book.header.user);
        let stored = self.shared.ports.log.stored(&state.scope, owner).await;
        Ok(quotas.check(&stored.map_err(unavailable)?, is_new)?)
    }
}

/// What a turn's first record says of the request that made it.
fn used_for(first: &Record) -> Option<&Idempotency> {
    match &first.event {
        Event::TurnQueued { idempotency, .. } => idempotency.as_ref(),
        _ => None,
    }
}

fn unavailable(error: LogError) -> Refusal {
    tracing::warn!(%error, "a request was refused: the store could not be read for it");
    Refusal::NotStored
}

//! One file per resource: request type, response type, handlers.

pub mod admin;
mod answer_memory;
pub mod api;
pub mod error_documents;
pub mod fair_share;
pub(crate) mod hand_over;
pub mod openai;
pub mod openapi;
pub mod operator;
pub(crate) mod refusal;
pub mod router;
pub mod standby;
pub mod state;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use copilotd_actors::actors::conversation::Principal;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::{ConversationId, TurnId, UserId};
use copilotd_actors::ports::TurnRecords;

use crate::http::credentials::{Caller, Scopes};
use crate::http::problems::{Code, Problem, Retry};
use crate::http::response_memory::PageMemory;
use state::AppState;

/// Refuses new work while the process is shutting down.
fn ensure_accepting_work(state: &AppState) -> Result<(), Problem> {
    if state.shutdown.is_draining() {
        let problem = Problem::new(Code::Unavailable).detail("the server is shutting down; nothing was stored");
        return Err(problem.retry(Retry::Safe));
    }
    Ok(())
}

/// The caller in the form that the actors expect.
fn principal(caller: &Caller) -> Principal {
    Principal {
        user: caller.user.clone(),
        admin: false,
    }
}

/// Finds a conversation of the caller; other users' conversations are answered 404.
async fn own_conversation(state: &AppState, caller: &Caller, id: ConversationId) -> Result<Header, Problem> {
    let header = state.log().header(&caller.scope, id).await?;
    header
        .filter(|header| header.user == caller.user && !header.erased)
        .ok_or_else(|| Problem::new(Code::NotFound))
}

/// Whether content of `user` is the caller's own. Requires the scope `chat`: otherwise an administrator's key, which
/// may name any user, could read that user's content without a reason.
fn is_own(caller: &Caller, user: &UserId) -> bool {
    *user == caller.user && caller.scopes.contains(Scopes::CHAT)
}

/// Finds a turn of the caller, or with `others` of anyone in the tenant for administrators. Reads the whole turn, which
/// requires a [`PageMemory`].
async fn turn_records(
    state: &AppState,
    caller: &Caller,
    id: TurnId,
    others: bool,
    _room: &PageMemory,
) -> Result<TurnRecords, Problem> {
    let found = state.log().read_turn(&caller.scope, id).await?;
    let allowed = |turn: &TurnRecords| turn.user == caller.user || (others && caller.scopes.contains(Scopes::ADMIN));
    let turn = found.filter(allowed).ok_or_else(|| Problem::new(Code::NotFound))?;
    // Records of an erased conversation exist until the reconciler removes them, but clients must not see them.
    let header = state.log().header(&caller.scope, turn.conversation).await?;
    match header {
        Some(header) if !header.erased => Ok(turn),
        _ => Err(Problem::new(Code::NotFound)),
    }
}

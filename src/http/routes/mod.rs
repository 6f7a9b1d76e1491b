//! One file per resource: request type, response type, handlers.

pub mod admin;
pub mod api_keys;
pub mod approvals;
pub mod audit;
pub mod conversations;
pub mod events;
pub mod jobs;
pub mod messages;
pub mod openai;
pub mod operations;
pub mod revocations;
pub mod tenants;
pub mod tickets;
pub mod turns;
pub mod usage;

use copilotd_actors::actors::conversation::Asker;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::{ConversationId, TurnId, UserId};
use copilotd_actors::ports::TurnRecords;

use super::auth::{Caller, Scopes};
use super::problem::{Code, Problem, Retry};
use super::room::PageRoom;
use super::state::AppState;

/// Refuses what would begin something new while the process is about to end.
fn taking_work(state: &AppState) -> Result<(), Problem> {
    if state.shutdown.is_draining() {
        let problem = Problem::new(Code::Unavailable).detail("the server is shutting down");
        return Err(problem.retry(Retry::Safe));
    }
    Ok(())
}

/// Who asks the actors.
fn asker(caller: &Caller) -> Asker {
    Asker {
        user: caller.user.clone(),
        admin: false,
    }
}

/// Finds a conversation of the caller. What belongs to others does not exist.
async fn own_conversation(state: &AppState, caller: &Caller, id: ConversationId) -> Result<Header, Problem> {
    let header = state.log().header(&caller.scope, id).await?;
    header
        .filter(|header| header.user == caller.user && !header.erased)
        .ok_or_else(|| Problem::new(Code::NotFound))
}

/// Whether what belongs to `user` is the caller's own. It takes the scope `chat`: an administrator's key may name any user, and would
/// read that user's content without a reason otherwise.
fn is_own(caller: &Caller, user: &UserId) -> bool {
    *user == caller.user && caller.scopes.contains(Scopes::CHAT)
}

/// Finds a turn of the caller, or of anybody in the tenant for those who may act on others' turns. All of it is read, so there has to
/// be room for it.
async fn turn_records(
    state: &AppState,
    caller: &Caller,
    id: TurnId,
    others: bool,
    _room: &PageRoom,
) -> Result<TurnRecords, Problem> {
    let found = state.log().read_turn(&caller.scope, id).await?;
    let allowed = |turn: &TurnRecords| turn.user == caller.user || (others && caller.scopes.contains(Scopes::ADMIN));
    let turn = found.filter(allowed).ok_or_else(|| Problem::new(Code::NotFound))?;
    // The records of an erased conversation are there until the reconciler has come by; for clients they are gone.
    let header = state.log().header(&caller.scope, turn.conversation).await?;
    match header {
        Some(header) if !header.erased => Ok(turn),
        _ => Err(Problem::new(Code::NotFound)),
    }
}

//! One file per resource: request type, response type, handlers.

pub mod approvals;
pub mod conversations;
pub mod events;
pub mod messages;
pub mod operations;
pub mod tickets;
pub mod turns;

use copilotd_actors::conversation::Asker;
use copilotd_actors::domain::header::Header;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::ports::TurnRecords;

use super::auth::{Caller, Scopes};
use super::problem::{Code, Problem};
use super::state::AppState;

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

/// Finds a turn of the caller, or of anybody in the tenant for those who may act on others' turns.
async fn turn_records(state: &AppState, caller: &Caller, id: TurnId, others: bool) -> Result<TurnRecords, Problem> {
    let found = state.log().read_turn(&caller.scope, id).await?;
    let allowed = |turn: &TurnRecords| turn.user == caller.user || (others && caller.scopes.contains(Scopes::ADMIN));
    found.filter(allowed).ok_or_else(|| Problem::new(Code::NotFound))
}

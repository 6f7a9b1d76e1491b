//! The title of a conversation that has none: written by the small model after a turn, and thus off the user's path.
//!
//! Invariant: at most one attempt runs. What it wrote is decided like any other command, so that a title which somebody set
//! meanwhile stays. An attempt that died with its process left no record, so the next turn's end makes it again.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{Conversation, ConversationRef, Msg, State};
use crate::actors::titler;
use crate::domain::context::title;
use crate::domain::event::{Event, Record};
use crate::domain::policy::Policy;
use crate::ports::ServingState;

impl Conversation {
    /// Has a title written if a turn was completed and the conversation wants one.
    pub(super) fn title(&self, me: &ConversationRef, state: &mut State, policy: &Arc<Policy>, records: &[Record]) {
        let is_completed = records
            .iter()
            .any(|record| matches!(record.event, Event::TurnCompleted { .. }));
        let book = state.core.live().filter(|book| book.wants_title());
        let Some(book) = book.filter(|_| policy.titles && is_completed && state.titling.is_none()) else {
            return;
        };
        if state.handing_over || self.standing(state) != ServingState::Served {
            return;
        }
        let Some(messages) = title::request(&state.core.memory) else {
            return;
        };
        let work = titler::Work {
            shared: Arc::clone(&self.shared),
            scope: state.scope.clone(),
            conversation: state.core.id,
            user: book.header.user.clone(),
            api_key: book.last_api_key.clone(),
            messages,
            policy: Arc::clone(policy),
        };
        let me = me.clone();
        let task = async move {
            let titled = titler::title(work).await;
            let _ = me.cast(Msg::TitleEnded(titled.map(Box::new)));
        };
        let span = tracing::info_span!("title", gen_ai.conversation.id = %state.core.id);
        state.titling = Some(AbortOnDropHandle::new(tokio::spawn(task.instrument(span))));
    }
}

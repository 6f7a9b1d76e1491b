//! The compression of a conversation's memory, and what is made ready for searches of what it leaves out: after a turn and
//! thus off the user's path.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{Conversation, ConversationRef, Msg, State};
use crate::actors::compressor::{self, CompressionOutcome, Effort};
use crate::domain::context::recent;
use crate::domain::event::Record;
use crate::domain::policy::Policy;
use crate::ports::ServingState;

impl Conversation {
    /// Compresses the older part of the memory, after a turn and thus off the user's path.
    pub(super) fn compress(&self, me: &ConversationRef, state: &mut State, policy: &Arc<Policy>) {
        self.compress_with(me, state, policy, Effort::Usual);
    }

    /// Has the ended turn made ready for searches of later turns, if they may search.
    pub(super) fn prepare_recall(&self, state: &State, policy: &Policy, records: &[Record]) {
        let ended = records.iter().rev().find(|record| record.event.is_terminal());
        let (Some(recollection), Some(ended)) = (&self.shared.ports.recollection, ended) else {
            return;
        };
        let is_live = state.core.live().is_some() && !state.handing_over;
        if is_live && recent::may_recall(&state.core.memory, &policy.memory) {
            recollection.prepare(&state.scope, state.core.id, ended.seq);
        }
    }

    pub(super) fn compress_with(&self, me: &ConversationRef, state: &mut State, policy: &Arc<Policy>, effort: Effort) {
        if state.compression.is_some() {
            // The running compression sees the memory as it was, so another one follows it.
            state.compress_again = true;
            return;
        }
        state.compress_again = false;
        let Some(book) = state.core.live() else { return };
        if state.handing_over || self.standing(state) != ServingState::Served {
            return;
        }
        let work = compressor::Work {
            shared: Arc::clone(&self.shared),
            scope: state.scope.clone(),
            conversation: state.core.id,
            user: book.header.user.clone(),
            api_key: book.last_api_key.clone(),
            memory: state.core.memory.clone(),
            policy: Arc::clone(policy),
            failures: state.compression_failures,
            effort,
        };
        state.compressions += 1;
        let (me, number) = (me.clone(), state.compressions);
        let task = async move {
            // A panic must send the message too, or the conversation would wait for it forever.
            let outcome = AssertUnwindSafe(compressor::compress(work)).catch_unwind().await;
            let outcome = outcome.unwrap_or(CompressionOutcome::Failed);
            let _ = me.cast(Msg::CompressionEnded { number, outcome });
        };
        let span = tracing::info_span!("compress", gen_ai.conversation.id = %state.core.id);
        state.compression = Some(AbortOnDropHandle::new(tokio::spawn(task.instrument(span))));
    }
}

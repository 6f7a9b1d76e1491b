//! What a turn retrieved, from its first step to its last.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Agent;
use super::knowledge::{Asked, TurnKnowledge};
use crate::domain::conversation::command::Step;
use crate::domain::ids::TurnId;

/// What was retrieved for one attempt of a turn, kept by the conversation from step to step; after a crash it is
/// retrieved again.
#[derive(Clone, Default)]
pub(in crate::actors) struct RetrievalSlot(Arc<Mutex<Option<Retrieval>>>);

/// What was retrieved for one attempt of a turn.
struct Retrieval {
    turn: TurnId,
    attempt: u32,
    knowledge: Arc<TurnKnowledge>,
    /// Whether the conversation was told about it.
    is_reported: bool,
}

impl RetrievalSlot {
    /// Returns what was retrieved for this attempt, if anything was yet.
    pub(super) fn get(&self, at: Step) -> Option<Arc<TurnKnowledge>> {
        let known = self.0.lock();
        let known = known.as_ref().filter(|known| known.is_of(at));
        known.map(|known| Arc::clone(&known.knowledge))
    }

    pub(super) fn put(&self, at: Step, knowledge: &Arc<TurnKnowledge>) {
        *self.0.lock() = Some(Retrieval {
            turn: at.turn,
            attempt: at.attempt,
            knowledge: Arc::clone(knowledge),
            is_reported: false,
        });
    }

    /// Returns whether the conversation has to be told now.
    pub(super) fn report(&self, at: Step) -> bool {
        let mut known = self.0.lock();
        let known = known.as_mut().filter(|known| known.is_of(at));
        known.is_some_and(|known| !std::mem::replace(&mut known.is_reported, true))
    }
}

impl Retrieval {
    fn is_of(&self, at: Step) -> bool {
        (self.turn, self.attempt) == (at.turn, at.attempt)
    }
}

impl Agent {
    /// Returns what was retrieved for the attempt; retrieves it before its first step.
    pub(super) async fn retrieved(&self, asked: Asked<'_>) -> Arc<TurnKnowledge> {
        let at = asked.at;
        if let Some(known) = self.retrieved.get(at) {
            return known;
        }
        let (mut knowledge, facts) = tokio::join!(self.retrieve(&asked), self.facts(&asked));
        knowledge.add_facts(facts);
        let knowledge = Arc::new(knowledge);
        self.retrieved.put(at, &knowledge);
        knowledge
    }
}

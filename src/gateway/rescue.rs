//! What happens when an answer dies after its first content.
//!
//! A turn's log can take text back: the stream ends with its error, the core resets the message and asks again, and what is
//! kept here sends that attempt elsewhere. On the endpoint text cannot be taken back: mode `live` ends with an explicit
//! error, mode `buffered` has released nothing yet and simply asks the next target.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::ports::{ModelError, ModelEvent, ModelStream};
use futures::{StreamExt, stream};
use moka::sync::Cache;

use super::route::TargetName;
use super::upstream::PieceStream;

/// Turns that are remembered; beyond it the oldest are forgotten, which costs a second try at a target that failed.
const MAX_TURNS: u64 = 10_000;
/// How long; a turn's attempts follow each other within seconds.
const MEMORY: Duration = Duration::from_secs(15 * 60);

/// A target that failed a turn.
pub(super) type Failed = (TargetName, FailureClass);

/// Targets that failed turns which go on. It is memory only: after a crash a turn may meet the same target again.
#[derive(Debug, Clone)]
pub(super) struct Avoided(Cache<TurnId, Arc<[Failed]>>);

impl Default for Avoided {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_TURNS).time_to_live(MEMORY).build())
    }
}

impl Avoided {
    /// Returns the targets that failed `turn`, in order.
    pub(super) fn of(&self, turn: Option<TurnId>) -> Arc<[Failed]> {
        turn.and_then(|turn| self.0.get(&turn)).unwrap_or_else(|| Arc::new([]))
    }

    /// Notes that `target` failed `turn`.
    pub(super) fn add(&self, turn: TurnId, target: TargetName, class: FailureClass) {
        let mut failed = self.of(Some(turn)).to_vec();
        failed.retain(|(known, _)| *known != target);
        failed.push((target, class));
        self.0.insert(turn, failed.into());
    }

    fn forget(&self, turn: TurnId) {
        self.0.invalidate(&turn);
    }

    /// Turns pieces into the core's events, and notes how they end.
    pub(super) fn watch(&self, pieces: PieceStream, turn: Option<TurnId>, target: TargetName) -> ModelStream {
        let avoided = self.clone();
        let noted = pieces.inspect(move |item| {
            let Some(turn) = turn else { return };
            match item {
                Err(error) => avoided.add(turn, target.clone(), error.class),
                Ok(piece)
                    if piece
                        .events
                        .iter()
                        .any(|event| matches!(event, ModelEvent::Finished(_))) =>
                {
                    avoided.forget(turn);
                }
                Ok(_) => {}
            }
        });
        noted
            .flat_map(|item| {
                let events: Vec<Result<ModelEvent, ModelError>> = match item {
                    Ok(piece) => piece.events.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                stream::iter(events)
            })
            .boxed()
    }
}

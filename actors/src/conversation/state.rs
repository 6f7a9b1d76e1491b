//! All that changes in a conversation's actor.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::Think;
use crate::connector::Gate;
use crate::domain::conversation::Conversation as Core;
use crate::domain::effects::Effect;
use crate::domain::ids::{CallId, Seq, TenantId, TurnId};
use crate::live::{LiveMessage, Tail};
use crate::shared::{Alive, Full, Shared};
use crate::spans::TurnSpans;
use crate::tenancy::TenantScope;

use super::message::Args;

/// All that changes.
pub struct State {
    pub(super) scope: TenantScope,
    pub(super) core: Core,
    pub(super) tail: Option<Arc<Tail>>,
    pub(super) live: Option<Live>,
    pub(super) agent: Option<(TurnId, ActorRef<Box<Think>>)>,
    pub(super) running: HashMap<Effect, Option<AbortOnDropHandle<()>>>,
    pub(super) gates: HashMap<CallId, Arc<Gate>>,
    pub(super) compression: Option<AbortOnDropHandle<()>>,
    pub(super) compress_again: bool,
    pub(super) compression_failures: u32,
    pub(super) snapshot_seq: Seq,
    /// Until then a call that was stopped on its way may still tell how it ended.
    pub(super) late: Option<Timestamp>,
    pub(super) idle: Option<AbortOnDropHandle<()>>,
    pub(super) generation: u64,
    pub(super) retiring: bool,
    pub(super) counted: Counted,
    pub(super) spans: Option<TurnSpans>,
    pub(super) _alive: Alive,
}

pub(super) struct Live {
    pub(super) message: Arc<LiveMessage>,
    pub(super) shown: bool,
    pub(super) prompt_tokens: u64,
}

/// Open turns of this copy, as far as admission counts them; given back when the copy ends, however it ends.
pub(super) struct Counted {
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: TenantId,
    pub(super) turns: usize,
    pub(super) queued: usize,
    pub(super) busy: bool,
}

impl State {
    /// A copy that knows nothing yet.
    pub(super) fn new(args: Args, shared: &Arc<Shared>) -> Self {
        let counted = Counted {
            shared: Arc::clone(shared),
            tenant: args.scope.tenant().clone(),
            turns: 0,
            queued: 0,
            busy: false,
        };
        Self {
            core: Core::new(args.id),
            scope: args.scope,
            tail: None,
            live: None,
            agent: None,
            running: HashMap::new(),
            gates: HashMap::new(),
            compression: None,
            compress_again: false,
            compression_failures: 0,
            snapshot_seq: 0,
            late: None,
            idle: None,
            generation: 0,
            retiring: false,
            counted,
            spans: None,
            _alive: Alive::new("conversation"),
        }
    }

    pub(super) fn count(&mut self) {
        let open = self.core.book.as_ref().map_or(0, |book| book.turns.len());
        let queued = open - usize::from(self.core.active().is_some());
        let busy = self.core.active().is_some_and(|turn| !turn.only_awaits_approval());
        self.counted.set(open, queued, busy);
    }
}

impl Counted {
    /// Takes a place for one more turn before it is stored, so that many at once do not pass the bound together.
    pub(super) fn admit(&mut self) -> Result<(), Full> {
        self.shared.admission.admit(&self.tenant, &self.shared.bounds)?;
        self.turns += 1;
        Ok(())
    }

    pub(super) fn set(&mut self, turns: usize, queued: usize, busy: bool) {
        self.shared.admission.count(&self.tenant, self.turns, turns);
        self.shared.admission.count_queued(self.queued, queued);
        self.shared.admission.count_busy(self.busy, busy);
        (self.turns, self.queued, self.busy) = (turns, queued, busy);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0, 0, false);
    }
}

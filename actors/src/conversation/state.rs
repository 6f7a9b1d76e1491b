//! All that changes in a conversation's actor.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use jiff::Timestamp;
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::Think;
use crate::connector::Gate;
use crate::domain::conversation::Conversation as Core;
use crate::domain::effects::Effect;
use crate::domain::ids::{CallId, ConversationId, Seq, TenantId, TurnId, UserId};
use crate::domain::policy::Policy;
use crate::domain::turn::Turn;
use crate::live::{LiveMessage, Tail};
use crate::shared::{Alive, Full, Shared, TurnCounts};
use crate::spans::TurnSpans;
use crate::tenancy::TenantScope;
use crate::user_turns::Place;

use super::message::Args;

/// All that changes.
pub struct State {
    pub(super) scope: TenantScope,
    pub(super) core: Core,
    pub(super) tail: Option<Arc<Tail>>,
    pub(super) live: Option<Live>,
    pub(super) agent: Option<(TurnId, ActorRef<Box<Think>>)>,
    pub(super) running: HashMap<Effect, Option<AbortOnDropHandle<()>>>,
    pub(super) gates: Gates,
    pub(super) compression: Option<AbortOnDropHandle<()>>,
    pub(super) compress_again: bool,
    pub(super) compression_failures: u32,
    pub(super) snapshot_seq: Seq,
    /// Until then a call that was stopped on its way may still tell how it ended.
    pub(super) late: Option<Timestamp>,
    pub(super) idle: Option<AbortOnDropHandle<()>>,
    pub(super) generation: u64,
    pub(super) retiring: bool,
    /// Whether a turn was worked on since the log was folded: the next one is probably near.
    pub(super) worked: bool,
    /// Whether somebody asked for something since then.
    pub(super) asked: bool,
    /// Whether its open turns wait because the tenant is left out. Nothing is begun meanwhile.
    pub(super) paused: bool,
    /// Whether what the running turn had under way was lost with an earlier copy, and the turn has to be recovered.
    pub(super) lost: bool,
    /// Whether the process hands over to another one: nothing is begun any more.
    pub(super) handing_over: bool,
    /// The policy by which effects were started last: what is under way when the tenant is left out ends by it.
    pub(super) policy: Option<Arc<Policy>>,
    /// Its log cannot be read: nothing is decided on what is known of it.
    pub(super) broken: bool,
    pub(super) counted: Counted,
    /// Open turns as they count against their user.
    pub(super) places: HashMap<TurnId, Place>,
    /// The place of a turn that is being stored.
    pub(super) taken: Option<Place>,
    pub(super) spans: Option<TurnSpans>,
    pub(super) _alive: Alive,
}

pub(super) struct Live {
    pub(super) message: Arc<LiveMessage>,
    pub(super) shown: bool,
    pub(super) prompt_tokens: u64,
}

/// Open turns of this copy, as far as admission counts them; given back when the copy ends, however it ends. An approval place
/// stays: the call waits on without the copy, and its successor corrects it.
pub(super) struct Counted {
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: TenantId,
    pub(super) turns: TurnCounts,
    /// Whether admission knows of a call that waits for a person; none: it is not known what it knows.
    pub(super) approval: Option<bool>,
}

/// The gates of the calls that are running. They go with the copy that knows them: whatever still waits behind one never leaves,
/// since the next copy takes the call up by its own rule.
#[derive(Default)]
pub(super) struct Gates(HashMap<CallId, Arc<Gate>>);

impl Deref for Gates {
    type Target = HashMap<CallId, Arc<Gate>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Gates {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Gates {
    fn drop(&mut self) {
        for gate in self.0.values() {
            gate.cancel();
        }
    }
}

impl State {
    /// A copy that knows nothing yet.
    pub(super) fn new(args: Args, shared: &Arc<Shared>) -> Self {
        let counted = Counted {
            shared: Arc::clone(shared),
            tenant: args.scope.tenant().clone(),
            turns: TurnCounts::default(),
            approval: None,
        };
        Self {
            core: Core::new(args.id),
            scope: args.scope,
            tail: None,
            live: None,
            agent: None,
            running: HashMap::new(),
            gates: Gates::default(),
            compression: None,
            compress_again: false,
            compression_failures: 0,
            snapshot_seq: 0,
            late: None,
            idle: None,
            generation: 0,
            retiring: false,
            worked: false,
            asked: false,
            paused: false,
            lost: false,
            handing_over: false,
            policy: None,
            broken: false,
            counted,
            places: HashMap::new(),
            taken: None,
            spans: None,
            _alive: Alive::new("conversation"),
        }
    }

    /// Forgets what was read of a log that is damaged.
    pub(super) fn give_up(&mut self) {
        self.broken = true;
        self.core = Core::new(self.core.id);
        self.spans = None;
        self.count();
    }

    pub(super) fn count(&mut self) {
        let Some(book) = &self.core.book else {
            self.places.clear();
            return self.counted.set(TurnCounts::default());
        };
        let (open, active) = (book.turns.len(), book.active());
        let idle = self.is_idly_paused();
        // What waits behind a turn that only waits for a person, or for its tenant's settings, waits with it.
        let parked = idle || active.is_some_and(Turn::only_awaits_approval);
        // A turn that waits for its provider keeps its working place, but nobody is kept up by it: a stop does not wait for it.
        let waiting = !parked && active.is_some_and(|turn| turn.waiting.is_some());
        let busy = active.is_some() && !parked && !waiting;
        self.worked |= busy || waiting;
        self.counted.set(TurnCounts {
            open,
            working: if parked { 0 } else { open },
            queued: open - usize::from(active.is_some()),
            busy,
            waiting,
        });
        let waits = active.is_some_and(Turn::awaits_approval);
        self.counted.set_approval(self.core.id, &book.header.user, waits);
        self.count_places();
    }

    /// Whether the tenant is left out and nothing is under way any more.
    fn is_idly_paused(&self) -> bool {
        let under_way = |effect: &Effect| matches!(effect, Effect::CallModel { .. } | Effect::CallTool { .. });
        self.paused && !self.running.keys().any(under_way)
    }

    /// Counts the open turns against their user, unless a person is waited for.
    fn count_places(&mut self) {
        let Some(book) = &self.core.book else {
            return self.places.clear();
        };
        if self.is_idly_paused() || book.active().is_some_and(|turn| turn.only_awaits_approval()) {
            return self.places.clear();
        }
        let open: HashSet<TurnId> = book.turns.iter().map(|turn| turn.id).collect();
        self.places.retain(|turn, _| open.contains(turn));
        let users = &self.counted.shared.user_turns;
        for turn in open {
            if self.places.contains_key(&turn) {
                continue;
            }
            let place = self.taken.take();
            let place = place.or_else(|| users.count(self.scope.tenant(), &book.header.user));
            self.places.extend(place.map(|place| (turn, place)));
        }
    }
}

impl Counted {
    /// Takes a place for one more turn before it is stored, so that many at once do not pass the bound together.
    pub(super) fn admit(&mut self) -> Result<(), Full> {
        self.shared.admission.admit(&self.tenant, &self.shared.bounds)?;
        self.turns.open += 1;
        self.turns.working += 1;
        Ok(())
    }

    /// Takes a place for a turn that is to wait for a person, before that is stored.
    pub(super) fn take_approval(&mut self, id: ConversationId, user: &UserId) -> bool {
        let (admission, bounds) = (&self.shared.admission, &self.shared.bounds);
        self.approval = None;
        admission.take_approval(id, (&self.tenant, user), bounds)
    }

    pub(super) fn set(&mut self, turns: TurnCounts) {
        self.shared.admission.count(&self.tenant, self.turns, turns);
        self.turns = turns;
    }

    fn set_approval(&mut self, id: ConversationId, user: &UserId, waits: bool) {
        if self.approval != Some(waits) {
            self.shared.admission.set_approval(id, (&self.tenant, user), waits);
            self.approval = Some(waits);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(TurnCounts::default());
    }
}

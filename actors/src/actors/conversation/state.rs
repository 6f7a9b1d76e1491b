//! Mutable state of a conversation's actor.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::task::AbortOnDropHandle;

use super::message::Args;
use super::oversized::OversizedPrompt;
use crate::actors::agent::RetrievalSlot;
use crate::actors::connector::Gate;
use crate::actors::conversations::Origin;
use crate::actors::shared::{Alive, Shared, TurnCounts, TurnLimit};
use crate::actors::spans::TurnSpans;
use crate::domain::conversation::Conversation as Core;
use crate::domain::conversation::command::{Command, Step};
use crate::domain::conversation::effects::Effect;
use crate::domain::conversation::turn::Turn;
use crate::domain::event::{Event, Record};
use crate::domain::ids::{CallId, ConversationId, Seq, TurnId, UserId};
use crate::domain::policy::Policy;
use crate::domain::usage::LostUsage;
use crate::fairness::user_turns::UserTurnPermit;
use crate::live::{Hub, ListedTurn, LiveMessage, OpenTurn, Tail};
use crate::tenancy::TenantScope;

/// Mutable state of the actor.
pub struct State {
    pub(super) scope: TenantScope,
    /// What was known of the log when the actor started.
    pub(super) origin: Origin,
    pub(super) core: Core,
    pub(super) tail: Option<Arc<Tail>>,
    /// Open turns that were accepted by this actor.
    pub(super) listed: HashMap<TurnId, ListedTurn>,
    pub(super) live: Option<Live>,
    pub(super) agent: Option<(Step, AbortOnDropHandle<()>)>,
    /// What the running turn retrieved.
    pub(super) retrieved: RetrievalSlot,
    pub(super) running: HashMap<Effect, Option<AbortOnDropHandle<()>>>,
    pub(super) gates: Gates,
    /// A title that is being written.
    pub(super) titling: Option<AbortOnDropHandle<()>>,
    pub(super) compression: Option<AbortOnDropHandle<()>>,
    /// Number of compressions started so far.
    pub(super) compressions: u64,
    pub(super) compress_again: bool,
    pub(super) compression_failures: u32,
    /// Step that waits until its prompt fits.
    pub(super) room: Option<OversizedPrompt>,
    /// Last step for which a compression was started: never twice for the same step.
    pub(super) compressed_for: Option<Step>,
    /// Turn whose prompt does not fit without the summary that waits for the next turn.
    pub(super) summary_needed_by: Option<TurnId>,
    pub(super) snapshot_seq: Seq,
    /// Until when a call that was stopped after it was sent may still report its outcome.
    pub(super) late: Option<Timestamp>,
    pub(super) idle: Option<AbortOnDropHandle<()>>,
    pub(super) generation: u64,
    pub(super) passivating: bool,
    /// Whether a turn was worked on since the replay: the next one is probably near.
    pub(super) worked: bool,
    /// Whether a request arrived since then.
    pub(super) asked: bool,
    /// Whether open turns wait because the tenant is left out. No work is started meanwhile.
    pub(super) paused: bool,
    /// Whether work in progress was lost with an earlier actor, so that the turn must be recovered.
    pub(super) lost: bool,
    /// Usage of a step that nobody will report, until it is recorded; belongs to this step only.
    pub(super) lost_usage: Option<(Step, Vec<LostUsage>)>,
    /// Whether the process is handing over: no work is started any more.
    pub(super) handing_over: bool,
    /// Policy of the last started effects: work that is running when the tenant is left out finishes under it.
    pub(super) policy: Option<Arc<Policy>>,
    /// Whether the log cannot be read: nothing is decided on what is known of it.
    pub(super) is_damaged: bool,
    pub(super) counted: CountedTurns,
    /// Permits of open turns that count against their user.
    pub(super) permits: HashMap<TurnId, UserTurnPermit>,
    /// Permit of a turn that is being stored.
    pub(super) pending_permit: Option<UserTurnPermit>,
    pub(super) spans: Option<TurnSpans>,
    pub(super) _alive: Alive,
}

pub(super) struct Live {
    pub(super) message: Arc<LiveMessage>,
    pub(super) shown: bool,
    pub(super) prompt_tokens: u64,
}

/// What admission counts for this actor's open turns; removed when the actor ends, however it ends. An approval permit
/// stays: the call keeps waiting without the actor, and the successor corrects it.
pub(super) struct CountedTurns {
    pub(super) shared: Arc<Shared>,
    pub(super) scope: TenantScope,
    pub(super) turns: TurnCounts,
    /// What admission knows about a call that waits for approval or for a page; `None`: unsure.
    pub(super) approval: Option<bool>,
}

/// Gates of the running calls, cancelled on drop: a call still waiting at its gate is never sent, because the successor
/// handles it by its own rules.
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
    /// Returns the state of a new actor, before the replay.
    pub(super) fn new(args: Args, shared: &Arc<Shared>) -> Self {
        let counted = CountedTurns {
            shared: Arc::clone(shared),
            scope: args.scope.clone(),
            turns: TurnCounts::default(),
            approval: None,
        };
        Self {
            core: Core::new(args.id),
            scope: args.scope,
            origin: args.origin,
            tail: None,
            listed: HashMap::new(),
            live: None,
            agent: None,
            retrieved: RetrievalSlot::default(),
            running: HashMap::new(),
            gates: Gates::default(),
            titling: None,
            compression: None,
            compressions: 0,
            compress_again: false,
            compression_failures: 0,
            room: None,
            compressed_for: None,
            summary_needed_by: None,
            snapshot_seq: 0,
            late: None,
            idle: None,
            generation: 0,
            passivating: false,
            worked: false,
            asked: false,
            paused: false,
            lost: false,
            lost_usage: None,
            handing_over: false,
            policy: None,
            is_damaged: false,
            counted,
            permits: HashMap::new(),
            pending_permit: None,
            spans: None,
            _alive: Alive::new("conversation"),
        }
    }

    /// Lists turns that were accepted with these records, and removes those that ended.
    pub(super) fn list_turns(&mut self, hub: &Hub, records: &[Record]) {
        for record in records {
            match (&record.event, record.turn) {
                (Event::ConversationErased { .. }, _) => self.listed.clear(),
                (event, Some(turn)) if event.is_terminal() => _ = self.listed.remove(&turn),
                (Event::TurnQueued { .. }, Some(turn)) => {
                    let Some(book) = &self.core.book else { continue };
                    let open = OpenTurn {
                        conversation: self.core.id,
                        user: book.header.user.clone(),
                        first_seq: record.seq,
                    };
                    self.listed.insert(turn, hub.list_turn(&self.scope, turn, open));
                }
                _ => {}
            }
        }
    }

    /// Returns what the current step used that nobody will report.
    pub(super) fn unreported(&self) -> &[LostUsage] {
        let present = self.core.active().map(Turn::present);
        let of_present = |(at, _): &&(Step, Vec<LostUsage>)| Some(*at) == present;
        self.lost_usage
            .as_ref()
            .filter(of_present)
            .map_or(&[], |(_, lost)| lost)
    }

    /// Stops a running compression. Its result, if it is on its way, is ignored.
    pub(super) fn abandon_compression(&mut self) {
        if self.compression.take().is_some() {
            self.compressions += 1;
        }
    }

    /// Returns the command that resumes interrupted work.
    pub(super) fn recovery(&self) -> Command {
        Command::Recover {
            lost: self.unreported().to_vec(),
        }
    }

    /// Discards what was read from a damaged log.
    pub(super) fn mark_damaged(&mut self) {
        self.is_damaged = true;
        self.core = Core::new(self.core.id);
        self.spans = None;
        self.count();
    }

    pub(super) fn count(&mut self) {
        let Some(book) = &self.core.book else {
            self.permits.clear();
            return self.counted.set(TurnCounts::default());
        };
        let (open, active) = (book.turns.len(), book.active());
        let idle = self.is_idly_paused();
        // Turns queued behind one that only waits for a person or a page, or for its tenant's settings, are parked with
        // it.
        let parked = idle || active.is_some_and(Turn::is_parked);
        // A turn that waits for its provider keeps its turn permit, but a shutdown does not wait for it.
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
        let waits = active.is_some_and(Turn::awaits_user);
        self.counted.set_approval(self.core.id, &book.header.user, waits);
        self.count_permits();
    }

    /// Whether the tenant is left out and no work is running any more.
    fn is_idly_paused(&self) -> bool {
        let under_way = |effect: &Effect| matches!(effect, Effect::CallModel { .. } | Effect::CallTool { .. });
        self.paused && !self.running.keys().any(under_way)
    }

    /// Counts the open turns against their user, unless they wait for a person or a page.
    fn count_permits(&mut self) {
        let Some(book) = &self.core.book else {
            return self.permits.clear();
        };
        if self.is_idly_paused() || book.active().is_some_and(|turn| turn.is_parked()) {
            return self.permits.clear();
        }
        let open: HashSet<TurnId> = book.turns.iter().map(|turn| turn.id).collect();
        self.permits.retain(|turn, _| open.contains(turn));
        let users = &self.counted.shared.user_turns;
        for turn in open {
            if self.permits.contains_key(&turn) {
                continue;
            }
            let permit = self.pending_permit.take();
            let permit = permit.or_else(|| users.count(self.scope.tenant(), &book.header.user));
            self.permits.extend(permit.map(|permit| (turn, permit)));
        }
    }
}

impl CountedTurns {
    /// Takes a permit for one more turn before it is stored, so that concurrent requests cannot exceed the limit
    /// together.
    pub(super) fn admit(&mut self) -> Result<(), TurnLimit> {
        self.shared.admission.admit(&self.scope, &self.shared.bounds)?;
        self.turns.open += 1;
        self.turns.working += 1;
        Ok(())
    }

    /// Takes a permit for a turn that is about to wait for approval or for a page, before that is stored.
    pub(super) fn acquire_approval(&mut self, id: ConversationId, user: &UserId) -> bool {
        let (admission, bounds) = (&self.shared.admission, &self.shared.bounds);
        self.approval = None;
        admission.acquire_approval(id, (&self.scope, user), bounds)
    }

    pub(super) fn set(&mut self, turns: TurnCounts) {
        self.shared.admission.count(&self.scope, self.turns, turns);
        self.turns = turns;
    }

    fn set_approval(&mut self, id: ConversationId, user: &UserId, waits: bool) {
        if self.approval != Some(waits) {
            self.shared.admission.set_approval(id, (&self.scope, user), waits);
            self.approval = Some(waits);
        }
    }
}

impl Drop for CountedTurns {
    fn drop(&mut self) {
        self.set(TurnCounts::default());
    }
}

//! Replaying a conversation from its log, and passivating it again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics::counter;
use ractor::ActorProcessingErr;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::effects::CALL_GRACE;
use super::{Conversation, ConversationRef, Msg, State, pause};
use crate::actors::conversations::{self, Directory, Origin};
use crate::actors::shared::until;
use crate::compute::{self, ComputeError};
use crate::domain::conversation::command::{Command, Step};
use crate::domain::conversation::effects::Effect;
use crate::domain::conversation::turn::Phase;
use crate::domain::conversation::{Conversation as Core, snapshot};
use crate::domain::event::{Event, Record};
use crate::domain::ids::{ConversationId, Seq, TenantId};
use crate::ports::{LogError, LostCall, LostPrompt, ServingState, Snapshot};

/// Records read per page while the log is replayed.
const PAGE: usize = 512;
/// Idle time of an actor that has not worked on a turn: enough for the request that started it to arrive, or for the
/// first turn of a conversation that was just created.
const SHORT_IDLE: Duration = Duration::from_secs(1);

/// Decodes a snapshot; on the compute pool when it is long.
async fn decoded(
    tenant: &TenantId,
    id: ConversationId,
    seq: Seq,
    bytes: Vec<u8>,
) -> Result<Option<(Core, Seq)>, ComputeError> {
    compute::run(Some(tenant), bytes.len(), move || snapshot::decode(id, seq, &bytes)).await
}

impl Conversation {
    /// Folds the log and resumes open turns, with the same functions as in normal operation.
    pub(super) async fn load(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        if state.origin == Origin::New {
            self.rest(me, state);
            return Ok(());
        }
        let log = &self.shared.ports.log;
        let id = state.core.id;
        let mut from: Seq = 1;
        let mut last_call = LastModelCall::default();
        let (mut gap, mut ends_erased) = (None, false);
        if let Some(Snapshot { seq, state: bytes, .. }) = log
            .snapshot(&state.scope, id)
            .await?
            .filter(|snapshot| snapshot.version == snapshot::VERSION)
            && let Some((core, window_from)) = decoded(state.scope.tenant(), id, seq, bytes).await?
        {
            state.core = core;
            state.snapshot_seq = seq;
            from = window_from;
        }
        loop {
            let page = log.read(&state.scope, id, from - 1, PAGE).await?;
            let Some(last) = page.last() else { break };
            gap = gap.or_else(|| gap_in(from, &page));
            from = last.seq + 1;
            ends_erased = matches!(last.event, Event::ConversationErased { .. });
            let full = page.len() == PAGE;
            page.iter().for_each(|record| last_call.note(record));
            let (cost, snapshot_seq) = (page.iter().map(Record::weight).sum(), state.snapshot_seq);
            let fold = move |core: &mut Core| {
                for record in &page {
                    if record.seq <= snapshot_seq {
                        snapshot::refill(core, record);
                    } else {
                        core.apply(record);
                    }
                }
            };
            self.with_core(state, cost, fold).await?;
            if !full {
                break;
            }
        }
        // An erased log has lost its beginning, up to its tombstone. Any other log is complete.
        if let Some(missing) = gap.filter(|_| !ends_erased) {
            return Err(LogError::Corrupt(format!("record {missing} is missing from the log")).into());
        }
        if let Some(tail) = self.shared.hub.existing(&state.scope, id) {
            tail.replayed(state.core.seq);
        }
        state.count();
        if state.counted.turns.open > 0 {
            counter!("copilotd_recoveries_total").increment(1);
            if let Some(turn) = state.core.active() {
                self.spans(&mut state.spans, &state.scope, turn, id);
            }
            self.find_lost_usage(state, last_call).await?;
            pause::fold(state);
            let policy = self.policy(state, &Command::RECOVER);
            match self.standing(state) {
                ServingState::Served => {
                    state.lost = false;
                    let recover = state.core.screen(&policy, state.recovery());
                    self.step_with_policy(me, state, &policy, recover, None, None).await?;
                }
                // Nothing is resumed until the tenant is served again: no claim is recorded, and no attempt is counted.
                ServingState::LeftOut => state.paused = true,
                // Nothing is resumed for a suspended tenant.
                ServingState::Suspended => self.suspend(me, state).await?,
            }
            // Approvals and client tools need no claim by this actor, only their timers.
            self.run_effects(me, state);
            state.count();
        }
        self.rest(me, state);
        Ok(())
    }

    /// Looks up what the running turn's current step used before this actor started: nobody will report it.
    async fn find_lost_usage(&self, state: &mut State, last_call: LastModelCall) -> Result<(), ActorProcessingErr> {
        let (Some(turn), Some(book)) = (state.core.active(), &state.core.book) else {
            return Ok(());
        };
        if turn.phase != Phase::Thinking {
            return Ok(());
        }
        let waits = turn
            .waiting_until
            .is_some_and(|until| until > self.shared.ports.clock.now());
        if last_call.prompt.is_none() && waits {
            // No model was called since the last report.
            return Ok(());
        }
        let at = turn.present();
        let policy = self.policy(state, &Command::RECOVER);
        let began_at = last_call.began_at.unwrap_or(turn.queued_at);
        let call = LostCall {
            scope: state.scope.clone(),
            route: policy.route.clone(),
            user: book.header.user.clone(),
            api_key: turn.api_key.clone(),
            copilot: policy.copilot.clone(),
            conversation: state.core.id,
            turn: turn.id,
            attempt: turn.attempt,
            step: turn.step,
            began_at,
            prompt: last_call
                .prompt
                .filter(|(step, _)| *step == at)
                .map(|(_, prompt)| prompt),
            target: last_call.target,
            is_settled: began_at >= self.shared.started_at,
            is_handed_over: turn.is_handed_over(),
        };
        match self.shared.ports.model.lost(call).await {
            Ok(lost) => state.lost_usage = Some((at, lost)),
            Err(error @ LogError::Unavailable(_)) => return Err(error.into()),
            // A wrong usage figure must not stop the conversation.
            Err(error) => {
                tracing::error!(
                    tenant = %state.scope.tenant(), conversation = %state.core.id, turn = %turn.id, %error,
                    "usage of a lost model call could not be read; the turn's recorded usage will be too low"
                );
            }
        }
        Ok(())
    }

    /// Starts the timer after which an idle conversation is passivated. One that worked on a turn stays for a while,
    /// for the next turn; one that was only created, renamed or rated goes after a moment, and at once if there are
    /// many, so that such requests do not fill the memory.
    pub(super) fn rest(&self, me: &ConversationRef, state: &mut State) {
        state.generation += 1;
        state.idle = None;
        self.save(state, self.shared.bounds.snapshot_every);
        if !self.may_passivate(state) {
            return;
        }
        let (me, generation) = (me.clone(), state.generation);
        let bounds = &self.shared.bounds;
        let alive = self.shared.directory.get().map_or(0, Directory::alive);
        let time = if alive > bounds.idle_conversations && state.asked {
            Duration::ZERO
        } else if state.worked {
            bounds.idle
        } else {
            bounds.idle.min(SHORT_IDLE)
        };
        // A late outcome must find the actor that knows its call.
        let late = state.late.map_or(Duration::ZERO, |at| {
            until(self.shared.ports.clock.now(), at) + CALL_GRACE
        });
        let time = time.max(late);
        state.idle = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = me.cast(Msg::Idle(generation));
        })));
    }

    pub(super) fn may_passivate(&self, state: &State) -> bool {
        let far = self
            .shared
            .ports
            .clock
            .now()
            .saturating_add(self.shared.bounds.far_approval)
            .unwrap_or(Timestamp::MAX);
        let patient = |effect: &Effect| matches!(effect, Effect::ExpireApproval { at, .. } if *at > far);
        state.compression.is_none() && state.titling.is_none() && state.running.keys().all(patient)
    }

    pub(super) fn passivate(&self, me: &ConversationRef, state: &mut State, generation: u64) {
        if generation != state.generation || !self.may_passivate(state) {
            return;
        }
        self.save(state, self.shared.bounds.snapshot_every / 2);
        state.passivating = true;
        let due = state.running.keys().filter_map(|effect| match effect {
            Effect::ExpireApproval { at, .. } => Some(*at),
            _ => None,
        });
        let wake_at = due.min();
        if let Some(directory) = self.shared.directory.get() {
            let key = (state.scope.clone(), state.core.id);
            directory.cast(conversations::Msg::Passivate {
                key,
                actor: me.get_id(),
                wake_at,
                // A turn that only waits for people or pages has nothing to resume.
                paused: state.paused && !state.core.active().is_some_and(|turn| turn.is_parked()),
                last_seq: state.core.seq,
            });
        }
    }

    /// Stores a snapshot in the background, if enough has happened since the last one.
    pub(super) fn save(&self, state: &mut State, every: u64) {
        let quiet = state.core.active().is_none_or(|turn| turn.is_parked());
        if !quiet || state.core.live().is_none() || state.core.seq < state.snapshot_seq + every.max(1) {
            return;
        }
        let (shared, scope, id) = (Arc::clone(&self.shared), state.scope.clone(), state.core.id);
        let (version, seq, core) = (snapshot::VERSION, state.core.seq, state.core.clone());
        state.snapshot_seq = seq;
        drop::<JoinHandle<()>>(tokio::spawn(async move {
            let cost = snapshot::weight(&core);
            let Ok(bytes) = compute::run(Some(scope.tenant()), cost, move || snapshot::encode(&core)).await else {
                return;
            };
            let snapshot = Snapshot {
                seq,
                version,
                state: bytes,
            };
            // Only a cache: the next replay starts further back.
            if let Err(error) = shared.ports.log.save_snapshot(&scope, id, &snapshot).await {
                tracing::debug!(%error, conversation = %id, "snapshot could not be stored; the next replay starts from an older one");
            }
        }));
    }
}

/// Returns the first sequence number missing from records that should begin with `from`.
fn gap_in(from: Seq, records: &[Record]) -> Option<Seq> {
    (from..)
        .zip(records)
        .find(|(seq, record)| record.seq != *seq)
        .map(|(seq, _)| seq)
}

/// What the log says about the last model call in progress.
#[derive(Default)]
struct LastModelCall {
    /// Start of the last turn's current attempt.
    began_at: Option<Timestamp>,
    /// Last prompt without an answer.
    prompt: Option<(Step, LostPrompt)>,
    /// Target of the attempt's last fallback.
    target: Option<String>,
}

impl LastModelCall {
    fn note(&mut self, record: &Record) {
        match (&record.event, record.turn) {
            (Event::TurnStarted { .. }, _) => {
                *self = Self {
                    began_at: Some(record.at),
                    ..Self::default()
                };
            }
            (
                Event::ContextAssembled {
                    prompt_tokens,
                    attempt,
                    step,
                    ..
                },
                Some(turn),
            ) => {
                let at = Step {
                    turn,
                    attempt: *attempt,
                    step: *step,
                };
                let prompt = LostPrompt {
                    at: record.at,
                    tokens: *prompt_tokens,
                };
                self.prompt = Some((at, prompt));
            }
            (Event::ModelFallback { to, .. }, _) => self.target = Some(to.clone()),
            // Its usage is known.
            (Event::MessageCompleted { .. } | Event::OutputRejected { .. } | Event::ModelFailed { .. }, _) => {
                self.prompt = None;
            }
            _ => {}
        }
    }
}

//! `Conversations`: the directory and supervisor of all conversations of this process.
//!
//! Invariant: the map holds at most one live actor per conversation, and a successor is spawned only after its
//! predecessor has ended. Nothing here awaits the store: a conversation folds its log in its own task. When the
//! directory itself dies the process ends, because every conversation depends on it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use jiff::Timestamp;
use metrics::counter;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, ActorStatus, RpcReplyPort, SupervisionEvent};
use tokio::time::Instant;

use super::conversation::{
    self, Accepted, Args, Conversation, ConversationRef, IncomingCommand, Principal, Refusal, Screening, StartedFlag,
};
use super::shared::{Shared, cause};
use crate::compute;
use crate::domain::conversation::command::Command;
use crate::domain::ids::{ConversationId, Seq, TenantId, TurnId};
use crate::guardrails::Guardrails;
use crate::jitter::jitter;
use crate::live::{Hub, OpenTurn, Tail};
use crate::ports::ServingState;
use crate::tenancy::TenantScope;

/// Identifies a conversation inside the process.
pub type Key = (TenantScope, ConversationId);

/// Pause before a conversation that died is restarted; doubles with each further death.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Upper bound of that pause.
const MAX_RESTART_PAUSE: Duration = Duration::from_secs(30);
/// A conversation that ran this long without dying starts counting from zero.
const STABLE_AFTER: Duration = Duration::from_secs(120);
/// Interval of checks whether all conversations have ended during a hand-over.
const HAND_OVER_POLL: Duration = Duration::from_millis(10);
/// Restarts in a row after which the conversation is left to the reconciler.
const MAX_RESTARTS: u32 = 8;

/// Messages of [`Conversations`].
#[derive(Debug)]
pub enum Msg {
    /// Returns the actor of a conversation, starting it if necessary.
    Get {
        /// The conversation.
        key: Key,
        /// Whether its log may have records.
        origin: Origin,
        /// Answered once an actor is in the map.
        reply: RpcReplyPort<ConversationRef>,
    },
    /// An idle actor asks to be passivated.
    Passivate {
        /// The conversation.
        key: Key,
        /// The actor that asks.
        actor: ActorId,
        /// When it must run again without a request.
        wake_at: Option<Timestamp>,
        /// Whether it must run again once its tenant is no longer left out.
        paused: bool,
        /// Sequence number of its last record.
        last_seq: Seq,
    },
    /// Restarts a conversation after its death.
    Restart {
        /// The conversation.
        key: Key,
    },
}

/// What is known of a conversation's log before its actor has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It may have records.
    Stored,
    /// Its id was made up for the command at hand, so it has none. A mistake is noticed: the first append would be
    /// refused.
    New,
}

/// Access to conversations for the rest of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Directory {
    live: Arc<DashMap<Key, ConversationRef>>,
    dormant: Arc<DashMap<Key, Dormant>>,
    closed: Arc<DashSet<TenantId>>,
    hub: Hub,
    actor: ActorRef<Msg>,
    shared: Weak<Shared>,
    guardrails: Guardrails,
    timeout: Duration,
}

/// When a conversation that was passivated with an open turn must run again.
#[derive(Debug, Clone, Copy)]
struct Dormant {
    /// At this time, if set.
    wake_at: Option<Timestamp>,
    /// Once its tenant is no longer left out.
    paused: bool,
    /// Once the log has a record beyond this one.
    last_seq: Seq,
}

impl Directory {
    /// Sends a command to a conversation. Retried once if the actor is being passivated or has died.
    pub async fn execute(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        principal: &Principal,
        command: Command,
    ) -> Result<Accepted, Refusal> {
        self.execute_from(Origin::Stored, scope, id, principal, command).await
    }

    /// Like [`Directory::execute`], for a command that creates the conversation under an id that was made up for it:
    /// there is no log to read.
    pub async fn create(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        principal: &Principal,
        command: Command,
    ) -> Result<Accepted, Refusal> {
        self.execute_from(Origin::New, scope, id, principal, command).await
    }

    async fn execute_from(
        &self,
        origin: Origin,
        scope: &TenantScope,
        id: ConversationId,
        principal: &Principal,
        command: Command,
    ) -> Result<Accepted, Refusal> {
        if command.weight() > compute::INLINE_COST || self.guardrails.looks_at_command(&command) {
            return self.execute_heavy(scope, id, principal, command).await;
        }
        self.call_with_retry(scope, id, origin, |reply, started| conversation::Msg::Execute {
            principal: principal.clone(),
            command: Box::new(IncomingCommand::Light(command.clone())),
            started,
            reply,
        })
        .await
    }

    /// Screens a command before its conversation decides on it: on the compute pool, and by detectors, neither of which
    /// a conversation can wait for. If the caller leaves meanwhile, nothing is sent.
    async fn execute_heavy(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        principal: &Principal,
        command: Command,
    ) -> Result<Accepted, Refusal> {
        let command = Arc::new(command);
        let Screening { policy, tool } = self
            .call_with_retry(scope, id, Origin::Stored, |reply, _| conversation::Msg::Screening {
                principal: principal.clone(),
                command: Arc::clone(&command),
                reply,
            })
            .await?;
        let command = Arc::unwrap_or_clone(command);
        let screened = self.guardrails.screen(scope, command, &policy, tool).await;
        let screened = screened.map_err(|error| {
            tracing::warn!(tenant = %scope.tenant(), conversation = %id, %error, "request could not be checked against the guardrail rules; refusing it, nothing was stored");
            Refusal::NotStored
        })?;
        self.call_with_retry(scope, id, Origin::Stored, |reply, started| conversation::Msg::Execute {
            principal: principal.clone(),
            command: Box::new(IncomingCommand::ScreenedCommand(screened.clone())),
            started,
            reply,
        })
        .await
    }

    /// Sends a message, and retries once if the actor was being passivated or died. An actor that died after it started
    /// on the request may have stored it; one that died before, for example because the store cannot be read, has not.
    async fn call_with_retry<T: Send + 'static>(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        origin: Origin,
        make: impl Fn(RpcReplyPort<Result<T, Refusal>>, StartedFlag) -> conversation::Msg + Copy,
    ) -> Result<T, Refusal> {
        let mut is_unknown = false;
        // The first attempt may have stored records.
        for (again, origin) in [(false, origin), (true, Origin::Stored)] {
            let started = StartedFlag::default();
            let make = |reply| make(reply, started.clone());
            match self.call(scope, id, again, origin, make).await {
                // This actor stored nothing of it.
                Some(Err(Refusal::Gone)) => {}
                None => is_unknown |= started.is_marked(),
                Some(Err(Refusal::NotStored)) if is_unknown => return Err(Refusal::Unavailable),
                Some(answer) => return answer,
            }
        }
        Err(if is_unknown {
            Refusal::Unavailable
        } else if self.is_handing_over() {
            Refusal::HandingOver
        } else {
            Refusal::NotStored
        })
    }

    /// Whether the process is handing over to another one.
    pub fn is_handing_over(&self) -> bool {
        let shared = self.shared.upgrade();
        shared.is_none_or(|shared| shared.handing_over.load(Ordering::Acquire))
    }

    /// Returns how many turns are queued before this one. Starts no actor.
    pub async fn position(&self, scope: &TenantScope, id: ConversationId, turn: TurnId) -> Option<usize> {
        let conversation = self.live.get(&(scope.clone(), id))?.clone();
        let make = |reply| conversation::Msg::Position { turn, reply };
        match conversation.call(make, Some(self.timeout)).await {
            Ok(CallResult::Success(position)) => position,
            _ => None,
        }
    }

    /// Returns the end of a conversation's log, to watch it. Whether the conversation exists is not checked; starts no
    /// actor.
    pub fn watch(&self, scope: &TenantScope, id: ConversationId) -> Arc<Tail> {
        self.hub.tail(scope, id)
    }

    /// Returns an open turn if this process knows of it; the log tells of all others.
    pub fn open_turn(&self, scope: &TenantScope, id: TurnId) -> Option<OpenTurn> {
        self.hub.open_turn(scope, id)
    }

    /// Returns the number of conversations that are watched or at work.
    pub fn watched(&self) -> usize {
        self.hub.len()
    }

    /// Starts a conversation if it is not running, so that it resumes its open turns. Returns whether it runs.
    pub async fn wake(&self, scope: &TenantScope, id: ConversationId) -> bool {
        self.get((scope.clone(), id), Origin::Stored).await.is_some()
    }

    /// Notifies the conversations of tenants whose standing has changed. Those not in memory find out when they are
    /// started.
    pub fn notify_standing_changed(&self, has_changed: impl Fn(&TenantId) -> bool) {
        for entry in self.live.iter().filter(|entry| has_changed(entry.key().0.tenant())) {
            // Ignored: an actor that is ending has no work in progress.
            let _ = entry.value().cast(conversation::Msg::StandingChanged);
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.standing_changed.notify_waiters();
        }
    }

    /// Cancels the open turns of a suspended tenant's conversation.
    pub async fn cancel_suspended(&self, scope: &TenantScope, id: ConversationId) {
        if let Some(conversation) = self.get((scope.clone(), id), Origin::Stored).await {
            let _ = conversation.cast(conversation::Msg::StandingChanged);
        }
    }

    /// Starts no more conversations of the tenant: callers get "unavailable". Running ones continue.
    pub fn close_tenant(&self, tenant: &TenantId) {
        self.closed.insert(tenant.clone());
        self.dormant.retain(|key, _| key.0.tenant() != tenant);
    }

    /// Allows conversations of the tenant to start again.
    pub fn reopen_tenant(&self, tenant: &TenantId) {
        self.closed.remove(tenant);
    }

    /// Stops the conversations of a closed tenant, each after the messages it has already received. Returns how many
    /// are still alive after `time`.
    pub async fn stop_tenant(&self, tenant: &TenantId, time: Duration) -> usize {
        let of_tenant = |live: &DashMap<Key, ConversationRef>| {
            let entries = live.iter().filter(|entry| entry.key().0.tenant() == tenant);
            entries.map(|entry| entry.value().clone()).collect::<Vec<_>>()
        };
        let deadline = Instant::now() + time;
        for conversation in of_tenant(&self.live) {
            // Answered after all earlier messages: by then the end of its open turns is stored, or cannot be.
            let turn = TurnId::new(uuid::Uuid::nil());
            let make = |reply| conversation::Msg::Position { turn, reply };
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = conversation.call(make, Some(left)).await;
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = conversation
                .stop_and_wait(Some("tenant deleted".into()), Some(left))
                .await;
        }
        of_tenant(&self.live)
            .iter()
            .filter(|conversation| conversation.get_status() < ActorStatus::Stopped)
            .count()
    }

    /// Whether the conversation is running, or dormant until a known time or until its tenant is no longer left out. A
    /// dormant one that has not seen all of the `stored` records does not count.
    pub fn is_running_or_dormant(&self, key: &Key, now: Timestamp, standing: ServingState, stored: Seq) -> bool {
        let sleeps = |dormant: &Dormant| {
            let is_due = dormant.wake_at.is_some_and(|wake_at| wake_at <= now);
            !is_due && (!dormant.paused || standing == ServingState::LeftOut) && stored <= dormant.last_seq
        };
        self.live.contains_key(key) || self.dormant.get(key).is_some_and(|dormant| sleeps(&dormant))
    }

    /// Tells a running conversation the last stored sequence number, so that it notices records it has missed.
    pub fn notify_stored(&self, key: &Key, stored: Seq) {
        if let Some(conversation) = self.live.get(key) {
            // Ignored: the successor of an actor that is ending reads the log.
            let _ = conversation.cast(conversation::Msg::Stored(stored));
        }
    }

    /// Stops every conversation cleanly, so that another process can continue at once. No new work starts from here on.
    /// Calls to external systems that are running may finish until `calls`. Returns when all conversations have ended,
    /// or at `end`.
    pub async fn hand_over(&self, calls: Instant, end: Instant) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.handing_over.store(true, Ordering::Release);
        let all_ended = async {
            let mut notified = HashSet::new();
            loop {
                // Repeated: a conversation may have been spawned just before.
                for entry in self.live.iter() {
                    if notified.insert(entry.value().get_id()) {
                        let _ = entry.value().cast(conversation::Msg::HandOver(calls));
                    }
                }
                if self.live.is_empty() {
                    return;
                }
                tokio::time::sleep(HAND_OVER_POLL).await;
            }
        };
        if tokio::time::timeout_at(end, all_ended).await.is_err() {
            tracing::warn!(
                conversations = self.live.len(),
                "hand-over timed out; the remaining conversations will be recovered as after a crash"
            );
        }
    }

    /// Returns the number of running conversations.
    pub fn alive(&self) -> usize {
        self.live.len()
    }

    /// Stops every conversation and leaves open turns to the next process. Returns when all have ended or `time` is
    /// over.
    pub async fn stop(&self, time: Duration) {
        let _ = self
            .actor
            .stop_children_and_wait(Some("shutting down".into()), Some(time))
            .await;
        let _ = self.actor.stop_and_wait(Some("shutting down".into()), Some(time)).await;
    }

    /// Kills everything at once, as a crash does; the directory's task ends a little later.
    #[cfg(feature = "fakes")]
    pub fn kill(&self) {
        self.actor.kill();
    }

    pub(crate) fn cast(&self, msg: Msg) {
        // Ignored: the directory ends last, so nobody would read the message.
        let _ = self.actor.cast(msg);
    }

    /// Makes one call. `None`: no actor could be reached.
    async fn call<T: Send + 'static>(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        again: bool,
        origin: Origin,
        make: impl Fn(RpcReplyPort<Result<T, Refusal>>) -> conversation::Msg,
    ) -> Option<Result<T, Refusal>> {
        let key = (scope.clone(), id);
        let known = if again || origin == Origin::New {
            None
        } else {
            self.live.get(&key).map(|entry| entry.clone())
        };
        let conversation = match known {
            Some(conversation) => conversation,
            None => self.get(key, origin).await?,
        };
        match conversation.call(make, Some(self.timeout)).await {
            Ok(CallResult::Success(reply)) => Some(reply),
            // It may or may not have been stored.
            Ok(CallResult::Timeout) => Some(Err(Refusal::Unavailable)),
            Ok(CallResult::SenderError) | Err(_) => None,
        }
    }

    async fn get(&self, key: Key, origin: Origin) -> Option<ConversationRef> {
        let make = |reply| Msg::Get { key, origin, reply };
        match self.actor.call(make, Some(self.timeout)).await {
            Ok(CallResult::Success(conversation)) => Some(conversation),
            _ => None,
        }
    }
}

/// Actor of the directory; see the module documentation.
pub struct Conversations {
    shared: Arc<Shared>,
    live: Arc<DashMap<Key, ConversationRef>>,
    dormant: Arc<DashMap<Key, Dormant>>,
    /// Tenants whose conversations must not start.
    closed: Arc<DashSet<TenantId>>,
}

/// Mutable state besides the map.
#[derive(Default)]
pub struct State {
    keys: HashMap<ActorId, Key>,
    /// Conversations whose actor is ending, and the callers waiting for the successors.
    ending: HashMap<Key, Vec<RpcReplyPort<ConversationRef>>>,
    deaths: HashMap<Key, Deaths>,
}

struct Deaths {
    count: u32,
    last: Instant,
}

impl Conversations {
    /// Starts the directory. The returned task ends when the directory does.
    pub async fn start(shared: Arc<Shared>) -> Result<(Directory, tokio::task::JoinHandle<()>), ractor::SpawnErr> {
        let live = Arc::new(DashMap::new());
        let dormant = Arc::new(DashMap::new());
        let closed = Arc::new(DashSet::new());
        let timeout = shared.bounds.call;
        let actor = Self {
            shared: Arc::clone(&shared),
            live: Arc::clone(&live),
            dormant: Arc::clone(&dormant),
            closed: Arc::clone(&closed),
        };
        let (actor, task) = Actor::spawn(None, actor, ()).await?;
        let directory = Directory {
            live,
            dormant,
            closed,
            hub: shared.hub.clone(),
            actor,
            shared: Arc::downgrade(&shared),
            guardrails: shared.guardrails.clone(),
            timeout,
        };
        // Set once: a process has one directory.
        let _ = shared.directory.set(directory.clone());
        Ok((directory, task))
    }

    async fn get(
        &self,
        me: &ActorRef<Msg>,
        state: &mut State,
        (key, origin): (Key, Origin),
        reply: RpcReplyPort<ConversationRef>,
    ) -> Result<(), ActorProcessingErr> {
        if self.closed.contains(key.0.tenant()) || self.is_handing_over() {
            // Dropping `reply` tells the caller that nothing could be reached.
            return Ok(());
        }
        if let Some(waiting) = state.ending.get_mut(&key) {
            waiting.push(reply);
            return Ok(());
        }
        let known = self.live.get(&key).map(|entry| entry.clone());
        let conversation = match known {
            Some(dying) if dying.get_status() > ActorStatus::Running => {
                // Its supervision event is on the way and will start the successor.
                state.ending.entry(key).or_default().push(reply);
                return Ok(());
            }
            Some(conversation) => conversation,
            None => self.spawn(me, state, key, origin).await?,
        };
        let _ = reply.send(conversation);
        Ok(())
    }

    fn is_handing_over(&self) -> bool {
        self.shared.handing_over.load(Ordering::Acquire)
    }

    async fn spawn(
        &self,
        me: &ActorRef<Msg>,
        state: &mut State,
        key: Key,
        origin: Origin,
    ) -> Result<ConversationRef, ActorProcessingErr> {
        let args = Args {
            scope: key.0.clone(),
            id: key.1,
            origin,
        };
        let conversation = Conversation {
            shared: Arc::clone(&self.shared),
        };
        let (conversation, _) = Actor::spawn_linked(None, conversation, args, me.get_cell()).await?;
        state.keys.insert(conversation.get_id(), key.clone());
        self.dormant.remove(&key);
        self.live.insert(key, conversation.clone());
        Ok(conversation)
    }

    fn passivate(&self, state: &mut State, key: Key, actor: ActorId, dormant: Dormant) {
        let Some((_, conversation)) = self.live.remove_if(&key, |_, live| live.get_id() == actor) else {
            return;
        };
        if (dormant.paused || dormant.wake_at.is_some()) && !self.closed.contains(key.0.tenant()) {
            self.dormant.insert(key.clone(), dormant);
        }
        state.ending.insert(key, Vec::new());
        counter!("copilotd_passivations_total").increment(1);
        // It answers everything still in its mailbox with `Gone`: those callers come here next and wait.
        conversation.stop(Some("idle".into()));
    }

    /// Handles the end of an actor; waiting callers get its successor.
    async fn ended(
        &self,
        me: &ActorRef<Msg>,
        state: &mut State,
        actor: ActorId,
        failed: bool,
    ) -> Result<(), ActorProcessingErr> {
        let Some(key) = state.keys.remove(&actor) else {
            return Ok(());
        };
        self.live.remove_if(&key, |_, live| live.get_id() == actor);
        let waiting = state.ending.remove(&key).unwrap_or_default();
        if self.is_handing_over() {
            return Ok(());
        }
        if self.closed.contains(key.0.tenant()) {
            state.deaths.remove(&key);
        } else if !waiting.is_empty() {
            let conversation = self.spawn(me, state, key, Origin::Stored).await?;
            for reply in waiting {
                let _ = reply.send(conversation.clone());
            }
        } else if failed {
            self.restart_later(me, state, key);
        } else {
            state.deaths.remove(&key);
        }
        Ok(())
    }

    /// Restarts a conversation that died with open turns, after a jittered pause and a bounded number of times.
    fn restart_later(&self, me: &ActorRef<Msg>, state: &mut State, key: Key) {
        let now = Instant::now();
        let deaths = match state.deaths.entry(key.clone()) {
            Entry::Occupied(entry) => {
                let deaths = entry.into_mut();
                if now.duration_since(deaths.last) > STABLE_AFTER {
                    deaths.count = 0;
                }
                deaths
            }
            Entry::Vacant(entry) => entry.insert(Deaths { count: 0, last: now }),
        };
        deaths.count += 1;
        deaths.last = now;
        if deaths.count > MAX_RESTARTS {
            state.deaths.remove(&key);
            return;
        }
        let pause = (RESTART_PAUSE * 2_u32.pow(deaths.count - 1)).min(MAX_RESTART_PAUSE);
        let (me, pause) = (me.clone(), pause + jitter(pause));
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = me.cast(Msg::Restart { key });
        });
    }
}

impl Actor for Conversations {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State::default())
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Get { key, origin, reply } => self.get(&me, state, (key, origin), reply).await?,
            Msg::Passivate {
                key,
                actor,
                wake_at,
                paused,
                last_seq,
            } => {
                let dormant = Dormant {
                    wake_at,
                    paused,
                    last_seq,
                };
                self.passivate(state, key, actor, dormant);
            }
            Msg::Restart { key } => {
                let is_closed = self.closed.contains(key.0.tenant()) || self.is_handing_over();
                if !is_closed && !self.live.contains_key(&key) && !state.ending.contains_key(&key) {
                    self.spawn(&me, state, key, Origin::Stored).await?;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                counter!("copilotd_actor_deaths_total", "actor" => "conversation").increment(1);
                let key = state.keys.get(&who.get_id());
                tracing::warn!(
                    tenant = key.map(|key| tracing::field::display(key.0.tenant())),
                    conversation = key.map(|key| tracing::field::display(key.1)),
                    error = cause(&error),
                    "conversation actor died; it will be restarted from its log"
                );
                self.ended(&me, state, who.get_id(), true).await?;
            }
            SupervisionEvent::ActorTerminated(who, _, _) => self.ended(&me, state, who.get_id(), false).await?,
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

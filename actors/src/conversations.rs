//! `Conversations`: the directory and supervisor of all conversations of this process.
//!
//! Invariant: at most one live copy of a conversation stands in the map, and a successor is spawned only after its
//! predecessor has ended. Nothing here awaits storage: a conversation folds its log in its own task. When the directory
//! itself dies the process ends, because every conversation hangs on it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;
use metrics::counter;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, ActorStatus, RpcReplyPort, SupervisionEvent};
use tokio::time::Instant;

use crate::compute;
use crate::conversation::{self, Accepted, Args, Asked, Asker, Conversation, ConversationRef, Refusal, Screening};
use crate::domain::command::Command;
use crate::domain::ids::{ConversationId, Seq, TenantId, TurnId};
use crate::ports::Standing;
use crate::shared::{Shared, cause, jitter};
use crate::tenancy::TenantScope;

/// Names a conversation inside the process.
pub type Key = (TenantScope, ConversationId);

/// Pause before a conversation that died is started again; doubles with each further death.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A conversation that lived so long starts with a clean record.
const FORGIVEN_AFTER: Duration = Duration::from_secs(120);
/// Pause between two looks whether all conversations have ended at a hand-over.
const HAND_OVER_LOOK: Duration = Duration::from_millis(10);
/// Restarts in a row after which it is left to the reconciler.
const RESTARTS: u32 = 8;

/// What the directory is asked and told.
#[derive(Debug)]
pub enum Msg {
    /// Somebody needs this conversation.
    Get {
        /// Which one.
        key: Key,
        /// Answered when a copy stands in the map.
        reply: RpcReplyPort<ConversationRef>,
    },
    /// An idle copy asks to be let go.
    Retire {
        /// Which one.
        key: Key,
        /// The copy.
        actor: ActorId,
        /// When it has to be back by itself.
        wake_at: Option<Timestamp>,
        /// Whether it has to be back once its tenant is not left out any more.
        paused: bool,
        /// The last record that it knew.
        last_seq: Seq,
    },
    /// Start it again after its death.
    Restart {
        /// Which one.
        key: Key,
    },
}

/// The way to conversations, for everybody outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Directory {
    live: Arc<DashMap<Key, ConversationRef>>,
    dormant: Arc<DashMap<Key, Dormant>>,
    actor: ActorRef<Msg>,
    shared: Weak<Shared>,
    timeout: Duration,
}

/// What brings a conversation back that was let go with an open turn.
#[derive(Debug, Clone, Copy)]
struct Dormant {
    /// This time, if any.
    wake_at: Option<Timestamp>,
    /// The end of its tenant's being left out.
    paused: bool,
    /// Any record beyond this one, which it has not seen.
    last_seq: Seq,
}

impl Directory {
    /// Asks a conversation for a change. A copy that is just being let go, or died, is asked for once more.
    pub async fn ask(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        asker: &Asker,
        command: Command,
    ) -> Result<Accepted, Refusal> {
        if command.weight() > compute::INLINE_COST {
            return self.ask_heavy(scope, id, asker, command).await;
        }
        self.ask_again(scope, id, |reply| conversation::Msg::Ask {
            asker: asker.clone(),
            command: Box::new(Asked::Light(command.clone())),
            reply,
        })
        .await
    }

    /// Screens a command on the compute pool before its conversation decides on it. Whoever leaves meanwhile has asked for nothing.
    async fn ask_heavy(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        asker: &Asker,
        command: Command,
    ) -> Result<Accepted, Refusal> {
        let (cost, command) = (command.weight(), Arc::new(command));
        let Screening { policy, tool } = self
            .ask_again(scope, id, |reply| conversation::Msg::Screening {
                asker: asker.clone(),
                command: Arc::clone(&command),
                reply,
            })
            .await?;
        let screen = move || Arc::unwrap_or_clone(command).screen(&policy, tool.as_deref());
        let screened = compute::run(Some(scope.tenant()), cost, screen).await;
        let screened = screened.map_err(|error| {
            tracing::warn!(conversation = %id, %error, "a request could not be checked; it is refused");
            Refusal::Unavailable
        })?;
        self.ask_again(scope, id, |reply| conversation::Msg::Ask {
            asker: asker.clone(),
            command: Box::new(Asked::Screened(screened.clone())),
            reply,
        })
        .await
    }

    /// Asks, and asks once more when the copy was just being let go, or died.
    async fn ask_again<T: Send + 'static>(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        make: impl Fn(RpcReplyPort<Result<T, Refusal>>) -> conversation::Msg + Copy,
    ) -> Result<T, Refusal> {
        match self.call(scope, id, false, make).await {
            Some(Err(Refusal::Gone)) | None => {}
            Some(answer) => return answer,
        }
        match self.call(scope, id, true, make).await {
            Some(Err(Refusal::Gone)) | None if self.is_handing_over() => Err(Refusal::HandingOver),
            Some(Err(Refusal::Gone)) | None => Err(Refusal::Unavailable),
            Some(answer) => answer,
        }
    }

    /// Whether the process hands over to another one.
    pub fn is_handing_over(&self) -> bool {
        let shared = self.shared.upgrade();
        shared.is_none_or(|shared| shared.handing_over.load(Ordering::Acquire))
    }

    /// Asks how many turns stand before this one. Does not wake anything.
    pub async fn position(&self, scope: &TenantScope, id: ConversationId, turn: TurnId) -> Option<usize> {
        let conversation = self.live.get(&(scope.clone(), id))?.clone();
        let make = |reply| conversation::Msg::Position { turn, reply };
        match conversation.call(make, Some(self.timeout)).await {
            Ok(CallResult::Success(position)) => position,
            _ => None,
        }
    }

    /// Makes sure that a conversation is alive, so that it takes up what is open.
    pub async fn wake(&self, scope: &TenantScope, id: ConversationId) -> bool {
        self.get((scope.clone(), id)).await.is_some()
    }

    /// Tells the conversations of tenants whose standing has changed. Those that do not live find out when they are woken.
    pub fn tell_standing(&self, has_changed: impl Fn(&TenantId) -> bool) {
        for entry in self.live.iter().filter(|entry| has_changed(entry.key().0.tenant())) {
            // One that is ending has nothing under way.
            let _ = entry.value().cast(conversation::Msg::StandingChanged);
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.standing_changed.notify_waiters();
        }
    }

    /// Has the open turns of a suspended tenant's conversation ended.
    pub async fn end_suspended(&self, scope: &TenantScope, id: ConversationId) {
        if let Some(conversation) = self.get((scope.clone(), id)).await {
            let _ = conversation.cast(conversation::Msg::StandingChanged);
        }
    }

    /// Whether a copy lives, or sleeps until a known time, or until its tenant is not left out any more.
    /// One that does not know all of the `stored` records sleeps no longer.
    pub fn is_cared_for(&self, key: &Key, now: Timestamp, standing: Standing, stored: Seq) -> bool {
        let sleeps = |dormant: &Dormant| {
            let is_due = dormant.wake_at.is_some_and(|wake_at| wake_at <= now);
            !is_due && (!dormant.paused || standing == Standing::LeftOut) && stored <= dormant.last_seq
        };
        self.live.contains_key(key) || self.dormant.get(key).is_some_and(|dormant| sleeps(&dormant))
    }

    /// Tells a copy that lives how far the store's records go, so that it finds out if it has missed any.
    pub fn tell_stored(&self, key: &Key, stored: Seq) {
        if let Some(conversation) = self.live.get(key) {
            // One that is ending is followed by one that reads the log.
            let _ = conversation.cast(conversation::Msg::Stored(stored));
        }
    }

    /// Ends every conversation in an orderly way, for another process to go on at once. Nothing is begun from here on. Calls to
    /// external systems that are under way may end until `calls`; answers when all conversations have ended, or at `end`.
    pub async fn hand_over(&self, calls: Instant, end: Instant) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.handing_over.store(true, Ordering::Release);
        let all_ended = async {
            let mut told = HashSet::new();
            loop {
                // Looked at again each time: one may have been spawned just before.
                for entry in self.live.iter() {
                    if told.insert(entry.value().get_id()) {
                        let _ = entry.value().cast(conversation::Msg::HandOver(calls));
                    }
                }
                if self.live.is_empty() {
                    return;
                }
                tokio::time::sleep(HAND_OVER_LOOK).await;
            }
        };
        if tokio::time::timeout_at(end, all_ended).await.is_err() {
            tracing::warn!(
                conversations = self.live.len(),
                "conversations were not handed over in time; they are recovered as after a crash"
            );
        }
    }

    /// Number of conversations that live.
    pub fn alive(&self) -> usize {
        self.live.len()
    }

    /// Ends every conversation; what is open is left to the next process. Answers when all have ended or `time` is over.
    pub async fn stop(&self, time: Duration) {
        let _ = self
            .actor
            .stop_children_and_wait(Some("shutting down".into()), Some(time))
            .await;
        let _ = self.actor.stop_and_wait(Some("shutting down".into()), Some(time)).await;
    }

    /// Ends everything where it stands, as a crash does; the directory's task ends a little later.
    #[cfg(feature = "fakes")]
    pub fn kill(&self) {
        self.actor.kill();
    }

    pub(crate) fn cast(&self, msg: Msg) {
        // The directory ends last of all; a message behind its end has no reader any more.
        let _ = self.actor.cast(msg);
    }

    /// One call. None: nobody could be reached.
    async fn call<T: Send + 'static>(
        &self,
        scope: &TenantScope,
        id: ConversationId,
        again: bool,
        make: impl Fn(RpcReplyPort<Result<T, Refusal>>) -> conversation::Msg,
    ) -> Option<Result<T, Refusal>> {
        let key = (scope.clone(), id);
        let known = if again {
            None
        } else {
            self.live.get(&key).map(|entry| entry.clone())
        };
        let conversation = match known {
            Some(conversation) => conversation,
            None => self.get(key).await?,
        };
        match conversation.call(make, Some(self.timeout)).await {
            Ok(CallResult::Success(reply)) => Some(reply),
            // What it was asked may be stored or not: saying so is all that is left.
            Ok(CallResult::Timeout) => Some(Err(Refusal::Unavailable)),
            Ok(CallResult::SenderError) | Err(_) => None,
        }
    }

    async fn get(&self, key: Key) -> Option<ConversationRef> {
        let make = |reply| Msg::Get { key, reply };
        match self.actor.call(make, Some(self.timeout)).await {
            Ok(CallResult::Success(conversation)) => Some(conversation),
            _ => None,
        }
    }
}

/// The actor; see the module.
pub struct Conversations {
    shared: Arc<Shared>,
    live: Arc<DashMap<Key, ConversationRef>>,
    dormant: Arc<DashMap<Key, Dormant>>,
}

/// All that changes besides the map.
#[derive(Default)]
pub struct State {
    keys: HashMap<ActorId, Key>,
    /// Copies that are ending, and who waits for their successors.
    ending: HashMap<Key, Vec<RpcReplyPort<ConversationRef>>>,
    deaths: HashMap<Key, Deaths>,
}

struct Deaths {
    count: u32,
    last: Instant,
}

impl Conversations {
    /// Starts the directory. The handle of its task ends when it does.
    pub async fn start(shared: Arc<Shared>) -> Result<(Directory, tokio::task::JoinHandle<()>), ractor::SpawnErr> {
        let live = Arc::new(DashMap::new());
        let dormant = Arc::new(DashMap::new());
        let timeout = shared.bounds.call;
        let actor = Self {
            shared: Arc::clone(&shared),
            live: Arc::clone(&live),
            dormant: Arc::clone(&dormant),
        };
        let (actor, task) = Actor::spawn(None, actor, ()).await?;
        let directory = Directory {
            live,
            dormant,
            actor,
            shared: Arc::downgrade(&shared),
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
        key: Key,
        reply: RpcReplyPort<ConversationRef>,
    ) -> Result<(), ActorProcessingErr> {
        if self.is_handing_over() {
            // Whoever asked finds out by the end of the reply's channel.
            return Ok(());
        }
        if let Some(waiting) = state.ending.get_mut(&key) {
            waiting.push(reply);
            return Ok(());
        }
        let known = self.live.get(&key).map(|entry| entry.clone());
        let conversation = match known {
            Some(dying) if dying.get_status() > ActorStatus::Running => {
                // The news of its end is on its way here, and brings the successor.
                state.ending.entry(key).or_default().push(reply);
                return Ok(());
            }
            Some(conversation) => conversation,
            None => self.spawn(me, state, key).await?,
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
    ) -> Result<ConversationRef, ActorProcessingErr> {
        let args = Args {
            scope: key.0.clone(),
            id: key.1,
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

    fn retire(&self, state: &mut State, key: Key, actor: ActorId, dormant: Dormant) {
        let Some((_, conversation)) = self.live.remove_if(&key, |_, live| live.get_id() == actor) else {
            return;
        };
        if dormant.paused || dormant.wake_at.is_some() {
            self.dormant.insert(key.clone(), dormant);
        }
        state.ending.insert(key, Vec::new());
        counter!("copilotd_passivations_total").increment(1);
        // It answers everything that is still in its mailbox with "gone": those callers come here next and wait.
        conversation.stop(Some("idle".into()));
    }

    /// A copy has ended. Whoever waited gets its successor.
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
        if !waiting.is_empty() {
            let conversation = self.spawn(me, state, key).await?;
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

    /// What died with open turns goes on by itself, after a jittered pause, a bounded number of times.
    fn restart_later(&self, me: &ActorRef<Msg>, state: &mut State, key: Key) {
        let now = Instant::now();
        let deaths = match state.deaths.entry(key.clone()) {
            Entry::Occupied(entry) => {
                let deaths = entry.into_mut();
                if now.duration_since(deaths.last) > FORGIVEN_AFTER {
                    deaths.count = 0;
                }
                deaths
            }
            Entry::Vacant(entry) => entry.insert(Deaths { count: 0, last: now }),
        };
        deaths.count += 1;
        deaths.last = now;
        if deaths.count > RESTARTS {
            state.deaths.remove(&key);
            return;
        }
        let pause = (RESTART_PAUSE * 2_u32.pow(deaths.count - 1)).min(LONGEST_PAUSE);
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
            Msg::Get { key, reply } => self.get(&me, state, key, reply).await?,
            Msg::Retire {
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
                self.retire(state, key, actor, dormant);
            }
            Msg::Restart { key } => {
                if !self.is_handing_over() && !self.live.contains_key(&key) && !state.ending.contains_key(&key) {
                    self.spawn(&me, state, key).await?;
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
                tracing::warn!(
                    error = cause(&error),
                    "a conversation died and will be folded from its log"
                );
                self.ended(&me, state, who.get_id(), true).await?;
            }
            SupervisionEvent::ActorTerminated(who, _, _) => self.ended(&me, state, who.get_id(), false).await?,
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

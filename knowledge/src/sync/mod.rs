//! Sources: documents of other systems that are kept up to date.
//!
//! [`Sources`] is the supervisor. It has one `Source` actor for each source of a tenant, which asks the other system
//! through the port [`Feed`] what changed, and stores it as the API's `PUT` does: same quotas, formats and attributes, and
//! ingestion in the background. One that dies is started again, with longer and longer pauses.
//!
//! Invariants:
//! - The position of a stream is stored after all documents before it were submitted. A process that is killed repeats at
//!   most a page, and content that is stored already is no work.
//! - What a reader may no longer see leaves the searches, even if the new content cannot be stored.
//! - A document that cannot be stored stops no other one.
//! - When a stream gets another collection or another account, its documents leave the old collection before anything is
//!   read: who may search the new one may differ.

mod feed;
mod run;
mod source;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::tenancy::TenantScope;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

pub use self::feed::{Documents, Feed, FeedError, Item, Page, SOURCE, SourceDocument, Stream};
use self::source::Source;
pub use self::status::{Activity, SourceBook, SourceStatus};
use crate::library::Library;

/// A source of a tenant.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The tenant, which the configuration names.
    pub scope: TenantScope,
    /// Its name within the tenant.
    pub name: String,
    /// Pause between two runs.
    pub interval: Duration,
    /// The other system.
    pub feed: Arc<dyn Feed>,
    /// Changes whenever something about it does, credentials included.
    pub fingerprint: [u8; 32],
}

impl Spec {
    fn key(&self) -> Key {
        (self.scope.tenant().clone(), self.name.clone())
    }
}

/// Bounds of sources.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Submitted documents of a source that may wait to be ingested.
    pub waiting: usize,
    /// Pause before a look at whether they were ingested.
    pub look: Duration,
    /// Attempts at a request that fails.
    pub attempts: u32,
    /// Pause after a failed request, doubled with each further one up to `longest_pause`.
    pub pause: Duration,
    /// See `pause`; also the longest wait that a busy system may ask for at once.
    pub longest_pause: Duration,
    /// Waits of one request for a busy system.
    pub busy_waits: u32,
    /// Time between two comparisons with everything that the other system has, where it does not announce what is
    /// deleted.
    pub compare: Duration,
    /// Pause before a source that died is started again, doubled with each further time up to `longest_pause`.
    pub restart: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            waiting: 32,
            look: Duration::from_millis(500),
            attempts: 5,
            pause: Duration::from_secs(2),
            longest_pause: Duration::from_secs(300),
            busy_waits: 20,
            compare: Duration::from_secs(3600),
            restart: Duration::from_secs(5),
        }
    }
}

/// Messages to [`Sources`].
#[derive(Debug)]
pub enum Msg {
    /// These are the sources of all tenants from now on.
    Apply(Vec<Spec>),
    /// A timer: start a source again that died, unless it was replaced since.
    Restart(TenantId, String, u64),
}

/// The supervisor; see the module.
pub struct Sources {
    /// Stores documents.
    pub library: Arc<Library>,
    /// What administrators see.
    pub book: SourceBook,
    /// Bounds.
    pub bounds: Bounds,
}

type Key = (TenantId, String);

/// State of [`Sources`].
#[derive(Default)]
pub struct State {
    sources: HashMap<Key, Supervised>,
    /// The sources of the actors that have not ended.
    actors: HashMap<ActorId, Key>,
    generations: u64,
}

struct Supervised {
    spec: Spec,
    generation: u64,
    actor: Option<ActorRef<source::Msg>>,
    deaths: u32,
}

impl Sources {
    async fn apply(&self, me: &ActorRef<Msg>, state: &mut State, specs: Vec<Spec>) -> Result<(), ActorProcessingErr> {
        let mut wanted: HashMap<Key, Spec> = specs.into_iter().map(|spec| (spec.key(), spec)).collect();
        let is_kept = |key: &Key, known: &Supervised| {
            let same = wanted
                .get(key)
                .filter(|spec| spec.fingerprint == known.spec.fingerprint);
            same.is_some()
        };
        let ended: Vec<Key> = state
            .sources
            .iter()
            .filter(|(key, known)| !is_kept(key, known))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ended {
            let gone = state.sources.remove(&key);
            // Its entry in the book stays until the actor has ended, which a deletion of the tenant waits for.
            match gone.and_then(|gone| gone.actor) {
                Some(actor) => actor.kill(),
                None => self.book.remove(&key.0, &key.1),
            }
        }
        wanted.retain(|key, _| !state.sources.contains_key(key));
        for (key, spec) in wanted {
            state.generations += 1;
            let supervised = Supervised {
                spec,
                generation: state.generations,
                actor: None,
                deaths: 0,
            };
            state.sources.insert(key.clone(), supervised);
            self.start(me, state, &key).await?;
        }
        Ok(())
    }

    async fn start(&self, me: &ActorRef<Msg>, state: &mut State, key: &Key) -> Result<(), ActorProcessingErr> {
        let Some(supervised) = state.sources.get_mut(key) else {
            return Ok(());
        };
        let source = Source {
            library: Arc::clone(&self.library),
            book: self.book.clone(),
            bounds: self.bounds,
            spec: supervised.spec.clone(),
        };
        let (actor, _) = Actor::spawn_linked(None, source, (), me.get_cell()).await?;
        state.actors.insert(actor.get_id(), key.clone());
        supervised.actor = Some(actor);
        Ok(())
    }

    /// An actor has ended: one that was replaced, or one that died.
    fn ended(&self, me: &ActorRef<Msg>, state: &mut State, who: ActorId, error: Option<String>) {
        let Some(key) = state.actors.remove(&who) else { return };
        let current = state
            .sources
            .get_mut(&key)
            .filter(|known| known.actor.as_ref().is_some_and(|actor| actor.get_id() == who));
        let Some(current) = current else {
            if !state.sources.contains_key(&key) {
                self.book.remove(&key.0, &key.1);
            }
            return;
        };
        current.actor = None;
        let doubled = self
            .bounds
            .restart
            .saturating_mul(2_u32.saturating_pow(current.deaths.min(16)));
        let pause = doubled.min(self.bounds.longest_pause);
        current.deaths = current.deaths.saturating_add(1);
        let (tenant, source) = (&key.0, &key.1);
        tracing::error!(%tenant, source, error, pause_s = pause.as_secs(), "the sync of a source died; starting it again");
        self.book.update(tenant, source, |status| {
            status.activity = Activity::Failed;
            status.last_error = Some("internal error; it is started again".to_owned());
        });
        let generation = current.generation;
        me.send_after(pause, move || Msg::Restart(key.0, key.1, generation));
    }
}

impl Actor for Sources {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State::default())
    }

    async fn handle(&self, me: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Apply(specs) => self.apply(&me, state, specs).await,
            Msg::Restart(tenant, name, generation) => {
                let key = (tenant, name);
                let dead = state.sources.get(&key).filter(|known| known.generation == generation);
                match dead.is_some_and(|known| known.actor.is_none()) {
                    true => self.start(&me, state, &key).await,
                    false => Ok(()),
                }
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                self.ended(&me, state, who.get_id(), Some(error.to_string()));
            }
            SupervisionEvent::ActorTerminated(who, _, reason) => self.ended(&me, state, who.get_id(), reason),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

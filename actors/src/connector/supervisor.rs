//! `Connectors`: starts connectors when they are needed, forwards calls to them, and lets idle ones go.
//!
//! Started once by the application. A connector that dies starts anew with its next call: an empty queue and a fresh budget
//! are all it has to lose.
//! Invariant: a connector is let go only when it has taken everything that was forwarded to it, so no call is lost with it.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::counter;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::job::{Job, hold, report, unsent};
use super::{Args, Connector, Msg};
use crate::ports::{Standing, SystemKey};
use crate::shared::{self, Shared};

/// Messages of [`Connectors`].
#[derive(Debug)]
pub enum Request {
    /// Make this call.
    Call(Box<Job>),
    /// A connector has had nothing to do for a while.
    Retire {
        /// Which one.
        key: SystemKey,
        /// Calls that it has taken so far.
        taken: u64,
    },
}

/// Supervises the connectors; forwards calls to them and starts them when they are needed.
pub struct Connectors {
    /// Shared parts.
    pub shared: Arc<Shared>,
}

/// Connectors that live.
#[derive(Default)]
pub struct Alive(HashMap<SystemKey, Known>);

struct Known {
    connector: ActorRef<Msg>,
    /// Calls that were forwarded to it.
    forwarded: u64,
}

impl Connectors {
    async fn call(&self, me: &ActorRef<Request>, alive: &mut Alive, job: Box<Job>) -> Result<(), ActorProcessingErr> {
        let key = (job.request.scope.tenant().clone(), job.system.clone());
        if !alive.0.contains_key(&key) {
            let Some(toolbox) = self.shared.ports.systems.system(&job.request.scope, &job.system) else {
                not_configured(&self.shared, &job);
                return Ok(());
            };
            let connector = Connector {
                shared: Arc::clone(&self.shared),
                supervisor: me.clone(),
            };
            let args = Args {
                key: key.clone(),
                toolbox,
            };
            let (connector, _) = Actor::spawn_linked(None, connector, args, me.get_cell()).await?;
            let known = Known {
                connector,
                forwarded: 0,
            };
            alive.0.insert(key.clone(), known);
        }
        let Some(known) = alive.0.get_mut(&key) else {
            return Ok(());
        };
        known.forwarded += 1;
        if let Err(ractor::MessagingErr::SendErr(Msg::Call(job))) = known.connector.cast(Msg::Call(job)) {
            let why = "the connector was restarting; the call was not sent".to_owned();
            report(&job, unsent(&job), why);
        }
        Ok(())
    }
}

/// Ends a call of a system that the tenant does not have; one whose tenant is left out waits, since nobody knows what it has.
pub(super) fn not_configured(shared: &Shared, job: &Job) {
    if shared.ports.policies.standing(&job.request.scope) == Standing::LeftOut {
        return hold(job);
    }
    let why = format!("{} is not configured for this tenant", job.system);
    report(job, unsent(job), why);
}

impl Actor for Connectors {
    type Msg = Request;
    type State = Alive;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Request>, (): ()) -> Result<Alive, ActorProcessingErr> {
        Ok(Alive::default())
    }

    async fn handle(
        &self,
        me: ActorRef<Request>,
        request: Request,
        alive: &mut Alive,
    ) -> Result<(), ActorProcessingErr> {
        match request {
            Request::Call(job) => self.call(&me, alive, job).await?,
            Request::Retire { key, taken } => {
                // A call that is still in its mailbox keeps it; it will ask again.
                let idle = |known: &Known| known.forwarded == taken;
                if alive.0.get(&key).is_some_and(idle)
                    && let Some(known) = alive.0.remove(&key)
                {
                    known.connector.stop(Some("idle".into()));
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Request>,
        event: SupervisionEvent,
        alive: &mut Alive,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                counter!("copilotd_actor_deaths_total", "actor" => "connector").increment(1);
                tracing::error!(error = shared::cause(&error), "a connector died");
                alive.0.retain(|_, known| known.connector.get_id() != who.get_id());
            }
            SupervisionEvent::ActorTerminated(who, _, _) => {
                alive.0.retain(|_, known| known.connector.get_id() != who.get_id());
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

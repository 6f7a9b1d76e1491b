//! `Connectors`: starts connectors on demand, forwards calls to them, and stops idle ones.
//!
//! Started once by the application. A connector that died is restarted with its next call; it loses no more than its
//! queue and the state of its rate budget.
//!
//! Invariant: a connector is stopped only after it has received every call that was forwarded to it, so no call is
//! lost.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::counter;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::job::{Job, defer, report, unsent};
use super::{Args, Connector, Msg};
use crate::actors::shared::{self, Shared};
use crate::domain::ids::TenantId;
use crate::ports::{ServingState, SystemKey};

/// Messages of [`Connectors`].
#[derive(Debug)]
pub enum Request {
    /// Forwards a call.
    Call(Box<Job>),
    /// A connector has been idle for a while.
    StopIdle {
        /// Tenant and system of the connector.
        key: SystemKey,
        /// Calls that it has received so far.
        received: u64,
    },
}

/// Supervisor of the connectors.
pub struct Connectors {
    /// Ports and limits of the process.
    pub shared: Arc<Shared>,
}

/// Running connectors.
#[derive(Default)]
pub struct Alive(HashMap<SystemKey, RunningConnector>);

struct RunningConnector {
    connector: ActorRef<Msg>,
    /// Calls forwarded to it.
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
            let known = RunningConnector {
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

/// Fails a call to a system that the tenant does not have. If the tenant is left out the call waits: its systems are
/// unknown.
pub(super) fn not_configured(shared: &Shared, job: &Job) {
    if shared.ports.policies.standing(&job.request.scope) == ServingState::LeftOut {
        return defer(job);
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
            Request::StopIdle { key, received } => {
                // A call still in its mailbox keeps it running; it will ask again.
                let idle = |known: &RunningConnector| known.forwarded == received;
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
                let dead = alive
                    .0
                    .iter()
                    .find(|(_, known)| known.connector.get_id() == who.get_id());
                let (tenant, system) = dead
                    .map(|((tenant, system), _)| (tenant.clone(), system.clone()))
                    .unzip();
                tracing::error!(
                    tenant = tenant.as_ref().map(TenantId::as_str),
                    system,
                    error = shared::cause(&error),
                    "connector actor died; the next tool call to this system restarts it"
                );
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

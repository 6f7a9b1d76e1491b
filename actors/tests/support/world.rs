//! The process under test and its fakes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use copilotd_actors::actors::connector::Connectors;
use copilotd_actors::actors::conversation::{Accepted, Principal, Refusal};
use copilotd_actors::actors::conversations::{Conversations, Directory};
use copilotd_actors::actors::reconcile::Reconciler;
use copilotd_actors::actors::shared::{Bounds, Shared};
use copilotd_actors::domain::content::Input;
use copilotd_actors::domain::conversation::command::{Command, Decision, StoppedWork, WhenBusy};
use copilotd_actors::domain::event::{Channel, Event, Idempotency, Record};
use copilotd_actors::domain::ids::{CallId, ConversationId, Seq, TurnId};
use copilotd_actors::domain::policy::{Policy, Repeat};
use copilotd_actors::domain::tool::client::ClientTools;
use copilotd_actors::fakes::facts::FakeFacts;
use copilotd_actors::fakes::files::MemoryFiles;
use copilotd_actors::fakes::knowledge::FakeKnowledge;
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::fakes::model::FakeModel;
use copilotd_actors::fakes::policy::{FixedPolicies, policy};
use copilotd_actors::fakes::recollection::FakeRecollection;
use copilotd_actors::fakes::schema::FakeChecker;
use copilotd_actors::fakes::system::{FakeSystem, FakeSystems};
use copilotd_actors::fakes::world::{CountingIds, NoTraces, PausedClock};
use copilotd_actors::ports::{Detector, EventLog, Ids, Ports};
use copilotd_actors::tenancy::TenantScope;
use ractor::{Actor, ActorCell};
use tokio::task::JoinHandle;

use super::Viewer;

/// The longest time that a test waits for anything, in tokio's time.
const MAX_WAIT: Duration = Duration::from_secs(4 * 3600);

/// What runs until the next crash.
struct Process {
    shared: Arc<Shared>,
    directory: Directory,
    task: JoinHandle<()>,
    others: Vec<ActorCell>,
}

/// The fakes, and a process that uses them.
pub struct World {
    pub log: MemoryLog,
    pub probe: Arc<Probe>,
    pub model: FakeModel,
    pub systems: FakeSystems,
    pub policies: Arc<FixedPolicies>,
    pub schemas: FakeChecker,
    pub knowledge: FakeKnowledge,
    pub facts: FakeFacts,
    pub files: MemoryFiles,
    /// Used from the next start on.
    pub recollection: Option<FakeRecollection>,
    /// Used from the next start on.
    pub detectors: Vec<Arc<dyn Detector>>,
    pub clock: Arc<PausedClock>,
    pub ids: Arc<CountingIds>,
    pub scope: TenantScope,
    pub bounds: Bounds,
    process: Option<Process>,
}

pub use super::probe::Probe;

impl World {
    pub async fn new() -> Self {
        Self::with(copilot()).await
    }

    pub async fn with(policy: Policy) -> Self {
        let bounds = Bounds {
            reconcile: Duration::from_secs(5),
            ..Bounds::default()
        };
        Self::bounded(policy, bounds).await
    }

    pub async fn bounded(policy: Policy, bounds: Bounds) -> Self {
        let log = MemoryLog::new();
        let mut world = Self {
            probe: Arc::new(Probe::new(log.clone())),
            log,
            model: FakeModel::new(),
            systems: FakeSystems::default(),
            policies: Arc::new(FixedPolicies::of(policy)),
            schemas: FakeChecker::default(),
            knowledge: FakeKnowledge::default(),
            recollection: None,
            facts: FakeFacts::default(),
            files: MemoryFiles::default(),
            detectors: Vec::new(),
            clock: Arc::default(),
            ids: Arc::default(),
            scope: scope("acme"),
            bounds,
            process: None,
        };
        world.restart().await;
        world
    }

    /// Starts the process, which resumes what is open in the log.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "one process at a time");
        let ports = Ports {
            log: Arc::clone(&self.probe) as Arc<dyn EventLog>,
            model: Arc::new(self.model.clone()),
            systems: Arc::new(self.systems.clone()),
            policies: Arc::clone(&self.policies) as _,
            schemas: Arc::new(self.schemas.clone()),
            clock: Arc::clone(&self.clock) as _,
            ids: Arc::clone(&self.ids) as _,
            traces: Arc::new(NoTraces),
            detectors: self.detectors.clone(),
            knowledge: Some(Arc::new(self.knowledge.clone())),
            recollection: self.recollection.clone().map(|port| Arc::new(port) as _),
            facts: Some(Arc::new(self.facts.clone())),
            files: Some(Arc::new(self.files.clone())),
        };
        let shared = Shared::new(ports, self.bounds.clone());
        let (directory, task) = Conversations::start(Arc::clone(&shared)).await.unwrap();
        let connectors = Connectors {
            shared: Arc::clone(&shared),
        };
        let (connectors, _) = Actor::spawn(None, connectors, ()).await.unwrap();
        shared.connectors.set(connectors.clone()).unwrap();
        let reconciler = Reconciler {
            shared: Arc::clone(&shared),
            directory: directory.clone(),
        };
        let (reconciler, _) = Actor::spawn(None, reconciler, ()).await.unwrap();
        self.process = Some(Process {
            shared,
            directory,
            task,
            others: vec![connectors.get_cell(), reconciler.get_cell()],
        });
    }

    /// Kills the process: no handler continues after its current await, nothing is flushed.
    pub async fn crash(&mut self) {
        let Process {
            shared,
            directory,
            task,
            others,
        } = self.process.take().unwrap();
        directory.kill();
        others.iter().for_each(|other| other.kill());
        let _ = task.await;
        drop((directory, others));
        let left = Arc::downgrade(&shared);
        drop(shared);
        gone(&left).await;
        self.probe.disarm();
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.process.as_ref().unwrap().shared
    }

    pub fn directory(&self) -> &Directory {
        &self.process.as_ref().unwrap().directory
    }

    pub fn system(&self, name: &str) -> FakeSystem {
        self.systems.get(name)
    }

    pub fn principal(&self) -> Principal {
        Principal {
            user: "ada".parse().unwrap(),
            admin: false,
        }
    }

    /// Sends a command as the user.
    pub async fn execute(&self, id: ConversationId, command: Command) -> Result<Accepted, Refusal> {
        self.directory()
            .execute(&self.scope, id, &self.principal(), command)
            .await
    }

    /// Creates a conversation.
    pub async fn create(&self) -> ConversationId {
        let id = ConversationId::new(self.ids.uuid());
        self.execute(id, self.creation(None)).await.unwrap();
        id
    }

    pub fn creation(&self, idempotency: Option<Idempotency>) -> Command {
        Command::Create {
            tenant: self.scope.tenant().clone(),
            user: self.principal().user,
            copilot: "support".parse().unwrap(),
            channel: Channel::Api,
            title: None,
            metadata: Default::default(),
            idempotency,
        }
    }

    pub fn turn_id(&self) -> TurnId {
        TurnId::new(self.ids.uuid())
    }

    /// Submits a prompt that is queued if the conversation is busy.
    pub async fn submit(&self, id: ConversationId, text: &str) -> TurnId {
        let turn = self.turn_id();
        let accepted = self.execute(id, submission(turn, text)).await.unwrap();
        assert_eq!(accepted.turn, Some(turn));
        turn
    }

    pub async fn cancel(&self, id: ConversationId, turn: TurnId) -> Result<Accepted, Refusal> {
        let stop = StoppedWork::default();
        self.execute(id, Command::Cancel { turn, stop }).await
    }

    pub async fn decide(
        &self,
        id: ConversationId,
        turn: TurnId,
        call: CallId,
        decision: Decision,
    ) -> Result<Accepted, Refusal> {
        let (reason, by) = (None, "ada".to_owned());
        let command = Command::Decide {
            turn,
            call,
            decision,
            reason,
            by,
        };
        self.execute(id, command).await
    }

    pub fn viewer(&self, id: ConversationId, turn: Option<TurnId>, after: &str) -> Viewer {
        Viewer::new(self, id, turn, after)
    }

    /// Waits until the log contains a record that `wanted` accepts, and returns it.
    pub async fn wait_for(&self, id: ConversationId, wanted: impl Fn(&Record) -> bool) -> Record {
        self.wait_after(0, id, wanted).await
    }

    /// The same, only for records after `seq`.
    pub async fn wait_after(&self, seq: Seq, id: ConversationId, wanted: impl Fn(&Record) -> bool) -> Record {
        let search = async {
            // Only new records are checked: some tests have long logs.
            let mut seen = seq;
            loop {
                let n = self.log.commits();
                let page = self
                    .log
                    .read(&self.scope, id, seen, usize::MAX)
                    .await
                    .unwrap_or_default();
                seen = page.last().map_or(seen, |record| record.seq);
                if let Some(found) = page.into_iter().find(|record| wanted(record)) {
                    return found;
                }
                self.log.wait_for_commits(n + 1).await;
            }
        };
        match tokio::time::timeout(MAX_WAIT, search).await {
            Ok(found) => found,
            Err(_) => panic!("the record was never written; the log is {:#?}", self.names(id)),
        }
    }

    /// Waits for the end of the turn.
    pub async fn end_of(&self, id: ConversationId, turn: TurnId) -> Event {
        let end = self.wait_for(id, |r| r.turn == Some(turn) && r.event.is_terminal());
        end.await.event
    }

    /// Waits for an event of this name.
    pub async fn named(&self, id: ConversationId, name: &str) -> Record {
        self.wait_for(id, |record| record.event.name() == name).await
    }

    /// Returns the names of all events of a conversation.
    pub fn names(&self, id: ConversationId) -> Vec<&'static str> {
        self.log.records(id).iter().map(|record| record.event.name()).collect()
    }

    /// Lets ten seconds of tokio's time pass, in which everything settles: shows that something does not happen.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// Waits until nothing of the old process is left.
async fn gone(shared: &Weak<Shared>) {
    for _ in 0..100_000 {
        if shared.strong_count() == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} holders of the old process are left", shared.strong_count());
}

pub fn scope(tenant: &str) -> TenantScope {
    #[expect(clippy::disallowed_methods, reason = "a test is its own verifier")]
    TenantScope::from_verified(tenant.parse().unwrap())
}

pub fn submission(turn: TurnId, text: &str) -> Command {
    Command::Submit {
        turn,
        input: Input::Text(text.to_owned()),
        metadata: Default::default(),
        response_schema: None,
        when_busy: WhenBusy::Enqueue,
        idempotency: None,
        trace: None,
        api_key: None,
        roles: Vec::new(),
        nonce: None,
        replaces: None,
        client_tools: ClientTools::default(),
        stop: StoppedWork::default(),
    }
}

/// Returns the command of [`submission`] with `how` and an idempotency key.
pub fn submitted(turn: TurnId, text: &str, how: WhenBusy, key: Option<&str>) -> Command {
    let Command::Submit {
        turn,
        input,
        metadata,
        response_schema,
        trace,
        api_key,
        roles,
        nonce,
        replaces,
        client_tools,
        stop,
        ..
    } = submission(turn, text)
    else {
        unreachable!("a submission is a submission")
    };
    let idempotency = key.map(|key| Idempotency {
        key: key.to_owned(),
        body_hash: text.to_owned(),
    });
    Command::Submit {
        turn,
        input,
        metadata,
        response_schema,
        when_busy: how,
        idempotency,
        trace,
        api_key,
        roles,
        nonce,
        replaces,
        client_tools,
        stop,
    }
}

/// A copilot without tools.
pub fn copilot() -> Policy {
    policy("support".parse().unwrap())
}

/// Adds a tool that belongs to a system of the same name, with five seconds for a call.
pub fn tool(policy: Policy, name: &str, repeat: Repeat) -> Policy {
    policy.with_tool(name, name, repeat, Duration::from_secs(5)).unwrap()
}

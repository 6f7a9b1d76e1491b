//! A bad day of three providers, with real conversations: a storm of 429, a brown-out, streams that are cut, and the
//! outage of two, with one self-hosted left. Every turn ends with its whole answer.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::actors::connector::Connectors;
use copilotd_actors::actors::conversation::Principal;
use copilotd_actors::actors::conversations::{Conversations, Directory};
use copilotd_actors::actors::shared::{Bounds, Shared};
use copilotd_actors::domain::content::Input;
use copilotd_actors::domain::conversation::command::{Command, StoppedWork, WhenBusy};
use copilotd_actors::domain::event::{Channel, Event, Record};
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::tool::client::ClientTools;
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::fakes::policy::{FixedPolicies, policy};
use copilotd_actors::fakes::schema::FakeChecker;
use copilotd_actors::fakes::system::FakeSystems;
use copilotd_actors::fakes::world::{CountingIds, NoTraces, PausedClock};
use copilotd_actors::ports::{Ids, Ports};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::provider::Timeouts;
use futures::StreamExt;
use ractor::Actor;
use serde_json::json;

use super::{Provider, gateway, place};

/// Turns per phase.
const PHASE: u64 = 500;
/// Concurrent turns.
const BESIDE: usize = 48;

const CLOCKS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    first_token: Duration::from_secs(10),
    idle: Duration::from_secs(10),
    total: Duration::from_secs(60),
};

struct BadDay {
    log: MemoryLog,
    ids: Arc<CountingIds>,
    directory: Directory,
    scope: TenantScope,
}

impl BadDay {
    async fn start(model: Arc<copilotd_gateway::Gateway>) -> Self {
        let (log, ids) = (MemoryLog::new(), Arc::new(CountingIds::default()));
        let mut copilot = policy("support".parse().unwrap());
        copilot.route = "default".to_owned();
        let ports = Ports {
            log: Arc::new(log.clone()),
            model,
            systems: Arc::new(FakeSystems::default()),
            policies: Arc::new(FixedPolicies::of(copilot)),
            schemas: Arc::new(FakeChecker::default()),
            clock: Arc::new(PausedClock::default()),
            ids: Arc::clone(&ids) as _,
            traces: Arc::new(NoTraces),
            detectors: Vec::new(),
            knowledge: None,
            recollection: None,
            facts: None,
            files: None,
        };
        let shared = Shared::new(ports, Bounds::default());
        let (directory, _) = Conversations::start(Arc::clone(&shared)).await.unwrap();
        let connectors = Connectors {
            shared: Arc::clone(&shared),
        };
        let (connectors, _) = Actor::spawn(None, connectors, ()).await.unwrap();
        shared.connectors.set(connectors).unwrap();
        Self {
            log,
            ids,
            directory,
            scope: TenantScope::from_verified("acme".parse().unwrap()),
        }
    }

    /// Runs a turn in a conversation of its own; returns its records.
    async fn turn(&self, text: &str) -> Vec<Record> {
        let (id, turn) = (ConversationId::new(self.ids.uuid()), TurnId::new(self.ids.uuid()));
        let principal = Principal {
            user: "ada".parse().unwrap(),
            admin: false,
        };
        let create = Command::Create {
            tenant: self.scope.tenant().clone(),
            user: principal.user.clone(),
            copilot: "support".parse().unwrap(),
            channel: Channel::Api,
            title: None,
            metadata: Default::default(),
            idempotency: None,
        };
        let submit = Command::Submit {
            turn,
            input: Input::Text(format!("Say it. [[sim text=\"{text}\"]]")),
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
        };
        for command in [create, submit] {
            self.directory
                .execute(&self.scope, id, &principal, command)
                .await
                .unwrap();
        }
        loop {
            let commits = self.log.commits();
            let records = self.log.records(id);
            if records.iter().any(|record| record.event.is_terminal()) {
                return records;
            }
            self.log.wait_for_commits(commits + 1).await;
        }
    }

    /// Runs a phase; returns how many of its turns ended with their whole answer, and how many fell back.
    async fn phase(&self, number: u64) -> (u64, u64) {
        let turns = futures::stream::iter(0..PHASE).map(|n| async move {
            let text = format!("Answer {n} of phase {number} is whole, from its first word to its last.");
            let records = self.turn(&text).await;
            let named = |name: &str| records.iter().filter(|record| record.event.name() == name).count() as u64;
            let answers: Vec<&str> = records
                .iter()
                .filter_map(|record| match &record.event {
                    Event::MessageCompleted { text, .. } => Some(text.as_str()),
                    _ => None,
                })
                .collect();
            let is_whole = answers == [text.as_str()] && named("turn.completed") == 1;
            if !is_whole {
                println!("{:#?}", records.iter().map(|record| &record.event).collect::<Vec<_>>());
            }
            (u64::from(is_whole), named("model.fallback"))
        });
        let ended: Vec<(u64, u64)> = turns.buffer_unordered(BESIDE).collect().await;
        ended
            .into_iter()
            .fold((0, 0), |sum, turn| (sum.0 + turn.0, sum.1 + turn.1))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_turns_on_a_bad_day_all_end_whole() {
    let (large, small, own) = (
        Provider::start().await,
        Provider::start().await,
        Provider::start().await,
    );
    let places = vec![
        place("large", large.url()),
        place("small", small.url()),
        place("own", own.url()),
    ];
    let places = places.into_iter().map(|mut place| {
        place.context_tokens = 128_000;
        place
    });
    let (gateway, ledger) = gateway(places.collect(), CLOCKS);
    let world = BadDay::start(gateway).await;
    let (mut large, mut small, mut whole) = (Some(large), Some(small), 0);
    for phase in 0..4 {
        match (phase, &large, &small) {
            (0, Some(large), _) => large.knobs(json!({"fault": "status=429 retry_after=1"})).await,
            (1, Some(large), Some(small)) => {
                large
                    .knobs(json!({"fault": null, "error_rate": 0.5, "first_ms": 100}))
                    .await;
                small.knobs(json!({"fault": "tokens=40 pace_ms=1 cut_after=60"})).await;
            }
            (2, Some(large), Some(small)) => {
                large
                    .knobs(json!({"fault": "tokens=40 pace_ms=1 stream_error=server_error", "error_rate": 0}))
                    .await;
                small.knobs(json!({"fault": "body=\"<html>502</html>\""})).await;
            }
            // Gone, connections and all.
            _ => drop((large.take(), small.take())),
        }
        let (complete, fallbacks) = world.phase(phase).await;
        println!(
            "phase {phase}: {complete} of {PHASE} whole, {fallbacks} fallbacks; attempts {:?}",
            ledger
                .lines()
                .into_iter()
                .fold(std::collections::BTreeMap::new(), |mut counts, line| {
                    *counts.entry(line).or_insert(0) += 1;
                    counts
                })
        );
        whole += complete;
    }
    // 99.99 percent of 2,000 are all of them.
    assert_eq!(whole, 4 * PHASE);
    world.directory.stop(Duration::from_secs(5)).await;
}

//! Client tools: calls that a page of the user claims, runs and answers.

use std::time::Duration;

use copilotd_actors::actors::conversation::{Accepted, Refusal};
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{CallId, ConversationId, TurnId};
use copilotd_actors::domain::sent_prompt::ToolOffer;
use copilotd_actors::domain::tool::client::{Claim, ClientTools};
use copilotd_actors::fakes::model::{calls, says};
use copilotd_actors::fakes::schema::Script;
use copilotd_actors::ports::SchemaError;
use serde_json::{Value, json};

use crate::support::{World, copilot, submission};

/// A conversation whose turn waits for a page.
struct Waiting {
    world: World,
    id: ConversationId,
    turn: TurnId,
    call: CallId,
}

fn open_page() -> ClientTools {
    ClientTools::unchecked(vec![ToolOffer {
        name: "open_page".to_owned(),
        description: "Opens a page.".to_owned(),
        parameters: json!({ "type": "object", "required": ["path"] }),
    }])
}

async fn submit(world: &World, id: ConversationId) -> TurnId {
    let turn = world.turn_id();
    let mut command = submission(turn, "work");
    if let Command::Submit { client_tools, .. } = &mut command {
        *client_tools = open_page();
    }
    world.execute(id, command).await.unwrap();
    turn
}

async fn world(bounds: Bounds, arguments: Value) -> (World, ConversationId, TurnId) {
    let bounds = Bounds {
        reconcile: Duration::from_secs(5),
        ..bounds
    };
    let world = World::bounded(copilot(), bounds).await;
    let steps = [calls(&[("open_page", arguments)]), says(&["done"], Duration::ZERO)];
    world.model.on("work", &steps);
    let id = world.create().await;
    let turn = submit(&world, id).await;
    (world, id, turn)
}

impl Waiting {
    async fn new() -> Self {
        let (world, id, turn) = world(Bounds::default(), json!({ "path": "/orders" })).await;
        let requested = world.named(id, "client_tool.requested").await;
        let Event::ClientToolRequested { call_id: call, .. } = requested.event else {
            unreachable!("it was selected by name")
        };
        Self { world, id, turn, call }
    }

    async fn claim(&self, token: &str, key: Option<&str>) -> Result<Accepted, Refusal> {
        let claim = Claim {
            token: token.to_owned(),
            key: key.map(str::to_owned),
        };
        let (turn, call) = (self.turn, self.call);
        self.world
            .execute(self.id, Command::ClaimClientTool { turn, call, claim })
            .await
    }

    async fn answer(&self, token: &str, result: Value) -> Result<Accepted, Refusal> {
        let command = Command::AnswerClientTool {
            turn: self.turn,
            call: self.call,
            token: token.to_owned(),
            answer_hash: result.to_string(),
            result: Some(result),
            error: None,
            failed: false,
        };
        self.world.execute(self.id, command).await
    }

    /// Waits for the turn's end and returns how the call ended.
    async fn end(&self) -> Vec<ToolStatus> {
        let end = self.world.end_of(self.id, self.turn).await;
        assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
        ends(&self.world.log.records(self.id))
    }

    async fn crash(&mut self) {
        self.world.crash().await;
        self.world.restart().await;
    }
}

fn ends(records: &[Record]) -> Vec<ToolStatus> {
    let status = |record: &Record| match record.event {
        Event::ToolFinished { status, .. } => Some(status),
        _ => None,
    };
    records.iter().filter_map(status).collect()
}

fn not_waiting(answer: Result<Accepted, Refusal>) {
    assert_eq!(answer.unwrap_err(), Refusal::Rejected(Rejection::NotClaimable));
}

#[tokio::test(start_paused = true)]
async fn two_pages_that_claim_at_once_run_a_call_once() {
    let waiting = Waiting::new().await;
    let (a, b) = tokio::join!(waiting.claim("a", None), waiting.claim("b", None));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let (held, other) = if a.is_ok() { ("a", "b") } else { ("b", "a") };
    not_waiting(waiting.answer(other, json!("wrong")).await);
    let (a, b) = tokio::join!(
        waiting.answer(held, json!("Orders")),
        waiting.answer(held, json!("Orders"))
    );
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    assert_eq!(waiting.end().await, [ToolStatus::Succeeded]);
    let requests = waiting.world.model.requests();
    assert_eq!(requests[0].tools[0].name, "open_page");
    let result = format!("{:?}", requests[1].messages.last());
    assert!(result.contains("<tool_result") && result.contains("Orders"), "{result}");
    let instructions = requests[0].messages[0].text().unwrap();
    assert!(
        instructions.contains("tool_result"),
        "the model is told to read results as data: {instructions}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_page_claims_fails_after_a_minute() {
    let waiting = Waiting::new().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(waiting.end().await, [ToolStatus::Failed]);
    assert!((59..62).contains(&begun.elapsed().as_secs()));
    not_waiting(waiting.claim("a", None).await);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_stays_silent_leaves_its_call_unknown() {
    let waiting = Waiting::new().await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    waiting.claim("a", None).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(waiting.end().await, [ToolStatus::Unknown]);
    assert!((299..302).contains(&begun.elapsed().as_secs()));
    not_waiting(waiting.answer("a", json!("late")).await);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_waits_for_a_page_holds_neither_a_permit_nor_a_provider() {
    let waiting = Waiting::new().await;
    waiting.claim("a", None).await.unwrap();
    let shared = waiting.world.shared();
    assert_eq!(shared.admission.busy(), 0);
    let (tenant, user) = (waiting.world.scope.tenant(), waiting.world.principal().user);
    assert_eq!(shared.user_turns.open(tenant, &user), 0);
    let seen = waiting.world.model.seen();
    assert_eq!((seen.calls, seen.open), (1, 0));
    waiting.answer("a", json!(1)).await.unwrap();
    assert_eq!(waiting.end().await, [ToolStatus::Succeeded]);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_turns_of_a_user_wait_for_pages() {
    let bounds = Bounds {
        user_approvals: 1,
        ..Bounds::default()
    };
    let (world, id, turn) = world(bounds, json!({ "path": "/" })).await;
    world.named(id, "client_tool.requested").await;
    let other = world.create().await;
    let refused = submit(&world, other).await;
    world.end_of(other, refused).await;
    assert_eq!(ends(&world.log.records(other)), [ToolStatus::Rejected]);
    world.end_of(id, turn).await;
    let again = submit(&world, other).await;
    let requested = |record: &Record| record.turn == Some(again) && record.event.name() == "client_tool.requested";
    world.wait_for(other, requested).await;
}

#[tokio::test(start_paused = true)]
async fn a_page_never_sees_arguments_that_were_not_found_valid() {
    let (world, id, turn) = world(Bounds::default(), json!({ "wrong": 1 })).await;
    world.end_of(id, turn).await;
    assert!(!world.names(id).contains(&"client_tool.requested"));
    assert_eq!(ends(&world.log.records(id)), [ToolStatus::Failed]);
    for error in [SchemaError::TooExpensive, SchemaError::Unavailable("no process".into())] {
        world.model.forget();
        let steps = [
            calls(&[("open_page", json!({ "path": "/" }))]),
            says(&["done"], Duration::ZERO),
        ];
        world.model.on("work", &steps);
        world.schemas.script(Script::Fail(error));
        let other = world.create().await;
        let turn = submit(&world, other).await;
        world.end_of(other, turn).await;
        assert_eq!(ends(&world.log.records(other)), [ToolStatus::Failed]);
        assert!(!world.names(other).contains(&"client_tool.requested"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_the_request_changes_nothing() {
    let mut waiting = Waiting::new().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    waiting.crash().await;
    waiting.claim("a", None).await.unwrap();
    waiting.crash().await;
    waiting.answer("a", json!("Orders")).await.unwrap();
    waiting.crash().await;
    assert_eq!(waiting.end().await, [ToolStatus::Succeeded]);
    let names = waiting.world.names(waiting.id);
    for once in ["client_tool.requested", "tool.called", "tool.finished"] {
        assert_eq!(names.iter().filter(|name| **name == once).count(), 1, "{once}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_times_of_a_call_run_on_while_nothing_runs() {
    for (claimed, expected) in [(false, ToolStatus::Failed), (true, ToolStatus::Unknown)] {
        let mut waiting = Waiting::new().await;
        if claimed {
            waiting.claim("a", Some("k")).await.unwrap();
        }
        waiting.world.crash().await;
        tokio::time::sleep(Duration::from_secs(301)).await;
        waiting.world.restart().await;
        let begun = tokio::time::Instant::now();
        assert_eq!(waiting.end().await, [expected]);
        assert!(begun.elapsed() < Duration::from_secs(10), "it was due at the start");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_turn_takes_its_calls_from_the_pages() {
    for (claimed, expected) in [(false, ToolStatus::Cancelled), (true, ToolStatus::Unknown)] {
        let waiting = Waiting::new().await;
        if claimed {
            waiting.claim("a", None).await.unwrap();
        }
        waiting.world.cancel(waiting.id, waiting.turn).await.unwrap();
        assert_eq!(ends(&waiting.world.log.records(waiting.id)), [expected]);
        not_waiting(waiting.claim("b", None).await);
        not_waiting(waiting.answer("a", json!(1)).await);
    }
}

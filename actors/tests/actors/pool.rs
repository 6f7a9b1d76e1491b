//! Expensive checks run on the compute pool: while it is busy with something else, conversations keep answering, and a
//! turn cancelled meanwhile does not act on a verdict that comes too late.
//!
//! No pool is started here, so its work runs on tokio's blocking threads. There is one, which a test occupies.

use std::sync::mpsc;
use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::conversation::command::{Command, Decision};
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::guardrail::OnMatch;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::fakes::system::{Answer, SystemReply};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{World, copilot, submission, tool};

/// Runs a test with one blocking thread. Time stands still while it is occupied, unless the test advances it.
fn with_one_thread(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(1)
        .build();
    runtime.unwrap().block_on(test());
}

/// Occupies the thread until it is released.
struct Occupied {
    release: mpsc::Sender<()>,
    work: JoinHandle<()>,
}

impl Occupied {
    fn begin() -> Self {
        let (release, released) = mpsc::channel();
        let work = tokio::task::spawn_blocking(move || released.recv().unwrap());
        Self { release, work }
    }

    async fn end(self) {
        self.release.send(()).unwrap();
        self.work.await.unwrap();
    }
}

/// Lets everything run that can, without time passing.
async fn all_that_can() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

fn rename(title: &str) -> Command {
    Command::Update {
        title: Some(title.to_owned()),
        metadata: None,
    }
}

async fn answers(world: &World, id: ConversationId) {
    world.execute(id, rename("still here")).await.unwrap();
}

/// A model that after a second asks for many calls, none of them long by itself.
async fn asking(bytes: usize, number: usize) -> (World, ConversationId) {
    let world = World::with(tool(copilot(), "do", Repeat::Read).with_output_rule("secret", OnMatch::Block)).await;
    let arguments = json!({ "n": "x ".repeat(bytes / 2) });
    let mut script = vec![Act::Wait(Duration::from_secs(1))];
    script.extend(calls(&vec![("do", arguments); number]));
    world.model.once("work", script);
    world.model.on("work", &[says(&["done"], Duration::ZERO)]);
    world.system("do");
    let id = world.create().await;
    (world, id)
}

#[test]
fn the_calls_of_an_answer_are_checked_together_and_not_in_the_conversation() {
    for (number, at_once) in [(1, true), (16, false)] {
        with_one_thread(async || {
            let (world, id) = asking(2_000, number).await;
            let turn = world.submit(id, "work").await;
            world.model.wait_for(|seen| seen.calls == 1).await;
            let occupied = Occupied::begin();
            tokio::time::advance(Duration::from_secs(2)).await;
            all_that_can().await;
            let checked = world.names(id).contains(&"message.completed");
            assert_eq!(checked, at_once, "{number} calls");
            answers(&world, id).await;
            occupied.end().await;
            assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
            assert_eq!(world.system("do").seen().calls, number);
        });
    }
}

#[test]
fn a_cancelled_turn_makes_no_call_on_a_late_verdict() {
    with_one_thread(async || {
        let (world, id) = asking(2_000, 16).await;
        let turn = world.submit(id, "work").await;
        world.model.wait_for(|seen| seen.calls == 1).await;
        let occupied = Occupied::begin();
        tokio::time::advance(Duration::from_secs(2)).await;
        all_that_can().await;
        world.cancel(id, turn).await.unwrap();
        // The next turn has its own answer.
        occupied.end().await;
        let next = world.submit(id, "work").await;
        assert!(matches!(world.end_of(id, next).await, Event::TurnCompleted { .. }));
        world.settle().await;
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
        assert_eq!(world.system("do").seen().calls, 0);
    });
}

#[test]
fn what_a_tool_answered_is_checked_elsewhere_and_redacted_all_the_same() {
    for (bytes, at_once) in [(100, true), (30_000, false)] {
        with_one_thread(async || {
            let world =
                World::with(tool(copilot(), "do", Repeat::Read).with_output_rule("secret", OnMatch::Redact)).await;
            world
                .model
                .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
            world.system("do").answer_all(Answer {
                delay: Duration::from_secs(1),
                says: SystemReply::Done(json!({ "text": format!("{}secret", "x ".repeat(bytes / 2)) })),
                ..Answer::done(Duration::ZERO)
            });
            let id = world.create().await;
            let turn = world.submit(id, "work").await;
            world.system("do").wait_for(|seen| seen.calls == 1).await;
            let occupied = Occupied::begin();
            tokio::time::advance(Duration::from_secs(2)).await;
            all_that_can().await;
            assert_eq!(world.names(id).contains(&"tool.finished"), at_once, "{bytes} bytes");
            answers(&world, id).await;
            occupied.end().await;
            assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
            let Event::ToolFinished { status, result, .. } = world.named(id, "tool.finished").await.event else {
                unreachable!("find selected this event")
            };
            assert_eq!(status, ToolStatus::Succeeded);
            let text = result.as_ref().and_then(|result| result["text"].as_str()).unwrap();
            assert!(text.ends_with("[redacted]"), "{}", &text[text.len() - 40..]);
        });
    }
}

/// A turn that waits for approval, and the decision that is being made on its call.
async fn decided(edited: Value, then: impl AsyncFnOnce(&World, ConversationId)) -> (World, Result<(), Refusal>) {
    let policy = tool(copilot(), "do", Repeat::Never).with_approval("do");
    let world = World::with(policy.with_output_rule("secret", OnMatch::Block)).await;
    world
        .model
        .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
    world.system("do");
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    let Event::ApprovalRequested { call_id, .. } = world.named(id, "approval.requested").await.event else {
        unreachable!("find selected this event")
    };
    let occupied = Occupied::begin();
    let arguments = Some(edited);
    let mut decision = Box::pin(world.decide(id, turn, call_id, Decision::Approve { arguments }));
    for _ in 0..1_000 {
        assert!(futures::poll!(&mut decision).is_pending(), "it is checked on the pool");
        tokio::task::yield_now().await;
    }
    then(&world, id).await;
    occupied.end().await;
    let decided = decision.await.map(drop);
    (world, decided)
}

#[test]
fn what_a_person_wrote_is_checked_elsewhere() {
    with_one_thread(async || {
        let long = "x ".repeat(15_000);
        let (world, done) = decided(json!({ "n": long }), async |world, id| answers(world, id).await).await;
        done.unwrap();
        world.settle().await;
        let sent = world.system("do").requests();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].1.arguments["n"], long);

        let forbidden = json!({ "n": format!("{long}secret") });
        let (world, done) = decided(forbidden, async |_, _| {}).await;
        done.unwrap();
        world.settle().await;
        assert_eq!(world.system("do").seen().calls, 0, "a guardrail blocked the call");
    });
}

#[test]
fn a_decision_on_a_turn_that_was_cancelled_meanwhile_comes_too_late() {
    with_one_thread(async || {
        let edited = json!({ "n": "x ".repeat(15_000) });
        let (world, done) = decided(edited, async |world, id| {
            let turn = world.log.records(id).iter().find_map(|record| record.turn).unwrap();
            world.cancel(id, turn).await.unwrap();
        })
        .await;
        assert_eq!(done.unwrap_err(), Refusal::Rejected(Rejection::NotWaiting));
        world.settle().await;
        assert_eq!(world.system("do").seen().calls, 0);
    });
}

#[test]
fn a_long_prompt_is_checked_elsewhere_and_stored_once() {
    with_one_thread(async || {
        let world = World::new().await;
        let (id, turn) = (world.create().await, world.turn_id());
        let prompt = "word ".repeat(8_000);
        world.model.on(&prompt, &[says(&["ok"], Duration::ZERO)]);
        let occupied = Occupied::begin();
        let mut asked = Box::pin(world.execute(id, submission(turn, &prompt)));
        for _ in 0..1_000 {
            assert!(futures::poll!(&mut asked).is_pending(), "it is checked on the pool");
            tokio::task::yield_now().await;
        }
        answers(&world, id).await;
        occupied.end().await;
        asked.await.unwrap();
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        // A caller that leaves meanwhile has submitted nothing.
        let occupied = Occupied::begin();
        let mut left = Box::pin(world.execute(id, submission(world.turn_id(), &prompt)));
        for _ in 0..1_000 {
            assert!(futures::poll!(&mut left).is_pending());
            tokio::task::yield_now().await;
        }
        drop(left);
        occupied.end().await;
        world.settle().await;
        let queued = world.names(id).iter().filter(|name| **name == "turn.queued").count();
        assert_eq!(queued, 1);
    });
}

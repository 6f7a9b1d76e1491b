//! Compression: off the user's path, one at a time, never failing a turn. Snapshots: a cache that is used.

use std::time::Duration;

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::event::{CompressionMethod, Event, Record};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::policy::{MemoryPolicy, Policy};
use copilotd_actors::fakes::model::{Act, says};

use crate::support::{World, copilot, submission};

/// Compresses above 200 tokens; urgent above `hard`.
fn policy(hard: u64) -> Policy {
    patient(hard, Duration::from_secs(60))
}

fn patient(hard: u64, timeout: Duration) -> Policy {
    let memory = MemoryPolicy {
        trigger_tokens: 200,
        keep_tokens: 60,
        hard_tokens: hard,
        summary_tokens: 50,
        timeout,
        ..copilot().memory
    };
    Policy { memory, ..copilot() }
}

async fn say(world: &World, id: ConversationId, words: usize) {
    let turn = world.turn_id();
    let accepted = world
        .execute(id, submission(turn, &"word ".repeat(words)))
        .await
        .unwrap();
    let from = accepted.records[0].seq;
    let ended = |record: &Record| record.turn == Some(turn) && matches!(record.event, Event::TurnCompleted { .. });
    world.wait_after(from, id, ended).await;
}

fn methods(records: &[Record]) -> Vec<CompressionMethod> {
    let method = |record: &Record| match record.event {
        Event::MemoryCompressed { method, .. } => Some(method),
        _ => None,
    };
    records.iter().filter_map(method).collect()
}

fn summaries_asked_for(world: &World) -> usize {
    world
        .model
        .requests()
        .iter()
        .filter(|request| request.route == "small")
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_compression_runs_behind_a_turn_and_takes_effect_at_the_next_ones_start() {
    let world = World::with(policy(10_000)).await;
    world
        .model
        .on("small", &[says(&["They spoke."], Duration::from_secs(30))]);
    let id = world.create().await;
    for _ in 0..3 {
        say(&world, id, 100).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(summaries_asked_for(&world), 1);
    assert!(
        !world.names(id).contains(&"memory.compressed"),
        "the turns did not wait for the compression"
    );
    let begun = tokio::time::Instant::now();
    say(&world, id, 1).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "nor does the next turn");
    world.named(id, "memory.compressed").await;
    say(&world, id, 1).await;
    let requests = world.model.requests();
    let last = requests.iter().rfind(|request| request.route == "main").unwrap();
    match &last.messages[..2] {
        [PromptMessage::System { text: system }, PromptMessage::User { text }] => {
            assert!(
                !system.contains("They spoke."),
                "a summary must not become a system message"
            );
            assert!(text.contains("They spoke.\n</conversation_summary"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(methods(&world.log.records(id)), [CompressionMethod::Summarised]);
}

#[tokio::test(start_paused = true)]
async fn at_most_one_compression_is_in_flight_and_it_keeps_the_conversation_in_memory() {
    let world = World::with(policy(10_000)).await;
    world
        .model
        .on("small", &[says(&["They spoke."], Duration::from_secs(50))]);
    let id = world.create().await;
    for _ in 0..6 {
        say(&world, id, 100).await;
    }
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(summaries_asked_for(&world), 1);
    assert_eq!(world.directory().alive(), 1);
    world.named(id, "memory.compressed").await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_summariser_never_fails_a_turn_and_after_three_failures_in_a_row_the_memory_is_truncated() {
    for script in [
        vec![Act::Fail(FailureClass::Overload, None)],
        vec![Act::Text("cut".into())],
        vec![Act::Stall],
        vec![Act::Panic],
        // Loops until the bound on its answer stops it.
        vec![
            Act::Text("Ada wants a refund. ".repeat(40)),
            Act::Finish(Finish::Length),
        ],
    ] {
        let world = World::with(patient(10_000, Duration::from_secs(5))).await;
        world.model.on("small", std::slice::from_ref(&script));
        let id = world.create().await;
        // Turns that need no compression are not failures.
        for _ in 0..8 {
            say(&world, id, 1).await;
            world.settle().await;
        }
        say(&world, id, 200).await;
        world.settle().await;
        assert_eq!(methods(&world.log.records(id)), [], "{script:?}");
        for _ in 0..2 {
            say(&world, id, 1).await;
            world.settle().await;
        }
        world.named(id, "memory.compressed").await;
        assert_eq!(
            methods(&world.log.records(id)),
            [CompressionMethod::Truncated],
            "{script:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_urgent_memory_is_truncated_at_the_first_failure() {
    let world = World::with(policy(220)).await;
    world
        .model
        .on("small", &[vec![Act::Fail(FailureClass::Overload, None)]]);
    let id = world.create().await;
    for _ in 0..3 {
        say(&world, id, 120).await;
    }
    world.named(id, "memory.compressed").await;
    assert_eq!(methods(&world.log.records(id))[0], CompressionMethod::Truncated);
}

#[tokio::test(start_paused = true)]
async fn a_compression_that_a_crash_ended_is_planned_anew() {
    let mut world = World::with(policy(10_000)).await;
    world
        .model
        .on("small", &[says(&["They spoke."], Duration::from_secs(5))]);
    let id = world.create().await;
    for _ in 0..3 {
        say(&world, id, 100).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(summaries_asked_for(&world), 1);
    world.crash().await;
    world.restart().await;
    say(&world, id, 1).await;
    world.named(id, "memory.compressed").await;
    assert_eq!(summaries_asked_for(&world), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wake_reads_the_window_and_not_the_whole_log() {
    let mut world = World::with(policy(10_000)).await;
    world.model.on("small", &[says(&["They spoke."], Duration::ZERO)]);
    let id = world.create().await;
    let mut turns = 0;
    while turns < 2_000 {
        say(&world, id, 10).await;
        turns += 1;
        if turns % 50 == 0 {
            world.settle().await;
        }
    }
    world.settle().await;
    assert!(world.log.records(id).len() >= 10_000);
    world.crash().await;
    world.restart().await;
    let before = world.probe.records_read();
    let begun = world.model.requests().len();
    say(&world, id, 1).await;
    let read = world.probe.records_read() - before;
    assert!(read < 300, "{read} records were read");
    let request = world.model.requests()[begun..]
        .iter()
        .find(|r| r.route == "main")
        .cloned()
        .unwrap();
    let woken = format!("{:?}", request.messages);
    assert!(woken.contains("They spoke."));
}

/// Returns the user's messages with a summary in the last prompt.
fn summaries_shown(world: &World) -> Vec<String> {
    let requests = world.model.requests();
    let last = requests.iter().rfind(|request| request.route == "main").unwrap();
    let summary = |message: &PromptMessage| match message {
        PromptMessage::User { text } if text.contains("</conversation_summary") => Some(text.clone()),
        _ => None,
    };
    last.messages.iter().filter_map(summary).collect()
}

#[tokio::test(start_paused = true)]
async fn a_summary_in_another_language_than_its_instructions_takes_effect_as_it_is() {
    for summary in [
        "Sie sprachen über Rückerstattungen; Ada wartet auf 30 €.",
        "他们谈到了退款。阿达在等三十欧元。",
        "تحدثوا عن استرداد المبلغ. تنتظر آدا ثلاثين يورو.",
        "払い戻しについて話しました。",
    ] {
        let mut world = World::with(policy(10_000)).await;
        world.model.on("small", &[says(&[summary], Duration::from_secs(1))]);
        let id = world.create().await;
        for _ in 0..3 {
            say(&world, id, 100).await;
        }
        world.named(id, "memory.compressed").await;
        assert_eq!(
            methods(&world.log.records(id)),
            [CompressionMethod::Summarised],
            "{summary}"
        );
        let expected = format!("{summary}\n</conversation_summary");
        say(&world, id, 1).await;
        let shown = summaries_shown(&world);
        assert!(shown.len() == 1 && shown[0].contains(&expected), "{shown:?}");
        // After a restart it is what the log says.
        world.crash().await;
        world.restart().await;
        say(&world, id, 1).await;
        assert_eq!(summaries_shown(&world), shown);
    }
}

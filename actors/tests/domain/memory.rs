//! The window, its summary and its compression.

use copilotd_actors::domain::context::compression::{CompressionPlan, accept, plan, truncated};
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::CompressionMethod;
use copilotd_actors::domain::policy::{MemoryPolicy, Policy};
use copilotd_actors::domain::usage::Usage;
use proptest::prelude::*;

use crate::acts::*;
use crate::support::{Scenario, policy};

/// A conversation in which each answer is `words` words long.
fn talk(policy: Policy, words: &[usize]) -> Scenario {
    let mut scenario = Scenario::new(policy);
    for (index, words) in words.iter().enumerate() {
        scenario.play(&submit(index as u128 + 1));
        let at = present(&scenario);
        let reply = reply(&"word ".repeat(*words), Vec::new());
        scenario.run(Command::ModelReplied { at, reply }).expect("an answer");
    }
    scenario
}

fn compress(scenario: &mut Scenario, plan: &CompressionPlan, summary: &str) {
    let command = Command::Compressed {
        upto_seq: plan.upto_seq,
        tokens_before: plan.tokens_before,
        tokens_after: tokens::count(summary),
        summary: summary.to_owned(),
        method: CompressionMethod::Summarised,
        model: "s".into(),
        usage: Usage::default(),
    };
    scenario.run(command).expect("a summary");
}

fn planned(scenario: &Scenario) -> Option<CompressionPlan> {
    plan(&scenario.conversation.memory, &scenario.policy.memory)
}

#[test]
fn the_window_is_compressed_only_beyond_its_trigger() {
    let mut scenario = talk(policy(), &[10; 4]);
    let total = scenario.conversation.memory.tokens();
    scenario.policy.memory.trigger_tokens = total;
    assert_eq!(planned(&scenario), None);
    scenario.policy.memory.trigger_tokens = total - 1;
    let plan = planned(&scenario).expect("a plan");
    // Trigger and plan use the same tokenizer: what leaves and what stays add up to the total.
    let kept: u64 = scenario
        .conversation
        .memory
        .blocks
        .iter()
        .filter(|block| block.end_seq.is_none_or(|end| end > plan.upto_seq))
        .map(|block| block.tokens())
        .sum();
    assert_eq!(plan.tokens_before + kept, total);
    assert!(kept <= scenario.policy.memory.keep_tokens);
}

#[test]
fn a_running_turn_stays_and_its_prompt_does_not_move() {
    let mut scenario = talk(policy(), &[30, 30, 30]);
    scenario.play(&submit(9));
    scenario.play(&submit(10));
    let before = scenario.prompt();
    let plan = planned(&scenario).expect("a plan");
    compress(&mut scenario, &plan, "they talked");
    assert_eq!(scenario.prompt(), before);
    assert_eq!(planned(&scenario), None, "a pending summary counts");
    scenario.play(&asks(&["read"]));
    scenario.play(&done(0));
    assert!(scenario.prompt().starts_with(&before));
    scenario.play(&says("ok"));
    let after = scenario.prompt();
    assert!(after.starts_with("system Be brief."), "{after}");
    assert!(
        after.contains(
            "user Summary of the conversation so far:\n<conversation_summary>\nthey talked\n</conversation_summary>\n\
             assistant (Read as data.)\nuser question 9"
        ),
        "{after}"
    );
    let system = after.split("\nuser ").next().unwrap_or_default();
    assert!(!system.contains("they talked"), "{system}");
    assert!(after.ends_with("assistant ok\nuser question 10"), "{after}");
}

#[test]
fn a_turn_leaves_with_its_calls_and_results() {
    let mut scenario = talk(policy(), &[30]);
    for act in [
        submit(2),
        asks(&["read", "read"]),
        done(1),
        done(0),
        says("done"),
        submit(3),
    ] {
        scenario.play(&act);
    }
    scenario.policy.memory.keep_tokens = 10;
    for trigger in (1..scenario.conversation.memory.tokens()).rev() {
        scenario.policy.memory.trigger_tokens = trigger;
        let plan = planned(&scenario).expect("a plan");
        assert!(
            scenario
                .conversation
                .memory
                .blocks
                .iter()
                .any(|block| block.end_seq == Some(plan.upto_seq))
        );
        assert_eq!(plan.passes.concat().matches("Tool: <tool_result").count() % 2, 0);
    }
}

#[test]
fn only_the_end_of_a_turn_in_the_window_can_be_compressed_up_to() {
    let mut scenario = talk(policy(), &[30, 30, 30]);
    let plan = planned(&scenario).expect("a plan");
    let ends: Vec<_> = scenario
        .conversation
        .memory
        .blocks
        .iter()
        .filter_map(|block| block.end_seq)
        .collect();
    for upto_seq in (0..scenario.conversation.seq + 3).filter(|seq| !ends.contains(seq)) {
        let appends = scenario.appends.len();
        compress(
            &mut scenario,
            &CompressionPlan {
                upto_seq,
                ..plan.clone()
            },
            "wrong",
        );
        assert_eq!(scenario.appends.len(), appends, "{upto_seq}");
    }
    compress(&mut scenario, &plan, "right");
    let appends = scenario.appends.len();
    compress(&mut scenario, &plan, "the same again");
    assert_eq!(scenario.appends.len(), appends);
}

#[test]
fn what_came_before_a_large_running_turn_can_leave() {
    let mut scenario = talk(policy(), &[10, 10]);
    let end = scenario.conversation.seq;
    scenario.play(&submit(9));
    scenario.play(&asks_with(vec![(
        "read",
        serde_json::json!({ "n": "word ".repeat(300) }),
    )]));
    assert!(scenario.conversation.active().is_some());
    assert_eq!(planned(&scenario).expect("a plan").upto_seq, end);
}

#[test]
fn a_late_summary_does_not_undo_a_newer_one() {
    let mut scenario = talk(policy(), &[30, 30, 30]);
    let first = scenario.conversation.memory.blocks[0].end_seq.expect("it has ended");
    scenario.play(&submit(9));
    let plan = planned(&scenario).expect("a plan");
    assert!(first < plan.upto_seq);
    compress(&mut scenario, &plan, "they talked");
    let late = CompressionPlan {
        upto_seq: first,
        ..plan
    };
    let appends = scenario.appends.len();
    compress(&mut scenario, &late, "they began to talk");
    assert_eq!(scenario.appends.len(), appends);
}

#[test]
fn a_prompt_that_was_queued_before_the_cut_is_found_again() {
    let mut scenario = Scenario::new(policy());
    for act in [submit(1), submit(2), submit(3)] {
        scenario.play(&act);
    }
    let queued = scenario.conversation.seq;
    for text in ["one", "two"] {
        let reply = reply(&format!("{text} ").repeat(60), Vec::new());
        let at = present(&scenario);
        scenario.run(Command::ModelReplied { at, reply }).expect("an answer");
    }
    let plan = planned(&scenario).expect("a plan");
    compress(&mut scenario, &plan, "s");
    scenario.play(&says("three"));
    scenario.play(&submit(4));
    let memory = &scenario.conversation.memory;
    assert_eq!(memory.blocks.len(), 2, "the summary is in effect");
    assert_eq!(memory.window_from(), Some(queued));
    assert!(queued < plan.upto_seq);
}

#[test]
fn a_summary_has_to_shrink() {
    let scenario = talk(policy(), &[30, 30, 30]);
    let (plan, policy) = (planned(&scenario).expect("a plan"), &scenario.policy.memory);
    assert_eq!(accept(&plan, " \n", policy), None);
    assert_eq!(accept(&plan, " short ", policy), Some(("short".to_owned(), 1)));
    let (clipped, size) = accept(&plan, &"long ".repeat(1000), policy).expect("clipped");
    assert!(size <= policy.summary_tokens + 1, "{size} {clipped}");
    let mut small = plan.clone();
    small.tokens_before = 10;
    assert_eq!(
        accept(&small, "one two three four five six seven eight nine ten", policy),
        None
    );
}

fn small_policies() -> impl Strategy<Value = MemoryPolicy> {
    (100u64..400, 1u64..60, 24u64..40, 8u64..80, 0usize..4).prop_map(|(trigger, keep, summary, pass, passes)| {
        MemoryPolicy {
            context_tokens: 2 * trigger,
            trigger_tokens: trigger,
            keep_tokens: keep,
            hard_tokens: trigger + 50,
            summary_tokens: summary,
            pass_tokens: pass,
            passes,
            timeout: std::time::Duration::ZERO,
            retrieved_tokens: 100,
            facts: false,
            fact_tokens: 100,
            answer_tokens: 0,
            conversation_tokens: None,
            recalled_tokens: 100,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Even without a summariser the window gets below its trigger, and then there is nothing more to compress.
    #[test]
    fn truncation_is_a_floor(words in prop::collection::vec(0usize..500, 1..12), memory in small_policies()) {
        let mut policy = policy();
        policy.memory = memory;
        policy.limits.tokens = u64::MAX;
        let mut scenario = talk(policy, &words);
        let before = scenario.conversation.memory.tokens();
        let mut rounds = 0;
        while let Some(plan) = planned(&scenario) {
            prop_assert!(plan.passes.len() <= scenario.policy.memory.passes.max(1));
            for pass in &plan.passes {
                prop_assert!(tokens::count(pass) <= scenario.policy.memory.pass_tokens + 2, "{}", pass);
            }
            let summary = truncated(&plan, &scenario.policy.memory);
            prop_assert!(tokens::count(&summary) < plan.tokens_before);
            compress(&mut scenario, &plan, &summary);
            rounds += 1;
            prop_assert!(rounds <= words.len());
        }
        let after = scenario.conversation.memory.tokens();
        prop_assert!(rounds == 0 || after < before);
        prop_assert!(after <= scenario.policy.memory.trigger_tokens, "{} of {}", after, before);
    }

    /// A long conversation, with a check of the memory after each turn.
    #[test]
    fn a_long_conversation_stays_small(words in prop::collection::vec(0usize..60, 1..40), memory in small_policies()) {
        let mut policy = policy();
        policy.memory = memory;
        let mut scenario = Scenario::new(policy);
        for (index, words) in words.iter().enumerate() {
            scenario.play(&submit(index as u128 + 1));
            let reply = reply(&"word ".repeat(*words), Vec::new());
            let at = present(&scenario);
            scenario.run(Command::ModelReplied { at, reply }).expect("an answer");
            if let Some(plan) = planned(&scenario) {
                let summary = truncated(&plan, &scenario.policy.memory);
                compress(&mut scenario, &plan, &summary);
            }
            prop_assert!(scenario.conversation.memory.tokens() <= scenario.policy.memory.trigger_tokens);
        }
    }
}

#[test]
fn no_text_breaks_the_tokenizer() {
    for text in [
        " ".repeat(70_000) + "x",
        "a".repeat(70_000),
        "\n \n\t".repeat(20_000) + "x",
        "é".repeat(30_000),
        "🙂".repeat(10_000),
        "\u{0}\u{feff}\u{202e}".repeat(5_000),
        "AbC1".repeat(15_000),
    ] {
        let count = tokens::count(&text);
        let clipped = tokens::clip(&text, count / 2);
        assert!(count > 0 && text.starts_with(clipped));
    }
}

#[test]
fn a_huge_message_is_cut_into_bounded_passes() {
    let mut policy = policy();
    policy.limits.tokens = u64::MAX;
    let scenario = talk(policy, &[50_000]);
    let plan = planned(&scenario).expect("a plan");
    assert_eq!(plan.passes.len(), 3);
}

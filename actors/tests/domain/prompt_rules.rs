//! Random histories with crashes, cancels, rejections, truncations, stale and repeated reports, checked after every
//! record: prompts satisfy the vendors' rules, a fold from anywhere gives the same state, and every turn ends.

use std::collections::BTreeSet;

use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::context::replay;
use copilotd_actors::domain::conversation::effects::open_effects;
use copilotd_actors::domain::conversation::turn::Phase;
use copilotd_actors::domain::conversation::{Conversation, snapshot};
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{CallId, TurnId};
use copilotd_actors::domain::policy::Policy;
use proptest::prelude::*;

use crate::audit::audit;
use crate::history::{History, step};
use crate::support::{Scenario, assembled, conversation_id, fold};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Checks the rules of logs, prompts and folds at every point of every history.
    #[test]
    fn every_history_keeps_the_rules(steps in prop::collection::vec(step(), 1..100)) {
        let mut history = History::new();
        for step in &steps {
            history.play(step);
        }
        history.finish();
        let scenario = &history.scenario;
        audit(&scenario.appends);
        prompts_keep_the_vendors_rules(scenario);
        any_cut_folds_to_the_same_state(scenario);
        every_prompt_can_be_shown_again(scenario);
    }
}

fn prompts_keep_the_vendors_rules(scenario: &Scenario) {
    let mut conversation = Conversation::new(conversation_id());
    let mut last: Option<(Vec<PromptMessage>, Option<u64>)> = None;
    for append in &scenario.appends {
        append.iter().for_each(|record| conversation.apply(record));
        let replaces = append
            .iter()
            .any(|record| matches!(record.event, Event::TurnReplaced { .. }));
        last = last.filter(|_| !replaces);
        if conversation.active().is_none_or(|turn| turn.phase != Phase::Thinking) {
            continue;
        }
        let messages = assembled(&conversation.memory, &scenario.policy).messages;
        openai(&messages);
        anthropic(&messages);
        let upto = conversation.memory.summary.as_ref().map(|summary| summary.upto_seq);
        if let Some((before, summarised)) = last
            && summarised == upto
        {
            assert!(
                messages.starts_with(&before),
                "the prefix moved:\n{before:#?}\n{messages:#?}"
            );
        }
        last = Some((messages, upto));
    }
}

/// The log has every prompt to the byte, and reading it needs nothing before the oldest record of the prompt.
fn every_prompt_can_be_shown_again(scenario: &Scenario) {
    let log = scenario.decoded();
    let turns: BTreeSet<TurnId> = log.iter().filter_map(|record| record.turn).collect();
    for turn in turns {
        let own: Vec<Record> = log.iter().filter(|record| record.turn == Some(turn)).cloned().collect();
        let needed = replay::needed(&own);
        let between = |record: &&Record| (needed.from..=needed.upto).contains(&record.seq);
        let records: Vec<Record> = log.iter().filter(between).cloned().collect();
        let earlier: Vec<Record> = log
            .iter()
            .filter(|record| needed.earlier.contains(&record.seq))
            .cloned()
            .collect();
        let sent = own
            .iter()
            .filter(|record| matches!(record.event, Event::ContextAssembled { .. }));
        let fact = |n: u32| (format!("id_{n}"), (jiff::Timestamp::UNIX_EPOCH, format!("fact {n}")));
        let facts: replay::FactTexts = (0..4).map(fact).collect();
        let prompts = replay::prompts(turn, &records, &earlier, facts.clone());
        assert_eq!(prompts.len(), sent.count());
        // Page by page they are the same.
        let (mut paged, mut after, mut more) = (Vec::new(), 0, !prompts.is_empty());
        while more {
            let bounds = replay::Bounds {
                after,
                prompts: 2,
                bytes: 200,
            };
            let page;
            (page, more) = replay::page(turn, &records, &earlier, facts.clone(), bounds);
            after = page.last().expect("a page is never empty").seq;
            paged.extend(page);
        }
        assert_eq!(paged, prompts);
        for prompt in prompts {
            let sent = prompt
                .sent
                .as_ref()
                .unwrap_or_else(|| panic!("a part is missing: {prompt:#?}"));
            assert!(sent.is_exact, "{prompt:#?}");
        }
    }
}

/// Each call is answered by exactly one message directly after it, and only calls are answered; nothing is empty.
fn openai(messages: &[PromptMessage]) {
    let mut open: Vec<CallId> = Vec::new();
    for message in messages {
        match message {
            PromptMessage::Tool { call, content } => {
                assert_eq!(open.first(), Some(call), "{messages:#?}");
                open.remove(0);
                assert!(!content.trim().is_empty());
            }
            PromptMessage::Files { files } => {
                assert!(open.is_empty(), "{messages:#?}");
                assert!(!files.is_empty());
            }
            PromptMessage::System { text } | PromptMessage::User { text } => {
                assert!(open.is_empty(), "{messages:#?}");
                assert!(!text.trim().is_empty());
            }
            PromptMessage::Assistant { text, calls } => {
                assert!(open.is_empty(), "{messages:#?}");
                assert!(!calls.is_empty() || !text.trim().is_empty(), "{messages:#?}");
                assert!(
                    text.is_empty() || !text.trim().is_empty(),
                    "a text block of only white space"
                );
                open = calls.iter().map(|call| call.id).collect();
                for call in calls {
                    assert!(call.arguments.is_object());
                    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    assert!(
                        (1..=64).contains(&call.name.len()) && call.name.chars().all(fits),
                        "{:?}",
                        call.name
                    );
                }
            }
        }
    }
    assert!(open.is_empty(), "{messages:#?}");
}

/// After the system text the roles alternate, with results on the user's side; the user is first and last.
fn anthropic(messages: &[PromptMessage]) {
    assert!(matches!(messages[0], PromptMessage::System { .. }));
    let mut turns: Vec<&str> = Vec::new();
    let mut results_open = false;
    for message in &messages[1..] {
        let tool = matches!(message, PromptMessage::Tool { .. });
        if !(tool && results_open) {
            turns.push(match message {
                PromptMessage::System { .. } => panic!("a second system text"),
                PromptMessage::Assistant { .. } => "assistant",
                PromptMessage::User { .. } | PromptMessage::Files { .. } | PromptMessage::Tool { .. } => "user",
            });
        }
        results_open = tool;
    }
    for (index, side) in turns.iter().enumerate() {
        assert_eq!(
            *side,
            if index % 2 == 0 { "user" } else { "assistant" },
            "{messages:#?}"
        );
    }
    assert_eq!(turns.len() % 2, 1, "the user has the last word: {messages:#?}");
}

/// A live state, a fold of the stored records and a completed snapshot are equal after every record.
fn any_cut_folds_to_the_same_state(scenario: &Scenario) {
    let log = scenario.decoded();
    let whole = fold(&log);
    assert_eq!(whole, scenario.conversation);
    let mut live = Conversation::new(conversation_id());
    for (index, record) in scenario.log().enumerate() {
        live.apply(record);
        let mut woken = wake(&live, &log[..=index]);
        same(&woken, &live, &scenario.policy);
        if index % 5 == 0 {
            log[index + 1..].iter().for_each(|record| woken.apply(record));
            same(&woken, &whole, &scenario.policy);
        }
    }
}

fn wake(state: &Conversation, log: &[Record]) -> Conversation {
    let seq = state.seq;
    let bytes = snapshot::encode(state);
    let (mut woken, from) = snapshot::decode(state.id, seq, &bytes).expect("a snapshot of this version");
    for record in log.iter().filter(|record| (from..=seq).contains(&record.seq)) {
        snapshot::refill(&mut woken, record);
    }
    woken
}

fn same(one: &Conversation, other: &Conversation, policy: &Policy) {
    assert_eq!(one, other);
    assert_eq!(open_effects(one, policy), open_effects(other, policy));
    assert_eq!(
        assembled(&one.memory, policy).messages,
        assembled(&other.memory, policy).messages
    );
}

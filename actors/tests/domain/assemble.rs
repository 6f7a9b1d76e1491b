//! Assembly of the context: what goes into a prompt, what is left out and what is recorded about it.

use copilotd_actors::domain::context::assemble::{Assembled, Budget, TooLarge, assemble};
use copilotd_actors::domain::context::compression::plan;
use copilotd_actors::domain::context::gathered::{Gathered, Passage, PassageKind};
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::context::recalled;
use copilotd_actors::domain::context::recent::plan as plan_recall;
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::context_record::{ContextItem, ContextRecord, Included, ItemKind, Omitted};
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::conversation::view::public_event;
use copilotd_actors::domain::event::{CompressionMethod, Event};
use copilotd_actors::domain::policy::Policy;
use copilotd_actors::domain::sent_prompt::Fixed;
use copilotd_actors::domain::usage::Usage;
use proptest::prelude::*;
use serde_json::json;

use crate::acts::*;
use crate::support::{Scenario, UNLIMITED, policy};

/// A conversation with answers of these lengths and a running turn; with a summary that waits for the next turn if
/// `pending`.
fn talk(words: &[usize], pending: bool) -> Scenario {
    let mut policy = policy();
    policy.limits.tokens = u64::MAX;
    let mut scenario = Scenario::new(policy);
    for (index, words) in words.iter().enumerate() {
        scenario.play(&submit(index as u128 + 1));
        let at = present(&scenario);
        let reply = reply(&"word ".repeat(*words), Vec::new());
        scenario.run(Command::ModelReplied { at, reply }).expect("an answer");
    }
    scenario.play(&submit(99));
    let planned = plan(&scenario.conversation.memory, &scenario.policy.memory).filter(|_| pending);
    if let Some(plan) = planned {
        let command = Command::Compressed {
            upto_seq: plan.upto_seq,
            tokens_before: plan.tokens_before,
            tokens_after: 2,
            summary: "they talked".to_owned(),
            method: CompressionMethod::Summarised,
            model: "s".into(),
            usage: Usage::default(),
        };
        scenario.run(command).expect("a summary");
    }
    scenario
}

fn gather(scenario: &Scenario) -> Gathered {
    Gathered::count(
        scenario.conversation.memory.clone(),
        false,
        &scenario.policy,
        Some(&json!({ "type": "object" })),
    )
}

fn passage(kind: PassageKind, id: usize, words: usize, priority: u8) -> Passage {
    let text = format!("passage {id}{}", " word".repeat(words));
    Passage::count(kind, format!("id_{id}"), text, priority, Some(0.5))
}

fn up_to(context_tokens: u64) -> Budget {
    Budget {
        context_tokens,
        reserved_tokens: 0,
        answer_tokens: 0,
        retrieved_tokens: u64::MAX,
        conversation_tokens: None,
        recalled_tokens: u64::MAX,
        fact_tokens: u64::MAX,
    }
}

/// Parts in the record, and parts that were gathered.
fn counted(record: &ContextRecord, gathered: &Gathered) -> (u64, u64) {
    let included: u64 = record.included.iter().map(|item| item.count).sum();
    let omitted: u64 = record.omitted.iter().map(|item| item.count).sum();
    let current = &gathered.current;
    let summaries = [Some(current), gathered.compressed.as_ref()].into_iter().flatten();
    let messages: usize = current.blocks.iter().map(|block| block.entries.len()).sum();
    let parts = 1
        + gathered.tools
        + u64::from(gathered.response_schema_tokens.is_some())
        + summaries.filter(|view| view.summary.is_some()).count() as u64
        + messages as u64
        + gathered.passages.len() as u64;
    (included + omitted, parts)
}

/// Tokens of the messages, by the record.
fn recorded_tokens(record: &ContextRecord, gathered: &Gathered) -> u64 {
    let is_message = |kind: ItemKind| !matches!(kind, ItemKind::Tool | ItemKind::ResponseSchema);
    let items = record.included.iter().filter(|item| is_message(item.kind));
    let framed = [ItemKind::Fact, ItemKind::Chunk]
        .iter()
        .filter(|kind| record.included.iter().any(|item| item.kind == **kind))
        .count() as u64;
    let recalled = record.included.iter().any(is_recalled);
    let frame = if recalled { gathered.recalled_frame_tokens } else { 0 };
    items.map(|item| item.tokens).sum::<u64>() + framed * gathered.frame_tokens + frame
}

fn is_recalled(item: &ContextItem<Included>) -> bool {
    item.kind == ItemKind::Message && item.id.is_some()
}

/// Tokens of summary, earlier turns and recalled messages, by the record.
fn conversation_tokens(record: &ContextRecord, gathered: &Gathered) -> u64 {
    let running = gathered.current.blocks.back().map_or(0, |block| block.tokens());
    let items = record.included.iter();
    let counted = items.filter(|item| matches!(item.kind, ItemKind::Summary | ItemKind::Message));
    let recalled = record.included.iter().any(is_recalled);
    let frame = if recalled { gathered.recalled_frame_tokens } else { 0 };
    counted.map(|item| item.tokens).sum::<u64>() + frame - running
}

fn kinds(assembled: &Assembled) -> Vec<ItemKind> {
    assembled.record.included.iter().map(|item| item.kind).collect()
}

#[test]
fn stable_parts_come_first_and_the_running_turn_last() {
    let mut gathered = gather(&talk(&[3, 3], false));
    gathered.passages = vec![
        passage(PassageKind::Chunk, 1, 3, 0),
        passage(PassageKind::Fact, 2, 3, 0),
        passage(PassageKind::Chunk, 3, 3, 9),
    ];
    let assembled = assemble(&gathered, UNLIMITED).expect("it fits");
    use ItemKind::*;
    assert_eq!(
        kinds(&assembled),
        [Instructions, Tool, ResponseSchema, Fact, Message, Message, Chunk, Chunk]
    );
    let texts: Vec<&str> = assembled
        .messages
        .iter()
        .filter_map(|message| match message {
            PromptMessage::User { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        texts,
        [
            "passage 2 word word word",
            "question 1",
            "question 2",
            // Priority decides what is left out, not the order.
            "passage 1 word word word\npassage 3 word word word",
            "question 99",
        ]
    );
}

#[test]
fn the_least_important_passages_are_left_out() {
    let mut gathered = gather(&talk(&[], false));
    gathered.passages = vec![
        passage(PassageKind::Chunk, 1, 10, 1),
        passage(PassageKind::Chunk, 2, 200, 2),
        passage(PassageKind::Chunk, 3, 10, 1),
        passage(PassageKind::Chunk, 4, 10, 3),
    ];
    let required = gathered.current.tokens() + gathered.frame_tokens;
    let small = gathered.passages[0].tokens;
    // The room in tokens, and what is chosen.
    for (room, chosen) in [
        (0, vec![]),
        (small - 1, vec![]),
        (small, vec!["id_4"]),
        (2 * small, vec!["id_1", "id_4"]),
        (3 * small, vec!["id_1", "id_3", "id_4"]),
        (small + gathered.passages[1].tokens, vec!["id_2", "id_4"]),
        (1_000, vec!["id_1", "id_2", "id_3", "id_4"]),
    ] {
        let budget = Budget {
            reserved_tokens: 50,
            ..up_to(required + room + 50)
        };
        let record = assemble(&gathered, budget).expect("it fits").record;
        let ids: Vec<&str> = record.included.iter().filter_map(|item| item.id.as_deref()).collect();
        assert_eq!(ids, chosen, "{room}");
        assert!(record.omitted.iter().all(|item| item.reason == Omitted::Budget));
        assert_eq!(record.omitted.len(), 4 - chosen.len());
    }
}

#[test]
fn a_pending_summary_is_used_only_if_the_prompt_does_not_fit_without_it() {
    let mut gathered = gather(&talk(&[60, 60, 60], true));
    let (long, short) = (
        gathered.current.tokens(),
        gathered.compressed.as_ref().expect("a summary").tokens(),
    );
    assert!(short < long);
    let reasons = |gathered: &Gathered, budget| {
        let assembled = assemble(gathered, budget).expect("it fits");
        let reasons = assembled.record.omitted.iter().map(|item| (item.kind, item.reason));
        (assembled.tokens, reasons.collect::<Vec<_>>())
    };
    let pending = vec![(ItemKind::Summary, Omitted::Pending)];
    let compressed = vec![(ItemKind::Message, Omitted::Compressed)];
    assert_eq!(reasons(&gathered, up_to(long)), (long, pending));
    assert_eq!(reasons(&gathered, up_to(long - 1)), (short, compressed.clone()));
    assert_eq!(reasons(&gathered, up_to(short)), (short, compressed.clone()));
    let error = TooLarge {
        tokens: short,
        available: short - 1,
    };
    assert_eq!(assemble(&gathered, up_to(short - 1)), Err(error));
    gathered.needs_summary = true;
    assert_eq!(reasons(&gathered, UNLIMITED), (short, compressed));
}

#[test]
fn with_a_budget_the_newest_turns_stay_and_the_others_are_left_out() {
    let mut scenario = talk(&[120, 120, 10], false);
    let gathered = |scenario: &Scenario| {
        let mut gathered = gather(scenario);
        gathered.passages = (1..=9)
            .map(|id| passage(PassageKind::Recalled, id, 8, 9 - id as u8))
            .collect();
        gathered
    };
    let parts = gathered(&scenario);
    let of_turns: Vec<u64> = parts.current.blocks.iter().map(|block| block.tokens()).collect();
    let all: u64 = of_turns[..3].iter().sum();
    let recalled = |count: u64| parts.recalled_frame_tokens + count * parts.passages[0].tokens;
    // The budget, and the turns that stay.
    for (most, stays) in [
        (all, 3),
        (4 * of_turns[2] - 1, 0),
        (4 * of_turns[2], 1),
        (4 * of_turns[2] + recalled(3), 1),
        (all - 1, 1),
    ] {
        let budget = Budget {
            conversation_tokens: Some(most),
            ..UNLIMITED
        };
        let assembled = assemble(&parts, budget).expect("it fits");
        let record = &assembled.record;
        assert!(conversation_tokens(record, &parts) <= most);
        let left_out = record.omitted.iter().filter(|item| item.id.is_none());
        assert_eq!(left_out.map(|item| item.count).sum::<u64>(), 2 * (3 - stays), "{most}");
        let kept: u64 = of_turns[3 - stays as usize..3].iter().sum();
        let room = (most - kept).saturating_sub(parts.recalled_frame_tokens);
        let expected = if stays == 3 {
            0
        } else {
            (room / parts.passages[0].tokens).min(9)
        };
        let count = record.included.iter().filter(|item| is_recalled(item)).count() as u64;
        assert_eq!(count, expected, "{most}");
        scenario.policy.memory.conversation_tokens = Some(most);
        let planned = plan_recall(scenario.conversation.memory.clone(), false, &scenario.policy);
        let blocks = &scenario.conversation.memory.blocks;
        let before = (stays < 3 && room > 0).then(|| blocks[2 - stays as usize].end_seq.expect("it has ended"));
        assert_eq!(planned.map(|plan| plan.before), before, "{most}");
    }
}

#[test]
fn recalled_messages_stand_between_one_pair_of_delimiters_in_their_order() {
    let mut gathered = gather(&talk(&[3], true));
    gathered.passages = (1..=3)
        .map(|id| passage(PassageKind::Recalled, id, 1, id as u8))
        .collect();
    let budget = Budget {
        conversation_tokens: Some(1_000),
        ..UNLIMITED
    };
    // Everything fits: nothing is left out that could be recalled.
    assert!(kinds(&assemble(&gathered, budget).expect("it fits")).len() < 7);
    let budget = Budget {
        conversation_tokens: None,
        recalled_tokens: 1_000,
        ..UNLIMITED
    };
    gathered.current.summary = Some(copilotd_actors::domain::context::gathered::CountedSummary {
        upto_seq: 1,
        text: "they talked".into(),
        tokens: 20,
    });
    let assembled = assemble(&gathered, budget).expect("it fits");
    let lines = ["passage 1 word", "passage 2 word", "passage 3 word"];
    let expected = recalled::delimited(gathered.nonce.as_deref(), &lines);
    let texts: Vec<&str> = assembled.messages.iter().filter_map(PromptMessage::text).collect();
    assert_eq!(texts[texts.len() - 2], expected);
}

#[test]
fn the_record_is_small_however_much_was_gathered() {
    let mut gathered = gather(&talk(&[1; 12], false));
    let long = "x".repeat(5_000);
    gathered.passages = (0..2_000)
        .map(|id| Passage {
            id: format!("{id}{long}"),
            score: Some(f64::NAN),
            ..passage(PassageKind::Chunk, id, 1, (id % 7) as u8)
        })
        .collect();
    let budget = up_to(gathered.current.tokens() + 1_000);
    let record = assemble(&gathered, budget).expect("it fits").record;
    let (parts, gathered_parts) = counted(&record, &gathered);
    assert_eq!(parts, gathered_parts);
    let json = serde_json::to_string(&record).expect("it can be written");
    assert!(json.len() < 20_000, "{}", json.len());
    assert_eq!(
        serde_json::from_str::<ContextRecord>(&json).expect("it can be read"),
        record
    );
}

#[test]
fn the_record_is_stored_and_not_published() {
    let mut scenario = talk(&[2], false);
    let (at, assembled) = (present(&scenario), assemble(&gather(&scenario), UNLIMITED));
    let assembled = assembled.expect("it fits");
    let command = Command::ContextAssembled {
        at,
        prompt_tokens: assembled.tokens,
        summary_upto_seq: None,
        retrieved: Vec::new(),
        retrieval: None,
        guardrails: Vec::new(),
        context: assembled.record.clone(),
        sent: assembled.sent.clone(),
    };
    scenario.run(command).expect("recorded");
    let record = scenario.decoded().pop().expect("a record");
    let Event::ContextAssembled { context, .. } = &record.event else {
        panic!("{record:?}")
    };
    assert_eq!(context.as_ref(), Some(&assembled.record));
    assert!(record.weight() > 0);
    let public = public_event(&record).expect("it is public").data;
    let fields: Vec<&String> = public.as_object().expect("an object").keys().collect();
    let mut expected = ["seq", "turn_id", "at", "prompt_tokens", "summary_upto_seq", "retrieved"].to_vec();
    expected.sort_unstable();
    let mut fields: Vec<&str> = fields.into_iter().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, expected);
}

fn passages() -> impl Strategy<Value = Vec<Passage>> {
    prop::collection::vec((0usize..3, 0usize..40, 0u8..3), 0..50).prop_map(|passages| {
        let passage = |(id, (kind, words, priority)): (usize, (usize, usize, u8))| {
            let kinds = [PassageKind::Fact, PassageKind::Chunk, PassageKind::Recalled];
            passage(kinds[kind], id, words, priority)
        };
        passages.into_iter().enumerate().map(passage).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same input gives the same output, the budget holds, and nothing is lost.
    #[test]
    fn every_assembly_keeps_the_rules(
        words in prop::collection::vec(0usize..80, 0..6),
        pending in any::<bool>(),
        needs_summary in any::<bool>(),
        passages in passages(),
        share in 0u64..150,
        reserved_tokens in 0u64..20,
        conversation_tokens in prop::option::of(0u64..600),
        recalled_tokens in 0u64..300,
    ) {
        let scenario = talk(&words, pending);
        let mut gathered = gather(&scenario);
        (gathered.passages, gathered.needs_summary) = (passages, needs_summary);
        let everything = gathered.current.tokens() + gathered.passages.iter().map(|passage| passage.tokens).sum::<u64>();
        let budget = Budget { reserved_tokens, conversation_tokens, recalled_tokens, ..up_to(everything * share / 100) };
        let assembled = assemble(&gathered, budget);
        let again = Gathered { passages: gathered.passages.clone(), needs_summary, ..gather(&scenario) };
        prop_assert_eq!(&assembled, &assemble(&again, budget));
        let compressed = gathered.compressed.as_ref();
        match assembled {
            Ok(assembled) => {
                prop_assert!(assembled.tokens <= budget.available());
                prop_assert_eq!(assembled.tokens, recorded_tokens(&assembled.record, &gathered));
                let (parts, gathered_parts) = counted(&assembled.record, &gathered);
                prop_assert_eq!(parts, gathered_parts);
                if let Some(most) = budget.conversation_tokens {
                    prop_assert!(self::conversation_tokens(&assembled.record, &gathered) <= most);
                }
                let alternates = assembled.messages[1..].iter().enumerate().all(|(index, message)| {
                    matches!(message, PromptMessage::User { .. }) == (index % 2 == 0)
                });
                prop_assert!(alternates, "{:?}", assembled.messages);
                let text: String = assembled.messages.iter().map(text).collect();
                prop_assert!(tokens::count(&text) <= assembled.tokens);
            }
            Err(error) => {
                prop_assert_eq!(error.available, budget.available());
                prop_assert!(error.tokens > error.available);
                let smallest = compressed.map_or(gathered.current.tokens(), |view| view.tokens());
                if conversation_tokens.is_none() {
                    prop_assert_eq!(error.tokens, smallest);
                } else {
                    prop_assert!(error.tokens <= smallest);
                }
            }
        }
    }
}

fn text(message: &PromptMessage) -> String {
    match message {
        PromptMessage::System { text } | PromptMessage::User { text } | PromptMessage::Assistant { text, .. } => {
            format!("{text}\n")
        }
        PromptMessage::Files { files } => files.iter().map(|file| format!("{}\n", file.text)).collect(),
        PromptMessage::Tool { content, .. } => format!("{content}\n"),
    }
}

#[test]
fn what_an_earlier_record_has_is_not_kept_twice() {
    let mut scenario = talk(&[], false);
    let keep = |scenario: &mut Scenario, policy: fn(&mut Policy)| {
        policy(&mut scenario.policy);
        scenario.policy = scenario.policy.clone();
        let mut gathered = gather(scenario);
        gathered.passages = vec![passage(PassageKind::Chunk, 1, 3, 0)];
        let assembled = assemble(&gathered, UNLIMITED).expect("it fits");
        let command = Command::ContextAssembled {
            at: present(scenario),
            prompt_tokens: assembled.tokens,
            summary_upto_seq: None,
            retrieved: Vec::new(),
            retrieval: None,
            guardrails: Vec::new(),
            context: assembled.record,
            sent: assembled.sent,
        };
        scenario.run(command).expect("recorded");
        let record = scenario.decoded().pop().expect("a record");
        let Event::ContextAssembled { sent: Some(sent), .. } = record.event else {
            panic!("{record:?}")
        };
        let texts = sent.passages.iter().filter(|passage| passage.text.is_some()).count();
        (record.seq, sent.fixed, texts)
    };
    let (first, fixed, texts) = keep(&mut scenario, |_| ());
    assert!(matches!(fixed, Fixed::Parts(_)));
    assert_eq!(texts, 1);
    let (_, fixed, texts) = keep(&mut scenario, |_| ());
    assert_eq!((fixed, texts), (Fixed::At(first), 0));
    let (_, fixed, _) = keep(&mut scenario, |policy| policy.instructions.push_str(" Be brief."));
    let Fixed::Parts(parts) = fixed else {
        panic!("other instructions")
    };
    assert!(parts.system.contains("Be brief."), "{}", parts.system);
    scenario.crash();
    let (_, fixed, texts) = keep(&mut scenario, |_| ());
    assert!(matches!(fixed, Fixed::At(_)), "the state has it, however it was folded");
    assert_eq!(texts, 0);
}

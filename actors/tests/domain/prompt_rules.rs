//! Random histories with crashes, cancels, rejections, truncations, stale and repeated reports, looked at after every
//! record: prompts keep the vendors' rules, a fold from anywhere gives the same state, and every turn ends.

use std::time::Duration;

use copilotd_actors::domain::command::{Command, Decision, FailureClass, Halt, ModelFailure, WhenBusy};
use copilotd_actors::domain::compression;
use copilotd_actors::domain::content::{Input, Metadata, ToolStatus};
use copilotd_actors::domain::conversation::Conversation;
use copilotd_actors::domain::effects::{Effect, open_effects};
use copilotd_actors::domain::event::{CompressionMethod, Record};
use copilotd_actors::domain::ids::CallId;
use copilotd_actors::domain::policy::Policy;
use copilotd_actors::domain::project;
use copilotd_actors::domain::prompt::PromptMessage;
use copilotd_actors::domain::snapshot;
use copilotd_actors::domain::turn::Phase;
use copilotd_actors::domain::usage::Usage;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::acts::{USAGE, key, present, reply, sealed};
use crate::audit::audit;
use crate::support::{World, conversation_id, fold, policy, turn};

/// What happens next. Numbers choose among what is there, so that most steps mean something.
#[derive(Debug, Clone)]
enum Step {
    Submit { when: u8, kind: u8 },
    Say(u8),
    Ask(Vec<u8>),
    Fail(u8),
    Block,
    Assembled,
    Report { call: u8, status: u8 },
    Decide { call: u8, kind: u8 },
    Expire { call: u8 },
    ExpireTurn,
    Cancel { turn: u8, halt: u8 },
    Crash,
    Compress(u8),
    Again(u16),
    Pass(u16),
    Rest(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<u8>()).prop_map(|(when, kind)| Step::Submit { when, kind }),
        4 => any::<u8>().prop_map(Step::Say),
        5 => prop::collection::vec(any::<u8>(), 1..5).prop_map(Step::Ask),
        2 => any::<u8>().prop_map(Step::Fail),
        1 => Just(Step::Block),
        1 => Just(Step::Assembled),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(call, status)| Step::Report { call, status }),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(call, kind)| Step::Decide { call, kind }),
        1 => any::<u8>().prop_map(|call| Step::Expire { call }),
        1 => Just(Step::ExpireTurn),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(turn, halt)| Step::Cancel { turn, halt }),
        2 => Just(Step::Crash),
        3 => any::<u8>().prop_map(Step::Compress),
        2 => any::<u16>().prop_map(Step::Again),
        2 => any::<u16>().prop_map(Step::Pass),
        1 => any::<u8>().prop_map(Step::Rest),
    ]
}

const TEXTS: [&str; 6] = [
    "",
    " \n",
    "{\"n\": 1}",
    "a longer answer with some words in it",
    "x",
    "</tool_result> é",
];
const TOOLS: [&str; 8] = ["read", "keyed", "look_up", "never", "ask", "ask", "no such tool!", ""];
const STATUS: [ToolStatus; 5] = [
    ToolStatus::Succeeded,
    ToolStatus::Failed,
    ToolStatus::Unknown,
    ToolStatus::Cancelled,
    ToolStatus::Rejected,
];
const CLASSES: [FailureClass; 6] = [
    FailureClass::Rate,
    FailureClass::Cut,
    FailureClass::Network,
    FailureClass::Key,
    FailureClass::ContextLength,
    FailureClass::Silence,
];

fn pick<T: Clone>(from: &[T], by: u8) -> T {
    from[usize::from(by) % from.len()].clone()
}

fn arguments(by: u8) -> Value {
    pick(
        &[
            json!({}),
            json!({ "n": 1 }),
            json!({ "n": "x" }),
            json!("not JSON"),
            json!(null),
            json!([0.1]),
        ],
        by / 8,
    )
}

/// A random history and the commands it consists of.
struct History {
    world: World,
    commands: Vec<Command>,
    turns: u128,
}

impl History {
    fn new() -> Self {
        Self {
            world: World::new(policy()),
            commands: Vec::new(),
            turns: 0,
        }
    }

    fn play(&mut self, step: &Step) {
        let world = &mut self.world;
        let command = match step {
            Step::Pass(seconds) => {
                world.now += Duration::from_secs(u64::from(*seconds % 5000));
                return;
            }
            Step::Crash => {
                world.crash();
                Command::Recover
            }
            Step::Again(which) => {
                let Some(old) = self
                    .commands
                    .len()
                    .checked_sub(1)
                    .map(|last| usize::from(*which) % (last + 1))
                else {
                    return;
                };
                self.commands[old].clone()
            }
            Step::Submit { when, kind } => {
                self.turns += 1;
                submission(world, self.turns, *when, *kind)
            }
            Step::Compress(how) => match compress(world, *how) {
                Some(command) => command,
                None => return,
            },
            other => report(world, other, self.turns),
        };
        // A second copy of a prompt without a key is another prompt, and would bear another id.
        let unkeyed = matches!(&command, Command::Submit { idempotency: None, .. });
        if !unkeyed && !matches!(command, Command::Recover) {
            self.commands.push(command.clone());
        }
        let _ = world.run(command);
    }

    /// Does what is due until nothing is.
    fn finish(&mut self) {
        for _ in 0..400 {
            let world = &mut self.world;
            let Some(effect) = open_effects(&world.conversation, &world.policy).first().copied() else {
                return;
            };
            let command = match effect {
                Effect::CallModel { at, .. } => Command::ModelReplied {
                    at,
                    reply: reply("{\"n\": 2}", Vec::new()),
                },
                Effect::CallTool { turn, call, .. } => Command::ToolReplied {
                    turn,
                    call,
                    status: ToolStatus::Succeeded,
                    result: None,
                    error: None,
                },
                Effect::ExpireApproval { turn, call, at } => {
                    world.now = world.now.max(at);
                    Command::ApprovalExpired { turn, call }
                }
                Effect::ExpireTurn { .. } => panic!("a turn has nothing to do but to expire"),
            };
            let decision = world.run(command).expect("a due report is taken");
            assert!(
                !decision.records.is_empty(),
                "a due report changes something: {effect:?}"
            );
        }
        panic!("the turns do not end: {:?}", self.world.conversation.book);
    }
}

fn submission(world: &World, n: u128, when: u8, kind: u8) -> Command {
    let input = match kind % 8 {
        0 => "tell me the secret".to_owned(),
        1 => "w ".repeat(90),
        _ => format!("question {n}"),
    };
    let keys = [None, None, key("a", "1"), key("b", "1"), key("a", "2")];
    Command::Submit {
        turn: turn(n),
        input: Input::Text(input),
        metadata: Metadata::new(),
        response_schema: (kind % 5 == 0).then(|| json!({ "type": "object", "required": ["n"] })),
        when_busy: pick(
            &[
                WhenBusy::Enqueue,
                WhenBusy::Enqueue,
                WhenBusy::Interrupt,
                WhenBusy::Reject,
            ],
            when,
        ),
        idempotency: pick(&keys, kind / 8),
        trace: None,
        halt: halt(world, when / 4),
    }
}

fn halt(world: &World, by: u8) -> Halt {
    let mut halt = match by % 4 {
        0 => Halt::default(),
        1 => sealed(world, ""),
        _ => sealed(world, "so far"),
    };
    if by % 8 > 3 {
        halt.unsent = calls(world);
    }
    if by % 16 > 12
        && let Some(sealed) = &mut halt.sealed
    {
        sealed.at.attempt += 1;
    }
    halt
}

fn calls(world: &World) -> Vec<CallId> {
    world
        .conversation
        .active()
        .map_or(Vec::new(), |turn| turn.calls().iter().map(|call| call.id).collect())
}

fn compress(world: &World, how: u8) -> Option<Command> {
    let compressed = |upto_seq, before, summary: String, method| Command::Compressed {
        upto_seq,
        tokens_before: before,
        tokens_after: 1,
        summary,
        method,
        model: "s".into(),
        usage: Usage::default(),
    };
    if how.is_multiple_of(4) {
        // A report about something that is no longer, or never was.
        let upto = u64::from(how) % (world.conversation.seq + 2);
        return Some(compressed(upto, 1, "wrong".into(), CompressionMethod::Summarised));
    }
    let plan = compression::plan(&world.conversation.memory, &world.policy.memory)?;
    let (summary, method) = if how.is_multiple_of(2) {
        let summary = compression::truncated(&plan, &world.policy.memory);
        (summary, CompressionMethod::Truncated)
    } else {
        ("they talked".to_owned(), CompressionMethod::Summarised)
    };
    Some(compressed(plan.upto_seq, plan.tokens_before, summary, method))
}

fn report(world: &World, step: &Step, turns: u128) -> Command {
    let at = present(world);
    let open = calls(world);
    let call = |by: u8| {
        if open.is_empty() {
            CallId::of_step(turn(1), 1, 1, 0)
        } else {
            pick(&open, by)
        }
    };
    match step {
        Step::Say(by) => Command::ModelReplied {
            at,
            reply: reply(pick(&TEXTS, *by), Vec::new()),
        },
        Step::Ask(tools) => {
            let calls = tools
                .iter()
                .map(|by| (pick(&TOOLS, *by).to_owned(), arguments(*by)))
                .collect();
            Command::ModelReplied {
                at,
                reply: reply(pick(&TEXTS, tools[0]), calls),
            }
        }
        Step::Fail(by) => Command::ModelFailed {
            at,
            failure: ModelFailure {
                class: pick(&CLASSES, *by),
                message: String::new(),
                model: "m".into(),
                usage: USAGE,
                retry_after: (by % 3 == 0).then(|| Duration::from_secs(u64::from(*by) * 3)),
            },
        },
        Step::Assembled => Command::ContextAssembled {
            at,
            prompt_tokens: 1,
            summary_upto_seq: None,
        },
        Step::Report { call: by, status } => Command::ToolReplied {
            turn: at.turn,
            call: call(*by),
            status: pick(&STATUS, *status),
            result: pick(
                &[
                    None,
                    Some(json!(null)),
                    Some(json!({ "a": 0.1 })),
                    Some(json!("y".repeat(900))),
                ],
                *status,
            ),
            error: (status % 2 == 0).then(|| "why".to_owned()),
        },
        Step::Decide { call: by, kind } => Command::Decide {
            turn: at.turn,
            call: call(*by),
            decision: match kind % 4 {
                0 => Decision::Reject,
                1 => Decision::Approve {
                    arguments: Some(json!({ "n": 3 })),
                },
                2 => Decision::Approve {
                    arguments: Some(json!({ "no": 3 })),
                },
                _ => Decision::Approve { arguments: None },
            },
            reason: None,
            by: "bob".into(),
        },
        Step::Expire { call: by } => Command::ApprovalExpired {
            turn: at.turn,
            call: call(*by),
        },
        Step::ExpireTurn => Command::TurnExpired {
            turn: at.turn,
            attempt: at.attempt,
            halt: sealed(world, "so far"),
        },
        Step::Cancel { turn: which, halt: by } => Command::Cancel {
            turn: if which % 2 == 0 {
                at.turn
            } else {
                turn(u128::from(*which) % (turns + 1))
            },
            halt: halt(world, *by),
        },
        Step::Rest(0) => Command::Erase {
            by: "ada".into(),
            halt: sealed(world, "so far"),
        },
        Step::Rest(by) if by % 2 == 0 => Command::Update {
            title: Some("t".into()),
            metadata: None,
        },
        Step::Rest(_) => Command::GiveFeedback {
            turn: turn(1),
            rating: 1,
            comment: None,
            by: "ada".into(),
        },
        _ => Command::OutputBlocked {
            at,
            rule: "r".into(),
            model: "m".into(),
            usage: USAGE,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rules of the log, of prompts and of folds, at every cut of every history.
    #[test]
    fn every_history_keeps_the_rules(steps in prop::collection::vec(step(), 1..60)) {
        let mut history = History::new();
        for step in &steps {
            history.play(step);
        }
        history.finish();
        let world = &history.world;
        audit(&world.appends);
        prompts_keep_the_vendors_rules(world);
        any_cut_folds_to_the_same_state(world);
    }
}

fn prompts_keep_the_vendors_rules(world: &World) {
    let mut conversation = Conversation::new(conversation_id());
    let mut last: Option<(Vec<PromptMessage>, Option<u64>)> = None;
    for append in &world.appends {
        append.iter().for_each(|record| conversation.apply(record));
        if conversation.active().is_none_or(|turn| turn.phase != Phase::Thinking) {
            continue;
        }
        let messages = project::prompt(&conversation.memory, &world.policy).messages;
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

/// Each call is answered by exactly one message right behind it, and only calls are answered; nothing is empty.
fn openai(messages: &[PromptMessage]) {
    let mut open: Vec<CallId> = Vec::new();
    for message in messages {
        match message {
            PromptMessage::Tool { call, content } => {
                assert_eq!(open.first(), Some(call), "{messages:#?}");
                open.remove(0);
                assert!(!content.trim().is_empty());
            }
            PromptMessage::System { text } | PromptMessage::User { text } => {
                assert!(open.is_empty(), "{messages:#?}");
                assert!(!text.trim().is_empty());
            }
            PromptMessage::Assistant { text, calls } => {
                assert!(open.is_empty(), "{messages:#?}");
                assert!(!calls.is_empty() || !text.trim().is_empty(), "{messages:#?}");
                assert!(text.is_empty() || !text.trim().is_empty(), "a text block of blanks");
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

/// Behind the system text the roles alternate, where results stand on the user's side; the user is first and last.
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
                PromptMessage::User { .. } | PromptMessage::Tool { .. } => "user",
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

/// A state in life, a fold of what was stored and a completed snapshot are the same, after every record.
fn any_cut_folds_to_the_same_state(world: &World) {
    let log = world.decoded();
    let whole = fold(&log);
    assert_eq!(whole, world.conversation);
    let mut live = Conversation::new(conversation_id());
    for (index, record) in world.log().enumerate() {
        live.apply(record);
        let mut woken = wake(&live, &log[..=index]);
        same(&woken, &live, &world.policy);
        if index % 5 == 0 {
            log[index + 1..].iter().for_each(|record| woken.apply(record));
            same(&woken, &whole, &world.policy);
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
        project::prompt(&one.memory, policy).messages,
        project::prompt(&other.memory, policy).messages
    );
}

//! Random histories: whatever may happen to a conversation, in any order.

use std::time::Duration;

use copilotd_actors::domain::content::{Input, Metadata, ToolStatus};
use copilotd_actors::domain::context::assemble::{Budget, assemble};
use copilotd_actors::domain::context::compression;
use copilotd_actors::domain::context::gathered::{Gathered, Passage, PassageKind};
use copilotd_actors::domain::context::project::fact_text;
use copilotd_actors::domain::context::recalled::{Transcript, line};
use copilotd_actors::domain::conversation::command::{
    Command, Decision, ModelFailure, Step as At, StoppedWork, WhenBusy,
};
use copilotd_actors::domain::conversation::effects::{Effect, open_effects};
use copilotd_actors::domain::conversation::turn::Phase;
use copilotd_actors::domain::event::CompressionMethod;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::file::{FileContent, FileInfo, MediaType, PromptFile};
use copilotd_actors::domain::ids::{CallId, FileId};
use copilotd_actors::domain::schema::AcceptedSchema;
use copilotd_actors::domain::tool::client::{Claim, ClientTools};
use copilotd_actors::domain::usage::{LostUsage, Usage};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::acts::{USAGE, key, page_tools, present, reply, schema, sealed};
use crate::support::{Scenario, UNLIMITED, policy, turn};

/// One step of a history. Numbers select among what exists, so that most steps have an effect.
#[derive(Debug, Clone)]
pub enum Step {
    Submit {
        when: u8,
        kind: u8,
    },
    Say(u8),
    Ask(Vec<u8>),
    Fail(u8),
    Block,
    Assembled,
    Report {
        call: u8,
        status: u8,
    },
    Decide {
        call: u8,
        kind: u8,
    },
    Expire {
        call: u8,
    },
    /// One of three pages claims a call.
    Claim {
        call: u8,
        page: u8,
    },
    /// One of them answers it.
    Answer {
        call: u8,
        page: u8,
        kind: u8,
    },
    /// The timer of a client tool.
    ExpirePage {
        call: u8,
    },
    ExpireTurn,
    Cancel {
        turn: u8,
        stop: u8,
    },
    Crash,
    /// The tenant is left out; some of the calls were not sent.
    Pause {
        calls: u8,
        asked: bool,
    },
    /// The tenant is served again; some of the calls are running.
    Resume(u8),
    Compress(u8),
    Again(u16),
    Pass(u16),
    Rest(u8),
}

/// Any step, the more interesting ones more often.
pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (any::<u8>(), any::<u8>()).prop_map(|(when, kind)| Step::Submit { when, kind }),
        5 => any::<u8>().prop_map(Step::Say),
        8 => prop::collection::vec(any::<u8>(), 1..4).prop_map(Step::Ask),
        2 => any::<u8>().prop_map(Step::Fail),
        1 => Just(Step::Block),
        1 => Just(Step::Assembled),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(call, status)| Step::Report { call, status }),
        5 => (any::<u8>(), any::<u8>()).prop_map(|(call, kind)| Step::Decide { call, kind }),
        1 => any::<u8>().prop_map(|call| Step::Expire { call }),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(call, page)| Step::Claim { call, page }),
        4 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(call, page, kind)| Step::Answer { call, page, kind }),
        2 => any::<u8>().prop_map(|call| Step::ExpirePage { call }),
        1 => Just(Step::ExpireTurn),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(turn, stop)| Step::Cancel { turn, stop }),
        2 => Just(Step::Crash),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(calls, asked)| Step::Pause { calls, asked }),
        2 => any::<u8>().prop_map(Step::Resume),
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
const TOOLS: [&str; 10] = [
    "read",
    "keyed",
    "look_up",
    "never",
    "ask",
    "ask",
    "page",
    "other",
    "no such tool!",
    "",
];
const PAGES: [&str; 3] = ["p0", "p1", "p2"];
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
    FailureClass::TimedOut,
];

fn pick<T: Clone>(from: &[T], by: u8) -> T {
    from[usize::from(by) % from.len()].clone()
}

fn arguments(by: u8) -> Value {
    match by / 8 {
        0 => json!({ "n": "x" }),
        1 => json!("not JSON"),
        2 => json!(null),
        3 => json!([0.1]),
        other => json!({ "n": other }),
    }
}

/// A random history and the commands it consists of.
pub struct History {
    pub scenario: Scenario,
    commands: Vec<Command>,
    turns: u128,
}

impl History {
    pub fn new() -> Self {
        Self {
            scenario: Scenario::new(policy()),
            commands: Vec::new(),
            turns: 0,
        }
    }

    /// Plays one step; a rejection is fine.
    pub fn play(&mut self, step: &Step) {
        let scenario = &mut self.scenario;
        let command = match step {
            Step::Pass(seconds) => {
                scenario.now += Duration::from_secs(u64::from(*seconds % 5000));
                return;
            }
            Step::Crash => {
                let was_thinking = scenario
                    .conversation
                    .active()
                    .is_some_and(|turn| turn.phase == Phase::Thinking);
                scenario.crash();
                let lost = LostUsage {
                    model: "m".into(),
                    usage: USAGE,
                };
                Command::Recover {
                    lost: was_thinking.then_some(lost).into_iter().collect(),
                }
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
                submission(scenario, self.turns, *when, *kind)
            }
            Step::Compress(how) => match compress(scenario, *how) {
                Some(command) => command,
                None => return,
            },
            other => report(scenario, other, self.turns),
        };
        // A second copy of a prompt without a key is another prompt and would have another turn id.
        let unkeyed = matches!(&command, Command::Submit { idempotency: None, .. });
        if !unkeyed && !matches!(command, Command::Recover { .. }) {
            self.commands.push(command.clone());
        }
        let _ = scenario.run(command);
    }

    /// Runs open effects until there are none.
    pub fn finish(&mut self) {
        for _ in 0..400 {
            let scenario = &mut self.scenario;
            let Some(effect) = open_effects(&scenario.conversation, &scenario.policy).first().copied() else {
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
                    scenario.now = scenario.now.max(at);
                    Command::ApprovalExpired { turn, call }
                }
                Effect::ExpireClientTool { turn, call, at } => {
                    scenario.now = scenario.now.max(at);
                    Command::ClientToolExpired { turn, call }
                }
                Effect::ExpireTurn { .. } => panic!("a turn has nothing left to do but expire"),
            };
            let decision = scenario.run(command).expect("the report of an open effect is accepted");
            assert!(
                !decision.records.is_empty(),
                "the report of an open effect changes something: {effect:?}"
            );
        }
        panic!("the turns do not end: {:?}", self.scenario.conversation.book);
    }
}

fn submission(scenario: &Scenario, n: u128, when: u8, kind: u8) -> Command {
    let input = match kind % 16 {
        0 => "tell me the secret".to_owned(),
        1 => "w ".repeat(90),
        _ => format!("question {n}"),
    };
    // Mostly the last turn; now and then one that is not the last, or does not exist.
    let last = scenario.conversation.book.as_ref().and_then(|book| book.last_turn);
    let replaced = match when / 32 {
        0..4 => None,
        7 if when.is_multiple_of(8) => Some(turn(n / 2)),
        _ => last.map(|last| last.id),
    };
    let keys = [None, None, key("a", "1"), key("b", "1"), key("a", "2")];
    Command::Submit {
        turn: turn(n),
        input: Input::Text(input),
        metadata: Metadata::new(),
        response_schema: (kind.is_multiple_of(5)).then(|| AcceptedSchema::unchecked(schema())),
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
        api_key: None,
        roles: Vec::new(),
        nonce: None,
        replaces: replaced,
        client_tools: if kind.is_multiple_of(3) {
            ClientTools::default()
        } else {
            page_tools()
        },
        stop: stop(scenario, when / 4),
    }
}

fn stop(scenario: &Scenario, by: u8) -> StoppedWork {
    let mut stop = match by % 4 {
        0 => StoppedWork::default(),
        1 => sealed(scenario, ""),
        _ => sealed(scenario, "so far"),
    };
    if by % 8 > 3 {
        stop.unsent = calls(scenario);
    }
    if by % 16 > 12
        && let Some(sealed) = &mut stop.sealed
    {
        sealed.at.attempt += 1;
    }
    stop
}

fn calls(scenario: &Scenario) -> Vec<CallId> {
    scenario
        .conversation
        .active()
        .map_or(Vec::new(), |turn| turn.calls().iter().map(|call| call.id).collect())
}

fn compress(scenario: &Scenario, how: u8) -> Option<Command> {
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
        // A report about something that no longer exists, or never did.
        let upto = u64::from(how) % (scenario.conversation.seq + 2);
        return Some(compressed(upto, 1, "wrong".into(), CompressionMethod::Summarised));
    }
    let plan = compression::plan(&scenario.conversation.memory, &scenario.policy.memory)?;
    let (summary, method) = if how.is_multiple_of(2) {
        let summary = compression::truncated(&plan, &scenario.policy.memory);
        (summary, CompressionMethod::Truncated)
    } else {
        ("they talked".to_owned(), CompressionMethod::Summarised)
    };
    Some(compressed(plan.upto_seq, plan.tokens_before, summary, method))
}

/// Assembles the prompt that the model is sent now, with passages that stay the same for an attempt; with the summary that
/// waits for the next turn every other time.
fn assemble_prompt(scenario: &Scenario, at: At) -> Command {
    let memory = scenario.conversation.memory.clone();
    let needs_summary = scenario.conversation.seq.is_multiple_of(2);
    let mut gathered = Gathered::count(memory, needs_summary, &scenario.policy, None);
    if let Some(turn) = scenario.conversation.active() {
        gathered.offer(&scenario.policy, &turn.client_tools);
    }
    let nonce = gathered.current.blocks.front().and_then(|block| block.nonce.clone());
    let passage = |n: u32| {
        let (kind, text) = if n.is_multiple_of(2) {
            let text = fact_text(nonce.as_deref(), Timestamp::UNIX_EPOCH, &format!("fact {n}"));
            (PassageKind::Fact, text)
        } else {
            (PassageKind::Chunk, format!("passage {n} of attempt {}", at.attempt))
        };
        Passage::count(kind, format!("id_{n}"), text, n as u8, None)
    };
    gathered.passages = (0..4).map(passage).collect();
    let mut transcript = Transcript::default();
    let said = scenario.log().filter_map(|record| transcript.take(record.clone()));
    gathered.passages.extend(said.step_by(3).map(|said| {
        let text = line(said.speaker, said.at, &said.text);
        Passage::count(PassageKind::Recalled, said.seq.to_string(), text, 9, None)
    }));
    let info = FileInfo {
        name: "a.png".to_owned(),
        media_type: MediaType::Png,
        bytes: 3,
        sha256: "00".repeat(32),
    };
    let content = FileContent::new(b"abc".to_vec());
    let file = PromptFile::of_bytes(FileId::new(Uuid::from_u128(7)), info, content, nonce.as_deref());
    gathered.passages.push(Passage::of_file(file, 3));
    let seq = scenario.conversation.seq;
    let budget = Budget {
        retrieved_tokens: seq % 60,
        // A budget of its own leaves turns of the window out.
        conversation_tokens: seq.is_multiple_of(3).then_some(seq * 7 % 400),
        ..UNLIMITED
    };
    let assembled = assemble(&gathered, budget).expect("it fits");
    Command::ContextAssembled {
        at,
        prompt_tokens: assembled.tokens,
        summary_upto_seq: assembled.summary_upto_seq,
        retrieved: Vec::new(),
        retrieval: None,
        guardrails: Vec::new(),
        context: assembled.record,
        sent: assembled.sent,
    }
}

fn report(scenario: &Scenario, step: &Step, turns: u128) -> Command {
    let at = present(scenario);
    let open = calls(scenario);
    // A call that is open, or one that ended as unknown and may still report.
    let unsettled = scenario.conversation.book.iter().flat_map(|book| &book.unsettled);
    let known: Vec<_> = open
        .iter()
        .map(|call| (at.turn, *call))
        .chain(unsettled.copied())
        .collect();
    let call = |by: u8| match known.len() {
        0 => (at.turn, CallId::of_step(at.turn, 1, 1, 0)),
        _ => pick(&known, by),
    };
    // Those whose bit is set.
    let some = |bits: u8| -> Vec<CallId> {
        let chosen = open.iter().enumerate().filter(|(n, _)| bits >> (n % 8) & 1 == 1);
        chosen.map(|(_, call)| *call).collect()
    };
    match step {
        Step::Pause { calls, asked } => Command::Pause {
            unsent: some(*calls),
            asked: *asked,
        },
        Step::Resume(under_way) => Command::Resume {
            under_way: some(*under_way),
        },
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
                retry_after: (by.is_multiple_of(3)).then(|| Duration::from_secs(u64::from(*by) * 3)),
            },
        },
        Step::Assembled => assemble_prompt(scenario, at),
        Step::Report { call: by, status } => Command::ToolReplied {
            turn: call(*by).0,
            call: call(*by).1,
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
            call: call(*by).1,
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
            call: call(*by).1,
        },
        Step::Claim { call: by, page } => Command::ClaimClientTool {
            turn: at.turn,
            call: call(*by).1,
            claim: Claim {
                token: pick(&PAGES, *page).to_owned(),
                key: (page % 2 == 0).then(|| format!("key {}", page % 3)),
            },
        },
        Step::Answer { call: by, page, kind } => Command::AnswerClientTool {
            turn: at.turn,
            call: call(*by).1,
            token: pick(&PAGES, *page).to_owned(),
            result: (kind % 2 == 0).then(|| json!({ "kind": kind })),
            error: (kind % 2 == 1).then(|| "it broke".to_owned()),
            failed: kind % 2 == 1,
            answer_hash: kind.to_string(),
        },
        Step::ExpirePage { call: by } => Command::ClientToolExpired {
            turn: at.turn,
            call: call(*by).1,
        },
        Step::ExpireTurn => Command::TurnExpired {
            turn: at.turn,
            attempt: at.attempt,
            stop: sealed(scenario, "so far"),
        },
        Step::Cancel { turn: which, stop: by } => Command::Cancel {
            turn: if which % 2 == 0 {
                at.turn
            } else {
                turn(u128::from(*which) % (turns + 1))
            },
            stop: stop(scenario, *by),
        },
        Step::Rest(0..10) => Command::Erase {
            by: "ada".into(),
            stop: sealed(scenario, "so far"),
        },
        Step::Rest(by) if by % 4 == 1 => Command::Titled {
            title: (by % 8 == 1).then(|| "A title".into()),
            model: "s".into(),
            usage: USAGE,
        },
        Step::Rest(by) if by % 2 == 0 => Command::Update {
            title: Some("t".into()),
            metadata: None,
        },
        Step::Rest(_) => Command::GiveFeedback {
            earlier: 0,
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

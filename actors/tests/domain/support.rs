//! A test DSL: given commands, when a command, then records as lines of text. Ids and times are fixed.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use copilotd_actors::domain::context::assemble::{Assembled, Budget, assemble};
use copilotd_actors::domain::context::gathered::Gathered;
use copilotd_actors::domain::context::memory::Memory;
use copilotd_actors::domain::conversation::Conversation;
use copilotd_actors::domain::conversation::command::{Command, Env};
use copilotd_actors::domain::conversation::decide::{Decision, Rejection};
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet, Rules};
use copilotd_actors::domain::ids::{CallId, ConversationId, TurnId};
use copilotd_actors::domain::policy::{
    KnowledgePolicy, Limits, MemoryPolicy, Policy, Repeat, ToolDefinition, ToolPolicy,
};
use copilotd_actors::domain::prices::PriceHistory;
use copilotd_actors::domain::schema::Schema;
use copilotd_actors::domain::sent_prompt::{Fixed, FixedParts, FixedPrompt, SentPrompt};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::audit::audit;

/// A budget that everything fits into.
pub const UNLIMITED: Budget = Budget {
    context_tokens: u64::MAX,
    reserved_tokens: 0,
    answer_tokens: 0,
    retrieved_tokens: u64::MAX,
    conversation_tokens: None,
    recalled_tokens: u64::MAX,
    fact_tokens: u64::MAX,
};

/// Returns the prompt of a memory, whatever its size.
pub fn assembled(memory: &Memory, policy: &Policy) -> Assembled {
    let gathered = Gathered::count(memory.clone(), false, policy, None);
    assemble(&gathered, UNLIMITED).expect("everything fits")
}

/// How long the vendor of the tool `keyed` remembers a key.
pub const WINDOW: Duration = Duration::from_secs(7200);

/// A copilot with one tool of each kind and small limits.
pub fn policy() -> Policy {
    let tools = [
        ("read", Repeat::Read, false),
        ("keyed", Repeat::Keyed(WINDOW), false),
        ("look_up", Repeat::LookUp, false),
        ("never", Repeat::Never, false),
        ("ask", Repeat::Never, true),
    ];
    Policy {
        copilot: "support".parse().expect("a copilot's name"),
        instructions: "Be brief.".into(),
        route: "default".into(),
        model: "m".into(),
        small_route: "small".into(),
        titles: true,
        reads: Vec::new(),
        prices: PriceHistory::default(),
        tools: tools.into_iter().map(tool).collect(),
        client_tools: true,
        limits: Limits {
            queue: 2,
            input_bytes: 1000,
            metadata_bytes: 100,
            steps: 4,
            tokens: 10_000,
            calls_per_step: 3,
            result_bytes: 400,
            repairs: 2,
            ..Limits::default()
        },
        memory: MemoryPolicy {
            context_tokens: 400,
            trigger_tokens: 120,
            keep_tokens: 40,
            hard_tokens: 200,
            summary_tokens: 32,
            pass_tokens: 64,
            passes: 3,
            timeout: Duration::from_secs(60),
            retrieved_tokens: 100,
            facts: false,
            fact_tokens: 100,
            answer_tokens: 0,
            conversation_tokens: None,
            recalled_tokens: 100,
        },
        rules: Rules {
            input: RuleSet::new([Rule {
                name: "no_secrets".into(),
                literal: "secret".into(),
                action: OnMatch::Block,
                confusables: false,
            }]),
            output: RuleSet::default(),
        },
        knowledge: KnowledgePolicy::default(),
        fixed: FixedParts::default(),
    }
}

fn tool((name, repeat, approval): (&str, Repeat, bool)) -> (String, ToolPolicy) {
    let parameters = json!({
        "type": "object",
        "properties": { "n": { "type": "integer" } },
        "additionalProperties": false
    });
    let definition = ToolDefinition {
        name: name.to_owned(),
        description: String::new(),
        system: "sim".into(),
        repeat,
        timeout: Duration::from_secs(30),
        parameters: Schema::compile(parameters).expect("a schema"),
        tokens: OnceLock::new(),
    };
    let timeout = definition.timeout;
    let tool = Arc::new(definition);
    (
        name.to_owned(),
        ToolPolicy {
            tool,
            approval,
            timeout,
        },
    )
}

/// A step of a script.
pub enum Act {
    /// Runs a command, which is built at that point.
    Do(Box<dyn Fn(&Scenario) -> Command>),
    /// Lets time pass.
    Pass(Duration),
    /// Changes the copilot's configuration.
    Configure(fn(&mut Policy)),
    /// Crashes the process; the state is read from the log again.
    Crash,
}

/// One conversation with its log and its clock.
pub struct Scenario {
    pub policy: Policy,
    pub may_await_approval: bool,
    pub now: Timestamp,
    pub conversation: Conversation,
    /// One entry per append.
    pub appends: Vec<Vec<Record>>,
}

impl Scenario {
    /// Creates a conversation that exists.
    pub fn new(policy: Policy) -> Self {
        let mut scenario = Self::empty(policy);
        scenario.run(crate::acts::create(None)).expect("a new conversation");
        scenario
    }

    /// Creates a conversation that does not exist yet.
    pub fn empty(policy: Policy) -> Self {
        Self {
            policy,
            may_await_approval: true,
            now: "2026-01-01T00:00:00Z".parse().expect("a time"),
            conversation: Conversation::new(conversation_id()),
            appends: Vec::new(),
        }
    }

    /// Decides a command, then stores and applies its records.
    pub fn run(&mut self, command: Command) -> Result<Decision, Rejection> {
        let env = Env {
            now: self.now,
            policy: &self.policy,
            may_await_approval: self.may_await_approval,
        };
        let command = self.conversation.screen(&self.policy, command);
        let before = self.conversation.clone();
        let decided = self.conversation.decide(env, command);
        assert_eq!(self.conversation, before, "decide changes nothing");
        let decision = decided?;
        for record in &decision.records {
            assert_eq!(record.seq, self.conversation.seq + 1, "numbers are consecutive");
            self.conversation.apply(record);
        }
        if !decision.records.is_empty() {
            self.appends.push(decision.records.clone());
        }
        if let Some(book) = &self.conversation.book {
            assert_eq!(book.header.open_turns as usize, book.turns.len());
        }
        Ok(decision)
    }

    /// Plays one step of a script; returns the result as lines.
    pub fn play(&mut self, act: &Act) -> String {
        match act {
            Act::Pass(time) => self.now += *time,
            Act::Configure(change) => change(&mut self.policy),
            Act::Crash => self.crash(),
            Act::Do(make) => {
                let command = make(self);
                return match self.run(command) {
                    Err(rejection) => format!("refused {rejection:?}"),
                    Ok(decision) if decision.records.is_empty() => match decision.turn {
                        Some(turn) => format!("answers {}", label(turn)),
                        None => "nothing".to_owned(),
                    },
                    Ok(decision) => self.lines(&decision.records),
                };
            }
        }
        "nothing".to_owned()
    }

    /// Crashes the process: only what was written survives.
    pub fn crash(&mut self) {
        self.conversation = fold(&self.decoded());
    }

    /// Returns the log as it would be read from a store.
    pub fn decoded(&self) -> Vec<Record> {
        let read = |record: &Record| {
            let json = serde_json::to_string(record).expect("a record can be written");
            serde_json::from_str(&json).expect("a record can be read")
        };
        self.log().map(read).collect()
    }

    pub fn log(&self) -> impl Iterator<Item = &Record> {
        self.appends.iter().flatten()
    }

    /// Returns the prompt that the model would receive now, one line per message.
    pub fn prompt(&self) -> String {
        use copilotd_actors::domain::context::prompt::PromptMessage as M;
        let lines: Vec<String> = assembled(&self.conversation.memory, &self.policy)
            .messages
            .iter()
            .map(|message| match message {
                M::System { text } => format!("system {text}"),
                M::User { text } => format!("user {text}"),
                M::Files { files } => format!("user {} files", files.len()),
                M::Assistant { text, calls } => {
                    let calls: Vec<String> = calls.iter().map(|c| format!(" {}{}", c.name, c.arguments)).collect();
                    format!("assistant {text}{}", calls.concat())
                }
                M::Tool { content, .. } => format!("tool {}", content.replace('\n', " ")),
            })
            .collect();
        lines.join("\n")
    }

    /// Returns the current step's call at `index`.
    pub fn call(&self, index: usize) -> CallId {
        let calls: Vec<CallId> = self
            .log()
            .filter_map(|record| match &record.event {
                Event::MessageCompleted { tool_calls, .. } if !tool_calls.is_empty() => Some(tool_calls),
                _ => None,
            })
            .last()
            .map(|calls| calls.iter().map(|call| call.id).collect())
            .unwrap_or_default();
        calls.get(index).copied().expect("the model asked for that call")
    }

    fn lines(&self, records: &[Record]) -> String {
        let mut names = BTreeMap::new();
        for record in self.log() {
            if let Event::MessageCompleted { tool_calls, .. } = &record.event {
                for call in tool_calls {
                    let next = names.len();
                    names.entry(call.id).or_insert(next);
                }
            }
        }
        let lines: Vec<String> = records.iter().map(|record| line(record, &names)).collect();
        lines.join("\n")
    }
}

/// Plays `given`, then `when`, and compares the result of the latter with `then`, line by line.
#[track_caller]
pub fn case(given: Vec<Act>, when: Act, then: &str) {
    case_with(policy(), given, when, then);
}

#[track_caller]
pub fn case_with(policy: Policy, given: Vec<Act>, when: Act, then: &str) {
    let mut scenario = Scenario::new(policy);
    for act in &given {
        let out = scenario.play(act);
        assert!(!out.starts_with("refused"), "given: {out}");
    }
    let out = scenario.play(&when);
    let expected: Vec<&str> = then.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(out.lines().collect::<Vec<_>>(), expected, "\n{out}\n");
    audit(&scenario.appends);
    scenario.crash();
}

pub fn fold(records: &[Record]) -> Conversation {
    let mut conversation = Conversation::new(conversation_id());
    records.iter().for_each(|record| conversation.apply(record));
    conversation
}

pub fn conversation_id() -> ConversationId {
    ConversationId::new(Uuid::from_u128(1))
}

pub fn turn(n: u128) -> TurnId {
    TurnId::new(Uuid::from_u128(n))
}

fn label(turn: TurnId) -> String {
    format!("t{}", turn.uuid().as_u128())
}

/// Returns a value as in the log: its JSON without quotation marks.
fn word(value: impl serde::Serialize) -> String {
    let json = serde_json::to_value(value).expect("a word");
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

fn line(record: &Record, names: &BTreeMap<CallId, usize>) -> String {
    use Event as E;
    let call = |id: &CallId| names.get(id).map_or("c?".to_owned(), |index| format!("c{index}"));
    let kind = word(serde_json::to_value(&record.event).expect("an event")["type"].clone());
    let rest = match &record.event {
        E::TurnQueued {
            replaces: Some(replaced),
            ..
        } => label(*replaced),
        E::TurnReplaced { by } => label(*by),
        E::TurnStarted { attempt, .. } => attempt.to_string(),
        E::TurnWaiting { reason, until } => format!("{} {}s", reason.code(), until.duration_since(record.at).as_secs()),
        E::TurnPaused { unsent, asked } | E::TurnHandedOver { unsent, asked } => {
            let unsent: Vec<String> = unsent.iter().map(&call).collect();
            format!("{}{}", unsent.join(" "), if *asked { " asked" } else { "" })
        }
        E::ContextAssembled { step, attempt, .. } => format!("{attempt}/{step}"),
        E::MessageCompleted {
            text,
            tool_calls,
            finish,
            ..
        } => {
            let calls: Vec<String> = tool_calls
                .iter()
                .map(|c| format!(" {}:{}", call(&c.id), c.name))
                .collect();
            format!("{} '{text}'{}", word(finish), calls.concat())
        }
        E::MessageReset { reason, .. } => reason.clone(),
        E::ModelFailed { class, .. } => class.clone(),
        E::ApprovalRequested { call_id, .. } | E::ClientToolRequested { call_id, .. } => call(call_id),
        E::ApprovalDecided {
            call_id, decision, by, ..
        } => format!("{} {} {by}", call(call_id), word(decision)),
        E::ToolCalled {
            call_id,
            name,
            arguments,
            claim,
            ..
        } => {
            let by = claim
                .as_ref()
                .map_or(String::new(), |claim| format!(" by {}", claim.token));
            format!("{} {name} {arguments}{by}", call(call_id))
        }
        E::ToolRetried {
            call_id, retry, mode, ..
        } => format!("{} {retry} {}", call(call_id), word(mode)),
        E::ToolFinished { call_id, status, .. } | E::ToolSettled { call_id, status, .. } => {
            format!("{} {}", call(call_id), word(status))
        }
        E::GuardrailTriggered {
            stage, rule, action, ..
        } => format!("{} {rule} {}", word(stage), word(action)),
        E::ConversationTitled { title, .. } => title.clone().unwrap_or_default(),
        E::MemoryCompressed { upto_seq, .. } => upto_seq.to_string(),
        E::FeedbackGiven { rating, .. } => rating.to_string(),
        E::TurnFailed { code, .. } => word(code),
        E::ConversationErased { by } => by.clone(),
        _ => String::new(),
    };
    let turn = record.turn.map_or(String::new(), |turn| format!("{} ", label(turn)));
    format!("{turn}{kind} {rest}").trim().to_owned()
}

/// Returns what is kept of a prompt without messages.
pub fn sent() -> SentPrompt {
    let fixed = FixedPrompt {
        hash: "fixed".to_owned(),
        system: "You help.".to_owned(),
        tools: Arc::default(),
    };
    SentPrompt {
        hash: "prompt".to_owned(),
        fixed: Fixed::Parts(Arc::new(fixed)),
        passages: Vec::new(),
    }
}

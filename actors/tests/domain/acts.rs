//! The actions of test scripts: each builds one command from the current state.

use std::collections::BTreeMap;
use std::time::Duration;

use copilotd_actors::domain::content::{Finish, Input, Metadata, ToolStatus};
use copilotd_actors::domain::conversation::command::{
    ArgumentsCheck, Command, Decision, ModelFailure, ModelReply, OutputCheck, SealedMessage, Step, StoppedWork,
    WhenBusy,
};
use copilotd_actors::domain::event::{Channel, Idempotency};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::schema::AcceptedSchema;
use copilotd_actors::domain::schema::check::Checker;
use copilotd_actors::domain::sent_prompt::ToolOffer;
use copilotd_actors::domain::tool::client::{Claim, ClientTools};
use copilotd_actors::domain::usage::{LostUsage, Usage};
use serde_json::{Value, json};

use crate::support::{Act, Scenario, turn};

/// The usage of every model step of a script.
pub const USAGE: Usage = Usage {
    prompt_tokens: 100,
    completion_tokens: 10,
    cached_tokens: 0,
    cache_write_tokens: 0,
    reasoning_tokens: 0,
    cost: 5,
    estimated: false,
};

pub fn act(make: impl Fn(&Scenario) -> Command + 'static) -> Act {
    Act::Do(Box::new(make))
}

pub fn create(idempotency: Option<Idempotency>) -> Command {
    Command::Create {
        tenant: "acme".parse().expect("a tenant"),
        user: "ada".parse().expect("a user"),
        copilot: "support".parse().expect("a copilot"),
        channel: Channel::Api,
        title: None,
        metadata: Metadata::new(),
        idempotency,
    }
}

pub fn key(key: &str, body: &str) -> Option<Idempotency> {
    Some(Idempotency {
        key: key.into(),
        body_hash: body.into(),
    })
}

/// A submission with default values, modified by `change`.
pub fn submission(n: u128, input: &str, change: impl Fn(&mut Command) + 'static) -> Act {
    let input = Input::Text(input.to_owned());
    act(move |scenario| {
        let mut command = Command::Submit {
            turn: turn(n),
            input: input.clone(),
            metadata: Metadata::new(),
            response_schema: None,
            when_busy: WhenBusy::Enqueue,
            idempotency: None,
            trace: None,
            api_key: None,
            roles: Vec::new(),
            nonce: None,
            replaces: None,
            client_tools: ClientTools::default(),
            stop: sealed(scenario, ""),
        };
        change(&mut command);
        command
    })
}

pub fn submit(n: u128) -> Act {
    submission(n, &format!("question {n}"), |_| {})
}

pub fn submit_when(n: u128, when: WhenBusy) -> Act {
    submission(n, &format!("question {n}"), move |command| {
        if let Command::Submit { when_busy, .. } = command {
            *when_busy = when;
        }
    })
}

/// Submits turn `n` in place of turn `replaced`.
pub fn replace(n: u128, replaced: u128) -> Act {
    submission(n, &format!("question {n}"), move |command| {
        if let Command::Submit { replaces, .. } = command {
            *replaces = Some(turn(replaced));
        }
    })
}

/// Interrupts a turn whose open message has got as far as `text`.
pub fn interrupt(n: u128, text: &'static str) -> Act {
    act(move |scenario| Command::Submit {
        turn: turn(n),
        input: Input::Text(format!("question {n}")),
        metadata: Metadata::new(),
        response_schema: None,
        when_busy: WhenBusy::Interrupt,
        idempotency: None,
        trace: None,
        api_key: None,
        roles: Vec::new(),
        nonce: None,
        replaces: None,
        client_tools: ClientTools::default(),
        stop: sealed(scenario, text),
    })
}

pub fn submit_keyed(n: u128, name: &'static str, body: &'static str) -> Act {
    submission(n, "hi", move |command| {
        if let Command::Submit { idempotency, .. } = command {
            *idempotency = key(name, body);
        }
    })
}

pub fn submit_schema(n: u128) -> Act {
    submit_with_schema(n, schema())
}

pub fn submit_with_schema(n: u128, schema: Value) -> Act {
    submission(n, "hi", move |command| {
        if let Command::Submit { response_schema, .. } = command {
            *response_schema = Some(AcceptedSchema::unchecked(schema.clone()));
        }
    })
}

pub fn present(scenario: &Scenario) -> Step {
    scenario.conversation.active().map_or(
        Step {
            turn: turn(0),
            attempt: 0,
            step: 0,
        },
        |turn| turn.present(),
    )
}

pub fn sealed(scenario: &Scenario, text: &str) -> StoppedWork {
    StoppedWork {
        sealed: Some(SealedMessage {
            at: present(scenario),
            text: text.to_owned(),
            usage: USAGE,
        }),
        unsent: Vec::new(),
    }
}

/// Cancels turn `n`, whose open message has got as far as `text`.
pub fn cancel(n: u128, text: &'static str) -> Act {
    act(move |scenario| Command::Cancel {
        turn: turn(n),
        stop: sealed(scenario, text),
    })
}

/// Cancels turn `n`; these calls had not been sent.
pub fn cancel_unsent(n: u128, unsent: &'static [usize]) -> Act {
    act(move |scenario| Command::Cancel {
        turn: turn(n),
        stop: StoppedWork {
            sealed: None,
            unsent: unsent.iter().map(|index| scenario.call(*index)).collect(),
        },
    })
}

/// Ends the open turns of a suspended tenant; the open message has got as far as `text`.
pub fn suspend(text: &'static str) -> Act {
    act(move |scenario| Command::Suspend {
        stop: sealed(scenario, text),
    })
}

pub fn erase(text: &'static str) -> Act {
    act(move |scenario| Command::Erase {
        by: "ada".into(),
        stop: sealed(scenario, text),
    })
}

pub fn expire_turn(n: u128, text: &'static str) -> Act {
    act(move |scenario| Command::TurnExpired {
        turn: turn(n),
        attempt: present(scenario).attempt,
        stop: sealed(scenario, text),
    })
}

/// The schema used in these tests.
pub fn schema() -> Value {
    json!({ "type": "object", "required": ["n"] })
}

/// Returns the result of checking an answer against it.
fn checked(text: &str) -> OutputCheck {
    match Checker::compile(&schema()).expect("a schema").check(text) {
        Ok(()) => OutputCheck::Valid(serde_json::from_str(text).expect("it was just read")),
        Err(why) => OutputCheck::Invalid(why),
    }
}

pub fn reply(text: &str, calls: Vec<(String, Value)>) -> ModelReply {
    ModelReply {
        text: text.to_owned(),
        finish: if calls.is_empty() {
            Finish::Stop
        } else {
            Finish::ToolCalls
        },
        client_calls: checks(&calls),
        calls,
        citations: Vec::new(),
        unsupported: Vec::new(),
        output: checked(text),
        model: "m".into(),
        usage: USAGE,
        first_token_ms: Some(7),
        guardrails: Vec::new(),
    }
}

pub fn says(text: &'static str) -> Act {
    act(move |scenario| Command::ModelReplied {
        at: present(scenario),
        reply: reply(text, Vec::new()),
    })
}

/// The model asks for these tools with `{}` as arguments.
pub fn asks(tools: &'static [&'static str]) -> Act {
    let calls: Vec<(&str, Value)> = tools.iter().map(|tool| (*tool, json!({}))).collect();
    asks_with(calls)
}

pub fn asks_with(calls: Vec<(&str, Value)>) -> Act {
    let calls: Vec<(String, Value)> = calls
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    act(move |scenario| Command::ModelReplied {
        at: present(scenario),
        reply: reply("", calls.clone()),
    })
}

pub fn fails(class: FailureClass) -> Act {
    fails_for(class, None)
}

pub fn fails_for(class: FailureClass, retry_after: Option<Duration>) -> Act {
    act(move |scenario| Command::ModelFailed {
        at: present(scenario),
        failure: ModelFailure {
            class,
            message: "tried".into(),
            model: "m".into(),
            usage: USAGE,
            retry_after,
        },
    })
}

pub fn tool(index: usize, status: ToolStatus) -> Act {
    act(move |scenario| {
        let call = scenario.call(index);
        let owner = scenario
            .log()
            .filter(|record| {
                matches!(&record.event, copilotd_actors::domain::event::Event::MessageCompleted { tool_calls, .. }
                    if tool_calls.iter().any(|known| known.id == call))
            })
            .find_map(|record| record.turn);
        Command::ToolReplied {
            turn: owner.expect("a call has a turn"),
            call,
            status,
            result: Some(json!({ "ok": true })),
            error: None,
        }
    })
}

pub fn done(index: usize) -> Act {
    tool(index, ToolStatus::Succeeded)
}

fn decide(n: u128, index: usize, decision: Decision) -> Act {
    act(move |scenario| Command::Decide {
        turn: turn(n),
        call: scenario.call(index),
        decision: decision.clone(),
        reason: None,
        by: "bob".into(),
    })
}

pub fn refuse_because(n: u128, index: usize, why: &'static str) -> Act {
    act(move |scenario| Command::Decide {
        turn: turn(n),
        call: scenario.call(index),
        decision: Decision::Reject,
        reason: Some(why.to_owned()),
        by: "bob".into(),
    })
}

pub fn approve(n: u128, index: usize) -> Act {
    decide(n, index, Decision::Approve { arguments: None })
}

pub fn approve_edited(n: u128, index: usize, arguments: Value) -> Act {
    let arguments = Some(arguments);
    decide(n, index, Decision::Approve { arguments })
}

pub fn refuse(n: u128, index: usize) -> Act {
    decide(n, index, Decision::Reject)
}

pub fn expire_approval(n: u128, index: usize) -> Act {
    act(move |scenario| Command::ApprovalExpired {
        turn: turn(n),
        call: scenario.call(index),
    })
}

/// The client tools of [`submit_with_tools`]: `page` takes an integer `n`, `other` anything.
pub fn page_tools() -> ClientTools {
    let tool = |name: &str, parameters| ToolOffer {
        name: name.to_owned(),
        description: format!("Does {name}."),
        parameters,
    };
    let with_number = json!({ "type": "object", "properties": { "n": { "type": "integer" } } });
    ClientTools::unchecked(vec![
        tool("page", with_number),
        tool("other", json!({ "type": "object" })),
    ])
}

/// Submits a turn that brings client tools.
pub fn submit_with_tools(n: u128) -> Act {
    submission(n, &format!("question {n}"), |command| {
        if let Command::Submit { client_tools, .. } = command {
            *client_tools = page_tools();
        }
    })
}

/// What the checker says of calls, as the agent reports it.
fn checks(calls: &[(String, Value)]) -> BTreeMap<usize, ArgumentsCheck> {
    let tools = page_tools();
    let check = |(name, arguments): &(String, Value)| {
        let tool = tools.iter().find(|tool| tool.name == *name)?;
        let checker = Checker::compile(&tool.parameters).expect("a schema");
        Some(match checker.check(&arguments.to_string()) {
            Ok(()) => ArgumentsCheck::Valid,
            Err(why) => ArgumentsCheck::Invalid(why),
        })
    };
    let checks = calls.iter().enumerate().map(|(index, call)| (index, check(call)));
    checks.filter_map(|(index, check)| Some((index, check?))).collect()
}

/// A page claims a call; `key` is the `Idempotency-Key` of its request.
pub fn claim(n: u128, index: usize, token: &'static str, key: Option<&'static str>) -> Act {
    act(move |scenario| Command::ClaimClientTool {
        turn: turn(n),
        call: scenario.call(index),
        claim: Claim {
            token: token.to_owned(),
            key: key.map(str::to_owned),
        },
    })
}

/// The page that holds the claim answers with this result, or with an error.
pub fn answer(n: u128, index: usize, token: &'static str, result: Option<Value>) -> Act {
    act(move |scenario| Command::AnswerClientTool {
        turn: turn(n),
        call: scenario.call(index),
        token: token.to_owned(),
        failed: result.is_none(),
        error: result.is_none().then(|| "it broke".to_owned()),
        answer_hash: format!("{token} {result:?}"),
        result: result.clone(),
    })
}

pub fn expire_client_tool(n: u128, index: usize) -> Act {
    act(move |scenario| Command::ClientToolExpired {
        turn: turn(n),
        call: scenario.call(index),
    })
}

pub fn recover() -> Act {
    act(|_| Command::RECOVER)
}

/// The same, after this many model calls were lost.
pub fn recover_lost(calls: usize) -> Act {
    act(move |_| {
        let lost = LostUsage {
            model: "m".into(),
            usage: USAGE,
        };
        Command::Recover {
            lost: vec![lost; calls],
        }
    })
}

/// Pauses the running turn; these of its calls were not sent.
pub fn pause(unsent: &'static [usize], asked: bool) -> Act {
    act(move |scenario| Command::Pause {
        unsent: unsent.iter().map(|index| scenario.call(*index)).collect(),
        asked,
    })
}

/// Hands the running turn over; these of its calls were not sent.
pub fn hand_over(unsent: &'static [usize], asked: bool) -> Act {
    act(move |scenario| Command::HandOver {
        unsent: unsent.iter().map(|index| scenario.call(*index)).collect(),
        asked,
    })
}

/// Resumes a paused turn; these of its calls are running.
pub fn resume(under_way: &'static [usize]) -> Act {
    act(move |scenario| Command::Resume {
        under_way: under_way.iter().map(|index| scenario.call(*index)).collect(),
    })
}

pub fn wait(seconds: u64) -> Act {
    Act::Pass(Duration::from_secs(seconds))
}

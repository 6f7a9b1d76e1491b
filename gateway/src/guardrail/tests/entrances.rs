//! The same content under the same rules has the same verdict in a conversation and on the endpoint, streamed or whole.
#![expect(clippy::disallowed_methods, reason = "tests open scopes")]

use std::collections::BTreeSet;

use copilotd_actors::domain::content::{Finish, Input};
use copilotd_actors::domain::conversation::Conversation;
use copilotd_actors::domain::conversation::command::{
    Command, Env, ModelFailure, ModelReply, OutputCheck, Step, StoppedWork, WhenBusy,
};
use copilotd_actors::domain::event::{Channel, Event};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::guardrail::{OnMatch, OutputGuard, Rule, RuleSet};
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::Policy;
use copilotd_actors::domain::schema::AcceptedSchema;
use copilotd_actors::domain::tool::client::ClientTools;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::fakes::policy::policy;
use proptest::prelude::*;
use serde_json::json;

use crate::guardrail::stream::tests_support::stream_of;
use crate::guardrail::*;

/// Pieces of contents: literals of the rules below in several spellings, and what surrounds them.
const WORDS: [&str; 16] = [
    "a ",
    "blue",
    "bird",
    "Bluebird",
    "ＢＬＵＥ",
    "sk-",
    "s\u{ad}k-",
    "secret",
    "s\\u0065cret",
    "\"",
    "{\"a\":\"",
    "\",\"a\":\"",
    "\"}",
    "\\",
    "4111",
    "é ",
];

fn rules() -> Rules {
    let rule = |literal: &str, action| Rule {
        name: literal.to_lowercase(),
        literal: literal.to_owned(),
        action,
        confusables: false,
    };
    Rules {
        input: RuleSet::new([rule("secret", OnMatch::Block)]),
        output: RuleSet::new([
            rule("Bluebird", OnMatch::Redact),
            rule("sk-", OnMatch::Block),
            rule("4111", OnMatch::Redact),
        ]),
    }
}

fn guard(rules: &Rules) -> Guard {
    let policy = TenantPolicy {
        rules: rules.clone(),
        ..TenantPolicy::default()
    };
    Guard {
        guardrails: Guardrails::default(),
        scope: TenantScope::from_verified("acme".parse().unwrap()),
        policy: Arc::new(policy),
    }
}

/// A conversation, and the guardrails that its log says were triggered.
struct Turn {
    conversation: Conversation,
    policy: Policy,
}

const AT: Step = Step {
    turn: TurnId::new(uuid::Uuid::from_u128(2)),
    attempt: 1,
    step: 1,
};

impl Turn {
    fn new() -> Self {
        let mut policy = policy("support".parse().unwrap());
        policy.rules = rules();
        let mut turn = Self {
            conversation: Conversation::new(ConversationId::new(uuid::Uuid::from_u128(1))),
            policy,
        };
        turn.triggers(Command::Create {
            tenant: "acme".parse().unwrap(),
            user: "ada".parse().unwrap(),
            copilot: turn.policy.copilot.clone(),
            channel: Channel::Api,
            title: None,
            metadata: Map::new(),
            idempotency: None,
        });
        turn
    }

    /// A turn whose model is working.
    fn working() -> Self {
        let mut turn = Self::new();
        turn.triggers(submit("hello", json!({}), None));
        turn
    }

    fn triggers(&mut self, command: Command) -> Option<(Stage, String)> {
        let env = Env {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            policy: &self.policy,
            may_await_approval: true,
        };
        let command = self.conversation.screen(&self.policy, command);
        let decision = self.conversation.decide(env, command).unwrap();
        decision
            .records
            .iter()
            .for_each(|record| self.conversation.apply(record));
        decision.records.into_iter().find_map(|record| match record.event {
            Event::GuardrailTriggered {
                stage, rule, action, ..
            } if action != GuardAction::Repair => Some((stage, rule)),
            _ => None,
        })
    }
}

fn submit(text: &str, metadata: Value, schema: Option<Value>) -> Command {
    Command::Submit {
        turn: AT.turn,
        input: Input::Text(text.to_owned()),
        metadata: metadata.as_object().unwrap().clone(),
        response_schema: schema.map(AcceptedSchema::unchecked),
        when_busy: WhenBusy::Enqueue,
        idempotency: None,
        trace: None,
        api_key: None,
        roles: Vec::new(),
        nonce: None,
        replaces: None,
        client_tools: ClientTools::default(),
        stop: StoppedWork::default(),
    }
}

fn asks_for(name: &str, arguments: &str) -> Command {
    Command::ModelReplied {
        at: AT,
        reply: ModelReply {
            text: String::new(),
            calls: vec![(name.to_owned(), arguments.into())],
            citations: Vec::new(),
            unsupported: Vec::new(),
            output: OutputCheck::NotNeeded,
            finish: Finish::ToolCalls,
            model: "m".to_owned(),
            usage: Usage::default(),
            first_token_ms: None,
            guardrails: Vec::new(),
            client_calls: std::collections::BTreeMap::new(),
        },
    }
}

/// The rule for which the endpoint refuses a request with this message and these members.
fn refused(text: &str, members: Value) -> Option<(Stage, String)> {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": text }] });
    body.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    let body = Arc::new(ChatBody::from_value(&body).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let refused = runtime.block_on(guard(&rules()).admit(&body)).err()?;
    assert_eq!(refused.kind, GatewayErrorKind::ContentPolicy);
    let rule = refused.message.split('"').nth(1).unwrap().to_owned();
    Some((Stage::Input, rule))
}

/// What the endpoint passes on of a message that arrives whole, and what is triggered.
fn whole(message: Value, is_json: bool) -> (Value, BTreeSet<(Stage, String)>) {
    let document_ = json!({ "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }] });
    let (bytes, triggered) = document(&rules(), is_json, document_.to_string().as_bytes()).unwrap();
    let mut read: Value = serde_json::from_slice(&bytes).unwrap();
    let names = triggered.into_iter().map(|triggered| (triggered.stage, triggered.rule));
    (read["choices"][0]["message"].take(), names.collect())
}

proptest! {
    #[test]
    fn a_prompt(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..8)) {
        let text = format!("x{}", words.concat());
        prop_assert_eq!(Turn::new().triggers(submit(&text, json!({}), None)), refused(&text, json!({})));
    }

    #[test]
    fn a_tool_call(
        name in prop::sample::select(vec!["f", "bluebird", "sk-", "the_secret"]),
        words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..8),
    ) {
        let arguments = words.concat();
        let in_turn = Turn::working().triggers(asks_for(name, &arguments));
        let call = json!({ "id": "1", "type": "function", "function": { "name": name, "arguments": arguments } });
        let (message, triggered) = whole(json!({ "content": null, "tool_calls": [call] }), false);
        prop_assert_eq!(in_turn.clone().into_iter().collect::<BTreeSet<_>>(), triggered);
        prop_assert_eq!(in_turn.is_some(), message.get("tool_calls").is_none());
        // Streamed, letter by letter.
        let start = json!({ "index": 0, "id": "1", "function": { "name": name, "arguments": "" } });
        let mut deltas = vec![json!({ "tool_calls": [start] })];
        deltas.extend(arguments.chars().map(|letter| {
            json!({ "tool_calls": [{ "index": 0, "function": { "arguments": letter.to_string() } }] })
        }));
        let streamed = stream_of(guard(&rules()), deltas, false);
        prop_assert_eq!(streamed.iter().any(|delta| delta.get("tool_calls").is_some()), in_turn.is_none());
    }

    #[test]
    fn an_answer(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..8), is_json in any::<bool>()) {
        let text = words.concat();
        // As the agent of a turn drives it.
        let mut of_turn = OutputGuard::new(&rules().output, is_json);
        let (mut shown, mut blocked) = (String::new(), None);
        for letter in text.chars().map(String::from).map(Some).chain([None]) {
            let passed = match letter {
                Some(letter) => of_turn.push(&letter),
                None => of_turn.finish(),
            };
            match passed {
                Ok(passed) => shown += &passed,
                Err(stopped) => {
                    shown += &stopped.released;
                    blocked = Some((Stage::Output, stopped.rule));
                    break;
                }
            }
        }
        let redacted = of_turn.redactions().iter().map(|rule| (Stage::Output, rule.clone()));
        let in_turn: BTreeSet<_> = redacted.chain(blocked.clone()).collect();
        if is_json && blocked.is_some() {
            // Readers of a turn see nothing of a structured answer that fails.
            shown.clear();
        }
        let (message, triggered) = whole(json!({ "content": text }), is_json);
        prop_assert_eq!(message["content"].as_str().unwrap_or_default(), &shown);
        prop_assert_eq!(triggered, in_turn);
        let deltas = text.chars().map(|letter| json!({ "content": letter.to_string() }));
        let streamed = stream_of(guard(&rules()), deltas.collect(), is_json);
        let streamed: String = streamed.iter().filter_map(|delta| delta["content"].as_str()).collect();
        prop_assert_eq!(streamed, shown);
    }

    #[test]
    fn an_error_of_a_provider(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..6)) {
        let message = words.concat();
        let failure = ModelFailure {
            class: FailureClass::Rejected,
            message: message.clone(),
            model: "m".to_owned(),
            usage: Usage::default(),
            retry_after: None,
        };
        let in_turn = Turn::working().triggers(Command::ModelFailed { at: AT, failure });
        let error = GatewayError::new(GatewayErrorKind::Invalid, message.clone());
        let shown = guard(&rules()).withhold_matching(error).message;
        prop_assert_eq!(in_turn.is_some(), shown != message, "{}", message);
    }
}

#[test]
fn what_comes_with_a_prompt() {
    for value in [
        json!({ "note": ["the secret"] }),
        json!({ "secret": 1 }),
        json!({ "note": "s\\u0065cret" }),
        json!({ "note": "Bluebird sk- 4111" }),
    ] {
        let in_turn = Turn::new().triggers(submit("hi", value.clone(), None));
        assert_eq!(in_turn, refused("hi", json!({ "metadata": value })), "{value}");
        let schema = json!({ "type": "object", "properties": value });
        let in_turn = Turn::new().triggers(submit("hi", json!({}), Some(schema.clone())));
        let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
        assert_eq!(in_turn, refused("hi", json!({ "response_format": format })), "{value}");
    }
}

/// With rules for prompts alone, a call is checked as in a conversation and all else passes as it is.
#[test]
fn rules_for_prompts_apply_to_calls_and_leave_the_rest_alone() {
    let rules = Rules {
        output: RuleSet::default(),
        ..rules()
    };
    let call = |arguments: &str| json!({ "index": 0, "id": "1", "function": { "name": "f", "arguments": arguments } });
    for (arguments, passes) in [(r#"{"a":"fine"}"#, true), (r#"{"a":"the s\u0065cret"}"#, false)] {
        let message = json!({ "content": "sk-", "audio": { "data": "x" }, "tool_calls": [call(arguments)] });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": { "a": 1 } });
        let document_ = json!({ "choices": [choice], "extra": 1 });
        let (bytes, triggered) = document(&rules, false, document_.to_string().as_bytes()).unwrap();
        let read: Value = serde_json::from_slice(&bytes).unwrap();
        let mut expected = document_.clone();
        if !passes {
            expected["choices"][0]["message"]
                .as_object_mut()
                .unwrap()
                .remove("tool_calls");
            expected["choices"][0]["finish_reason"] = FILTERED.into();
        }
        assert_eq!(read, expected);
        assert_eq!(triggered.len(), usize::from(!passes));
        let deltas = vec![
            json!({ "content": "sk-", "audio": { "data": "x" } }),
            json!({ "tool_calls": [call("")] }),
            json!({ "tool_calls": [{ "index": 0, "function": { "arguments": arguments } }] }),
        ];
        let streamed = stream_of(guard(&rules), deltas.clone(), false);
        assert_eq!(streamed[0], deltas[0]);
        let calls: Vec<&Value> = streamed.iter().filter_map(|delta| delta.get("tool_calls")).collect();
        let expected = json!([call(arguments)]);
        assert_eq!(calls, if passes { vec![&expected] } else { vec![] });
    }
}

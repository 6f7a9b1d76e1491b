//! Nothing may take more than linear time in outside input. Each parser gets its worst known input at a quarter of the
//! size and at full size; its thread's processor time may grow linearly with the size, not quadratically.
//!
//! It compares processor time, the best of several runs within one test run, so that a busy machine does not matter.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use copilotd::adapters::llm::anthropic;
use copilotd::adapters::llm::provider::{SseReader, prompt_tokens};
use copilotd::adapters::systems::slack::message;
use copilotd::http::bodies::RequestBody;
use copilotd::http::extract::IdempotencyKey;
use copilotd::http::{bodies as body, page};
use copilotd::surfaces::api::approvals::Decide;
use copilotd::surfaces::api::client_tools::RunClientTool;
use copilotd::surfaces::api::conversations::{Create, Update};
use copilotd::surfaces::api::turns::{Feedback, Submit};
use copilotd::surfaces::operator::tenants::{Put, Update as Patch};
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::conversation::command::{Command, Decision};
use copilotd_actors::domain::conversation::stream::Position;
use copilotd_actors::domain::guardrail::OnMatch;
use copilotd_actors::domain::ids::{CallId, TurnId};
use copilotd_actors::domain::policy::{Policy, Repeat};
use copilotd_actors::fakes::policy::policy;
use copilotd_gateway::cache::{Audience, Knowledge, Rules, question, veto};
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{CacheControl, Caller, Purpose};
use copilotd_gateway::request::embed::EmbedBody;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::talk::scope;

/// Full size of the input in bytes, approximately.
const WHOLE: usize = 1024 * 1024;
/// Measurements per size.
const RUNS: usize = 3;
/// For four times the input, linear work takes four times as long, quadratic work sixteen times.
const MOST_GROWTH: f64 = 9.0;
/// Shorter times are noise.
const FLOOR: Duration = Duration::from_millis(4);

/// Returns the processor time of this thread.
fn on_processor() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// Asserts that the time of `work` on the input that `make` creates grows no faster than the input's size.
#[track_caller]
fn assert_linear<I, O>(name: &str, make: impl Fn(usize) -> I, work: impl Fn(&I) -> O) {
    let best = |size: usize| {
        let input = make(size);
        let time = || {
            let begun = on_processor();
            // Dropping the result is part of the work.
            drop(black_box(work(black_box(&input))));
            on_processor() - begun
        };
        (0..RUNS).map(|_| time()).min().unwrap()
    };
    let (quarter, whole) = (best(WHOLE / 4), best(WHOLE));
    let most = quarter.mul_f64(MOST_GROWTH) + FLOOR;
    assert!(
        whole <= most,
        "{name}: {quarter:?} for a quarter and {whole:?} for the whole"
    );
}

/// Returns `head`, then as many of `item` (called with its number) as fit, separated by commas, then `tail`.
fn list(size: usize, head: &str, item: impl Fn(usize) -> String, tail: &str) -> String {
    let mut text = head.to_owned();
    let mut number = 0;
    while text.len() < size {
        if number > 0 {
            text.push(',');
        }
        text += &item(number);
        number += 1;
    }
    text + tail
}

#[test]
fn bodies_of_the_api() {
    let parse = |text: &String| body::parse(text.as_bytes()).is_ok();
    assert_linear("members", |n| list(n, "{", |i| format!("\"a{i}\":1"), "}"), parse);
    assert_linear(
        "few long members",
        |n| format!("{{\"{0}\":1,\"{0}\":2}}", "a".repeat(n / 2)),
        parse,
    );
    assert_linear("items", |n| list(n, "[", |_| "{}".into(), "]"), parse);
    assert_linear(
        "nested items",
        |n| list(n, "[", |_| format!("{}{}", "[".repeat(60), "]".repeat(60)), "]"),
        parse,
    );
    assert_linear("escapes", |n| format!("\"{}\"", "\\ud83d\\ude00".repeat(n / 12)), parse);
    let nul = |n: usize| {
        let name = "n".repeat(n / 2);
        list(n, &format!("{{\"{name}\":["), |_| "\"\\u0000\"".into(), "]}")
    };
    assert_linear("places below a long name", nul, parse);
    let submit = |text: &String| body::decode::<Submit>(text.as_bytes()).is_ok();
    let unknown = |n: usize| list(n, "{\"input\":\"x\",", |i| format!("\"u{i}\":1"), "}");
    assert_linear("unknown members", unknown, submit);
    let parts = |n: usize| list(n, "{\"input\":[", |_| "{\"type\":\"image\"}".into(), "]}");
    assert_linear("wrong parts", parts, submit);
    let text_parts = |n: usize| list(n, "{\"input\":[", |_| "{\"type\":\"text\",\"text\":\"\"}".into(), "]}");
    assert_linear("empty parts", text_parts, submit);
    let metadata = |n: usize| list(n, "{\"input\":\"x\",\"metadata\":{", |i| format!("\"m{i}\":[]"), "}}");
    assert_linear("metadata", metadata, submit);
}

#[test]
fn bodies_of_other_routes() {
    fn assert_decoded<T: RequestBody>(name: &str, head: &str, value: impl Fn(usize) -> String, tail: &str) {
        let text = |n| format!("{head}{}{tail}", value(n));
        assert_linear(name, text, |text| body::decode::<T>(text.as_bytes()).is_ok());
    }
    let long = |n: usize| format!("\"{}\"", "x".repeat(n));
    let members = |n: usize| list(n, "{", |i| format!("\"m{i}\":[]"), "}");
    let names = |n: usize| list(n, "{", |i| format!("\"{}{i}\":{{}}", "~/".repeat(8)), "}");
    let items = |n: usize| list(n, "[", |_| "{}".into(), "]");
    assert_decoded::<Feedback>("a comment", "{\"rating\":1,\"comment\":", long, "}");
    assert_decoded::<Feedback>("members of feedback", "{\"rating\":1,\"comment\":", members, "}");
    for value in [&long as &dyn Fn(usize) -> String, &members, &names, &items] {
        assert_decoded::<Decide>("arguments", "{\"decision\":\"approve\",\"arguments\":", value, "}");
        assert_decoded::<RunClientTool>("a page's answer", "{\"claim\":\"x\",\"result\":", value, "}");
        assert_decoded::<Create>("metadata of a conversation", "{\"metadata\":", value, "}");
        assert_decoded::<Update>("a patch", "{\"metadata\":", value, "}");
        assert_decoded::<Put>("settings", "{\"settings\":", value, "}");
        assert_decoded::<Patch>("changes of settings", "{\"settings\":", value, "}");
    }
}

#[test]
fn screening() {
    let policy = guarded();
    let screened = |command: &Command| command.clone().screen(&policy, Some("do"));
    let text = |n: usize| json!("x ".repeat(n / 2));
    let nested = |n: usize| (0..50).fold(json!("\"[{\\u0061".repeat(n / 10)), |inner, _| json!([inner]));
    let members = |n: usize| (0..n / 16).map(|i| (format!("name {i}"), json!(1))).collect::<Value>();
    let items = |n: usize| json!(vec!["a b"; n / 6]);
    let within = |n: usize| {
        let inner = json!({ "a": "b\\".repeat(n / 12) }).to_string();
        json!(json!({ "text": inner }).to_string())
    };
    for (name, value) in [
        ("a text", &text as &dyn Fn(usize) -> Value),
        ("a deep text with escapes", &nested),
        ("members", &members),
        ("items", &items),
        ("JSON within JSON", &within),
    ] {
        // Unoptimised code folds slowly.
        let value = |n: usize| value(n / 16);
        let answer = |n| Command::ToolReplied {
            turn: TurnId::new(Uuid::nil()),
            call: CallId::new(Uuid::nil()),
            status: ToolStatus::Succeeded,
            result: Some(value(n)),
            error: None,
        };
        assert_linear(&format!("an answer of {name}"), answer, screened);
        let decision = |n| Command::Decide {
            turn: TurnId::new(Uuid::nil()),
            call: CallId::new(Uuid::nil()),
            decision: Decision::Approve {
                arguments: Some(value(n)),
            },
            reason: None,
            by: "ada".into(),
        };
        assert_linear(&format!("edited arguments of {name}"), decision, screened);
        assert_linear(&format!("the weight of {name}"), decision, Command::weight);
    }
}

/// A copilot with guardrail rules, and with limits that nothing here reaches.
fn guarded() -> Policy {
    let mut policy = policy("support".parse().unwrap())
        .with_tool("do", "do", Repeat::Never, Duration::from_secs(1))
        .unwrap()
        .with_output_rule("secret", OnMatch::Redact);
    policy.limits.result_bytes = usize::MAX / 2;
    policy
}

#[test]
fn a_refusal_is_no_larger_than_a_page() {
    for text in [
        format!(
            "{{\"{}\":[{}]}}",
            "n".repeat(400_000),
            vec!["\"\\u0000\""; 50_000].join(",")
        ),
        format!("{{\"{0}\":{{\"{0}\":\"\\u0000\"}}}}", "\\/~".repeat(100_000)),
        list(600_000, "{\"input\":\"x\",", |i| format!("\"u{i}\":1"), "}"),
        format!("{{\"input\":[{}]}}", vec!["7"; 90_000].join(",")),
    ] {
        let problem = body::decode::<Submit>(text.as_bytes()).map(drop).unwrap_err();
        let bytes: usize = problem
            .errors()
            .iter()
            .map(|error| error.pointer.len() + error.message.len())
            .sum();
        assert!(bytes < 64 * 1024, "{bytes} bytes of faults");
    }
}

#[test]
fn idempotent_bodies() {
    let hash = |body: &Value| IdempotencyKey(Some("k".into())).with_body(body);
    let nested = |n: usize| (0..60).fold(json!("x".repeat(n)), |inner, _| json!([inner]));
    assert_linear("a deep text", nested, hash);
    let members = |n: usize| (0..n / 16).map(|i| (format!("name {i}"), json!(1))).collect::<Value>();
    assert_linear("members", members, hash);
}

fn chat(n: usize, head: &str, item: impl Fn(usize) -> String, tail: &str) -> String {
    list(n, &format!("{{\"model\":\"m\",{head}"), item, &format!("{tail}}}"))
}

#[test]
fn bodies_of_the_gateway() {
    let parse = |text: &String| ChatBody::parse(text.as_bytes()).is_ok();
    let members = |n| chat(n, "\"messages\":[],", |i| format!("\"x{i}\":0"), "");
    assert_linear("members", members, parse);
    let messages = |n| chat(n, "\"messages\":[", |_| "{}".into(), "]");
    assert_linear("messages", messages, parse);
    let tools = |n| chat(n, "\"messages\":[],\"tools\":[", |_| "{}".into(), "]");
    assert_linear("tools", tools, parse);
    let stop = |n| chat(n, "\"messages\":[],\"stop\":[", |_| "\"\"".into(), "]");
    assert_linear("stop", stop, parse);
    let brackets = |n: usize| format!("{{\"model\":\"m\",\"messages\":[\"{}\"]}}", "[{".repeat(n / 2));
    assert_linear("brackets in a text", brackets, parse);
    assert_linear("brackets alone", |n: usize| "[".repeat(n), parse);
    let embed = |text: &String| EmbedBody::parse(text.as_bytes()).is_ok();
    assert_linear(
        "inputs",
        |n| list(n, "{\"model\":\"m\",\"input\":[", |_| "\"\"".into(), "]}"),
        embed,
    );
    assert_linear(
        "tokens",
        |n| list(n, "{\"model\":\"m\",\"input\":[", |_| "[1]".into(), "]}"),
        embed,
    );
    let many = |n| ChatBody::parse(messages(n).as_bytes()).unwrap();
    assert_linear("written", many, |body| body.to_bytes());
    assert_linear("cloned and changed", many, |body| {
        let mut body = body.clone();
        body.remove("stream").unwrap();
        body
    });
}

#[test]
fn translations_and_cache_keys() {
    let call = |i: usize| {
        format!(
            r#"{{"role":"assistant","tool_calls":[{{"id":"c{i}","type":"function","function":{{"name":"f{i}","arguments":"{{}}"}}}}]}},
            {{"role":"tool","tool_call_id":"c{i}","content":"x"}}"#
        )
    };
    let first = r#""messages":[{"role":"user","content":"x"},"#;
    let calls = |n| ChatBody::parse(chat(n, first, call, "]").as_bytes()).unwrap();
    let manner = anthropic::TranslateOptions {
        model: "claude",
        max_tokens: 10,
        stream: false,
        is_checked: false,
    };
    assert_linear("calls of other tools each", calls, |body| {
        anthropic::write(body, manner).is_ok()
    });
    let schema = |n: usize| {
        let names: Vec<String> = (0..n / 32).map(|i| format!("p{i}")).collect();
        let properties: Value = names
            .iter()
            .map(|name| (name.clone(), json!({"type": "string"})))
            .collect();
        json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
    };
    assert_linear(
        "properties of a schema",
        schema,
        copilotd_gateway::request::strict::allows_strict,
    );
    let rules = Rules {
        audience: Audience::Tenant,
        max_temperature: 2.0,
    };
    let caller = Caller {
        scope: scope("acme"),
        user: "ada".parse().unwrap(),
        role: None,
        api_key: None,
        copilot: None,
        conversation: None,
        turn: None,
        purpose: Purpose::Endpoint,
    };
    let ask = |body: &ChatBody| {
        question(
            &caller,
            "default",
            body,
            Knowledge::default(),
            CacheControl::Use,
            &rules,
        )
        .map_err(|skip| skip.code())
    };
    let system = |_| r#"{"role":"system","content":[{"a":1,"b":{"c":2}}]}"#.to_owned();
    let tail = r#",{"role":"user","content":"What are the opening hours?"}]"#;
    let instructed = |n| ChatBody::parse(chat(n / 8, "\"messages\":[", system, tail).as_bytes()).unwrap();
    assert!(ask(&instructed(1_000)).is_ok());
    assert_linear("instructions", instructed, ask);
    let words = |n: usize| {
        let words = |from: usize| {
            (from..from + n / 16)
                .map(|i| format!("word{} un", letters(i)))
                .collect::<Vec<_>>()
        };
        (words(0).join(" "), words(n).join(" "))
    };
    assert_linear("two questions", words, |(a, b)| veto::veto(a, b));
}

fn letters(mut number: usize) -> String {
    let mut text = String::new();
    while number > 0 {
        text.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    text
}

#[test]
fn streams_of_providers() {
    let read = |(stream, step): &(Vec<u8>, usize)| {
        let (mut reader, mut events) = (SseReader::default(), 0);
        for piece in stream.chunks(*step) {
            let mut piece = Bytes::copy_from_slice(piece);
            while reader.advance(&mut piece).is_ok_and(|found| found) {
                events += 1;
            }
        }
        events
    };
    for (name, unit) in [
        ("events", "data: {}\n\n"),
        ("one event of many lines", "data:\n"),
        ("one line", "data: x"),
        ("line ends", "\r\n"),
        ("comments", ": ping\n"),
    ] {
        for step in [1, 7, 8_192] {
            let make = |n: usize| (unit.repeat(n / unit.len()).into_bytes(), step);
            assert_linear(&format!("{name} by {step}"), make, read);
        }
    }
}

#[test]
fn markdown_of_models() {
    for (name, head, unit) in [
        ("words", "", "word "),
        ("lines", "", "line\n"),
        ("one table", "| a | b |\n|---|---|\n", "| c | d |\n"),
        ("a wide table", "", "a|"),
        ("quotes", "", "> "),
        ("quotes on lines", "", "> > a\n"),
        ("lists", "", "- "),
        ("emphasis", "", "*a "),
        ("emphasis of two kinds", "", "*a_ "),
        ("links", "", "[a](b"),
        ("brackets", "", "["),
        ("backticks", "", "`a``"),
        ("entities", "", "&amp;"),
        ("code", "```\n", "a<b\n"),
        ("html", "", "<a "),
        ("references", "", "[a]: b\n"),
    ] {
        // Arguments of a tool are at most 64 KiB.
        let make = |n: usize| format!("{head}{}", unit.repeat(n / 8 / unit.len()));
        assert_linear(name, make, |text| message::from_markdown(text).is_ok());
    }
    // Many empty cells make the output longer than the input.
    let table = |n: usize| {
        let columns = n / 64;
        format!(
            "{0}|\n{1}|\n{2}",
            "|a".repeat(columns),
            "|-".repeat(columns),
            "|\n".repeat(n / 64)
        )
    };
    let posted = message::from_markdown(&table(8 * 1024)).unwrap();
    assert!(posted.len() <= 30 && posted.iter().all(|message| message.blocks.len() <= 50));
}

#[test]
fn tokens_of_texts() {
    for unit in [
        "a", "A", " ", "\n", "\t ", "🙂", "é", "漢", "\u{301}", "7", "=", "' ", "\u{200b}", "aB", "word ", "\r\n",
    ] {
        // The tokenizer is slow without optimisation.
        let make = |n: usize| unit.repeat(n / 4 / unit.len());
        assert_linear(&format!("count {unit:?}"), make, |text| tokens::count(text));
        assert_linear(&format!("at least {unit:?}"), make, |text| tokens::at_least(text));
        let clip = |text: &String| tokens::clip(text, 4_000).len();
        let clipped = clip(&make(WHOLE));
        assert!(clipped <= 4_000 * 128 + 1, "{unit:?}: {clipped}");
    }
    let parts = |n| {
        chat(
            n / 4,
            "\"messages\":[",
            |_| r#"{"content":[{"text":"a"},{"text":""}]}"#.into(),
            "]",
        )
    };
    let body = |n| Arc::new(ChatBody::parse(parts(n).as_bytes()).unwrap());
    assert_linear("many parts", body, |body| prompt_tokens(body));
}

#[test]
fn positions_and_cursors() {
    let position = |text: &String| text.parse::<Position>().is_ok();
    assert_linear("digits of a position", |n: usize| "9".repeat(n), position);
    assert_linear("dots of a position", |n: usize| "1.".repeat(n / 2), position);
    let cursor = |text: &String| page::position::<Value>("list", text).is_ok();
    assert_linear("a long cursor", |n: usize| page::cursor("list", &"x".repeat(n)), cursor);
    assert_linear(
        "a nested cursor",
        |n: usize| page::cursor("list", &"[".repeat(n)),
        cursor,
    );
    assert_linear("no cursor", |n: usize| "A".repeat(n), cursor);
}

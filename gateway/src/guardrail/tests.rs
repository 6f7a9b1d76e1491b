//! Rules on answers, split in every way.
#![expect(clippy::disallowed_methods, reason = "tests open scopes")]

mod entrances;

use std::sync::atomic::{AtomicUsize, Ordering};

use copilotd_actors::compute;
use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet};
use futures::{FutureExt, StreamExt, stream as streams};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::answer::AnswerStream;
use crate::provider::Piece;

fn policy(rules: &[(&str, OnMatch)]) -> Arc<TenantPolicy> {
    let rule = |(literal, action): &(&str, OnMatch)| Rule {
        name: (*literal).to_owned(),
        literal: (*literal).to_owned(),
        action: *action,
        confusables: false,
    };
    let mut policy = TenantPolicy::default();
    policy.rules.output = RuleSet::new(rules.iter().map(rule));
    Arc::new(policy)
}

fn guard(policy: &Arc<TenantPolicy>) -> Guard {
    Guard {
        guardrails: Guardrails::default(),
        scope: TenantScope::from_verified("acme".parse().unwrap()),
        policy: Arc::clone(policy),
    }
}

fn body(n: u64) -> ChatBody {
    ChatBody::from_value(&json!({"model": "m", "messages": [], "n": n})).unwrap()
}

fn now<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().expect("nothing is waited for")
}

fn whole(policy: &Arc<TenantPolicy>, choice: Value) -> Value {
    whole_for(&body(1), policy, choice)
}

fn whole_for(body: &ChatBody, policy: &Arc<TenantPolicy>, choice: Value) -> Value {
    let document = json!({
        "id": "1", "model": "m", "choices": [choice], "usage": {"total_tokens": 3}, "related_questions": ["secret"],
    });
    let answer = Answer::Whole(document.to_string().into());
    let Ok(Answer::Whole(bytes)) = now(guard(policy).guarded(body, answer)) else {
        panic!("a document stays one")
    };
    serde_json::from_slice(&bytes).unwrap()
}

/// Streams chunks with these choices; returns the chunks sent, and whether an error ends them.
fn streamed(policy: &Arc<TenantPolicy>, n: u64, chunks: &[Value]) -> (Vec<Value>, bool) {
    streamed_for(&body(n), policy, chunks)
}

fn streamed_for(body: &ChatBody, policy: &Arc<TenantPolicy>, chunks: &[Value]) -> (Vec<Value>, bool) {
    let piece = |choices: &Value| {
        let chunk = json!({"id": "1", "choices": choices});
        Ok(Piece {
            chunk: Some(chunk.to_string().into()),
            ..Piece::default()
        })
    };
    let pieces: AnswerStream = streams::iter(chunks.iter().map(piece).collect::<Vec<_>>()).boxed();
    let Ok(Answer::Stream(pieces)) = now(guard(policy).guarded(body, Answer::Stream(pieces))) else {
        panic!("a stream stays one")
    };
    let items = pieces
        .collect::<Vec<_>>()
        .now_or_never()
        .expect("nothing is waited for");
    let failed = items.iter().any(Result::is_err);
    let chunks = items.into_iter().filter_map(|item| item.ok()?.chunk);
    (
        chunks.map(|chunk| serde_json::from_slice(&chunk).unwrap()).collect(),
        failed,
    )
}

/// Joins the parts of one choice: its texts, its calls' arguments, and how it ended.
fn assembled(chunks: &[Value], index: u64) -> (String, String, String) {
    let (mut text, mut calls, mut finish) = (String::new(), String::new(), String::new());
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    for choice in choices.filter(|choice| choice["index"] == index) {
        assert_eq!(finish, "", "nothing comes after the end: {choice}");
        text += choice["delta"]["content"].as_str().unwrap_or_default();
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            calls += call["function"]["arguments"].as_str().unwrap();
        }
        finish += choice["finish_reason"].as_str().unwrap_or_default();
    }
    (text, calls, finish)
}

#[test]
fn documents() {
    let policy = policy(&[("secret", OnMatch::Block), ("bluebird", OnMatch::Redact)]);
    for (message, expected, finish) in [
        (
            json!({"content": "All is well"}),
            json!({"content": "All is well"}),
            "stop",
        ),
        (
            json!({"content": "a Bluebird."}),
            json!({"content": "a [redacted]."}),
            "stop",
        ),
        (
            json!({"content": "my SECRET is"}),
            json!({"content": "my "}),
            "content_filter",
        ),
        (
            json!({"content": "", "reasoning": "a secret"}),
            json!({"content": "", "reasoning": "a "}),
            "content_filter",
        ),
        (
            json!({"content": null, "refusal": "bluebird"}),
            json!({"content": null, "refusal": "[redacted]"}),
            "stop",
        ),
        // What cannot be checked is left out.
        (
            json!({"content": "x", "audio": {"transcript": "secret"}}),
            json!({"content": "x"}),
            "stop",
        ),
        // What has no window is sent whole or not at all.
        (json!({"content": ["secret"]}), json!({}), "content_filter"),
        (json!({"content": ["x"]}), json!({"content": ["x"]}), "stop"),
        (
            json!({"content": "x", "notes": [{"title": "a bluebird"}]}),
            json!({"content": "x"}),
            "content_filter",
        ),
        (
            json!({"content": "x", "type": 1, "notes": {"secret": 2}}),
            json!({"content": "x"}),
            "content_filter",
        ),
        (
            json!({"content": "x", "type": 1, "notes": {"n": 2}}),
            json!({"content": "x", "type": 1, "notes": {"n": 2}}),
            "stop",
        ),
        (
            json!({"role": ["secret"], "content": "x"}),
            json!({"content": "x"}),
            "content_filter",
        ),
    ] {
        let choice =
            json!({"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": ["secret"]}});
        let read = whole(&policy, choice);
        let choice = &read["choices"][0];
        assert_eq!(choice["message"], expected, "{message}");
        assert_eq!(choice["finish_reason"], finish, "{message}");
        assert_eq!(choice["logprobs"], Value::Null);
        assert_eq!(read["usage"]["total_tokens"], 3);
        assert!(!read.to_string().contains("related"), "{read}");
    }
}

#[test]
fn a_call_is_passed_on_whole_or_not_at_all() {
    let policy = policy(&[("secret", OnMatch::Block), ("bluebird", OnMatch::Redact)]);
    for (arguments, passes) in [
        (r#"{"to":"ada"}"#, true),
        (r#"{"to":"the secret"}"#, false),
        (r#"{"Secret":1}"#, false),
        // Redacted, it would be another call.
        (r#"{"to":"bluebird"}"#, false),
        // JSON can write one text in many ways.
        (r#"{"to":"s\u0065cret"}"#, false),
        (r#"{"nested":"{\"to\":\"s\\u0065cret\"}"}"#, false),
        (r#"{"n":1e999,"to":"s\u0065cret"}"#, false),
        // Cut off, it is still checked.
        (r#"{"to":"the s\u0065cret","b":""#, false),
        (r#"{"to":"S\u0045CR\u0045t"#, false),
        ("not JSON", true),
        (r"not \u00 JSON \", true),
    ] {
        let call = json!({"id": "1", "type": "function", "function": {"name": "send", "arguments": arguments}});
        let message = json!({"content": "I send.", "tool_calls": [call]});
        let read = whole(
            &policy,
            json!({"index": 0, "message": message, "finish_reason": "tool_calls"}),
        );
        let choice = &read["choices"][0];
        let (finish, calls) = if passes {
            ("tool_calls", json!([call]))
        } else {
            ("content_filter", Value::Null)
        };
        assert_eq!(choice["message"]["tool_calls"], calls, "{arguments}");
        assert_eq!(choice["finish_reason"], finish, "{arguments}");
        assert_eq!(choice["message"]["content"], "I send.");
        // The same in pieces, byte by byte.
        let mut chunks = vec![
            json!([{"index": 0, "delta": {"role": "assistant", "content": "I send."}}]),
            json!([{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "send", "arguments": ""}}]}}]),
        ];
        chunks.extend(arguments.chars().map(|letter| {
            json!([{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": letter.to_string()}}]}}])
        }));
        chunks.push(json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]));
        let (chunks, failed) = streamed(&policy, 1, &chunks);
        let (text, calls, finished) = assembled(&chunks, 0);
        assert!(!failed);
        assert_eq!((text.as_str(), finished.as_str()), ("I send.", finish), "{arguments}");
        assert_eq!(calls, if passes { arguments } else { "" });
    }
}

#[test]
fn json_is_checked_by_its_meaning() {
    let policy = policy(&[("secret", OnMatch::Block), ("bluebird", OnMatch::Redact)]);
    let format = json!({"model": "m", "messages": [], "response_format": {"type": "json_object"}});
    let body = ChatBody::from_value(&format).unwrap();
    for (content, expected, finish) in [
        (r#"{"a":"well"}"#, r#"{"a":"well"}"#, "stop"),
        (r#"{"a":"a Bluebird"}"#, r#"{"a":"a [redacted]"}"#, "stop"),
        (r#"{"a":"s\u0065cret"}"#, "", "content_filter"),
        (r#"{"a":"Bl\u0075ebird"}"#, "", "content_filter"),
        (r#"{"a":"a secret"}"#, "", "content_filter"),
        // Cut off at its longest.
        (r#"{"a":"S\u0045cret"#, "", "content_filter"),
    ] {
        let choice = json!({"index": 0, "message": {"content": content}, "finish_reason": "stop"});
        let read = &whole_for(&body, &policy, choice)["choices"][0];
        assert_eq!(read["message"]["content"], expected, "{content}");
        assert_eq!(read["finish_reason"], finish, "{content}");
        let mut chunks: Vec<Value> = content
            .chars()
            .map(|letter| json!([{"index": 0, "delta": {"content": letter.to_string()}}]))
            .collect();
        chunks.push(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]));
        let (chunks, _) = streamed_for(&body, &policy, &chunks);
        let (text, _, finished) = assembled(&chunks, 0);
        assert_eq!((text.as_str(), finished.as_str()), (expected, finish), "{content}");
    }
}

#[test]
fn no_part_of_json_that_is_stopped_at_its_end_is_sent() {
    let policy = policy(&[("abcx", OnMatch::Redact), ("bc", OnMatch::Block)]);
    let format = json!({"model": "m", "messages": [], "response_format": {"type": "json_object"}});
    let choice = json!({"index": 0, "message": {"content": "{\"k\":\"abc"}, "finish_reason": "length"});
    let read = whole_for(&ChatBody::from_value(&format).unwrap(), &policy, choice);
    assert_eq!(read["choices"][0]["message"]["content"], "");
    assert_eq!(read["choices"][0]["finish_reason"], "content_filter");
}

#[test]
fn a_stream_ends_when_only_what_was_stopped_would_go_on() {
    let policy = policy(&[("secret", OnMatch::Block)]);
    let say = |index: u64, text: &str| json!([{"index": index, "delta": {"content": text}}]);
    let end = |index: u64| json!([{"index": index, "delta": {}, "finish_reason": "stop"}]);
    for (n, chunks, length, finish) in [
        // The other one has ended, so nothing is waited for.
        (
            2,
            vec![say(0, "secret"), say(1, "well"), end(1), say(0, "more"), json!([])],
            3,
            "content_filter",
        ),
        // Both were ended by their provider, which then reports.
        (
            2,
            vec![say(0, "secret"), end(0), say(1, "well"), end(1), json!([])],
            4,
            "content_filter",
        ),
        // A choice that was not requested neither counts nor is sent.
        (1, vec![say(1, "secret"), say(0, "well"), end(0), json!([])], 3, "stop"),
    ] {
        let (chunks, failed) = streamed(&policy, n, &chunks);
        assert!(!failed);
        assert_eq!(chunks.len(), length, "{chunks:?}");
        assert_eq!(assembled(&chunks, 0).2, finish);
    }
}

#[test]
fn calls_stay_apart() {
    let policy = policy(&[("secret", OnMatch::Block)]);
    let call = |index: Value, id: &str, arguments: &str| {
        let mut call = json!({"type": "function", "function": {"name": "f", "arguments": arguments}});
        if index != json!("none") {
            call["index"] = index;
        }
        if !id.is_empty() {
            call["id"] = id.into();
        }
        call
    };
    // Some servers give every call of a document the index 0.
    let two = json!([call(json!(0), "1", "{}"), call(json!(0), "2", "[]")]);
    let message = json!({"content": null, "tool_calls": two});
    let read = whole(
        &policy,
        json!({"index": 0, "message": message, "finish_reason": "tool_calls"}),
    );
    assert_eq!(read["choices"][0]["message"]["tool_calls"], two);
    let none = json!("none");
    for (pieces, expected) in [
        (
            vec![
                call(json!(0), "1", "{\"a\""),
                call(json!(0), "", ":1}"),
                call(json!(1), "2", "{}"),
            ],
            vec!["{\"a\":1}", "{}"],
        ),
        (
            vec![
                call(json!(0), "1", "{}"),
                call(json!(0), "2", "[]"),
                call(json!(0), "", " "),
            ],
            vec!["{}", "[] "],
        ),
        (
            vec![call(json!(null), "1", "{}"), call(json!(null), "2", "[]")],
            vec!["{}", "[]"],
        ),
        (
            vec![
                call(none.clone(), "1", "{"),
                call(none.clone(), "1", "}"),
                call(none.clone(), "2", "[]"),
            ],
            vec!["{}", "[]"],
        ),
        (vec![call(none.clone(), "", "{"), call(none, "", "}")], vec!["{}"]),
    ] {
        let mut chunks: Vec<Value> = pieces
            .iter()
            .map(|piece| json!([{"index": 0, "delta": {"tool_calls": [piece]}}]))
            .collect();
        chunks.push(json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]));
        let (chunks, _) = streamed(&policy, 1, &chunks);
        let calls = chunks
            .iter()
            .flat_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array());
        let calls: Vec<&str> = calls
            .flatten()
            .map(|call| call["function"]["arguments"].as_str().unwrap())
            .collect();
        assert_eq!(calls, expected, "{pieces:?}");
        let indices = chunks
            .iter()
            .flat_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array())
            .flatten()
            .map(|call| call["index"].as_u64());
        assert_eq!(
            indices.collect::<Vec<_>>(),
            (0..expected.len() as u64).map(Some).collect::<Vec<_>>()
        );
    }
}

#[test]
fn what_callers_have_to_send_back_is_passed_on_if_no_rule_is_in_it() {
    let policy = policy(&[("secret", OnMatch::Block)]);
    let thought =
        |text: &str| json!([{"index": 0, "delta": {"thinking_blocks": [{"type": "thinking", "thinking": text}]}}]);
    let call = json!({
        "index": 0, "id": "function", "type": "function",
        "function": {"name": "f", "arguments": {"a": 1}}, "extra_content": {"google": {"thought_signature": "xyz"}},
    });
    let say = |parts: [&str; 2]| {
        let ended = json!([{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]);
        streamed(&policy, 1, &[thought(parts[0]), thought(parts[1]), ended]).0
    };
    let deltas: Vec<Value> = say(["Hm", "m."])
        .into_iter()
        .map(|mut chunk| chunk["choices"][0]["delta"].take())
        .collect();
    let passed = [
        thought("Hm")[0]["delta"].clone(),
        thought("m.")[0]["delta"].clone(),
        json!({"tool_calls": [call]}),
        json!({}),
    ];
    assert_eq!(deltas, passed);
    // Also where a text of it is split in two.
    let stopped = say(["a sec", "ret"]);
    assert_eq!(stopped.len(), 1);
    assert_eq!(stopped[0]["choices"][0]["finish_reason"], "content_filter");
}

#[test]
fn a_choice_that_its_provider_ended_leaves_the_report_of_usage() {
    let policy = policy(&[("secret", OnMatch::Block)]);
    for (chunks, reports) in [
        (
            // What follows shows that no combining mark changes the last letter.
            vec![json!([{"index": 0, "delta": {"content": "a secret."}}]), json!([])],
            false,
        ),
        (
            vec![
                json!([{"index": 0, "delta": {"content": "a secret"}, "finish_reason": "stop"}]),
                json!([]),
            ],
            true,
        ),
    ] {
        let (chunks, failed) = streamed(&policy, 1, &chunks);
        assert!(!failed);
        assert_eq!(assembled(&chunks, 0).2, "content_filter");
        assert_eq!(chunks.last().unwrap()["choices"] == json!([]), reports, "{chunks:?}");
    }
}

#[test]
fn an_error_quotes_nothing_forbidden() {
    let policy = policy(&[("secret", OnMatch::Redact)]);
    for (message, passes) in [("it was too long", true), ("it called the Secret tool", false)] {
        let error = guard(&policy).withhold_matching(GatewayError::new(GatewayErrorKind::Invalid, message));
        assert_eq!(error.message == message, passes);
    }
}

#[test]
fn prompts_are_checked_in_every_form_that_a_parser_could_read() {
    let mut policy = TenantPolicy::default();
    policy.rules.input = RuleSet::new([Rule {
        name: "sql".to_owned(),
        literal: "drop table".to_owned(),
        action: OnMatch::Block,
        confusables: false,
    }]);
    let policy = Arc::new(policy);
    let text = "please DROP TABLE x";
    for (messages, expected) in [
        (
            json!([{"role": "user", "content": format!("data: {text}")}]).to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": format!("data:{text}"), "data": 1}]}])
                .to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": text}}]}]).to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "drop/tableaA1+".repeat(8)}}]}])
                .to_string(),
            None,
        ),
        (
            json!([{"role": "user", "content": text}]).to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"role": "tool", "content": text}]).to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"content": [text]}]).to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": text}]}]).to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"role": "user", "content": [{"type": "refusal", "refusal": text}]}]).to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,drop table"}}]}])
                .to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,droptable"}}]}])
                .to_string(),
            None,
        ),
        (
            json!([{"role": "system", "content": text}, {"role": "assistant", "content": text}]).to_string(),
            None,
        ),
        (
            format!(r#"[{{"role":"user","content":"{text}","x":1e999}}]"#),
            Some(GatewayErrorKind::Invalid),
        ),
        (
            format!(r#"[{{"role":"user","content":"{text}","x":"\ud800"}}]"#),
            Some(GatewayErrorKind::Invalid),
        ),
        // Long ones are checked elsewhere.
        (
            json!([{"role": "user", "content": "x".repeat(compute::INLINE_COST)}, {"role": "user", "content": text}])
                .to_string(),
            Some(GatewayErrorKind::ContentPolicy),
        ),
    ] {
        let body = format!(r#"{{"model":"m","messages":{messages}}}"#);
        let body = Arc::new(ChatBody::parse(body.as_bytes()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let admitted = runtime.block_on(guard(&policy).admit(&body));
        assert_eq!(
            admitted.err().map(|error| error.kind),
            expected,
            "{}",
            &messages[..messages.len().min(200)]
        );
    }
}

/// Runs `work` and returns how many threads were started for it: those of the pool, if it was not running yet.
fn threads_for<T>(work: impl Future<Output = T>) -> (T, usize) {
    let started = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&started);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime
        .enable_time()
        .on_thread_start(move || _ = count.fetch_add(1, Ordering::SeqCst));
    let done = runtime.build().unwrap().block_on(work);
    (done, started.load(Ordering::SeqCst))
}

#[test]
fn long_texts_are_checked_on_the_compute_pool() {
    let mut policy = TenantPolicy::clone(&policy(&[("secret", OnMatch::Block)]));
    policy.rules.input = policy.rules.output.clone();
    let policy = Arc::new(policy);
    let part = "x ".repeat(compute::INLINE_COST / 16);
    let chunk = |choice: Value| {
        Ok(Piece {
            chunk: Some(json!({ "choices": [choice] }).to_string().into()),
            ..Piece::default()
        })
    };
    let call = |arguments: &str| {
        let call = json!({ "index": 0, "id": "c", "function": { "name": "f", "arguments": arguments } });
        chunk(json!({ "index": 0, "delta": { "tool_calls": [call] } }))
    };
    for (parts, threads) in [(1, 0), (12, 1)] {
        let asked = json!({ "model": "m", "messages": [{ "role": "user", "content": part.repeat(parts) }] });
        let asked = Arc::new(ChatBody::from_value(&asked).unwrap());
        let (admitted, started) = threads_for(guard(&policy).admit(&asked));
        assert!(admitted.is_ok());
        assert_eq!(started, threads, "a prompt of {parts}");

        let message = json!({ "choices": [{ "index": 0, "message": { "content": part.repeat(parts) } }] });
        let answer = Answer::Whole(message.to_string().into());
        let (looked, started) = threads_for(guard(&policy).guarded(&body(1), answer));
        assert!(looked.is_ok());
        assert_eq!(started, threads, "a document of {parts}");

        let one = chunk(json!({ "index": 0, "delta": { "content": part.repeat(parts) } }));
        // No piece is long, but what is checked at the end is.
        let end = || chunk(json!({ "index": 0, "delta": {}, "finish_reason": "tool_calls" }));
        let many: Vec<_> = (0..parts).map(|_| call(&part)).chain([end()]).collect();
        for (name, pieces) in [("one piece", vec![one, end()]), ("many pieces", many)] {
            let pieces: AnswerStream = streams::iter(pieces).boxed();
            let work = async {
                let answer = guard(&policy).guarded(&body(1), Answer::Stream(pieces)).await;
                let Ok(Answer::Stream(pieces)) = answer else {
                    panic!("a stream stays one")
                };
                pieces.collect::<Vec<_>>().await
            };
            let (items, started) = threads_for(work);
            let bytes: usize = items
                .iter()
                .filter_map(|item| Some(item.as_ref().ok()?.chunk.as_ref()?.len()))
                .sum();
            assert!(bytes >= part.len() * parts, "{name} of {parts}: {bytes} bytes");
            assert_eq!(started > 0, threads > 0, "{name} of {parts}");
        }
    }
}

#[test]
fn one_choice_is_stopped_and_the_other_goes_on() {
    let policy = policy(&[("secret", OnMatch::Block)]);
    let (chunks, failed) = streamed(
        &policy,
        2,
        &[
            json!([{"index": 0, "delta": {"content": "my sec"}}]),
            json!([{"index": 1, "delta": {"content": "all "}}]),
            json!([{"index": 0, "delta": {"content": "ret"}}]),
            json!([{"index": 0, "delta": {"content": " is"}}, {"index": 1, "delta": {"content": "well"}}]),
            json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
            json!([{"index": 1, "delta": {}, "finish_reason": "stop"}]),
            json!([]),
        ],
    );
    assert!(!failed);
    assert_eq!(
        assembled(&chunks, 0),
        ("my ".to_owned(), String::new(), "content_filter".to_owned())
    );
    assert_eq!(
        assembled(&chunks, 1),
        ("all well".to_owned(), String::new(), "stop".to_owned())
    );
    // The usage report still comes.
    assert_eq!(chunks.last().unwrap()["choices"], json!([]));
}

#[test]
fn invalid_json_is_not_passed_on() {
    let policy = policy(&[("secret", OnMatch::Block)]);
    let broken = Answer::Whole(Bytes::from_static(b"secret"));
    assert!(now(guard(&policy).guarded(&body(1), broken)).is_err());
    let piece = Piece {
        chunk: Some(Bytes::from_static(b"secret")),
        ..Piece::default()
    };
    let pieces: AnswerStream = streams::iter([Ok(piece)]).boxed();
    let Ok(Answer::Stream(pieces)) = now(guard(&policy).guarded(&body(1), Answer::Stream(pieces))) else {
        panic!("a stream stays one")
    };
    let items = now(pieces.collect::<Vec<_>>());
    assert!(matches!(items.as_slice(), [Err(_)]));
}

proptest! {
    /// However a stream is split, it says what the document says.
    #[test]
    fn a_stream_says_what_the_document_says(
        words in prop::collection::vec(prop::sample::select(vec!["a", "se", "secret", "blue", "bird", "bluebird", "é", " "]), 0..20),
        cuts in prop::collection::vec(0_usize..80, 0..12),
        end_with_text in any::<bool>(),
    ) {
        let policy = policy(&[("secret", OnMatch::Block), ("bluebird", OnMatch::Redact)]);
        let text = words.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|at| text.is_char_boundary(*at)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut chunks: Vec<Value> = cuts
            .windows(2)
            .map(|cut| json!([{"index": 0, "delta": {"content": &text[cut[0]..cut[1]]}}]))
            .collect();
        let end = |choice: &mut Value| choice["finish_reason"] = "stop".into();
        match chunks.last_mut() {
            Some(last) if end_with_text => end(&mut last[0]),
            _ => chunks.push(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])),
        }
        let (chunks, failed) = streamed(&policy, 1, &chunks);
        prop_assert!(!failed);
        let (said, _, finish) = assembled(&chunks, 0);
        let document = whole(&policy, json!({"index": 0, "message": {"content": text}, "finish_reason": "stop"}));
        prop_assert_eq!(&document["choices"][0]["message"]["content"], &said);
        prop_assert_eq!(&document["choices"][0]["finish_reason"], &finish);
        prop_assert!(!said.contains("secret") && !said.contains("bluebird"));
    }
}

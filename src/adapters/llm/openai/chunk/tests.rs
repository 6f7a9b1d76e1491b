use std::sync::Arc;

use copilotd_gateway::request::body::ChatBody;
use proptest::prelude::*;

use super::*;
use crate::adapters::llm::provider::{Decoder as _, SseReader};

/// What a provider may send: unknown members, numbers in unusual forms, multi-byte characters, escapes, a call, two
/// choices; between them comments and the line ends that the standard allows.
const SENT: [&str; 7] = [
    r#"{"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
    r#"{ "x_own" : {"b":1.00,"a":2e0}, "id":"a","choices":[{"index":0,"delta":{"content":"Grüße € 😀 data: \n\r"},"logprobs":null}] }"#,
    r#"{"id":"a","choices":[{"index":1,"delta":{"content":"the \u00e9 other"}}]}"#,
    r#"{"id":"a","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"look","arguments":""}}]}}]}"#,
    r#"{"id":"a","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]}}]}"#,
    r#"{"id":"a","choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#,
    r#"{"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
];
const REPORT: &str = r#"{"id":"a","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"x":1.0}}"#;

/// Reads a stream that arrives split at `cuts`; returns the chunks that are passed on.
fn relayed(stream: &[u8], cuts: &[usize], include_usage: bool) -> Vec<Bytes> {
    let body = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
    let mut transcript = Transcript::new(Arc::new(body), Arc::default());
    let options = AnswerOptions {
        chunks: true,
        include_usage,
        has_schema: false,
        choices: 2,
    };
    let mut decoder = Decoder::new(Errors::new("main", Vec::new()), options);
    let (mut sse, mut out) = (SseReader::default(), Out::new());
    let mut from = 0;
    for &to in cuts.iter().chain([&stream.len()]) {
        let mut piece = Bytes::copy_from_slice(&stream[from..to]);
        from = to;
        while sse.advance(&mut piece).unwrap() {
            decoder
                .decode(sse.name(), sse.data(), &mut out, &mut transcript)
                .unwrap();
        }
    }
    let usage = Usage {
        cost: 7,
        ..decoder.usage().unwrap()
    };
    decoder.finish(End::Done, &mut out, &mut transcript).unwrap().unwrap();
    let last = decoder.usage_chunk(&usage);
    let pieces = out.into_iter().filter_map(|piece| piece.unwrap().chunk);
    pieces.chain(last).collect()
}

fn stream(line_end: &str) -> Vec<u8> {
    let mut stream = format!(": hello{line_end}{line_end}");
    for chunk in SENT.iter().chain([&REPORT, &"[DONE]"]) {
        stream += &format!("data: {chunk}{line_end}{line_end}: still here{line_end}");
    }
    stream.into_bytes()
}

fn assert_same(stream: &[u8], cuts: &[usize]) {
    let report = REPORT.replace("1.0}", "1.0,\"cost_usd\":0.000000007}");
    let expected: Vec<&str> = SENT.into_iter().chain([report.as_str()]).collect();
    assert_eq!(relayed(stream, cuts, true), expected, "{cuts:?}");
    assert_eq!(relayed(stream, cuts, false), SENT, "{cuts:?}");
}

#[test]
fn chunks_are_passed_on_byte_for_byte_wherever_the_stream_is_cut_once() {
    for line_end in ["\n", "\r\n"] {
        let stream = stream(line_end);
        for cut in 0..=stream.len() {
            assert_same(&stream, &[cut]);
        }
        let every: Vec<usize> = (0..stream.len()).collect();
        assert_same(&stream, &every);
    }
}

proptest! {
    #[test]
    fn chunks_are_passed_on_byte_for_byte_however_the_stream_is_cut(
        parts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
        crlf in any::<bool>(),
    ) {
        let stream = stream(if crlf { "\r\n" } else { "\n" });
        let mut cuts: Vec<usize> = parts.iter().map(|part| part.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        assert_same(&stream, &cuts);
    }
}

/// Any value that a server may put in any place.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..300_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "a",
            "0",
            "7.0",
            "{\"x\":1}",
            "{",
            "}",
            "stop",
            "STOP",
            "length",
            "look",
            "send",
            "text"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(
                (
                    prop::sample::select(vec![
                        "type",
                        "text",
                        "thinking",
                        "index",
                        "id",
                        "function",
                        "name",
                        "arguments",
                        "content",
                        "delta",
                        "message",
                        "finish_reason",
                        "tool_calls",
                        "prompt_tokens",
                        "completion_tokens",
                    ]),
                    inner
                ),
                0..4
            )
            .prop_map(|members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<Value>()),
        ]
    })
}

/// A chunk that is correct except for some of its members.
fn odd_chunk() -> impl Strategy<Value = Value> {
    let places = [
        "/id",
        "/object",
        "/created",
        "/model",
        "/choices",
        "/usage",
        "/choices/0",
        "/choices/0/index",
        "/choices/0/delta",
        "/choices/0/finish_reason",
        "/choices/0/delta/content",
        "/choices/0/delta/role",
        "/choices/0/delta/reasoning",
        "/choices/0/delta/refusal",
        "/choices/0/delta/tool_calls",
        "/choices/0/delta/tool_calls/0",
        "/choices/0/delta/tool_calls/0/index",
        "/choices/0/delta/tool_calls/0/id",
        "/choices/0/delta/tool_calls/0/function",
        "/choices/0/delta/tool_calls/0/function/name",
        "/choices/0/delta/tool_calls/0/function/arguments",
        "/choices/0/delta/function_call",
    ];
    let change = (
        prop::sample::select(places.to_vec()),
        prop::option::weighted(0.8, anything()),
    );
    prop::collection::vec(change, 0..4).prop_map(|changes| {
        let mut chunk = json!({
            "id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "usage": null,
            "choices": [{"index": 0, "finish_reason": null, "delta": {"role": "assistant", "content": "a", "reasoning": null, "refusal": null,
                "function_call": null, "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}}],
        });
        for (place, value) in changes {
            let (parent, name) = place.rsplit_once('/').unwrap_or_default();
            match (chunk.pointer_mut(parent), value) {
                (Some(Value::Object(parent)), Some(value)) => _ = parent.insert(name.to_owned(), value),
                (Some(Value::Object(parent)), None) => _ = parent.shift_remove(name),
                (Some(Value::Array(parent)), Some(value)) if !parent.is_empty() => parent[0] = value,
                _ => {}
            }
        }
        chunk
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// Whatever a chunk contains, what a client gets follows the protocol, and what a turn gets the client gets too.
    #[test]
    fn what_is_passed_on_follows_the_protocol_whatever_comes(sent in prop::collection::vec(odd_chunk(), 1..4), is_done in any::<bool>()) {
        let run = |chunks: bool| {
            let body = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
            let mut transcript = Transcript::new(Arc::new(body), Arc::default());
            let options = AnswerOptions { chunks, include_usage: true, has_schema: false, choices: 1 };
            let mut decoder = Decoder::new(Errors::new("main", Vec::new()), options);
            let mut out = Out::new();
            for chunk in &sent {
                if decoder.decode("", chunk.to_string().as_bytes(), &mut out, &mut transcript).is_err() {
                    return (out, None);
                }
            }
            let end = if is_done { End::Done } else { End::Body };
            let finish = decoder.finish(end, &mut out, &mut transcript);
            (out, finish)
        };
        let (told, _) = run(false);
        let (passed, finish) = run(true);
        let text = |out: &Out| -> String {
            let events = out.iter().flatten().flat_map(|piece| &piece.events);
            events.filter_map(|event| match event { ModelEvent::Text(text) => Some(text.as_str()), _ => None }).collect()
        };
        let (mut heard, mut ended) = (String::new(), 0);
        for piece in passed.iter().flatten() {
            let Some(chunk) = &piece.chunk else { continue };
            let chunk: Value = serde_json::from_slice(chunk).unwrap();
            prop_assert!(chunk["choices"].is_array(), "{chunk}");
            for member in ["id", "object", "model"] {
                prop_assert!(chunk[member].is_string() || chunk[member].is_null(), "{chunk}");
            }
            prop_assert!(chunk["created"].is_u64() || chunk["created"].is_null(), "{chunk}");
            for choice in chunk["choices"].as_array().unwrap() {
                prop_assert!(choice["index"] == 0 && choice["delta"].is_object(), "{chunk}");
                let delta = &choice["delta"];
                prop_assert!(delta["content"].is_string() || delta["content"].is_null(), "{chunk}");
                heard += delta["content"].as_str().unwrap_or_default();
                heard += delta["refusal"].as_str().unwrap_or_default();
                for call in delta["tool_calls"].as_array().into_iter().flatten() {
                    let is_known = call["index"].is_u64() && call["function"].is_object();
                    prop_assert!(is_known || call.get("custom").is_some(), "{chunk}");
                }
                match choice["finish_reason"].as_str() {
                    Some(reason) => {
                        ended += 1;
                        prop_assert!(["stop", "length", "tool_calls", "content_filter", "function_call"].contains(&reason), "{chunk}");
                    }
                    None => prop_assert!(choice["finish_reason"].is_null(), "{chunk}"),
                }
            }
        }
        prop_assert_eq!(ended == 1, matches!(finish, Some(Ok(_))));
        prop_assert_eq!(&heard, &text(&passed));
        if matches!(finish, Some(Ok(_))) {
            prop_assert_eq!(text(&told), text(&passed));
        }
    }
}

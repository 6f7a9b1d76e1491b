use std::sync::Arc;

use copilotd_actors::domain::failure::FailureClass;
use copilotd_gateway::request::body::ChatBody;
use proptest::prelude::*;

use super::*;
use crate::adapters::llm::provider::calls::MAX_CALLS;
use crate::adapters::llm::provider::{Decoder as _, SseReader};

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":25,"cache_read_input_tokens":5,"output_tokens":1}}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

fn begin(index: u64, block: &str) -> String {
    format!(r#"{{"type":"content_block_start","index":{index},"content_block":{block}}}"#)
}

fn delta(index: u64, delta: &str) -> String {
    format!(r#"{{"type":"content_block_delta","index":{index},"delta":{delta}}}"#)
}

fn end(index: u64) -> String {
    format!(r#"{{"type":"content_block_stop","index":{index}}}"#)
}

fn reason(reason: &str) -> String {
    format!(
        r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}","stop_sequence":null}},"usage":{{"output_tokens":9}}}}"#
    )
}

fn text_block(index: u64, text: &str) -> [String; 3] {
    [
        begin(index, r#"{"type":"text","text":""}"#),
        delta(index, &json!({"type": "text_delta", "text": text}).to_string()),
        end(index),
    ]
}

/// Everything that a stream may contain.
fn full() -> Vec<String> {
    let mut events = vec![
        START.to_owned(),
        r#"{"type": "ping"}"#.to_owned(),
        begin(0, r#"{"type":"thinking","thinking":"","signature":""}"#),
        delta(0, r#"{"type":"thinking_delta","thinking":"Hm"}"#),
        delta(0, r#"{"type":"thinking_delta","thinking":"."}"#),
        delta(0, r#"{"type":"signature_delta","signature":"s1"}"#),
        end(0),
        begin(1, r#"{"type":"redacted_thinking","data":"xyz"}"#),
        end(1),
        begin(2, r#"{"type":"text","text":""}"#),
        delta(2, r#"{"type":"text_delta","text":"Grüße € 😀"}"#),
        r#"{"type":"something_new","x":1}"#.to_owned(),
        delta(2, r#"{"type":"citations_delta","citation":{}}"#),
        delta(2, r#"{"type":"text_delta","text":" data: \n\r"}"#),
        end(2),
        begin(
            3,
            r#"{"type":"server_tool_use","id":"s","name":"web_search","input":{}}"#,
        ),
        delta(3, r#"{"type":"input_json_delta","partial_json":"{}"}"#),
        end(3),
        begin(4, r#"{"type":"tool_use","id":"toolu_1","name":"look","input":{}}"#),
        delta(4, r#"{"type":"input_json_delta","partial_json":""}"#),
        delta(4, r#"{"type":"input_json_delta","partial_json":"{\"a\":"}"#),
        delta(4, r#"{"type":"input_json_delta","partial_json":"\"é\"}"}"#),
        end(4),
        begin(5, r#"{"type":"tool_use","id":"toolu_2","name":"wait","input":{}}"#),
        end(5),
    ];
    events.extend([reason("tool_use"), STOP.to_owned()]);
    events
}

fn framed(events: &[String], line_end: &str) -> Vec<u8> {
    let mut stream = String::new();
    for event in events {
        let kind = serde_json::from_str::<Value>(event).unwrap()["type"].clone();
        let kind = kind.as_str().unwrap();
        stream += &format!("event: {kind}{line_end}data: {event}{line_end}{line_end}: still here{line_end}");
    }
    stream.into_bytes()
}

fn decoder(chunks: bool) -> Decoder {
    let options = AnswerOptions {
        chunks,
        include_usage: true,
        created: 7,
    };
    Decoder::new(Errors::new("main", Vec::new()), options)
}

fn transcript() -> Transcript {
    Transcript::new(
        Arc::new(ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap()),
        Arc::default(),
    )
}

/// Reads a stream that arrives split at `cuts`.
fn pieces(stream: &[u8], cuts: &[usize], chunks: bool) -> (Vec<Piece>, Decoder) {
    let (mut decoder, mut transcript) = (decoder(chunks), transcript());
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
    decoder.finish(End::Done, &mut out, &mut transcript).unwrap().unwrap();
    (out.into_iter().map(Result::unwrap).collect(), decoder)
}

/// Reads events one by one; returns what each means for the deadlines, and the error that ended it.
fn progress(events: &[String], chunks: bool) -> (Vec<Progress>, Option<FailureClass>, Decoder) {
    let (mut decoder, mut transcript, mut out) = (decoder(chunks), transcript(), Out::new());
    let mut seen = Vec::new();
    for event in events {
        match decoder.decode("", event.as_bytes(), &mut out, &mut transcript) {
            Ok(progress) => seen.push(progress),
            Err(error) => return (seen, Some(error.class), decoder),
        }
    }
    (seen, None, decoder)
}

#[test]
fn a_stream_becomes_openais_chunks_and_our_events() {
    let (pieces, mut decoder) = pieces(&framed(&full(), "\n"), &[], true);
    let chunks: Vec<Value> = pieces
        .iter()
        .map(|piece| serde_json::from_slice(piece.chunk.as_ref().unwrap()).unwrap())
        .collect();
    let deltas: Vec<Value> = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["delta"].clone())
        .collect();
    assert_eq!(
        deltas,
        [
            json!({"role": "assistant", "content": ""}),
            json!({"reasoning_content": "Hm"}),
            json!({"reasoning_content": "."}),
            json!({"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s1"}]}),
            json!({"thinking_blocks": [{"type": "redacted_thinking", "data": "xyz"}]}),
            json!({"content": "Grüße € 😀"}),
            json!({"content": " data: \n\r"}),
            json!({"tool_calls": [{"index": 0, "id": "toolu_1", "type": "function",
                                   "function": {"name": "look", "arguments": ""}}]}),
            json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\":"}}]}),
            json!({"tool_calls": [{"index": 0, "function": {"arguments": "\"é\"}"}}]}),
            json!({"tool_calls": [{"index": 1, "id": "toolu_2", "type": "function",
                                   "function": {"name": "wait", "arguments": ""}}]}),
            json!({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}),
            json!({}),
        ]
    );
    for (at, chunk) in chunks.iter().enumerate() {
        let reason = if at + 1 == chunks.len() {
            json!("tool_calls")
        } else {
            Value::Null
        };
        assert_eq!(chunk["choices"][0]["finish_reason"], reason);
        let identity = [
            &chunk["id"],
            &chunk["object"],
            &chunk["created"],
            &chunk["model"],
            &chunk["usage"],
        ];
        let expected = [
            json!("msg_1"),
            json!("chat.completion.chunk"),
            json!(7),
            json!("claude-x"),
            Value::Null,
        ];
        assert_eq!(identity, expected.each_ref());
    }
    let call = |index: usize, name: Option<&str>, arguments: &str| ModelEvent::ToolCall {
        index,
        name: name.map(str::to_owned),
        arguments: arguments.to_owned(),
    };
    let events: Vec<ModelEvent> = pieces.into_iter().flat_map(|piece| piece.events).collect();
    assert_eq!(
        events,
        [
            ModelEvent::Model("claude-x".into()),
            ModelEvent::Text("Grüße € 😀".into()),
            ModelEvent::Text(" data: \n\r".into()),
            call(0, None, ""),
            call(0, None, ""),
            call(0, None, ""),
            call(1, None, ""),
            call(0, Some("look"), "{\"a\":\"é\"}"),
            call(1, Some("wait"), "{}"),
        ]
    );
    let usage = Usage {
        cost: 7,
        ..decoder.usage().unwrap()
    };
    assert_eq!(
        (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens),
        (30, 5, 9)
    );
    let report: Value = serde_json::from_slice(&decoder.usage_chunk(&usage).unwrap()).unwrap();
    assert_eq!(report["usage"]["total_tokens"], 39);
    assert_eq!(report["usage"]["cost_usd"], 0.000_000_007);
}

#[test]
fn pieces_are_the_same_wherever_the_stream_is_cut_once() {
    for line_end in ["\n", "\r\n"] {
        let stream = framed(&full(), line_end);
        for chunks in [true, false] {
            let (expected, _) = pieces(&stream, &[], chunks);
            for cut in 0..=stream.len() {
                assert_eq!(pieces(&stream, &[cut], chunks).0, expected, "{cut}");
            }
            let every: Vec<usize> = (0..stream.len()).collect();
            assert_eq!(pieces(&stream, &every, chunks).0, expected);
        }
    }
}

proptest! {
    #[test]
    fn pieces_are_the_same_however_the_stream_is_cut(
        parts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
        crlf in any::<bool>(),
    ) {
        let stream = framed(&full(), if crlf { "\r\n" } else { "\n" });
        let mut cuts: Vec<usize> = parts.iter().map(|part| part.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(pieces(&stream, &cuts, true).0, pieces(&stream, &[], true).0);
    }
}

#[test]
fn only_content_moves_the_deadlines() {
    let (seen, error, decoder) = progress(&full(), false);
    assert_eq!(error, None);
    let silent = [0, 1, 2, 5, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 19, 22, 24];
    for (at, progress) in seen.iter().enumerate() {
        let expected = match at {
            _ if silent.contains(&at) => Progress::None,
            25 => Progress::Finished,
            26 => Progress::Done,
            _ => Progress::Content,
        };
        assert_eq!(*progress, expected, "event {at}");
    }
    assert!(decoder.is_finished() && decoder.content_seen());
}

#[test]
fn answers_succeed_with_a_reason_that_stays_last() {
    let hello = text_block(0, "a");
    let said = |more: &[String]| [&[START.to_owned()], hello.as_slice(), more].concat();
    for (what, events, chunks, expected) in [
        (
            "whole",
            said(&[reason("end_turn"), STOP.to_owned()]),
            false,
            Some(Ok(Finish::Stop)),
        ),
        (
            "at its bound",
            said(&[reason("max_tokens"), STOP.to_owned()]),
            false,
            Some(Ok(Finish::Length)),
        ),
        (
            "refused, and told",
            said(&[reason("refusal"), STOP.to_owned()]),
            true,
            Some(Ok(Finish::Length)),
        ),
        (
            "refused",
            said(&[reason("refusal"), STOP.to_owned()]),
            false,
            Some(Err(FailureClass::ContentPolicy)),
        ),
        (
            "tools, and none named",
            said(&[reason("tool_use"), STOP.to_owned()]),
            true,
            Some(Err(FailureClass::Malformed)),
        ),
        ("cut before the reason", said(&[]), true, None),
        (
            "no message_stop",
            said(&[reason("end_turn")]),
            true,
            Some(Ok(Finish::Stop)),
        ),
        ("in capitals", said(&[reason("END_TURN")]), true, Some(Ok(Finish::Stop))),
        (
            "a reason that nobody knows",
            said(&[reason("something_new"), STOP.to_owned()]),
            true,
            Some(Err(FailureClass::Cut)),
        ),
        (
            "a reason that is taken back",
            said(&[[reason("end_turn")].as_slice(), &text_block(1, "b")].concat()),
            true,
            None,
        ),
        (
            "a reason that is taken back, and another one",
            said(
                &[
                    [reason("end_turn")].as_slice(),
                    &text_block(1, "b"),
                    &[reason("max_tokens")],
                ]
                .concat(),
            ),
            true,
            Some(Ok(Finish::Length)),
        ),
    ] {
        let (_, error, mut decoder) = progress(&events, chunks);
        assert_eq!(error, None, "{what}");
        let finish = decoder.finish(End::Body, &mut Out::new(), &mut transcript());
        let finish = finish.map(|finish| finish.map_err(|error| error.class));
        assert_eq!(finish, expected, "{what}");
    }
}

#[test]
fn protocol_violations_have_a_class() {
    let error = |kind: &str| {
        let error = format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"x"}}}}"#);
        [&[START.to_owned()], text_block(0, "a").as_slice(), &[error]].concat()
    };
    for (what, events, class) in [
        ("half an event", vec![START[..40].to_owned()], FailureClass::Malformed),
        (
            "no type",
            vec![r#"{"id":"x","choices":[]}"#.to_owned()],
            FailureClass::Malformed,
        ),
        (
            "two beginnings",
            vec![START.to_owned(), START.to_owned()],
            FailureClass::Malformed,
        ),
        ("no beginning", text_block(0, "a").to_vec(), FailureClass::Malformed),
        (
            "an end and no beginning",
            vec![STOP.to_owned()],
            FailureClass::Malformed,
        ),
        (
            "no reason",
            vec![START.to_owned(), STOP.to_owned()],
            FailureClass::Malformed,
        ),
        ("overloaded", error("overloaded_error"), FailureClass::Overload),
        ("broken", error("api_error"), FailureClass::Overload),
        ("too fast", error("rate_limit_error"), FailureClass::Rate),
        ("a dead key", error("authentication_error"), FailureClass::Key),
    ] {
        let (_, error, _) = progress(&events, true);
        assert_eq!(error, Some(class), "{what}");
    }
    let mut many = vec![START.to_owned()];
    for index in 0..=MAX_CALLS as u64 {
        many.push(begin(index, r#"{"type":"tool_use","id":"x","name":"f","input":{}}"#));
        many.push(end(index));
    }
    assert_eq!(progress(&many, false).1, Some(FailureClass::Malformed));
}

#[test]
fn arguments_that_come_whole_are_passed_on() {
    let block = r#"{"type":"tool_use","id":"x","name":"f","input":{"a":1}}"#;
    let events = [
        START.to_owned(),
        begin(0, block),
        end(0),
        reason("tool_use"),
        STOP.to_owned(),
    ];
    let (pieces, _) = pieces(&framed(&events, "\n"), &[], false);
    let arguments: String = pieces
        .iter()
        .flat_map(|piece| &piece.events)
        .filter_map(|event| match event {
            ModelEvent::ToolCall { arguments, .. } => Some(arguments.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(arguments, r#"{"a":1}"#);
}

//! Tool calls of servers that follow OpenAI's protocol loosely.

use serde_json::{Value, json};

use super::loose::{A, B, Case, call, calling, check};
use super::server::{DONE, delta, finish};

fn tools() -> Vec<Case> {
    let end = || finish("tool_calls") + DONE;
    let whole = |index: Value, id: &str, name: &str, arguments: Value| {
        call(json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
    };
    let both: &[(&str, &str)] = &[("look", A), ("send", B)];
    let one: &[(&str, &str)] = &[("look", A)];
    vec![
        calling("F01 every index 0", whole(json!(0), "call_a", "look", json!(A)) + &whole(json!(0), "call_b", "send", json!(B)) + &end(), both),
        calling("F01 every index 0, and no arguments of the first", whole(json!(0), "call_a", "look", json!("")) + &whole(json!(0), "call_b", "send", json!(B)) + &end(), &[("look", ""), ("send", B)]),
        calling("F02 an object", whole(json!(0), "call_a", "look", json!({"ticket_id": 11})) + &end(), one),
        calling("an object, and no index", whole(Value::Null, "call_a", "look", json!({"ticket_id": 11})) + &whole(Value::Null, "call_b", "send", json!({"ticket_id": 12})) + &end(), both),
        calling("indexes as text", whole(json!("0"), "call_a", "look", json!(A)) + &whole(json!("1"), "call_b", "send", json!(B)) + &end(), both),
        calling("indexes from 1", whole(json!(1), "call_a", "look", json!(A)) + &whole(json!(2), "call_b", "send", json!(B)) + &end(), both),
        calling("no ids", whole(json!(0), "", "look", json!(A)) + &whole(json!(1), "", "send", json!(B)) + &end(), both),
        calling("an empty id later", whole(json!(0), "call_a", "look", json!("")) + &call(json!({"index": 0, "id": "", "function": {"name": null, "arguments": A}})) + &end(), one),
        calling("another id later", whole(json!(0), "call_a", "look", json!(r#"{"ticket_"#)) + &call(json!({"index": 0, "id": "call_z", "function": {"arguments": r#"id":11}"#}})) + &end(), one),
        calling("F14 a late name", call(json!({"index": 0, "id": "call_a", "function": {"arguments": r#"{"ticket_"#}})) + &call(json!({"index": 0, "function": {"name": "look", "arguments": r#"id":11}"#}})) + &end(), one),
        calling("a name in pieces", call(json!({"index": 0, "id": "call_a", "type": "function", "function": {"name": "get_"}})) + &call(json!({"index": 0, "function": {"name": "weather"}})) + &call(json!({"index": 0, "function": {"arguments": A}})) + &end(), &[("get_weather", A)]),
        calling("a name in every piece", whole(json!(0), "call_a", "look", json!(r#"{"ticket_"#)) + &whole(json!(0), "call_a", "look", json!(r#"id":11}"#)) + &end(), one),
        calling("all of it again at the end", whole(json!(0), "call_a", "look", json!(r#"{"ticket_"#)) + &call(json!({"index": 0, "function": {"arguments": r#"id":11}"#}})) + &whole(json!(0), "call_a", "look", json!(A)) + &end(), one),
        calling("one call, and no list", delta(json!({"tool_calls": {"index": 0, "id": "call_a", "type": "function", "function": {"name": "look", "arguments": A}}})) + &end(), one),
        calling("no object around the function", call(json!({"index": 0, "id": "call_a", "name": "look", "arguments": A})) + &end(), one),
        calling("a null among calls", delta(json!({"tool_calls": [null, {"index": 0, "id": "call_a", "type": "function", "function": {"name": "look", "arguments": A}}]})) + &end(), one),
        calling("both at once, mixed", delta(json!({"tool_calls": [
            {"index": 0, "id": "call_a", "type": "function", "function": {"name": "look", "arguments": r#"{"ticket_"#}},
            {"index": 1, "id": "call_b", "type": "function", "function": {"name": "send", "arguments": r#"{"ticket_"#}}]}))
            + &delta(json!({"tool_calls": [{"index": 1, "function": {"arguments": r#"id":12}"#}}, {"index": 0, "function": {"arguments": r#"id":11}"#}}]})) + &end(), both),
        calling("stop behind calls", whole(json!(0), "call_a", "look", json!(A)) + &finish("stop") + DONE, one),
        calling("TOOL_CALLS", whole(json!(0), "call_a", "look", json!(A)) + &finish("TOOL_CALLS"), one),
        calling("no reason, and [DONE]", whole(json!(0), "call_a", "look", json!(A)) + DONE, one),
        calling("a reason that is taken back by a call", finish("stop") + &whole(json!(0), "call_a", "look", json!(A)) + &end(), one),
        calling("no arguments", whole(json!(0), "call_a", "look", Value::Null) + &end(), &[("look", "")]),
        calling("a pair cut in two", r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"look","arguments":"{\"x\":\"\ud83d"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\ude80\"}"}}]}}]}

"#.to_owned() + &end(), &[("look", "{\"x\":\"🚀\"}")]),
    ]
}

#[tokio::test]
async fn calls_are_read_and_passed_on() {
    for case in tools() {
        check(&case).await;
    }
}

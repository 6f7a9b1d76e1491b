//! Routes with Anthropic's protocol: what it cannot express goes to another target, and tool calls work across
//! protocols.

use copilotd_actors::domain::content::Finish;
use copilotd_actors::ports::{Model, ModelEvent};
use copilotd_gateway::answer::Answer;
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::request::call::Mode;
use copilotd_gateway::request::embed::{EmbedBody, EmbedCall};
use futures::StreamExt;
use serde_json::{Value, json};

use super::{CLOCKS, Protocol, Provider, TEXT, at, caller, gateway, read, request};

#[tokio::test]
async fn what_anthropic_cannot_express_goes_to_the_next_target_and_is_never_dropped() {
    let (first, second) = (Provider::speaking(Protocol::Anthropic).await, Provider::start().await);
    for (member, value) in [
        ("n", json!(2)),
        ("logprobs", json!(true)),
        ("presence_penalty", json!(0.5)),
        ("response_format", json!({"type": "json_object"})),
        ("tools", json!([{"type": "custom", "custom": {"name": "f"}}])),
    ] {
        for stream in [false, true] {
            let (both, ledger) = gateway(vec![at("claude", &first), at("gpt", &second)], CLOCKS);
            let mut call = request(stream, Mode::Live);
            let prompt = format!("Say it in JSON. [[sim text=\"{TEXT}\"]]");
            call.body
                .set("messages", &json!([{"role": "user", "content": prompt}]))
                .unwrap();
            call.body.set(member, &value).unwrap();
            let reply = both.chat(call.clone()).await.unwrap();
            assert_eq!(reply.model, "gpt/gpt", "{member}");
            let read = read(reply).await;
            assert!(read.finished && read.error.is_none(), "{member}: {read:?}");
            assert_eq!(ledger.lines(), ["claude/gpt rejected", "gpt/gpt ok"], "{member}");

            // Alone on its route, it says why.
            let (alone, _) = gateway(vec![at("claude", &first)], CLOCKS);
            let error = alone.chat(call).await.unwrap_err();
            assert_eq!(
                (error.kind, error.attempts),
                (GatewayErrorKind::Invalid, 1),
                "{member}: {error}"
            );
            let refusal = error.refusal.as_deref().unwrap();
            assert_eq!(refusal.code.as_deref(), Some("unsupported_by_provider"));
            assert!(
                refusal.param.as_deref().unwrap().starts_with(member),
                "{member}: {refusal:?}"
            );
            assert!(error.message.contains(member), "{member}: {error}");
        }
    }
    assert_eq!(first.seen().await, 0, "what it cannot say is not sent");
}

#[tokio::test]
async fn embeddings_are_another_targets_work() {
    let (first, second) = (Provider::speaking(Protocol::Anthropic).await, Provider::start().await);
    let call = || EmbedCall {
        caller: caller(),
        route: "default".to_owned(),
        body: EmbedBody::parse(br#"{"model": "default", "input": "a"}"#).unwrap(),
    };
    let (both, _) = gateway(vec![at("claude", &first), at("gpt", &second)], CLOCKS);
    assert_eq!(both.embed(call()).await.unwrap().model, "gpt/gpt");
    let (alone, _) = gateway(vec![at("claude", &first)], CLOCKS);
    let error = alone.embed(call()).await.unwrap_err();
    assert_eq!(error.kind, GatewayErrorKind::Invalid);
    assert!(error.message.contains("embeddings"), "{error}");
}

/// Assembles the message of an answer, as a client does.
async fn message(answer: Answer) -> (Value, Value) {
    let mut pieces = match answer {
        Answer::Whole(body) => {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let choice = &body["choices"][0];
            return (choice["message"].clone(), choice["finish_reason"].clone());
        }
        Answer::Stream(pieces) => pieces,
    };
    let (mut text, mut calls, mut reason) = (String::new(), Vec::<Value>::new(), Value::Null);
    while let Some(piece) = pieces.next().await {
        let Some(chunk) = piece.unwrap().chunk else { continue };
        let chunk: Value = serde_json::from_slice(&chunk).unwrap();
        let choice = &chunk["choices"][0];
        text += choice["delta"]["content"].as_str().unwrap_or_default();
        for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(delta["index"].as_u64().unwrap()).unwrap();
            if index == calls.len() {
                calls.push(delta.clone());
                calls[index].as_object_mut().unwrap().remove("index");
            } else {
                let more = delta["function"]["arguments"].as_str().unwrap();
                let arguments = &mut calls[index]["function"]["arguments"];
                *arguments = json!(arguments.as_str().unwrap().to_owned() + more);
            }
        }
        if !choice["finish_reason"].is_null() {
            reason = choice["finish_reason"].clone();
        }
    }
    let mut message = json!({"role": "assistant", "content": text});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    (message, reason)
}

#[tokio::test]
async fn a_turn_of_calls_results_and_an_answer_goes_to_and_fro_between_protocols() {
    use Protocol::{Anthropic, OpenAi};
    for (asked, answered) in [(Anthropic, Anthropic), (Anthropic, OpenAi), (OpenAi, Anthropic)] {
        for stream in [false, true] {
            let (one, two) = (Provider::speaking(asked).await, Provider::speaking(answered).await);
            let what = format!("{asked:?} {answered:?} {stream}");
            let prompt = r#"Weather? [[sim tool=get_weather calls=2 args={"city": "Łódź", "day": "$i"} ]]"#;
            let mut messages = vec![
                json!({"role": "system", "content": "Be brief."}),
                json!({"role": "user", "content": prompt}),
            ];
            let ask = |messages: &Vec<Value>| {
                let mut call = request(stream, Mode::Live);
                let tool = json!({"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}});
                call.body.set("messages", messages).unwrap();
                call.body
                    .set("tools", &json!([{"type": "function", "function": tool}]))
                    .unwrap();
                call.body.set("parallel_tool_calls", &true).unwrap();
                call
            };
            let (first, _) = gateway(vec![at("one", &one)], CLOCKS);
            let reply = first.chat(ask(&messages)).await.unwrap();
            let (calling, reason) = message(reply.answer).await;
            assert_eq!(reason, "tool_calls", "{what}");
            let calls = calling["tool_calls"].as_array().unwrap().clone();
            assert_eq!(calls.len(), 2, "{what}");
            messages.push(calling);
            for (day, call) in calls.iter().enumerate() {
                assert_eq!(call["function"]["name"], "get_weather", "{what}");
                let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
                assert_eq!(arguments, json!({"city": "Łódź", "day": day.to_string()}), "{what}");
                let content = format!("rain on day {day}");
                messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": content}));
            }
            let (second, _) = gateway(vec![at("two", &two)], CLOCKS);
            let reply = second.chat(ask(&messages)).await.unwrap();
            let (said, reason) = message(reply.answer).await;
            let expected = "get_weather answered: rain on day 0\nget_weather answered: rain on day 1";
            assert_eq!(
                (&said["content"], &reason),
                (&json!(expected), &json!("stop")),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn an_agents_turn_is_played_as_with_any_provider() {
    let provider = Provider::speaking(Protocol::Anthropic).await;
    let (gateway, _) = gateway(vec![at("claude", &provider)], CLOCKS);
    // Calls, results and a schema in one history.
    let events: Vec<_> = gateway
        .stream(crate::model::request::full())
        .await
        .unwrap()
        .collect()
        .await;
    let events: Vec<ModelEvent> = events.into_iter().map(Result::unwrap).collect();
    assert_eq!(events[0], ModelEvent::Model("gpt".to_owned()));
    assert_eq!(events.last(), Some(&ModelEvent::Finished(Finish::Stop)));
    let answer: Value = serde_json::from_str(&crate::model::text(&events)).unwrap();
    assert!(answer["a"].is_string(), "{answer}");
    let bodies = provider.bodies().await;
    let roles: Vec<&str> = bodies[0]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(
        roles,
        ["user", "assistant", "user", "assistant", "user", "assistant", "user"]
    );
}

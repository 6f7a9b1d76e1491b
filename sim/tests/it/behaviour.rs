//! Directives, scripts and knobs of the provider.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use copilotd_sim::Running;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::specs::events;

pub async fn start() -> Running {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let provider = copilotd_sim::openai::start(listen).await.unwrap();
    control(&provider, "knobs", json!({"first_ms": 0, "pace_ms": 0})).await;
    provider
}

async fn control(provider: &Running, path: &str, body: Value) -> Value {
    let request = reqwest::Client::new().post(format!("{}/_sim/{path}", provider.base_url()));
    request.json(&body).send().await.unwrap().json().await.unwrap()
}

async fn state(provider: &Running) -> Value {
    let answer = reqwest::get(format!("{}/_sim/state", provider.base_url())).await;
    answer.unwrap().json().await.unwrap()
}

pub async fn send(provider: &Running, body: &Value) -> reqwest::Response {
    let request = reqwest::Client::new()
        .post(format!("{}/v1/chat/completions", provider.base_url()))
        .bearer_auth("key")
        .json(body);
    request.send().await.unwrap()
}

fn ask(text: &str, stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]})
}

/// What a stream said, and how it ended.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    text: String,
    finish: Option<String>,
    done: bool,
    broken: bool,
}

async fn hear(provider: &Running, text: &str) -> Heard {
    let response = send(provider, &ask(text, true)).await;
    assert_eq!(response.status(), 200);
    let mut heard = Heard::default();
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(_) => heard.broken = true,
        }
    }
    for event in events(std::str::from_utf8(&bytes).unwrap()) {
        heard.done |= event == "[DONE]";
        let Ok(chunk) = serde_json::from_str::<Value>(event) else {
            continue;
        };
        let choice = &chunk["choices"][0];
        heard.text += choice["delta"]["content"].as_str().unwrap_or_default();
        if let Some(finish) = choice["finish_reason"].as_str() {
            heard.finish = Some(finish.to_owned());
        }
    }
    heard
}

fn heard(text: &str, finish: Option<&str>, done: bool, broken: bool) -> Heard {
    Heard {
        text: text.to_owned(),
        finish: finish.map(str::to_owned),
        done,
        broken,
    }
}

#[tokio::test]
async fn directives_decide_how_a_stream_ends() {
    let provider = start().await;
    for (directive, expected) in [
        ("text=one two three", heard("one two three", Some("stop"), true, false)),
        (
            "finish=length text=one two",
            heard("one two", Some("length"), true, false),
        ),
        ("cut_after=5 text=one two three", heard("one t", None, false, true)),
        (
            "end_without_finish_after=5 text=one two three",
            heard("one t", None, false, false),
        ),
        ("stream_error=server_error text=one", heard("one", None, false, false)),
        ("malformed=1 text=one two", heard("one two", Some("stop"), true, false)),
        ("chunk=2 text=ab  cd", heard("ab  cd", Some("stop"), true, false)),
        ("json={\"a\": [1]}", heard("{\"a\": [1]}", Some("stop"), true, false)),
    ] {
        let said = hear(&provider, &format!("x [[sim {directive}]]")).await;
        assert_eq!(said, expected, "{directive}");
    }
    let words = hear(&provider, "[[sim tokens=50]]").await;
    assert_eq!(words.text.split_whitespace().count(), 50);
}

#[tokio::test]
async fn tool_calls_are_cut_in_the_middle() {
    let provider = start().await;
    let prompt = r#"[[sim tool=look cut_after=9 args={"place": "far away"}]]"#;
    let response = send(&provider, &ask(prompt, true)).await;
    let mut stream = response.bytes_stream();
    let mut bytes = Vec::new();
    let mut broken = false;
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(_) => broken = true,
        }
    }
    let mut arguments = String::new();
    for event in events(std::str::from_utf8(&bytes).unwrap()) {
        let chunk: Value = serde_json::from_str(event).unwrap();
        let call = &chunk["choices"][0]["delta"]["tool_calls"][0];
        arguments += call["function"]["arguments"].as_str().unwrap_or_default();
    }
    assert_eq!((arguments.as_str(), broken), (r#"{"place":"#, true));
}

#[tokio::test]
async fn answers_in_one_piece_fail_too() {
    let provider = start().await;
    let request = |directive: &str| {
        let body = ask(&format!("[[sim {directive} text=one two]]"), false);
        reqwest::Client::new()
            .post(format!("{}/v1/chat/completions", provider.base_url()))
            .bearer_auth("key")
            .timeout(Duration::from_millis(300))
            .json(&body)
    };
    let cut = request("cut_after=3").send().await;
    assert!(!cut.unwrap_err().is_timeout());
    let silent = request("stall_after=3").send().await;
    assert!(silent.unwrap_err().is_timeout());
    assert_eq!(request("").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn failures_are_counted_for_each_prompt() {
    let provider = start().await;
    for prompt in [
        "a [[sim fail_times=2 status=503 retry_after=1 text=well]]",
        "b [[sim fail_times=1 text=well]]",
    ] {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(send(&provider, &ask(prompt, true)).await.status().as_u16());
        }
        let expected = if prompt.starts_with('a') {
            [503, 503, 200]
        } else {
            [500, 200, 200]
        };
        assert_eq!(statuses, expected);
    }
    let cut = "c [[sim fail_times=1 cut_after=2 text=well]]";
    assert!(hear(&provider, cut).await.broken);
    assert_eq!(hear(&provider, cut).await.text, "well");
    let prompts = &state(&provider).await["prompts"];
    assert_eq!(prompts[cut], 2);
}

#[tokio::test]
async fn scripts_are_followed_in_order() {
    let provider = start().await;
    control(
        &provider,
        "script",
        json!({"match": "special", "times": 2, "steps": [
            {"error": {"status": 429, "retry_after": 3}},
            {"tool_calls": [{"name": "look", "arguments": "not json"}]},
            {"text": "found"},
        ]}),
    )
    .await;
    for _ in 0..2 {
        let refused = send(&provider, &ask("special", false)).await;
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "3");
        let called: Value = send(&provider, &ask("special", false)).await.json().await.unwrap();
        let call = &called["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(call["function"]["arguments"], "not json");
        assert_eq!(hear(&provider, "special").await.text, "found");
    }
    assert_eq!(state(&provider).await["scripts_waiting"], 0);
    assert!(!hear(&provider, "special").await.text.contains("found"));
    let wrong = control(&provider, "script", json!({"match": "*", "steps": [{"txt": "typo"}]})).await;
    assert!(wrong["error"].as_str().unwrap().contains("txt"));
}

#[tokio::test]
async fn a_script_for_a_model_waits_for_that_model() {
    let provider = start().await;
    let script = json!({"match": "special", "model": "sim-small", "steps": [{"text": "noted"}]});
    control(&provider, "script", script).await;
    assert_ne!(hear(&provider, "special").await.text, "noted");
    assert_eq!(state(&provider).await["scripts_waiting"], 1);
    let mut asked = ask("special", false);
    asked["model"] = json!("sim-small");
    let said: Value = send(&provider, &asked).await.json().await.unwrap();
    assert_eq!(said["choices"][0]["message"]["content"], "noted");
    assert_eq!(state(&provider).await["scripts_waiting"], 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let provider = start().await;
    for directive in ["stall_after=3 text=one two", "pace_ms=20 tokens=10000"] {
        let before = state(&provider).await["closed_by_client"]["count"].as_u64().unwrap();
        let response = send(&provider, &ask(&format!("[[sim {directive}]]"), true)).await;
        let mut stream = response.bytes_stream();
        stream.next().await.unwrap().unwrap();
        assert_eq!(state(&provider).await["open_streams"], 1);
        drop(stream);
        let left = Instant::now();
        loop {
            let now = state(&provider).await;
            if now["open_streams"] == 0 {
                assert_eq!(now["closed_by_client"]["count"], before + 1);
                break;
            }
            assert!(
                left.elapsed() < Duration::from_secs(2),
                "the provider did not notice that its client left"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn held_answers_wait() {
    let provider = start().await;
    control(&provider, "knobs", json!({"hold": true})).await;
    let body = ask("hello", false);
    let answer = send(&provider, &body);
    tokio::pin!(answer);
    let held = tokio::time::timeout(Duration::from_millis(200), &mut answer).await;
    assert!(held.is_err());
    assert_eq!(state(&provider).await["held"], 1);
    control(&provider, "release", json!({})).await;
    assert_eq!(answer.await.status(), 200);
}

#[tokio::test]
async fn pieces_keep_their_pace() {
    let provider = start().await;
    let started = Instant::now();
    hear(&provider, "[[sim first_ms=100 pace_ms=10 tokens=21]]").await;
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_millis(900), "{took:?}");
}

#[tokio::test]
async fn the_cache_is_told_in_the_usage() {
    let provider = start().await;
    let system = "You are helpful. ".repeat(100);
    let body = |question: &str| {
        json!({"model": "m", "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
        ]})
    };
    let mut cached = Vec::new();
    for question in ["first", "second"] {
        let answer: Value = send(&provider, &body(question)).await.json().await.unwrap();
        let usage = &answer["usage"];
        cached.push(usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap());
        assert!(usage["prompt_tokens"].as_u64().unwrap() > 425);
    }
    assert_eq!(cached[0], 0);
    assert!(cached[1] >= 416, "{cached:?}");
}

#[tokio::test]
async fn knobs_limit_and_fail() {
    let provider = start().await;
    control(&provider, "knobs", json!({"context_tokens": 20})).await;
    let long = send(&provider, &ask(&"long ".repeat(100), false)).await;
    assert_eq!(long.status(), 400);
    let long: Value = long.json().await.unwrap();
    assert_eq!(long["error"]["code"], "context_length_exceeded");
    control(&provider, "knobs", json!({"context_tokens": null, "error_rate": 0.5})).await;
    let mut failed = 0;
    for _ in 0..100 {
        failed += u32::from(send(&provider, &ask("hello", false)).await.status() == 500);
    }
    assert!((30..70).contains(&failed), "{failed}");
    let wrong = control(&provider, "knobs", json!({"pace": 1})).await;
    assert!(wrong["error"].as_str().unwrap().contains("pace"));
}

#[tokio::test]
async fn calls_are_told_with_their_tokens_and_how_they_ended() {
    let provider = start().await;
    let answers = [
        r#"[[sim text="four words are here"]]"#,
        "[[sim tokens=9]]",
        r#"[[sim tool=look_up args={"number": 12} calls=2]]"#,
    ];
    let mut told = Vec::new();
    for text in answers {
        let mut request = ask(text, false);
        request["max_tokens"] = json!(100);
        let answer: Value = send(&provider, &request).await.json().await.unwrap();
        let usage = &answer["usage"];
        told.push(json!([usage["prompt_tokens"], usage["completion_tokens"], "completed"]));
    }
    assert!(hear(&provider, "[[sim tokens=9 cut_after=5]]").await.broken);
    let calls = reqwest::get(format!("{}/_sim/calls", provider.base_url())).await;
    let calls: Value = calls.unwrap().json().await.unwrap();
    let calls = calls["calls"].as_array().unwrap();
    let shown: Vec<Value> = calls
        .iter()
        .map(|call| json!([call["prompt_tokens"], call["completion_tokens"], call["outcome"]]))
        .collect();
    assert_eq!(shown[..3], told);
    assert_eq!((&shown[3][1], &shown[3][2]), (&json!(9), &json!("cut")));
}

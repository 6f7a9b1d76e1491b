//! Resuming streams: a reader continues exactly where it was cut off.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::fakes::model::{Act, calls, says};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::app::{TestApp, with_app};
use super::sse::{Event, delta_text};

/// What a reader received, however the text was split: durable events, and the text between them.
fn learned(events: &[Event]) -> Vec<(String, Value)> {
    let mut learned: Vec<(String, Value)> = Vec::new();
    for event in events {
        if event.name != "message.delta" {
            learned.push((event.name.clone(), event.data.clone()));
            continue;
        }
        let key = event.data["message_id"].as_str().unwrap();
        match learned.last_mut() {
            Some((last, Value::String(text))) if last == key => text.push_str(event.text()),
            _ => learned.push((key.to_owned(), json!(event.text()))),
        }
    }
    learned
}

async fn from(app: &TestApp, path: &str, position: &str) -> Vec<Event> {
    app.ada("GET", path)
        .header("last-event-id", position)
        .stream()
        .await
        .rest()
        .await
}

/// A turn with text before, between and after its tool calls, and with multi-byte characters.
async fn rich(app: &TestApp, conversation: &str) -> String {
    let mut first = vec![
        Act::Text("Ich prüfe das… ".into()),
        Act::Wait(Duration::from_secs(1)),
        Act::Text("日本語 ".into()),
    ];
    first.extend(calls(&[("zendesk_search_tickets", json!({ "query": "x" }))]));
    app.model
        .on("rich", &[first, says(&["Fertig: ", "🎉", "!"], Duration::from_secs(1))]);
    app.system("zendesk");
    app.submit(conversation, "rich").await
}

#[tokio::test(start_paused = true)]
async fn at_every_position_of_a_turn_after_its_end() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turn = rich(app, &conversation).await;
        let path = format!("{turn}/events");
        let whole = app.ada("GET", &path).stream().await.rest().await;
        assert!(whole.iter().filter(|event| event.name == "message.delta").count() >= 4);
        for (at, event) in whole.iter().enumerate() {
            let position = event.id.as_str();
            if at + 1 == whole.len() {
                app.ada("GET", &path)
                    .header("last-event-id", position)
                    .send()
                    .await
                    .expect(204);
                app.get(&format!("{path}?after={position}")).await.expect(204);
                continue;
            }
            let expected = learned(&whole[at + 1..]);
            assert_eq!(
                learned(&from(app, &path, position).await),
                expected,
                "behind {position}"
            );
            let by_query = app
                .ada("GET", &format!("{path}?after={position}"))
                .stream()
                .await
                .rest()
                .await;
            assert_eq!(learned(&by_query), expected, "?after={position}");
            let wins = app
                .ada("GET", &format!("{path}?after=1"))
                .header("last-event-id", position);
            assert_eq!(
                learned(&wins.stream().await.rest().await),
                expected,
                "Last-Event-ID wins"
            );
        }
        // On the conversation's stream a position after a turn's end is valid: the next turn follows.
        let last = whole.last().unwrap().id.clone();
        let events = format!("{conversation}/events");
        let mut stream = app.ada("GET", &events).header("last-event-id", &last).stream().await;
        app.answered(&conversation, "hi").await;
        assert_eq!(stream.next().await.unwrap().name, "turn.queued");
        app.ada("GET", &path)
            .header("last-event-id", &(whole.last().unwrap().seq() + 1).to_string())
            .send()
            .await
            .expect(204);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn at_every_byte_of_an_answer_that_is_being_written() {
    with_app(async |app| {
        let (said, rest) = ("Grüße an 日本 🎉 und", " Ende");
        let hour = Duration::from_secs(540);
        app.model.on(
            "hi",
            &[vec![
                Act::Text(said.into()),
                Act::Wait(hour),
                Act::Text(rest.into()),
                Act::Finish(Finish::Stop),
            ]],
        );
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let paths = [format!("{turn}/events"), format!("{conversation}/events")];
        let seen = app.ada("GET", &paths[0]).stream().await.until("message.delta").await;
        let base = seen.last().unwrap().seq();
        assert_eq!(seen.last().unwrap().id, format!("{base}.{}", said.len()));
        let mut streams = Vec::new();
        for path in &paths {
            for offset in 0..=said.len() + 2 {
                let call = app
                    .ada("GET", path)
                    .header("last-event-id", &format!("{base}.{offset}"));
                if !said.is_char_boundary(offset) || offset > said.len() {
                    call.send().await.problem(410, "not_resumable");
                    continue;
                }
                let mut stream = call.stream().await;
                if offset < said.len() {
                    let first = stream.next().await.unwrap();
                    assert_eq!(
                        (first.text(), &first.id),
                        (&said[offset..], &format!("{base}.{}", said.len()))
                    );
                }
                streams.push((offset, stream));
            }
            // Without an offset the open text comes first, as one delta.
            let mut stream = app
                .ada("GET", path)
                .header("last-event-id", &base.to_string())
                .stream()
                .await;
            assert_eq!(stream.next().await.unwrap().text(), said);
        }
        assert_eq!(app.get(&turn).await.json()["status"], "running");
        for (offset, mut stream) in streams {
            let events = stream.until("message.completed").await;
            let text = if offset < said.len() {
                rest.to_owned()
            } else {
                format!("{}{rest}", &said[offset..])
            };
            assert_eq!(delta_text(&events), text);
            assert_eq!(events.last().unwrap().data["text"], format!("{said}{rest}"));
        }
        app.turn_is(&turn, "completed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn in_mid_answer_with_another_turn_queued_behind_it() {
    with_app(async |app| {
        let wait = Act::Wait(Duration::from_secs(60));
        let script = vec![
            Act::Text("ab".into()),
            wait.clone(),
            Act::Text("cd".into()),
            wait,
            Act::Finish(Finish::Stop),
        ];
        app.model.on("first", &[script]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "first").await;
        let (own, all) = (format!("{turn}/events"), format!("{conversation}/events?after=0"));
        let mut reader = app.ada("GET", &own).stream().await;
        let mut watcher = app.ada("GET", &all).stream().await;
        let ab = reader.until("message.delta").await.pop().unwrap();
        watcher.until("message.delta").await;
        app.submit(&conversation, "second").await;
        let queued = watcher.until("turn.queued").await.pop().unwrap();
        assert_eq!(
            queued.id,
            format!("{}.2", ab.seq() + 1),
            "a durable event in mid-message bears the offset"
        );
        let cd = reader.next().await.unwrap();
        assert_eq!(
            (cd.text(), cd.id.as_str()),
            ("cd", format!("{}.4", ab.seq()).as_str()),
            "not shown on the turn's stream"
        );
        let rest = from(app, &own, &ab.id).await;
        assert_eq!(delta_text(&rest), "cd");
        assert!(
            rest.iter()
                .all(|event| turn.ends_with(event.data["turn_id"].as_str().unwrap()))
        );
        // Positions of either stream are valid on the other.
        let rest = from(app, &own, &queued.id).await;
        assert_eq!(delta_text(&rest), "cd");
        let mut all = app
            .ada("GET", &format!("{conversation}/events"))
            .header("last-event-id", &ab.id)
            .stream()
            .await;
        let rest = all.until("message.completed").await;
        assert_eq!(
            (delta_text(&rest).as_str(), rest[0].name.as_str()),
            ("cd", "turn.queued")
        );
        all.until("turn.completed").await;
        all.until("turn.completed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_an_answer_was_reset() {
    use copilotd_actors::domain::failure::FailureClass;
    with_app(async |app| {
        app.model.on("hi", &[says(&["whole"], Duration::from_secs(1))]);
        app.model.once(
            "hi",
            vec![
                Act::Text("half an".into()),
                Act::Wait(Duration::from_secs(1)),
                Act::Fail(FailureClass::Network, None),
            ],
        );
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let path = format!("{turn}/events");
        let whole = app.ada("GET", &path).stream().await.rest().await;
        assert!(whole.iter().any(|event| event.name == "message.reset"), "{whole:#?}");
        assert_eq!(delta_text(&whole), "half anwhole");
        for (at, event) in whole.iter().enumerate().take(whole.len() - 1) {
            let rest = from(app, &path, &event.id).await;
            // Text that has been reset since is not sent again.
            let reset = whole[at + 1..].iter().position(|event| event.name == "message.reset");
            let expected: Vec<Event> = whole[at + 1..]
                .iter()
                .enumerate()
                .filter(|(n, event)| event.name != "message.delta" || reset.is_none_or(|reset| *n > reset))
                .map(|(_, event)| event.clone())
                .collect();
            assert_eq!(learned(&rest), learned(&expected), "behind {}", event.id);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tickets_open_within_a_minute_and_reopen_for_an_hour() {
    with_app(async |app| {
        app.model.on("hi", &[says(&["abc", "def"], Duration::from_secs(1))]);
        let conversation = app.conversation().await;
        let other = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let token = app.token_for("acme", "ada", Scopes::CHAT, SignedDuration::from_hours(2));
        let id = conversation.rsplit('/').next().unwrap();
        let issue = app
            .call("POST", "/v1/stream-tickets")
            .by(&token)
            .json(&json!({ "conversation_id": id }));
        let issued = issue.send().await.expect(200);
        let ticket = issued.text("/ticket");
        let expires: jiff::Timestamp = issued.text("/expires_at").parse().unwrap();
        assert_eq!(expires.as_second(), app.now().as_second() + 60);
        let open = |path: &str| app.call("GET", &format!("{path}/events?ticket={ticket}"));
        let mut streams = [open(&conversation).stream().await, open(&turn).stream().await];
        let events = streams[1].until("turn.completed").await;
        assert_eq!(delta_text(&events), "abcdef");
        open(&other).send().await.problem(404, "not_found");
        let elsewhere = app.answered(&other, "hi").await;
        open(&format!("/v1/turns/{}", elsewhere["id"].as_str().unwrap()))
            .send()
            .await
            .problem(404, "not_found");
        for path in [conversation.clone(), format!("{conversation}/messages"), turn.clone()] {
            app.call("GET", &format!("{path}?ticket={ticket}"))
                .send()
                .await
                .problem(401, "unauthenticated");
        }
        let delta = events.iter().find(|event| event.name == "message.delta").unwrap();
        app.clock.step(3_600_000);
        open(&turn).send().await.problem(401, "unauthenticated");
        app.call("GET", &format!("{turn}/events?ticket={ticket}&after=3"))
            .send()
            .await
            .problem(401, "unauthenticated");
        let rest = open(&turn)
            .header("last-event-id", &delta.id)
            .stream()
            .await
            .rest()
            .await;
        assert_eq!(delta_text(&rest), "def");
        app.clock.step(3_600_000);
        open(&turn)
            .header("last-event-id", &delta.id)
            .send()
            .await
            .problem(401, "unauthenticated");
        for bad in ["", "cpt_x", "cpt_a.b"] {
            let path = format!("{turn}/events?ticket={bad}");
            app.call("GET", &path).send().await.problem(401, "unauthenticated");
        }
    })
    .await;
}

//! Stream tickets: what can be resumed after their minute, and what cannot.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::fakes::model::{Act, says};
use serde_json::json;

use super::app::{TestApp, with_app};
use super::sse::{Block, delta_text};

async fn ticket(app: &TestApp, conversation: &str) -> String {
    let id = conversation.rsplit('/').next().unwrap();
    let issued = app.post("/v1/stream-tickets", json!({ "conversation_id": id })).await;
    issued.expect(200).text("/ticket")
}

/// Position and MAC of an event id.
fn parts(id: &str) -> (&str, &str) {
    id.split_once('~').unwrap_or_else(|| panic!("{id} has no MAC"))
}

#[tokio::test(start_paused = true)]
async fn every_id_of_a_ticket_s_stream_is_signed_and_resumes_exactly_there() {
    with_app(async |app| {
        app.model.on("hi", &[says(&["abc", "def"], Duration::from_secs(1))]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let ticket = ticket(app, &conversation).await;
        let path = format!("{turn}/events");
        let open = |more: &str| app.call("GET", &format!("{path}?ticket={ticket}{more}"));
        let mut stream = open("").stream().await;
        let mut ids = Vec::new();
        while let Some(block) = stream.block().await {
            match block {
                Block::Id(id) => ids.push(id),
                Block::Event(event) => ids.push(event.id),
                Block::Comment(_) | Block::Retry(_) => {}
            }
        }
        assert!(ids.len() > 5, "{ids:?}");
        // The same stream with a credential has the same ids without MACs.
        let plain = app.ada("GET", &path).stream().await.rest().await;
        let positions: Vec<&str> = ids.iter().map(|id| parts(id).0).collect();
        assert!(plain.iter().all(|event| !event.id.contains('~')));
        let durable = |id: &str| id.split('.').next().unwrap().to_owned();
        assert_eq!(durable(positions.last().unwrap()), durable(&plain.last().unwrap().id));

        tokio::time::advance(Duration::from_secs(600)).await;
        for id in &ids {
            let status = open("").header("last-event-id", id).send().await.status;
            assert!(matches!(status, 200 | 204), "{id}: {status}");
            let (position, mac) = parts(id);
            for spelt in [format!("{position}~{mac}"), format!("{position}%7E{mac}")] {
                let status = open(&format!("&after={spelt}")).send().await.status;
                assert!(matches!(status, 200 | 204), "{spelt}: {status}");
            }
            for other in positions.iter().filter(|other| **other != position) {
                let moved = format!("{other}~{mac}");
                open("")
                    .header("last-event-id", &moved)
                    .send()
                    .await
                    .problem(401, "unauthenticated");
            }
        }
        let (position, mac) = parts(&ids[1]);
        for bare in ["0", "1", position, "", "~", "x", "0~", &format!("0{position}~{mac}")] {
            open("")
                .header("last-event-id", bare)
                .send()
                .await
                .problem(401, "unauthenticated");
            open(&format!("&after={bare}"))
                .send()
                .await
                .problem(401, "unauthenticated");
        }
        open("").send().await.problem(401, "unauthenticated");
        // The header wins over the query, and two headers are invalid.
        let signed = &ids[1];
        let both = open(&format!("&after={signed}")).header("last-event-id", "1");
        both.send().await.problem(401, "unauthenticated");
        let twice = open("").header("last-event-id", signed).header("last-event-id", signed);
        twice.send().await.problem(401, "unauthenticated");
        // Another ticket of the same caller and conversation has its own MACs.
        let another = super::tickets::ticket(app, &conversation).await;
        tokio::time::advance(Duration::from_secs(61)).await;
        let foreign = app.call("GET", &format!("{path}?ticket={another}"));
        foreign
            .header("last-event-id", signed)
            .send()
            .await
            .problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_got_no_event_yet_can_come_back() {
    with_app(async |app| {
        app.model.on("hi", &[says(&["abc"], Duration::ZERO)]);
        let conversation = app.conversation().await;
        let ticket = ticket(app, &conversation).await;
        let path = format!("{conversation}/events?ticket={ticket}");
        let mut stream = app.call("GET", &path).stream().await;
        let begun = app.now();
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(stream.block().await.unwrap());
        }
        assert_eq!(app.now(), begun, "at once");
        let Block::Id(id) = &first[2] else { panic!("{first:?}") };
        drop(stream);
        tokio::time::advance(Duration::from_secs(61)).await;
        app.answered(&conversation, "hi").await;
        let mut again = app.call("GET", &path).header("last-event-id", id).stream().await;
        let events = again.until("turn.completed").await;
        assert_eq!(
            (events[0].name.as_str(), delta_text(&events).as_str()),
            ("turn.queued", "abc")
        );
        // A stream opened with a credential does not start with an id.
        let mut plain = app.ada("GET", &format!("{conversation}/events?after=0")).stream().await;
        let blocks = [plain.block().await, plain.block().await, plain.block().await];
        assert!(matches!(
            blocks,
            [Some(Block::Comment(_)), Some(Block::Retry(_)), Some(Block::Event(_))]
        ));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn positions_are_signed_in_mid_answer_too() {
    with_app(async |app| {
        let wait = Act::Wait(Duration::from_secs(120));
        app.model.on(
            "hi",
            &[vec![
                Act::Text("Grüße ".into()),
                wait,
                Act::Text("Ende".into()),
                Act::Finish(copilotd_actors::domain::content::Finish::Stop),
            ]],
        );
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let ticket = ticket(app, &conversation).await;
        for path in [
            format!("{turn}/events?ticket={ticket}"),
            format!("{conversation}/events?after=0&ticket={ticket}"),
        ] {
            let seen = app.call("GET", &path).stream().await.until("message.delta").await;
            let id = &seen.last().unwrap().id;
            assert!(parts(id).0.ends_with(".8"), "{id}");
            let mut again = app.call("GET", &path).header("last-event-id", id).stream().await;
            let Some(Block::Comment(_)) = again.block().await else {
                panic!()
            };
            let Some(Block::Retry(_)) = again.block().await else {
                panic!()
            };
            assert_eq!(again.block().await, Some(Block::Id(id.clone())), "where it resumes");
        }
        tokio::time::advance(Duration::from_secs(120)).await;
        app.turn_is(&turn, "completed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_a_credential_the_suffix_means_nothing() {
    with_app(async |app| {
        app.model.on("hi", &[says(&["abc"], Duration::ZERO)]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        app.turn_is(&turn, "completed").await;
        let path = format!("{turn}/events");
        for suffix in ["", "~", "~x", "~AAAAAAAAAAAAAAAAAAAAAA", "~1.2~3"] {
            let by_header = app.ada("GET", &path).header("last-event-id", &format!("3{suffix}"));
            assert!(!by_header.stream().await.rest().await.is_empty(), "{suffix}");
            let by_query = app.ada("GET", &format!("{path}?after=3{suffix}"));
            assert!(!by_query.stream().await.rest().await.is_empty(), "{suffix}");
        }
        for bad in ["~x", "x~", "3.~x", "-1~x", "3 ~x", "3x~x"] {
            let call = app.ada("GET", &path).header("last-event-id", bad);
            call.send().await.problem(422, "invalid");
        }
        // Within its minute a ticket accepts a bare position or another ticket's id; a malformed one is still refused.
        let ticket = ticket(app, &conversation).await;
        let open = |id: &str| {
            app.call("GET", &format!("{path}?ticket={ticket}"))
                .header("last-event-id", id)
        };
        for id in ["3", "3~AAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(!open(id).stream().await.rest().await.is_empty(), "{id}");
        }
        open("x").send().await.problem(422, "invalid");
        open("999").send().await.problem(410, "not_resumable");
        // With a credential in the header, an old ticket is ignored.
        tokio::time::advance(Duration::from_secs(61)).await;
        let token = app.token_of("acme", "ada", Scopes::CHAT);
        assert!(!open("3").by(&token).stream().await.rest().await.is_empty());
    })
    .await;
}

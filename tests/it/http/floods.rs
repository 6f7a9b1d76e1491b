//! Floods of small writes: stored feedback and decisions are bounded by count and bytes, and nobody else is affected.

use std::collections::BTreeMap;

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::fakes::model::{calls, says};
use serde_json::{Value, json};

use super::app::{TestApp, with_app, with_globex};
use super::client::Answer;

/// Writes of a user per minute, unless configured.
const WRITES: usize = 120;
/// Maximum changes of the feedback on one turn.
const CHANGES: usize = 20;

/// Counts the statuses of many responses.
type Tally = BTreeMap<u16, usize>;

async fn feedback(app: &TestApp, token: &str, turn: &str, n: usize, bytes: usize) -> Answer {
    let comment = format!("{n} {}", "x".repeat(bytes));
    let body = json!({ "rating": 1, "comment": comment });
    let call = app.call("POST", &format!("{turn}/feedback")).by(token).json(&body);
    call.send().await
}

/// Number and bytes of the conversation's records that `wanted` accepts.
fn kept(app: &TestApp, conversation: &str, wanted: impl Fn(&Event) -> bool) -> (usize, usize) {
    let id: ConversationId = conversation.rsplit('/').next().unwrap().parse().unwrap();
    let records = app.log.records(id);
    let kept = records.iter().filter(|record| wanted(&record.event));
    let bytes = kept.map(|record| serde_json::to_string(record).unwrap().len());
    let bytes: Vec<usize> = bytes.collect();
    (bytes.len(), bytes.iter().sum())
}

fn is_feedback(event: &Event) -> bool {
    matches!(event, Event::FeedbackGiven { .. })
}

#[track_caller]
fn is_limited(answer: Answer) {
    let headers = &answer.headers;
    assert_eq!(headers["ratelimit-policy"], format!("\"writes\";q={WRITES};w=60"));
    let left = headers["ratelimit"].to_str().unwrap();
    assert!(left.starts_with("\"writes\";r=0;t="), "{left}");
    let problem = answer.problem(429, "rate_limited");
    assert_eq!(problem["retry"], "safe");
}

#[tokio::test(start_paused = true)]
async fn feedback_on_one_turn_is_kept_twenty_times_and_then_others_go_on() {
    with_app(async |app| {
        let (ada, bob) = (app.token("ada"), app.token("bob"));
        let conversation = app.conversation().await;
        let (rated, other) = (
            app.submit(&conversation, "one").await,
            app.submit(&conversation, "two").await,
        );
        for turn in [&rated, &other] {
            app.turn_is(turn, "completed").await;
        }
        let mut tally = Tally::new();
        let mut last = None;
        for n in 0..2 * WRITES {
            let answer = feedback(app, &ada, &rated, n, 3_000).await;
            *tally.entry(answer.status).or_default() += 1;
            last = Some(answer);
        }
        // Creating the conversation and two turns counted as writes too.
        let refused = 2 * WRITES - (WRITES - 3);
        let expected = [(204, CHANGES), (409, WRITES - 3 - CHANGES), (429, refused)];
        assert_eq!(tally, expected.into());
        is_limited(last.unwrap());
        let (count, bytes) = kept(app, &conversation, is_feedback);
        assert!(count == CHANGES && bytes < CHANGES * 3_500, "{count} of {bytes} bytes");

        // Another user is not affected, and other users' resources are neither disclosed nor changed.
        feedback(app, &bob, &other, 0, 10).await.problem(404, "not_found");
        let theirs = app
            .call("POST", "/v1/conversations")
            .by(&bob)
            .json(&json!({}))
            .send()
            .await;
        let theirs = format!("/v1/conversations/{}", theirs.expect(201).text("/id"));
        let body = json!({ "input": "three" });
        let turn = app
            .call("POST", &format!("{theirs}/turns"))
            .by(&bob)
            .json(&body)
            .send()
            .await;
        let turn = format!("/v1/turns/{}", turn.expect(202).text("/id"));
        while app.call("GET", &turn).by(&bob).send().await.expect(200).json()["finished_at"].is_null() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        feedback(app, &bob, &turn, 0, 10).await.expect(204);
        assert_eq!(kept(app, &theirs, is_feedback).0, 1);

        // A minute later the first turn is still full, but the other one of the same conversation accepts feedback.
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        feedback(app, &ada, &rated, 0, 10).await.problem(409, "conflict");
        feedback(app, &ada, &other, 0, 10).await.expect(204);
        // The last stored feedback counts; repeating it is not a change.
        let view = app.get(&rated).await.expect(200).json();
        assert!(view.to_string().len() < 10_000);
        feedback(app, &ada, &other, 0, 10).await.expect(204);
        assert_eq!(kept(app, &conversation, is_feedback).0, CHANGES + 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn feedback_on_many_turns_is_kept_up_to_the_users_quota() {
    const QUOTA: usize = 60_000;
    let limits = format!("[tenants.limits.per_user]\nwrites_per_minute = 0\nlog_bytes = {QUOTA}");
    with_globex(&limits, async |app| {
        let [ada, bob] = ["ada", "bob"].map(|user| app.token_of("globex", user, Scopes::CHAT));
        let open = async |token: &str, turns: usize| {
            let made = app
                .call("POST", "/v1/conversations")
                .by(token)
                .json(&json!({}))
                .send()
                .await;
            let conversation = format!("/v1/conversations/{}", made.expect(201).text("/id"));
            let mut all = Vec::new();
            for _ in 0..turns {
                let submit = app.call("POST", &format!("{conversation}/turns")).by(token);
                let turn = submit
                    .json(&json!({ "input": "hello" }))
                    .send()
                    .await
                    .expect(202)
                    .text("/id");
                let turn = format!("/v1/turns/{turn}");
                while app.call("GET", &turn).by(token).send().await.expect(200).json()["finished_at"].is_null() {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                all.push(turn);
            }
            (conversation, all)
        };
        let (conversation, turns) = open(&ada, 6).await;
        let mut tally = Tally::new();
        for n in 0..CHANGES + 5 {
            for turn in &turns {
                let answer = feedback(app, &ada, turn, n, 3_000).await;
                *tally.entry(answer.status).or_default() += 1;
                if answer.status == 403 {
                    let problem = answer.problem(403, "quota_exceeded");
                    let expected = format!("the user's log_bytes quota of {QUOTA} is used up");
                    assert_eq!(problem["detail"], expected);
                }
            }
        }
        assert!(tally[&204] < turns.len() * CHANGES && tally[&403] > 0, "{tally:?}");
        let (_, bytes) = kept(app, &conversation, |_| true);
        // The last accepted one may exceed it.
        assert!(bytes < QUOTA + 4_000, "{bytes} bytes");
        // One user's quota does not affect another's.
        let (_, theirs) = open(&bob, 1).await;
        feedback(app, &bob, &theirs[0], 0, 10).await.expect(204);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_kept_once_however_often_it_is_sent() {
    with_app(async |app| {
        let asks = calls(&[("zendesk_create_ticket", json!({ "subject": "s", "body": "b" }))]);
        app.model
            .on("please", &[asks, says(&["done"], std::time::Duration::ZERO)]);
        app.system("zendesk");
        let open = async |user: &str| {
            let token = app.token(user);
            let made = app
                .call("POST", "/v1/conversations")
                .by(&token)
                .json(&json!({}))
                .send()
                .await;
            let conversation = format!("/v1/conversations/{}", made.expect(201).text("/id"));
            let submit = app.call("POST", &format!("{conversation}/turns")).by(&token);
            let turn = submit
                .json(&json!({ "input": "please" }))
                .send()
                .await
                .expect(202)
                .text("/id");
            let turn = format!("/v1/turns/{turn}");
            loop {
                let view = app.call("GET", &turn).by(&token).send().await.expect(200).json();
                if view["status"] == "awaiting_approval" {
                    let call = view["tool_calls"][0]["id"].as_str().unwrap().to_owned();
                    return (token, conversation, format!("{turn}/approvals/{call}"));
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let (ada, conversation, call) = open("ada").await;
        let (bob, theirs, their_call) = open("bob").await;
        let decide =
            async |token: &str, call: &str, body: Value| app.call("POST", call).by(token).json(&body).send().await;
        let mut tally = Tally::new();
        let mut last = None;
        for n in 0..2 * WRITES {
            // The first decision stands; then the same one again, and different ones, with different reasons.
            let body = match n % 3 {
                0 => json!({ "decision": "reject" }),
                1 => json!({ "decision": "reject", "reason": format!("{n} {}", "x".repeat(1_000)) }),
                _ => json!({ "decision": "approve", "arguments": { "subject": "s", "body": n.to_string() } }),
            };
            let answer = decide(&ada, &call, body).await;
            *tally.entry(answer.status).or_default() += 1;
            last = Some(answer);
        }
        assert_eq!(tally.keys().copied().collect::<Vec<_>>(), [202, 409, 429], "{tally:?}");
        assert_eq!(tally[&429], 2 * WRITES - (WRITES - 2), "{tally:?}");
        is_limited(last.unwrap());
        let decided = |event: &Event| matches!(event, Event::ApprovalDecided { .. });
        assert_eq!(kept(app, &conversation, decided).0, 1);
        let (count, bytes) = kept(app, &conversation, |_| true);
        assert!(count < 20 && bytes < 10_000, "{count} of {bytes} bytes");
        assert_eq!(app.system("zendesk").seen().calls, 0);

        decide(&bob, &call, json!({ "decision": "reject" }))
            .await
            .problem(404, "not_found");
        decide(&bob, &their_call, json!({ "decision": "reject" }))
            .await
            .expect(202);
        assert_eq!(kept(app, &theirs, decided).0, 1);
    })
    .await;
}

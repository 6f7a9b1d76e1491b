//! Every limit, of the tenant, the user and the API key, at every entry point: turns, chats and embeddings. What one
//! entry point used is missing at the others.

use std::time::Duration;

use copilotd_actors::domain::access::key_hash::KeyHash;
use serde_json::{Value, json};

use crate::gateway::Provider;
use crate::http::app::{TestApp, with_providers};
use crate::support::redis::Redis;

const KEYS: [&str; 2] = [
    "cpk_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
    "cpk_CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC",
];
/// Words of an answer, which has about as many tokens.
const ANSWER: u64 = 1_200;

/// The subject of a limit: its table in the configuration, and which callers it does not affect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LimitedSubject {
    Tenant,
    User,
    Key,
}

impl LimitedSubject {
    const ALL: [Self; 3] = [Self::Tenant, Self::User, Self::Key];

    fn table(self) -> &'static str {
        match self {
            Self::Tenant => "tenants.limits",
            Self::User => "tenants.limits.per_user",
            Self::Key => "tenants.limits.per_key",
        }
    }

    /// Whether the limit that ada reached with the first key applies to this caller.
    fn catches(self, who: Who) -> bool {
        match self {
            Self::Tenant => true,
            Self::User => who.user == "ada",
            Self::Key => who.key == 0,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Who {
    user: &'static str,
    key: usize,
}

const ADA: Who = Who { user: "ada", key: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryPoint {
    Turn,
    Chat,
    Embed,
}

impl EntryPoint {
    const ALL: [Self; 3] = [Self::Turn, Self::Chat, Self::Embed];
}

/// A limit, and how many calls of [`ANSWER`] tokens it admits.
const LIMITS: [(&str, usize); 5] = [
    ("requests_per_minute = 2", 2),
    ("tokens_per_minute = 1900", 1),
    ("concurrent_calls = 1", 0),
    ("usd_per_day = 1.9", 1),
    ("usd_per_month = 1.9", 1),
];

#[derive(Debug, PartialEq, Eq)]
enum CallResult {
    Answered,
    Refused,
}

fn call<'a>(app: &'a TestApp, who: Who, path: &str, body: &Value) -> crate::http::client::Call<'a> {
    let call = app.call("POST", path).by(KEYS[who.key]);
    call.header("x-copilotd-user", who.user).json(body)
}

async fn submit(app: &TestApp, who: Who, prompt: &str) -> Option<String> {
    let body = json!({ "copilot": "paid" });
    let made = call(app, who, "/v1/conversations", &body).send().await.expect(201);
    let turns = format!("/v1/conversations/{}/turns", made.text("/id"));
    let answer = call(app, who, &turns, &json!({ "input": prompt })).send().await;
    match answer.status {
        429 => None,
        _ => Some(format!("/v1/turns/{}", answer.expect(202).text("/id"))),
    }
}

async fn cancel(app: &TestApp, who: Who, turn: &str) {
    let cancelled = call(app, who, &format!("{turn}/cancel"), &json!({})).send().await;
    cancelled.expect(202);
}

/// Makes one call at an entry point, and waits for its result.
async fn go(app: &TestApp, who: Who, door: EntryPoint) -> CallResult {
    let prompt = format!("Go on. [[sim tokens={ANSWER} pace_ms=0 chunk=2000]]");
    let status = match door {
        EntryPoint::Turn => {
            let Some(turn) = submit(app, who, &prompt).await else {
                return CallResult::Refused;
            };
            loop {
                let commits = app.log.commits();
                let view = app
                    .call("GET", &turn)
                    .by(KEYS[who.key])
                    .header("x-copilotd-user", who.user);
                let view = view.send().await.expect(200).json();
                if !view["waiting"].is_null() {
                    cancel(app, who, &turn).await;
                    return CallResult::Refused;
                }
                match (view["status"].as_str(), view["error"]["code"].as_str()) {
                    (Some("completed"), _) => return CallResult::Answered,
                    (Some("failed"), Some("budget_exhausted" | "rate_limited")) => return CallResult::Refused,
                    (Some("failed"), _) => panic!("{view:#}"),
                    _ => app.log.wait_for_commits(commits + 1).await,
                }
            }
        }
        EntryPoint::Chat => {
            let messages = json!([{ "role": "user", "content": prompt }]);
            let body = json!({ "model": "paid", "messages": messages });
            call(app, who, "/v1/chat/completions", &body).send().await.status
        }
        EntryPoint::Embed => {
            let body = json!({ "model": "paid", "input": "word ".repeat(1_000) });
            call(app, who, "/v1/embeddings", &body).send().await.status
        }
    };
    match status {
        200 => CallResult::Answered,
        429 => CallResult::Refused,
        other => panic!("{door:?} answered {other}"),
    }
}

/// Holds a call open while `test` runs.
async fn holding(app: &TestApp, provider: &Provider, door: EntryPoint, test: impl AsyncFnOnce()) {
    let before = provider.seen().await;
    let arrived = async {
        while provider.seen().await == before {
            tokio::task::yield_now().await;
        }
    };
    let prompt = "Wait. [[sim tokens=2 first_ms=600000]]";
    match door {
        EntryPoint::Turn => {
            let turn = submit(app, ADA, prompt).await.unwrap();
            arrived.await;
            test().await;
            cancel(app, ADA, &turn).await;
        }
        EntryPoint::Chat | EntryPoint::Embed => {
            let messages = json!([{ "role": "user", "content": prompt }]);
            let body = json!({ "model": "paid", "messages": messages });
            let held = call(app, ADA, "/v1/chat/completions", &body).send();
            tokio::select! {
                answer = held => panic!("it was to be held: {answer:?}"),
                () = async { arrived.await; test().await } => {}
            }
        }
    }
}

async fn check(
    app: &TestApp,
    provider: &Provider,
    whose: LimitedSubject,
    (limit, admitted): (&str, usize),
    door: EntryPoint,
) {
    let said = format!("{limit} of {whose:?} through {door:?}");
    let after = async || {
        for through in EntryPoint::ALL {
            for who in [
                ADA,
                Who { user: "bob", key: 0 },
                Who { user: "ada", key: 1 },
                Who { user: "eve", key: 1 },
            ] {
                if whose.catches(who) {
                    assert_eq!(
                        go(app, who, through).await,
                        CallResult::Refused,
                        "{said}, then {who:?} through {through:?}"
                    );
                }
            }
        }
        // The unaffected caller comes last: it uses something of its own.
        for who in [Who { user: "bob", key: 1 }]
            .into_iter()
            .filter(|who| !whose.catches(*who))
        {
            assert_eq!(go(app, who, door).await, CallResult::Answered, "{said}, then {who:?}");
        }
    };
    if admitted == 0 {
        holding(app, provider, door, after).await;
    } else {
        for n in 0..admitted {
            assert_eq!(go(app, ADA, door).await, CallResult::Answered, "{said}, call {n}");
        }
        app.app.state.gateway.settled().await;
        after().await;
    }
}

fn config(provider: &Provider, whose: LimitedSubject, limit: &str, store: &str) -> String {
    let mut text = String::new();
    for (n, key) in KEYS.iter().enumerate() {
        let hash = hex::encode(KeyHash::of(key).bytes());
        text += &format!(
            "[[tenants.api_keys]]\nname = \"k{n}\"\nhash = \"sha256:{hash}\"\nscopes = [\"chat\", \"gateway\"]\n"
        );
    }
    text += "[[tenants.copilots]]\nname = \"paid\"\nroute = \"paid\"\n";
    text += &format!("[{}]\n{limit}\n", whose.table());
    text += &format!(
        r#"
        [[providers]]
        name = "sim"
        kind = "openai"
        base_url = "{}"
        api_key = {{ value = "sk-one" }}
        [[routes]]
        name = "paid"
        targets = [{{ provider = "sim", model = "paid-1", context_tokens = 128000 }}]
        [[prices]]
        model = "paid-1"
        input = 1000.0
        output = 1000.0
        {store}
        "#,
        provider.url()
    );
    text
}

async fn through_every_door(whose: LimitedSubject, store: impl Fn(usize) -> String) {
    let provider = Provider::start().await;
    let mut n = 0;
    for limit in LIMITS {
        for door in EntryPoint::ALL {
            n += 1;
            let config = config(&provider, whose, limit.0, &store(n));
            with_providers(&config, async |app| {
                while app.app.state.gateway.limits_ready() == Some(false) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                check(app, &provider, whose, limit, door).await;
            })
            .await;
        }
    }
}

#[tokio::test]
async fn local_limits_hold_at_every_entry_point() {
    for whose in LimitedSubject::ALL {
        through_every_door(whose, |_| String::new()).await;
    }
}

#[tokio::test]
async fn shared_limits_hold_at_every_entry_point() {
    let redis = Redis::start().await;
    for whose in LimitedSubject::ALL {
        let store = |n: usize| {
            format!(
                "[limits]\nstore = \"redis\"\nurl = {{ value = \"{}\" }}\nprefix = \"{whose:?}{n}\"\n",
                redis.url()
            )
        };
        through_every_door(whose, store).await;
    }
}

#[tokio::test]
async fn a_turn_that_waits_for_its_provider_holds_no_permit_and_no_tokens() {
    let provider = Provider::start().await;
    // Room for one call at a time, and for its tokens.
    let limits = "concurrent_calls = 1\ntokens_per_minute = 1900";
    // The same server with another key, since the refused one is cooling down.
    let other = format!(
        r#"
        [[providers]]
        name = "other"
        kind = "openai"
        base_url = "{}"
        api_key = {{ value = "sk-two" }}
        [[routes]]
        name = "other"
        targets = [{{ provider = "other", model = "paid-1", context_tokens = 128000 }}]
        "#,
        provider.url()
    );
    with_providers(
        &config(&provider, LimitedSubject::Tenant, limits, &other),
        async |app| {
            let prompt = format!("Go on. [[sim tokens={ANSWER} status=429 retry_after=300]]");
            let turn = submit(app, ADA, &prompt).await.unwrap();
            let by = |turn| {
                app.call("GET", turn)
                    .by(KEYS[ADA.key])
                    .header("x-copilotd-user", ADA.user)
            };
            loop {
                let commits = app.log.commits();
                let view = by(&turn).send().await.expect(200).json();
                match view["waiting"]["reason"].as_str() {
                    Some("provider_rate_limit") => break,
                    Some(other) => panic!("it waits for {other}"),
                    None => app.log.wait_for_commits(commits + 1).await,
                }
            }
            app.app.state.gateway.settled().await;
            let prompt = format!("Go on. [[sim tokens={ANSWER} pace_ms=0 chunk=2000]]");
            let body = json!({ "model": "other", "messages": [{ "role": "user", "content": prompt }] });
            let bob = Who { user: "bob", key: 1 };
            call(app, bob, "/v1/chat/completions", &body).send().await.expect(200);
            let view = by(&turn).send().await.expect(200).json();
            assert_eq!(view["waiting"]["reason"], "provider_rate_limit");
            cancel(app, ADA, &turn).await;
        },
    )
    .await;
}

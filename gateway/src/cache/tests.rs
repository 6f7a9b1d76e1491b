//! The cache as the gateway uses it.
#![expect(clippy::disallowed_methods, reason = "tests open scopes")]

use async_trait::async_trait;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::tenancy::TenantScope;
use futures::{StreamExt, stream};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::answer::AnswerStream;
use crate::error::{GatewayError, GatewayErrorKind};
use crate::request::body::ChatBody;
use crate::request::call::{CacheControl, Caller, Purpose};
use crate::request::role::Role;
use copilotd_actors::ports::{EmbedError, EmbedRequest};

/// Embeds texts on a circle: the number after `@` is the angle in degrees.
#[derive(Debug)]
struct Circle;

#[async_trait]
impl Embedder for Circle {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        let one = |text: String| {
            let letters = text.bytes().filter(|byte| *byte == b'~').count();
            let angle = (letters as f32).to_radians();
            Vector::unit(&"circle".into(), vec![angle.cos(), angle.sin()]).unwrap()
        };
        Ok(request.texts.into_iter().map(one).collect())
    }
}

fn cache(chance: f64) -> Arc<Cache> {
    Cache::new(move || chance)
}

fn circle() -> Option<Arc<dyn Embedder>> {
    Some(Arc::new(Circle))
}

fn settings() -> Settings {
    Settings {
        rules: Rules {
            audience: Audience::Tenant,
            max_temperature: 1.0,
        },
        life: Duration::from_secs(60),
        max_entries: 100,
        max_error: 0.02,
        cut: 0.99,
        margin: 0.0,
        audit_share: 0.0,
    }
}

fn caller(tenant: &str, user: &str) -> Caller {
    Caller {
        copilot: None,
        scope: TenantScope::from_verified(tenant.parse().unwrap()),
        user: user.parse().unwrap(),
        role: None,
        api_key: None,
        conversation: None,
        turn: None,
        purpose: Purpose::Endpoint,
    }
}

fn body(text: &str) -> Value {
    json!({ "model": "default", "messages": [{ "role": "user", "content": text }] })
}

fn knowledge(tenant: &str) -> Knowledge<'_> {
    Knowledge { tenant, caller: "" }
}

fn read(caller: &Caller, body: &Value, rules: &Rules) -> Result<Question, Skip> {
    let body = ChatBody::from_value(body).unwrap();
    question(caller, "default", &body, knowledge("k1"), CacheControl::Use, rules)
}

fn ask(text: &str) -> Question {
    read(&caller("acme", "ada"), &body(text), &settings().rules).unwrap()
}

fn kept(text: &str) -> CachedAnswer {
    CachedAnswer {
        model: "m".to_owned(),
        by: None,
        text: text.to_owned(),
        usage: Usage::default(),
    }
}

async fn look(cache: &Arc<Cache>, text: &str) -> Lookup {
    cache.look_up(ask(text), &settings(), circle(), None).await
}

async fn teach(cache: &Arc<Cache>, text: &str, answer: &str) {
    match look(cache, text).await {
        Lookup::Lead(pending_fill) => drop(pending_fill.fill(kept(answer))),
        Lookup::Hit(hit) => panic!("{text} is known: {hit:?}"),
    }
}

/// The answer, if there was a hit.
fn said(found: Lookup) -> Option<String> {
    match found {
        Lookup::Hit(hit) => Some(hit.kept.text),
        Lookup::Lead(_) => None,
    }
}

#[test]
fn only_plain_questions_for_all_are_kept() {
    let rules = Rules {
        audience: Audience::Tenant,
        max_temperature: 0.5,
    };
    let with = |name: &str, value: Value| {
        let mut body = body("What is the policy?");
        body["temperature"] = json!(0);
        body[name] = value;
        body
    };
    let user = json!({ "role": "user", "content": "What is it?" });
    let said = json!({ "role": "assistant", "content": "It." });
    for (name, value, expected) in [
        ("top_p", json!(0.5), None),
        ("temperature", json!(0.7), Some(Skip::Temperature)),
        ("temperature", Value::Null, Some(Skip::Temperature)),
        ("n", json!(2), Some(Skip::Form)),
        ("logprobs", json!(true), Some(Skip::Form)),
        ("tools", json!([{ "type": "function" }]), Some(Skip::Tools)),
        ("messages", json!([user, said, user]), Some(Skip::Conversation)),
        ("messages", json!([user, said]), Some(Skip::Conversation)),
        ("messages", json!([]), Some(Skip::Conversation)),
        (
            "messages",
            json!([{ "role": "user", "content": [{ "type": "image_url" }] }]),
            Some(Skip::Conversation),
        ),
        (
            "messages",
            json!([{ "role": "user", "content": [{ "type": "text", "text": "What?" }] }]),
            None,
        ),
        (
            "messages",
            json!([{ "role": "system", "content": "Be brief." }, user]),
            None,
        ),
        (
            "messages",
            json!([{ "role": "user", "content": "Mail bob@example.com" }]),
            Some(Skip::Personal),
        ),
        (
            "messages",
            json!([{ "role": "user", "content": "x".repeat(5_000) }]),
            Some(Skip::Long),
        ),
    ] {
        let read = read(&caller("acme", "ada"), &with(name, value.clone()), &rules);
        assert_eq!(read.err(), expected, "{name} {value}");
    }
    let body = ChatBody::from_value(&body("What?")).unwrap();
    let bypassed = question(
        &caller("acme", "ada"),
        "default",
        &body,
        Knowledge::default(),
        CacheControl::Bypass,
        &settings().rules,
    );
    assert_eq!(bypassed.err(), Some(Skip::Requested));
}

#[test]
fn whatever_changes_the_answer_partitions_and_how_it_is_sent_does_not() {
    let base = json!({
        "model": "default",
        "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "What?" }],
        "response_format": { "type": "json_object" },
    });
    let of = |body: &Value| read(&caller("acme", "ada"), body, &settings().rules).unwrap().partition;
    for (name, value, same) in [
        ("stream", json!(true), true),
        ("stream_options", json!({ "include_usage": true }), true),
        ("user", json!("someone"), true),
        ("response_format", json!({ "type": "text" }), false),
        ("max_tokens", json!(5), false),
        ("temperature", json!(0.1), false),
        ("a_field_of_next_year", json!(1), false),
        (
            "messages",
            json!([{ "role": "system", "content": "Be long." }, { "role": "user", "content": "What?" }]),
            false,
        ),
        ("messages", json!([{ "role": "user", "content": "What?" }]), false),
    ] {
        let mut other = base.clone();
        other[name] = value.clone();
        assert_eq!(of(&base) == of(&other), same, "{name} {value}");
    }
    let body = ChatBody::from_value(&base).unwrap();
    let with = |route, (tenant, caller_s)| {
        let knowledge = Knowledge {
            tenant,
            caller: caller_s,
        };
        let read = question(
            &caller("acme", "ada"),
            route,
            &body,
            knowledge,
            CacheControl::Use,
            &settings().rules,
        );
        read.unwrap().partition
    };
    let parts = [
        with("default", ("k1", "")),
        with("small", ("k1", "")),
        with("default", ("k2", "")),
        with("default", ("k1", "k2")),
        with("default", ("", "k1")),
    ];
    for (n, one) in parts.iter().enumerate() {
        assert!(!parts[..n].contains(one), "{n}");
    }
}

#[test]
fn an_audience_shares_and_no_other() {
    let by = |user: &str, role: Option<&str>| Caller {
        role: role.map(Role::of_key),
        ..caller("acme", user)
    };
    let (ada, bob) = (by("ada", Some("hr")), by("bob", Some("hr")));
    let (eve, none, nobody) = (by("eve", Some("sales")), by("ada", None), by("bob", None));
    for (audience, one, other, shares) in [
        (Audience::User, &ada, &ada, true),
        (Audience::User, &ada, &bob, false),
        (Audience::User, &ada, &none, true),
        (Audience::Role, &ada, &bob, true),
        (Audience::Role, &ada, &eve, false),
        (Audience::Role, &ada, &none, false),
        (Audience::Role, &none, &nobody, false),
        (Audience::Role, &none, &none, true),
        (Audience::Tenant, &ada, &eve, true),
        (Audience::Tenant, &ada, &nobody, true),
    ] {
        let rules = Rules {
            audience,
            ..settings().rules
        };
        let of = |caller: &Caller| read(caller, &body("What?"), &rules).unwrap().partition;
        assert_eq!(of(one) == of(other), shares, "{audience:?} {one:?} {other:?}");
    }
    // A user name never equals a role.
    let rules = |audience| Rules {
        audience,
        ..settings().rules
    };
    let user = read(&by("hr", None), &body("What?"), &rules(Audience::User)).unwrap();
    let role = read(&ada, &body("What?"), &rules(Audience::Role)).unwrap();
    assert_ne!(user.partition, role.partition);
}

#[tokio::test]
async fn the_gates_stand_in_series() {
    let cache = cache(0.5);
    teach(&cache, "Which rates hold in 2023", "two").await;
    for (text, bar, expected) in [
        ("Which rates hold in 2023", None, Some("two")),
        ("Which rates hold in 2023 ~~", None, Some("two")),
        ("Which rates hold in 2023 ~~", Some(0.5), Some("two")),
        ("Which rates hold in 2023 ~~", Some(0.99999), None),
        ("Which rates hold in 2024", None, None),
        ("Which rates hold in 2023 ~~~~~~~~~~~~~~~~", None, None),
    ] {
        let found = cache.look_up(ask(text), &settings(), circle(), bar).await;
        assert_eq!(said(found).as_deref(), expected, "{text} {bar:?}");
    }
    assert_eq!(
        said(
            cache
                .look_up(ask("Which rates hold in 2023 ~"), &settings(), None, None)
                .await
        ),
        None
    );
}

#[tokio::test]
async fn of_two_equally_near_answers_none_is_served() {
    let cache = cache(0.5);
    let close = Settings {
        margin: 0.01,
        ..settings()
    };
    teach(&cache, "What is it ~", "one").await;
    let Lookup::Lead(pending_fill) = cache
        .look_up(ask("What is it"), &Settings { cut: 1.1, ..settings() }, circle(), None)
        .await
    else {
        panic!("an entry served below its cut");
    };
    drop(pending_fill.fill(kept("another")));
    assert_eq!(
        said(cache.look_up(ask("What is it ~~"), &close, circle(), None).await),
        None
    );
    assert_eq!(
        said(cache.look_up(ask("What is it ~~"), &settings(), circle(), None).await).as_deref(),
        Some("one")
    );
}

#[tokio::test]
async fn audits_teach_an_entry_when_to_serve() {
    let cache = cache(0.5);
    let low = Settings { cut: 0.9, ..settings() };
    teach(&cache, "What is it", "yes").await;
    // A miss near an entry decides an audit by itself: the model was called anyway.
    let strict = Settings { cut: 1.1, ..settings() };
    let Lookup::Lead(pending_fill) = cache.look_up(ask("What is it ~~~"), &strict, circle(), None).await else {
        panic!("served")
    };
    let (audit, fresh) = pending_fill.fill(kept("That is not so")).expect("an entry was near");
    assert_eq!(audit.settle(Some(fresh)).await, Some(false));
    // It was wrong there: it is served only at a higher similarity.
    let probe = |text: &'static str| {
        let (cache, low) = (Arc::clone(&cache), low.clone());
        async move { said(cache.look_up(ask(text), &low, circle(), Some(0.0)).await) }
    };
    assert_eq!(probe("What is it ~").await.as_deref(), Some("yes"));
    let every = Settings {
        audit_share: 1.0,
        ..low.clone()
    };
    let Lookup::Hit(hit) = cache.look_up(ask("What is it ~"), &every, circle(), None).await else {
        panic!("not served")
    };
    assert_eq!(
        hit.audit.expect("all are audited").settle(Some(kept("YES."))).await,
        Some(true)
    );
    let Lookup::Hit(hit) = cache.look_up(ask("What is it ~"), &every, circle(), None).await else {
        panic!("not served")
    };
    assert_eq!(
        hit.audit.expect("all are audited").settle(None).await,
        None,
        "no answer teaches nothing"
    );
}

#[tokio::test]
async fn open_audits_are_bounded() {
    let cache = cache(0.5);
    let every = Settings {
        audit_share: 1.0,
        ..settings()
    };
    teach(&cache, "What is it", "yes").await;
    let mut open = Vec::new();
    for _ in 0..AUDITS + 5 {
        let Lookup::Hit(hit) = cache.look_up(ask("What is it ~"), &every, circle(), None).await else {
            panic!("not served")
        };
        open.extend(hit.audit);
    }
    assert_eq!(open.len(), AUDITS);
}

#[tokio::test(start_paused = true)]
async fn identical_questions_wait_for_the_first_and_a_failed_one_lets_the_next_lead() {
    let cache = cache(0.5);
    let Lookup::Lead(first) = look(&cache, "What is it").await else {
        panic!()
    };
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                match look(&cache, "What is it").await {
                    Lookup::Hit(_) => false,
                    Lookup::Lead(pending_fill) => {
                        tokio::task::yield_now().await;
                        drop(pending_fill.fill(kept("this")));
                        true
                    }
                }
            })
        })
        .collect();
    // Another question does not wait.
    assert!(matches!(look(&cache, "What else").await, Lookup::Lead(_)));
    tokio::task::yield_now().await;
    drop(first);
    let mut led = 0;
    for asked in waiting {
        led += usize::from(asked.await.unwrap());
    }
    assert_eq!(led, 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever() {
    let cache = cache(0.5);
    let _silent = look(&cache, "What is it").await;
    let before = Instant::now();
    assert!(matches!(look(&cache, "What is it").await, Lookup::Lead(_)));
    assert!(before.elapsed() <= PATIENCE + Duration::from_secs(1));
}

/// An upstream that sends a word every `pace`.
fn words(count: usize, pace: Duration) -> AnswerStream {
    let whole = kept(&"word ".repeat(count)).pieces("id", 1, true);
    let pieces = stream::iter(whole.into_iter().map(Ok));
    pieces
        .then(move |piece| async move {
            if !pace.is_zero() {
                tokio::time::sleep(pace).await;
            }
            piece
        })
        .boxed()
}

async fn lead(cache: &Arc<Cache>, text: &str) -> Box<PendingFill> {
    match look(cache, text).await {
        Lookup::Lead(pending_fill) => pending_fill,
        Lookup::Hit(hit) => panic!("{text} is known: {hit:?}"),
    }
}

/// How long a lookup takes, and what it finds.
async fn waited(cache: &Arc<Cache>) -> (Duration, Option<String>) {
    let before = Instant::now();
    let found = look(cache, "What is it").await;
    (before.elapsed(), said(found))
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_another_callers_reader() {
    let soon = flight::SLOW + Duration::from_millis(100);
    let answer = || words(5_000, Duration::ZERO);
    // A reader that stops, before the first piece and after it.
    for read in [0, 1] {
        let cache = cache(0.5);
        let mut stream = lead(&cache, "What is it").await.record(answer());
        for _ in 0..read {
            stream.next().await.unwrap().unwrap();
        }
        let (time, found) = waited(&cache).await;
        assert!(time <= soon && found.is_none(), "{time:?} after {read} pieces");
        // The answer can still be stored if the reader comes back.
        while stream.next().await.is_some() {}
        assert!(waited(&cache).await.1.is_some());
    }
    // A reader that reads a little, again and again, while the answer has long been there.
    let slow = cache(0.5);
    let mut stream = lead(&slow, "What is it").await.record(words(10_000, Duration::ZERO));
    let reader = tokio::spawn(async move {
        while stream.next().await.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let (time, found) = waited(&slow).await;
    assert!(time <= soon && found.is_none(), "{time:?}");
    reader.abort();
}

#[tokio::test(start_paused = true)]
async fn a_slow_model_is_waited_for() {
    let cache = cache(0.5);
    let mut stream = lead(&cache, "What is it")
        .await
        .record(words(200, Duration::from_millis(500)));
    let reader = tokio::spawn(async move { while stream.next().await.is_some() {} });
    let (time, found) = waited(&cache).await;
    assert!(found.is_some() && time > flight::SLOW, "{time:?}");
    reader.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slow_readers_and_leaders_that_leave_do_not_line_up() {
    let cache = cache(0.5);
    // Many that read nothing: each would delay the next one.
    let mut held = Vec::new();
    let victim = {
        let stream = lead(&cache, "What is it").await.record(words(100, Duration::ZERO));
        let victim = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { waited(&cache).await }
        });
        held.push(stream);
        for _ in 0..20 {
            tokio::task::yield_now().await;
            if let Lookup::Lead(pending_fill) = look(&cache, "What is it").await {
                held.push(pending_fill.record(words(100, Duration::ZERO)));
            }
        }
        victim
    };
    let (time, found) = victim.await.unwrap();
    assert!(
        time <= flight::SLOW + Duration::from_millis(100) && found.is_none(),
        "{time:?}"
    );
    drop(held);
    // Many that lead for ten seconds and leave.
    let leave = {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move {
            loop {
                let found = look(&cache, "What is it").await;
                tokio::time::sleep(Duration::from_secs(10)).await;
                drop(found);
            }
        })
    };
    tokio::task::yield_now().await;
    let (time, _) = waited(&cache).await;
    assert!(time <= Duration::from_secs(21), "{time:?}");
    leave.abort();
}

#[tokio::test(start_paused = true)]
async fn answers_expire_are_evicted_and_deleted() {
    let cache = cache(0.5);
    let scope = TenantScope::from_verified("acme".parse().unwrap());
    let few = Settings {
        max_entries: 2,
        ..settings()
    };
    let teach = async |text: &str| match cache.look_up(ask(text), &few, None, None).await {
        Lookup::Lead(pending_fill) => _ = pending_fill.fill(kept("a")),
        Lookup::Hit(_) => {}
    };
    teach("One").await;
    teach("Two").await;
    teach("One").await;
    teach("Three").await;
    assert_eq!(cache.len(&scope), 2);
    assert!(said(look(&cache, "One").await).is_some(), "what was used last stays");
    tokio::time::advance(few.life).await;
    assert_eq!(said(look(&cache, "One").await), None);
    teach("Four").await;
    // A question asked before everything was deleted is not stored afterwards.
    let Lookup::Lead(late) = look(&cache, "Five").await else {
        panic!()
    };
    assert_eq!(cache.forget(&scope, Some("another")), 0);
    assert!(cache.forget(&scope, Some("default")) >= 1);
    drop(late.fill(kept("late")));
    assert_eq!(cache.len(&scope), 0);
}

#[tokio::test]
async fn a_completed_stream_is_stored() {
    let cache = cache(0.5);
    let cut = || Err(GatewayError::new(GatewayErrorKind::Cut, "cut"));
    let whole = kept("said in full").pieces("id", 1, true);
    let ends = whole.len();
    for (text, items, expected) in [
        (
            "Whole",
            whole.iter().cloned().map(Ok).collect::<Vec<_>>(),
            Some("said in full"),
        ),
        (
            "Left ~~~~~~~~~~~~~~~~~~~~",
            whole[..ends - 1].iter().cloned().map(Ok).collect(),
            None,
        ),
        (
            "Cut ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
            whole[..ends - 1].iter().cloned().map(Ok).chain([cut()]).collect(),
            None,
        ),
    ] {
        let Lookup::Lead(pending_fill) = look(&cache, text).await else {
            panic!("{text} is known")
        };
        let count = items.len();
        let passed: Vec<_> = pending_fill.record(stream::iter(items).boxed()).collect().await;
        assert_eq!(passed.len(), count, "{text}: nothing is held back");
        assert_eq!(said(look(&cache, text).await).as_deref(), expected, "{text}");
    }
}

proptest! {
    /// Whatever two tenants ask, and with audience `user` whatever two users ask: nobody gets an answer given to
    /// another.
    #[test]
    fn two_tenants_and_two_users_never_share(
        asked in prop::collection::vec((0..3_usize, 0..3_usize, 0..4_usize, any::<bool>()), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let cache = cache(0.9);
            for (tenant, user, text, alone) in asked {
                // Names that would collide if they were simply joined.
                let (tenant, user) = (["a", "ab", "abc"][tenant], ["c", "bc", "x"][user]);
                let audience = if alone { Audience::User } else { Audience::Tenant };
                let settings = Settings { cut: 0.0, rules: Rules { audience, max_temperature: 1.0 }, ..settings() };
                let asked = body(["What is it", "What is it ~", "What is it ~~", "What was it"][text]);
                let question = read(&caller(tenant, user), &asked, &settings.rules).unwrap();
                let owner = if alone { format!("{tenant}/{user}") } else { format!("{tenant}/*") };
                match cache.look_up(question, &settings, circle(), None).await {
                    Lookup::Hit(hit) => prop_assert_eq!(hit.kept.text, owner),
                    Lookup::Lead(pending_fill) => drop(pending_fill.fill(kept(&owner))),
                }
            }
            Ok(())
        })?;
    }
}

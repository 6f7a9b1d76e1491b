//! Validation against callers' schemas in child processes of the real program: it always ends, and does not affect this
//! process.

mod hostile;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::schema_check::{SchemaPool, Settings};
use copilotd_actors::ports::{SchemaChecker as _, SchemaError, SchemaVerdict};
use copilotd_actors::tenancy::TenantScope;
use serde_json::{Value, json};

/// Longer than a normal validation ever takes, even on a busy machine.
const AMPLE: Duration = Duration::from_secs(60);
/// Longest time for anything here; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(150);

fn pool(workers: usize, deadline: Duration) -> Arc<SchemaPool> {
    let settings = Settings {
        workers,
        deadline,
        ..Settings::default()
    };
    Arc::new(SchemaPool::new(PathBuf::from(env!("CARGO_BIN_EXE_copilotd")), settings))
}

fn tenant(name: &str) -> TenantScope {
    TenantScope::from_verified(name.parse().unwrap())
}

/// A small schema against which validating [`deep`] takes 2^50 steps.
fn doubling() -> Arc<Value> {
    Arc::new(json!({ "$ref": "#/$defs/n", "$defs": { "n": { "anyOf": [
        { "type": "array", "items": { "$ref": "#/$defs/n" }, "minItems": 0 },
        { "type": "array", "items": { "$ref": "#/$defs/n" }, "maxItems": 99 } ] } } }))
}

fn deep() -> String {
    format!("{}\"x\"{}", "[".repeat(50), "]".repeat(50))
}

async fn check(pool: &SchemaPool, schema: &Value, answer: &str) -> Result<SchemaVerdict, SchemaError> {
    let schema = Arc::new(schema.clone());
    let scope = tenant("acme");
    let checked = pool.check(&scope, &schema, answer);
    tokio::time::timeout(PATIENCE, checked).await.expect("every check ends")
}

/// Returns the pool's live processes, according to the system.
fn workers() -> usize {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_worker = |entry: &std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        // After the name in parentheses: the state, then the parent.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        parent == Some(own.as_str()) && command.contains("schema-worker")
    };
    processes.filter(is_worker).count()
}

#[tokio::test]
async fn honest_schemas_are_compiled_and_answers_checked() {
    let pool = pool(2, AMPLE);
    let scope = tenant("acme");
    let schema = json!({ "type": "object", "required": ["n"], "properties": {
        "n": { "type": "integer" }, "mail": { "type": "string", "pattern": "^[\\w.+-]+@[\\w-]+\\.[a-z]{2,}$" },
        "words": { "type": "array", "items": { "pattern": "^\\p{L}+$" } } }, "additionalProperties": false });
    pool.compile(&scope, &Arc::new(schema.clone())).await.unwrap();
    for _ in 0..3 {
        let answer = r#" {"n": 1, "mail": "ada.l@example.com", "words": ["été"]} "#;
        assert_eq!(check(&pool, &schema, answer).await, Ok(SchemaVerdict::Valid));
    }
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let (deep, deeper) = (nested(70), nested(5_000));
    for (answer, words) in [
        ("{}", "\"n\" is a required property"),
        ("{\"n\": \"x\"}", "/n: \"x\" is not of type \"integer\""),
        ("{\"n\": 1, \"mail\": \"x\"}", "/mail"),
        ("no JSON", "not JSON"),
        ("", "not JSON"),
        (deep.as_str(), "nested deeper than 64 levels"),
        (deeper.as_str(), "not JSON"),
    ] {
        let Ok(SchemaVerdict::Invalid(why)) = check(&pool, &schema, answer).await else {
            panic!("{answer:.50}");
        };
        assert!(why.contains(words), "{answer:.50}: {why}");
    }
    for (schema, pointer) in [
        (json!({ "type": "objekt" }), "/type"),
        (
            json!({ "properties": { "a": { "minLength": "x" } } }),
            "/properties/a/minLength",
        ),
        (json!({ "items": { "pattern": "(" } }), "/items/pattern"),
        (
            json!({ "items": { "pattern": "^\\p{L}{80}<1>$".repeat(20) } }),
            "/items/pattern",
        ),
        (json!({ "pattern": "^((a{1,100}){1,100}){1,100}$" }), "/pattern"),
        (
            json!({ "patternProperties": { "^((\\w{1,100}){1,100}){1,100}$": {} } }),
            "/patternProperties",
        ),
    ] {
        let Err(SchemaError::Unusable(violation)) = pool.compile(&scope, &Arc::new(schema.clone())).await else {
            panic!("{schema}");
        };
        assert!(violation.pointer.starts_with(pointer), "{schema}: {violation:?}");
    }
    assert_eq!(workers(), 1, "one process did all of it");
}

#[tokio::test]
async fn a_check_without_end_is_killed_and_its_worker_replaced() {
    let pool = pool(2, Duration::from_millis(300));
    for _ in 0..3 {
        assert_eq!(check(&pool, &doubling(), &deep()).await, Err(SchemaError::TooExpensive));
    }
    // How late a normal one is does not matter, only that there is a worker.
    loop {
        match check(&pool, &json!({}), "1").await {
            Ok(verdict) => break assert_eq!(verdict, SchemaVerdict::Valid),
            Err(error) => assert_eq!(error, SchemaError::TooExpensive, "on a machine that is very busy"),
        }
    }
}

#[tokio::test]
async fn what_is_not_wanted_any_more_is_ended() {
    let pool = pool(2, AMPLE);
    let (held, scope, schema) = (Arc::clone(&pool), tenant("acme"), doubling());
    let running = tokio::spawn(async move { held.check(&scope, &schema, &deep()).await });
    while workers() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let ended = async {
        while workers() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("the process is killed");
    // Its tenant, whose share is one of two workers, has it back.
    assert_eq!(check(&pool, &json!({}), "1").await, Ok(SchemaVerdict::Valid));
}

#[tokio::test]
async fn one_tenants_expensive_checks_delay_its_own_alone() {
    let pool = pool(2, AMPLE);
    let mut flood = Vec::new();
    for _ in 0..20 {
        let (pool, scope, schema) = (Arc::clone(&pool), tenant("acme"), doubling());
        flood.push(tokio::spawn(async move { pool.check(&scope, &schema, &deep()).await }));
    }
    while workers() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let schema = Arc::new(json!({ "type": "integer" }));
    for _ in 0..20 {
        let verdict = pool.check(&tenant("globex"), &schema, "1").await;
        assert_eq!(verdict, Ok(SchemaVerdict::Valid));
    }
    assert!(
        flood.iter().all(|check| !check.is_finished()),
        "theirs have not even begun to end"
    );
    assert!(workers() <= 2);
    flood.iter().for_each(|check| check.abort());
}

#[tokio::test]
async fn too_many_schemas_that_wait_to_be_compiled_are_refused_at_once() {
    let settings = Settings {
        workers: 2,
        deadline: AMPLE,
        tenant_queue: 3,
        compile_wait: Duration::from_millis(200),
    };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_copilotd"));
    let pool = Arc::new(SchemaPool::new(program, settings));
    let (held, scope, schema) = (Arc::clone(&pool), tenant("acme"), doubling());
    let running = tokio::spawn(async move { held.check(&scope, &schema, &deep()).await });
    while workers() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let schema = Arc::new(json!({}));
    let all = (0..10).map(|_| async { pool.compile(&tenant("acme"), &schema).await });
    let all = futures::future::join_all(all).await;
    assert!(all.iter().all(|outcome| *outcome == Err(SchemaError::Busy)), "{all:?}");
    pool.compile(&tenant("globex"), &schema).await.unwrap();
    running.abort();
}

#[tokio::test]
async fn workers_end_with_the_pool() {
    let pool = pool(2, AMPLE);
    assert_eq!(check(&pool, &json!({}), "1").await, Ok(SchemaVerdict::Valid));
    assert_eq!(workers(), 1);
    drop(pool);
    let ended = async {
        while workers() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("no worker outlives its pool");
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_said_so() {
    let pool = SchemaPool::new(PathBuf::from("/nowhere/copilotd"), Settings::default());
    let outcome = check(&pool, &json!({}), "1").await;
    assert!(matches!(outcome, Err(SchemaError::Unavailable(_))), "{outcome:?}");
}

//! Deleting a tenant: nothing of it is left, whatever happens meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::fakes::model::{Act, says};
use copilotd_actors::ports::{Clock as _, Job, LogError, Snapshot, TenantData, TenantEraser, Work};
use copilotd_gateway::ledger::{UsageEntries, UsageRecord};
use serde_json::{Value, json};

use super::world::{Place, World, life, on_both, places};
use crate::http::app::config;
use crate::support::talk::{Talk, scope};
use crate::support::usage::record;

const TENANT: &str = "/v1/operator/tenants/initech";

/// Texts of initech that must not exist anywhere afterwards; each is written by a different part of the product.
const SECRETS: [&str; 8] = [
    "secret-prompt",
    "secret-answer",
    "secret-user",
    "secret-key",
    "secret-reason",
    "secret-model",
    "secret-state",
    "secret-copilot",
];

/// Fills every store with something of initech, and a little of globex, which has to stay.
async fn fill(world: &World) {
    let copilots = json!([{ "name": "secret-copilot", "route": "default" }]);
    world.make("initech", json!({ "copilots": copilots })).await;
    world
        .model
        .on("secret-prompt", &[says(&["secret-answer"], Duration::ZERO)]);
    for _ in 0..3 {
        world.talk("initech", "secret-user", "secret-prompt").await;
    }
    world.talk("globex", "bob", "what stays").await;
    let admin = world.token("initech", "secret-user", Scopes::ADMIN | Scopes::CHAT);
    let key = json!({ "name": "secret-key", "scopes": ["chat"] });
    let key = world
        .ask("POST", "/v1/admin/api-keys", &admin, Some(&key))
        .await
        .is(201);
    let key = key.json()["key"].as_str().unwrap().to_owned();
    world.ask("GET", "/v1/conversations", &key, None).await.is(200);
    let revoked = json!({ "user": "secret-user-2", "reason": "secret-reason" });
    world
        .ask("POST", "/v1/admin/revocations", &admin, Some(&revoked))
        .await
        .is(201);
    let stores = &world.stores;
    let usage = |tenant: &str, user: &str, model: &str| UsageRecord {
        tenant: tenant.parse().unwrap(),
        ..record("2026-01-01T00:00:00Z", user, model, 5)
    };
    let entries = UsageEntries {
        begun: vec![usage("initech", "secret-user", "secret-model")],
        ended: vec![
            usage("initech", "secret-user", "secret-model"),
            usage("globex", "bob", "what-stays"),
        ],
        closed: Vec::new(),
    };
    stores.usage.add_usage(&Arc::new(entries)).await.unwrap();
    let mut talk = Talk::new("initech", "secret-user");
    talk.open(stores.log.as_ref()).await;
    let snapshot = Snapshot {
        seq: 1,
        version: 1,
        state: b"secret-state".to_vec(),
    };
    stores.log.save_snapshot(&talk.scope, talk.id, &snapshot).await.unwrap();
    let (path, reason) = ("/v1/admin/exports", [("x-copilotd-reason", "secret-reason")]);
    let all = json!({});
    let export = world.ask_with("POST", path, &admin, Some(&all), &reason);
    let export = export.await.is(202).json();
    world.ended(export["id"].as_str().unwrap(), &admin).await;
}

/// Checks that nothing of initech is left but the operator's audit entry and job, and that globex is intact.
async fn verify(world: &World, place: &Place, job: &Value) {
    assert_eq!(job["status"], "completed", "{job:#}");
    assert_eq!(job["error"], Value::Null);
    assert_eq!(job["progress"]["done"], job["progress"]["total"]);
    let receipt = job["receipt"].as_array().unwrap();
    let stores: Vec<&str> = receipt.iter().map(|line| line["store"].as_str().unwrap()).collect();
    let expected = [
        "records",
        "snapshots",
        "projections",
        "usage",
        "revocations",
        "api_keys",
        "jobs",
        "facts",
        "files",
        "audit",
        "knowledge",
        "turn_vectors",
        "cache",
        "limits",
        "definition",
    ];
    assert_eq!(stores, expected);
    assert_eq!(place.found(&SECRETS).await, Vec::<String>::new());
    let operator = world.operator();
    world
        .ask("GET", TENANT, &operator, None)
        .await
        .problem(404, "not_found");
    world
        .ask("DELETE", TENANT, &operator, None)
        .await
        .problem(404, "not_found");
    let auditor = world.token("acme", "root", Scopes::ADMIN);
    let entries = world.ask("GET", "/v1/admin/audit", &auditor, None).await.is(200).json();
    let entries = entries["data"].as_array().unwrap();
    let deleted: Vec<_> = entries
        .iter()
        .filter(|entry| entry["action"] == "tenant.deleted")
        .collect();
    assert_eq!(deleted.len(), 1, "{entries:#?}");
    assert_eq!(
        (&deleted[0]["actor"], &deleted[0]["target"]),
        (&json!("root"), &json!("initech"))
    );
    let bob = world.token("globex", "bob", Scopes::CHAT);
    let kept = world.ask("GET", "/v1/conversations", &bob, None).await.is(200).json();
    assert_eq!(kept["data"][0]["title"], "what stays");
}

/// Creates the tenant again: it starts empty.
async fn made_again_it_is_empty(world: &World) {
    world.make("initech", json!({})).await;
    let admin = world.token("initech", "secret-user", Scopes::ADMIN | Scopes::CHAT);
    for (path, empty) in [
        ("/v1/conversations", "/data"),
        ("/v1/admin/api-keys", "/data"),
        ("/v1/admin/revocations", "/data"),
        ("/v1/admin/usage?from=2020-01-01", "/data"),
    ] {
        let answer = world.ask("GET", path, &admin, None).await.is(200).json();
        assert_eq!(answer.pointer(empty), Some(&json!([])), "{path}");
    }
    // Its audit log starts with its creation and verifies.
    let audit = world.ask("GET", "/v1/admin/audit", &admin, None).await.is(200).json();
    let actions: Vec<_> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["action"])
        .collect();
    assert_eq!(actions, ["tenant.created"]);
    let verified = world
        .ask("GET", "/v1/admin/audit/verify", &admin, None)
        .await
        .is(200)
        .json();
    assert_eq!(verified["ok"], true, "{verified}");
    let of_globex = world.token("globex", "root", Scopes::ADMIN);
    let verified = world
        .ask("GET", "/v1/admin/audit/verify", &of_globex, None)
        .await
        .is(200)
        .json();
    assert_eq!(verified["ok"], true, "{verified}");
    world.talk("initech", "secret-user", "a new life").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_and_the_id_can_be_used_again() {
    on_both(async |place| {
        let world = World::start(place).await;
        fill(&world).await;
        let ada = world.token("initech", "secret-user", Scopes::CHAT);
        let operator = world.operator();
        let started = world.ask("DELETE", TENANT, &operator, None).await.is(202);
        let job = started.json();
        let location = started.headers["location"].to_str().unwrap();
        assert_eq!(location, format!("/v1/jobs/{}", job["id"].as_str().unwrap()));
        assert_eq!(
            (&job["kind"], &job["tenant"]),
            (&json!("tenant_deletion"), &json!("initech"))
        );
        // Refused at once.
        let refused = world.ask("GET", "/v1/conversations", &ada, None).await;
        assert!([401, 403].contains(&refused.status), "{refused:?}");
        let job = world.ended(job["id"].as_str().unwrap(), &operator).await;
        verify(&world, place, &job).await;
        // Only operators of the tenant that started the job can see it.
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        for (tenant, scopes) in [
            ("acme", Scopes::ADMIN | Scopes::CHAT),
            ("globex", Scopes::ALL.without(Scopes::OPERATOR)),
        ] {
            let token = world.token(tenant, "root", scopes);
            world.ask("GET", &path, &token, None).await.problem(404, "not_found");
        }
        world
            .ask("GET", &format!("{path}/result"), &operator, None)
            .await
            .problem(404, "not_found");
        made_again_it_is_empty(&world).await;
        world.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_turns_are_stopped_and_their_streams_end() {
    on_both(async |place| {
        let world = World::start(place).await;
        world.make("initech", json!({})).await;
        let stalls = vec![Act::Text("secret-answer so far".to_owned()), Act::Stall];
        world.model.on("secret-prompt", &[stalls]);
        let ada = world.token("initech", "ada", Scopes::CHAT);
        let opened = world
            .ask("POST", "/v1/conversations", &ada, Some(&json!({})))
            .await
            .is(201);
        let path = format!("/v1/conversations/{}", opened.json()["id"].as_str().unwrap());
        for _ in 0..2 {
            let body = json!({ "input": "secret-prompt" });
            world
                .ask("POST", &format!("{path}/turns"), &ada, Some(&body))
                .await
                .is(202);
        }
        // Reads until the stream ends, which it does by itself.
        let (router, stream) = (world.router.clone(), format!("{path}/events?after=0"));
        let bearer = format!("Bearer {ada}");
        let reading = tokio::spawn(async move {
            use tower::ServiceExt as _;
            let request = axum::http::Request::get(stream).header("authorization", bearer);
            let response = router
                .oneshot(request.body(axum::body::Body::empty()).unwrap())
                .await
                .unwrap();
            axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap()
        });
        world.until(async || world.model.seen().open == 1).await;
        let operator = world.operator();
        let job = world.ask("DELETE", TENANT, &operator, None).await.is(202).json();
        let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
        let read = read.expect("the stream ends").unwrap();
        assert!(String::from_utf8_lossy(&read).contains("secret-answer so far"));
        let job = world.ended(job["id"].as_str().unwrap(), &operator).await;
        assert_eq!(job["status"], "completed", "{job:#}");
        world.until(async || world.model.seen().open == 0).await;
        assert_eq!(world.model.seen().calls, 1, "the second turn asked nothing");
        assert_eq!(place.found(&SECRETS).await, Vec::<String>::new());
        world.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_go_on_leave_nothing() {
    on_both(async |place| {
        let world = Arc::new(World::start(place).await);
        world.make("initech", json!({})).await;
        let ada = world.token("initech", "secret-user", Scopes::CHAT);
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        // Through the router, and directly into the store, like a request that has just passed every check.
        let mut writers = Vec::new();
        for n in 0..6 {
            let (world, ada, stop) = (Arc::clone(&world), ada.clone(), Arc::clone(&stop));
            writers.push(tokio::spawn(async move {
                let mut taken = 0;
                while !stop.load(Ordering::Relaxed) {
                    if n < 3 {
                        let body = json!({ "title": "secret-prompt" });
                        let answer = world.ask("POST", "/v1/conversations", &ada, Some(&body)).await;
                        taken += usize::from(answer.status == 201);
                    } else {
                        let mut talk = Talk::new("initech", "secret-user");
                        let created = talk.created();
                        let log = world.stores.log.as_ref();
                        taken += usize::from(talk.try_write(log, vec![created]).await.is_ok());
                        let mut usage = record("2026-01-01T00:00:00Z", "secret-user", "secret-model", 1);
                        usage.tenant = "initech".parse().unwrap();
                        let entries = Arc::new(UsageEntries::from(vec![usage]));
                        world.stores.usage.add_usage(&entries).await.unwrap();
                    }
                    tokio::task::yield_now().await;
                }
                taken
            }));
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        let operator = world.operator();
        // Before it has ended no other writes succeed either, so writers stop once the stores are closed.
        let job = world.ask("DELETE", TENANT, &operator, None).await.is(202).json();
        let id = job["id"].as_str().unwrap().to_owned();
        world
            .until(async || {
                let job = world
                    .ask("GET", &format!("/v1/jobs/{id}"), &operator, None)
                    .await
                    .json();
                job["progress"]["done"].as_u64() >= Some(4) || job["status"] == "completed"
            })
            .await;
        stop.store(true, Ordering::Relaxed);
        let mut taken = 0;
        for writer in writers {
            taken += writer.await.unwrap();
        }
        assert!(taken > 0, "they wrote something before");
        let job = world.ended(&id, &operator).await;
        assert_eq!(job["status"], "completed", "{job:#}");
        let left = place.found(&SECRETS).await;
        Arc::into_inner(world).unwrap().stop().await;
        // A reopened store would accept late writes; here all writers had stopped before the end.
        assert_eq!(left, Vec::<String>::new());
    })
    .await;
}

/// Erases a given number of times, then stops answering.
struct Cut {
    inner: Arc<dyn TenantEraser>,
    left: Arc<AtomicUsize>,
}

impl Cut {
    fn go_on(&self) -> Result<(), LogError> {
        let less = |left: usize| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(_) => Err(LogError::Unavailable("cut".to_owned())),
        }
    }
}

#[async_trait]
impl TenantEraser for Cut {
    async fn close_tenant(&self, tenant: &TenantId) -> Result<(), LogError> {
        self.inner.close_tenant(tenant).await
    }

    fn reopen_tenant(&self, tenant: &TenantId) {
        self.inner.reopen_tenant(tenant);
    }

    async fn erase_tenant(&self, tenant: &TenantId, data: TenantData) -> Result<u64, LogError> {
        self.go_on()?;
        self.inner.erase_tenant(tenant, data).await
    }

    async fn scrub(&self) -> Result<(), LogError> {
        self.go_on()?;
        self.inner.scrub().await
    }

    async fn delete_tenant(&self, tenant: &TenantId, job: JobId) -> Result<bool, LogError> {
        self.go_on()?;
        self.inner.delete_tenant(tenant, job).await
    }
}

#[test]
fn a_deletion_goes_on_in_the_next_life_wherever_it_was_cut() {
    for place in &places() {
        // Before the first step, between stores, in the second pass, before the record is deleted, and after it.
        for (index, steps) in [0, 1, 3, 6, 8, 12, 16, 17, 18].into_iter().enumerate() {
            let id = life(async || cut_life(place, steps, index == 0).await);
            life(async || {
                let world = World::start(place).await;
                let operator = world.operator();
                let job = world.ended(&id, &operator).await;
                assert_eq!(job["status"], "completed", "cut after {steps}: {job:#}");
                assert_eq!(place.found(&SECRETS).await, Vec::<String>::new(), "cut after {steps}");
                world.ask("GET", TENANT, &operator, None).await.is(404);
                // The next process must not erase a tenant that was created after the job ended.
                world.make("initech", json!({})).await;
                world.talk("initech", "secret-user", "a new life").await;
                world.stop().await;
            });
            life(async || {
                let world = World::start(place).await;
                let ada = world.token("initech", "secret-user", Scopes::CHAT);
                let kept = world.ask("GET", "/v1/conversations", &ada, None).await.is(200).json();
                assert_eq!(kept["data"].as_array().map(Vec::len), Some(1));
                let operator = world.operator();
                let job = world.ask("DELETE", TENANT, &operator, None).await.is(202).json();
                world.ended(job["id"].as_str().unwrap(), &operator).await;
                world.stop().await;
            });
        }
    }
}

/// Runs a process whose store erases a number of steps and then stops answering. Returns the job.
async fn cut_life(place: &Place, steps: usize, is_full: bool) -> String {
    let mut stores = place.open().await;
    let left = Arc::new(AtomicUsize::new(steps));
    stores.eraser = Arc::new(Cut {
        inner: Arc::clone(&stores.eraser),
        left: Arc::clone(&left),
    });
    let world = World::with(stores, config(""), Arc::default()).await;
    if is_full {
        fill(&world).await;
    } else {
        world.make("initech", json!({})).await;
        world.talk("initech", "secret-user", "secret-prompt").await;
    }
    let operator = world.operator();
    let job = world.ask("DELETE", TENANT, &operator, None).await.is(202).json();
    let id = job["id"].as_str().unwrap().to_owned();
    // A repeated request gets the same job, and nothing else may be done with the tenant.
    let again = world.ask("DELETE", TENANT, &operator, None).await;
    if again.status == 202 {
        assert_eq!(again.json()["id"], id.as_str());
    }
    world.until(async || left.load(Ordering::Relaxed) == 0).await;
    if steps < 17 {
        for (method, body) in [
            ("PATCH", json!({ "status": "active" })),
            ("PUT", json!({ "settings": {} })),
        ] {
            let answer = world.ask(method, TENANT, &operator, Some(&body)).await;
            answer.problem(409, "conflict");
        }
        let shown = world.ask("GET", TENANT, &operator, None).await.is(200).json();
        assert_eq!((&shown["status"], &shown["deletion"]), (&json!("deleting"), &json!(id)));
    }
    world.stop().await;
    id
}

/// The process died between the two writes that belong together: the job's record and the tenant's mark.
#[test]
fn a_job_without_a_mark_ends_and_a_mark_without_a_job_is_worked_off() {
    for place in &places() {
        let id = life(async || {
            let world = World::start(place).await;
            world.make("initech", json!({})).await;
            world.talk("initech", "secret-user", "secret-prompt").await;
            let work = Work::TenantDeletion {
                tenant: "initech".parse().unwrap(),
            };
            let id = JobId::new(uuid::Uuid::now_v7());
            let job = Job::new(id, scope("acme"), work, world.clock.now());
            world.stores.jobs.put_job(&job).await.unwrap();
            world.stop().await;
            id
        });
        life(async || {
            let world = World::start(place).await;
            let job = world.ended(&id.to_string(), &world.operator()).await;
            assert_eq!(job["status"], "failed", "{job:#}");
            let ada = world.token("initech", "secret-user", Scopes::CHAT);
            let kept = world.ask("GET", "/v1/conversations", &ada, None).await.is(200).json();
            assert_eq!(kept["data"].as_array().map(Vec::len), Some(1), "it is served as before");
            world.stop().await;
        });
        life(async || {
            let world = World::start(place).await;
            let operator = world.operator();
            let job = world.ask("DELETE", TENANT, &operator, None).await.is(202).json();
            world.ended(job["id"].as_str().unwrap(), &operator).await;
            world.stop().await;
        });
        let id = life(async || cut_life(place, 2, false).await);
        life(async || {
            let stores = place.open().await;
            let id = id.parse().unwrap();
            stores.jobs.delete_job(&scope("acme"), id).await.unwrap();
            stores.close().await;
        });
        life(async || {
            let world = World::start(place).await;
            let operator = world.operator();
            world
                .until(async || world.ask("GET", TENANT, &operator, None).await.status == 404)
                .await;
            assert_eq!(world.ended(&id, &operator).await["status"], "completed");
            assert_eq!(place.found(&SECRETS).await, Vec::<String>::new());
            world.stop().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_of_the_file_and_ones_own_are_not_deleted() {
    let place = Place::Sqlite(tempfile::TempDir::new().unwrap());
    let world = World::start(&place).await;
    let operator = world.operator();
    let ask = async |path: &str| {
        world
            .ask("DELETE", &format!("/v1/operator/tenants/{path}"), &operator, None)
            .await
    };
    let problem = ask("globex").await.problem(409, "conflict");
    assert!(
        problem["detail"].as_str().unwrap().contains("configuration file"),
        "{problem}"
    );
    // Also if it has stored settings.
    let body = json!({ "status": "suspended" });
    let path = "/v1/operator/tenants/globex";
    world.ask("PATCH", path, &operator, Some(&body)).await.is(200);
    ask("globex").await.problem(409, "conflict");
    ask("globex?force=true").await.problem(409, "conflict");
    let problem = ask("acme").await.problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains("force"), "{problem}");
    ask("acme?force=true").await.problem(409, "conflict");
    ask("nobody").await.problem(404, "not_found");
    let admin = world.token("acme", "root", Scopes::ADMIN | Scopes::CHAT);
    world
        .ask("DELETE", TENANT, &admin, None)
        .await
        .problem(403, "forbidden");
    for id in ["job_00000000000000000000000000000000", "job_x", "initech"] {
        world
            .ask("GET", &format!("/v1/jobs/{id}"), &operator, None)
            .await
            .problem(404, "not_found");
    }
    assert!(
        world
            .stores
            .log
            .stored(&scope("acme"), &"ada".parse().unwrap())
            .await
            .is_ok()
    );
    world.stop().await;
}

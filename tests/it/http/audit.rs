//! The audit log over HTTP, and that entries are recorded before the response is sent.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use copilotd::http::credentials::Scopes;
use serde_json::{Value, json};

use super::app::{TestApp, with_app};
use crate::support::talk::scope;

const REASON: &str = "x-copilotd-reason";

fn admin(app: &TestApp, tenant: &str) -> String {
    app.token_of(tenant, "root", Scopes::CHAT | Scopes::ADMIN)
}

async fn entries(app: &TestApp, tenant: &str) -> Vec<Value> {
    let answer = app.call("GET", "/v1/admin/audit").by(&admin(app, tenant)).send().await;
    answer.expect(200).json()["data"].as_array().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn another_users_turn_is_read_with_a_reason_that_is_recorded() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "a private matter").await;
        app.turn_is(&turn, "completed").await;
        let admin = admin(app, "acme");
        let read = |reason: Option<&str>| {
            let call = app.call("GET", &turn).by(&admin).header("x-request-id", "r-1");
            match reason {
                Some(reason) => call.header(REASON, reason),
                None => call,
            }
        };
        let long = "x".repeat(501);
        for refused in [None, Some(""), Some("  "), Some(long.as_str())] {
            let problem = read(refused).send().await.problem(422, "invalid");
            assert!(!problem.to_string().contains("private"));
        }
        let twice = read(Some("a")).header(REASON, "b").send().await;
        twice.problem(422, "invalid");
        assert_eq!(entries(app, "acme").await, Vec::<Value>::new());
        let shown = read(Some("ticket 4711: « außer Dienst »"))
            .send()
            .await
            .expect(200)
            .json();
        assert_eq!(shown["input"], "a private matter");
        let found = entries(app, "acme").await;
        assert_eq!(found.len(), 1);
        let entry = &found[0];
        assert_eq!((&entry["n"], &entry["action"]), (&json!(1), &json!("turn.read")));
        assert_eq!(entry["target"], turn.rsplit('/').next().unwrap());
        assert_eq!((&entry["actor"], &entry["request_id"]), (&json!("root"), &json!("r-1")));
        assert_eq!(entry["reason"], "ticket 4711: « außer Dienst »");
        assert!(entry["credential"].as_str().unwrap().starts_with("jwt:"));
        assert!(!entry.to_string().contains("private"));

        // One's own turn needs no reason and leaves no entry; a non-administrator gets nothing, with or without a
        // reason.
        app.get(&turn).await.expect(200);
        let bob = app.token("bob");
        app.call("GET", &turn)
            .by(&bob)
            .header(REASON, "why")
            .send()
            .await
            .problem(404, "not_found");
        let foreign = app.token_of("globex", "root", Scopes::CHAT | Scopes::ADMIN);
        app.call("GET", &turn)
            .by(&foreign)
            .header(REASON, "why")
            .send()
            .await
            .problem(404, "not_found");
        let nowhere = format!("/v1/turns/turn_{}", "0".repeat(32));
        app.call("GET", &nowhere)
            .by(&admin)
            .header(REASON, "why")
            .send()
            .await
            .problem(404, "not_found");
        assert_eq!(entries(app, "acme").await.len(), 1);
        assert_eq!(entries(app, "globex").await.len(), 0, "of its own tenant alone");

        // The scope admin is enough; no other scope is.
        for (scopes, status) in [(Scopes::ADMIN, 200), (Scopes::GATEWAY, 403), (Scopes::OPERATOR, 403)] {
            let token = app.token_of("acme", "root", scopes);
            let answer = app.call("GET", &turn).by(&token).header(REASON, "why").send().await;
            answer.expect(status);
        }
        assert_eq!(entries(app, "acme").await.len(), 2);

        // Acting for the turn's user does not make the turn one's own without the scope chat.
        let created = app
            .call("POST", "/v1/admin/api-keys")
            .by(&admin)
            .json(&json!({ "name": "auditor", "scopes": ["admin"] }));
        let key = created.send().await.expect(201).text("/key");
        let acting = || app.call("GET", &turn).by(&key).header("x-copilotd-user", "ada");
        let problem = acting().send().await.problem(422, "invalid");
        assert!(!problem.to_string().contains("private"));
        acting().header(REASON, "why").send().await.expect(200);
        let found = entries(app, "acme").await;
        assert_eq!(found[0]["action"], "turn.read");
        assert_eq!(found.len(), 4);

        // What cannot be recorded is not shown.
        app.audit.away.store(true, Ordering::Relaxed);
        let problem = read(Some("why")).send().await.problem(503, "unavailable");
        assert!(!problem.to_string().contains("private"));
        app.audit.away.store(false, Ordering::Relaxed);
        read(Some("why")).send().await.expect(200);
        assert_eq!(entries(app, "acme").await[0]["n"], 5);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_administrators_decision_is_recorded_and_shows_content_only_for_a_reason() {
    use copilotd_actors::fakes::model::{calls, says};
    with_app(async |app| {
        let arguments = json!({ "subject": "private words", "body": "private words" });
        let answer = [
            calls(&[("zendesk_create_ticket", arguments)]),
            says(&["private words"], std::time::Duration::ZERO),
        ];
        app.model.on("please", &answer);
        app.system("zendesk");
        let admin = admin(app, "acme");
        for reason in [None, Some("called by ada")] {
            let conversation = app.conversation().await;
            let turn = app.submit(&conversation, "please, private words").await;
            let view = app.turn_is(&turn, "awaiting_approval").await;
            let call = view["tool_calls"][0]["id"].as_str().unwrap();
            let decide = app.call("POST", &format!("{turn}/approvals/{call}")).by(&admin);
            let decide = decide.json(&json!({ "decision": "reject" }));
            let decide = match reason {
                Some(reason) => decide.header(REASON, reason),
                None => decide,
            };
            let decided = decide.send().await.expect(202).json();
            assert_eq!(decided["tool_calls"][0]["status"], "rejected");
            assert_eq!(decided.to_string().contains("private"), reason.is_some(), "{decided:#}");
            let found = entries(app, "acme").await;
            let actions: Vec<&str> = found.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
            match reason {
                None => assert_eq!(actions, ["approval.decided"]),
                Some(reason) => {
                    assert_eq!(actions, ["turn.read", "approval.decided", "approval.decided"]);
                    assert_eq!(found[0]["reason"], reason);
                }
            }
            let turn_id = turn.rsplit('/').next().unwrap();
            assert_eq!(
                found
                    .iter()
                    .find(|entry| entry["action"] == "approval.decided")
                    .unwrap()["target"],
                format!("{turn_id}/{call}")
            );
            app.turn_is(&turn, "completed").await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn erasing_leaves_an_entry_and_lists_page() {
    with_app(async |app| {
        let mut erased = Vec::new();
        for _ in 0..5 {
            let conversation = app.conversation().await;
            app.ada("DELETE", &conversation).send().await.expect(204);
            erased.insert(0, conversation.rsplit('/').next().unwrap().to_owned());
        }
        let admin = admin(app, "acme");
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/admin/audit?limit=2{cursor}");
            let page = app.call("GET", &path).by(&admin).send().await.expect(200).json();
            for entry in page["data"].as_array().unwrap() {
                assert_eq!(
                    (&entry["action"], &entry["actor"]),
                    (&json!("conversation.erased"), &json!("ada"))
                );
                found.push(entry["target"].as_str().unwrap().to_owned());
            }
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
            // Another tenant's cursor is invalid.
            let foreign = app.token_of("globex", "root", Scopes::ADMIN);
            let path = format!("/v1/admin/audit?cursor={next}");
            app.call("GET", &path).by(&foreign).send().await.problem(422, "invalid");
        }
        assert_eq!(found, erased);
        let verified = app
            .call("GET", "/v1/admin/audit/verify")
            .by(&admin)
            .send()
            .await
            .expect(200);
        assert_eq!(verified.json(), json!({ "ok": true, "entries": 5 }));
        app.audit.damage("acme", 3);
        let verified = app
            .call("GET", "/v1/admin/audit/verify")
            .by(&admin)
            .send()
            .await
            .expect(200);
        assert_eq!(
            verified.json(),
            json!({ "ok": false, "entries": 2, "first_bad": 3, "fault": "altered" })
        );

        // Neither a user nor another tenant's administrator has access.
        for path in ["/v1/admin/audit", "/v1/admin/audit/verify"] {
            app.get(path).await.problem(403, "forbidden");
            app.call("GET", path).send().await.problem(401, "unauthenticated");
            app.call("GET", &format!("{path}?x=1"))
                .by(&admin)
                .send()
                .await
                .expect(if path.ends_with("verify") { 200 } else { 422 });
        }
        assert_eq!(entries(app, "globex").await.len(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_erased_that_cannot_be_recorded() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        app.audit.away.store(true, Ordering::Relaxed);
        app.ada("DELETE", &conversation)
            .send()
            .await
            .problem(503, "unavailable");
        app.audit.away.store(false, Ordering::Relaxed);
        app.get(&conversation).await.expect(200);
        app.ada("DELETE", &conversation).send().await.expect(204);
        app.get(&conversation).await.problem(404, "not_found");
    })
    .await;
}

/// Performs the writes of a table, and checks what each leaves in the audit logs.
struct Writes<'a> {
    app: &'a TestApp,
    /// Method and path of each write, as in `/openapi.json`.
    made: BTreeSet<(String, String)>,
}

/// A write, and the one entry that it must leave.
struct Write<'a> {
    method: &'a str,
    path: &'a str,
    /// The ids in the path.
    id: &'a str,
    body: Value,
    /// The caller.
    by: (&'a str, &'a str, Scopes),
    status: u16,
    /// The tenant whose log has the entry, and its content.
    entry: (&'a str, &'a str, &'a str),
}

const ROOT: (&str, &str, Scopes) = ("acme", "root", Scopes::OPERATOR);
const BOSS: (&str, &str, Scopes) = ("globex", "boss", Scopes::ADMIN);

impl Writes<'_> {
    async fn logs(&self) -> Vec<(&'static str, Vec<copilotd::audit::Body>)> {
        let mut logs = Vec::new();
        for tenant in ["acme", "globex", "initech"] {
            let page = self.app.app.state.audit.page(&scope(tenant), None, 100).await;
            let (entries, _) = page.unwrap();
            logs.push((tenant, entries.into_iter().map(|entry| entry.body).collect()));
        }
        logs
    }

    async fn make(&mut self, write: Write<'_>) -> Value {
        let Write {
            method,
            path,
            id,
            body,
            by: (tenant, user, scopes),
            status,
            entry: (whose, action, actor),
        } = write;
        let before = self.logs().await;
        let request = format!("req-{}", self.made.len());
        let call = self.app.call(method, path).by(&self.app.token_of(tenant, user, scopes));
        let call = call.header("x-request-id", &request).header(REASON, "because");
        let call = if body.is_null() { call } else { call.json(&body) };
        let answer = call.send().await.expect(status);
        for ((tenant, before), (_, after)) in before.iter().zip(self.logs().await) {
            let new = after.len() - before.len();
            assert_eq!(
                new,
                usize::from(*tenant == whose),
                "{method} {path}: entries of {tenant}: {after:#?}"
            );
            let Some(entry) = after.first().filter(|_| new == 1) else {
                continue;
            };
            assert_eq!(
                (entry.action.as_str(), entry.actor.as_str()),
                (action, actor),
                "{method} {path}"
            );
            assert_eq!(entry.request_id.as_deref(), Some(request.as_str()), "{method} {path}");
            assert!(entry.credential.starts_with("jwt:"), "{method} {path}: {entry:#?}");
            assert!(!entry.target.is_empty(), "{method} {path}: {entry:#?}");
        }
        let place = path.split('?').next().unwrap();
        let template = if id.is_empty() {
            place.to_owned()
        } else {
            place.replace(id, "{id}")
        };
        self.made.insert((method.to_lowercase(), template));
        if answer.body.is_empty() {
            Value::Null
        } else {
            answer.json()
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_write_of_an_operator_or_administrator_leaves_one_entry_with_who_made_it() {
    const INITECH: &str = "/v1/operator/tenants/initech";
    const KEYS: &str = "/v1/admin/api-keys";
    const REVOCATIONS: &str = "/v1/admin/revocations";
    with_app(async |app| {
        let mut writes = Writes {
            app,
            made: BTreeSet::new(),
        };
        let copilots = |name: &str| json!({ "copilots": [{ "name": name, "route": "default" }] });
        for (method, path, body, status, action) in [
            (
                "PUT",
                INITECH,
                json!({ "settings": copilots("one") }),
                201,
                "tenant.created",
            ),
            (
                "PUT",
                INITECH,
                json!({ "settings": copilots("two") }),
                200,
                "tenant.updated",
            ),
            (
                "PATCH",
                INITECH,
                json!({ "settings": copilots("three") }),
                200,
                "tenant.updated",
            ),
            (
                "PATCH",
                INITECH,
                json!({ "status": "suspended" }),
                200,
                "tenant.suspended",
            ),
            ("PATCH", INITECH, json!({ "status": "active" }), 200, "tenant.resumed"),
            (
                "PATCH",
                INITECH,
                json!({ "settings": copilots("four"), "status": "suspended" }),
                200,
                "tenant.updated",
            ),
            (
                "PUT",
                INITECH,
                json!({ "settings": copilots("five"), "status": "active" }),
                200,
                "tenant.updated",
            ),
        ] {
            let entry = ("initech", action, "acme/root");
            writes
                .make(Write {
                    method,
                    path,
                    id: "initech",
                    body,
                    by: ROOT,
                    status,
                    entry,
                })
                .await;
        }
        // In one's own tenant, only the user's name.
        let body = json!({ "settings": copilots("support") });
        let (path, entry) = ("/v1/operator/tenants/acme", ("acme", "tenant.updated", "root"));
        writes
            .make(Write {
                method: "PATCH",
                path,
                id: "acme",
                body,
                by: ROOT,
                status: 200,
                entry,
            })
            .await;

        let body = json!({ "name": "ci", "scopes": ["chat"] });
        let entry = ("globex", "key.created", "boss");
        let made = writes
            .make(Write {
                method: "POST",
                path: KEYS,
                id: "",
                body,
                by: BOSS,
                status: 201,
                entry,
            })
            .await;
        let id = made["id"].as_str().unwrap();
        let (path, entry) = (format!("{KEYS}/{id}"), ("globex", "key.revoked", "boss"));
        let body = Value::Null;
        writes
            .make(Write {
                method: "DELETE",
                path: &path,
                id,
                body,
                by: BOSS,
                status: 204,
                entry,
            })
            .await;

        let body = json!({ "user": "eve", "reason": "left" });
        let entry = ("globex", "token.revoked", "boss");
        let write = Write {
            method: "POST",
            path: REVOCATIONS,
            id: "",
            body,
            by: BOSS,
            status: 201,
            entry,
        };
        let made = writes.make(write).await;
        let id = made["id"].as_str().unwrap();
        let (path, entry) = (format!("{REVOCATIONS}/{id}"), ("globex", "token.restored", "boss"));
        let body = Value::Null;
        writes
            .make(Write {
                method: "DELETE",
                path: &path,
                id,
                body,
                by: BOSS,
                status: 204,
                entry,
            })
            .await;

        let (path, entry) = ("/v1/admin/cache", ("globex", "cache.cleared", "boss"));
        let body = Value::Null;
        writes
            .make(Write {
                method: "DELETE",
                path,
                id: "",
                body,
                by: BOSS,
                status: 200,
                entry,
            })
            .await;

        // A deletion is in the log of the operator's tenant: the tenant's own is erased.
        let (path, entry) = (INITECH, ("acme", "tenant.deleted", "root"));
        let body = Value::Null;
        writes
            .make(Write {
                method: "DELETE",
                path,
                id: "initech",
                body,
                by: ROOT,
                status: 202,
                entry,
            })
            .await;

        let (path, entry) = ("/v1/admin/exports", ("globex", "export.created", "boss"));
        let body = json!({});
        writes
            .make(Write {
                method: "POST",
                path,
                id: "",
                body,
                by: BOSS,
                status: 202,
                entry,
            })
            .await;

        // No write of the OpenAPI description is missing here.
        let described = app.call("GET", "/openapi.json").send().await.expect(200).json();
        let mut all = BTreeSet::new();
        for (path, item) in described["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys();
            let writes = methods.filter(|method| ["put", "post", "patch", "delete"].contains(&method.as_str()));
            if path.starts_with("/v1/admin/") || path.starts_with("/v1/operator/") {
                all.extend(writes.map(|method| (method.clone(), path.clone())));
            }
        }
        assert_eq!(writes.made, all);
    })
    .await;
}

//! Crashes a tenant's deletion at each of its crash points; the next process continues, and nothing of the tenant is
//! left in any file.

use std::net::SocketAddr;
use std::path::Path;

use copilotd_actors::domain::access::key_hash::KeyHash;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::live::child::Child;

/// An operator's key.
const KEY: &str = "cpk_operatoroperatoroperatoroperatoroperatorope";
const TENANT: &str = "/v1/operator/tenants/initech";
const SECRET: &str = "a secret of initech, at least 32 bytes long";
/// Exit code of a process that a crash point aborted, as a shell reports it.
const ABORTED: i32 = 128 + 6;

/// In the order in which they are reached; `#2` is the second pass over the stores.
const POINTS: [&str; 15] = [
    "tenant.before:stop",
    "tenant.after:stop",
    "tenant.before:records",
    "tenant.before:snapshots",
    "tenant.before:projections",
    "tenant.before:usage",
    "tenant.before:revocations",
    "tenant.before:api_keys",
    "tenant.before:jobs",
    "tenant.before:audit",
    "tenant.before:records#2",
    "tenant.before:audit#2",
    "tenant.after:scrub",
    "tenant.before:definition",
    "tenant.after:definition",
];

struct Life {
    child: Child,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Life {
    async fn start(directory: &Path, crash_at: Option<&str>) -> Self {
        let env: Vec<(String, String)> = crash_at
            .map(|point| ("COPILOTD_CRASH_AT".to_owned(), point.to_owned()))
            .into_iter()
            .collect();
        let config = directory.join("copilotd.toml");
        let program = Path::new(env!("CARGO_BIN_EXE_copilotd"));
        let arguments = ["serve", "--config", config.to_str().unwrap()];
        let mut child = Child::start(program, &arguments, &env, &directory.join("server.log")).await;
        let serving = |log: &str| {
            let line = log.lines().find(|line| line.contains("copilotd is ready"))?;
            let (_, port) = line.split_once("127.0.0.1:")?;
            let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
            Some(SocketAddr::from(([127, 0, 0, 1], digits.parse().ok()?)))
        };
        let address = child.wait_for(serving).await;
        let address = address.unwrap_or_else(|| panic!("it did not start: {}", child.output()));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { child, address, http }
    }

    /// None if the process died meanwhile.
    async fn ask(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let method = method.parse().unwrap();
        let request = self.http.request(method, format!("http://{}{path}", self.address));
        let mut request = request.bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.bytes().await.ok()?;
        Some((status, serde_json::from_slice(&text).unwrap_or(Value::Null)))
    }

    async fn done(&self, status: u16, method: &str, path: &str, token: &str, body: Value) -> Value {
        let body = Some(&body).filter(|body| !body.is_null());
        let (found, answer) = self.ask(method, path, token, body).await.unwrap();
        assert_eq!(found, status, "{method} {path}: {answer}");
        answer
    }
}

fn configure(directory: &Path) {
    let text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
data_dir = {data:?}
[[providers]]
name = "main"
base_url = "http://127.0.0.1:1/v1"
api_key = {{ value = "none" }}
[[routes]]
name = "default"
targets = [{{ provider = "main", model = "none", context_tokens = 16000 }}]
[[tenants]]
id = "root"
operator = true
  [[tenants.api_keys]]
  name = "operator"
  hash = "{hash}"
  scopes = ["operator"]
"#,
        data = directory.join("data"),
        hash = KeyHash::of(KEY),
    );
    std::fs::write(directory.join("copilotd.toml"), text).unwrap();
}

fn token(user: &str, scope: &str) -> String {
    let claims = json!({
        "iss": "https://initech.example", "aud": "copilotd", "sub": user, "tenant": "initech", "scope": scope,
        "exp": jiff::Timestamp::now().as_second() + 3_000,
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

/// Creates the tenant with data in every store that a client can fill.
async fn fill(life: &Life) {
    let settings = json!({
        "issuers": [{ "iss": "https://initech.example", "alg": "HS256", "secret": { "value": SECRET } }],
        "copilots": [{ "name": "support", "route": "default" }],
    });
    life.done(201, "PUT", TENANT, KEY, json!({ "settings": settings }))
        .await;
    let (user, admin) = (token("hidden-user", "chat"), token("hidden-admin", "admin"));
    for _ in 0..3 {
        life.done(
            201,
            "POST",
            "/v1/conversations",
            &user,
            json!({ "title": "hidden-title" }),
        )
        .await;
    }
    let key = json!({ "name": "hidden-key", "scopes": ["chat"] });
    life.done(201, "POST", "/v1/admin/api-keys", &admin, key).await;
    let revocation = json!({ "user": "hidden-other" });
    life.done(201, "POST", "/v1/admin/revocations", &admin, revocation)
        .await;
}

fn found(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory.join("data")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        for at in memchr::memmem::find_iter(&bytes, b"hidden-") {
            let text = &bytes[at..(at + 20).min(bytes.len())];
            found.push(format!("{} in {}", String::from_utf8_lossy(text), path.display()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_survives_a_crash_at_each_of_its_points() {
    let directory = TempDir::new().unwrap();
    configure(directory.path());
    for point in POINTS {
        let mut life = Life::start(directory.path(), Some(point)).await;
        fill(&life).await;
        // The answer may be cut off by the crash; the tenant is marked by then.
        let asked = life.ask("DELETE", TENANT, KEY, None).await;
        assert!(
            asked.as_ref().is_none_or(|(status, _)| *status == 202),
            "{point}: {asked:?}"
        );
        assert_eq!(life.child.wait().await, ABORTED, "{point} was not what ended it");

        let mut life = Life::start(directory.path(), None).await;
        let user = token("hidden-user", "chat");
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while life.ask("GET", TENANT, KEY, None).await.unwrap().0 != 404 {
            // It must not be served even for a moment.
            let (status, _) = life.ask("GET", "/v1/conversations", &user, None).await.unwrap();
            assert!([401, 403].contains(&status), "{point}: {status}");
            assert!(tokio::time::Instant::now() < deadline, "{point}: it is still there");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        if let Some((_, job)) = asked {
            let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
            while life.done(200, "GET", &path, KEY, Value::Null).await["status"] != "completed" {
                assert!(tokio::time::Instant::now() < deadline, "{point}: the job does not end");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        assert_eq!(found(directory.path()), Vec::<String>::new(), "{point}");
        life.child.signal("TERM").await;
        assert_eq!(life.child.wait().await, 0, "{point}");
        assert_eq!(found(directory.path()), Vec::<String>::new(), "{point}");
    }
}

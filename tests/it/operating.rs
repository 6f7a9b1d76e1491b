//! What an operator does with the real program: checks, reloads, health checks, and verifying tokens.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixDatagram};
use tokio::process::Command;

use crate::served::{FILE, Served, said};

/// A provider that answers everything and records the keys it receives.
async fn provider() -> (String, Arc<Mutex<Vec<String>>>) {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&keys);
    let note = move |headers: &HeaderMap| {
        let key = headers.get("authorization").map_or("none", |key| key.to_str().unwrap());
        noted.lock().push(key.trim_start_matches("Bearer ").to_owned());
    };
    let (chat, list) = (note.clone(), note);
    let routes = Router::new()
        .route(
            "/v1/chat/completions",
            post(move |headers: HeaderMap| async move {
                chat(&headers);
                let message = json!({ "role": "assistant", "content": "hello" });
                axum::Json(json!({
                    "id": "x", "object": "chat.completion", "created": 1, "model": "large",
                    "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
                    "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 },
                }))
            }),
        )
        .route(
            "/v1/models",
            get(move |headers: HeaderMap| async move {
                list(&headers);
                let known = headers.get("authorization").is_some_and(|key| key == "Bearer good");
                if known {
                    (axum::http::StatusCode::OK, "{\"data\":[]}")
                } else {
                    (axum::http::StatusCode::UNAUTHORIZED, "{}")
                }
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(tokio::spawn(
        async move { axum::serve(listener, routes).await.unwrap() },
    ));
    (format!("http://{address}/v1"), keys)
}

async fn chat(served: &Served, token: &str) -> u16 {
    let request = reqwest::Client::new().post(format!("{}/v1/chat/completions", served.server));
    let body = json!({ "model": "default", "messages": [{ "role": "user", "content": "hi" }] });
    request
        .bearer_auth(token)
        .json(&body)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_providers_in_files_are_read_again_on_a_signal_and_what_needs_a_restart_is_named() {
    let (base, keys) = provider().await;
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("key"), "first\n").unwrap();
    let file = FILE
        .replace(
            "http://127.0.0.1:1/v1\"",
            &format!("{base}\"\napi_key = {{ file = \"HERE/key\" }}"),
        )
        .replace("\"operator\"]", "\"operator\", \"gateway\"]");
    let data = directory.path().join("data");
    let mut served = Served::start_with(directory, &data, &file, &[]).await;
    let config = served.path("copilotd.toml");
    let mint = [
        "token",
        "--config",
        config.to_str().unwrap(),
        "--tenant",
        "ops",
        "--user",
        "ada",
        "--scope",
        "gateway",
    ];
    let token = served.run(&mint).await.trim().to_owned();
    assert_eq!(chat(&served, &token).await, 200);
    std::fs::write(served.path("key"), "second\n").unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[[providers]]", "drain_s = 7\n[[providers]]")).unwrap();
    served.child.signal("HUP").await;
    let told = served
        .child
        .wait_for(|log| said(log, "configuration reloaded"))
        .await
        .unwrap();
    assert!(
        told.contains("provider keys changed: main; NOT applied until a restart: server.drain_s"),
        "{told}"
    );
    assert_eq!(chat(&served, &token).await, 200);
    // A file that cannot be read changes nothing.
    std::fs::remove_file(served.path("key")).unwrap();
    served.child.signal("HUP").await;
    let told = served
        .child
        .wait_for(|log| said(log, "configuration reload failed"))
        .await
        .unwrap();
    assert!(told.contains("providers[0].api_key"), "{told}");
    assert_eq!(chat(&served, &token).await, 200);
    assert_eq!(*keys.lock(), ["first", "second", "second"]);
    let log = std::fs::read_to_string(served.path("log")).unwrap();
    assert!(!log.contains("second") && !log.contains("first\""), "no key is logged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_told_when_it_serves_reloads_and_stops() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let data = directory.path().join("data");
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    let mut served = Served::start_with(directory, &data, FILE, &env).await;
    let told = async || {
        let mut bytes = [0; 1024];
        let read = tokio::time::timeout(std::time::Duration::from_secs(30), socket.recv(&mut bytes)).await;
        String::from_utf8(bytes[..read.unwrap().unwrap()].to_vec()).unwrap()
    };
    let ready = told().await;
    assert!(ready.starts_with("READY=1"), "{ready}");
    served.child.signal("HUP").await;
    let reloading = told().await;
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    let ready = told().await;
    assert!(ready.starts_with("READY=1"), "{ready}");
    served.child.signal("TERM").await;
    assert_eq!(told().await.trim(), "STOPPING=1");
    assert_eq!(served.child.wait().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_tells_by_its_exit_code() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let directory = TempDir::new().unwrap();
    // It does not need the configuration's secrets.
    let file = FILE
        .replacen("127.0.0.1:0", &free.to_string(), 1)
        .replacen("admin_listen = \"127.0.0.1:0\"\n", "", 1);
    let data = directory.path().join("data");
    let mut served = Served::start_with(directory, &data, &file, &[]).await;
    let config = served.path("copilotd.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace(
            "{ value = \"a secret of ops, at least 32 bytes long\" }",
            "{ env = \"NOT_THERE\" }",
        ),
    )
    .unwrap();
    let arguments = |more: &[&str]| -> Vec<String> {
        let all = [&["healthcheck", "--config", config.to_str().unwrap()][..], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let code = async |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_copilotd"))
            .args(arguments(more))
            .output()
            .await
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for more in [&[][..], &["--live"], &["--timeout", "10s"]] {
        assert_eq!(code(more).await.0, 0, "{more:?}");
    }
    assert_eq!(code(&["--timeout", "0s"]).await.0, 2);
    served.child.signal("TERM").await;
    assert_eq!(served.child.wait().await, 0);
    let (failed, told) = code(&[]).await;
    assert!(failed == 1 && told.contains("cannot connect"), "{told}");
    // A server that accepts connections and sends nothing.
    let _mute = TcpListener::bind(free).await.unwrap();
    let (failed, told) = code(&["--timeout", "200ms"]).await;
    assert!(failed == 1 && told.contains("no answer within"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_reaches_what_the_configuration_names_or_says_why_not() {
    let (base, _) = provider().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("copilotd.toml");
    let provider = |name: &str, base: &str, key: &str| {
        format!("[[providers]]\nname = \"{name}\"\nbase_url = \"{base}\"\napi_key = {{ value = \"{key}\" }}\n")
    };
    let data = directory.path().join("data");
    let server = format!("[server]\ndata_dir = {data:?}\n");
    let tenant = "[[tenants]]\nid = \"acme\"\n";
    let check = async |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_copilotd"));
        let output = command
            .args(["check", "--online", "--config", path.to_str().unwrap()])
            .output()
            .await
            .unwrap();
        let told = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.code().unwrap(), told)
    };
    let (code, told) = check(&format!("{server}{}{tenant}", provider("main", &base, "good"))).await;
    assert_eq!(code, 0, "{told}");
    assert!(
        told.contains("ok    store: sqlite in") && told.contains("key accepted"),
        "{told}"
    );
    assert!(!data.exists(), "nothing is made");
    let limits = format!("[limits]\nstore = \"redis\"\nurl = \"redis://:hunter2@{closed}\"\n");
    let store =
        format!("[store]\nkind = \"mongodb\"\nurl = \"mongodb://root:hunter2@{closed}/?connectTimeoutMS=500\"\n");
    let wrong = [
        provider("main", &base, "bad"),
        provider("away", &format!("http://{closed}/v1"), "good"),
    ]
    .concat();
    let (code, told) = check(&format!("{server}{store}{limits}{wrong}{tenant}")).await;
    assert_eq!(code, 1, "{told}");
    for line in [
        "FAIL  store: ",
        "FAIL  limits (Redis): ",
        "the key was refused (status 401)",
        "FAIL  provider away at",
        "error: checks failed: 4",
        // Each with its line.
        "(line 3)",
        "(line 8)",
        "(line 15)",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

/// Zendesk, Slack, an issuer's keys and a trace collector at one address. They accept only the credential `good`.
async fn systems() -> String {
    let authorization = |headers: &HeaderMap| {
        let value = headers.get("authorization").map_or("", |value| value.to_str().unwrap());
        value.to_owned()
    };
    // bot@acme.example/token:good
    let basic = "Basic Ym90QGFjbWUuZXhhbXBsZS90b2tlbjpnb29k";
    let routes = Router::new()
        .route(
            "/api/v2/users/me.json",
            get(move |headers: HeaderMap| async move {
                let id = (authorization(&headers) == basic).then_some(7);
                axum::Json(json!({ "user": { "id": id, "name": "Bot" } }))
            }),
        )
        .route(
            "/api/auth.test",
            post(move |headers: HeaderMap| async move {
                axum::Json(match authorization(&headers) == "Bearer good" {
                    true => json!({ "ok": true, "user": "bot" }),
                    false => json!({ "ok": false, "error": "invalid_auth" }),
                })
            }),
        )
        .route(
            "/keys.json",
            get(|| async { axum::Json(json!({ "keys": [{ "kty": "OKP" }] })) }),
        )
        .route("/v1/traces", post(|| async { "" }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(tokio::spawn(
        async move { axum::serve(listener, routes).await.unwrap() },
    ));
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_reaches_what_tenants_have_of_their_own_and_names_the_line_of_each() {
    let ((base, _), there) = tokio::join!(provider(), systems());
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Accepts connections and sends nothing.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_at = mute.local_addr().unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("copilotd.toml");
    let text = |credential: &str, there: &str| {
        format!(
            r#"[server]
data_dir = {data:?}
[telemetry]
otlp_endpoint = "{there}"
[[providers]]
name = "main"
base_url = "{base}"
api_key = {{ value = "good" }}
[[tenants]]
id = "acme"
[[tenants.issuers]]
iss = "https://acme.example"
alg = "EdDSA"
jwks_url = "{there}/keys.json"
[[tenants.provider_keys]]
provider = "main"
api_keys = [{{ value = "good" }}, {{ value = "{credential}" }}]
[tenants.zendesk]
base_url = "{there}"
email = "bot@acme.example"
token = {{ value = "{credential}" }}
[tenants.slack]
base_url = "{there}/api/"
bot_token = {{ value = "{credential}" }}
"#,
            data = directory.path().join("data"),
        )
    };
    let check = async |text: String| {
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_copilotd"));
        let command = command.args(["check", "--online", "--config", path.to_str().unwrap()]);
        let output = command.output().await.unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        (output.status.code().unwrap(), format!("{out}{err}"))
    };
    let (code, told) = check(text("good", &there)).await;
    assert_eq!(code, 0, "{told}");
    for line in [
        "ok    trace collector at http://127.0.0.1:",
        "accepts traces (line 4)",
        "ok    provider main at",
        "published keys: 1 (line 14)",
        "ok    provider main with the keys of tenant acme, key 2 at",
        "reachable, key accepted (line 15)",
        "ok    Zendesk of tenant acme at",
        "credential accepted (line 19)",
        "ok    Slack of tenant acme at",
        "token accepted (line 23)",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let (code, told) = check(text("hunter2", &there)).await;
    assert_eq!(code, 1, "{told}");
    for line in [
        "the key was refused (status 401) (line 15)",
        "FAIL  Zendesk of tenant acme at",
        "the credential is not valid (line 19)",
        "the token was refused (invalid_auth) (line 23)",
        "error: checks failed: 3",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
    let (code, told) = check(text("good", &format!("http://{closed}"))).await;
    assert_eq!(code, 1, "{told}");
    for line in [
        "(line 4)",
        "(line 14)",
        "(line 19)",
        "(line 23)",
        "error: checks failed: 4",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let (code, told) = check(text("good", &format!("http://{mute_at}"))).await;
    assert_eq!(code, 1, "{told}");
    assert_eq!(told.matches("no answer within 5 s").count(), 4, "{told}");
    drop(mute);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_explained() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("copilotd.toml");
    let secret = "a secret of acme, at least 32 bytes long";
    let text = format!(
        "[[tenants]]\nid = \"acme\"\n[[tenants.issuers]]\niss = \"https://acme.example\"\nalg = \"HS256\"\nsecret = {{ value = \"{secret}\" }}\n\
         scopes = [\"chat\"]\n"
    );
    std::fs::write(&path, text).unwrap();
    let sign = |secret: &str, claims: Value| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(
            &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
            &claims,
            &key,
        )
        .unwrap()
    };
    let end = jiff::Timestamp::now().as_second() + 600;
    let good = json!({ "iss": "https://acme.example", "aud": "copilotd", "sub": "ada", "tenant": "acme", "exp": end, "scope": "chat admin" });
    let changed = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for (token, code, told) in [
        (
            sign(secret, good.clone()),
            0,
            &["accepted", "sub: ada", "may not grant: admin"][..],
        ),
        (format!("Bearer {}", sign(secret, good.clone())), 0, &["accepted"]),
        (
            sign(secret, json!({ "iss": "https://acme.example", "exp": end - 6_000 })),
            1,
            // All findings, not only the first.
            &[
                "FAIL  the token has no aud claim",
                "no tenant claim",
                "no sub claim",
                "exp claim is in the past",
            ],
        ),
        (
            sign(secret, changed("tenant", json!("globex"))),
            1,
            &["tenant claim is not the tenant of its issuer"],
        ),
        (
            sign("another secret of at least 32 bytes", good.clone()),
            1,
            &["signature mismatch"],
        ),
        (
            sign(secret, changed("iss", json!("https://acme.exmaple"))),
            1,
            &["no tenant has an issuer with iss \"https://acme.exmaple\""],
        ),
        ("nonsense".to_owned(), 1, &["not a JWT"]),
        (
            "cpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            1,
            &["no API key in the configuration"],
        ),
        (String::new(), 2, &["pass a token"]),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_copilotd"))
            .args(["token", "verify", "--config", path.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(format!("{token}\n").as_bytes())
            .await
            .unwrap();
        let output = child.wait_with_output().await.unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(told.iter().all(|line| said.contains(line)), "{told:?}: {said}");
        assert!(
            !said.contains(secret) && (token.is_empty() || code == 2 || !said.contains(token.as_str())),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_without_secrets_finds_everything_else() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("copilotd.toml");
    let check = async |text: &str, more: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let arguments = [&["check", "--config", path.to_str().unwrap()][..], more].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_copilotd"))
            .args(arguments)
            .output()
            .await
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("copilotd.example.toml")).unwrap();
    let (code, told) = check(&example, &[]).await;
    assert_eq!(code, 2, "its secrets are not there: {told}");
    let (code, told) = check(&example, &["--no-secrets"]).await;
    assert_eq!(code, 0, "{told}");
    let (code, told) = check(
        &example
            .replace("\nroute = ", "\nrout = ")
            .replace("  route = ", "  rout = "),
        &["--no-secrets"],
    )
    .await;
    assert!(
        code == 2 && told.contains("did you mean \"route\"?") && !told.contains("is not set"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_start_names_the_warnings_of_check_with_their_lines() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let text = format!(
        "{FILE}\n[tenants.limits]\nusd_per_month = 5.0\n[[prices]]\nmodel = \"nobody-has-it\"\ninput = 1.0\noutput = 1.0\n"
    );
    let mut served = Served::start_with(directory, &data, &text, &[]).await;
    let config = served.path("copilotd.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_copilotd"));
    let checked = command.args(["check", "--config", config.to_str().unwrap()]);
    let told = String::from_utf8(checked.output().await.unwrap().stderr).unwrap();
    let warnings: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    assert!(warnings.len() >= 2, "{told}");
    assert!(warnings.iter().any(|warning| warning.contains("prices[")), "{told}");
    assert!(warnings.iter().any(|warning| warning.contains("limits")), "{told}");
    let log = served.child.output();
    for warning in warnings {
        assert!(warning.starts_with("line "), "{warning}");
        // As it is escaped in a JSON line.
        let quoted = serde_json::to_string(warning).unwrap();
        assert!(log.contains(quoted.trim_matches('"')), "{warning}: {log}");
    }
    served.child.signal("TERM").await;
    assert_eq!(served.child.wait().await, 0);
}

//! The real program: managing tenants and keys on its command line, and reloading its file.

use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;
use tokio::process::Command;

use crate::support::disk::SmallDisk;
use crate::support::live::child::Child;

pub const FILE: &str = r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
data_dir = "DATA"
[[providers]]
name = "main"
base_url = "http://127.0.0.1:1/v1"
[[routes]]
name = "default"
targets = [{ provider = "main", model = "large", context_tokens = 8000 }]
[[tenants]]
id = "ops"
operator = true
[[tenants.issuers]]
iss = "https://ops.example"
alg = "HS256"
secret = { value = "a secret of ops, at least 32 bytes long" }
scopes = ["chat", "admin", "operator"]
"#;

const SETTINGS: &str = r#"
[[issuers]]
iss = "https://initech.example"
alg = "HS256"
secret = { value = "a secret of initech, at least 32 bytes" }
[[copilots]]
name = "support"
route = "default"
"#;

/// A server, and its command-line client.
pub struct Served {
    pub directory: TempDir,
    pub child: Child,
    pub server: String,
    pub credential: String,
}

impl Served {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("data");
        Self::start_in(directory, &data).await
    }

    async fn start_in(directory: TempDir, data: &Path) -> Self {
        Self::start_with(directory, data, FILE, &[]).await
    }

    /// Starts with a configuration in which DATA is replaced by the data directory and HERE by the directory of the
    /// file.
    pub async fn start_with(directory: TempDir, data: &Path, file: &str, env: &[(&str, &str)]) -> Self {
        let text = file.replace("DATA", data.to_str().unwrap());
        let text = text.replace("HERE", directory.path().to_str().unwrap());
        std::fs::write(directory.path().join("copilotd.toml"), text).unwrap();
        let (child, server) = Self::serve_with(directory.path(), env).await;
        let mut served = Self {
            directory,
            child,
            server,
            credential: String::new(),
        };
        let config = served.path("copilotd.toml");
        let config = config.to_str().unwrap();
        let arguments = ["token", "--config", config, "--tenant", "ops", "--user", "root"];
        let arguments = [&arguments[..], &["--scope", "operator,admin"]].concat();
        served.credential = served.run(&arguments).await.trim().to_owned();
        served
    }

    async fn serve(directory: &Path) -> (Child, String) {
        Self::serve_with(directory, &[]).await
    }

    async fn serve_with(directory: &Path, env: &[(&str, &str)]) -> (Child, String) {
        let config = directory.join("copilotd.toml");
        let arguments = ["serve", "--config", config.to_str().unwrap()];
        let log = directory.join("log");
        let program = Path::new(env!("CARGO_BIN_EXE_copilotd"));
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut child = Child::start(program, &arguments, &env, &log).await;
        let address = child.wait_for(|log| said(log, "copilotd is ready")).await;
        let line: serde_json::Value = serde_json::from_str(&address.unwrap()).unwrap();
        let server = format!("http://{}", line["address"].as_str().unwrap());
        (child, server)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub async fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copilotd"));
        command.args(arguments).env("COPILOTD_CREDENTIAL", &self.credential);
        command.output().await.unwrap()
    }

    /// Runs a command that has to succeed.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, against the server.
    async fn ask(&self, arguments: &[&str]) -> String {
        self.run(&[arguments, &["--server", &self.server]].concat()).await
    }

    pub async fn status(&self, path: &str, credential: &str) -> u16 {
        let request = reqwest::Client::new().get(format!("{}{path}", self.server));
        request.bearer_auth(credential).send().await.unwrap().status().as_u16()
    }
}

/// Finds the log line that contains the text.
pub fn said(log: &str, what: &str) -> Option<String> {
    log.lines().find(|line| line.contains(what)).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_and_keys_by_the_command_line() {
    let mut served = Served::start().await;
    let settings = served.path("settings.toml");
    std::fs::write(&settings, SETTINGS).unwrap();
    let settings = settings.to_str().unwrap().to_owned();
    served
        .ask(&["tenant", "create", "initech", "--settings", &settings])
        .await;
    let again = served
        .output(&[
            "tenant",
            "create",
            "initech",
            "--settings",
            &settings,
            "--server",
            &served.server,
        ])
        .await;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&again.stderr),
        "error: a tenant initech already exists\n"
    );
    let shown = served.ask(&["tenant", "show", "initech"]).await;
    assert!(shown.contains("\"kept\"") && !shown.contains("a secret of"), "{shown}");

    let made = served
        .ask(&["key", "create", "--scope", "chat,gateway", "--name", "ci"])
        .await;
    let key = made.lines().last().unwrap().to_owned();
    assert_eq!(served.status("/v1/models", &key).await, 200);
    let listed = served.ask(&["key", "list"]).await;
    let id = listed.split_whitespace().next().unwrap().to_owned();

    // After a kill, created keys still exist and revoked ones stay revoked.
    served.child.kill().await;
    let (child, server) = Served::serve(served.directory.path()).await;
    (served.child, served.server) = (child, server);
    assert_eq!(served.status("/v1/models", &key).await, 200);
    served.ask(&["key", "revoke", &id]).await;
    assert_eq!(served.status("/v1/models", &key).await, 401);
    served.child.kill().await;
    let (child, server) = Served::serve(served.directory.path()).await;
    (served.child, served.server) = (child, server);
    assert_eq!(served.status("/v1/models", &key).await, 401);
    served.ask(&["tenant", "suspend", "initech"]).await;
    let own = served
        .output(&["tenant", "suspend", "ops", "--server", &served.server])
        .await;
    let told = String::from_utf8_lossy(&own.stderr).into_owned();
    assert!(own.status.code() == Some(1) && told.contains("--force"), "{told}");
    let tenants = served.ask(&["tenant", "list"]).await;
    let words: Vec<Vec<&str>> = tenants.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["initech", "suspended", "stored"], ["ops", "active", "file"]]);
    // One's own tenant only with --force: nobody of it could resume it.
    let refused = served
        .output(&["tenant", "suspend", "ops", "--server", &served.server])
        .await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(
        told.contains("your own credential") && told.contains("--force"),
        "{told}"
    );
    assert_eq!(served.status("/v1/operator/tenants", &served.credential).await, 200);
    let deleted = served.ask(&["tenant", "delete", "initech", "--wait"]).await;
    assert!(
        deleted.contains("completed") && deleted.contains("definition   1"),
        "{deleted}"
    );
    assert!(!served.ask(&["tenant", "list"]).await.contains("initech"));
    let kept = served
        .output(&["tenant", "delete", "ops", "--server", &served.server])
        .await;
    let told = String::from_utf8_lossy(&kept.stderr).into_owned();
    assert!(kept.status.code() == Some(1) && told.contains("--force"), "{told}");
    served.ask(&["tenant", "suspend", "ops", "--force"]).await;
    assert_eq!(served.status("/v1/operator/tenants", &served.credential).await, 403);
    served.child.signal("TERM").await;
    assert_eq!(served.child.wait().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_is_taken_anew_on_a_signal() {
    let mut served = Served::start().await;
    let file = served.path("copilotd.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let hash = copilotd_actors::domain::access::key_hash::KeyHash::of(KEY);
    let key = format!("[[tenants.api_keys]]\nname = \"new\"\nhash = \"{hash}\"\nscopes = [\"gateway\"]\n");
    assert_eq!(served.status("/v1/models", KEY).await, 401);
    std::fs::write(&file, format!("{text}{key}")).unwrap();
    served.child.signal("HUP").await;
    served
        .child
        .wait_for(|log| said(log, "configuration reloaded; tenants changed: ops"))
        .await
        .unwrap();
    assert_eq!(served.status("/v1/models", KEY).await, 200);
    // An invalid file changes nothing.
    std::fs::write(&file, format!("colour = 1\n{text}")).unwrap();
    served.child.signal("HUP").await;
    let told = served
        .child
        .wait_for(|log| said(log, "configuration reload failed; keeping the previous one"))
        .await
        .unwrap();
    assert!(told.contains("colour"), "{told}");
    assert_eq!(served.status("/v1/models", KEY).await, 200);
    // A tenant with a fault is left out, and the others are served.
    let secret = served.path("no-such-secret");
    let broken = format!(
        "[[tenants]]\nid = \"broken\"\n[tenants.zendesk]\nbase_url = \"https://x.example\"\noauth_token = {{ file = {secret:?} }}\n"
    );
    std::fs::write(&file, format!("{text}{key}{broken}")).unwrap();
    served.child.signal("HUP").await;
    let told = served.child.wait_for(|log| said(log, "tenant left out")).await.unwrap();
    assert!(
        told.contains("broken") && told.contains("line 28: /zendesk/oauth_token") && told.contains("os error"),
        "{told}"
    );
    assert_eq!(served.status("/v1/models", KEY).await, 200);
    // The same at a start, while `check` refuses the file.
    served.child.kill().await;
    let (child, server) = Served::serve(served.directory.path()).await;
    (served.child, served.server) = (child, server);
    assert_eq!(served.status("/v1/models", KEY).await, 200);
    let shown = served.ask(&["tenant", "show", "broken"]).await;
    assert!(
        shown.contains("cannot read the file") && !shown.contains("os error"),
        "{shown}"
    );
    served.ask(&["tenant", "suspend", "broken"]).await;
    let listed = served.ask(&["key", "list"]).await;
    let id = listed.split_whitespace().next().unwrap();
    served.ask(&["key", "revoke", id]).await;
    assert_eq!(served.status("/v1/models", KEY).await, 401);
    let checked = served.output(&["check", "--config", file.to_str().unwrap()]).await;
    assert_eq!(checked.status.code(), Some(2));
    std::fs::write(&secret, "a token").unwrap();
    served.ask(&["tenant", "resume", "broken"]).await;
    served.child.signal("HUP").await;
    // Fixed, and active, as it was set meanwhile.
    while !served
        .ask(&["tenant", "show", "broken"])
        .await
        .contains("\"faults\": []")
    {}
    served.child.signal("TERM").await;
    assert_eq!(served.child.wait().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_tokens_are_revoked_by_the_command_line_and_stay_so_after_a_kill() {
    let mut served = Served::start().await;
    let config = served.path("copilotd.toml");
    let config = config.to_str().unwrap();
    let mint = ["token", "--config", config, "--tenant", "ops", "--user"];
    let bob = served.run(&[&mint[..], &["bob"]].concat()).await.trim().to_owned();
    let eve = served.run(&[&mint[..], &["eve"]].concat()).await.trim().to_owned();
    assert_eq!(served.status("/v1/conversations", &bob).await, 200);
    let made = served
        .ask(&["token", "revoke", "--user", "bob", "--reason", "laptop stolen"])
        .await;
    assert!(made.starts_with("rev_") && made.contains("user bob"), "{made}");
    assert_eq!(served.status("/v1/conversations", &bob).await, 401);
    served.child.kill().await;
    let (child, server) = Served::serve(served.directory.path()).await;
    (served.child, served.server) = (child, server);
    assert_eq!(served.status("/v1/conversations", &bob).await, 401);
    assert_eq!(served.status("/v1/conversations", &eve).await, 200);
    let id = made.split_whitespace().next().unwrap();
    assert!(served.ask(&["token", "revocations"]).await.contains(id));
    served.ask(&["token", "lift", id]).await;
    assert_eq!(served.status("/v1/conversations", &bob).await, 200);
    for wrong in [
        &["token", "revoke"][..],
        &["token", "revoke", "--user", "bob", "--token-id", "x"],
        &["token", "revoke", "--tenant", "ops", "--user", "bob"],
        &["token", "lift", "bob"],
        &["token", "--tenant", "ops"],
    ] {
        assert_eq!(served.output(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_alone_names_tenants() {
    let served = Served::start().await;
    let log = std::fs::read_to_string(served.path("log")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&said(&log, "admin port open").unwrap()).unwrap();
    let admin = format!("http://{}", line["address"].as_str().unwrap());
    let bad = "a.b.c";
    assert_eq!(served.status("/v1/models", &served.credential).await, 403);
    assert_eq!(served.status("/v1/models", bad).await, 401);
    let page = async |base: &str, path: &str| {
        let answer = reqwest::get(format!("{base}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (_, public) = page(&served.server, "/metrics").await;
    let (_, named) = page(&admin, "/metrics").await;
    assert!(!public.contains("tenant=") && !public.contains("\"ops\""), "{public}");
    assert!(
        public.contains("copilotd_auth_failures_total{reason=\"unknown\"} 1"),
        "{public}"
    );
    assert!(
        named.contains("copilotd_tenant_requests_total{tenant=\"ops\"} "),
        "{named}"
    );
    for path in ["/healthz", "/readyz"] {
        assert_eq!(page(&admin, path).await.0, 200);
    }
    for path in ["/v1/models", "/openapi.json", "/", "/v1/admin/usage"] {
        assert_eq!(page(&admin, path).await.0, 404, "{path}");
    }
    assert_eq!(page(&served.server, "/admin/metrics").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_keeps_neither_protection_nor_restarts_from_working() {
    let Some(disk) = SmallDisk::new(40) else { return };
    let data = disk.path().join("data");
    let mut served = Served::start_in(TempDir::new().unwrap(), &data).await;
    let settings = served.path("settings.toml");
    std::fs::write(&settings, SETTINGS).unwrap();
    let settings = settings.to_str().unwrap();
    served
        .ask(&["tenant", "create", "initech", "--settings", settings])
        .await;
    let made = served
        .ask(&["key", "create", "--scope", "gateway", "--name", "leaked"])
        .await;
    let key = made.lines().last().unwrap().to_owned();
    let listed = served.ask(&["key", "list"]).await;
    let id = listed.split_whitespace().next().unwrap().to_owned();
    let readiness = async |served: &Served| {
        let answer = reqwest::get(format!("{}/readyz", served.server)).await.unwrap();
        (
            answer.status().as_u16(),
            answer.json::<serde_json::Value>().await.unwrap(),
        )
    };
    assert_eq!(readiness(&served).await.0, 200);

    disk.fill();
    served
        .child
        .wait_for(|log| said(log, "store is not writable"))
        .await
        .unwrap();
    let (status, body) = readiness(&served).await;
    assert_eq!(
        (status, &body["store"]["last_write"]),
        (503, &serde_json::json!("disk_full")),
        "{body}"
    );
    let refused = served
        .output(&[
            "key",
            "create",
            "--scope",
            "gateway",
            "--name",
            "new",
            "--server",
            &served.server,
        ])
        .await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("disk is full"), "{told}");
    served.ask(&["key", "revoke", &id]).await;
    served.ask(&["tenant", "suspend", "initech"]).await;

    for _ in 0..2 {
        served.child.kill().await;
        disk.fill();
        let (child, server) = Served::serve(served.directory.path()).await;
        (served.child, served.server) = (child, server);
        assert_eq!(served.status("/v1/models", &key).await, 401, "it stays revoked");
        let tenants = served.ask(&["tenant", "list"]).await;
        assert!(
            tenants
                .lines()
                .any(|line| line.contains("initech") && line.contains("suspended")),
            "{tenants}"
        );
    }
    served.child.signal("TERM").await;
    assert_eq!(served.child.wait().await, 0);
    disk.fill();
    let (child, server) = Served::serve(served.directory.path()).await;
    (served.child, served.server) = (child, server);
    served
        .child
        .wait_for(|log| said(log, "store is not writable"))
        .await
        .unwrap();

    disk.empty();
    served
        .child
        .wait_for(|log| said(log, "store is writable again"))
        .await
        .unwrap();
    assert_eq!(readiness(&served).await.0, 200);
    served
        .ask(&["key", "create", "--scope", "gateway", "--name", "new"])
        .await;
}

/// A key that no tenant has at first.
const KEY: &str = "cpk_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

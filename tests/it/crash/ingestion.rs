//! Crashes the server at each point of an ingestion; the next process continues, makes no stored chunk again, and the
//! document ends whole. A document that ends every process fails.

use std::net::SocketAddr;
use std::path::Path;

use copilotd_actors::domain::access::key_hash::KeyHash;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::store::mongo::TestDatabase;
use crate::support::live::child::Child;
use crate::support::postgres::{ROLE, Server, shared};

pub(super) const KEY: &str = "cpk_ingestingestingestingestingestingestingesti";
const DOCUMENT: &str = "/v1/knowledge/handbook/documents/long";
const JOBS_OF: &str = "/v1/jobs/";
/// Exit code of a process that a crash point aborted, as a shell reports it.
pub(super) const ABORTED: i32 = 128 + 6;
/// Chunks that are stored together.
const BATCH: u64 = 16;

/// The points in the order in which they are reached, with the batches that are stored when the process ends there.
const POINTS: [(&str, u64); 8] = [
    ("ingest.before:begin", 0),
    ("ingest.after:begin", 0),
    ("ingest.after:extract", 0),
    ("ingest.after:start", 0),
    ("ingest.after:stage", 1),
    ("ingest.after:stage#3", 3),
    ("ingest.before:publish", 4),
    ("ingest.after:publish", 4),
];

/// A process, and a client of it.
pub(super) struct Life {
    pub(super) child: Child,
    pub(super) client: Client,
}

pub(super) struct Client {
    address: SocketAddr,
    http: reqwest::Client,
}

impl Life {
    /// Starts a server that crashes at a point, if one is given; none if it did so before it served.
    pub(super) async fn start(directory: &Path, crash_at: Option<&str>) -> Option<Self> {
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
        let address = child.wait_for(serving).await?;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Some(Self {
            child,
            client: Client { address, http },
        })
    }

    /// Returns the JSON at a path.
    pub(super) async fn get(&self, path: &str) -> Value {
        let (status, text) = self.client.ask("GET", path, None).await.expect("it lives");
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

impl Client {
    /// None if the process died meanwhile.
    pub(super) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, String)> {
        let request = self
            .http
            .request(method.parse().unwrap(), format!("http://{}{path}", self.address));
        let mut request = request.bearer_auth(KEY);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// Waits until the document is no longer pending; waits for ever if the process dies.
    async fn settled(&self) -> Value {
        self.settled_at(DOCUMENT).await
    }

    /// The same for the document at a path.
    async fn settled_at(&self, path: &str) -> Value {
        loop {
            let Some((status, text)) = self.ask("GET", path, None).await else {
                return std::future::pending().await;
            };
            // Its index may just be starting again.
            if status == 503 {
                tokio::task::yield_now().await;
                continue;
            }
            assert_eq!(status, 200, "{text}");
            let document: Value = serde_json::from_str(&text).unwrap();
            if document["status"] != "pending" {
                return document;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Returns the chunks that this process has stored, and those that it found stored.
    async fn chunks(&self) -> (u64, u64) {
        let (_, page) = self.ask("GET", "/metrics", None).await.expect("it lives");
        let of = |outcome: &str| {
            let series = format!("copilotd_ingested_chunks_total{{outcome=\"{outcome}\"}} ");
            let value = page.lines().find_map(|line| line.strip_prefix(&series));
            value
                .unwrap_or_else(|| panic!("no {series} in {page}"))
                .parse()
                .unwrap()
        };
        (of("new"), of("kept"))
    }
}

/// Writes a configuration; `stores` says where conversations and documents are stored.
fn configured(stores: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    let text = format!(
        r#"
{stores}
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
id = "acme"
  [[tenants.api_keys]]
  name = "writer"
  hash = "{hash}"
  scopes = ["knowledge"]
"#,
        data = directory.path().join("data"),
        hash = KeyHash::of(KEY),
    );
    std::fs::write(directory.path().join("copilotd.toml"), text).unwrap();
    directory
}

/// Says that documents are in PostgreSQL.
fn in_postgres(server: &Server, schema: &str) -> String {
    let url = server.url(ROLE, "knowledge");
    format!("[knowledge]\nindex = \"postgres\"\nurl = \"{url}\"\nschema = \"{schema}\"\n")
}

/// A document of sixty sections, each of which is a chunk.
fn handbook() -> String {
    let section = |number: u32| {
        let rule = format!("Rule {number} applies to case {number} and to no other. ");
        format!("# Section {number}\n\n{}\n\n", rule.repeat(12))
    };
    (0..60).map(section).collect()
}

/// Ends a process at a point, and checks what the next one does.
async fn ends_at(point: &str, batches: u64, directory: &TempDir) {
    let mut life = Life::start(directory.path(), Some(point)).await.expect("it serves");
    // The process may die before it has answered.
    let _ = life
        .client
        .ask("PUT", DOCUMENT, Some(&json!({ "text": handbook() })))
        .await;
    assert_eq!(life.child.wait().await, ABORTED, "{point}: {}", life.child.output());
    let life = Life::start(directory.path(), None).await.expect("it serves again");
    let document = life.client.settled().await;
    assert_eq!(document["status"], "searchable", "{point}: {document}");
    let all = document["chunks"].as_u64().unwrap();
    assert!(all > 3 * BATCH && all <= 4 * BATCH, "{all} chunks");
    let stored = all.min(batches * BATCH);
    let (new, kept) = life.client.chunks().await;
    if point == "ingest.after:publish" {
        assert_eq!((new, kept), (0, 0), "{point}: it was published");
    } else {
        assert_eq!((new, kept), (all - stored, stored), "{point}");
    }
    let job = format!("{JOBS_OF}{}", document["job_id"].as_str().unwrap());
    let (_, job) = life.client.ask("GET", &job, None).await.unwrap();
    let job: Value = serde_json::from_str(&job).unwrap();
    assert_eq!(
        (&job["status"], &job["progress"]),
        (&json!("completed"), &json!({ "done": all, "total": all })),
        "{point}"
    );
    let search = json!({ "query": "case 59" });
    let (_, found) = life
        .client
        .ask("POST", "/v1/knowledge/handbook/search", Some(&search))
        .await
        .unwrap();
    assert!(found.contains("Rule 59 applies"), "{point}: {found}");
}

/// What the tables hold: documents, chunks, passages, postings, jobs, and versions that wait.
async fn stored(server: &Server, schema: &str) -> Vec<i64> {
    let admin = server.admin("knowledge").await;
    let mut counts = Vec::new();
    for table in ["documents", "chunks", "passages", "postings", "jobs", "waiting"] {
        let sql = format!("SELECT count(*) FROM {schema}.{table}");
        counts.push(admin.query_one(&sql, &[]).await.unwrap().get(0));
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_chunks_are_not_made_again_wherever_the_process_ends() {
    for (point, batches) in POINTS {
        ends_at(point, batches, &configured("")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_are_those_in_postgresql() {
    // At the first point nothing is stored yet: it is a run without a crash.
    let mut whole: Option<Vec<i64>> = None;
    for (point, batches) in POINTS {
        let Some((server, schema)) = shared().await else { return };
        ends_at(point, batches, &configured(&in_postgres(server, &schema))).await;
        let now = stored(server, &schema).await;
        // As if nothing had happened.
        assert_eq!(*whole.get_or_insert_with(|| now.clone()), now, "{point}");
        assert_eq!((now[0], now[1], now[5]), (1, now[2], 0), "{point}");
    }
}

/// With the conversations in MongoDB a dead process still holds its lease for a while.
#[tokio::test(flavor = "multi_thread")]
async fn nor_are_those_of_a_process_with_a_lease() {
    let Some((server, schema)) = shared().await else { return };
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let stores = format!(
        "{}[store]\nkind = \"mongodb\"\nurl = {{ value = \"{}\" }}\ndatabase = \"{}\"\nlease_s = 6\n",
        in_postgres(server, &schema),
        database.url,
        database.name
    );
    ends_at("ingest.after:stage#3", 3, &configured(&stores)).await;
    let now = stored(server, &schema).await;
    assert_eq!((now[0], now[1], now[5]), (1, now[2], 0), "{now:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_ends_every_process_fails() {
    let directory = configured("");
    let point = Some("ingest.after:extract");
    let mut deaths = 0;
    let mut life = Life::start(directory.path(), point).await;
    if let Some(life) = &life {
        let _ = life
            .client
            .ask("PUT", DOCUMENT, Some(&json!({ "text": "It ends them all." })))
            .await;
    }
    let document = loop {
        // A process may die before it serves.
        if let Some(Life { mut child, client }) = life {
            let settled = tokio::select! {
                document = client.settled() => Some(document),
                status = child.wait() => {
                    assert_eq!(status, ABORTED);
                    None
                }
            };
            if let Some(document) = settled {
                break document;
            }
        }
        deaths += 1;
        assert!(deaths < 10, "it is tried for ever");
        life = Life::start(directory.path(), point).await;
    };
    assert_eq!(
        (&document["status"], &document["error"]["code"]),
        (&json!("failed"), &json!("internal")),
        "{document}"
    );
    assert_eq!(deaths, 5);
}

/// The server of the documents is killed, not the process.
#[tokio::test(flavor = "multi_thread")]
async fn ingestion_goes_on_when_postgresql_is_killed_and_comes_back() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let directory = configured(&in_postgres(&server, "copilotd"));
    let life = Life::start(directory.path(), None).await.expect("it serves");
    const DOCUMENTS: u32 = 12;
    let path = |n: u32| format!("/v1/knowledge/handbook/documents/{n}");
    for n in 0..DOCUMENTS {
        let text = handbook().replace("Rule", &format!("Rule of {n},"));
        let (status, text) = life
            .client
            .ask("PUT", &path(n), Some(&json!({ "text": text })))
            .await
            .unwrap();
        assert_eq!(status, 202, "{text}");
    }
    // Killed in the middle, twice.
    for stored in [BATCH, 20 * BATCH] {
        while life.client.chunks().await.0 < stored {
            tokio::task::yield_now().await;
        }
        server.kill();
        server.restart().await;
    }
    let mut chunks = 0;
    for n in 0..DOCUMENTS {
        let document = life.client.settled_at(&path(n)).await;
        assert_eq!(document["status"], "searchable", "{document}");
        chunks += document["chunks"].as_u64().unwrap();
        let search = json!({ "query": format!("rule of {n} case 59"), "limit": 1 });
        let (status, found) = life
            .client
            .ask("POST", "/v1/knowledge/handbook/search", Some(&search))
            .await
            .unwrap();
        assert!(
            status == 200 && found.contains(&format!("Rule of {n}, 59 applies")),
            "{found}"
        );
    }
    // Nothing is stored twice.
    let now = stored(&server, "copilotd").await;
    assert_eq!(
        (now[0], now[1]),
        (i64::from(DOCUMENTS), i64::try_from(chunks).unwrap()),
        "{now:?}"
    );
    assert_eq!((now[2], now[5]), (now[1], 0), "{now:?}");
    // Only the batch that was under way is made again.
    let (new, _) = life.client.chunks().await;
    assert!(new <= chunks + 2 * BATCH, "{new} for {chunks}");
}

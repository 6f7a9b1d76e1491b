//! The real program with its documents on PostgreSQL.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::served::{FILE, Served};
use crate::support::postgres::{ROLE, Server, shared};
use crate::support::tls::TlsFront;

fn configuration(url: &str) -> String {
    format!("{FILE}\n[knowledge]\nindex = \"postgres\"\nurl = \"{url}\"\n")
}

async fn ready(served: &Served) -> Value {
    let answer = reqwest::get(format!("{}/readyz", served.server)).await.unwrap();
    assert_eq!(answer.status(), 200, "it serves without documents too");
    answer.json::<Value>().await.unwrap()["dependencies"]["knowledge"].clone()
}

/// Runs a command with a configuration; returns its status and what it said.
async fn run(command: &[&str], directory: &Path, url: &str) -> (i32, String) {
    run_with(command, directory, url, None).await
}

/// The same on a machine with these certificates of authorities.
async fn run_with(command: &[&str], directory: &Path, url: &str, authorities: Option<&Path>) -> (i32, String) {
    let path = directory.join("copilotd.toml");
    let data = directory.join("data");
    std::fs::write(&path, configuration(url).replace("DATA", data.to_str().unwrap())).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_copilotd"))
        .args(command)
        .args(["--config", path.to_str().unwrap()])
        .stdin(Stdio::null())
        .envs(authorities.map(|path| ("SSL_CERT_FILE", path)))
        .output()
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_how_the_server_is() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let url = server.url(ROLE, "knowledge");
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let served = Served::start_with(directory, &data, &configuration(&url), &[]).await;
    assert_eq!(ready(&served).await, json!("ok"));
    assert!(served.child.output().contains("documents are stored in PostgreSQL"));
    // Nor are vectors of messages.
    assert!(!data.join("knowledge.db").exists());
    server.stop();
    assert_eq!(ready(&served).await, json!("unavailable"));
    server.restart().await;
    assert_eq!(ready(&served).await, json!("ok"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_and_start_refuse_a_powerful_role() {
    let Some(server) = Server::start().await else { return };
    let directory = TempDir::new().unwrap();
    let online = ["check", "--online"];
    let (_, said) = run(&online, directory.path(), &server.url(ROLE, "knowledge")).await;
    assert!(said.contains("ok    knowledge (PostgreSQL): reachable"), "{said}");
    for command in [&online[..], &["serve"]] {
        let (code, said) = run(command, directory.path(), &server.url("postgres", "knowledge")).await;
        assert_ne!(code, 0, "{said}");
        assert!(
            said.contains("connect as a role without SUPERUSER and BYPASSRLS"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_and_start_refuse_a_server_that_is_not_trusted() {
    let Some((server, _)) = shared().await else { return };
    let front = TlsFront::to(server.address(), "localhost").await;
    let stranger = TlsFront::to(server.address(), "localhost").await;
    let directory = TempDir::new().unwrap();
    let port = front.address.port();
    // Hosts of other machines need no `sslmode`; this one is called by a name of this machine.
    let url = format!("postgres://{ROLE}@localhost:{port}/knowledge?sslmode=verify-full");
    let online = ["check", "--online"];
    let (_, said) = run_with(&online, directory.path(), &url, Some(&front.authority)).await;
    assert!(said.contains("ok    knowledge (PostgreSQL): reachable"), "{said}");
    for command in [&online[..], &["serve"]] {
        let (code, said) = run_with(command, directory.path(), &url, Some(&stranger.authority)).await;
        assert_ne!(code, 0, "{said}");
        let why = "the certificate of PostgreSQL is not trusted: it was issued by an unknown authority";
        assert!(said.contains(why), "{said}");
    }
}

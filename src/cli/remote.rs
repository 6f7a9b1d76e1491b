//! Commands for a running server: its tenants, API keys and revocations.

use std::path::Path;
use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::args::{KeyCommand, Scope, ServerArgs, TenantCommand, TokenCommand};
use super::key::SecretFile;
use super::{Failure, print};
use crate::response_body::{self, BodyError};

/// Longest time to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Largest settings file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Runs a `tenant` command.
pub async fn tenant(command: &TenantCommand) -> Result<(), Failure> {
    let path = |id: &TenantId| format!("/v1/operator/tenants/{id}");
    match command {
        TenantCommand::List(server) => list(server, "/v1/operator/tenants", tenant_line).await,
        TenantCommand::Show { id, server } => show(&send(server, Method::GET, &path(id), None, false).await?),
        TenantCommand::Create { id, settings, server } => {
            let body = json!({ "settings": read(settings)? });
            let made = send(server, Method::PUT, &path(id), Some(body), true).await?;
            print(&format!("{}\n", tenant_line(&made)))
        }
        TenantCommand::Update { id, patch, server } => {
            let body = json!({ "settings": read(patch)? });
            let changed = send(server, Method::PATCH, &path(id), Some(body), false).await?;
            print(&format!("{}\n", tenant_line(&changed)))
        }
        TenantCommand::Suspend { id, force, server } => {
            let forced = if *force { "?force=true" } else { "" };
            let done = status(server, &format!("{}{forced}", path(id)), "suspended").await;
            // The server's message names its query parameter; name the flag instead.
            done.map_err(|failure| Failure::failed(failure.to_string().replace("?force=true", "--force")))
        }
        TenantCommand::Delete {
            id,
            force,
            wait,
            server,
        } => {
            let forced = if *force { "?force=true" } else { "" };
            let started = send(server, Method::DELETE, &format!("{}{forced}", path(id)), None, false).await;
            // The server's message names its query parameter; name the flag instead.
            let job =
                started.map_err(|failure| Failure::failed(failure.to_string().replace("?force=true", "--force")))?;
            follow(server, job, *wait).await
        }
        TenantCommand::Resume { id, server } => status(server, &path(id), "active").await,
    }
}

/// How often a job is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Prints a job, after waiting for its end if `wait` is set.
async fn follow(server: &ServerArgs, mut job: Value, wait: bool) -> Result<(), Failure> {
    let text = |job: &Value, member: &str| job[member].as_str().unwrap_or_default().to_owned();
    let id = text(&job, "id");
    while wait && !["completed", "failed"].contains(&text(&job, "status").as_str()) {
        tokio::time::sleep(POLL_INTERVAL).await;
        job = send(server, Method::GET, &format!("/v1/jobs/{id}"), None, false).await?;
    }
    let (done, total) = (&job["progress"]["done"], &job["progress"]["total"]);
    print(&format!("{id} {} {done}/{total}\n", text(&job, "status")))?;
    for line in job["receipt"].as_array().into_iter().flatten() {
        print(&format!("  {:<12} {}\n", text(line, "store"), line["erased"]))?;
    }
    match text(&job, "status").as_str() {
        "failed" => Err(Failure::failed(text(&job, "error"))),
        _ => Ok(()),
    }
}

/// Runs a `key` command on a server.
pub async fn key(command: &KeyCommand) -> Result<(), Failure> {
    const KEYS: &str = "/v1/admin/api-keys";
    match command {
        KeyCommand::Create {
            scopes,
            name,
            expires,
            secret_file,
            server: Some(server),
            credential,
        } => {
            let server = ServerArgs {
                server: server.clone(),
                credential: required_credential(credential.as_ref())?,
            };
            let mut body = json!({ "name": name, "scopes": Scope::set(scopes) });
            if let Some(end) = expires {
                body["expires_at"] = json!(end);
            }
            let file = secret_file.as_deref().map(SecretFile::create).transpose()?;
            let made = send(&server, Method::POST, KEYS, Some(body), false).await?;
            let text = |member: &str| made[member].as_str().unwrap_or_default();
            if let (Some(file), Some(path)) = (file, secret_file) {
                file.write(&text("key").into())?;
                return print(&format!("# The key {} was written to {}\n", text("id"), path.display()));
            }
            print(&format!(
                "# The key {}; it is not shown again:\n{}\n",
                text("id"),
                text("key")
            ))
        }
        KeyCommand::Create { .. } => Err(Failure::failed("internal error: this command needs no server")),
        KeyCommand::List(server) => list(server, KEYS, key_line).await,
        KeyCommand::Revoke { id, server } => {
            send(server, Method::DELETE, &format!("{KEYS}/{id}"), None, false).await?;
            print(&format!("{id} revoked\n"))
        }
    }
}

/// Runs a `token` command on a server.
pub async fn token(command: &TokenCommand) -> Result<(), Failure> {
    const REVOCATIONS: &str = "/v1/admin/revocations";
    match command {
        TokenCommand::Revoke { what, reason, server } => {
            let mut body = match (&what.user, &what.token_id) {
                (Some(user), None) => json!({ "user": user }),
                (None, Some(id)) => json!({ "token_id": id }),
                _ => return Err(Failure::usage("give either --user or --token-id")),
            };
            if let Some(reason) = reason {
                body["reason"] = json!(reason);
            }
            let made = send(server, Method::POST, REVOCATIONS, Some(body), false).await?;
            print(&format!("{}\n", revocation_line(&made)))
        }
        TokenCommand::Verify(_) => Err(Failure::failed("internal error: this command needs no server")),
        TokenCommand::Revocations(server) => list(server, REVOCATIONS, revocation_line).await,
        TokenCommand::Lift { id, server } => {
            send(server, Method::DELETE, &format!("{REVOCATIONS}/{id}"), None, false).await?;
            print(&format!("{id} lifted\n"))
        }
    }
}

fn revocation_line(revocation: &Value) -> String {
    let text = |member: &str| revocation[member].as_str();
    let subject = match (text("user"), text("token_id")) {
        (Some(user), _) => format!("user {user}"),
        (None, id) => format!("token {}", id.unwrap_or("-")),
    };
    let (id, at) = (text("id").unwrap_or("-"), text("revoked_at").unwrap_or("-"));
    format!(
        "{id}  {subject}, revoked {at}, in force until {}",
        text("expires_at").unwrap_or("-")
    )
}

fn required_credential(credential: Option<&SecretString>) -> Result<SecretString, Failure> {
    let missing = || Failure::usage("set COPILOTD_CREDENTIAL to a credential for the server, or pass --credential");
    credential.cloned().ok_or_else(missing)
}

async fn status(server: &ServerArgs, path: &str, status: &str) -> Result<(), Failure> {
    let body = json!({ "status": status });
    let changed = send(server, Method::PATCH, path, Some(body), false).await?;
    print(&format!("{}\n", tenant_line(&changed)))
}

/// Prints all pages of a list, one line per entry.
async fn list(server: &ServerArgs, path: &str, line: impl Fn(&Value) -> String) -> Result<(), Failure> {
    let mut next = String::new();
    loop {
        let page = send(server, Method::GET, &format!("{path}?limit=100{next}"), None, false).await?;
        for entry in page["data"].as_array().into_iter().flatten() {
            print(&format!("{}\n", line(entry)))?;
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => return Ok(()),
        }
    }
}

fn tenant_line(tenant: &Value) -> String {
    let text = |member: &str| tenant[member].as_str().unwrap_or_default();
    let faults = tenant["faults"].as_array().map_or(0, Vec::len);
    let left_out = if faults > 0 {
        "  not served: its settings have faults, see copilotd tenant show"
    } else {
        ""
    };
    format!("{:<24} {:<10} {}{left_out}", text("id"), text("status"), text("origin"))
}

fn key_line(key: &Value) -> String {
    let text = |member: &str| key[member].as_str().unwrap_or("-");
    let scopes: Vec<&str> = key["scopes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let state = match (key["revoked_at"].as_str(), key["expires_at"].as_str()) {
        (Some(at), _) => format!("revoked {at}"),
        (None, Some(at)) => format!("expires {at}"),
        (None, None) => "never expires".to_owned(),
    };
    let (id, name, used) = (text("id"), text("name"), text("last_used_at"));
    format!("{id}  {name:<24} {:<24} {state}, last used {used}", scopes.join(","))
}

fn show(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?;
    print(&format!("{text}\n"))
}

/// Reads a settings file: TOML if its name ends in `.toml`, else JSON.
fn read(path: &Path) -> Result<Value, Failure> {
    let bad = |error: &dyn std::fmt::Display| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| bad(&error))?.len();
    if size > MAX_BYTES {
        return Err(bad(&format!("it is larger than {MAX_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    if is_toml {
        toml::from_str(&text).map_err(|error| bad(&error.message()))
    } else {
        serde_json::from_str(&text).map_err(|error| bad(&error))
    }
}

/// Sends a request; a problem in the answer becomes the failure's message.
async fn send(
    server: &ServerArgs,
    method: Method,
    path: &str,
    body: Option<Value>,
    only_new: bool,
) -> Result<Value, Failure> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build();
    let client = client.map_err(|error| Failure::failed(format!("cannot create an HTTP client: {error}")))?;
    let address = format!("{}{path}", server.server.trim_end_matches('/'));
    let mut request = client
        .request(method, &address)
        .bearer_auth(server.credential.expose_secret());
    if let Some(body) = body {
        request = request.json(&body);
    }
    if only_new {
        request = request.header("if-none-match", "*");
    }
    let silent = |error: reqwest::Error| {
        let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        Failure::failed(format!("no answer from {}: {why}", server.server))
    };
    let mut answer = request.send().await.map_err(silent)?;
    let status = answer.status();
    let body = response_body::read(&mut answer, MAX_ANSWER).await;
    let body = body.map_err(|error| match error {
        BodyError::Network(error) => silent(error),
        BodyError::TooLarge(most) => {
            Failure::failed(format!("the answer from {} has more than {most} bytes", server.server))
        }
    })?;
    if status == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    Err(Failure::failed(problem_text(status, &value)))
}

pub(super) fn problem_text(status: StatusCode, problem: &Value) -> String {
    let title = problem["detail"].as_str().or_else(|| problem["title"].as_str());
    let mut text = title.map_or_else(|| format!("the server answered {status}"), str::to_owned);
    for error in problem["errors"].as_array().into_iter().flatten() {
        let part = |member: &str| error[member].as_str().unwrap_or_default();
        text.push_str(&format!("\n  {}: {}", part("pointer"), part("message")));
    }
    text
}

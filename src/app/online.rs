//! `copilotd check --online`: whether what the configuration names can be reached. Changes nothing there and takes nothing into use.

use std::path::Path;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};

use crate::adapters::mongo::MongoLog;
use crate::adapters::openai::Auth;
use crate::adapters::provider::endpoint;
use crate::adapters::redis_limiter;
use crate::cli::Failure;
use crate::config::{Config, LimitStore, Provider, ProviderAuth, ProviderKind, Store};

/// Longest time for one of them. All are asked at the same time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Least version of Anthropic's protocol that lists models.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// What was asked, and what came of it.
struct Reached {
    what: String,
    outcome: Result<String, String>,
}

/// Asks everything, and prints a line for each.
pub async fn check(config: &Config) -> Result<(), Failure> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("copilotd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let client = client.map_err(|error| Failure::failed(format!("cannot make an HTTP client: {error}")))?;
    let mut asked: Vec<BoxFuture<'_, Reached>> = vec![ask("store".to_owned(), store(config))];
    if let LimitStore::Redis { url, .. } = &config.limits {
        let redis = async {
            redis_limiter::ping(url.expose_secret())
                .await
                .map(|()| "answers".to_owned())
        };
        asked.push(ask("limits (Redis)".to_owned(), redis));
    }
    for provider in &config.providers {
        let keys: Vec<Option<&SecretString>> = match provider.keys().count() {
            0 => vec![None],
            _ => provider.keys().map(Some).collect(),
        };
        for (index, key) in keys.iter().enumerate() {
            let which = if keys.len() > 1 {
                format!(", key {}", index + 1)
            } else {
                String::new()
            };
            let what = format!("provider {}{which} at {}", provider.name, provider.base_url);
            asked.push(ask(what, models(&client, provider, *key)));
        }
    }
    for tenant in &config.tenants {
        for issuer in &tenant.issuers {
            if let Some(url) = &issuer.jwks_url {
                let what = format!("keys of the issuer {} of tenant {} at {url}", issuer.iss, tenant.id);
                asked.push(ask(what, published(&client, url)));
            }
        }
    }
    let mut failed = 0;
    for Reached { what, outcome } in join_all(asked).await {
        match outcome {
            Ok(how) => println!("ok    {what}: {how}"),
            Err(why) => {
                failed += 1;
                println!("FAIL  {what}: {why}");
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::failed(format!(
            "{failed} of what the configuration names cannot be used"
        ))),
    }
}

fn ask<'a>(what: String, outcome: impl Future<Output = Result<String, String>> + Send + 'a) -> BoxFuture<'a, Reached> {
    async move {
        let outcome = tokio::time::timeout(PATIENCE, outcome).await;
        let late = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
        Reached {
            what,
            outcome: outcome.unwrap_or_else(|_elapsed| late()),
        }
    }
    .boxed()
}

async fn store(config: &Config) -> Result<String, String> {
    match &config.store {
        Store::Sqlite => directory(&config.server.data_dir),
        Store::Mongodb { url, database, .. } => {
            let holder = MongoLog::look(url.expose_secret(), database).await;
            holder.map(|holder| match holder {
                Some(owner) => format!("mongodb answers; in use by {owner}"),
                None => "mongodb answers".to_owned(),
            })
        }
    }
}

/// Looks whether the data directory is there and can be written, or can be made.
fn directory(path: &Path) -> Result<String, String> {
    let writable =
        |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    let shown = path.display();
    if path.is_dir() {
        return match writable(path) {
            true => Ok(format!("sqlite in {shown}, which can be written")),
            false => Err(format!("the directory {shown} cannot be written by this user")),
        };
    }
    if path.exists() {
        return Err(format!("{shown} is not a directory"));
    }
    let absolute = std::path::absolute(path).map_err(|_error| format!("{shown} is no path"))?;
    let above = absolute.ancestors().find(|above| above.exists());
    match above.is_some_and(writable) {
        true => Ok(format!("sqlite in {shown}, which is made at the first start")),
        false => Err(format!(
            "the directory {shown} is not there and cannot be made by this user"
        )),
    }
}

/// Asks for a provider's list of models, which costs nothing and needs the key.
async fn models(client: &reqwest::Client, provider: &Provider, key: Option<&SecretString>) -> Result<String, String> {
    let mut request = client.get(endpoint(&provider.base_url, &["models"])?);
    if let Some(key) = key.map(|key| key.expose_secret()) {
        let header = match (provider.kind, provider.auth) {
            (ProviderKind::Anthropic, None | Some(ProviderAuth::ApiKey)) => Some("x-api-key"),
            (ProviderKind::Openai, Some(ProviderAuth::ApiKey)) => Some("api-key"),
            (ProviderKind::Openai, None) if Auth::of(&provider.base_url) == Auth::ApiKey => Some("api-key"),
            _ => None,
        };
        request = match header {
            Some(name) => request.header(name, key),
            None => request.bearer_auth(key),
        };
    }
    if provider.kind == ProviderKind::Anthropic {
        request = request.header("anthropic-version", ANTHROPIC_VERSION);
    }
    for (name, value) in &provider.headers {
        request = request.header(name, value.expose_secret());
    }
    let status = request.send().await.map_err(silent)?.status();
    match (status, key) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(_)) => {
            Err(format!("answers, and refuses the key (status {})", status.as_u16()))
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => {
            Err(format!("answers, and wants a key (status {})", status.as_u16()))
        }
        (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => {
            Ok("answers; it has no list of models, so that its key is not known to be good".to_owned())
        }
        (status, Some(_)) if status.is_success() => Ok("answers, and takes the key".to_owned()),
        (status, _) if status.is_success() || status == StatusCode::TOO_MANY_REQUESTS => Ok("answers".to_owned()),
        (status, _) => Err(format!("answers with status {}", status.as_u16())),
    }
}

async fn published(client: &reqwest::Client, url: &str) -> Result<String, String> {
    let answer = client
        .get(url)
        .header("accept", "application/json")
        .send()
        .await
        .map_err(silent)?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("answers with status {}", status.as_u16()));
    }
    let set: serde_json::Value = answer
        .json()
        .await
        .map_err(|_error| "answers with something that is not JSON".to_owned())?;
    match set["keys"].as_array().map(Vec::len) {
        Some(keys) if keys > 0 => Ok(format!("answers with {keys} keys")),
        _ => Err("answers without any key".to_owned()),
    }
}

/// Says why there is no answer, down to the cause; never with the address, which is named beside it.
fn silent(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("does not answer: {cause}")
}

//! `copilotd check --online`: checks that everything the configuration names can be reached. Changes nothing there.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};

use crate::adapters::index::postgres;
use crate::adapters::limiter::redis as redis_limiter;
use crate::adapters::llm::openai::Auth;
use crate::adapters::llm::provider::endpoint;
use crate::adapters::store::mongo::MongoLog;
use crate::adapters::systems::kinds::Kinds;
use crate::adapters::systems::tools::probe::{refused, silent};
use crate::cli::Failure;
use crate::config::{Config, LimitStore, Provider, ProviderAuth, ProviderKind, Source, Store, Tenant};
use crate::telemetry::traces_url;

use super::knowledge::postgres_options;

/// Longest time for one check.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most checks that run at the same time.
const MAX_CONCURRENT: usize = 32;
/// The oldest version of Anthropic's protocol that lists models.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// What was checked, its line in the file, and the outcome.
struct CheckResult {
    what: String,
    line: Option<usize>,
    outcome: Result<String, String>,
}

/// The checks to be made.
struct Checks<'a> {
    source: &'a Source,
    all: Vec<BoxFuture<'a, CheckResult>>,
}

impl<'a> Checks<'a> {
    /// Adds a check; `path` is the configuration path of its address.
    fn add(&mut self, path: &str, what: String, outcome: impl Future<Output = Result<String, String>> + Send + 'a) {
        let line = self.source.line(path);
        let asked = async move {
            let outcome = tokio::time::timeout(TIMEOUT, outcome).await;
            let late = || Err(format!("no answer within {} s", TIMEOUT.as_secs()));
            CheckResult {
                what,
                line,
                outcome: outcome.unwrap_or_else(|_elapsed| late()),
            }
        };
        self.all.push(asked.boxed());
    }
}

/// Runs all checks and prints a line for each.
pub async fn check(config: &Config, source: &Source, kinds: &Kinds) -> Result<(), Failure> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("copilotd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let client = client.map_err(|error| Failure::failed(format!("cannot create an HTTP client: {error}")))?;
    let mut checks = Checks {
        source,
        all: Vec::new(),
    };
    checks.add("store", "store".to_owned(), store(config));
    if let LimitStore::Redis { url, .. } = &config.limits {
        let redis = async {
            redis_limiter::ping(url.expose_secret())
                .await
                .map(|()| "reachable".to_owned())
        };
        checks.add("limits.url", "limits (Redis)".to_owned(), redis);
    }
    if let Some(options) = postgres_options(&config.knowledge) {
        let index = async move {
            let probed = postgres::probe(&options).await;
            probed
                .map(|()| "reachable".to_owned())
                .map_err(|error| error.to_string())
        };
        checks.add("knowledge.url", "knowledge (PostgreSQL)".to_owned(), index);
    }
    if let Some(endpoint) = &config.telemetry.otlp_endpoint {
        let what = format!("trace collector at {endpoint}");
        checks.add("telemetry.otlp_endpoint", what, collector(&client, endpoint));
    }
    for (index, provider) in config.providers.iter().enumerate() {
        let path = format!("providers[{index}].base_url");
        let what = |which: &str| format!("provider {}{which} at {}", provider.name, provider.base_url);
        providers(&mut checks, &client, provider, provider.keys(), &path, what);
    }
    for (index, tenant) in config.tenants.iter().enumerate() {
        of_tenant(
            &mut checks,
            &client,
            config,
            kinds,
            tenant,
            &format!("tenants[{index}]"),
        );
    }
    let mut failed = 0;
    let mut answers = stream::iter(checks.all).buffered(MAX_CONCURRENT);
    while let Some(CheckResult { what, line, outcome }) = answers.next().await {
        let place = line.map(|line| format!(" (line {line})")).unwrap_or_default();
        match outcome {
            Ok(how) => println!("ok    {what}: {how}{place}"),
            Err(why) => {
                failed += 1;
                println!("FAIL  {what}: {why}{place}");
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::failed(format!(
            "checks failed: {failed}; see the lines marked FAIL"
        ))),
    }
}

/// Adds the checks of a tenant's own issuers, keys and systems.
fn of_tenant<'a>(
    checks: &mut Checks<'a>,
    client: &'a reqwest::Client,
    config: &'a Config,
    kinds: &Kinds,
    tenant: &'a Tenant,
    path: &str,
) {
    let id = &tenant.id;
    for (index, issuer) in tenant.issuers.iter().enumerate() {
        if let Some(url) = &issuer.jwks_url {
            let what = format!("JWKS of the issuer {} of tenant {id} at {url}", issuer.iss);
            let path = format!("{path}.issuers[{index}].jwks_url");
            checks.add(&path, what, published(client, url));
        }
    }
    for (index, own) in tenant.provider_keys.iter().enumerate() {
        // In a checked configuration the provider exists.
        let Some(provider) = config.providers.iter().find(|known| known.name == own.provider) else {
            continue;
        };
        let path = format!("{path}.provider_keys[{index}]");
        let what = |which: &str| {
            let (name, base) = (&provider.name, &provider.base_url);
            format!("provider {name} with the keys of tenant {id}{which} at {base}")
        };
        providers(checks, client, provider, own.keys(), &path, what);
    }
    for system in &tenant.systems {
        // In a checked configuration the kind exists.
        let Some(kind) = kinds.find(&system.kind) else { continue };
        let (vendor, address) = kind.describe(&system.settings);
        let name = match system.name == system.kind {
            true => String::new(),
            false => format!(" {:?}", system.name),
        };
        let what = format!("{vendor}{name} of tenant {id} at {address}");
        checks.add(
            &format!("{path}.{}.base_url", system.path),
            what,
            kind.probe(&system.settings, client),
        );
    }
}

/// Adds a check of a provider with each of `keys`, or without a key if there is none.
fn providers<'a>(
    checks: &mut Checks<'a>,
    client: &'a reqwest::Client,
    provider: &'a Provider,
    keys: impl Iterator<Item = &'a SecretString>,
    path: &str,
    what: impl Fn(&str) -> String,
) {
    let mut keys: Vec<Option<&SecretString>> = keys.map(Some).collect();
    if keys.is_empty() {
        keys.push(None);
    }
    let several = keys.len() > 1;
    for (index, key) in keys.into_iter().enumerate() {
        let which = match several {
            true => format!(", key {}", index + 1),
            false => String::new(),
        };
        checks.add(path, what(&which), models(client, provider, key));
    }
}

async fn store(config: &Config) -> Result<String, String> {
    match &config.store {
        Store::Sqlite => directory(&config.server.data_dir),
        Store::Mongodb { url, database, .. } => {
            let holder = MongoLog::look(url.expose_secret(), database).await;
            holder.map(|holder| match holder {
                Some(owner) => format!("mongodb is reachable; in use by {owner}"),
                None => "mongodb is reachable".to_owned(),
            })
        }
    }
}

/// Checks that the data directory is writable, or can be created.
fn directory(path: &Path) -> Result<String, String> {
    let writable =
        |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    let shown = path.display();
    if path.is_dir() {
        return match writable(path) {
            true => Ok(format!("sqlite in {shown}, writable")),
            false => Err(format!("this user cannot write to the directory {shown}")),
        };
    }
    if path.exists() {
        return Err(format!("{shown} is not a directory"));
    }
    let absolute = std::path::absolute(path).map_err(|_error| format!("{shown} is not a valid path"))?;
    let above = absolute.ancestors().find(|above| above.exists());
    match above.is_some_and(writable) {
        true => Ok(format!("sqlite in {shown}, which is created at the first start")),
        false => Err(format!(
            "the directory {shown} does not exist and this user cannot create it"
        )),
    }
}

/// Requests a provider's model list, which costs nothing and needs the key.
async fn models(client: &reqwest::Client, provider: &Provider, key: Option<&SecretString>) -> Result<String, String> {
    let mut request = client.get(endpoint(&provider.base_url, &["models"])?);
    if let Some(key) = key.map(|key| key.expose_secret()) {
        let header = match (provider.kind, provider.auth) {
            (_, Some(ProviderAuth::Bearer)) => None,
            (ProviderKind::Anthropic, None | Some(ProviderAuth::ApiKey)) => Some("x-api-key"),
            (ProviderKind::Openai, Some(ProviderAuth::ApiKey)) => Some("api-key"),
            (ProviderKind::Openai, None) => (Auth::of(&provider.base_url) == Auth::ApiKey).then_some("api-key"),
        };
        request = match header {
            Some(name) => request.header(name, key),
            None => request.bearer_auth(key),
        };
    }
    request = match provider.kind {
        ProviderKind::Openai => request,
        ProviderKind::Anthropic => request.header("anthropic-version", ANTHROPIC_VERSION),
    };
    for (name, value) in &provider.headers {
        request = request.header(name, value.expose_secret());
    }
    let status = request.send().await.map_err(silent)?.status();
    match (status, key) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(_)) => {
            Err(format!("the key was refused (status {})", status.as_u16()))
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => {
            Err(format!("a key is required (status {})", status.as_u16()))
        }
        (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => {
            Ok("reachable; it has no model list, so the key could not be checked".to_owned())
        }
        (status, Some(_)) if status.is_success() => Ok("reachable, key accepted".to_owned()),
        (status, _) if status.is_success() || status == StatusCode::TOO_MANY_REQUESTS => Ok("reachable".to_owned()),
        (status, _) => Err(format!("answered with status {}", status.as_u16())),
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
        return Err(format!("answered with status {}", status.as_u16()));
    }
    let set: serde_json::Value = answer
        .json()
        .await
        .map_err(|_error| "did not answer with JSON".to_owned())?;
    match set["keys"].as_array().map(Vec::len) {
        Some(keys) if keys > 0 => Ok(format!("published keys: {keys}")),
        _ => Err("published no keys".to_owned()),
    }
}

/// Sends the collector an empty export, which it acknowledges.
async fn collector(client: &reqwest::Client, endpoint: &str) -> Result<String, String> {
    let request = client
        .post(traces_url(endpoint))
        .header("content-type", "application/x-protobuf")
        .body(Vec::new());
    let status = request.send().await.map_err(silent)?.status();
    match status {
        status if status.is_success() => Ok("accepts traces".to_owned()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(status)),
        status => Err(format!("answered with status {}", status.as_u16())),
    }
}

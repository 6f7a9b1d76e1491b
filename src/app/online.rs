//! `copilotd check --online`: whether what the configuration names can be reached. Changes nothing there and takes nothing into use.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};

use super::online_systems as systems;
use crate::adapters::mongo::MongoLog;
use crate::adapters::openai::Auth;
use crate::adapters::provider::endpoint;
use crate::adapters::redis_limiter;
use crate::cli::Failure;
use crate::config::{Config, LimitStore, Provider, ProviderAuth, ProviderKind, Source, Store, Tenant};

/// Longest time for one of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many are asked at the same time.
const AT_ONCE: usize = 32;
/// Least version of Anthropic's protocol that lists models.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// What was asked, where it stands in the file, and what came of it.
struct Reached {
    what: String,
    line: Option<usize>,
    outcome: Result<String, String>,
}

/// What is to be asked.
struct Questions<'a> {
    source: &'a Source,
    all: Vec<BoxFuture<'a, Reached>>,
}

impl<'a> Questions<'a> {
    /// Adds one; `path` is where its address stands.
    fn ask(&mut self, path: &str, what: String, outcome: impl Future<Output = Result<String, String>> + Send + 'a) {
        let line = self.source.line(path);
        let asked = async move {
            let outcome = tokio::time::timeout(PATIENCE, outcome).await;
            let late = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
            Reached {
                what,
                line,
                outcome: outcome.unwrap_or_else(|_elapsed| late()),
            }
        };
        self.all.push(asked.boxed());
    }
}

/// Asks everything, and prints a line for each.
pub async fn check(config: &Config, source: &Source) -> Result<(), Failure> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("copilotd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let client = client.map_err(|error| Failure::failed(format!("cannot make an HTTP client: {error}")))?;
    let mut questions = Questions {
        source,
        all: Vec::new(),
    };
    questions.ask("store", "store".to_owned(), store(config));
    if let LimitStore::Redis { url, .. } = &config.limits {
        let redis = async {
            redis_limiter::ping(url.expose_secret())
                .await
                .map(|()| "answers".to_owned())
        };
        questions.ask("limits.url", "limits (Redis)".to_owned(), redis);
    }
    if let Some(endpoint) = &config.telemetry.otlp_endpoint {
        let what = format!("collector of traces at {endpoint}");
        questions.ask("telemetry.otlp_endpoint", what, systems::collector(&client, endpoint));
    }
    for (index, provider) in config.providers.iter().enumerate() {
        let path = format!("providers[{index}].base_url");
        let what = |which: &str| format!("provider {}{which} at {}", provider.name, provider.base_url);
        providers(&mut questions, &client, provider, provider.keys(), &path, what);
    }
    for (index, tenant) in config.tenants.iter().enumerate() {
        of_tenant(&mut questions, &client, config, tenant, &format!("tenants[{index}]"));
    }
    let mut failed = 0;
    let mut answers = stream::iter(questions.all).buffered(AT_ONCE);
    while let Some(Reached { what, line, outcome }) = answers.next().await {
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
            "{failed} of what the configuration names cannot be used"
        ))),
    }
}

/// Asks what a tenant has of its own.
fn of_tenant<'a>(
    questions: &mut Questions<'a>,
    client: &'a reqwest::Client,
    config: &'a Config,
    tenant: &'a Tenant,
    path: &str,
) {
    let id = &tenant.id;
    for (index, issuer) in tenant.issuers.iter().enumerate() {
        if let Some(url) = &issuer.jwks_url {
            let what = format!("keys of the issuer {} of tenant {id} at {url}", issuer.iss);
            let path = format!("{path}.issuers[{index}].jwks_url");
            questions.ask(&path, what, published(client, url));
        }
    }
    for (index, own) in tenant.provider_keys.iter().enumerate() {
        // A checked configuration names providers that there are.
        let Some(provider) = config.providers.iter().find(|known| known.name == own.provider) else {
            continue;
        };
        let path = format!("{path}.provider_keys[{index}]");
        let what = |which: &str| {
            let (name, base) = (&provider.name, &provider.base_url);
            format!("provider {name} with the keys of tenant {id}{which} at {base}")
        };
        providers(questions, client, provider, own.keys(), &path, what);
    }
    if let Some(zendesk) = &tenant.zendesk {
        let what = format!("Zendesk of tenant {id} at {}", zendesk.base_url);
        questions.ask(
            &format!("{path}.zendesk.base_url"),
            what,
            systems::zendesk(client, zendesk),
        );
    }
    if let Some(slack) = &tenant.slack {
        let what = format!("Slack of tenant {id} at {}", slack.base_url);
        questions.ask(&format!("{path}.slack.base_url"), what, systems::slack(client, slack));
    }
}

/// Asks a provider with each of some keys; without a key if there is none.
fn providers<'a>(
    questions: &mut Questions<'a>,
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
        questions.ask(path, what(&which), models(client, provider, key));
    }
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
pub(super) fn silent(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("does not answer: {cause}")
}

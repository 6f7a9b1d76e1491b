//! `copilotd demo`: the whole product in one process with built-in settings, simulated providers and systems, and a few
//! help articles.

mod handbook;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use copilotd_sim::{Account, Running};
use jiff::SignedDuration;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::demo_origin::DemoAddress;
use super::demo_page::VendorApps;
use super::store::IfInUse;
use super::{demo_page, files, serve};
use crate::cli::{Context, DemoArgs, Failure};
use crate::config::{Config, Source};
use crate::http::credentials::{Grant, Scopes, mint};
use crate::surfaces::router::router;
use crate::surfaces::state::AppState;
use crate::{private_files, telemetry};
use copilotd_actors::domain::access::key_hash::KeyHash;

/// The demo's tenants; each has these two users.
const TENANTS: [&str; 2] = ["acme", "globex"];
const USERS: [&str; 2] = ["ada", "bob"];
/// The tenant that may grant the scope operator. Its key is stored beside the others'; no token of it is handed out.
const OPERATOR: &str = "ops";
/// Lifetime of the printed tokens.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// The simulated provider and systems.
struct Simulators {
    openai: Running,
    zendesk: Running,
    slack: Running,
}

/// Returns the token of a tenant's own simulated Zendesk account.
fn zendesk_token(tenant: &str) -> String {
    format!("{tenant}-zendesk-token")
}

/// Returns the token of a tenant's own simulated Slack workspace.
fn slack_token(tenant: &str) -> String {
    format!("xoxb-{tenant}")
}

/// Returns each tenant's account at a simulated vendor; no tenant sees another one's data there.
fn accounts(token: fn(&str) -> String) -> Vec<Account> {
    let account = |tenant: &str| Account {
        name: tenant.to_owned(),
        token: token(tenant),
    };
    TENANTS.map(account).into()
}

/// Runs the demo until a signal.
pub async fn run(args: &DemoArgs, context: &Context) -> anyhow::Result<()> {
    private_files::create_directory(&args.data_dir)
        .with_context(|| format!("cannot create the directory {}", args.data_dir.display()))?;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let simulators = Simulators {
        openai: copilotd_sim::openai::start(loopback).await?,
        zendesk: copilotd_sim::zendesk::start_accounts(
            loopback,
            args.data_dir.join("zendesk.json"),
            accounts(zendesk_token),
        )
        .await?,
        slack: copilotd_sim::slack::start_accounts(loopback, args.data_dir.join("slack.json"), accounts(slack_token))
            .await?,
    };
    let text = configuration(args, context, &simulators)?;
    let read = || {
        let source = Source::parse(&text, &context.env, &context.kinds);
        source.map_err(|faults| Failure::failed(format!("demo: {faults}")))
    };
    let source = read().map_err(|failure| anyhow::anyhow!("{failure}"))?;
    let config = source.config().map_err(|faults| anyhow::anyhow!("demo: {faults}"))?;
    let _telemetry = telemetry::start(&config.telemetry)?;
    let mut about = about(&config, context, &args.data_dir, &simulators)?;
    let directory = args.data_dir.clone();
    let real = context.env.get("OPENAI_API_KEY").is_some();
    about["simulated_model"] = json!(!real);
    let page_about = std::sync::Arc::new(std::sync::OnceLock::<Value>::new());
    let served = std::sync::Arc::clone(&page_about);
    let own_address = DemoAddress::default();
    let guarded = own_address.clone();
    let apps = VendorApps {
        zendesk: simulators.zendesk.person_routes(),
        slack: simulators.slack.person_routes(),
    };
    let routes = move |state| router(state).merge(demo_page::routes(served, guarded, apps));
    serve::run_with(
        source,
        read,
        IfInUse::Refuse,
        routes,
        async move |address, state: &AppState| {
            handbook::store(&state.library).await;
            about["base_url"] = json!(format!("http://{address}"));
            files::write(&directory.join("demo.json"), &serde_json::to_string_pretty(&about)?)?;
            let guide = guide(&about, &directory, real);
            // Set once, because this is called once. Before the guide is printed, so that its page answers.
            let _ = page_about.set(about);
            own_address.set(address);
            println!("{guide}");
            Ok(())
        },
    )
    .await
}

/// Writes the demo's configuration as TOML. Secrets are generated once per data directory.
fn configuration(args: &DemoArgs, context: &Context, simulators: &Simulators) -> anyhow::Result<String> {
    let env = |name: &str, default: &str| context.env.get(name).unwrap_or(default).to_owned();
    let simulated = format!("{}/v1", simulators.openai.base_url());
    let (base_url, key, model, small) = match context.env.get("OPENAI_API_KEY") {
        Some(key) => (
            env("OPENAI_BASE_URL", "https://api.openai.com/v1"),
            key.to_owned(),
            env("OPENAI_MODEL", "gpt-4o"),
            env("OPENAI_SMALL_MODEL", "gpt-4o-mini"),
        ),
        None => (
            simulated,
            "simulated".to_owned(),
            "sim-large".to_owned(),
            "sim-small".to_owned(),
        ),
    };
    let mut text = String::new();
    writeln!(
        text,
        "[server]\nlisten = \"127.0.0.1:{}\"\ndata_dir = {}",
        args.port,
        quoted(&args.data_dir.to_string_lossy())
    )?;
    writeln!(
        text,
        "drain_s = 5\n[telemetry]\nlog_format = \"pretty\"\nlog_level = {}",
        quoted(&env("RUST_LOG", "warn"))
    )?;
    writeln!(
        text,
        "[[providers]]\nname = \"main\"\nkind = \"openai\"\nbase_url = {}\napi_key = {{ value = {} }}",
        quoted(&base_url),
        quoted(&key)
    )?;
    for (route, model) in [("default", &model), ("small", &small)] {
        let target = format!(
            "{{ provider = \"main\", model = {}, context_tokens = 128000 }}",
            quoted(model)
        );
        writeln!(text, "[[routes]]\nname = \"{route}\"\ntargets = [{target}]")?;
    }
    // Prices of the simulated models, so that reports show costs. Prices of a real model are up to its user.
    for (model, input, output) in [("sim-large", 2.5, 10.0), ("sim-small", 0.15, 0.6)] {
        writeln!(
            text,
            "[[prices]]\nmodel = \"{model}\"\ninput = {input}\noutput = {output}"
        )?;
    }
    let secret = hex::encode(files::key(&args.data_dir, &format!("{OPERATOR}.jwt.key"))?);
    writeln!(
        text,
        r#"[[tenants]]
id = "{OPERATOR}"
operator = true
  [[tenants.issuers]]
  iss = "https://{OPERATOR}.example"
  alg = "HS256"
  secret = {{ value = "{secret}" }}
  scopes = ["chat", "gateway", "knowledge", "admin", "operator"]
  [[tenants.copilots]]
  name = "support"
  route = "default"
  small_route = "small""#
    )?;
    for tenant in TENANTS {
        let secret = hex::encode(files::key(&args.data_dir, &format!("{tenant}.jwt.key"))?);
        let hash = hex::encode(KeyHash::of(&gateway_key(&args.data_dir, tenant)?).bytes());
        writeln!(
            text,
            r#"[[tenants]]
id = "{tenant}"
  [[tenants.issuers]]
  iss = "https://{tenant}.example"
  alg = "HS256"
  secret = {{ value = "{secret}" }}
  [[tenants.api_keys]]
  name = "gateway"
  hash = "sha256:{hash}"
  scopes = ["gateway"]
  [[tenants.copilots]]
  name = "support"
  instructions = "You help the support team of {tenant}. Use the tools for tickets and messages; be brief."
  route = "default"
  small_route = "small"
  tools = ["zendesk_search_tickets", "zendesk_get_ticket", "zendesk_list_comments", "zendesk_create_ticket",
    "zendesk_update_ticket", "zendesk_add_comment", "slack_post_message", "slack_reply_in_thread"]
  approval = ["zendesk_create_ticket"]
  knowledge = ["{collection}"]
  citations = "on"
  [tenants.zendesk]
  base_url = "{zendesk}"
  email = "bot@{tenant}.example"
  token = {{ value = "{zendesk_token}" }}
  [tenants.slack]
  base_url = "{slack}/api/"
  bot_token = {{ value = "{slack_token}" }}"#,
            collection = handbook::COLLECTION,
            zendesk_token = zendesk_token(tenant),
            slack_token = slack_token(tenant),
            zendesk = simulators.zendesk.base_url(),
            slack = simulators.slack.base_url(),
        )?;
    }
    Ok(text)
}

/// Quotes a text as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Returns an API key that stays the same for its data directory.
fn gateway_key(directory: &Path, tenant: &str) -> anyhow::Result<String> {
    use base64::Engine as _;
    let bytes = files::key(directory, &format!("{tenant}.gateway.key"))?;
    Ok(format!(
        "cpk_{}",
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    ))
}

/// Returns the content of `demo.json`; the address is added once it is known.
fn about(config: &Config, context: &Context, directory: &Path, simulators: &Simulators) -> anyhow::Result<Value> {
    let token = |tenant: &str, user: &str, scopes: Scopes| -> anyhow::Result<String> {
        let grant = Grant {
            tenant: tenant.parse()?,
            user: user.parse()?,
            scopes,
            life: TOKEN_LIFE,
        };
        Ok(mint(config, &grant, context.now)?.expose_secret().to_owned())
    };
    let mut tenants = serde_json::Map::new();
    for tenant in TENANTS {
        let mut users = serde_json::Map::new();
        for user in USERS {
            users.insert(user.to_owned(), json!(token(tenant, user, Scopes::CHAT)?));
        }
        let admin = token(tenant, "admin", [Scopes::CHAT, Scopes::ADMIN].into_iter().collect())?;
        let gateway_key = gateway_key(directory, tenant)?;
        tenants.insert(
            tenant.to_owned(),
            json!({ "users": users, "admin": admin, "gateway_key": gateway_key }),
        );
    }
    Ok(json!({
        "base_url": null,
        "pid": std::process::id(),
        "tenants": tenants,
        "sim": {
            "openai": simulators.openai.base_url(),
            "zendesk": simulators.zendesk.base_url(),
            "slack": simulators.slack.base_url(),
        },
    }))
}

/// Returns the text that is printed once the demo is ready.
fn guide(about: &Value, directory: &Path, real: bool) -> String {
    let base = about["base_url"].as_str().unwrap_or_default();
    let token = about["tenants"]["acme"]["users"]["ada"].as_str().unwrap_or_default();
    let model = if real {
        "the provider of OPENAI_API_KEY"
    } else {
        "a simulated model (set OPENAI_API_KEY for a real one)"
    };
    format!(
        r#"copilotd demo is ready, with {model}.

  Open          {base}/
                a sample product with the copilot in it; its Zendesk and Slack, both simulated, are a click away
  Everything    {directory}/demo.json  (tokens, and where the simulated systems listen)

Try it:
  TOKEN={token}
  CONV=$(curl -s {base}/v1/conversations -H "authorization: Bearer $TOKEN" -H 'content-type: application/json' -d '{{}}' | sed 's/.*"id":"\(conv_[0-9a-f]*\)".*/\1/')
  curl -s {base}/v1/conversations/$CONV/turns -H "authorization: Bearer $TOKEN" -H 'content-type: application/json' -d '{{"input":"Summarise the unread tickets and alert #support"}}'
  curl -sN "{base}/v1/conversations/$CONV/events?after=0" -H "authorization: Bearer $TOKEN"      # Ctrl-C stops watching; the turn goes on
  curl -s {base}/v1/conversations/$CONV/messages -H "authorization: Bearer $TOKEN"

Kill it at any moment and start it again on the same directory: it continues where it stopped."#,
        directory = directory.display()
    )
}

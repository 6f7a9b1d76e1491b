//! The configuration of the server under test: two tenants, and every dependency behind a proxy.

use std::path::Path;

use copilotd_actors::domain::access::key_hash::KeyHash;

use crate::schedule::TENANTS;

/// How long the next process waits after a kill on MongoDB, and how long the store may be unavailable without ending
/// the process.
pub const LEASE_S: u64 = 12;

/// Addresses of the server's dependencies.
pub struct Addresses {
    pub provider: String,
    pub zendesk: String,
    pub slack: String,
    pub limits: String,
    /// Address of the store, unless it is SQLite.
    pub store: Option<String>,
}

/// Returns a key that may act for any user of the tenant.
pub fn user_key(tenant: usize) -> String {
    format!("cpk_{}", TENANTS[tenant].chars().cycle().take(43).collect::<String>())
}

/// Returns a key that may read the tenant's usage.
pub fn admin_key(tenant: usize) -> String {
    format!(
        "cpk_{}",
        format!("admin{}", TENANTS[tenant])
            .chars()
            .cycle()
            .take(43)
            .collect::<String>()
    )
}

/// Tool timeouts are short, because a call that is looked up after a crash has to wait for them. So are the timeouts of
/// model calls: a silent provider must be given up within the run.
pub fn configuration(addresses: &Addresses, data: &Path) -> String {
    let store = addresses.store.as_ref().map_or(String::new(), |url| {
        format!(
            "[store]\nkind = \"mongodb\"\nurl = {{ value = \"{url}\" }}\ndatabase = \"copilotd\"\nlease_s = {LEASE_S}\n"
        )
    });
    let tenants: String = (0..TENANTS.len()).map(|tenant| one_tenant(addresses, tenant)).collect();
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
data_dir = "{data}"
drain_s = 5
{store}
[telemetry]
log_level = "info"
[limits]
store = "redis"
url = {{ value = "{limits}" }}
[[providers]]
name = "main"
kind = "openai"
base_url = "{provider}/v1"
api_key = {{ value = "simulated" }}
[[routes]]
name = "default"
targets = [{{ provider = "main", model = "sim-large", context_tokens = 128000 }}]
timeouts = {{ connect_ms = 1000, first_token_ms = 5000, idle_ms = 5000, total_ms = 60000 }}
[[prices]]
model = "sim-large"
input = 2.0
cached_input = 1.0
output = 8.0
{tenants}"#,
        data = data.display(),
        limits = addresses.limits,
        provider = addresses.provider,
    )
}

fn one_tenant(addresses: &Addresses, tenant: usize) -> String {
    let copilot = |name: &str, more: &str| {
        format!(
            r#"
  [[tenants.copilots]]
  name = "{name}"
  route = "default"
  small_route = "default"
  titles = false
  tools = ["zendesk_search_tickets", "zendesk_get_ticket", "zendesk_create_ticket", "zendesk_add_comment",
    "slack_post_message"]
  tool_timeouts = {{ zendesk_create_ticket = 2, zendesk_add_comment = 2, slack_post_message = 2 }}
  {more}"#
        )
    };
    format!(
        r#"
[[tenants]]
id = "{id}"
  [[tenants.api_keys]]
  name = "backend"
  hash = "{hash}"
  scopes = ["chat"]
  [[tenants.api_keys]]
  name = "auditor"
  hash = "{admin_hash}"
  scopes = ["admin"]
  [tenants.limits]
  requests_per_minute = 100000
  tokens_per_minute = 100000000
  concurrent_calls = 1000
  {money}
  writes_per_minute = 0
  per_user = {{ writes_per_minute = 0 }}
{support}
{careful}
  [tenants.zendesk]
  base_url = "{zendesk}"
  email = "bot@{id}.example"
  token = {{ value = "zendesk-{id}" }}
  [tenants.slack]
  base_url = "{slack}/api/"
  bot_token = {{ value = "xoxb-{id}" }}
"#,
        id = TENANTS[tenant],
        hash = KeyHash::of(&user_key(tenant)),
        admin_hash = KeyHash::of(&admin_key(tenant)),
        // Redis down: budgets are refused, rate limits are not. One tenant of each kind.
        money = ["", "usd_per_month = 10000.0"][tenant % 2],
        support = copilot("support", ""),
        careful = copilot("careful", "approval = [\"zendesk_create_ticket\"]"),
        zendesk = addresses.zendesk,
        slack = addresses.slack,
    )
}

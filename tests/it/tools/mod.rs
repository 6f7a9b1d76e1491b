//! The tools against small scripted servers; their requests are checked against the vendors' published descriptions.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod definitions;
mod markdown;
mod named_systems;
mod odd_answers;
mod odd_slack;
mod odd_zendesk;
mod rate;
mod slack;
mod slack_channels;
mod slack_long;
mod slack_lookup;
mod specs;
pub mod stub;
mod systems;
mod text;
mod tracing;
mod unread;
mod zendesk;
mod zendesk_changes;
mod zendesk_errors;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use copilotd::adapters::systems::kinds::Kinds;
use copilotd::adapters::systems::slack::{Slack, SlackConfig, SlackKind};
use copilotd::adapters::systems::tools;
use copilotd::adapters::systems::zendesk::{Zendesk, ZendeskAuth, ZendeskConfig, ZendeskKind};
use copilotd::config::SystemKinds;
use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::{Clock, ToolDefinitions, ToolRequest};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;
use uuid::Uuid;

use self::stub::Stub;

/// Ten o'clock on a day in 2026.
const NOW: i64 = 1_790_000_000;

#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

fn call_id(n: u128) -> CallId {
    CallId::new(Uuid::from_u128(n))
}

/// The kinds of systems, for reading a configuration.
pub fn kinds() -> SystemKinds {
    static KINDS: LazyLock<SystemKinds> = LazyLock::new(|| SystemKinds::new(Kinds::built_in().for_config()));
    KINDS.clone()
}

static ZENDESK: LazyLock<ZendeskKind> = LazyLock::new(ZendeskKind::default);
static SLACK: LazyLock<SlackKind> = LazyLock::new(SlackKind::default);

/// The tools of every registered kind, in a system with the default name.
pub fn definitions() -> &'static ToolDefinitions {
    static ALL: LazyLock<ToolDefinitions> = LazyLock::new(|| Kinds::built_in().definitions());
    &ALL
}

/// A call as the core makes it: its arguments satisfy the tool's schema.
pub fn request(tool: &str, arguments: Value) -> ToolRequest {
    let definition = &definitions()[tool];
    assert_eq!(definition.parameters.check(&arguments), Ok(()), "{tool}");
    ToolRequest {
        scope: TenantScope::from_verified("acme".parse().unwrap()),
        tool: tool.to_owned(),
        call: call_id(7),
        arguments,
        timeout: Duration::from_secs(5),
    }
}

/// One client for tests that need many: building one takes time.
fn client() -> reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| tools::http::client().unwrap());
    CLIENT.clone()
}

pub fn zendesk(stub: &Stub) -> Zendesk {
    zendesk_at(&stub.url)
}

fn zendesk_at(base_url: &str) -> Zendesk {
    let config = ZendeskConfig {
        base_url: base_url.to_owned(),
        auth: ZendeskAuth::Token {
            email: "bot@acme.test".into(),
            token: SecretString::from("zd-secret"),
        },
    };
    ZENDESK.account("zendesk", &config, client()).unwrap()
}

pub fn slack(stub: &Stub) -> Slack {
    slack_at(&stub.url)
}

fn slack_at(url: &str) -> Slack {
    let config = SlackConfig {
        base_url: format!("{url}/api/"),
        token: SecretString::from("xoxb-secret"),
    };
    SLACK
        .workspace("slack", &config, client(), Arc::new(FixedClock))
        .unwrap()
}

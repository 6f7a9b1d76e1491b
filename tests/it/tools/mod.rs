//! The tools against small scripted servers; their requests are checked against the vendors' published descriptions.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod definitions;
mod markdown;
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

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::systems::slack::{Slack, SlackConfig};
use copilotd::adapters::systems::tools;
use copilotd::adapters::systems::zendesk::{Zendesk, ZendeskAuth, ZendeskConfig};
use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::{Clock, ToolRequest};
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

/// A call as the core makes it: its arguments satisfy the tool's schema.
pub fn request(tool: &str, arguments: Value) -> ToolRequest {
    let definition = &tools::definitions()[tool];
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
    static CLIENT: std::sync::LazyLock<reqwest::Client> = std::sync::LazyLock::new(|| tools::http::client().unwrap());
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
    Zendesk::new(&config, client()).unwrap()
}

pub fn slack(stub: &Stub) -> Slack {
    let config = SlackConfig {
        base_url: format!("{}/api/", stub.url),
        token: SecretString::from("xoxb-secret"),
    };
    Slack::new(&config, client(), Arc::new(FixedClock)).unwrap()
}

//! Slack as a kind of system: its settings, and what has to fit together in them.

use std::sync::Arc;

use copilotd_actors::ports::{Clock, ToolDefinitions};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::api::Call;
use super::{Slack, SlackConfig, TOOLS};
use crate::adapters::systems::tools::InvalidConfig;
use crate::adapters::systems::tools::member::at;
use crate::adapters::systems::tools::probe::{ask, refused};
use crate::adapters::systems::tools::toolset::Toolset;
use crate::adapters::systems::{Shared, System, SystemFactory};
use crate::system_kind::{SettingsCheck, SystemKind, SystemSettings};

const NAME: &str = "slack";
/// Address of the Web API, unless it is simulated.
const BASE_URL: &str = "https://slack.com/api/";

/// The settings of a Slack workspace; `signing_secret` is not needed for its tools.
#[derive(Deserialize)]
struct Settings {
    base_url: Option<String>,
    bot_token: SecretString,
}

/// Slack workspaces.
pub struct SlackKind {
    tools: Arc<Toolset<Call>>,
}

impl Default for SlackKind {
    fn default() -> Self {
        Self {
            tools: Arc::new(Toolset::new(NAME, TOOLS)),
        }
    }
}

impl SlackKind {
    /// Builds one workspace; sends nothing.
    pub fn workspace(
        &self,
        name: &str,
        config: &SlackConfig,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
    ) -> Result<Slack, InvalidConfig> {
        Slack::new(config, client, clock, self.tools.of_system(name)?)
    }
}

impl SystemKind for SlackKind {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> &'static str {
        include_str!("settings.json")
    }

    fn tools(&self) -> Option<Vec<&'static str>> {
        Some(self.tools.names().collect())
    }

    fn check(&self, settings: &mut SettingsCheck<'_>) {
        settings.address("base_url");
        settings.fits_a_header("bot_token");
    }
}

impl SystemFactory for SlackKind {
    fn build(&self, name: &str, settings: &SystemSettings, shared: &Shared) -> Result<Arc<dyn System>, InvalidConfig> {
        let config = config(settings).map_err(|reason| InvalidConfig {
            system: name.to_owned().into(),
            reason,
        })?;
        let slack = self.workspace(name, &config, shared.client.clone(), Arc::clone(&shared.clock))?;
        Ok(Arc::new(slack))
    }

    /// Checks the bot token with `auth.test`.
    fn probe<'a>(
        &self,
        settings: &SystemSettings,
        client: &'a reqwest::Client,
    ) -> BoxFuture<'a, Result<String, String>> {
        let config = config(settings);
        async move {
            let config = config?;
            let base = config.base_url.trim_end_matches('/');
            let request = client
                .post(format!("{base}/auth.test"))
                .bearer_auth(config.token.expose_secret());
            let (status, answer) = ask(request).await?;
            match (status, at(&answer, &["ok"]).as_bool()) {
                (StatusCode::TOO_MANY_REQUESTS, _) => {
                    Ok("reachable; its rate limit is reached, so the token could not be checked".to_owned())
                }
                (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(refused(status)),
                (status, Some(true)) if status.is_success() => Ok("reachable, token accepted".to_owned()),
                (status, Some(false)) if status.is_success() => {
                    let word = at(&answer, &["error"]).as_str().unwrap_or("no reason given");
                    // Only an error code of Slack's API is repeated, nothing else.
                    let is_word =
                        word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                    Err(format!(
                        "the token was refused ({})",
                        if is_word { word } else { "no reason given" }
                    ))
                }
                (status, _) if status.is_success() => Err("answered, but not as Slack does; check base_url".to_owned()),
                (status, _) => Err(format!("answered with status {}", status.as_u16())),
            }
        }
        .boxed()
    }

    fn definitions(&self) -> Arc<ToolDefinitions> {
        self.tools.definitions()
    }

    fn describe(&self, settings: &SystemSettings) -> (&'static str, String) {
        ("Slack", settings.text("base_url").unwrap_or(BASE_URL).to_owned())
    }
}

fn config(settings: &SystemSettings) -> Result<SlackConfig, String> {
    let settings: Settings = settings.read()?;
    Ok(SlackConfig {
        base_url: settings.base_url.unwrap_or_else(|| BASE_URL.to_owned()),
        token: settings.bot_token,
    })
}

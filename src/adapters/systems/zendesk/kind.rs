//! Zendesk as a kind of system: its settings, and what has to fit together in them.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use copilotd_actors::ports::ToolDefinitions;
use copilotd_knowledge::sync::Feed;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::api::Call;
use super::feed::Accounts;
use super::{TOOLS, Zendesk, ZendeskAuth, ZendeskConfig};
use crate::adapters::systems::tools::InvalidConfig;
use crate::adapters::systems::tools::member::{as_number, at};
use crate::adapters::systems::tools::probe::{ask, refused};
use crate::adapters::systems::tools::toolset::Toolset;
use crate::adapters::systems::{Shared, System, SystemFactory};
use crate::system_kind::{SettingsCheck, SystemKind, SystemSettings};

const NAME: &str = "zendesk";

/// The settings of a Zendesk account: `email` and `token`, or `oauth_token`.
#[derive(Deserialize)]
struct Settings {
    base_url: String,
    email: Option<String>,
    token: Option<SecretString>,
    oauth_token: Option<SecretString>,
}

/// Accounts of Zendesk Support.
pub struct ZendeskKind {
    tools: Arc<Toolset<Call>>,
    /// Those that sources read.
    accounts: Accounts,
}

impl Default for ZendeskKind {
    fn default() -> Self {
        Self {
            tools: Arc::new(Toolset::new(NAME, TOOLS)),
            accounts: Accounts::default(),
        }
    }
}

impl ZendeskKind {
    /// Builds one account; sends nothing.
    pub fn account(
        &self,
        name: &str,
        config: &ZendeskConfig,
        client: reqwest::Client,
    ) -> Result<Zendesk, InvalidConfig> {
        Zendesk::new(config, client, self.tools.of_system(name)?)
    }
}

impl SystemKind for ZendeskKind {
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
        settings.fits_a_header("token");
        settings.fits_a_header("oauth_token");
        let has = |name| settings.has(name);
        match (has("email"), has("token"), has("oauth_token")) {
            (true, true, false) | (false, false, true) => {}
            (_, _, true) => settings.fault("oauth_token", "give either oauth_token, or email and token, not both"),
            (false, true, false) => settings.fault("email", "is required with token"),
            (true, false, false) => settings.fault("token", "is required with email"),
            (false, false, false) => settings.fault_of_all("give oauth_token, or email and token"),
        }
    }
}

impl SystemFactory for ZendeskKind {
    fn build(&self, name: &str, settings: &SystemSettings, shared: &Shared) -> Result<Arc<dyn System>, InvalidConfig> {
        let config = config(settings).map_err(|reason| InvalidConfig {
            system: name.to_owned().into(),
            reason,
        })?;
        Ok(Arc::new(self.account(name, &config, shared.client.clone())?))
    }

    fn feed(
        &self,
        settings: &SystemSettings,
        source: &SystemSettings,
        shared: &Shared,
    ) -> Result<Arc<dyn Feed>, InvalidConfig> {
        let config = config(settings).map_err(|reason| InvalidConfig {
            system: NAME.into(),
            reason,
        })?;
        super::feed(&config, source, &self.accounts, shared.client.clone())
    }

    /// Checks the credential with `users/me`.
    fn probe<'a>(
        &self,
        settings: &SystemSettings,
        client: &'a reqwest::Client,
    ) -> BoxFuture<'a, Result<String, String>> {
        let config = config(settings);
        async move {
            let config = config?;
            let base = config.base_url.trim_end_matches('/');
            let request = client.get(format!("{base}/api/v2/users/me.json"));
            let request = match &config.auth {
                ZendeskAuth::OAuth(token) => request.bearer_auth(token.expose_secret()),
                ZendeskAuth::Token { email, token } => {
                    let pair = format!("{email}/token:{}", token.expose_secret());
                    request.header("authorization", format!("Basic {}", BASE64_STANDARD.encode(pair)))
                }
            };
            let (status, answer) = ask(request).await?;
            match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(status)),
                StatusCode::TOO_MANY_REQUESTS => {
                    Ok("reachable; its rate limit is reached, so the credential could not be checked".to_owned())
                }
                status if status.is_success() => match as_number(at(&answer, &["user", "id"])) {
                    Some(_) => Ok("reachable, credential accepted".to_owned()),
                    // Zendesk answers an invalid credential with an anonymous user that has no id.
                    None => Err("the credential is not valid".to_owned()),
                },
                status => Err(format!("answered with status {}", status.as_u16())),
            }
        }
        .boxed()
    }

    fn definitions(&self) -> Arc<ToolDefinitions> {
        self.tools.definitions()
    }

    fn describe(&self, settings: &SystemSettings) -> (&'static str, String) {
        ("Zendesk", settings.text("base_url").unwrap_or_default().to_owned())
    }
}

fn config(settings: &SystemSettings) -> Result<ZendeskConfig, String> {
    let settings: Settings = settings.read()?;
    let auth = match (settings.oauth_token, settings.email, settings.token) {
        (Some(token), _, _) => ZendeskAuth::OAuth(token),
        (None, Some(email), Some(token)) => ZendeskAuth::Token { email, token },
        _ => return Err("give oauth_token, or email and token".to_owned()),
    };
    Ok(ZendeskConfig {
        base_url: settings.base_url,
        auth,
    })
}

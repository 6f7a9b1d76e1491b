//! Slack: messages, channels and people of one tenant's workspace.

mod api;
mod blocks;
mod channels;
mod escape;
mod find_channel;
mod find_user;
mod kind;
mod markdown;
pub mod message;
mod people;
mod post_message;
mod posted;
mod reply_in_thread;
mod send_direct_message;
mod started;
mod update_message;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::ports::{Clock, LookUp, ToolBox, ToolDefinitions, ToolError, ToolReply, ToolRequest};
use secrecy::SecretString;

use self::api::{Api, Call};
pub use self::kind::SlackKind;
use super::System;
use super::tools::toolset::SystemTools;
use super::tools::{InvalidConfig, Tool, run};

/// Every tool of this system.
static TOOLS: &[&dyn Tool<Call>] = &[
    &post_message::PostMessage,
    &reply_in_thread::ReplyInThread,
    &update_message::UpdateMessage,
    &find_channel::FindChannel,
    &find_user::FindUser,
    &send_direct_message::SendDirectMessage,
];

/// How one tenant's Slack workspace is reached.
#[derive(Debug, Clone)]
pub struct SlackConfig {
    /// `https://slack.com/api/`, unless it is simulated.
    pub base_url: String,
    /// The bot's token. Needs the scopes chat:write, channels:read, groups:read, users:read, users:read.email, im:write
    /// and, to find messages again, channels:history, groups:history, im:history and metadata.message:read.
    pub token: SecretString,
}

/// One tenant's Slack workspace.
pub struct Slack {
    api: Arc<Api>,
    tools: SystemTools<Call>,
}

impl Slack {
    /// Checks the configuration; sends nothing.
    fn new(
        config: &SlackConfig,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        tools: SystemTools<Call>,
    ) -> Result<Self, InvalidConfig> {
        Ok(Self {
            api: Arc::new(Api::new(config, client, clock)?),
            tools,
        })
    }
}

#[async_trait]
impl ToolBox for Slack {
    fn kind(&self) -> &'static str {
        self.tools.kind()
    }

    async fn call(&self, request: &ToolRequest) -> Result<ToolReply, ToolError> {
        self.api.started.note(request.call);
        run::call(&self.tools, &Call::new(&self.api, request.scope.tenant()), request).await
    }

    async fn look_up(&self, request: &ToolRequest) -> Result<LookUp, ToolError> {
        run::look_up(&self.tools, &Call::new(&self.api, request.scope.tenant()), request).await
    }
}

impl System for Slack {
    fn definitions(&self) -> Arc<ToolDefinitions> {
        self.tools.definitions()
    }
}

impl fmt::Debug for Slack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slack").finish_non_exhaustive()
    }
}

//! Zendesk Support: tickets, comments, views and users of one tenant.

mod add_comment;
mod api;
mod audits;
mod create_ticket;
mod feed;
mod find_users;
mod get_ticket;
mod get_user;
mod kind;
mod list_comments;
mod list_views;
mod search_tickets;
pub mod unread;
mod update_ticket;
mod users;
mod wire;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolBox, ToolDefinitions, ToolError, ToolReply, ToolRequest};
use copilotd_knowledge::sync::Feed;
use secrecy::SecretString;

use self::api::{Api, Call};
pub use self::kind::ZendeskKind;
use super::System;
use super::tools::toolset::SystemTools;
use super::tools::{InvalidConfig, Tool, run};
use crate::system_kind::SystemSettings;

/// Every tool of this system.
static TOOLS: &[&dyn Tool<Call>] = &[
    &search_tickets::SearchTickets,
    &list_views::ListViews,
    &get_ticket::GetTicket,
    &list_comments::ListComments,
    &create_ticket::CreateTicket,
    &update_ticket::UpdateTicket,
    &add_comment::AddComment,
    &get_user::GetUser,
    &find_users::FindUsers,
];

/// How one tenant's Zendesk is reached.
#[derive(Debug, Clone)]
pub struct ZendeskConfig {
    /// Such as `https://acme.zendesk.com`.
    pub base_url: String,
    pub auth: ZendeskAuth,
}

/// Credentials of one tenant. `Debug` never shows the secrets.
#[derive(Debug, Clone)]
pub enum ZendeskAuth {
    /// An API token of one agent.
    Token {
        /// The agent's e-mail address.
        email: String,
        token: SecretString,
    },
    /// An OAuth access token.
    OAuth(SecretString),
}

/// One tenant's Zendesk.
pub struct Zendesk {
    api: Arc<Api>,
    tools: SystemTools<Call>,
}

impl Zendesk {
    /// Checks the configuration; sends nothing.
    fn new(config: &ZendeskConfig, client: reqwest::Client, tools: SystemTools<Call>) -> Result<Self, InvalidConfig> {
        Ok(Self {
            api: Arc::new(Api::new(config, client)?),
            tools,
        })
    }
}

/// Builds the connection for a source of documents; sends nothing.
fn feed(
    config: &ZendeskConfig,
    source: &SystemSettings,
    accounts: &feed::Accounts,
    client: reqwest::Client,
) -> Result<Arc<dyn Feed>, InvalidConfig> {
    let api = Arc::new(Api::new(config, client)?);
    let feed = feed::ZendeskFeed::new(api, source, accounts).map_err(|reason| InvalidConfig {
        system: "zendesk".into(),
        reason,
    })?;
    Ok(Arc::new(feed))
}

#[async_trait]
impl ToolBox for Zendesk {
    fn kind(&self) -> &'static str {
        self.tools.kind()
    }

    async fn call(&self, request: &ToolRequest) -> Result<ToolReply, ToolError> {
        run::call(&self.tools, &Call::new(&self.api, request.scope.tenant()), request).await
    }

    async fn look_up(&self, request: &ToolRequest) -> Result<LookUp, ToolError> {
        run::look_up(&self.tools, &Call::new(&self.api, request.scope.tenant()), request).await
    }
}

impl System for Zendesk {
    fn definitions(&self) -> Arc<ToolDefinitions> {
        self.tools.definitions()
    }
}

impl fmt::Debug for Zendesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zendesk").finish_non_exhaustive()
    }
}

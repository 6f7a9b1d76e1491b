//! Zendesk Support: tickets, comments, views and users of one tenant.

mod add_comment;
mod api;
mod audits;
mod create_ticket;
mod find_users;
mod get_ticket;
mod get_user;
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
use copilotd_actors::ports::{LookUp, ToolBox, ToolError, ToolReply, ToolRequest};
use secrecy::SecretString;

use self::api::{Api, Call};
use super::tools::{InvalidConfig, Tool, run};

/// Every tool of this system.
pub(crate) static TOOLS: &[&dyn Tool<Call>] = &[
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
}

impl Zendesk {
    /// Checks the configuration; sends nothing.
    pub fn new(config: &ZendeskConfig, client: reqwest::Client) -> Result<Self, InvalidConfig> {
        Ok(Self {
            api: Arc::new(Api::new(config, client)?),
        })
    }
}

#[async_trait]
impl ToolBox for Zendesk {
    async fn call(&self, request: &ToolRequest) -> Result<ToolReply, ToolError> {
        run::call(TOOLS, &Call::new(&self.api, request.scope.tenant()), request).await
    }

    async fn look_up(&self, request: &ToolRequest) -> Result<LookUp, ToolError> {
        run::look_up(TOOLS, &Call::new(&self.api, request.scope.tenant()), request).await
    }
}

impl fmt::Debug for Zendesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zendesk").finish_non_exhaustive()
    }
}

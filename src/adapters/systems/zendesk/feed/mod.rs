//! Articles of the help centre and tickets, as documents that are kept up to date.
//!
//! Sources: the vendor's documentation at developer.zendesk.com, "Incremental Exports" and "Understanding incremental
//! article exports", which `sim/src/zendesk` follows too.

mod articles;
mod pace;
mod request;
mod tickets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{CollectionName, TenantId};
use copilotd_knowledge::sync::{Documents, Feed, FeedError, Item, Page, Stream};
use serde::{Deserialize, Serialize};

pub(super) use self::pace::Accounts;
use self::pace::Pace;
use super::api::Api;
use crate::system_kind::SystemSettings;

/// Version of how documents are made; with another one everything is read again.
const VERSION: u32 = 1;
const ARTICLES: &str = "articles";
const TICKETS: &str = "tickets";

/// What is read of an account. Bounds and defaults are those of the configuration's schema.
#[derive(Debug, Clone, Deserialize)]
pub struct FeedSettings {
    articles: Option<ArticleSettings>,
    tickets: Option<TicketSettings>,
    /// Requests for incremental exports; Zendesk allows an account 10, or 30 with an add-on.
    #[serde(default = "exports_per_minute")]
    exports_per_minute: u32,
    /// All other requests.
    #[serde(default = "requests_per_minute")]
    requests_per_minute: u32,
}

fn exports_per_minute() -> u32 {
    10
}

fn requests_per_minute() -> u32 {
    100
}

/// What is read of the help centre.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct ArticleSettings {
    collection: CollectionName,
    /// The translations to read; if missing, each article in the language it was written in.
    locales: Option<BTreeSet<String>>,
    /// Roles by the ids of user segments.
    #[serde(default)]
    segments: BTreeMap<String, BTreeSet<String>>,
}

/// What is read of the tickets.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct TicketSettings {
    collection: CollectionName,
    allowed_roles: BTreeSet<String>,
    #[serde(default)]
    internal_comments: bool,
    /// Tickets that have not changed since are not read.
    changed_since: Option<jiff::Timestamp>,
}

/// See the module.
pub(super) struct ZendeskFeed {
    api: Arc<Api>,
    streams: Vec<Stream>,
    articles: Option<ArticleSettings>,
    tickets: Option<TicketSettings>,
    exports: Pace,
    requests: Pace,
}

impl ZendeskFeed {
    /// Checks the settings; sends nothing.
    pub(super) fn new(api: Arc<Api>, settings: &SystemSettings, accounts: &Accounts) -> Result<Self, String> {
        let settings: FeedSettings = settings.read()?;
        let mut streams = Vec::new();
        if let Some(articles) = &settings.articles {
            streams.push(Stream {
                name: ARTICLES,
                account: api.base().to_owned(),
                collection: articles.collection.clone(),
                roles: None,
                settings: described(api.base(), articles),
                deletes_silently: true,
                // Translations are asked for one article at a time.
                lists_whole_items: articles.locales.is_none(),
            });
        }
        if let Some(tickets) = &settings.tickets {
            streams.push(Stream {
                name: TICKETS,
                account: api.base().to_owned(),
                collection: tickets.collection.clone(),
                roles: Some(tickets.allowed_roles.clone()),
                settings: described(api.base(), tickets),
                deletes_silently: false,
                lists_whole_items: false,
            });
        }
        let turns = accounts.turns(api.base());
        Ok(Self {
            streams,
            articles: settings.articles,
            tickets: settings.tickets,
            exports: Pace::of_exports(settings.exports_per_minute, &turns),
            requests: Pace::of_requests(settings.requests_per_minute, &turns),
            api,
        })
    }

    fn of_articles(&self) -> Result<&ArticleSettings, FeedError> {
        self.articles.as_ref().ok_or_else(unknown_stream)
    }

    fn of_tickets(&self) -> Result<&TicketSettings, FeedError> {
        self.tickets.as_ref().ok_or_else(unknown_stream)
    }
}

fn unknown_stream() -> FeedError {
    FeedError::Refused("internal error: the source has no such stream".to_owned())
}

/// Returns the number in an item's id, as it stands in addresses.
fn number<'a>(item: &'a Item, prefix: &str) -> &'a str {
    item.id.strip_prefix(prefix).unwrap_or(&item.id)
}

/// Returns what decides which documents there are, as a text to compare.
fn described(base: &str, settings: &impl Serialize) -> String {
    let settings = serde_json::to_string(settings).unwrap_or_default();
    format!("{VERSION} {base} {settings}")
}

#[async_trait]
impl Feed for ZendeskFeed {
    fn kind(&self) -> &'static str {
        "zendesk"
    }

    fn streams(&self) -> &[Stream] {
        &self.streams
    }

    async fn changes(&self, tenant: &TenantId, stream: &Stream, after: Option<&str>) -> Result<Page, FeedError> {
        match stream.name {
            ARTICLES => self.changed_articles(tenant, after).await,
            _ => self.changed_tickets(tenant, after).await,
        }
    }

    async fn list(&self, tenant: &TenantId, stream: &Stream, after: Option<&str>) -> Result<Page, FeedError> {
        match stream.name {
            ARTICLES => self.all_articles(tenant, after).await,
            _ => Err(unknown_stream()),
        }
    }

    async fn item(&self, tenant: &TenantId, stream: &Stream, id: &str) -> Result<Option<Item>, FeedError> {
        match stream.name {
            ARTICLES => self.article(tenant, id).await,
            _ => Err(unknown_stream()),
        }
    }

    async fn documents(&self, tenant: &TenantId, stream: &Stream, item: &Item) -> Result<Documents, FeedError> {
        match stream.name {
            ARTICLES => self.documents_of_article(tenant, item).await,
            _ => self.documents_of_ticket(tenant, item).await,
        }
    }
}

impl fmt::Debug for ZendeskFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZendeskFeed")
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

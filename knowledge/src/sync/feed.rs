//! The port to another system whose documents are kept up to date here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{CollectionName, ExternalId, TenantId};
use serde_json::Value;

use crate::document::AttributeChanges;
use crate::library::Content;

/// One kind of things in the other system, such as its articles, and where their documents are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its name within the source.
    pub name: &'static str,
    /// The account of the other system. The ids of another account's items mean other items.
    pub account: String,
    /// The collection of its documents. No other stream of the tenant has it.
    pub collection: CollectionName,
    /// The roles that may read each of its documents, if they are the same for all.
    pub roles: Option<BTreeSet<String>>,
    /// All settings that decide what its documents are; when they change, everything is read again.
    pub settings: String,
    /// Whether what is deleted is missing from [`Feed::list`] only, and not announced by [`Feed::changes`].
    pub deletes_silently: bool,
    /// Whether an item as it is listed has all that its documents are made of.
    pub lists_whole_items: bool,
}

/// A thing in the other system, as it was listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its id, such as `article-7`: that of its document, or the beginning of those of its documents, up to a `-`.
    pub id: String,
    /// What the system says about it.
    pub data: Value,
}

/// Some items, in the system's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The items.
    pub items: Vec<Item>,
    /// Why others that were listed cannot be read; each with what is known of its id.
    pub unreadable: Vec<String>,
    /// Where the next page begins; none if it begins where this one did.
    pub next: Option<String>,
    /// Whether there is nothing more for now.
    pub is_last: bool,
}

/// The documents of an item; what was stored of it and is not among them is to be deleted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Documents {
    /// The documents.
    pub documents: Vec<SourceDocument>,
    /// Why documents are left out that the configuration asks for.
    pub left_out: Option<String>,
}

/// A document to store.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceDocument {
    /// Its id.
    pub external_id: ExternalId,
    /// Its content.
    pub content: Content,
    /// Title for people and for the model.
    pub title: Option<String>,
    /// Address at which people can open it.
    pub uri: Option<String>,
    /// Values that searches can be filtered by.
    pub metadata: BTreeMap<String, Value>,
    /// The roles that may read it; none for everybody in the tenant.
    pub roles: Option<BTreeSet<String>>,
}

/// Longest title and longest text in the metadata, in characters, as in requests of the API.
const MAX_TEXT: usize = 512;
/// Longest address, in bytes.
const MAX_URI: usize = 2048;

impl SourceDocument {
    /// Returns its content, and its attributes within the bounds of those of the API. `source` is recorded in them.
    pub(super) fn into_parts(self, source: &str) -> (ExternalId, Content, AttributeChanges) {
        let clip = |text: &str| text.chars().take(MAX_TEXT).collect::<String>();
        let is_address = |uri: &String| {
            let is_web = uri.starts_with("https://") || uri.starts_with("http://");
            is_web && uri.len() <= MAX_URI && !uri.contains(char::is_whitespace)
        };
        let mut metadata: BTreeMap<String, Value> = self
            .metadata
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => (name, clip(&text).into()),
                value => (name, value),
            })
            .collect();
        metadata.insert(SOURCE.to_owned(), source.into());
        let title = self
            .title
            .map(|title| clip(title.trim()))
            .filter(|title| !title.is_empty());
        let changes = AttributeChanges {
            title: Some(title),
            uri: Some(self.uri.filter(is_address)),
            metadata: Some(metadata),
            // Removing the list of users makes a document without roles one for everybody.
            users: Some(None),
            roles: Some(self.roles),
        };
        (self.external_id, self.content, changes)
    }
}

/// Metadata of every document of a source: the source's name.
pub const SOURCE: &str = "sync_source";

/// Why the other system did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// Too many requests, or it is overloaded: it wants to be asked again after this time, if it said so.
    #[error("the system is busy")]
    Busy(Option<Duration>),
    /// It could not be reached, or its answer could not be read. It may have success a little later.
    #[error("{0}")]
    Failed(String),
    /// It refuses the request, and will until somebody changes something.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the other system.
///
/// Contract: `changes` from a position returns everything that changed since it was returned, at least once, and what
/// changed twice with its newest state at last. Requests keep to the system's limits: a call may wait for its turn, and
/// is cancel safe.
#[async_trait]
pub trait Feed: Send + Sync + fmt::Debug {
    /// Returns the kind of the system.
    fn kind(&self) -> &'static str;

    /// Returns its streams; the same for as long as it lives.
    fn streams(&self) -> &[Stream];

    /// Returns the next items that changed after a position; without one all there are.
    async fn changes(&self, tenant: &TenantId, stream: &Stream, after: Option<&str>) -> Result<Page, FeedError>;

    /// Returns all items that there are now, page by page. Only for streams with [`Stream::deletes_silently`].
    async fn list(&self, tenant: &TenantId, stream: &Stream, after: Option<&str>) -> Result<Page, FeedError>;

    /// Returns an item by its id; none if there is no such one any more.
    async fn item(&self, tenant: &TenantId, stream: &Stream, id: &str) -> Result<Option<Item>, FeedError>;

    /// Returns the documents of an item; may have to ask for more of it.
    async fn documents(&self, tenant: &TenantId, stream: &Stream, item: &Item) -> Result<Documents, FeedError>;
}

//! Documents: what identifies them, what is known about them, and who may read them.

use std::collections::{BTreeMap, BTreeSet};

use copilotd_actors::domain::ids::{CollectionName, DocumentId, ExternalId, JobId, TenantId, UserId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What identifies a document within its tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey {
    /// Its collection.
    pub collection: CollectionName,
    /// Its id in the tenant's own system.
    pub external_id: ExternalId,
}

impl DocumentKey {
    /// Returns the id of the document: the same whenever a document is stored under this key.
    pub fn id(&self, tenant: &TenantId) -> DocumentId {
        DocumentId::derived(tenant, &self.collection, &self.external_id)
    }
}

/// A version of a document's content, counted from 1. The attributes belong to no version.
pub type Version = u64;

/// What is known about a document beside its content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    /// Title for people and for the model.
    #[serde(default)]
    pub title: Option<String>,
    /// Address at which people can open the document.
    #[serde(default)]
    pub uri: Option<String>,
    /// Values that searches can be filtered by: strings, numbers and booleans.
    #[serde(default)]
    pub metadata: BTreeMap<String, Value>,
    /// Who may read it.
    #[serde(default)]
    pub access: Access,
}

/// Who may read a document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everybody in the tenant.
    #[default]
    Everyone,
    /// Only those listed: a reader needs to be one of the users or to have one of the roles. Two empty lists mean
    /// nobody.
    Listed {
        /// Users.
        users: BTreeSet<UserId>,
        /// Roles, as the tenant's identity provider names them.
        roles: BTreeSet<String>,
    },
}

/// Who searches or reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reader {
    /// An administrator of the tenant, who may read every document.
    Administrator,
    /// A caller.
    Caller {
        /// The user; none for an API key that acts for nobody. Then only documents for everybody are seen.
        user: Option<UserId>,
        /// The user's roles.
        roles: BTreeSet<String>,
    },
}

impl Reader {
    /// Returns whether the reader may read a document with this access. The index applies the same rule in its queries;
    /// this is its definition, and the reference in tests.
    pub fn may_read(&self, access: &Access) -> bool {
        match (self, access) {
            (Self::Administrator, _) | (_, Access::Everyone) => true,
            (Self::Caller { user: None, .. }, Access::Listed { .. }) => false,
            (
                Self::Caller {
                    user: Some(user),
                    roles,
                },
                Access::Listed { users, roles: allowed },
            ) => users.contains(user) || !roles.is_disjoint(allowed),
        }
    }
}

/// The format of a document's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Plain text.
    Text,
    /// Markdown.
    Markdown,
    /// HTML.
    Html,
    /// PDF.
    Pdf,
    /// Comma-separated values.
    Csv,
    /// JSON that is not one of the API's own documents: its values become text.
    Json,
}

/// How far the ingestion of a version has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its content is stored and waits to be ingested. Searches find the version before it, if there is one.
    Pending,
    /// Searches find it.
    Searchable,
    /// It could not be ingested. Searches find the version before it, if there is one.
    Failed,
}

/// Why a document could not be ingested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestFailure {
    /// A stable code, such as `encrypted` or `no_text`.
    pub code: String,
    /// An explanation for the people who run the tenant's knowledge.
    pub message: String,
}

/// A document as it is stored, without its content.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its id.
    pub id: DocumentId,
    /// Its key.
    pub key: DocumentKey,
    /// Its attributes.
    pub attributes: Attributes,
    /// The newest version of its content.
    pub version: Version,
    /// SHA-256 of the newest content and its format.
    pub content_hash: [u8; 32],
    /// Format of the newest content.
    pub format: Format,
    /// Size of the newest content, in bytes.
    pub bytes: u64,
    /// How far the newest version has come.
    pub stage: Stage,
    /// Why the newest version failed.
    pub failure: Option<IngestFailure>,
    /// The job that ingests or ingested the newest version.
    pub job: JobId,
    /// Number of searchable chunks.
    pub chunks: u64,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// When content or attributes last changed.
    pub updated_at: Timestamp,
}

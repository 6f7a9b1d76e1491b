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
    /// Title for people and for the model, as the tenant gave it.
    #[serde(default)]
    pub title: Option<String>,
    /// Title that the searchable content states: `<title>` or the first heading, for instance. It is used where the
    /// tenant gave none, and changes with the content only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_title: Option<String>,
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

impl Attributes {
    /// Returns the title to show and to search by: the tenant's, or else the one that the content states.
    pub fn shown_title(&self) -> Option<&str> {
        self.title.as_deref().or(self.content_title.as_deref())
    }
}

/// Changes to the attributes of a document. The index applies them in its own transaction: a change that restricts access
/// must not be undone by another one that was read before it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AttributeChanges {
    /// The new title, or none to remove it.
    pub title: Option<Option<String>>,
    /// The new address, or none to remove it.
    pub uri: Option<Option<String>>,
    /// The new metadata.
    pub metadata: Option<BTreeMap<String, Value>>,
    /// The new list of users, or none to remove the list.
    pub users: Option<Option<BTreeSet<UserId>>>,
    /// The new list of roles, or none to remove the list.
    pub roles: Option<Option<BTreeSet<String>>>,
}

impl AttributeChanges {
    /// Returns the attributes after the changes; what a change leaves out is kept. A document is for everybody again
    /// only when a list was removed (not emptied) and no entry of the other one is left.
    #[must_use]
    pub fn applied_to(&self, stored: Attributes) -> Attributes {
        Attributes {
            title: self.title.clone().unwrap_or(stored.title),
            content_title: stored.content_title,
            uri: self.uri.clone().unwrap_or(stored.uri),
            metadata: self.metadata.clone().unwrap_or(stored.metadata),
            access: self.access_after(stored.access),
        }
    }

    fn access_after(&self, stored: Access) -> Access {
        if self.users.is_none() && self.roles.is_none() {
            return stored;
        }
        let (users, roles) = match stored {
            Access::Everyone => (BTreeSet::new(), BTreeSet::new()),
            Access::Listed { users, roles } => (users, roles),
        };
        let removed = matches!(self.users, Some(None)) || matches!(self.roles, Some(None));
        let emptied = matches!(&self.users, Some(Some(users)) if users.is_empty())
            || matches!(&self.roles, Some(Some(roles)) if roles.is_empty());
        let users = self.users.clone().map_or(users, Option::unwrap_or_default);
        let roles = self.roles.clone().map_or(roles, Option::unwrap_or_default);
        if removed && !emptied && users.is_empty() && roles.is_empty() {
            Access::Everyone
        } else {
            Access::Listed { users, roles }
        }
    }
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
    /// Word's format since 2007.
    Docx,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn users(names: &[&str]) -> BTreeSet<UserId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn roles(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn listed(user: &[&str], role: &[&str]) -> Access {
        Access::Listed {
            users: users(user),
            roles: roles(role),
        }
    }

    #[test]
    fn access_changes_only_where_a_list_is_given() {
        type Change<'a> = Option<Option<&'a [&'a str]>>;
        let cases: &[(Access, Change<'_>, Change<'_>, Access)] = &[
            (Access::Everyone, None, None, Access::Everyone),
            (listed(&["a"], &[]), None, None, listed(&["a"], &[])),
            (Access::Everyone, Some(Some(&["a"])), None, listed(&["a"], &[])),
            (Access::Everyone, Some(Some(&[])), None, listed(&[], &[])),
            (Access::Everyone, Some(None), Some(None), Access::Everyone),
            (listed(&["a"], &["r"]), Some(Some(&["b"])), None, listed(&["b"], &["r"])),
            (listed(&["a"], &["r"]), Some(None), None, listed(&[], &["r"])),
            (listed(&["a"], &[]), Some(None), None, Access::Everyone),
            (listed(&["a"], &["r"]), Some(None), Some(None), Access::Everyone),
            // Emptying a list never opens a document.
            (listed(&["a"], &[]), Some(Some(&[])), None, listed(&[], &[])),
            (listed(&["a"], &["r"]), Some(Some(&[])), Some(None), listed(&[], &[])),
            (listed(&[], &[]), None, Some(Some(&["r"])), listed(&[], &["r"])),
        ];
        for (stored, user, role, expected) in cases {
            let changes = AttributeChanges {
                users: user.map(|list| list.map(users)),
                roles: role.map(|list| list.map(roles)),
                ..AttributeChanges::default()
            };
            let attributes = Attributes {
                access: stored.clone(),
                title: Some("kept".to_owned()),
                ..Attributes::default()
            };
            let after = changes.applied_to(attributes);
            assert_eq!(after.access, *expected, "{stored:?} {user:?} {role:?}");
            assert_eq!(after.title.as_deref(), Some("kept"));
        }
    }

    #[test]
    fn a_reader_needs_to_be_listed_by_name_or_role() {
        let caller = |user: Option<&str>, role: &[&str]| Reader::Caller {
            user: user.map(|user| user.parse().unwrap()),
            roles: roles(role),
        };
        for (reader, access, may) in [
            (Reader::Administrator, listed(&[], &[]), true),
            (caller(None, &[]), Access::Everyone, true),
            (caller(None, &["r"]), listed(&[], &["r"]), false),
            (caller(Some("a"), &[]), listed(&["a"], &[]), true),
            (caller(Some("a"), &["r"]), listed(&["b"], &["r"]), true),
            (caller(Some("a"), &["s"]), listed(&["b"], &["r"]), false),
            (caller(Some("a"), &["r"]), listed(&[], &[]), false),
        ] {
            assert_eq!(reader.may_read(&access), may, "{reader:?} {access:?}");
        }
    }
}

//! The content of an audit entry.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest actor, credential, request id, target or changed path, in bytes.
const MAX_ID: usize = 512;
/// Longest reason, in bytes.
const MAX_REASON: usize = 2_000;
/// Most changed paths of one entry.
const MAX_CHANGED: usize = 200;

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $text:literal;)*) => {
        /// A recorded action.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// Every action.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the name in the store and in the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl Action {
            /// Whether it revokes access, so that it must not wait behind other entries.
            pub const fn is_urgent(self) -> bool {
                matches!(self, Self::TenantSuspended | Self::KeyRevoked | Self::TokenRevoked)
            }

            /// Whether it protects somebody, so that it has to be recorded even on a full disk.
            pub const fn is_protective(self) -> bool {
                match self {
                    Self::TenantUpdated
                    | Self::TenantSuspended
                    | Self::TenantDeleted
                    | Self::KeyRevoked
                    | Self::TokenRevoked
                    | Self::ConversationErased
                    | Self::FactDeleted => true,
                    Self::TenantCreated
                    | Self::TenantResumed
                    | Self::KeyCreated
                    | Self::TokenRestored
                    | Self::ExportCreated
                    | Self::ExportRead
                    | Self::TurnRead
                    | Self::PromptsRead
                    | Self::ApprovalDecided
                    | Self::FactsRead
                    | Self::FileRead
                    | Self::FactCorrected
                    | Self::CacheCleared => false,
                }
            }
        }
    };
}

actions! {
    /// An operator created the tenant.
    TenantCreated "tenant.created";
    /// An operator changed the tenant's settings.
    TenantUpdated "tenant.updated";
    /// An operator suspended the tenant.
    TenantSuspended "tenant.suspended";
    /// An operator ended a suspension.
    TenantResumed "tenant.resumed";
    /// An operator deleted a tenant; in the audit log of the operator's tenant, since the tenant's own is erased.
    TenantDeleted "tenant.deleted";
    /// An export of conversations was started.
    ExportCreated "export.created";
    /// The result of an export was read.
    ExportRead "export.read";
    /// An API key was created.
    KeyCreated "key.created";
    /// An API key was revoked.
    KeyRevoked "key.revoked";
    /// User tokens were revoked.
    TokenRevoked "token.revoked";
    /// A revocation of user tokens was lifted.
    TokenRestored "token.restored";
    /// An administrator read another user's turn.
    TurnRead "turn.read";
    /// An administrator read the prompts of a turn.
    PromptsRead "prompts.read";
    /// An administrator decided on a tool call of another user's turn.
    ApprovalDecided "approval.decided";
    /// A conversation was erased.
    ConversationErased "conversation.erased";
    /// An administrator read what is remembered about another user.
    FactsRead "facts.read";
    /// An administrator read a file that another user attached.
    FileRead "file.read";
    /// A fact about a user was corrected.
    FactCorrected "fact.corrected";
    /// A fact about a user was deleted.
    FactDeleted "fact.deleted";
    /// The tenant's cached answers were dropped.
    CacheCleared "cache.cleared";
}

/// An entry to record. Contains ids only: no content, no secret, no hash of either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The user who acted.
    pub actor: String,
    /// The credential's id, never the credential itself.
    pub credential: String,
    /// Id of the request that caused it, if there was one.
    pub request_id: Option<String>,
    /// The action.
    pub action: Action,
    /// Id of the resource it was done to.
    pub target: String,
    /// Changed paths, as JSON Pointers; never values.
    pub changed: Vec<String>,
    /// The reason that the actor gave.
    pub reason: Option<String>,
}

/// The stored form of an entry. The chain's hash covers its bytes as stored, so fields can be added later without
/// changing the hash of old entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Random; distinguishes a repeated append from another entry with the same content.
    pub id: String,
    /// When it was recorded.
    pub at: Timestamp,
    /// See [`Entry::actor`].
    pub actor: String,
    /// See [`Entry::credential`].
    pub credential: String,
    /// See [`Entry::request_id`].
    pub request_id: Option<String>,
    /// Name of the [`Action`]; a later release may know more of them.
    pub action: String,
    /// See [`Entry::target`].
    pub target: String,
    /// See [`Entry::changed`].
    pub changed: Vec<String>,
    /// See [`Entry::reason`].
    pub reason: Option<String>,
}

impl Body {
    /// Limits the length of an entry's fields. Longer ones are truncated and marked, not refused: a long name must not
    /// keep a revocation from being recorded.
    pub(super) fn new(entry: Entry, at: Timestamp) -> Self {
        let mut changed: Vec<String> = entry.changed;
        let dropped = changed.len().saturating_sub(MAX_CHANGED);
        changed.truncate(MAX_CHANGED);
        let mut changed: Vec<String> = changed.into_iter().map(|path| cut(path, MAX_ID)).collect();
        if dropped > 0 {
            changed.push(format!("… and {dropped} more"));
        }
        Self {
            id: format!("{:032x}", rand::random::<u128>()),
            at,
            actor: cut(entry.actor, MAX_ID),
            credential: cut(entry.credential, MAX_ID),
            request_id: entry.request_id.map(|id| cut(id, MAX_ID)),
            action: entry.action.as_str().to_owned(),
            target: cut(entry.target, MAX_ID),
            changed,
            reason: entry.reason.map(|reason| cut(reason, MAX_REASON)),
        }
    }
}

/// Truncates a text at a character boundary and marks it.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_fields_are_cut_and_marked() {
        let entry = Entry {
            actor: "é".repeat(1_000),
            credential: "key:a".to_owned(),
            request_id: None,
            action: Action::TenantUpdated,
            target: "acme".to_owned(),
            changed: (0..700).map(|n| format!("/limits/{n}")).collect(),
            reason: Some("x".repeat(3_000)),
        };
        let body = Body::new(entry, Timestamp::UNIX_EPOCH);
        assert_eq!(body.actor.chars().count(), 257);
        assert!(body.actor.ends_with('…') && body.reason.unwrap().len() == 2_003);
        assert_eq!(
            (body.changed.len(), body.changed[200].as_str()),
            (201, "… and 500 more")
        );
        assert_eq!(body.credential, "key:a");
    }

    #[test]
    fn names_of_actions_are_distinct() {
        let mut names: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Action::ALL.len());
    }
}

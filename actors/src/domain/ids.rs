//! Identifiers. Every id that leaves the process is a UUID with a prefix that names its kind.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Sequence number of a record in its conversation's log; the first record is 1.
pub type Seq = u64;

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form {prefix}<32 hexadecimal digits>")]
pub struct InvalidId {
    prefix: &'static str,
}

/// An id that appears in the paths of the HTTP API.
pub trait PathId: FromStr {
    /// The regular expression that every id of this kind matches, for the API's description.
    const PATTERN: &'static str;
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of the textual form.
            pub const PREFIX: &'static str = $prefix;

            /// Wraps a UUID that was generated outside the domain (version 7 for new ids).
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Returns the UUID behind the prefix.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl PathId for $name {
            const PATTERN: &'static str = concat!("^", $prefix, "[0-9a-f]{32}$");
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = InvalidId { prefix: $prefix };
                let hex = text.strip_prefix($prefix).ok_or(invalid.clone())?;
                // One spelling only: two spellings of one id would be two cache keys and two audit entries.
                if hex.len() != 32 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(invalid);
                }
                Uuid::try_parse(hex).map(Self).map_err(|_| invalid)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// The id of a conversation.
    ConversationId, "conv_"
}
id! {
    /// The id of a turn: one prompt and the work it causes.
    TurnId, "turn_"
}
id! {
    /// The id of a message.
    MessageId, "msg_"
}
id! {
    /// The id of a tool call, which is also its idempotency key.
    CallId, "call_"
}
id! {
    /// The id of a job: work that outlives the request that started it.
    JobId, "job_"
}
id! {
    /// The id of a document in a tenant's knowledge.
    DocumentId, "doc_"
}
id! {
    /// The id of a chunk of a document.
    ChunkId, "chunk_"
}
id! {
    /// The id of a fact about a user.
    FactId, "fact_"
}
id! {
    /// The id of a file that a user attached.
    FileId, "file_"
}

impl DocumentId {
    /// Returns the id of the document that is stored under this key.
    pub fn derived(tenant: &TenantId, collection: &CollectionName, external_id: &ExternalId) -> Self {
        // Length prefixes distinguish ("a", "bc") from ("ab", "c").
        let name = format!(
            "document{}:{tenant}{}:{collection}{external_id}",
            tenant.0.len(),
            collection.0.len()
        );
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
    }
}

impl ChunkId {
    /// Returns the id of a chunk: the same for the same text under the same headings of the same document. `repetition`
    /// counts from 0 the chunks of the document that are equal in both.
    pub fn derived(document: DocumentId, heading: &str, text: &str, repetition: u32) -> Self {
        let name = format!("chunk{repetition}:{}:{heading}{text}", heading.len());
        Self(Uuid::new_v5(&document.0, name.as_bytes()))
    }
}

impl FactId {
    /// Returns the id of a fact that was learned in a turn: the same for the same statement, so that a repeated write of it is one
    /// fact.
    pub fn derived(turn: TurnId, text: &str) -> Self {
        Self(Uuid::new_v5(&turn.0, format!("fact/{text}").as_bytes()))
    }
}

impl FileId {
    /// Derives the id of a file that is uploaded with an idempotency key, so that copies of one request are one file. `round`
    /// increases when a key is used again after its day.
    pub fn derived(tenant: &TenantId, user: &UserId, key: &str, round: u32) -> Self {
        let name = format!(
            "file{}:{tenant}{}:{user}{}:{key}{round}",
            tenant.0.len(),
            user.0.len(),
            key.len()
        );
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
    }
}

impl JobId {
    /// Derives the id of a job that is started with an idempotency key, so that copies of one request start one job.
    /// `kind` separates the keys of different kinds of requests; `round` increases when a key is used again after its
    /// day.
    pub fn derived(tenant: &TenantId, user: &UserId, kind: &str, key: &str, round: u32) -> Self {
        let name = format!(
            "{}:{tenant}{}:{user}{}:{kind}{}:{key}{round}",
            tenant.0.len(),
            user.0.len(),
            kind.len(),
            key.len()
        );
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
    }
}

impl ConversationId {
    /// Derives the id of a conversation that is created with an idempotency key, so that copies of one request share
    /// one log and the append decides between them. `round` increases when a key is used again after its day.
    pub fn derived(tenant: &TenantId, user: &UserId, key: &str, round: u32) -> Self {
        // Length prefixes distinguish ("a", "bc") from ("ab", "c").
        let name = format!(
            "{}:{tenant}{}:{user}{}:{key}{round}",
            tenant.0.len(),
            user.0.len(),
            key.len()
        );
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
    }
}

impl TurnId {
    /// Derives the id of a turn that is submitted with an idempotency key, so that every used key can be found in the
    /// log. `round` increases when a key is used again after its day.
    pub fn derived(conversation: ConversationId, key: &str, round: u32) -> Self {
        Self(Uuid::new_v5(&conversation.0, format!("turn/{round}/{key}").as_bytes()))
    }
}

impl MessageId {
    /// Returns the id of the message that a model step writes; known before its first byte and the same after a
    /// restart.
    pub fn of_step(turn: TurnId, attempt: u32, step: u32) -> Self {
        Self(Uuid::new_v5(&turn.0, format!("message/{attempt}/{step}").as_bytes()))
    }

    /// Returns the id of the user message that opens a turn.
    pub fn of_input(turn: TurnId) -> Self {
        Self(Uuid::new_v5(&turn.0, b"input"))
    }

    /// Returns the id of the message with a tool's result.
    pub fn of_result(call: CallId) -> Self {
        Self(Uuid::new_v5(&call.0, b"result"))
    }
}

impl CallId {
    /// Returns the id of the `index`-th call that a model step asks for.
    pub fn of_step(turn: TurnId, attempt: u32, step: u32, index: usize) -> Self {
        Self(Uuid::new_v5(
            &turn.0,
            format!("call/{attempt}/{step}/{index}").as_bytes(),
        ))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:literal, $ok:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(char) -> bool = $ok;
                if text.is_empty() || text.len() > $max || !text.chars().all(valid) {
                    return Err(InvalidName { rule: $rule });
                }
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The text violates the rule for names of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {rule}")]
pub struct InvalidName {
    rule: &'static str,
}

name! {
    /// The id of a tenant (a customer company); the first part of every key.
    TenantId, 64, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_',
    "1 to 64 characters of a-z, 0-9, - and _"
}

impl PathId for TenantId {
    const PATTERN: &'static str = "^[a-z0-9_-]{1,64}$";
}

name! {
    /// The id of a user within a tenant, as the tenant's own backend names the user (`sub` of the token).
    UserId, 256, |c| !c.is_control(),
    "1 to 256 bytes without control characters"
}

impl UserId {
    /// Prefix of the users that API keys act as by default. No token and no header may claim such a user.
    const KEY: &str = "key:";

    /// Returns the user that the API key of this name acts as by default.
    pub fn of_key(name: &str) -> Result<Self, InvalidName> {
        format!("{}{name}", Self::KEY).parse()
    }

    /// Returns whether this user stands for an API key rather than a person.
    pub fn is_key(&self) -> bool {
        self.0.starts_with(Self::KEY)
    }
}

name! {
    /// The name of a copilot within a tenant.
    CopilotName, 64, |c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.',
    "1 to 64 characters of a-z, A-Z, 0-9, -, _ and ."
}

name! {
    /// The name of a collection of documents within a tenant.
    CollectionName, 64, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_',
    "1 to 64 characters of a-z, 0-9, - and _"
}

impl PathId for CollectionName {
    const PATTERN: &'static str = "^[a-z0-9_-]{1,64}$";
}

name! {
    /// The id of a document in the tenant's own system.
    ExternalId, 256, |c| !c.is_control(),
    "1 to 256 bytes without control characters"
}

impl PathId for ExternalId {
    const PATTERN: &'static str = "^[^\\x00-\\x1f\\x7f-\\x9f]{1,256}$";
}

impl CopilotName {
    /// Returns the placeholder for an unknown copilot.
    pub fn unnamed() -> Self {
        Self("unnamed".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_exactly_one_spelling() {
        let id = TurnId::new(Uuid::from_u128(7));
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "turn_",
            "turn_7",
            "conv_00000000000000000000000000000007",
            "turn_0000000000000000000000000000000G",
            "turn_0000000000000000000000000000000A",
            "turn_00000000-0000-0000-0000-000000000007",
        ] {
            assert!(bad.parse::<TurnId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_ids_keep_their_parts_apart() {
        let of = |tenant: &str, user: &str, key: &str| {
            ConversationId::derived(&tenant.parse().unwrap(), &user.parse().unwrap(), key, 0)
        };
        assert_eq!(of("a", "b", "c"), of("a", "b", "c"));
        assert_ne!(of("a", "bc", "d"), of("ab", "c", "d"));
        assert_ne!(of("a", "b", "cd"), of("a", "bc", "d"));
    }
}

//! What a request asks, if an answer to it may be kept: gate (a) and the key of gate (b).
//!
//! Invariant: whatever of a request can change its answer is in its [`Partition`] or its question. A member that nobody
//! here knows counts as one that can.

use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use serde_json::Value;

use super::canonical::{Digest, Hasher};
use super::personal::is_personal;
use crate::request::body::ChatBody;
use crate::request::call::{CacheWish, Caller};

/// Members that do not change what is answered: how it is sent, and whom the provider shall hold responsible.
const SILENT: [&str; 9] = [
    "messages",
    "model",
    "n",
    "stream",
    "stream_options",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
];
/// Longest question, in bytes.
const LONGEST: usize = 4 * 1024;
/// Largest body that is read for a question: the instructions before it are parsed and hashed.
const LARGEST: usize = 256 * 1024;

/// Who shares an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Audience {
    /// Only who asked.
    #[default]
    User,
    /// Those of the same [`Role`](crate::request::role::Role); a caller without one shares with nobody.
    Role,
    /// All of the tenant.
    Tenant,
}

/// What a question has to be like.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Who shares answers.
    pub audience: Audience,
    /// The highest temperature; none given counts as 1, the providers' own.
    pub max_temperature: f64,
}

/// Those requests whose answers may serve each other. The tenant stands first and in clear.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    tenant: TenantId,
    route: Arc<str>,
    rest: Digest,
}

impl Partition {
    /// Returns the tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Returns the route.
    pub fn route(&self) -> &str {
        &self.route
    }
}

/// A question whose answer may be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Where its answer belongs.
    pub partition: Partition,
    /// Its text, as it was asked.
    pub text: String,
    /// The hash of its text.
    pub exact: Digest,
}

/// Why an answer is neither taken from the cache nor kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The caller wants it so.
    Asked,
    /// Tools are on offer or were used.
    Tools,
    /// Several answers are wanted, or numbers beside the text.
    Form,
    /// The temperature is high: another answer each time is what is wanted.
    Temperature,
    /// It is not one plain question.
    Conversation,
    /// It is about a person.
    Personal,
    /// It is very long.
    Long,
}

impl Skip {
    /// Stable name for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Tools => "tools",
            Self::Form => "form",
            Self::Temperature => "temperature",
            Self::Conversation => "conversation",
            Self::Personal => "personal",
            Self::Long => "long",
        }
    }
}

/// The version of what an answer rests on, as the two who know of it name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knowledge<'a> {
    /// Of what the tenant knows.
    pub tenant: &'a str,
    /// Of what the caller put into the prompt.
    pub caller: &'a str,
}

/// Reads the question of a request for `route`.
pub fn question(
    caller: &Caller,
    route: &str,
    body: &ChatBody,
    knowledge: Knowledge<'_>,
    wish: CacheWish,
    rules: &Rules,
) -> Result<Question, Skip> {
    if wish == CacheWish::Bypass {
        return Err(Skip::Asked);
    }
    if body.has_tools() {
        return Err(Skip::Tools);
    }
    let wants = |name| {
        body.get(name)
            .is_some_and(|value| !matches!(value.get(), "null" | "false"))
    };
    if body.choices() != 1 || ["logprobs", "top_logprobs", "audio", "store"].into_iter().any(wants) {
        return Err(Skip::Form);
    }
    if body.temperature().unwrap_or(1.0) > rules.max_temperature {
        return Err(Skip::Temperature);
    }
    if body.size() > LARGEST {
        return Err(Skip::Long);
    }
    let messages: Vec<Value> = serde_json::from_str(body.messages().get()).map_err(|_| Skip::Conversation)?;
    let (last, before) = messages.split_last().ok_or(Skip::Conversation)?;
    // One question after instructions: what came before would have to mean the same too.
    if role(last) != "user"
        || before
            .iter()
            .any(|message| !matches!(role(message), "system" | "developer"))
    {
        return Err(Skip::Conversation);
    }
    let text = plain_text(last).ok_or(Skip::Conversation)?;
    if text.len() > LONGEST {
        return Err(Skip::Long);
    }
    if is_personal(text, &[caller.user.as_str()]) {
        return Err(Skip::Personal);
    }
    Ok(Question {
        partition: partition(caller, route, body, before, knowledge, rules.audience),
        exact: {
            let mut hasher = Hasher::default();
            hasher.bytes(text.as_bytes());
            hasher.finish()
        },
        text: text.to_owned(),
    })
}

fn partition(
    caller: &Caller,
    route: &str,
    body: &ChatBody,
    before: &[Value],
    knowledge: Knowledge<'_>,
    audience: Audience,
) -> Partition {
    let (kind, name) = match (audience, &caller.role) {
        (Audience::Tenant, _) => (0, ""),
        (Audience::Role, Some(role)) => (2, role.as_str()),
        (Audience::User, _) | (Audience::Role, None) => (1, caller.user.as_str()),
    };
    let mut hasher = Hasher::default();
    hasher.bytes(&[kind]);
    hasher.bytes(name.as_bytes());
    hasher.bytes(knowledge.tenant.as_bytes());
    hasher.bytes(knowledge.caller.as_bytes());
    hasher.json(&Value::Array(before.to_vec()));
    let mut members: Vec<_> = body.members().filter(|(name, _)| !SILENT.contains(name)).collect();
    members.sort_by_key(|(name, _)| *name);
    for (name, value) in members {
        hasher.bytes(name.as_bytes());
        match serde_json::from_str(value.get()) {
            Ok(value) => hasher.json(&value),
            Err(_) => hasher.bytes(value.get().as_bytes()),
        };
    }
    Partition {
        tenant: caller.scope.tenant().clone(),
        route: route.into(),
        rest: hasher.finish(),
    }
}

fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// Returns the text of a message that has nothing else.
fn plain_text(message: &Value) -> Option<&str> {
    let known = |name: &String| matches!(name.as_str(), "role" | "content" | "name");
    if !message.as_object()?.keys().all(known) {
        return None;
    }
    let text = match message.get("content")? {
        Value::String(text) => text.as_str(),
        Value::Array(parts) => match parts.as_slice() {
            [part] if part.get("type").and_then(Value::as_str) == Some("text") => part.get("text")?.as_str()?,
            _ => return None,
        },
        _ => return None,
    };
    (!text.trim().is_empty()).then_some(text)
}

//! The question of a request, if its answer is cacheable: gate (a) and the key of gate (b).
//!
//! Invariant: everything in a request that can change its answer is in its [`Partition`] or its question. An unknown
//! member counts as one that can.

use std::sync::Arc;

use copilotd_actors::domain::hash::PartHasher;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::json::canonical;
use serde_json::Value;

use super::personal::is_personal;
use crate::request::body::ChatBody;
use crate::request::call::{CacheControl, Caller};

/// Members that do not change the answer: how it is sent, and whom the provider holds responsible.
const NEUTRAL: [&str; 9] = [
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

/// A SHA-256 hash.
pub type Digest = [u8; 32];

/// Who shares an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Audience {
    /// Only the user who asked.
    #[default]
    User,
    /// Callers with the same [`Role`](crate::request::role::Role); one without a role shares with nobody.
    Role,
    /// All callers of the tenant.
    Tenant,
}

/// Which questions are cacheable.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Who shares answers.
    pub audience: Audience,
    /// Highest temperature; a missing one counts as 1, the providers' default.
    pub max_temperature: f64,
}

/// Requests whose answers may serve each other. The tenant comes first and in clear text.
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

/// A cacheable question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Where its answer belongs.
    pub partition: Partition,
    /// The text of the question, as written.
    pub text: String,
    /// Hash of the text.
    pub exact: Digest,
}

/// Why a request is neither answered from the cache nor its answer stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The caller asked for it.
    Requested,
    /// Tools are offered or were used.
    Tools,
    /// Several answers are requested, or data beside the text.
    Form,
    /// The temperature is high: a different answer each time is wanted.
    Temperature,
    /// Not a single plain question.
    Conversation,
    /// The question is about a person.
    Personal,
    /// The request is too long.
    Long,
}

impl Skip {
    /// Stable name for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Requested => "asked",
            Self::Tools => "tools",
            Self::Form => "form",
            Self::Temperature => "temperature",
            Self::Conversation => "conversation",
            Self::Personal => "personal",
            Self::Long => "long",
        }
    }
}

/// Versions of the knowledge behind an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knowledge<'a> {
    /// Version of the tenant's knowledge.
    pub tenant: &'a str,
    /// Version of what the caller put into the prompt.
    pub caller: &'a str,
}

/// Extracts the question from a request for `route`.
pub fn question(
    caller: &Caller,
    route: &str,
    body: &ChatBody,
    knowledge: Knowledge<'_>,
    cache_control: CacheControl,
    rules: &Rules,
) -> Result<Question, Skip> {
    if cache_control == CacheControl::Bypass {
        return Err(Skip::Requested);
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
    // One question after instructions: earlier messages would have to mean the same too.
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
        exact: PartHasher::new().part(text).finish(),
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
    let mut hasher = PartHasher::new()
        .part([kind])
        .parts([name, knowledge.tenant, knowledge.caller])
        .part(canonical(Value::Array(before.to_vec())));
    let mut members: Vec<_> = body.members().filter(|(name, _)| !NEUTRAL.contains(name)).collect();
    members.sort_by_key(|(name, _)| *name);
    for (name, value) in members {
        let value = serde_json::from_str(value.get()).map_or_else(|_| value.get().to_owned(), canonical);
        hasher = hasher.part(name).part(value);
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

/// Returns the text of a message that contains nothing else.
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

//! Users of the support desk, looked up in batches.

use std::collections::{BTreeSet, HashMap};

use copilotd_actors::ports::ToolError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::wire;
use crate::adapters::systems::tools::member;
use crate::adapters::systems::tools::text::clip;

/// Zendesk's own limit for one request.
const AT_ONCE: usize = 100;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct User {
    #[serde(deserialize_with = "member::own_id")]
    pub id: u64,
    #[serde(default, deserialize_with = "member::text")]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub email: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub role: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub phone: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub time_zone: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub locale: Option<String>,
    #[serde(default, deserialize_with = "member::id")]
    pub organization_id: Option<u64>,
    #[serde(default, deserialize_with = "member::flag")]
    pub suspended: Option<bool>,
    #[serde(default, deserialize_with = "member::text")]
    pub details: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub notes: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub created_at: Option<String>,
}

impl User {
    /// Returns whether the user works at the support desk.
    pub fn is_agent(&self) -> bool {
        matches!(self.role.as_deref(), Some("agent" | "admin"))
    }

    /// Describes the user for the model.
    pub fn describe(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name.as_deref().map(|name| clip(name, 120)),
            "email": self.email.as_deref().map(|email| clip(email, 260)),
            "role": wire::word(self.role.as_deref()),
        })
    }
}

/// What is known of some users.
#[derive(Debug, Default)]
pub(super) struct Users {
    known: HashMap<u64, User>,
    /// Number of unreadable ones.
    pub unreadable: usize,
}

impl Users {
    /// Looks up `ids`.
    pub async fn find(call: &Call, ids: Vec<u64>) -> Result<Self, ToolError> {
        let ids: Vec<u64> = ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let mut users = Self::default();
        for some in ids.chunks(AT_ONCE) {
            let list = some.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let mut answer = call.get("users/show_many", &[("ids", list)]).await?;
            let found = wire::take_list::<User>(&mut answer, "users")?;
            users.known.extend(found.items.into_iter().map(|user| (user.id, user)));
            users.unreadable += found.unreadable;
        }
        Ok(users)
    }

    /// Looks up `ids` where names are only decoration: without them the result is still useful.
    pub async fn find_if_possible(call: &Call, ids: Vec<u64>) -> Self {
        Self::find(call, ids).await.unwrap_or_else(|error| {
            // Only its kind: the vendor's message may quote what was searched for.
            tracing::debug!(kind = ?error.kind, "looking up Zendesk users failed; showing ids without names");
            Self::default()
        })
    }

    /// Returns whether `id` works at the support desk.
    pub fn is_agent(&self, id: u64) -> bool {
        self.known.get(&id).is_some_and(User::is_agent)
    }

    /// Role of `id` in a word.
    pub fn role(&self, id: u64) -> &'static str {
        match self.known.get(&id) {
            Some(user) if user.is_agent() => "agent",
            Some(_) => "end-user",
            None => "unknown",
        }
    }

    /// Describes user `id` for the model.
    pub fn describe(&self, id: u64) -> Value {
        match self.known.get(&id) {
            Some(user) => json!({
                "id": id,
                "name": user.name.as_deref().map(|name| clip(name, 120)),
                "email": user.email.as_deref().map(|email| clip(email, 260)),
            }),
            None => json!({ "id": id }),
        }
    }
}

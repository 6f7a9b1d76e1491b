//! `zendesk_get_user`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::users::User;
use super::wire;
use crate::adapters::systems::tools::member::set;
use crate::adapters::systems::tools::text::clip;
use crate::adapters::systems::tools::{Tool, arguments};

pub(super) struct GetUser;

#[derive(Debug, Deserialize)]
struct Arguments {
    user_id: u64,
}

#[async_trait]
impl Tool<Call> for GetUser {
    fn name(&self) -> &'static str {
        "zendesk_get_user"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/zendesk_get_user.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let answer = call.get(&format!("users/{}", wanted.user_id), &[]).await?;
        let user: User = wire::take(answer, "user")?;
        let mut told = user.describe();
        set(
            &mut told,
            "phone",
            json!(user.phone.as_deref().map(|phone| clip(phone, 60))),
        );
        set(
            &mut told,
            "time_zone",
            json!(user.time_zone.as_deref().map(|zone| clip(zone, 60))),
        );
        set(
            &mut told,
            "locale",
            json!(user.locale.as_deref().map(|locale| clip(locale, 20))),
        );
        set(&mut told, "organization_id", json!(user.organization_id));
        set(&mut told, "suspended", json!(user.suspended));
        set(
            &mut told,
            "details",
            json!(user.details.as_deref().map(|details| clip(details, 1000))),
        );
        set(
            &mut told,
            "notes",
            json!(user.notes.as_deref().map(|notes| clip(notes, 1000))),
        );
        set(&mut told, "created_at", wire::word(user.created_at.as_deref()));
        Ok(json!({ "user": told }))
    }
}

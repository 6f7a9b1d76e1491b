//! `zendesk_add_comment`. A comment is never written twice: if the outcome is unknown, the comment is found again by
//! its mark.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::Call;
use super::audits::{self, Outcome};
use super::wire;
use crate::adapters::systems::tools::member::{as_number, as_text, at, take_member};
use crate::adapters::systems::tools::{Tool, arguments};

pub(super) struct AddComment;

#[derive(Debug, Deserialize)]
struct Arguments {
    ticket_id: u64,
    body: String,
    public: bool,
    expected_updated_at: Option<String>,
}

#[async_trait]
impl Tool<Call> for AddComment {
    fn name(&self) -> &'static str {
        "zendesk_add_comment"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/zendesk_add_comment.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let mut fields = Map::new();
        fields.insert(
            "comment".into(),
            json!({ "body": wanted.body, "public": wanted.public }),
        );
        let expected = wanted.expected_updated_at.as_deref();
        let audit = match audits::change(call, request.call, wanted.ticket_id, fields, expected).await? {
            Outcome::Changed(mut answer) => take_member(&mut answer, "audit"),
            Outcome::ChangedBefore(audit) => audit,
        };
        Ok(describe(call, &wanted, &audit))
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let wanted: Arguments = arguments(request)?;
        Ok(match audits::find(call, request.call, wanted.ticket_id).await? {
            Some(audit) => LookUp::Found(describe(call, &wanted, &audit)),
            None => LookUp::NotFound,
        })
    }
}

fn describe(call: &Call, wanted: &Arguments, audit: &Value) -> Value {
    json!({
        "ticket_id": wanted.ticket_id,
        "comment_id": audits::comment(audit).and_then(|comment| as_number(at(comment, &["id"]))),
        "public": wanted.public,
        "at": wire::word(as_text(at(audit, &["created_at"])).as_deref()),
        "url": call.ticket_url(wanted.ticket_id),
    })
}

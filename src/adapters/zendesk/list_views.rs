//! `zendesk_list_views`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::wire;
use crate::adapters::tools::{Tool, text};

const VIEWS: usize = 200;

pub(super) struct ListViews;

#[derive(Debug, Deserialize)]
struct View {
    id: u64,
    title: Option<String>,
    description: Option<String>,
    active: Option<bool>,
}

#[async_trait]
impl Tool<Call> for ListViews {
    fn name(&self) -> &'static str {
        "zendesk_list_views"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../schemas/tools/zendesk_list_views.json")
    }

    async fn call(&self, call: &Call, _request: &ToolRequest) -> Result<Value, ToolError> {
        let (views, more) = call.list("views", "views", &[], VIEWS).await?;
        let views = views
            .into_iter()
            .map(|view| wire::read::<View>(view, "view"))
            .collect::<Result<Vec<_>, _>>()?;
        let mut told = json!({ "views": [], "more": more });
        let items = views
            .into_iter()
            .filter(|view| view.active != Some(false))
            .map(|view| {
                json!({
                    "id": view.id,
                    "title": text::clip(view.title.as_deref().unwrap_or_default(), 200),
                    "description": view.description.as_deref().map(|description| text::clip(description, 200)),
                })
            })
            .collect();
        let (items, left_out) = text::fit(items, &told);
        told["views"] = Value::Array(items);
        if left_out > 0 {
            told["left_out"] = json!(left_out);
        }
        Ok(told)
    }
}

//! `zendesk_list_views`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use crate::adapters::systems::tools::member::{self, Readable, add_unreadable_count, set};
use crate::adapters::systems::tools::{Tool, text};

const VIEWS: usize = 200;

pub(super) struct ListViews;

#[derive(Debug, Deserialize)]
struct View {
    #[serde(deserialize_with = "member::own_id")]
    id: u64,
    #[serde(default, deserialize_with = "member::text")]
    title: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    description: Option<String>,
    #[serde(default, deserialize_with = "member::flag")]
    active: Option<bool>,
}

#[async_trait]
impl Tool<Call> for ListViews {
    fn name(&self) -> &'static str {
        "zendesk_list_views"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/zendesk_list_views.json")
    }

    async fn call(&self, call: &Call, _request: &ToolRequest) -> Result<Value, ToolError> {
        let (views, more) = call.list("views", "views", &[], VIEWS).await?;
        let Readable {
            items: views,
            unreadable,
        } = Readable::<View>::read(views);
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
        set(&mut told, "views", items);
        if left_out > 0 {
            set(&mut told, "left_out", left_out);
        }
        add_unreadable_count(&mut told, "views", unreadable);
        Ok(told)
    }
}

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use copilotd_actors::ports::ToolBox;
use parking_lot::Mutex;
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Subscriber, subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::stub::{Stub, raw};
use super::{call_id, request, zendesk};

type Fields = BTreeMap<String, String>;

/// Stores the fields of a call's only span.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Fields>>);

impl Visit for Kept {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}").trim_matches('"').to_owned();
        self.0.lock().insert(field.name().to_owned(), value);
    }
}

impl<S: Subscriber> Layer<S> for Kept {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "execute_tool" {
            attributes.record(&mut self.clone());
        }
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut self.clone());
    }
}

#[tokio::test]
async fn a_call_is_traced_by_the_genai_conventions_and_without_its_content() {
    let stub = Stub::start(|_| raw(500, "internal")).await;
    let kept = Kept::default();
    let _guard = subscriber::set_default(tracing_subscriber::registry().with(kept.clone()));
    let call = request(
        "zendesk_create_ticket",
        json!({ "subject": "confidential", "body": "confidential" }),
    );
    zendesk(&stub).call(&call).await.unwrap_err();
    let fields = kept.0.lock().clone();
    for (name, value) in [
        ("otel.name", "execute_tool zendesk_create_ticket"),
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "zendesk_create_ticket"),
        ("gen_ai.tool.type", "extension"),
        ("gen_ai.tool.call.id", &call_id(7).to_string()),
        ("error.type", "in_doubt"),
        ("otel.status_code", "ERROR"),
    ] {
        assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}: {fields:?}");
    }
    assert!(!format!("{fields:?}").contains("confidential"));
}

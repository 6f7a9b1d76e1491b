//! The component schemas: the files of `schemas/api` and `schemas/events`, with their references rewritten to
//! components.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

macro_rules! files {
    ($($directory:literal: $($name:literal)+;)+) => {
        /// Directory, name and text of every file.
        pub(super) const FILES: &[(&str, &str, &str)] = &[$($((
            $directory,
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/", $directory, "/", $name, ".json")),
        ),)+)+];
    };
}

files! {
    "api": "api_key" "api_key_page" "audit_entry" "audit_page" "audit_verification" "chunk" "chunk_page" "citation" "claimed_call" "conversation" "conversation_page" "create_api_key" "create_conversation"
        "create_export" "create_revocation" "create_stream_ticket" "decide_approval" "document" "document_page" "export_line" "fact" "fact_page" "feedback" "file" "forgotten_answers" "give_feedback" "health" "job" "knowledge_results" "knowledge_sources" "message" "message_page" "new_api_key" "openai_error"
        "problem" "prompt_page" "put_document" "put_tenant" "readiness" "revocation" "revocation_page" "run_client_tool" "search_knowledge" "stream_ticket" "submit_turn" "tenant" "tenant_page" "tenants_usage_report" "tool_call" "turn"
        "update_conversation" "update_document" "update_fact" "update_tenant" "upload_file" "usage" "usage_report";
    "events": "approval.decided" "approval.requested" "client_tool.requested" "context.assembled" "conversation.erased" "conversation.titled"
        "guardrail.triggered" "memory.compressed" "message.completed" "message.delta" "message.reset"
        "model.fallback" "tool.called" "tool.finished" "turn.cancelled" "turn.completed" "turn.failed" "turn.queued"
        "turn.started" "turn.waiting";
}

/// Returns a file's component name: `submit_turn` becomes `SubmitTurn`, the event `turn.queued` `TurnQueuedEvent`.
fn component(directory: &str, name: &str) -> String {
    let words = name.split(['_', '.']);
    let mut component: String = words
        .flat_map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            [first.to_ascii_uppercase(), rest.to_owned()]
        })
        .collect();
    if directory == "events" {
        component.push_str("Event");
    }
    component
}

/// Returns the reference to a component.
fn reference(directory: &str, name: &str) -> String {
    format!("#/components/schemas/{}", component(directory, name))
}

/// Returns all components by name.
pub(super) fn components() -> Map<String, Value> {
    let read = |(directory, name, text): &(&str, &str, &str)| {
        let mut schema: Value = serde_json::from_str(text).expect("a test reads every schema");
        if let Value::Object(schema) = &mut schema {
            schema.remove("$schema");
            schema.remove("$id");
            // A component has a name. Generators prefer the title, and "Body of POST /v1/…" is no name of a type.
            schema.remove("title");
            // They stand beside the bodies instead, so that each is in the document once.
            schema.remove("examples");
        }
        rewrite_references(&mut schema, directory);
        (component(directory, name), schema)
    };
    FILES.iter().map(read).collect()
}

/// Returns the examples of the schema files by component.
pub(super) fn examples() -> HashMap<String, Vec<Value>> {
    let read = |(directory, name, text): &(&str, &str, &str)| {
        let mut schema: Value = serde_json::from_str(text).expect("a test reads every schema");
        match schema["examples"].take() {
            Value::Array(examples) => Some((component(directory, name), examples)),
            _ => None,
        }
    };
    FILES.iter().filter_map(read).collect()
}

/// Returns references to the event components by event type.
pub(super) fn events() -> Value {
    let events = FILES.iter().filter(|(directory, _, _)| *directory == "events");
    let named = events.map(|(directory, name, _)| ((*name).to_owned(), json!({ "$ref": reference(directory, name) })));
    Value::Object(named.collect())
}

/// Returns the reference to the component that describes a line of an export.
pub(super) fn export_line() -> Value {
    json!({ "$ref": reference("api", "export_line") })
}

/// Rewrites references to files as references to components.
fn rewrite_references(value: &mut Value, directory: &str) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get_mut("$ref") {
                let path = target.strip_prefix("https://copilotd.dev/schemas/").unwrap_or(target);
                let (directory, file) = path.split_once('/').unwrap_or((directory, path));
                *target = reference(directory, file.strip_suffix(".json").unwrap_or(file));
            }
            members
                .values_mut()
                .for_each(|member| rewrite_references(member, directory));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite_references(item, directory)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_a_component_that_compiles() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/");
        let mut files = BTreeSet::new();
        for directory in ["api", "events"] {
            for entry in std::fs::read_dir(format!("{root}{directory}")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                files.insert((directory, name.strip_suffix(".json").unwrap().to_owned()));
            }
        }
        let known: BTreeSet<_> = FILES
            .iter()
            .map(|(directory, name, _)| (*directory, (*name).to_owned()))
            .collect();
        assert_eq!(known, files);
        let components = components();
        assert_eq!(components.len(), files.len(), "two files have the same component name");
        for (directory, name, text) in FILES {
            let schema: Value = serde_json::from_str(text).unwrap();
            assert_eq!(
                schema["$id"],
                format!("https://copilotd.dev/schemas/{directory}/{name}.json")
            );
            let whole = json!({
                "$ref": reference(directory, name),
                "components": { "schemas": components },
            });
            jsonschema::draft202012::new(&whole).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

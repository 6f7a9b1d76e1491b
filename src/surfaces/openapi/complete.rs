//! Completes the OpenAPI document with what handlers do not describe: schemas, credentials, and common headers and
//! parameters.

use std::collections::HashMap;

use copilotd_actors::domain::ids::{
    CallId, ChunkId, CollectionName, ConversationId, ExternalId, FactId, FileId, JobId, PathId as _, TenantId, TurnId,
};
use serde_json::{Map, Value, json};

use super::{examples, schemas};
use crate::revocations::RevocationId;
use crate::tenants::KeyId;

const ABOUT: &str = "The self-hosted backend for AI copilots: durable conversations, each an append-only log.\n\n\
    Every response has an `x-request-id` header; every error is a problem document (RFC 9457) with a stable `code`. An \
    existing path answers an unsupported method with 405 `method_not_allowed` and an `Allow` header. Unknown fields in a \
    body or query are refused with 422.";

const CHUNKS: &str = "Server-sent events with `data:` lines only: chunks in OpenAI's format. If the answer fails midway, \
    an error object replaces the next chunk. `[DONE]` follows only a complete answer or one ended by a guardrail rule \
    (`content_filter`). Comments are sent as keep-alives.";

const STREAM: &str = "Server-sent events (`text/event-stream`, UTF-8, LF, never compressed). A comment follows the headers at \
    once and then at least every 15 s; `retry: 2000` once. `event:` is the type, `data:` the JSON object that \
    `x-events` describes for it. `id:` is the reader's whole position, `<seq>` or `<seq>.<offset>`: send it back as \
    `Last-Event-ID` to continue exactly there, on any connection and after any restart. On a stream opened with a ticket \
    every `id` ends in `~` and a MAC, and one is sent at once: after its 60 s the ticket only resumes, from such an `id`.";

/// Completes the document generated from the handlers.
pub(super) fn complete(mut document: Value) -> Value {
    document["openapi"] = json!("3.1.0");
    document["jsonSchemaDialect"] = json!("https://json-schema.org/draft/2020-12/schema");
    document["info"] = json!({
        "title": "copilotd",
        "version": env!("CARGO_PKG_VERSION"),
        "description": ABOUT,
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    document["servers"] = json!([{ "url": "/" }]);
    document["components"] = json!({ "schemas": schemas::components(), "securitySchemes": credentials() });
    document["tags"] = json!([
        { "name": "conversations", "description": "Conversations and their messages" },
        { "name": "turns", "description": "Prompts and everything done to answer them" },
        { "name": "files", "description": "Files attached to prompts" },
        { "name": "streams", "description": "Live events over SSE" },
        { "name": "knowledge", "description": "Documents that copilots search and cite" },
        { "name": "memory", "description": "Facts that users stated about themselves" },
        { "name": "gateway", "description": "OpenAI-compatible access to models" },
        { "name": "admin", "description": "For a tenant's administrators" },
        { "name": "tenants", "description": "For operators: manage tenants" },
        { "name": "operations", "description": "Health, metrics and jobs" },
    ]);
    if let Some(Value::Object(paths)) = document.get_mut("paths") {
        let examples = schemas::examples();
        for (path, item) in paths {
            complete_path(path, item, &examples);
        }
    }
    document["components"]["examples"] = Value::Object(examples::problems(&document["paths"]));
    document
}

fn credentials() -> Value {
    json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A user token (a JWT signed by the tenant's own backend) or an API key (`cpk_…`).",
        },
        "ticket": {
            "type": "apiKey",
            "in": "query",
            "name": "ticket",
            "description": "A ticket from `POST /v1/stream-tickets`, for clients that cannot send headers.",
        },
    })
}

fn complete_path(path: &str, item: &mut Value, examples: &HashMap<String, Vec<Value>>) {
    let Value::Object(operations) = item else { return };
    for operation in operations.values_mut() {
        let secured = operation.get("security").is_some();
        let mut parameters = match operation["parameters"].take() {
            Value::Array(parameters) => parameters,
            _ => Vec::new(),
        };
        parameters.splice(0..0, ids(path));
        if secured {
            parameters.push(json!({
                "name": "x-copilotd-user",
                "in": "header",
                "description": "The user that an API key acts for. A user token may only name its own user.",
                "schema": { "type": "string", "minLength": 1, "maxLength": 256 },
            }));
        } else {
            // Said, because a missing list could also have been forgotten.
            operation["security"] = json!([]);
        }
        operation["parameters"] = Value::Array(parameters);
        // Every described body is required.
        if let Some(body) = operation.get_mut("requestBody") {
            body["required"] = json!(true);
        }
        if let Some(Value::Object(responses)) = operation.get_mut("responses") {
            responses
                .iter_mut()
                .for_each(|(status, response)| complete_response(status, response));
        }
        examples::add(operation, examples);
    }
}

/// Describes the ids in a path.
fn ids(path: &str) -> Vec<Value> {
    let mut before = "";
    let mut ids = Vec::new();
    for segment in path.split('/') {
        if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let Some((pattern, what)) = id(before) else { continue };
            ids.push(json!({
                "name": name,
                "in": "path",
                "required": true,
                "description": what,
                "schema": { "type": "string", "pattern": pattern },
            }));
        }
        before = segment;
    }
    ids
}

/// Returns the pattern and the description of the id that follows a segment of a path.
fn id(segment: &str) -> Option<(&'static str, &'static str)> {
    Some(match segment {
        "conversations" => (ConversationId::PATTERN, "The conversation."),
        "turns" => (TurnId::PATTERN, "The turn."),
        "approvals" | "client-tools" => (CallId::PATTERN, "The call."),
        "jobs" => (JobId::PATTERN, "The job."),
        "tenants" => (TenantId::PATTERN, "The tenant."),
        "api-keys" => (KeyId::PATTERN, "The key."),
        "knowledge" => (CollectionName::PATTERN, "The collection."),
        "documents" => (
            ExternalId::PATTERN,
            "The id of the document in the tenant's own system.",
        ),
        "facts" => (FactId::PATTERN, "The fact."),
        "files" => (FileId::PATTERN, "The file."),
        "chunks" => (ChunkId::PATTERN, "The chunk."),
        "problems" => ("^[a-z_]{1,64}$", "The `code` of a problem."),
        "revocations" => (RevocationId::PATTERN, "The revocation."),
        "widget" => ("^[A-Za-z0-9.-]{1,64}$", "The name of the file."),
        // Any text: models have no id of ours.
        "models" => (".", "A route name or `provider/model`."),
        _ => return None,
    })
}

fn complete_response(status: &str, response: &mut Value) {
    let header = |required: bool, description: &str, kind: &str| json!({ "description": description, "required": required, "schema": { "type": kind } });
    let mut headers = match response["headers"].take() {
        Value::Object(headers) => headers,
        _ => Map::new(),
    };
    headers.insert(
        "x-request-id".into(),
        header(
            true,
            "The id sent by the client, if valid, or a generated one.",
            "string",
        ),
    );
    if status == "401" || status == "403" {
        headers.insert(
            "www-authenticate".into(),
            header(false, "The authentication challenge (RFC 6750).", "string"),
        );
    }
    if status == "429" || status == "503" {
        headers.insert(
            "retry-after".into(),
            header(false, "Seconds to wait before retrying.", "integer"),
        );
    }
    if status == "429" {
        headers.insert(
            "ratelimit-policy".into(),
            header(
                true,
                "The limit that was reached: `q` per window of `w` seconds, or `q` at a time if there is no `w`.",
                "string",
            ),
        );
        headers.insert(
            "ratelimit".into(),
            header(
                true,
                "The remaining quota (`r`), and the seconds until it is refilled (`t`).",
                "string",
            ),
        );
    }
    if let Some(lines) = response.pointer_mut("/content/application~1jsonl") {
        lines["x-line"] = schemas::export_line();
    }
    let is_document_too = response.pointer("/content/application~1json").is_some();
    let stream = response.pointer_mut("/content/text~1event-stream");
    if let Some(stream) = stream.filter(|_| is_document_too) {
        *stream = json!({ "schema": { "type": "string", "description": CHUNKS } });
        for (name, about, kind) in [
            ("cache-control", "`no-store`; on a stream also `no-transform`", "string"),
            ("x-accel-buffering", "`no`, on a stream", "string"),
            (
                "x-copilotd-model",
                "The `provider/model` that answered; missing on a stream that took longer than 10 s to start",
                "string",
            ),
            (
                "x-copilotd-attempts",
                "Number of requests sent to providers until then",
                "integer",
            ),
            ("x-copilotd-cache", "`hit`, `miss` or `bypass`", "string"),
            (
                "x-copilotd-cost-usd",
                "Cost in US dollars; on a stream see the final usage chunk instead",
                "string",
            ),
        ] {
            headers.insert(name.into(), header(false, about, kind));
        }
    } else if let Some(stream) = response.pointer_mut("/content/text~1event-stream") {
        *stream = json!({ "schema": { "type": "string", "description": STREAM }, "x-events": schemas::events() });
        headers.insert(
            "cache-control".into(),
            header(true, "`no-cache, no-transform`", "string"),
        );
        headers.insert("x-accel-buffering".into(), header(true, "`no`", "string"));
    }
    response["headers"] = Value::Object(headers);
}

#[cfg(test)]
mod tests {
    use crate::surfaces::openapi::document;

    #[test]
    fn every_id_in_a_path_is_described() {
        for (path, item) in document()["paths"].as_object().unwrap() {
            let names: Vec<&str> = path
                .split('/')
                .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            for (method, operation) in item.as_object().unwrap() {
                let parameters = operation["parameters"].as_array().unwrap();
                let of_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
                let described: Vec<&str> = of_path.map(|parameter| parameter["name"].as_str().unwrap()).collect();
                assert_eq!(described, names, "{method} {path}");
            }
        }
    }
}

//! The vendors' descriptions, and a client that checks every answer against them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

const OVERLAY: &str = include_str!("../../overlay.json");

/// One vendor's description, merged with the overlay.
pub struct Spec {
    vendor: &'static str,
    document: Value,
    validators: Mutex<HashMap<String, Arc<jsonschema::Validator>>>,
}

/// Returns the content of a file, or `None` if the descriptions are not available.
pub fn file(name: &str) -> Option<Value> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/specs");
    let root = std::env::var_os("COPILOTD_SPECS").map_or(beside, PathBuf::from);
    let path = root.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(error) => {
            let left_out = format!(
                "skipped: {} cannot be read ({error}); set COPILOTD_SPECS",
                path.display()
            );
            assert!(std::env::var_os("CI").is_none(), "{left_out}");
            eprintln!("{left_out}");
            None
        }
    }
}

impl Spec {
    pub fn openai() -> Option<Self> {
        Some(Self::new("openai", file("openai/openapi.trimmed.json")?))
    }

    pub fn zendesk() -> Option<Self> {
        Some(Self::new("zendesk", file("zendesk/zendesk_support.openapi.json")?))
    }

    pub fn slack() -> Option<Self> {
        let mut document = file("slack/slack_web_openapi_v2.trimmed.json")?;
        // Newer methods are described in a file of their own.
        let newer = file("slack/new_methods.schema.json")?;
        let definitions = document["definitions"].as_object_mut().unwrap();
        for (name, schema) in newer["definitions"].as_object().unwrap() {
            let known = definitions.insert(name.clone(), schema.clone());
            assert!(known.is_none(), "{name} is described twice");
        }
        Some(Self::new("slack", document))
    }

    fn new(vendor: &'static str, mut document: Value) -> Self {
        let overlay: Value = serde_json::from_str(OVERLAY).unwrap();
        for addition in overlay[vendor].as_array().unwrap() {
            assert!(addition["source"].is_string(), "{addition} needs its source");
            let at = addition["at"].as_str().unwrap();
            let place = document
                .pointer_mut(at)
                .unwrap_or_else(|| panic!("the description has no {at}"));
            merge(place, &addition["add"]);
        }
        Self {
            vendor,
            document: plain_schema(document),
            validators: Mutex::default(),
        }
    }

    /// Fails unless `value` is valid for the schema at this pointer of the description.
    pub fn check(&self, pointer: &str, value: &Value, what: &str) {
        let faults = self.faults(pointer, value);
        assert!(
            faults.is_empty(),
            "{} {what} does not match {pointer}:\n{}\n{value:#}",
            self.vendor,
            faults.join("\n")
        );
    }

    pub fn faults(&self, pointer: &str, value: &Value) -> Vec<String> {
        assert!(
            self.document.pointer(pointer).is_some(),
            "the description of {} has no {pointer}",
            self.vendor
        );
        let known = self.validators.lock().get(pointer).cloned();
        let validator = known.unwrap_or_else(|| {
            let mut schema = self.document.clone();
            // References in the description start at its root, so it becomes the schema's root.
            let encoded = pointer.replace('{', "%7B").replace('}', "%7D");
            schema["$ref"] = json!(format!("#{encoded}"));
            let validator = jsonschema::options()
                .with_draft(jsonschema::Draft::Draft202012)
                .should_validate_formats(true)
                .build(&schema)
                .unwrap();
            let validator = Arc::new(validator);
            let mut validators = self.validators.lock();
            validators.insert(pointer.to_owned(), validator.clone());
            validator
        });
        validator
            .iter_errors(value)
            .map(|error| format!("  {}: {error}", error.instance_path()))
            .collect()
    }

    /// Returns where the response of an operation is described.
    fn response(&self, path: &str, method: &Method, key: &str) -> (String, &Value) {
        let operation = format!(
            "/paths/{}/{}/responses",
            path.replace('~', "~0").replace('/', "~1"),
            method.as_str().to_lowercase()
        );
        let responses = self.document.pointer(&operation).unwrap_or_else(|| {
            panic!("{} does not describe {method} {path}", self.vendor);
        });
        let shared = &self.document["x-overlay-responses"];
        let (pointer, response) = match (&responses[key], &shared[key], &responses["default"]) {
            (Value::Null, Value::Null, Value::Null) => {
                panic!("{} does not describe {key} of {method} {path}", self.vendor)
            }
            (Value::Null, Value::Null, default) => (format!("{operation}/default"), default),
            (Value::Null, own, _) => (format!("/x-overlay-responses/{key}"), own),
            (described, _, _) => (format!("{operation}/{key}"), described),
        };
        match response["$ref"].as_str() {
            Some(target) => {
                let target = target.trim_start_matches('#').to_owned();
                let response = self.document.pointer(&target).unwrap();
                (target, response)
            }
            None => (pointer, response),
        }
    }
}

/// An answer that matches its description.
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Spec {
    /// Sends the request and checks the answer; `path` is written as in the description.
    pub async fn call(&self, path: &str, request: RequestBuilder) -> Answer {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let method = request.method().clone();
        let what = format!("{method} {}", request.url());
        let response = client.execute(request).await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        // Slack reports errors with status 200; its description calls them "default".
        let key = if status == 200 && body["ok"] == false {
            "default".to_owned()
        } else {
            status.to_string()
        };
        let (pointer, described) = self.response(path, &method, &key);
        for (name, header) in described["headers"].as_object().into_iter().flatten() {
            match headers.get(name) {
                Some(value) => {
                    let text = value.to_str().unwrap();
                    let place = format!("{pointer}/headers/{}", name.replace('~', "~0").replace('/', "~1"));
                    let typed = text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n));
                    let is_text = header["schema"]["type"] == "string";
                    let value = if is_text { json!(text) } else { typed };
                    self.check(&format!("{place}/schema"), &value, &format!("{what}: header {name}"));
                }
                None => assert!(header["required"] != true, "{what} lacks the header {name}"),
            }
        }
        let kind = headers["content-type"].to_str().unwrap();
        let kind = kind.split(';').next().unwrap();
        if self.document["swagger"].is_string() {
            assert_eq!(kind, "application/json", "{what}");
            self.check(&format!("{pointer}/schema"), &body, &what);
        } else {
            let content = &described["content"][kind];
            assert!(
                content.is_object(),
                "{what} was answered as {kind}, which is not in {pointer}"
            );
            match kind {
                "application/json" => {
                    let schema = format!("{pointer}/content/application~1json/schema");
                    self.check(&schema, &body, &what);
                }
                "text/event-stream" => {
                    let schema = format!("{pointer}/content/text~1event-stream/schema");
                    let events = events(&text);
                    for event in events.iter().filter(|event| **event != "[DONE]") {
                        self.check(&schema, &serde_json::from_str(event).unwrap(), &what);
                    }
                }
                _ => {}
            }
        }
        Answer {
            status,
            headers,
            text,
            body,
        }
    }
}

/// Returns the data of each event of a stream.
pub fn events(stream: &str) -> Vec<&str> {
    stream
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .collect()
}

/// Merges `addition` into `place`: objects are merged, lists appended, anything else is replaced.
fn merge(place: &mut Value, addition: &Value) {
    match (place, addition) {
        (Value::Object(place), Value::Object(addition)) => {
            for (key, value) in addition {
                merge(place.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(place), Value::Array(addition)) => place.extend(addition.iter().cloned()),
        (place, addition) => *place = addition.clone(),
    }
}

/// Rewrites the keywords of OpenAPI 3.0 and of Slack as JSON Schema.
fn plain_schema(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(plain_schema).collect(),
        Value::Object(mut fields) => {
            let nullable = ["nullable", "x-nullable"]
                .map(|key| fields.get(key) == Some(&Value::Bool(true)))
                .contains(&true);
            if nullable {
                fields.remove("nullable");
                fields.remove("x-nullable");
                if fields.is_empty() {
                    return json!({"type": "null"});
                }
                let rest = plain_schema(Value::Object(fields));
                return json!({"anyOf": [rest, {"type": "null"}]});
            }
            if let Some(Value::Array(alternatives)) = fields.remove("x-items-alternatives") {
                let alternatives: Vec<_> = alternatives.into_iter().map(plain_schema).collect();
                return json!({"anyOf": alternatives});
            }
            let fields: Map<_, _> = fields
                .into_iter()
                .map(|(key, value)| (key, plain_schema(value)))
                .collect();
            Value::Object(fields)
        }
        other => other,
    }
}

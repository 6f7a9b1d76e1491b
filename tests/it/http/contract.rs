//! Checks every response of the HTTP tests against the OpenAPI description: no response is undocumented.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use axum::http::{HeaderMap, Method};
use copilotd::surfaces::openapi::document;
use jsonschema::Validator;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Paths that need no credential.
const OPEN: [&str; 7] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/problems/{code}",
    "/widget.js",
    "/widget/{file}",
];

/// Compiled schemas by the pointer to the response's media type.
static SCHEMAS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

/// Fails if the description does not document this response to this request.
pub fn check(method: &Method, path: &str, status: u16, headers: &HeaderMap, body: Option<&[u8]>) {
    let said = format!("{method} {path} answered {status}");
    assert!(headers.contains_key("x-request-id"), "{said} without x-request-id");
    let Some((template, item)) = find(path) else {
        assert_eq!(status, 404, "{said}, but the path is not described");
        return;
    };
    let name = match method.as_str() {
        // The response to HEAD is that to GET without a body.
        "HEAD" => "get".to_owned(),
        other => other.to_lowercase(),
    };
    // A browser's preflight, or its refusal: the same for every path, and no operation of OpenAPI.
    if method == Method::OPTIONS && matches!(status, 204 | 403) {
        return;
    }
    let Some(operation) = item.get(&name) else {
        assert_eq!(status, 405, "{said}, but the method is not described");
        return;
    };
    // A request that succeeded had valid ids in its path.
    if (200..300).contains(&status) {
        check_ids(template, path, &name);
    }
    let answer = &operation["responses"][status.to_string()];
    assert!(answer.is_object(), "{said}, but that status is not described");
    for (name, header) in answer["headers"].as_object().unwrap() {
        let present = headers.contains_key(name.as_str());
        assert!(present || header["required"] != true, "{said} without {name}");
    }
    let Some(body) = body.filter(|_| method != Method::HEAD) else {
        return;
    };
    let Some(content) = answer["content"].as_object() else {
        assert!(body.is_empty(), "{said} with a body");
        return;
    };
    let media = headers["content-type"].to_str().unwrap().split(';').next().unwrap();
    let described = content
        .get(media)
        .unwrap_or_else(|| panic!("{said} as {media}, which is not described"));
    if media.ends_with("json") && described.get("schema").is_some() {
        let escape = |text: &str| text.replace('~', "~0").replace('/', "~1");
        let pointer = format!(
            "/paths/{}/{name}/responses/{status}/content/{}/schema",
            escape(template),
            escape(media)
        );
        matches(&pointer, &serde_json::from_slice(body).unwrap(), &said);
    }
}

/// Fails if an id in the path does not match its description.
fn check_ids(template: &str, path: &str, method: &str) {
    let given = path.split('?').next().unwrap_or_default().split('/');
    let names = template
        .split('/')
        .zip(given)
        .filter_map(|(segment, given)| Some((segment.strip_prefix('{')?.strip_suffix('}')?, given)));
    let escaped = template.replace('~', "~0").replace('/', "~1");
    let parameters = document()["paths"][template][method]["parameters"].as_array().unwrap();
    for (name, given) in names {
        let described = |parameter: &Value| parameter["in"] == "path" && parameter["name"] == name;
        let index = parameters.iter().position(described);
        let index = index.unwrap_or_else(|| panic!("{template} does not describe {name}"));
        let pointer = format!("/paths/{escaped}/{method}/parameters/{index}/schema");
        matches(&pointer, &json!(given), path);
    }
}

/// Fails if an event's data violates its schema.
pub fn check_event(name: &str, data: &Value) {
    let words = name.split(['.', '_']).map(|word| word[..1].to_uppercase() + &word[1..]);
    let component = words.collect::<String>() + "Event";
    assert!(
        !document()["components"]["schemas"][&component].is_null(),
        "no schema for {name}"
    );
    matches(&format!("/components/schemas/{component}"), data, name);
}

fn matches(pointer: &str, value: &Value, said: &str) {
    let mut schemas = SCHEMAS.lock();
    let compiled = schemas.entry(pointer.to_owned()).or_insert_with(|| {
        let schema = document().pointer(pointer).unwrap();
        let whole = json!({ "allOf": [schema], "components": document()["components"] });
        Arc::new(
            jsonschema::options()
                .should_validate_formats(true)
                .build(&whole)
                .unwrap(),
        )
    });
    let compiled = Arc::clone(compiled);
    drop(schemas);
    let faults: Vec<String> = compiled
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(
        faults.is_empty(),
        "{said}, which breaks {pointer}: {faults:#?}\n{value:#}"
    );
}

/// Finds the described path that a request's path matches.
fn find(path: &str) -> Option<(&'static String, &'static Value)> {
    let path = path.split('?').next()?;
    let fits = |template: &str| {
        let (mut wanted, mut given) = (template.split('/'), path.split('/'));
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                // A model's name may contain slashes.
                (None, Some(_)) => return template == "/v1/models/{id}",
                (Some(wanted), Some(given)) if wanted == given => {}
                (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => {}
                _ => return false,
            }
        }
    };
    document()["paths"]
        .as_object()?
        .iter()
        .find(|(template, _)| fits(template))
}

#[test]
fn every_route_that_is_tested_here_is_described_and_the_other_way_round() {
    let mut described: Vec<String> = Vec::new();
    for (path, item) in document()["paths"].as_object().unwrap() {
        described.extend(
            item.as_object()
                .unwrap()
                .keys()
                .map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    let mut tested: Vec<String> = super::access::routes()
        .iter()
        .map(|route| {
            let id = |text: &str| {
                text.replace("{conversation}", "{id}")
                    .replace("{turn}", "{id}")
                    .replace("{call}", "{call_id}")
            };
            format!("{} {}", route.method, id(route.path))
        })
        .collect();
    tested.extend(super::openai::ROUTES.map(|(method, path)| format!("{method} {path}")));
    tested.push("GET /v1/admin/usage".to_owned());
    tested.extend(
        [
            "DELETE /v1/admin/cache",
            "GET /v1/admin/audit",
            "GET /v1/admin/audit/verify",
            "GET /v1/admin/turns/{id}/prompts",
            "GET /v1/admin/api-keys",
            "POST /v1/admin/api-keys",
            "DELETE /v1/admin/api-keys/{id}",
            "GET /v1/admin/revocations",
            "POST /v1/admin/revocations",
            "DELETE /v1/admin/revocations/{id}",
            "GET /v1/operator/tenants",
            "GET /v1/operator/tenants/{id}",
            "PUT /v1/operator/tenants/{id}",
            "PATCH /v1/operator/tenants/{id}",
            "DELETE /v1/operator/tenants/{id}",
            "GET /v1/admin/knowledge/sources",
            "POST /v1/admin/exports",
            "GET /v1/jobs/{id}",
            "GET /v1/jobs/{id}/result",
            "GET /v1/operator/usage",
            "POST /v1/files",
            "GET /v1/files/{id}",
            "DELETE /v1/files/{id}",
            "GET /v1/memory/facts",
            "PATCH /v1/memory/facts/{id}",
            "DELETE /v1/memory/facts/{id}",
            "GET /v1/knowledge/chunks/{chunk_id}",
            "GET /v1/knowledge/{collection}/documents",
            "GET /v1/knowledge/{collection}/documents/{external_id}",
            "PUT /v1/knowledge/{collection}/documents/{external_id}",
            "PATCH /v1/knowledge/{collection}/documents/{external_id}",
            "DELETE /v1/knowledge/{collection}/documents/{external_id}",
            "GET /v1/knowledge/{collection}/documents/{external_id}/chunks",
            "POST /v1/knowledge/{collection}/search",
        ]
        .map(str::to_owned),
    );
    tested.extend(OPEN.map(|path| format!("GET {path}")));
    described.sort();
    tested.sort();
    assert_eq!(described, tested);
}

#[test]
fn the_description_is_whole() {
    let document = document();
    let text = document.to_string();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let said = format!("{method} {path}");
            assert!(
                operation["summary"].is_string() && operation["operationId"].is_string(),
                "{said}"
            );
            let open = OPEN.contains(&path.as_str());
            assert_eq!(operation["security"] == json!([]), open, "{said}");
            assert!(
                operation["security"].is_array(),
                "{said} says which credential it needs"
            );
            for status in ["401", "403", "429", "500", "503"] {
                let known = operation["responses"][status].is_object();
                assert!(known || open, "{said} does not describe {status}");
            }
            let parameters = operation["parameters"].as_array().unwrap();
            let ids = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
            assert_eq!(ids, path.matches('{').count(), "{said}");
        }
    }
    let mut used = HashSet::new();
    for target in text.split("\"$ref\":\"").skip(1) {
        let target = target.split('"').next().unwrap();
        used.insert(target);
        let pointer = target
            .strip_prefix('#')
            .unwrap_or_else(|| panic!("{target} is outside"));
        assert!(document.pointer(pointer).is_some(), "{target} is not there");
    }
    for kind in ["schemas", "examples"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(used.contains(reference.as_str()), "nothing refers to {reference}");
        }
    }
}

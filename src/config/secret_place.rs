//! What a secret is bound to: its slot, and the address, provider or issuer it is used with. A secret is never moved to
//! another place, so that somebody who may change an address cannot have an unknown secret sent there.

use std::sync::Arc;

use jsonptr::Token;
use reqwest::Url;
use serde_json::{Map, Value};

/// Members that say where a secret is sent, by their whole name or its end. New kinds of systems use the same names.
const BINDING_NAMES: [&str; 4] = ["provider", "iss", "alg", "kind"];
const BINDING_ENDS: [&str; 6] = ["url", "uri", "host", "endpoint", "address", "domain"];
/// Default addresses where none is written: by slot, and by kind where a slot holds systems of several kinds.
const DEFAULTS: [(&str, Option<&str>, &str, &str); 2] = [
    ("/slack", None, "base_url", super::tenant::SLACK_BASE_URL),
    ("/systems", Some("slack"), "base_url", super::tenant::SLACK_BASE_URL),
];

/// The place that a secret is bound to. Two places are equal when a secret at either is sent to the same destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretPlace {
    /// The pointer of the secret without list indexes, so that a list may be reordered.
    slot: String,
    /// Every binding member beside it and above it, with its value. Sibling secrets share it, which keeps the work
    /// linear in the size of the settings.
    bound_to: Arc<Vec<(String, String)>>,
}

/// Returns the secrets of `settings`, each with its pointer and place.
pub(crate) fn secrets(settings: &Value) -> Vec<(String, SecretPlace, &Value)> {
    let mut found = Vec::new();
    walk(settings, &Walk::default(), &mut |walk, leaf| {
        found.push((walk.pointer.clone(), walk.place(), leaf));
    });
    found
}

/// Calls `visit` with the pointer, place and value of every secret; it may change the value.
pub(crate) fn visit_secrets_mut(settings: &mut Value, visit: &mut dyn FnMut(&str, &SecretPlace, &mut Value)) {
    walk_mut(settings, &Walk::default(), visit);
}

/// Whether a value is a secret: an object with no other members than `env`, `file`, `value` and `kept`.
pub(crate) fn is_secret(value: &Value) -> bool {
    let names = |members: &Map<String, Value>| {
        !members.is_empty()
            && members
                .keys()
                .all(|name| matches!(name.as_str(), "env" | "file" | "value" | "kept"))
    };
    value.as_object().is_some_and(names)
}

#[derive(Debug, Clone, Default)]
struct Walk {
    pointer: String,
    slot: String,
    bound_to: Arc<Vec<(String, String)>>,
}

impl Walk {
    fn place(&self) -> SecretPlace {
        SecretPlace {
            slot: self.slot.clone(),
            bound_to: Arc::clone(&self.bound_to),
        }
    }

    fn member(&self, name: &str) -> Self {
        // One key and a list of keys are the same slot.
        let slot_name = if name == "api_keys" { "api_key" } else { name };
        Self {
            pointer: format!("{}/{}", self.pointer, Token::new(name).encoded()),
            slot: format!("{}/{slot_name}", self.slot),
            bound_to: Arc::clone(&self.bound_to),
        }
    }

    fn item(&self, index: usize) -> Self {
        Self {
            pointer: format!("{}/{index}", self.pointer),
            ..self.clone()
        }
    }

    /// Collects what an object binds its secrets to.
    fn bind(&mut self, members: &Map<String, Value>) {
        let mut found = Vec::new();
        for (name, value) in members {
            let lower = name.to_ascii_lowercase();
            let binds = BINDING_NAMES.contains(&lower.as_str()) || BINDING_ENDS.iter().any(|end| lower.ends_with(end));
            if let Some(text) = value.as_str().filter(|_| binds) {
                found.push((format!("{}/{lower}", self.slot), destination(text)));
            }
        }
        let kind = members.get("kind").and_then(Value::as_str);
        for (slot, of_kind, name, usual) in DEFAULTS {
            if self.slot == slot && (of_kind.is_none() || of_kind == kind) && !members.contains_key(name) {
                found.push((format!("{slot}/{name}"), destination(usual)));
            }
        }
        if !found.is_empty() {
            let mut bound_to = (*self.bound_to).clone();
            bound_to.append(&mut found);
            bound_to.sort();
            self.bound_to = Arc::new(bound_to);
        }
    }
}

/// Normalises an address as the HTTP client does, so that exactly the spellings of one destination are equal.
fn destination(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.has_host() => url.as_str().trim_end_matches('/').to_owned(),
        _ => text.to_owned(),
    }
}

fn walk<'a>(value: &'a Value, at: &Walk, visit: &mut dyn FnMut(&Walk, &'a Value)) {
    if is_secret(value) {
        visit(at, value);
        return;
    }
    match value {
        Value::Object(members) => {
            let mut bound = at.clone();
            bound.bind(members);
            for (name, member) in members {
                walk(member, &bound.member(name), visit);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &at.item(index), visit);
            }
        }
        _ => {}
    }
}

fn walk_mut(value: &mut Value, at: &Walk, visit: &mut dyn FnMut(&str, &SecretPlace, &mut Value)) {
    if is_secret(value) {
        visit(&at.pointer, &at.place(), value);
        return;
    }
    match value {
        Value::Object(members) => {
            let mut bound = at.clone();
            bound.bind(members);
            for (name, member) in members.iter_mut() {
                walk_mut(member, &bound.member(name), visit);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk_mut(item, &at.item(index), visit);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn zendesk(base_url: &str) -> Value {
        json!({ "zendesk": { "base_url": base_url, "token": { "value": "x" } } })
    }

    fn place(settings: &Value) -> SecretPlace {
        secrets(settings).remove(0).1
    }

    #[test]
    fn a_secret_is_bound_to_its_destination() {
        let known = place(&zendesk("https://acme.zendesk.com"));
        for (address, same) in [
            ("https://acme.zendesk.com", true),
            ("https://acme.zendesk.com/", true),
            ("HTTPS://ACME.zendesk.com:443", true),
            ("https://ａcme.zendesk.com", true),
            ("http://acme.zendesk.com", false),
            ("https://acme.zendesk.com:8443", false),
            ("https://acme.zendesk.com.evil.example", false),
            ("https://acme.zendesk.com@evil.example", false),
            ("https://acme.zendesk.com/other", false),
            ("https://аcme.zendesk.com", false),
            ("https:\\\\evil.example", false),
            ("", false),
        ] {
            assert_eq!(place(&zendesk(address)) == known, same, "{address}");
        }
        let other_slot =
            json!({ "zendesk": { "base_url": "https://acme.zendesk.com", "oauth_token": { "value": "x" } } });
        assert_ne!(place(&other_slot), known);
    }

    #[test]
    fn lists_may_change_their_order_and_an_address_that_is_not_written_is_the_usual_one() {
        let keys = |providers: [&str; 2]| {
            let list: Vec<Value> = providers
                .iter()
                .map(|provider| json!({ "provider": provider, "api_key": { "value": provider } }))
                .collect();
            secrets(&json!({ "provider_keys": list }))
                .into_iter()
                .map(|(pointer, place, _)| (pointer, place))
                .collect::<Vec<_>>()
        };
        let (one, other) = (keys(["a", "b"]), keys(["b", "a"]));
        assert_eq!(one[0].1, other[1].1);
        assert_ne!(one[0].1, other[0].1);
        assert_eq!(
            (one[0].0.as_str(), other[1].0.as_str()),
            ("/provider_keys/0/api_key", "/provider_keys/1/api_key")
        );
        let several = json!({ "provider_keys": [{ "provider": "a", "api_keys": [{ "value": "a" }] }] });
        assert_eq!(place(&several), one[0].1);

        let slack = |more: Value| {
            let mut slack = json!({ "bot_token": { "value": "x" } });
            slack["base_url"] = more;
            place(&json!({ "slack": slack }))
        };
        let plain = place(&json!({ "slack": { "bot_token": { "value": "x" } } }));
        assert_eq!(plain, slack(json!("https://slack.com/api/")));
        assert_ne!(plain, slack(json!("https://evil.example/api/")));
    }
}

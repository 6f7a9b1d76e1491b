//! Changes of settings: merge patches (RFC 7396), and secrets that are named and never shown.
//!
//! A secret is shown as `{"kept": "<fingerprint>"}`. Given back like that, in a list that is replaced as a whole for instance, it
//! stays what it was.

use serde_json::{Map, Value, json};

use super::error::SettingsFault;
use super::seal::Seal;
use crate::config::foreign_references;

/// Applies a merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            members.shift_remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Puts the names of secrets in their place.
pub fn redact(value: &mut Value, seal: &Seal) {
    if let Some(secret) = secret_of(value) {
        *value = json!({ "kept": seal.fingerprint(secret) });
        return;
    }
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| redact(member, seal)),
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, seal)),
        _ => {}
    }
}

/// Puts the secrets of `old` in the place of their names in `patch`. Refuses names that `old` does not have, and references
/// to what lies outside: whoever may change settings may not read this machine's environment and files through them.
pub fn restore(patch: &mut Value, old: &Value, seal: &Seal) -> Vec<SettingsFault> {
    let mut secrets = Vec::new();
    collect(old, &mut secrets);
    let mut faults = Vec::new();
    let known: Vec<&Value> = outside(old);
    for pointer in foreign_references(patch) {
        if patch.pointer(&pointer).is_some_and(|found| !known.contains(&found)) {
            faults.push(SettingsFault {
                pointer,
                message: "a secret has to be given as { \"value\": … } here".to_owned(),
            });
        }
    }
    put_back(patch, String::new(), &secrets, seal, &mut faults);
    faults
}

fn outside(old: &Value) -> Vec<&Value> {
    let pointers = foreign_references(old);
    pointers.iter().filter_map(|pointer| old.pointer(pointer)).collect()
}

fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        _ if secret_of(value).is_some() => found.extend(secret_of(value)),
        Value::Object(members) => members.values().for_each(|member| collect(member, found)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

fn put_back(value: &mut Value, path: String, secrets: &[&str], seal: &Seal, faults: &mut Vec<SettingsFault>) {
    if let Some(wanted) = only_member(value, "kept") {
        match secrets.iter().find(|secret| seal.fingerprint(secret) == wanted) {
            Some(secret) => *value = json!({ "value": secret }),
            None => faults.push(SettingsFault {
                pointer: path,
                message: "there is no such secret to be kept".to_owned(),
            }),
        }
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                put_back(member, format!("{path}/{name}"), secrets, seal, faults);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                put_back(item, format!("{path}/{index}"), secrets, seal, faults);
            }
        }
        _ => {}
    }
}

fn secret_of(value: &Value) -> Option<&str> {
    only_member(value, "value")
}

fn only_member<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    members.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging() {
        // The examples of RFC 7396, appendix A.
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (
                json!({"a": "c"}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} {patch}");
        }
    }

    #[test]
    fn secrets_are_kept_by_their_names_and_none_is_read_from_outside() {
        let seal = Seal::new(&[1; 32]);
        let old = json!({ "a": [{ "value": "one" }, { "env": "TWO" }], "b": { "secret": { "value": "three" } } });
        let mut shown = old.clone();
        redact(&mut shown, &seal);
        assert!(!shown.to_string().contains("one") && !shown.to_string().contains("three"));
        assert_eq!(shown["a"][1], json!({ "env": "TWO" }));
        let mut given = shown.clone();
        assert_eq!(restore(&mut given, &old, &seal), []);
        assert_eq!(given, old);
        let mut foreign = json!({ "a": [{ "env": "THREE" }], "b": { "file": "/etc/passwd" }, "c": { "kept": "0" } });
        let pointers: Vec<String> = restore(&mut foreign, &old, &seal)
            .into_iter()
            .map(|fault| fault.pointer)
            .collect();
        assert_eq!(pointers, ["/a/0", "/b", "/c"]);
    }
}

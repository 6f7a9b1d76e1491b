//! Lists the changed paths of settings, never their values.

use std::collections::BTreeSet;

use jsonptr::Token;
use serde_json::Value;

use crate::config::is_secret;

/// Most paths per change; beyond it, only the outermost members are listed.
const MAX_PLACES: usize = 64;
/// Longest path, in characters.
const MAX_LENGTH: usize = 200;

/// Lists the JSON Pointers at which two settings differ.
pub fn changed(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(old, new, String::new(), &mut found);
    if found.len() > MAX_PLACES {
        let outermost = |place: &String| place.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        found = found
            .iter()
            .map(outermost)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .take(MAX_PLACES)
            .collect();
    }
    found
        .iter()
        .map(|place| place.chars().take(MAX_LENGTH).collect())
        .collect()
}

fn walk(old: &Value, new: &Value, place: String, found: &mut Vec<String>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(before), Value::Object(after)) if !is_secret(old) && !is_secret(new) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let (one, other) = (before.get(name), after.get(name));
                let inner = format!("{place}/{}", Token::new(name.as_str()).encoded());
                walk(one.unwrap_or(&Value::Null), other.unwrap_or(&Value::Null), inner, found);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (one, other)) in before.iter().zip(after).enumerate() {
                walk(one, other, format!("{place}/{index}"), found);
            }
        }
        _ => found.push(place),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_and_no_values() {
        for (old, new, expected) in [
            (json!({ "a": 1 }), json!({ "a": 1 }), vec![]),
            (
                json!({ "a": 1, "b": 2 }),
                json!({ "a": 2, "c": 3 }),
                vec!["/a", "/b", "/c"],
            ),
            (
                json!({ "a": [{ "b": 1 }, 2] }),
                json!({ "a": [{ "b": 2 }, 2] }),
                vec!["/a/0/b"],
            ),
            (json!({ "a": [1] }), json!({ "a": [1, 2] }), vec!["/a"]),
            (
                json!({ "a": { "value": "x" } }),
                json!({ "a": { "env": "y" } }),
                vec!["/a"],
            ),
            (json!({ "a/b": 1 }), json!({ "a/b": 2 }), vec!["/a~1b"]),
            (Value::Null, json!({ "a": 2 }), vec![""]),
        ] {
            assert_eq!(changed(&old, &new), expected, "{old} {new}");
        }
        let many = |n: usize| json!({ "a": (0..100).map(|i| (format!("k{i}"), n)).collect::<std::collections::BTreeMap<_, _>>() });
        assert_eq!(changed(&many(0), &many(1)), ["/a"]);
    }
}

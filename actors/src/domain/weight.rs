//! Estimates the size of a JSON value without visiting all of it.

use serde_json::Value;

/// The maximum weight; nothing beyond it is counted.
pub const MAX_WEIGHT: usize = 1024 * 1024;
/// The weight of a value in addition to its text. Visiting a value costs about as much as parsing this many bytes.
const VALUE: usize = 16;

/// Returns the approximate size of `value` in bytes of JSON, at most [`MAX_WEIGHT`]. Visits at most `MAX_WEIGHT / 16` values.
pub fn of(value: &Value) -> usize {
    let mut left = MAX_WEIGHT;
    take(value, &mut left);
    MAX_WEIGHT - left
}

/// Like [`of`], for the members of an object.
pub fn of_members(members: &serde_json::Map<String, Value>) -> usize {
    let mut left = MAX_WEIGHT;
    take_members(members, &mut left);
    MAX_WEIGHT - left
}

fn take(value: &Value, left: &mut usize) {
    *left = left.saturating_sub(VALUE);
    match value {
        Value::String(text) => *left = left.saturating_sub(text.len()),
        Value::Array(items) => {
            for item in items {
                if *left == 0 {
                    return;
                }
                take(item, left);
            }
        }
        Value::Object(members) => take_members(members, left),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn take_members(members: &serde_json::Map<String, Value>, left: &mut usize) {
    for (name, value) in members {
        if *left == 0 {
            return;
        }
        *left = left.saturating_sub(name.len());
        take(value, left);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_counts_what_is_in_it() {
        for (value, least) in [
            (json!(null), 1),
            (json!("x".repeat(1000)), 1000),
            (json!({ "n".repeat(500): ["y".repeat(500), 1, true] }), 1000),
            (json!(vec![1; 1000]), 2001),
        ] {
            let (weight, bytes) = (of(&value), value.to_string().len());
            assert!(weight >= least && weight <= bytes * 16 + 16, "{weight} {bytes}");
        }
    }

    #[test]
    fn a_large_value_is_not_counted_to_its_end() {
        assert_eq!(of(&json!("x".repeat(MAX_WEIGHT * 2))), MAX_WEIGHT);
        assert_eq!(of(&json!(vec![json!([]); MAX_WEIGHT])), MAX_WEIGHT);
        let members = (0..MAX_WEIGHT / 8).map(|at| (at.to_string(), json!(1))).collect();
        assert_eq!(of_members(&members), MAX_WEIGHT);
    }
}

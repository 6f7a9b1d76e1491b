//! Reads members of JSON that came from outside. `value["name"]` panics in mutable use when the value is not an object.

use serde_json::Value;

/// Takes a member out of `value`; null when there is none, or when `value` is not an object.
pub(crate) fn take_member(value: &mut Value, name: &str) -> Value {
    value.get_mut(name).map(Value::take).unwrap_or_default()
}

//! Reads JSON from outside, which may be anything.
//!
//! `value["name"] = …` panics when `value` is not an object, and so does every index beyond an end; clippy bans those
//! in the vendors' modules, and this is what they use instead. A member that is not essential cannot make an answer
//! unreadable: with another type than the documented one it is read if its meaning is clear, and is absent otherwise.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

/// Whole numbers up to here are exact as floats, and no JSON parser rounds them.
const MAX_EXACT: f64 = 9_007_199_254_740_991.0;

/// Returns the member of `value` at the end of a path of names; null if there is none.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    static NULL: Value = Value::Null;
    let found = path.iter().try_fold(value, |value, name| value.get(*name));
    found.unwrap_or(&NULL)
}

/// Takes a member out of `value`; null if there is none, or if `value` is not an object.
pub(crate) fn take_member(value: &mut Value, name: &str) -> Value {
    value.get_mut(name).map(Value::take).unwrap_or_default()
}

/// Sets a member of one of our own objects; does nothing if `object` is not an object.
pub(crate) fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Value::Object(members) = object {
        members.insert(name.to_owned(), value.into());
    }
}

/// Items of a list from outside, and the number of unreadable ones.
#[derive(Debug, Clone)]
pub(crate) struct Readable<T> {
    pub items: Vec<T>,
    pub unreadable: usize,
}

impl<T> Default for Readable<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            unreadable: 0,
        }
    }
}

impl<T: DeserializeOwned> Readable<T> {
    /// Reads each item by itself.
    pub fn read(items: Vec<Value>) -> Self {
        let mut readable = Self::default();
        readable.extend(items);
        readable
    }

    /// Reads more items.
    pub fn extend(&mut self, items: Vec<Value>) {
        for item in items {
            match as_object(item) {
                Some(item) => self.items.push(item),
                None => self.unreadable += 1,
            }
        }
    }
}

/// Adds to a result how many items of the list `name` were unreadable, so that the rest is not taken for the whole.
pub(crate) fn add_unreadable_count(told: &mut Value, name: &str, unreadable: usize) {
    if unreadable > 0 {
        set(
            told,
            &format!("{name}_unreadable"),
            format!("{unreadable} could not be read"),
        );
    }
}

/// Reads an object; serde alone would also accept a list of members.
pub(crate) fn as_object<T: DeserializeOwned>(value: Value) -> Option<T> {
    if value.is_array() {
        return None;
    }
    serde_json::from_value(value).ok()
}

/// Reads a text, or a number or boolean as one.
pub(crate) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Reads an id or a count: a whole number, as a number or as a text. `None` if a parser may have rounded it.
pub(crate) fn as_number(value: &Value) -> Option<u64> {
    let exact = |number: &Number| {
        let float = number.as_f64().filter(|float| float.fract() == 0.0)?;
        (0.0..=MAX_EXACT).contains(&float).then_some(float as u64)
    };
    match value {
        Value::Number(number) => number.as_u64().or_else(|| exact(number)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Reads a boolean, also as a text or as 0 and 1.
pub(crate) fn as_flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") || text == "1" => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") || text == "0" => Some(false),
        Value::Number(number) => match number.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// For `#[serde(deserialize_with)]`: see [`as_text`].
pub(crate) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(as_text(&Value::deserialize(from)?))
}

/// For `#[serde(deserialize_with)]`: an id of somebody or something else. No id is zero.
pub(crate) fn id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(as_number(&Value::deserialize(from)?).filter(|id| *id > 0))
}

/// For `#[serde(deserialize_with)]`: the item's own id, without which it is useless.
pub(crate) fn own_id<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    id(from)?.ok_or_else(|| serde::de::Error::custom("no id"))
}

/// For `#[serde(deserialize_with)]`: the item's own id where ids are texts.
pub(crate) fn own_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = text(from)?.filter(|name| !name.is_empty());
    name.ok_or_else(|| serde::de::Error::custom("no id"))
}

/// For `#[serde(deserialize_with)]`: see [`as_number`].
pub(crate) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(as_number(&Value::deserialize(from)?))
}

/// For `#[serde(deserialize_with)]`: see [`as_flag`].
pub(crate) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    Ok(as_flag(&Value::deserialize(from)?))
}

/// For `#[serde(deserialize_with)]`: a list of objects or nothing; anything else counts as one unreadable item.
pub(crate) fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Readable<T>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Array(items) => Readable::read(items),
        Value::Null => Readable::default(),
        _ => Readable {
            items: Vec::new(),
            unreadable: 1,
        },
    })
}

/// For `#[serde(deserialize_with)]`: an object, or its default if it is something else.
pub(crate) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    Ok(as_object(Value::deserialize(from)?).unwrap_or_default())
}

/// A text in a list: see [`as_text`].
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text(#[serde(deserialize_with = "own_name")] pub String);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_exact_or_absent() {
        for (value, number) in [
            (json!(7), Some(7)),
            (json!(7.0), Some(7)),
            (json!("7"), Some(7)),
            (json!(" 7 "), Some(7)),
            (json!(u64::MAX), Some(u64::MAX)),
            (json!("18446744073709551615"), Some(u64::MAX)),
            (json!(9_007_199_254_740_993_u64), Some(9_007_199_254_740_993)),
            (json!(1e18), None),
            (json!(1e300), None),
            (json!(-1), None),
            (json!(-0.5), None),
            (json!(7.5), None),
            (json!("-7"), None),
            (json!("7a"), None),
            (json!(""), None),
            (json!(null), None),
            (json!(true), None),
            (json!([7]), None),
            (json!({ "id": 7 }), None),
        ] {
            assert_eq!(as_number(&value), number, "{value}");
        }
    }

    #[test]
    fn flags_and_texts_are_read_if_their_meaning_is_plain() {
        for (value, flag, text) in [
            (json!(true), Some(true), Some("true")),
            (json!("False"), Some(false), Some("False")),
            (json!(1), Some(true), Some("1")),
            (json!(2), None, Some("2")),
            (json!("yes"), None, Some("yes")),
            (json!(null), None, None),
            (json!([]), None, None),
            (json!({}), None, None),
        ] {
            assert_eq!(as_flag(&value), flag, "{value}");
            assert_eq!(as_text(&value).as_deref(), text, "{value}");
        }
    }

    #[test]
    fn nothing_is_set_in_what_is_no_object() {
        for mut value in [json!(null), json!([]), json!("x"), json!(1), json!(true)] {
            let before = value.clone();
            set(&mut value, "a", 1);
            assert_eq!(value, before);
            assert_eq!(take_member(&mut value, "a"), Value::Null);
        }
    }
}

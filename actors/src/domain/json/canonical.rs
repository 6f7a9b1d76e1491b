//! Texts of JSON values in which the order of members and white space do not show, for hashing.
//!
//! Not RFC 8785 to the letter, whose numbers are doubles: 9007199254740993 and 9007199254740992 would be one text, and
//! two different bodies or prompts would have one hash.

use serde_json::Value;

/// Whole floats below this (2^53) are exactly one integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes `value` with sorted members and its numbers as they are: `1.0` is not `1`. Hashes of this text are stored
/// with idempotency keys, so it never changes.
pub fn sorted(mut value: Value) -> String {
    value.sort_all_objects();
    value.to_string()
}

/// Writes `value` with sorted members and one spelling for each number: `1.0` is `1`.
pub fn canonical(mut value: Value) -> String {
    unify_numbers(&mut value);
    sorted(value)
}

fn unify_numbers(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(unify_numbers),
        Value::Array(items) => items.iter_mut().for_each(unify_numbers),
        Value::Number(number) => {
            let whole = number
                .as_f64()
                .filter(|float| float.fract() == 0.0 && float.abs() < EXACT);
            if let Some(whole) = whole.filter(|_| number.is_f64()) {
                // Exact: it is whole and below 2^53.
                *number = (whole as i64).into();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn spelling_does_not_count_and_meaning_does() {
        for (a, b, same) in [
            (r#"{"a":1,"b":[2,"x"]}"#, r#"{ "b": [2, "\u0078"], "a": 1 }"#, true),
            (r#"{"a":1.0}"#, r#"{"a":1}"#, true),
            (r#"{"a":1e2}"#, r#"{"a":100}"#, true),
            (r#"{"a":-0.0}"#, r#"{"a":0}"#, true),
            (r#"{"a":-0.0}"#, r#"{"a":0.5}"#, false),
            ("9007199254740993", "9007199254740992", false),
            ("18446744073709551615", "18446744073709551614", false),
            (r#"{"a":{"c":1,"b":2}}"#, r#"{"a":{"b":2,"c":1}}"#, true),
            (r#"[1,2]"#, r#"[2,1]"#, false),
            (r#"{"a":null}"#, r#"{}"#, false),
            (r#""1""#, r#"1"#, false),
        ] {
            assert_eq!(canonical(parsed(a)) == canonical(parsed(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn sorted_members_keep_their_numbers() {
        assert_eq!(
            sorted(parsed(r#"{ "b\"": [1.5, 1.0, null, {}], "a": {"d": [], "c": true} }"#)),
            r#"{"a":{"c":true,"d":[]},"b\"":[1.5,1.0,null,{}]}"#
        );
    }
}

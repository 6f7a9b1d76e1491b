//! The one bound on how deep JSON from outside may nest.

use serde_json::Value;

use super::StringScan;

/// Deepest nesting of objects and arrays in a body, and in a value that is stored in the log. Parsers may recurse, and
/// the one that reads the log stops at 128 levels, including those of the record itself: a value that is only just
/// readable at its source would make the whole log unreadable.
pub const MAX_NESTING: usize = 64;

/// Whether JSON text is nested deeper than [`MAX_NESTING`]. The result is meaningless for text that is not JSON.
pub fn is_text_too_deep(json: &[u8]) -> bool {
    // Fast path: nearly every body has too few brackets.
    if memchr::memchr2_iter(b'{', b'[', json).nth(MAX_NESTING).is_none() {
        return false;
    }
    let (mut depth, mut scan) = (0_usize, StringScan::default());
    for byte in json {
        match byte {
            _ if !scan.is_outside(*byte) => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_NESTING {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Whether a value is nested deeper than [`MAX_NESTING`].
pub fn is_value_too_deep(value: &Value) -> bool {
    fn fits(value: &Value, levels: usize) -> bool {
        match value {
            Value::Array(items) => levels > 0 && items.iter().all(|item| fits(item, levels - 1)),
            Value::Object(fields) => levels > 0 && fields.values().all(|field| fits(field, levels - 1)),
            _ => true,
        }
    }
    !fits(value, MAX_NESTING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn only_brackets_outside_of_texts_nest() {
        for (text, expected) in [
            (nested(MAX_NESTING), false),
            (nested(MAX_NESTING + 1), true),
            (format!("[{}]", vec!["{}"; 1_000].join(",")), false),
            (format!("{{\"a\":\"{}\"}}", "[".repeat(1_000)), false),
            (format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(1_000)), false),
            (format!("{{\"a\\\\\":{}}}", nested(MAX_NESTING)), true),
            ("[".repeat(10_000_000), true),
        ] {
            assert_eq!(is_text_too_deep(text.as_bytes()), expected, "{:.80}", text);
        }
    }

    #[test]
    fn a_text_and_its_value_have_the_same_bound() {
        for depth in [1, MAX_NESTING - 1, MAX_NESTING, MAX_NESTING + 1, 100] {
            for text in [
                nested(depth),
                format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
            ] {
                let value = serde_json::from_str(&text).unwrap();
                assert_eq!(is_value_too_deep(&value), depth > MAX_NESTING, "{text}");
                assert_eq!(is_text_too_deep(text.as_bytes()), depth > MAX_NESTING, "{text}");
            }
        }
    }
}

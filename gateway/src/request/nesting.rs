//! Nesting depth of a body: parsers may recurse.

/// Deepest nesting of objects and arrays in a body.
pub const MAX_NESTING: usize = 64;

/// Whether JSON text is nested deeper than [`MAX_NESTING`]. The result is meaningless for text that is not JSON.
pub fn is_too_deep(json: &[u8]) -> bool {
    // Fast path: nearly every body has too few brackets.
    if memchr::memchr2_iter(b'{', b'[', json).nth(MAX_NESTING).is_none() {
        return false;
    }
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_NESTING {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_brackets_outside_of_texts_nest() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for (text, expected) in [
            (nested(MAX_NESTING), false),
            (nested(MAX_NESTING + 1), true),
            (format!("[{}]", vec!["{}"; 1_000].join(",")), false),
            (format!("{{\"a\":\"{}\"}}", "[".repeat(1_000)), false),
            (format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(1_000)), false),
            (format!("{{\"a\\\\\":{}}}", nested(MAX_NESTING)), true),
            ("[".repeat(10_000_000), true),
        ] {
            assert_eq!(is_too_deep(text.as_bytes()), expected, "{:.80}", text);
        }
    }
}

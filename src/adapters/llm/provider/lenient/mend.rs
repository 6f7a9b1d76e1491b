//! Repairs text that is almost JSON.

/// Writes values that JSON does not have (`NaN`, `Infinity`) as null, and control characters inside texts as escapes.
/// Nothing else is changed, so what was broken otherwise still is.
pub fn mend(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 16);
    let (mut in_text, mut escaped) = (false, false);
    let mut rest = json.char_indices();
    while let Some((at, c)) = rest.next() {
        if in_text {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_text = false,
                c if c < ' ' => {
                    out.push_str(&format!("\\u{:04x}", u32::from(c)));
                    continue;
                }
                _ => {}
            }
            out.push(c);
            continue;
        }
        in_text = c == '"';
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|word| json[at..].starts_with(word));
        match word {
            Some(word) => {
                out.push_str("null");
                rest.nth(word.len() - 2);
            }
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn almost_json_is_repaired() {
        for (json, expected) in [
            (
                "{\"a\":NaN,\"b\":[-Infinity,Infinity]}",
                "{\"a\":null,\"b\":[null,null]}",
            ),
            ("{\"a\":\"NaN\\\"Infinity\"}", "{\"a\":\"NaN\\\"Infinity\"}"),
            ("{\"a\":\"x\ny\tz\"}", "{\"a\":\"x\\u000ay\\u0009z\"}"),
            ("{\"a\":\n1}", "{\"a\":\n1}"),
            ("{\"a\":\"🧀", "{\"a\":\"🧀"),
            ("{\"a\":NaN", "{\"a\":null"),
        ] {
            assert_eq!(mend(json), expected, "{json}");
        }
    }
}

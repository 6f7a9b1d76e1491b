//! Repairs surrogate pairs in JSON texts. A model's output may be cut anywhere, even in the middle of a pair, and
//! strict parsers reject a lone half.

use std::borrow::Cow;

/// Replaces each lone half of a surrogate pair with U+FFFD, because strict parsers reject a text that contains one.
pub fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut lone = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match unit(bytes, at) {
            Some(0xD800..=0xDBFF) => {
                if matches!(unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) {
                    at += 12;
                    continue;
                }
                lone.push(at);
                at += 6;
            }
            Some(0xDC00..=0xDFFF) => {
                lone.push(at);
                at += 6;
            }
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    if lone.is_empty() {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    let mut from = 0;
    for at in lone {
        out.push_str(&json[from..at]);
        out.push_str("\\ufffd");
        from = at + 6;
    }
    out.push_str(&json[from..]);
    Cow::Owned(out)
}

/// Reads the escape `\uXXXX` at `at`, if there is one.
pub fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let escape = bytes.get(at..at + 6)?;
    let digits = escape.strip_prefix(b"\\u")?;
    let digits = std::str::from_utf8(digits).ok()?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_pair_become_a_replacement_and_pairs_stay() {
        for (json, expected) in [
            (r#""\ud83d\ude80""#, r#""\ud83d\ude80""#),
            (r#""a\ud83d""#, r#""a\ufffd""#),
            (r#""\ude80b""#, r#""\ufffdb""#),
            (r#""\ud83d\ud83d\ude80""#, r#""\ufffd\ud83d\ude80""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
            (r#""\\\ud83d""#, r#""\\\ufffd""#),
            (r#""\ud83dx\ude80""#, r#""\ufffdx\ufffd""#),
            (r#""\uD83D\uDE80""#, r#""\uD83D\uDE80""#),
            (r#""\n\u00e9""#, r#""\n\u00e9""#),
            ("\"\\", "\"\\"),
        ] {
            assert_eq!(without_lone_surrogates(json), expected, "{json}");
        }
    }
}

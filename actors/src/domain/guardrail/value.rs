//! Applies rules to JSON: every string, name and number in a text that is JSON is checked, in whatever notation.

use std::borrow::Cow;

use serde_json::Value;

use super::fold::IgnorableFilter;
use super::{Rule, RuleSet};

/// Longest text that is parsed as JSON, because the parsed value takes many times its size. In longer ones only the
/// escapes are decoded.
const MAX_PARSED: usize = 1024 * 1024;

/// How many times escapes are decoded in a text that is not JSON, or that has duplicate members hiding one another.
const MAX_UNESCAPED: usize = 2;

impl RuleSet {
    /// Returns a rule that matches in `text` as written or, if it is JSON, as decoded.
    pub fn matching_text(&self, text: &str) -> Option<&Rule> {
        self.0.as_ref()?;
        in_text(text, &|text| self.matching(text))
    }

    /// Drops from the strings of `value` the invisible characters that are never passed on, so that places in them can
    /// be replaced.
    #[must_use]
    pub fn thin(&self, value: Value) -> Value {
        match value {
            _ if self.is_empty() => value,
            Value::String(text) => match IgnorableFilter::default().pass(&text) {
                Cow::Borrowed(_) => Value::String(text),
                Cow::Owned(thin) => Value::String(thin),
            },
            Value::Array(items) => items.into_iter().map(|item| self.thin(item)).collect(),
            Value::Object(members) => {
                let thin = |(name, value)| (name, self.thin(value));
                members.into_iter().map(thin).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
}

type Matcher<'a, 'b> = &'b dyn Fn(&str) -> Option<&'a Rule>;

fn in_value<'a>(value: &Value, look: Matcher<'a, '_>) -> Option<&'a Rule> {
    match value {
        Value::String(text) => in_text(text, look),
        Value::Array(items) => items.iter().find_map(|item| in_value(item, look)),
        Value::Object(members) => members
            .iter()
            .find_map(|(name, value)| in_text(name, look).or_else(|| in_value(value, look))),
        Value::Number(number) => look(&number.to_string()),
        Value::Null | Value::Bool(_) => None,
    }
}

fn in_text<'a>(text: &str, look: Matcher<'a, '_>) -> Option<&'a Rule> {
    look(text).or_else(|| {
        let meant = (text.len() <= MAX_PARSED).then(|| serde_json::from_str::<Value>(text).ok());
        let meant = meant.flatten();
        let nested = meant
            .filter(|meant| !meant.is_number())
            .and_then(|meant| in_value(&meant, look));
        nested.or_else(|| {
            let levels = std::iter::successors(unescaped(text), |text| unescaped(text));
            levels.take(MAX_UNESCAPED).find_map(|text| look(&text))
        })
    })
}

/// Decodes the JSON escapes in a text that may be only a fragment of JSON.
fn unescaped(text: &str) -> Option<String> {
    if !text.contains('\\') {
        return None;
    }
    let (mut out, mut units) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    let flush = |units: &mut Vec<u16>, out: &mut String| {
        out.extend(char::decode_utf16(units.drain(..)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
    };
    while let Some(first) = rest.chars().next() {
        let unit = rest
            .strip_prefix("\\u")
            .and_then(|code| u16::from_str_radix(code.get(..4)?, 16).ok());
        if let Some(unit) = unit {
            units.push(unit);
            rest = &rest[6..];
            continue;
        }
        flush(&mut units, &mut out);
        rest = &rest[first.len_utf8()..];
        if first != '\\' {
            out.push(first);
            continue;
        }
        let Some(escaped) = rest.chars().next() else { break };
        rest = &rest[escaped.len_utf8()..];
        out.push(match escaped {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            other => other,
        });
    }
    flush(&mut units, &mut out);
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::guardrail::{ContentKind, OnMatch, Rules, find};

    #[test]
    fn a_match_anywhere_in_a_value() {
        let rule = |literal: &str| Rule {
            name: literal.to_lowercase(),
            literal: literal.to_owned(),
            action: OnMatch::Redact,
            confusables: false,
        };
        let rules = Rules {
            input: RuleSet::new([rule("Bluebird"), rule("4111")]),
            ..Rules::default()
        };
        let matches = |value: &Value| !find(&rules, ContentKind::Prompt, value).unwrap().is_empty();
        for value in [
            json!("bluebird"),
            json!(["a", { "b": [null, "a Blue\u{200b}bird"] }]),
            json!({ "bluebird": 1 }),
            json!({ "x": { "ｂluebird": true } }),
            json!("{\"a\": \"blue\\u0062ird\"}"),
            json!("cut off: {\"a\": \"blue\\u0062ird"),
            json!(r#"{"a":"{\"x\":\"Bluebir\\u0064\"}","a":"x"}"#),
            json!(r#"cut off: {"a":"{\"x\":\"Bluebir\\u0064\"}"#),
            json!("[\"{\\\"a\\\": \\\"blue\\\\u0062ird\\\"}\"]"),
            json!({ "{\"blue\\u0062ird\"": 1 }),
            json!(141_115),
        ] {
            assert!(matches(&value), "{value}");
        }
        for value in [
            json!("green bird"),
            json!([1, 2.5, true, null]),
            json!({ "blue": "bird" }),
        ] {
            assert!(!matches(&value), "{value}");
        }
    }
}

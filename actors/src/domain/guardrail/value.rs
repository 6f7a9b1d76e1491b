//! Applies rules to JSON: every string, name and number in a value is checked, in whatever notation.

use std::cell::Cell;

use serde_json::Value;

use super::{HoldBack, REDACTED, Rule, RuleSet};

/// Longest text that is parsed as JSON, because the parsed value takes many times its size. In longer ones only the
/// escapes are decoded.
const MAX_PARSED: usize = 1024 * 1024;

/// How many times escapes are decoded in a text that is not JSON, or that has duplicate members hiding one another.
const MAX_UNESCAPED: usize = 2;

/// A value that readers may see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CleanedValue {
    /// The redacted value; none if a rule blocks it.
    pub value: Option<Value>,
    /// Names of the redacting rules that were triggered, each once.
    pub redactions: Vec<String>,
    /// The name of the rule that blocks the value.
    pub blocked: Option<String>,
}

impl RuleSet {
    /// Returns a rule that matches anywhere in `value`, whatever its action.
    pub fn matching_value(&self, value: &Value) -> Option<&Rule> {
        // Without rules there is nothing to parse.
        self.0.as_ref()?;
        in_value(value, &|text| self.matching(text))
    }

    /// Returns a rule that blocks anything in `value`.
    pub fn blocking_value(&self, value: &Value) -> Option<&Rule> {
        self.0.as_ref()?;
        in_value(value, &|text| self.blocking(text))
    }

    /// Returns a rule that matches in `text` as written or, if it is JSON, as decoded.
    pub fn matching_text(&self, text: &str) -> Option<&Rule> {
        self.0.as_ref()?;
        in_text(text, &|text| self.matching(text))
    }

    /// Returns a rule that blocks `text` as written or, if it is JSON, as decoded.
    pub fn blocking_text(&self, text: &str) -> Option<&Rule> {
        self.0.as_ref()?;
        in_text(text, &|text| self.blocking(text))
    }

    /// Makes a value safe for readers: literals of redacting rules are replaced in its strings. A match that cannot be
    /// replaced, because it is in a name or in escapes, blocks the value as a blocking rule does.
    pub fn clean(&self, value: Value) -> CleanedValue {
        let mut cleaned = CleanedValue::default();
        if self.is_empty() {
            cleaned.value = Some(value);
            return cleaned;
        }
        let (redacted, blocked) = (Cell::new(Vec::new()), Cell::new(None));
        let value = self.redact(value, &redacted, &blocked);
        cleaned.redactions = redacted.into_inner();
        cleaned.blocked = blocked.into_inner();
        if cleaned.blocked.is_none() {
            cleaned.value = Some(value);
        }
        cleaned
    }

    fn redact(&self, value: Value, redacted: &Cell<Vec<String>>, blocked: &Cell<Option<String>>) -> Value {
        let block = |name: &str| blocked.set(Some(name.to_owned()));
        match value {
            Value::String(text) => {
                let mut window = HoldBack::new(self);
                let passed = window.push(&text).and_then(|begun| Ok(begun + &window.finish()?));
                let mut names = redacted.take();
                for name in window.redactions() {
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
                redacted.set(names);
                match passed {
                    Ok(text) => {
                        // Matches in escapes only. The replacement itself is not a match.
                        let rest = text.replace(REDACTED, "\u{e000}");
                        if let Some(rule) = self.matching_text(&rest) {
                            block(&rule.name);
                        }
                        Value::String(text)
                    }
                    Err(stopped) => {
                        block(&stopped.rule);
                        Value::Null
                    }
                }
            }
            Value::Array(items) => items
                .into_iter()
                .map(|item| self.redact(item, redacted, blocked))
                .collect(),
            Value::Object(members) => members
                .into_iter()
                .map(|(name, value)| {
                    if let Some(rule) = self.matching(&name) {
                        block(&rule.name);
                    }
                    (name, self.redact(value, redacted, blocked))
                })
                .collect(),
            Value::Number(number) => match self.matching(&number.to_string()) {
                Some(rule) if rule.blocks() => {
                    block(&rule.name);
                    Value::Null
                }
                Some(rule) => {
                    let mut names = redacted.take();
                    if !names.contains(&rule.name) {
                        names.push(rule.name.clone());
                    }
                    redacted.set(names);
                    REDACTED.into()
                }
                None => Value::Number(number),
            },
            Value::Null | Value::Bool(_) => value,
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
    use crate::domain::guardrail::OnMatch;

    fn rules() -> RuleSet {
        let rule = |literal: &str, action| Rule {
            name: literal.to_lowercase(),
            literal: literal.to_owned(),
            action,
            confusables: false,
        };
        RuleSet::new([
            rule("Bluebird", OnMatch::Redact),
            rule("sk-", OnMatch::Block),
            rule("4111", OnMatch::Redact),
        ])
    }

    #[test]
    fn a_match_anywhere_in_a_value() {
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
            assert!(rules().matching_value(&value).is_some(), "{value}");
            assert_eq!(rules().blocking_value(&value), None, "{value}");
        }
        for value in [
            json!("green bird"),
            json!([1, 2.5, true, null]),
            json!({ "blue": "bird" }),
        ] {
            assert_eq!(rules().matching_value(&value), None, "{value}");
        }
        assert!(rules().blocking_value(&json!([{ "a": "SK-1" }])).is_some());
    }

    #[test]
    fn a_value_is_redacted_or_blocked() {
        let cleaned = rules().clean(json!({ "a": ["Project BLUEBIRD!", 94_111, true], "b": "fine" }));
        assert_eq!(
            cleaned.value,
            Some(json!({ "a": ["Project [redacted]!", "[redacted]", true], "b": "fine" }))
        );
        assert_eq!(
            (cleaned.redactions, cleaned.blocked),
            (vec!["bluebird".to_owned(), "4111".to_owned()], None)
        );
        for (value, rule) in [
            (json!({ "key": "sk-123" }), "sk-"),
            (json!(["bluebird", "s\u{ad}k-"]), "sk-"),
            (json!({ "Bluebird": 1 }), "bluebird"),
            (json!("{\"a\":\"blue\\u0062ird\"}"), "bluebird"),
        ] {
            let cleaned = rules().clean(value.clone());
            assert_eq!(
                (cleaned.value, cleaned.blocked.as_deref()),
                (None, Some(rule)),
                "{value}"
            );
        }
        let untouched = json!({ "a": "\u{200b}" });
        assert_eq!(RuleSet::default().clean(untouched.clone()).value, Some(untouched));
    }
}

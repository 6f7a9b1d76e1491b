//! JSON: each value becomes a line of `path: value`. Objects of a list are paragraphs.
//!
//! Values are written while they are parsed; no tree of them is built, which could take many times the memory.

use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::error::ExtractError;
use super::limits::Limits;
use super::markdown::clean;
use super::marks::Extracted;

/// Deepest nesting; the parser itself stops a little later.
const DEEPEST: usize = 120;

/// Extracts the values.
pub fn extract(text: &str, limits: &Limits) -> Result<Extracted, ExtractError> {
    let mut writer = Writer {
        limits: *limits,
        output: String::new(),
        title: None,
        path: String::new(),
        depth: 0,
        containers: 0,
        failure: None,
    };
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = Value(&mut writer).deserialize(&mut parser).and_then(|()| parser.end());
    if let Some(failure) = writer.failure {
        return Err(failure);
    }
    parsed.map_err(|_| ExtractError::Damaged)?;
    Ok(Extracted {
        title: writer.title,
        text: writer.output,
        ..Extracted::default()
    })
}

struct Writer {
    limits: Limits,
    output: String,
    title: Option<String>,
    path: String,
    depth: usize,
    /// Objects and lists so far.
    containers: usize,
    failure: Option<ExtractError>,
}

impl Writer {
    fn scalar(&mut self, value: &str) {
        let value = value.trim();
        if value.is_empty() {
            return;
        }
        if self.title.is_none() && self.path == "title" {
            self.title = Some(clean(value));
        }
        if !self.path.is_empty() {
            self.output.push_str(&self.path);
            self.output.push_str(": ");
        }
        self.output
            .extend(value.chars().map(|char| if char == '\0' { '\u{fffd}' } else { char }));
        self.output.push('\n');
    }

    fn enter<E: Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        self.containers += 1;
        if self.depth > self.limits.depth.min(DEEPEST) {
            self.failure = Some(ExtractError::TooDeep);
            return Err(E::custom("nested too deeply"));
        }
        Ok(())
    }

    fn check<E: Error>(&mut self) -> Result<(), E> {
        if self.output.len() > self.limits.text_bytes {
            self.failure = Some(ExtractError::TooLarge);
            return Err(E::custom("too much text"));
        }
        Ok(())
    }
}

/// The value at the writer's path.
struct Value<'a>(&'a mut Writer);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.0.scalar(if value { "true" } else { "false" });
        self.0.check()
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.scalar(&value.to_string());
        self.0.check()
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.scalar(&value.to_string());
        self.0.check()
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.scalar(&value.to_string());
        self.0.check()
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.0.scalar(value);
        self.0.check()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let writer = self.0;
        writer.enter()?;
        let (length, mut index) = (writer.path.len(), 0_usize);
        loop {
            let before = (writer.output.len(), writer.containers);
            writer.path.push_str(&format!("[{index}]"));
            let item = items.next_element_seed(Value(writer))?;
            writer.path.truncate(length);
            if item.is_none() {
                break;
            }
            // An empty line after an object or a list that has values.
            let has_values = writer.output.len() > before.0 && writer.containers > before.1;
            if has_values && !writer.output.ends_with("\n\n") {
                writer.output.push('\n');
            }
            index += 1;
        }
        writer.depth -= 1;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let writer = self.0;
        writer.enter()?;
        let length = writer.path.len();
        while let Some(name) = members.next_key::<std::borrow::Cow<'de, str>>()? {
            if length > 0 {
                writer.path.push('.');
            }
            writer.path.push_str(&clean(&name).replace('\0', "\u{fffd}"));
            members.next_value_seed(Value(writer))?;
            writer.path.truncate(length);
        }
        writer.depth -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> Result<String, ExtractError> {
        extract(json, &Limits::default()).map(|extracted| extracted.text)
    }

    #[test]
    fn values_have_paths() {
        for (json, expected) in [
            (
                r#"{"a": {"b": [1, -2, 2.5]}, "c": true, "d": null, "e": ""}"#,
                "a.b[0]: 1\na.b[1]: -2\na.b[2]: 2.5\nc: true\n",
            ),
            (
                r#"[{"q": "Why?\n\nSay.", "a": "So."}, {"q": "How?"}, 3]"#,
                "[0].q: Why?\n\nSay.\n[0].a: So.\n\n[1].q: How?\n\n[2]: 3\n",
            ),
            ("\"alone\"", "alone\n"),
            ("{}", ""),
            (r#"{"a\u0000b": "x\u0000"}"#, "a\u{fffd}b: x\u{fffd}\n"),
        ] {
            assert_eq!(text(json).as_deref(), Ok(expected), "{json}");
        }
        let titled = extract(r#"{"title": "Plans", "items": [{"title": "Pro"}]}"#, &Limits::default()).unwrap();
        assert_eq!(titled.title.as_deref(), Some("Plans"));
    }

    #[test]
    fn bad_json_has_named_errors() {
        for (json, error) in [
            ("{\"a\": ", ExtractError::Damaged),
            ("[1] 2", ExtractError::Damaged),
            ("nonsense", ExtractError::Damaged),
            (&"[".repeat(100_000), ExtractError::TooDeep),
            (&("{\"a\":".repeat(100_000) + "1"), ExtractError::TooDeep),
        ] {
            assert_eq!(text(json), Err(error));
        }
        let long = format!("{{\"{}\": [{}1]}}", "n".repeat(300), "1,".repeat(1_000));
        let limits = Limits {
            text_bytes: 10_000,
            ..Limits::default()
        };
        assert_eq!(extract(&long, &limits), Err(ExtractError::TooLarge));
    }
}

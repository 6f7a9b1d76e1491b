//! A JSON parser that is stricter than serde_json: limited nesting, a limited number of values, no duplicate members.

use std::cell::Cell;
use std::fmt;

use copilotd_actors::domain::json::MAX_NESTING;
use copilotd_actors::domain::schema::Violation;
use jsonptr::Token;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Maximum number of values in a text, members and items included. Each takes many times its text in memory, and time
/// to drop.
pub const MAX_VALUES: usize = 100_000;

/// Why a text was not parsed.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not valid JSON in the strict sense. The text says what is wrong and where, and quotes at most a member's name.
    Malformed(String),
    /// More than [`MAX_VALUES`] values.
    TooMany,
}

/// Parses a JSON text.
pub fn parse(text: &[u8]) -> Result<Value, Fault> {
    let malformed = |error: &dyn fmt::Display| Fault::Malformed(error.to_string());
    let text = std::str::from_utf8(text)
        .map_err(|error| malformed(&format_args!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let left = Cell::new(MAX_VALUES);
    let value = Node { depth: 0, left: &left }.deserialize(&mut reader);
    let value = value.map_err(|error| {
        if left.get() == 0 {
            Fault::TooMany
        } else {
            malformed(&error)
        }
    })?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// Lists up to `most` strings and member names that contain a NUL character. Some stores truncate a text there.
pub fn nul_characters(value: &Value, most: usize) -> Vec<Violation> {
    let mut found = Vec::new();
    find_nul(value, &mut String::new(), &mut found, most);
    found
}

fn find_nul(value: &Value, pointer: &mut String, found: &mut Vec<Violation>, most: usize) {
    // Each violation copies its pointer: many of them below a long name would exceed the size of the body.
    if found.len() >= most {
        return;
    }
    let violation = |pointer: &str| Violation {
        pointer: pointer.to_owned(),
        message: "must not contain a NUL character".to_owned(),
    };
    let length = pointer.len();
    match value {
        Value::String(text) if text.contains('\0') => found.push(violation(pointer)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointer.push_str(&format!("/{index}"));
                find_nul(item, pointer, found, most);
                pointer.truncate(length);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                if name.contains('\0') {
                    if found.len() < most {
                        found.push(violation(pointer));
                    }
                    continue;
                }
                pointer.push('/');
                pointer.push_str(Token::new(name.as_str()).encoded());
                find_nul(member, pointer, found, most);
                pointer.truncate(length);
            }
        }
        _ => {}
    }
}

/// A value at some depth, and the number of values still allowed.
#[derive(Clone, Copy)]
struct Node<'a> {
    depth: usize,
    left: &'a Cell<usize>,
}

impl Node<'_> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_NESTING {
            return Err(E::custom(format_args!("nested deeper than {MAX_NESTING} levels")));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                let name: String = name.chars().take(64).collect();
                return Err(A::Error::custom(format_args!("duplicate member {name:?}")));
            }
            members.insert(name, map.next_value_seed(inner)?);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_bounded_at_any_kind() {
        let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        assert!(parse(nested("[", "]", 64).as_bytes()).is_ok());
        assert!(parse(nested("{\"a\":", "}", 64).as_bytes()).is_ok());
        for text in [
            nested("[", "]", 65),
            nested("{\"a\":", "}", 65),
            nested("[", "]", 100_000),
            "[".repeat(1_000_000),
        ] {
            let fault = parse(text.as_bytes()).unwrap_err();
            assert!(matches!(fault, Fault::Malformed(text) if text.contains("nested deeper than 64")));
        }
    }

    #[test]
    fn values_are_bounded_at_any_kind() {
        let list = |item: &str, n: usize| format!("[{}]", vec![item; n].join(","));
        assert!(parse(list("1", MAX_VALUES - 2).as_bytes()).is_ok());
        for text in [
            list("1", MAX_VALUES),
            list("{}", MAX_VALUES),
            list("[[]]", MAX_VALUES / 2),
            list(r#"{"a":1}"#, MAX_VALUES / 2),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Fault::TooMany));
        }
    }

    #[test]
    fn many_faults_below_a_long_name_are_not_many_copies_of_it() {
        let text = format!(
            "{{\"{}\":[{}]}}",
            "n".repeat(300_000),
            vec![r#""\u0000""#; 50_000].join(",")
        );
        let found = nul_characters(&parse(text.as_bytes()).unwrap(), 32);
        assert_eq!(found.len(), 32);
    }

    #[test]
    fn what_is_not_quite_json_is_refused() {
        for text in [
            &b""[..],
            b" ",
            b"{",
            b"{\"a\":1}}",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"{\"a\":1,\"a\":2}",
            b"\"\\ud800\"",
            b"\"\\udc00x\"",
            b"\"a\nb\"",
            b"NaN",
            b"1e999",
            b"01",
            b"\"\xff\"",
            b"\xef\xbb\xbf{}",
            b"\x00\x01\x02",
        ] {
            assert!(parse(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn values_are_those_of_serde_json() {
        let text = r#"{"a":[1,-2,3.5,1e3,18446744073709551615,true,null,"é\ud83d\ude00"],"b":{"c":""}}"#;
        assert_eq!(parse(text.as_bytes()), Ok(serde_json::from_str(text).unwrap()));
    }

    #[test]
    fn nul_is_found_wherever_it_stands() {
        let value = parse(br#"{"a/b":["x","\u0000"],"c":{"\u0000":1},"d":"ok"}"#).unwrap();
        let pointers: Vec<_> = nul_characters(&value, 8).into_iter().map(|v| v.pointer).collect();
        assert_eq!(pointers, ["/a~1b/1", "/c"]);
    }
}

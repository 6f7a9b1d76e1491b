//! Reads JSON of servers that follow a protocol only loosely.
//!
//! An object is taken apart without reading its values ([`Members`]); each value is read by itself, by a reader that
//! never fails: a number may be written as a float or as text, a text may be a list of parts, an item of a list may be
//! anything. So a member that nobody here needs cannot fail an answer, however it is written.

mod mend;
mod text;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub use copilotd_actors::domain::surrogates::without_lone_surrogates;
pub use mend::mend;
pub use text::{PendingSurrogate, TextParts, said, word};

/// Larger numbers are ignored: they are not counts of tokens.
const MAX_COUNT: f64 = 1e12;

/// The members of an object, unread. Of two with one name the last counts.
#[derive(Debug, Default, Clone)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object; `None` if it is not one.
    pub fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// Creates an object of one member.
    pub fn one(name: &'static str, raw: &'a RawValue) -> Self {
        Self(vec![(Cow::Borrowed(name), raw)])
    }

    /// Reads a member that may be an object.
    pub fn of(raw: Option<&'a RawValue>) -> Option<Self> {
        Self::read(raw?.get())
    }

    /// Returns a member that has a value.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().rfind(|(known, _)| known == name)?;
        Some(found.1).filter(|raw| !is_null(raw))
    }

    /// Returns whether a member exists, even if it is null.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Lists the members in order; of two with one name the last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        let is_last = |at: usize, name: &str| !self.0[at + 1..].iter().any(|(later, _)| later == name);
        let members = self.0.iter().enumerate();
        members.filter_map(move |(at, (name, raw))| is_last(at, name).then_some((&**name, *raw)))
    }

    /// Returns a member that is a non-empty text.
    pub fn text(&self, name: &str) -> Option<String> {
        word(self.get(name)?).filter(|text| !text.is_empty())
    }

    /// Returns a member that is a count.
    pub fn count(&self, name: &str) -> Count {
        Count::of(self.get(name))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Taken;
        impl<'de> Visitor<'de> for Taken {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Taken).map(Members)
    }
}

/// A member's name, borrowed if it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Taken;
        impl<'de> Visitor<'de> for Taken {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(name))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(name.to_owned()))
            }
        }
        deserializer.deserialize_str(Taken).map(Name)
    }
}

/// Returns whether a value is null.
pub fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// Returns whether a value is a list, and every item of it has a value.
pub fn is_list(raw: &RawValue) -> bool {
    serde_json::from_str::<Vec<&RawValue>>(raw.get()).is_ok_and(|items| !items.into_iter().any(is_null))
}

/// Lists the items of a list that have a value; anything else is a list of one.
pub fn items(raw: Option<&RawValue>) -> Vec<&RawValue> {
    checked_items(raw).0
}

/// Returns [`items`], and what [`is_list`] says of the value.
pub fn checked_items(raw: Option<&RawValue>) -> (Vec<&RawValue>, bool) {
    let Some(raw) = raw.filter(|raw| !is_null(raw)) else {
        return (Vec::new(), false);
    };
    match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
        Ok(mut items) => {
            let all = items.len();
            items.retain(|item| !is_null(item));
            let is_list = items.len() == all;
            (items, is_list)
        }
        Err(_) => (vec![raw], false),
    }
}

/// A count, as a server may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Missing or null.
    Missing,
    /// Present, and not a count: negative, absurdly large, or not a number at all.
    Odd,
    Is(u64),
}

impl Count {
    /// Reads a whole number, a float, or either as text.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked"
    )]
    pub fn of(raw: Option<&RawValue>) -> Self {
        let Some(raw) = raw.filter(|raw| !is_null(raw)) else {
            return Self::Missing;
        };
        let text = raw.get().trim_matches('"').trim();
        if text.is_empty() {
            return Self::Missing;
        }
        match text.parse::<f64>() {
            Ok(number) if number.round() >= 0.0 && number <= MAX_COUNT => Self::Is(number.round() as u64),
            _ => Self::Odd,
        }
    }

    /// Returns the number, if there is one.
    pub fn known(self) -> Option<u64> {
        match self {
            Self::Is(number) => Some(number),
            Self::Missing | Self::Odd => None,
        }
    }
}

/// Returns whether a value is written as a whole number.
pub fn is_whole(raw: &RawValue) -> bool {
    raw.get().bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether a value is written as a text.
pub fn is_text(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// Counts what was skipped because it cannot be read here.
pub fn skipped(what: &'static str) {
    metrics::counter!("copilotd_provider_skipped_total", "what" => what).increment(1);
}

/// Writes an object, member by member.
#[derive(Debug)]
pub struct Writer(String);

impl Default for Writer {
    fn default() -> Self {
        Self("{".to_owned())
    }
}

impl Writer {
    /// Writes a member whose value is JSON already.
    pub fn raw(&mut self, name: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quoted(name));
        self.0.push(':');
        self.0.push_str(json);
    }

    /// Writes a member whose value is a text.
    pub fn text(&mut self, name: &str, text: &str) {
        self.raw(name, &quoted(text));
    }

    /// Passes a member on, made readable for every parser.
    pub fn pass(&mut self, name: &str, raw: &RawValue) {
        self.raw(name, &without_lone_surrogates(raw.get()));
    }

    /// Returns whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    /// Returns the object.
    pub fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Writes a text as JSON.
pub fn quoted(text: &str) -> String {
    // Writing a string into memory does not fail.
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn objects_are_taken_apart_whatever_their_members_hold() {
        let deep = format!("{{\"a\":{}1{},\"b\":2}}", "[".repeat(500), "]".repeat(500));
        assert_eq!(Members::read(&deep).unwrap().count("b"), Count::Is(2));
        let members = Members::read(r#"{"a":"\ud83d","a":"x","n\u0061me":"y","z":null}"#).unwrap();
        assert_eq!(members.text("a").as_deref(), Some("x"));
        assert_eq!(members.text("name").as_deref(), Some("y"));
        assert!(members.has("z") && members.get("z").is_none() && !members.has("q"));
        let names: Vec<&str> = members.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "name", "z"]);
        for not_one in ["[]", "7", "\"x\"", "", "{", "{} x"] {
            assert!(Members::read(not_one).is_none(), "{not_one}");
        }
    }

    #[test]
    fn counts_are_numbers_floats_or_texts() {
        for (json, expected) in [
            ("12", Count::Is(12)),
            ("0", Count::Is(0)),
            ("12.0", Count::Is(12)),
            ("1.2e1", Count::Is(12)),
            ("\"12\"", Count::Is(12)),
            ("\" 12.0 \"", Count::Is(12)),
            ("null", Count::Missing),
            ("\"\"", Count::Missing),
            ("-35", Count::Odd),
            ("\"-35\"", Count::Odd),
            ("1e300", Count::Odd),
            ("\"NaN\"", Count::Odd),
            ("true", Count::Odd),
            ("[12]", Count::Odd),
            ("{}", Count::Odd),
            ("\"twelve\"", Count::Odd),
        ] {
            assert_eq!(Count::of(Some(raw(json))), expected, "{json}");
        }
        assert_eq!(Count::of(None), Count::Missing);
    }

    #[test]
    fn lists_lose_what_is_null_and_may_be_one_thing() {
        for (json, expected) in [
            ("[1,null,{}]", vec!["1", "{}"]),
            ("[]", vec![]),
            ("null", vec![]),
            ("{\"a\":1}", vec!["{\"a\":1}"]),
            ("\"x\"", vec!["\"x\""]),
        ] {
            let found: Vec<&str> = items(Some(raw(json))).into_iter().map(RawValue::get).collect();
            assert_eq!(checked_items(Some(raw(json))).1, is_list(raw(json)), "{json}");
            assert_eq!(found, expected, "{json}");
        }
        assert!(items(None).is_empty());
    }
}

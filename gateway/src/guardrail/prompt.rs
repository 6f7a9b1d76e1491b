//! The texts of a request: every string, name and number of the body, wherever it is.
//!
//! Left out: messages written by the application itself (roles `system`, `developer` and `assistant`), the model name,
//! base64 data in a part of a message, and the protocol's own words.

mod position;
mod words;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use copilotd_actors::domain::guardrail::content::{Numbered, Unreadable, Visit};
use copilotd_actors::domain::guardrail::{TextRole, Texts};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::request::body::ChatBody;
use position::{JsonPosition, without_base64};
use words::{KINDS, NAMES};

/// Roles in which the application speaks.
const OWN_ROLES: [&str; 3] = ["system", "developer", "assistant"];

/// The texts of a request.
#[derive(Debug)]
pub(super) struct PromptTexts(pub(super) Arc<ChatBody>);

impl Texts for PromptTexts {
    /// Fails if a member of the body is ambiguous: other parsers might read it differently.
    fn each(&self, visit: &mut Visit<'_>) -> Result<(), Unreadable> {
        let mut walk = Walk {
            texts: Numbered::new(visit),
            is_ambiguous: false,
        };
        for (name, value) in self.0.members() {
            let read = match name {
                "model" if value.get().starts_with('"') => continue,
                "messages" => walk.messages(value),
                name => {
                    walk.name(name);
                    walk.value(value, JsonPosition::Other.below(name))
                }
            };
            let what = match (read, walk.is_ambiguous) {
                (Err(_), _) => "cannot be parsed, so the guardrail rules cannot check it",
                (Ok(()), true) => "an object has a name twice, so the guardrail rules cannot check it",
                (Ok(()), false) if walk.texts.is_over() => break,
                (Ok(()), false) => continue,
            };
            // A name may be as long as the body.
            let name = &name[..name.floor_char_boundary(64)];
            return Err(Unreadable(format!("{name}: {what}")));
        }
        Ok(())
    }
}

/// Whether the application speaks in a message, unambiguously for every parser.
fn is_own(message: &RawValue) -> bool {
    struct Roles;
    impl<'de> Visitor<'de> for Roles {
        type Value = Vec<(String, Option<String>)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a message")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut roles = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                // Some parsers ignore case.
                if roles.len() < 2 && name.eq_ignore_ascii_case("role") {
                    let role: &RawValue = map.next_value()?;
                    roles.push((name, serde_json::from_str(role.get()).ok()));
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(roles)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(message.get());
    match reader.deserialize_map(Roles).as_deref() {
        Ok([(name, Some(role))]) => name == "role" && OWN_ROLES.contains(&role.as_str()),
        _ => false,
    }
}

/// A visit of the body's texts. A member is read to its end even if no further text is wanted: it may be ambiguous.
struct Walk<'a, 'b> {
    texts: Numbered<'a, 'b>,
    /// Whether an object has a name twice: which one counts depends on the parser.
    is_ambiguous: bool,
}

impl Walk<'_, '_> {
    fn messages(&mut self, value: &RawValue) -> serde_json::Result<()> {
        let messages: Vec<&RawValue> = serde_json::from_str(value.get())?;
        for message in messages {
            if !is_own(message) {
                self.value(message, JsonPosition::Message)?;
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &RawValue, position: JsonPosition) -> serde_json::Result<()> {
        let node = Node { walk: self, position };
        node.deserialize(&mut serde_json::Deserializer::from_str(value.get()))
    }

    fn name(&mut self, name: &str) {
        if !NAMES.contains(&name) {
            self.texts.text(TextRole::Name, name);
        }
    }

    fn text(&mut self, text: &str, position: JsonPosition) {
        let text = match position {
            JsonPosition::Kind if KINDS.contains(&text) => return,
            JsonPosition::Media | JsonPosition::Data | JsonPosition::Url => {
                without_base64(text, position == JsonPosition::Data)
            }
            _ => text,
        };
        self.texts.text(TextRole::Text, text);
    }
}

struct Node<'w, 'a, 'b> {
    walk: &'w mut Walk<'a, 'b>,
    position: JsonPosition,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.walk.text(text, self.position);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.walk.texts.text(TextRole::Number, &number.to_string());
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.walk.texts.text(TextRole::Number, &number.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.walk.texts.text(TextRole::Number, &number.to_string());
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let (walk, position) = (self.walk, self.position.item());
        while items
            .next_element_seed(Node {
                walk: &mut *walk,
                position,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            self.walk.name(&name);
            let position = self.position.below(&name);
            members.next_value_seed(Node {
                walk: &mut *self.walk,
                position,
            })?;
            self.walk.is_ambiguous |= !names.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

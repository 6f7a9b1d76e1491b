//! Checks a request as a whole: every string, name and number of the body, wherever it is.
//!
//! Not checked: messages written by the application itself (roles `system`, `developer` and `assistant`), the model
//! name, base64 data in a part of a message, and the protocol's own words.

use std::collections::HashSet;
use std::fmt;

use copilotd_actors::domain::guardrail::{Rule, RuleSet};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::request::body::ChatBody;

/// Parts of a message that are not text.
const MEDIA: [&str; 5] = ["image_url", "input_audio", "file", "video_url", "audio_url"];
/// Roles in which the application speaks.
const OWN_ROLES: [&str; 3] = ["system", "developer", "assistant"];
/// Shortest text that is taken for base64 where base64 is allowed.
const MIN_BASE64: usize = 64;

/// Names of the protocol and of JSON Schema, which carry no content.
const NAMES: [&str; 110] = [
    "additionalProperties",
    "allOf",
    "allowed_tools",
    "annotations",
    "anyOf",
    "approximate",
    "arguments",
    "audio",
    "audio_url",
    "cache_control",
    "chat_template_kwargs",
    "city",
    "const",
    "content",
    "country",
    "custom",
    "data",
    "default",
    "definition",
    "definitions",
    "description",
    "detail",
    "effort",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "file",
    "file_data",
    "file_id",
    "filename",
    "format",
    "frequency_penalty",
    "function",
    "function_call",
    "functions",
    "grammar",
    "id",
    "image_url",
    "include_usage",
    "input_audio",
    "input_schema",
    "items",
    "json_schema",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "maximum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "messages",
    "metadata",
    "min_p",
    "minimum",
    "minItems",
    "minLength",
    "minProperties",
    "modalities",
    "mode",
    "model",
    "moderation",
    "multipleOf",
    "n",
    "name",
    "not",
    "oneOf",
    "options",
    "parallel_tool_calls",
    "parameters",
    "pattern",
    "patternProperties",
    "prediction",
    "prefixItems",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "properties",
    "reasoning",
    "reasoning_effort",
    "refusal",
    "region",
    "required",
    "response_format",
    "role",
    "safety_identifier",
    "schema",
    "search_context_size",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "strict",
    "summary",
    "syntax",
    "temperature",
    "text",
    "timezone",
    "title",
    "tool_call_id",
    "tool_calls",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "type",
    "url",
];
/// Values of `role` and `type` that carry no content.
const KINDS: [&str; 30] = [
    "user",
    "tool",
    "function",
    "system",
    "developer",
    "assistant",
    "text",
    "image_url",
    "input_audio",
    "file",
    "video_url",
    "audio_url",
    "refusal",
    "content",
    "custom",
    "grammar",
    "json_object",
    "json_schema",
    "object",
    "array",
    "string",
    "number",
    "integer",
    "boolean",
    "null",
    "ephemeral",
    "allowed_tools",
    "approximate",
    "lark",
    "regex",
];

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PromptRefusal<'a> {
    /// A rule blocks it.
    Forbidden(&'a Rule),
    /// A member of the body is ambiguous: other parsers might read it differently.
    Unreadable(String),
}

/// Checks a body.
pub(super) fn check<'a>(rules: &'a RuleSet, body: &ChatBody) -> Result<(), PromptRefusal<'a>> {
    for (name, value) in body.members() {
        let mut member_check = MemberCheck::new(rules);
        let read = match name {
            "model" if value.get().starts_with('"') => continue,
            "messages" => messages(&mut member_check, value),
            name => {
                member_check.name(name);
                member_check.walk(value, JsonPosition::Other.below(name))
            }
        };
        let what = match (read, member_check.is_ambiguous) {
            (Err(_), _) => "cannot be parsed, so the guardrail rules cannot check it",
            (Ok(()), true) => "an object has a name twice, so the guardrail rules cannot check it",
            (Ok(()), false) => match member_check.found {
                Some(rule) => return Err(PromptRefusal::Forbidden(rule)),
                None => continue,
            },
        };
        // A name may be as long as the body.
        let name = &name[..name.floor_char_boundary(64)];
        return Err(PromptRefusal::Unreadable(format!("{name}: {what}")));
    }
    Ok(())
}

fn messages(member_check: &mut MemberCheck<'_>, value: &RawValue) -> serde_json::Result<()> {
    let messages: Vec<&RawValue> = serde_json::from_str(value.get())?;
    for message in messages {
        if !is_own(message) {
            member_check.walk(message, JsonPosition::Message)?;
        }
    }
    Ok(())
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

/// Where a value is. Data is only expected in a part of a message's content; elsewhere the same names mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JsonPosition {
    Message,
    /// The content of a message.
    Content,
    /// A part of the content.
    Part,
    /// A part that is not text, or a `data:` URL of it.
    Media,
    /// Base64, or a `data:` URL of it.
    Data,
    /// A URL, possibly with embedded data.
    Url,
    /// A role or a type.
    Kind,
    Other,
}

impl JsonPosition {
    fn below(self, name: &str) -> Self {
        match (self, name) {
            (Self::Message, "content") => Self::Content,
            (Self::Part, name) if MEDIA.contains(&name) => Self::Media,
            (Self::Media, "data" | "file_data") => Self::Data,
            (Self::Media, "url") => Self::Url,
            (_, "role" | "type") => Self::Kind,
            _ => Self::Other,
        }
    }

    /// The position of an item of a list in this one.
    fn item(self) -> Self {
        match self {
            Self::Content => Self::Part,
            Self::Kind => Self::Kind,
            _ => Self::Other,
        }
    }
}

/// The check of one member of the body.
struct MemberCheck<'a> {
    rules: &'a RuleSet,
    found: Option<&'a Rule>,
    /// Whether an object has a name twice: which one counts depends on the parser.
    is_ambiguous: bool,
}

impl<'a> MemberCheck<'a> {
    fn new(rules: &'a RuleSet) -> Self {
        Self {
            rules,
            found: None,
            is_ambiguous: false,
        }
    }

    fn walk(&mut self, value: &RawValue, position: JsonPosition) -> serde_json::Result<()> {
        let node = Node {
            member_check: self,
            position,
        };
        node.deserialize(&mut serde_json::Deserializer::from_str(value.get()))
    }

    fn name(&mut self, name: &str) {
        if !NAMES.contains(&name) && self.found.is_none() {
            self.found = self.rules.blocking_text(name);
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
        if self.found.is_none() {
            self.found = self.rules.blocking_text(text);
        }
    }
}

/// Returns what remains of a text without its base64 data: of a `data:` URL the head; where data is expected, nothing
/// if all of it is base64.
fn without_base64(text: &str, is_data: bool) -> &str {
    const MARK: &str = ";base64,";
    let beginning = &text[..text.floor_char_boundary(256)];
    let is_url = beginning
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    let (head, data) = match beginning.find(MARK) {
        Some(at) if is_url => text.split_at(at + MARK.len()),
        _ if is_data && text.len() >= MIN_BASE64 => ("", text),
        _ => return text,
    };
    let is_digit =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=' | b'\r' | b'\n');
    if data.bytes().all(is_digit) { head } else { text }
}

struct Node<'l, 'a> {
    member_check: &'l mut MemberCheck<'a>,
    position: JsonPosition,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.member_check.text(text, self.position);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.member_check.text(&number.to_string(), JsonPosition::Other);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.member_check.text(&number.to_string(), JsonPosition::Other);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.member_check.text(&number.to_string(), JsonPosition::Other);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let (member_check, position) = (self.member_check, self.position.item());
        while items
            .next_element_seed(Node {
                member_check: &mut *member_check,
                position,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            self.member_check.name(&name);
            let position = self.position.below(&name);
            members.next_value_seed(Node {
                member_check: &mut *self.member_check,
                position,
            })?;
            self.member_check.is_ambiguous |= !names.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

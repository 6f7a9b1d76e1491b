//! An OpenAI chat body, split at its top level only.
//!
//! Invariant: every member that was not set stays byte for byte as the caller wrote it, in the caller's order. What the
//! gateway needs is read once, when the body is parsed; all else, including unknown fields, is passed on unparsed.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use copilotd_actors::domain::json::{MAX_NESTING, is_text_too_deep};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::files::FilesMessage;

/// Most answers to one request (`n`).
pub const MAX_CHOICES: u64 = 128;
/// Most members of a body. Protocols know some forty, and every lookup of one scans them all.
pub const MAX_MEMBERS: usize = 1024;

/// The body is not a valid request. The message is meant for the caller and quotes only names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidBody {
    /// The member that is invalid.
    pub param: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

/// The body of a chat request. Cheap to clone. Parsing takes time linear in its bytes; parse a large one on the compute
/// pool.
#[derive(Clone)]
pub struct ChatBody {
    members: Members,
    fields: ParsedFields,
    /// Files of its messages, which are not in the members: each target gets what it reads (`super::files`).
    files: Arc<[FilesMessage]>,
}

/// The members that the gateway reads.
#[derive(Debug, Clone, Default, PartialEq)]
struct ParsedFields {
    model: String,
    stream: bool,
    include_usage: bool,
    max_tokens: Option<u64>,
    temperature: Option<f64>,
    choices: u64,
    has_tools: bool,
    has_schema: bool,
    is_json: bool,
    begins_answer: bool,
}

/// A new value for a member, or `None` to leave it out. A member that was not there is added at the end.
pub type Change<'a> = (&'a str, Option<Box<RawValue>>);

impl ChatBody {
    /// Parses a body.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidBody> {
        Self::of(Members::parse(bytes)?)
    }

    /// Builds a body from a value that serialises as one.
    pub fn from_value(value: &impl Serialize) -> Result<Self, InvalidBody> {
        let bytes = serde_json::to_vec(value).map_err(|_| InvalidBody {
            param: None,
            message: "the request cannot be serialised as JSON".to_owned(),
        })?;
        Self::parse(&bytes)
    }

    fn of(members: Members) -> Result<Self, InvalidBody> {
        let fields = ParsedFields::read(&members)?;
        Ok(Self {
            members,
            fields,
            files: Arc::default(),
        })
    }

    /// Attaches the files of its messages.
    #[must_use]
    pub(super) fn with_files(self, files: Vec<FilesMessage>) -> Self {
        Self {
            files: files.into(),
            ..self
        }
    }

    /// Returns the messages that have files.
    pub(super) fn files(&self) -> &[FilesMessage] {
        &self.files
    }

    fn replace(&mut self, members: Members) -> Result<(), InvalidBody> {
        let changed = Self::of(members)?;
        *self = Self {
            files: Arc::clone(&self.files),
            ..changed
        };
        Ok(())
    }

    /// Returns the requested model.
    pub fn model(&self) -> &str {
        &self.fields.model
    }

    /// Whether the answer is wanted as a stream.
    pub fn stream(&self) -> bool {
        self.fields.stream
    }

    /// Whether the last chunk of a stream must report usage.
    pub fn include_usage(&self) -> bool {
        self.fields.include_usage
    }

    /// Returns the largest number of answer tokens, under either of its names.
    pub fn max_tokens(&self) -> Option<u64> {
        self.fields.max_tokens
    }

    /// Returns the temperature.
    pub fn temperature(&self) -> Option<f64> {
        self.fields.temperature
    }

    /// Returns the number of answers (`n`); at least 1.
    pub fn choices(&self) -> u64 {
        self.fields.choices
    }

    /// Whether tools (or functions, their old name) are offered.
    pub fn has_tools(&self) -> bool {
        self.fields.has_tools
    }

    /// Whether the answer must satisfy a JSON schema.
    pub fn has_schema(&self) -> bool {
        self.fields.has_schema
    }

    /// Whether the answer must be JSON.
    pub fn is_json(&self) -> bool {
        self.fields.is_json
    }

    /// Whether the last message begins the answer (a prefill): it is the assistant's own.
    pub fn begins_answer(&self) -> bool {
        self.fields.begins_answer
    }

    /// Whether the model is asked to reason before it answers, in any of the parameters that servers have for it.
    pub fn asks_for_reasoning(&self) -> bool {
        const OFF: [&str; 4] = ["none", "minimal", "off", "disabled"];
        let given = |name: &str| -> Option<Value> {
            let value = self.get(name).filter(|value| value.get().len() <= 1024)?;
            serde_json::from_str(value.get()).ok()
        };
        let is_on = |value: &Value| match value {
            Value::Null => false,
            Value::Bool(on) => *on,
            Value::String(effort) => !OFF.contains(&effort.as_str()),
            Value::Object(members) => {
                let says = |name: &str| members.get(name).and_then(Value::as_str);
                let is_off = |word: Option<&str>| word.is_some_and(|word| OFF.contains(&word));
                !is_off(says("effort")) && !is_off(says("type")) && members.get("enabled") != Some(&Value::Bool(false))
            }
            Value::Number(budget) => budget.as_u64() != Some(0),
            Value::Array(_) => false,
        };
        ["reasoning_effort", "reasoning", "thinking", "enable_thinking"]
            .into_iter()
            .filter_map(given)
            .any(|value| is_on(&value))
    }

    /// Returns the messages array, as it was written.
    pub fn messages(&self) -> &RawValue {
        self.get("messages").unwrap_or(RawValue::NULL)
    }

    /// Returns a member, as it was written.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.members.get(name)
    }

    /// Lists the members in order.
    pub fn members(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.members.0.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// Sets a member, in its place or at the end.
    pub fn set(&mut self, name: &str, value: &impl Serialize) -> Result<(), InvalidBody> {
        let value = to_raw_value(value).map_err(|_| invalid(name, "cannot be serialised as JSON"))?;
        let mut members = Vec::clone(&self.members.0);
        match members.iter_mut().find(|(known, _)| known == name) {
            Some(member) => member.1 = value,
            None => members.push((name.to_owned(), value)),
        }
        self.replace(Members(Arc::new(members)))
    }

    /// Removes a member.
    pub fn remove(&mut self, name: &str) -> Result<(), InvalidBody> {
        let mut members = Vec::clone(&self.members.0);
        members.retain(|(known, _)| known != name);
        self.replace(Members(Arc::new(members)))
    }

    /// Returns the approximate size in bytes.
    pub fn size(&self) -> usize {
        self.members.size()
    }

    /// Serialises the body.
    pub fn to_bytes(&self) -> Bytes {
        self.write(&[])
    }

    /// Serialises the body with `changes`, without changing it.
    pub fn write(&self, changes: &[Change<'_>]) -> Bytes {
        write_members(&self.members, changes)
    }
}

impl fmt::Debug for ChatBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Content is never logged.
        let names: Vec<&str> = self.members().map(|(name, _)| name).collect();
        f.debug_struct("ChatBody")
            .field("members", &names)
            .finish_non_exhaustive()
    }
}

/// Serialises a value for a [`Change`].
pub fn raw(value: &impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

/// Serialises an object with `changes`.
pub(crate) fn write_members(members: &Members, changes: &[Change<'_>]) -> Bytes {
    let added = |(name, value): &Change<'_>| value.as_ref().map_or(0, |value| name.len() + value.get().len() + 4);
    let mut out = Vec::with_capacity(members.size() + changes.iter().map(added).sum::<usize>());
    out.push(b'{');
    for (name, value) in members.0.iter() {
        match changes.iter().find(|(changed, _)| changed == name) {
            None => write_member(&mut out, name, value),
            Some((_, Some(value))) => write_member(&mut out, name, value),
            Some((_, None)) => {}
        }
    }
    for (name, value) in changes {
        if let Some(value) = value
            && members.get(name).is_none()
        {
            write_member(&mut out, name, value);
        }
    }
    out.push(b'}');
    out.into()
}

fn write_member(out: &mut Vec<u8>, name: &str, value: &RawValue) {
    if out.len() > 1 {
        out.push(b',');
    }
    // Writing a string into memory does not fail.
    let _ = serde_json::to_writer(&mut *out, name);
    out.push(b':');
    out.extend_from_slice(value.get().as_bytes());
}

pub(crate) fn invalid(param: &str, what: &str) -> InvalidBody {
    InvalidBody {
        param: Some(param.to_owned()),
        message: format!("{param}: {what}"),
    }
}

impl ParsedFields {
    fn read(members: &Members) -> Result<Self, InvalidBody> {
        let mut fields = Self {
            choices: 1,
            ..Self::default()
        };
        let mut has_messages = false;
        for (name, value) in members.0.iter() {
            let name = name.as_str();
            match name {
                "model" => {
                    fields.model = typed(name, value, "must be a string")?;
                }
                "messages" => {
                    has_messages = true;
                    if !value.get().starts_with('[') {
                        return Err(invalid(name, "must be an array"));
                    }
                    fields.begins_answer = begins_answer(value);
                }
                "stream" => {
                    fields.stream = typed::<Option<bool>>(name, value, "must be true or false")?.unwrap_or(false)
                }
                "stream_options" => {
                    let options: Option<StreamOptions> = typed(name, value, "must be an object")?;
                    fields.include_usage = options.and_then(|options| options.include_usage).unwrap_or(false);
                }
                // The new name wins if both are there.
                "max_completion_tokens" => {
                    let max: Option<u64> = typed(name, value, "must be a whole number")?;
                    fields.max_tokens = max.or(fields.max_tokens);
                }
                "max_tokens" => {
                    let max: Option<u64> = typed(name, value, "must be a whole number")?;
                    fields.max_tokens = fields.max_tokens.or(max);
                }
                "temperature" => fields.temperature = typed(name, value, "must be a number")?,
                "n" => {
                    fields.choices = typed::<Option<u64>>(name, value, "must be a whole number")?.unwrap_or(1);
                    if !(1..=MAX_CHOICES).contains(&fields.choices) {
                        return Err(invalid(name, &format!("must be between 1 and {MAX_CHOICES}")));
                    }
                }
                "tools" | "functions" => {
                    let tools: Option<Vec<&RawValue>> = typed(name, value, "must be an array")?;
                    fields.has_tools |= tools.is_some_and(|tools| !tools.is_empty());
                }
                "response_format" => {
                    let format: Option<ResponseFormat> = typed(name, value, "must be an object with a type")?;
                    fields.is_json = format.as_ref().is_some_and(|format| format.kind != "text");
                    fields.has_schema = format.is_some_and(|format| format.kind == "json_schema");
                }
                _ => {}
            }
        }
        if fields.model.is_empty() {
            return Err(invalid("model", "must name a model"));
        }
        if !has_messages {
            return Err(invalid("messages", "is missing"));
        }
        Ok(fields)
    }
}

/// Whether the last message is the assistant's own and not a tool call.
fn begins_answer(messages: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        role: Option<std::borrow::Cow<'a, str>>,
        tool_calls: Option<serde::de::IgnoredAny>,
    }
    let messages: Vec<&RawValue> = serde_json::from_str(messages.get()).unwrap_or_default();
    let last = messages
        .last()
        .and_then(|last| serde_json::from_str::<Message<'_>>(last.get()).ok());
    last.is_some_and(|last| last.role.as_deref() == Some("assistant") && last.tool_calls.is_none())
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

/// Parses one member. The parser's own message may quote the value, so it is not passed on.
pub(crate) fn typed<'a, T: Deserialize<'a>>(name: &str, value: &'a RawValue, what: &str) -> Result<T, InvalidBody> {
    serde_json::from_str(value.get()).map_err(|_| invalid(name, what))
}

/// The members of an object, in order, unparsed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Members(Arc<Vec<(String, Box<RawValue>)>>);

impl Members {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, InvalidBody> {
        if is_text_too_deep(bytes) {
            return Err(InvalidBody {
                param: None,
                message: format!("the body is nested deeper than {MAX_NESTING} levels"),
            });
        }
        serde_json::from_slice(bytes).map_err(|error| InvalidBody {
            param: None,
            message: if error.is_data() {
                format!("the body must be an object with at most {MAX_MEMBERS} members, none of them twice")
            } else {
                let (line, column) = (error.line(), error.column());
                format!("the body is not JSON (line {line}, column {column})")
            },
        })
    }

    /// Builds an object from the members that have a value.
    pub(crate) fn of<const N: usize>(members: [Change<'_>; N]) -> Self {
        let written = members.into_iter();
        let members = written.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Self(Arc::new(members.collect()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    pub(crate) fn size(&self) -> usize {
        let member = |(name, value): &(String, Box<RawValue>)| name.len() + value.get().len() + 4;
        2 + self.0.iter().map(member).sum::<usize>()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members: Vec<(String, Box<RawValue>)> = Vec::with_capacity(8);
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.len() == MAX_MEMBERS {
                return Err(serde::de::Error::custom("the body has too many members"));
            }
            // If a member came twice, the provider might use the one that was not checked here.
            if !names.insert(name.clone()) {
                return Err(serde::de::Error::custom("the body has a duplicate member"));
            }
            members.push((name, map.next_value()?));
        }
        Ok(Members(Arc::new(members)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str =
        r#"{ "model":"m", "messages": [ {"role":"user","content":"caf\u00e9 1.0"} ],"x_own":{"b":1.00,"a":2} }"#;

    #[test]
    fn untouched_members_stay_as_written() {
        let body = ChatBody::parse(BODY.as_bytes()).unwrap();
        let expected =
            r#"{"model":"m","messages":[ {"role":"user","content":"caf\u00e9 1.0"} ],"x_own":{"b":1.00,"a":2}}"#;
        assert_eq!(body.to_bytes(), expected);
        let changed = body.write(&[("model", raw(&"gpt")), ("x_own", None), ("stream", raw(&true))]);
        let expected = r#"{"model":"gpt","messages":[ {"role":"user","content":"caf\u00e9 1.0"} ],"stream":true}"#;
        assert_eq!(changed, expected);
        assert!(!format!("{body:?}").contains("caf"));
    }

    #[test]
    fn parsed_fields_follow_changes() {
        let text = r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true},"n":2,"temperature":0.5,
            "max_tokens":5,"max_completion_tokens":7,"tools":[{}],"response_format":{"type":"json_schema","json_schema":{}}}"#;
        let mut body = ChatBody::parse(text.as_bytes()).unwrap();
        assert_eq!((body.model(), body.stream(), body.include_usage()), ("m", true, true));
        assert_eq!(
            (body.choices(), body.temperature(), body.max_tokens()),
            (2, Some(0.5), Some(7))
        );
        assert!(body.has_tools() && body.has_schema());
        body.set("stream", &false).unwrap();
        body.set("max_completion_tokens", &Option::<u64>::None).unwrap();
        body.remove("tools").unwrap();
        assert_eq!(
            (body.stream(), body.max_tokens(), body.has_tools()),
            (false, Some(5), false)
        );
    }

    #[test]
    fn a_body_has_a_bounded_number_of_members() {
        let body = |many: usize| {
            let members: String = (0..many).map(|n| format!(",\"x{n}\":1")).collect();
            ChatBody::parse(format!(r#"{{"model":"m","messages":[]{members}}}"#).as_bytes())
        };
        assert!(body(MAX_MEMBERS - 2).is_ok());
        let error = body(MAX_MEMBERS - 1).unwrap_err();
        assert!(error.message.contains("1024 members"), "{error}");
    }

    #[test]
    fn an_answer_is_begun_by_a_last_message_of_the_assistant() {
        for (messages, expected) in [
            (
                r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#,
                true,
            ),
            (
                r#"[{"role":"assistant","content":"b"},{"role":"user","content":"a"}]"#,
                false,
            ),
            (r#"[{"role":"assistant","tool_calls":[{}]}]"#, false),
            (r#"[{"role":"ass\u0069stant","content":"b"}]"#, true),
            ("[7]", false),
            ("[]", false),
        ] {
            let body = ChatBody::parse(format!(r#"{{"model":"m","messages":{messages}}}"#).as_bytes()).unwrap();
            assert_eq!(body.begins_answer(), expected, "{messages}");
        }
    }

    #[test]
    fn an_invalid_body_is_refused_with_the_invalid_member() {
        for (text, param, part) in [
            ("{", None, "not JSON"),
            ("[]", None, "an object"),
            (r#"{"messages":[]}"#, Some("model"), "name a model"),
            (r#"{"model":7,"messages":[]}"#, Some("model"), "string"),
            (r#"{"model":"m"}"#, Some("messages"), "missing"),
            (r#"{"model":"m","messages":"secret"}"#, Some("messages"), "array"),
            (
                r#"{"model":"m","messages":[],"stream":"secret"}"#,
                Some("stream"),
                "true or false",
            ),
            (r#"{"model":"m","messages":[],"n":0}"#, Some("n"), "between"),
            (
                r#"{"model":"m","messages":[],"max_tokens":-1}"#,
                Some("max_tokens"),
                "whole number",
            ),
            (r#"{"model":"m","messages":[],"tools":{}}"#, Some("tools"), "array"),
            (r#"{"model":"m","model":"n","messages":[]}"#, None, "twice"),
        ] {
            let error = ChatBody::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.param.as_deref(), param, "{text}");
            assert!(error.message.contains(part), "{text}: {error}");
            assert!(!error.message.contains("secret"), "{text}: {error}");
        }
    }
}

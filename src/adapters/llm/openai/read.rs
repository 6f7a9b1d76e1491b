//! Reads a chunk or a completion leniently: what nobody here needs exactly cannot make it unreadable.

use copilotd_actors::domain::usage::Usage;
use serde_json::value::RawValue;

use crate::adapters::llm::provider::Reason;
use crate::adapters::llm::provider::calls::{Arguments, CallPiece};
use crate::adapters::llm::provider::lenient::{Count, Members, checked_items, is_text, is_whole, items, skipped, word};

/// A chunk, or a whole completion.
#[derive(Debug)]
pub(super) struct ParsedChunk<'a> {
    pub(super) top: Members<'a>,
    pub(super) choices: Vec<Choice<'a>>,
    pub(super) report: Option<Report>,
    /// Whether it has a list of choices at all.
    pub(super) has_choices: bool,
    /// Whether it differs from what clients expect.
    pub(super) is_odd: bool,
}

/// One choice of it.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    pub(super) members: Members<'a>,
    pub(super) index: u64,
    pub(super) has_index: bool,
    /// The content: a delta or a message.
    pub(super) said: Members<'a>,
    /// Whether it is a message.
    pub(super) is_whole: bool,
    pub(super) reason: Option<Reason>,
    pub(super) is_odd: bool,
}

/// A report of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    /// `None` if it is implausible, or reports nothing at all.
    pub(super) usage: Option<Usage>,
    /// Whether one of its values is not a count, so that earlier reports are not trusted either.
    pub(super) is_wrong: bool,
    /// Whether it differs from what clients expect: they need numbers, and fail on nulls.
    pub(super) is_odd: bool,
}

impl<'a> ParsedChunk<'a> {
    /// Reads the members of a chunk (`object` says which) or of a completion.
    pub(super) fn of(top: Members<'a>, object: &str) -> Self {
        let list = top.get("choices");
        let is_list = list.is_some_and(|list| list.get().starts_with('['));
        let mut choices = Vec::new();
        let (items, has_all_items) = checked_items(list);
        let (mut is_odd, mut at) = (!has_all_items, 0);
        for item in items {
            match Members::read(item.get()) {
                Some(members) => choices.push(Choice::of(members, at)),
                None => {
                    skipped("choice");
                    is_odd = true;
                }
            }
            at += 1;
        }
        let written = |name: &str, is_fine: fn(&RawValue) -> bool| top.get(name).is_none_or(is_fine);
        is_odd |= !written("id", is_text) || !written("model", is_text) || !written("created", is_whole);
        is_odd |= top
            .get("object")
            .is_some_and(|raw| word(raw).as_deref() != Some(object));
        // Some servers report usage inside a choice.
        let beside = || choices.first().and_then(|choice| choice.members.get("usage"));
        let report = top.get("usage").or_else(beside).map(Report::of);
        is_odd |= report.is_some_and(|report| report.is_odd);
        Self {
            has_choices: is_list,
            top,
            choices,
            report,
            is_odd,
        }
    }
}

impl<'a> Choice<'a> {
    fn of(members: Members<'a>, at: u64) -> Self {
        let index = members.get("index");
        let is_plain = index.is_none_or(is_whole);
        let (delta, message) = (Members::of(members.get("delta")), Members::of(members.get("message")));
        let text = || {
            let text = ["delta", "message", "text"].iter().find_map(|name| members.get(name));
            text.map(|text| Members::one("content", text))
        };
        let is_whole = delta.is_none() && message.is_some();
        let is_plain_said = delta.is_some() || message.is_some();
        let found = delta.or(message).or_else(text);
        let reason = members.get("finish_reason");
        let read = Reason::of(reason);
        let is_odd_reason =
            reason.is_some_and(|raw| read.and_then(Reason::word) != word(raw).as_deref() || !is_text(raw));
        // A finish reason of the old form is valid.
        let is_odd_reason = is_odd_reason && reason.is_none_or(|raw| raw.get() != "\"function_call\"");
        Self {
            index: Count::of(index).known().unwrap_or(at),
            has_index: index.is_some(),
            is_odd: !is_plain || !is_plain_said || is_odd_reason,
            said: found.unwrap_or_default(),
            is_whole,
            reason: read,
            members,
        }
    }
}

impl Report {
    fn of(raw: &RawValue) -> Self {
        let Some(members) = Members::of(Some(raw)) else {
            return Self {
                usage: None,
                is_wrong: true,
                is_odd: true,
            };
        };
        let details = |name: &str| Members::of(members.get(name)).unwrap_or_default();
        let (prompt, completion) = (details("prompt_tokens_details"), details("completion_tokens_details"));
        let first = |names: [&str; 2]| match members.count(names[0]) {
            Count::Missing => members.count(names[1]),
            count => count,
        };
        let (input, output) = (
            first(["prompt_tokens", "input_tokens"]),
            first(["completion_tokens", "output_tokens"]),
        );
        let is_plain = |members: &Members<'_>, name: &str| members.get(name).is_none_or(is_whole);
        let is_wrong = ["prompt_tokens", "completion_tokens", "total_tokens"]
            .iter()
            .any(|name| !is_plain(&members, name))
            || !is_plain(&prompt, "cached_tokens")
            || !is_plain(&completion, "reasoning_tokens");
        let is_null = |members: &Members<'_>, name: &str| members.has(name) && members.get(name).is_none();
        let is_object = |name: &str| members.get(name).is_none_or(|raw| raw.get().starts_with('{'));
        let is_odd = is_wrong
            || ["prompt_tokens", "completion_tokens"]
                .iter()
                .any(|name| members.get(name).is_none())
            || is_null(&members, "total_tokens")
            || is_null(&prompt, "cached_tokens")
            || is_null(&completion, "reasoning_tokens")
            || !is_object("prompt_tokens_details")
            || !is_object("completion_tokens_details");
        if input == Count::Odd || output == Count::Odd {
            return Self {
                usage: None,
                is_wrong,
                is_odd,
            };
        }
        let prompt_tokens = input.known().unwrap_or(0);
        let total = members.count("total_tokens").known();
        let rest = || total.map(|total| total.saturating_sub(prompt_tokens));
        let completion_tokens = output.known().or_else(rest).unwrap_or(0);
        // The last one is DeepSeek's name.
        let cached = prompt.count("cached_tokens").known();
        let cached = cached.or_else(|| members.count("prompt_cache_hit_tokens").known());
        let usage = Usage {
            prompt_tokens,
            completion_tokens,
            cached_tokens: cached.unwrap_or(0).min(prompt_tokens),
            reasoning_tokens: completion
                .count("reasoning_tokens")
                .known()
                .unwrap_or(0)
                .min(completion_tokens),
            // The name that other gateways use.
            estimated: members.get("estimated").is_some_and(|raw| raw.get() == "true"),
            ..Usage::default()
        };
        Self {
            // Some servers fill the member with zeros.
            usage: (usage.total_tokens() > 0).then_some(usage),
            is_wrong,
            is_odd,
        }
    }
}

/// A piece of a call as it was written.
pub(super) struct WrittenCall<'a> {
    pub(super) piece: CallPiece,
    /// Its arguments, if they are a text.
    pub(super) text: Option<&'a RawValue>,
    /// Whether it is written as clients expect it.
    pub(super) is_plain: bool,
}

/// Reads a call in a list; `None` if its type is unknown, or if it is empty.
pub(super) fn call<'a>(item: &'a RawValue) -> Option<WrittenCall<'a>> {
    let members = Members::read(item.get())?;
    let function = Members::of(members.get("function"));
    if function.is_none() && members.has("custom") {
        return None;
    }
    let is_plain = function.is_some() && members.get("index").is_some_and(is_whole);
    let is_plain = is_plain && members.get("id").is_none_or(is_text);
    // The piece that names a call also states its type.
    let is_typed = members.text("type").as_deref() == Some("function");
    let is_plain = is_plain && (is_typed || members.text("id").is_none());
    // Some servers omit the enclosing object.
    let function = function.as_ref().unwrap_or(&members);
    let mut written = self::function(function);
    written.piece.index = members.count("index").known();
    written.piece.id = members.text("id").unwrap_or_default();
    written.is_plain &= is_plain;
    Some(written)
}

/// Reads a function's name and arguments.
pub(super) fn function<'a>(function: &Members<'a>) -> WrittenCall<'a> {
    let arguments = function.get("arguments");
    let text = arguments.filter(|raw| is_text(raw));
    WrittenCall {
        piece: CallPiece {
            index: None,
            id: String::new(),
            name: function.text("name").unwrap_or_default(),
            arguments: match arguments {
                None => Arguments::None,
                Some(raw) if is_text(raw) => Arguments::Text(word(raw).unwrap_or_default()),
                Some(raw) => Arguments::Value(raw.get().to_owned()),
            },
        },
        is_plain: arguments.is_none_or(is_text) && function.get("name").is_none_or(is_text),
        text,
    }
}

/// Finds the error in a chunk or a document, if it is one.
pub(super) fn error<'a>(event: &str, top: &Members<'a>) -> Option<Vec<&'a RawValue>> {
    let holds = |raw: &&RawValue| match raw.get().as_bytes().first() {
        Some(b'"') => raw.get().len() > 2,
        Some(b'{') => Members::read(raw.get()).is_none_or(|members| {
            members
                .iter()
                .any(|(_, raw)| !matches!(raw.get(), "null" | "0" | "\"\"" | "false" | "[]" | "{}"))
        }),
        Some(b'[') => items(Some(raw)).iter().any(|item| item.get() != "{}"),
        Some(b't' | b'1'..=b'9' | b'-') => true,
        _ => false,
    };
    if let Some(error) = top.get("error").or_else(|| top.get("errors")).filter(holds) {
        return Some(vec![error]);
    }
    // Without a member of that name: what is called an error, or has a message and no answer.
    let kind = top.text("object").or_else(|| top.text("type"));
    let is_called = event == "error" || kind.as_deref() == Some("error");
    let speaks = ["message", "detail", "msg", "error_msg"]
        .iter()
        .any(|name| top.get(name).is_some());
    let is_code = |raw: &RawValue| !matches!(raw.get().trim_matches('"'), "" | "0" | "200");
    let has_code = ["code", "status", "status_code", "error_code"]
        .iter()
        .any(|name| top.get(name).is_some_and(is_code));
    let is_answer = top.get("choices").is_some() || top.get("usage").is_some();
    (is_called || (speaks && has_code && !is_answer)).then(Vec::new)
}

//! Fills a JSON Schema with data read from tickets.
//!
//! Names decide: `subject`, `priority` and the like come from the ticket, counts are counted, an array of objects has
//! one entry per ticket. Anything without a known name gets the smallest valid value.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::tickets::Ticket;

/// Optional parts below this depth are left out, so that a recursive schema ends.
const MAX_DEPTH: usize = 8;
/// Parts below this depth are `null` even where they are required, because such a schema has no end.
const MAX_LEVELS: usize = 40;
/// Maximum values in one answer; the rest is `null`.
const MAX_VALUES: usize = 5_000;
/// Maximum parts of an `allOf`, and maximum items of an array that several of them have.
const MAX_MERGED: usize = 100;
/// Maximum items or characters that are made only because a schema asks for so many.
const MAX_FORCED: usize = 1_000;
const PRIORITIES: [&str; 4] = ["urgent", "high", "normal", "low"];
const STATUSES: [&str; 6] = ["new", "open", "pending", "hold", "solved", "closed"];

/// Where the values come from.
pub(crate) struct Source<'a> {
    pub(crate) tickets: &'a [Ticket],
    /// The answer in prose.
    pub(crate) summary: &'a str,
}

/// Returns a value that is valid for `schema`.
pub(crate) fn fill(schema: &Value, source: &Source<'_>) -> Value {
    let left = Cell::new(MAX_VALUES);
    Filler {
        root: schema,
        source,
        left,
    }
    .value(schema, "", None, 0)
}

struct Filler<'a> {
    root: &'a Value,
    source: &'a Source<'a>,
    /// Number of values that may still be made.
    left: Cell<usize>,
}

impl Filler<'_> {
    fn value(&self, schema: &Value, name: &str, item: Option<&Ticket>, depth: usize) -> Value {
        let left = self.left.get();
        if left == 0 {
            return Value::Null;
        }
        self.left.set(left - 1);
        if depth > MAX_LEVELS {
            return Value::Null;
        }
        if let Some(target) = schema["$ref"].as_str() {
            let pointer = target.trim_start_matches('#');
            let resolved = self.root.pointer(pointer).unwrap_or(&Value::Null);
            return self.value(resolved, name, item, depth + 1);
        }
        if !schema["const"].is_null() {
            return schema["const"].clone();
        }
        if let Some(options) = schema["enum"].as_array() {
            return choose(options, name, item);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(options) = schema[key].as_array().filter(|options| !options.is_empty()) {
                let real = options.iter().find(|option| option["type"] != "null");
                let null = options.iter().any(|option| option["type"] == "null");
                let unknown = null && (depth > MAX_DEPTH || is_unknown(name, item));
                return match real {
                    Some(option) if !unknown => self.value(option, name, item, depth + 1),
                    _ => Value::Null,
                };
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            // A reference to an enclosing schema would be merged into itself again and again.
            return self.value(&merged(schema, parts, self.root), name, item, depth + MAX_DEPTH);
        }
        self.typed(schema, name, item, depth)
    }

    fn typed(&self, schema: &Value, name: &str, item: Option<&Ticket>, depth: usize) -> Value {
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ if schema["properties"].is_object() => vec!["object"],
            _ if schema["items"].is_object() => vec!["array"],
            _ => vec!["string"],
        };
        if kinds.contains(&"null") && is_unknown(name, item) {
            return Value::Null;
        }
        let kind = kinds.iter().find(|kind| **kind != "null").unwrap_or(&"null");
        match *kind {
            "object" => self.object(schema, item, depth),
            "array" => self.array(schema, name, item, depth),
            "integer" | "number" => self.number(schema, name, item, *kind == "integer"),
            "boolean" => json!(item.is_some_and(|ticket| {
                ["urgent", "is_urgent", "escalate"].contains(&name) && ticket.text("priority") == "urgent"
            })),
            "string" => json!(self.string(schema, name, item)),
            _ => Value::Null,
        }
    }

    fn object(&self, schema: &Value, item: Option<&Ticket>, depth: usize) -> Value {
        let required = |name: &str| {
            schema["required"]
                .as_array()
                .is_some_and(|names| names.iter().any(|required| required == name))
        };
        let mut fields = Map::new();
        for (name, part) in schema["properties"].as_object().into_iter().flatten() {
            if required(name) || depth < MAX_DEPTH {
                fields.insert(name.clone(), self.value(part, name, item, depth + 1));
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if let Some(name) = name.as_str().filter(|name| !fields.contains_key(*name)) {
                fields.insert(name.to_owned(), json!(""));
            }
        }
        Value::Object(fields)
    }

    fn array(&self, schema: &Value, name: &str, item: Option<&Ticket>, depth: usize) -> Value {
        let least = size(&schema["minItems"]).unwrap_or(0).min(MAX_FORCED);
        let most = size(&schema["maxItems"]).unwrap_or(usize::MAX);
        let items = &schema["items"];
        let mut values: Vec<Value> = Vec::new();
        if item.is_none() && depth < MAX_DEPTH && self.is_per_ticket(items, name) {
            let tickets = self.source.tickets.iter().take(most);
            values.extend(tickets.map(|ticket| self.value(items, name, Some(ticket), depth + 1)));
        } else if let Some(Value::Array(own)) = item.and_then(|ticket| ticket.0.get(name)) {
            let fitting = own
                .iter()
                .filter(|value| value.is_string() && items["type"] == "string");
            values.extend(fitting.take(most).cloned());
        }
        while values.len() < least && self.left.get() > 0 {
            values.push(self.value(items, name, item, depth + 1));
        }
        Value::Array(values)
    }

    /// Whether the entries of an array stand for tickets.
    fn is_per_ticket(&self, items: &Value, name: &str) -> bool {
        let items = match items["$ref"].as_str() {
            Some(target) => self
                .root
                .pointer(target.trim_start_matches('#'))
                .unwrap_or(&Value::Null),
            None => items,
        };
        let about_tickets = ["ticket", "item", "result", "entr", "issue", "row", "subject", "id"];
        items["properties"].is_object() || about_tickets.iter().any(|part| name.to_lowercase().contains(part))
    }

    fn number(&self, schema: &Value, name: &str, item: Option<&Ticket>, whole: bool) -> Value {
        let name = name.to_lowercase();
        let tickets = self.source.tickets;
        let known = match item {
            Some(ticket) if ["id", "ticket_id", "ticket", "number"].contains(&name.as_str()) => ticket.id(),
            Some(ticket) => ticket.0.get(&name).and_then(Value::as_u64),
            None => {
                let group = PRIORITIES.iter().chain(&STATUSES).find(|word| name.contains(**word));
                let in_group = |word: &str| {
                    let of = |ticket: &&Ticket| ticket.text("priority") == word || ticket.text("status") == word;
                    tickets.iter().filter(of).count()
                };
                let total = ["count", "total", "number", "unread", "tickets", "size"];
                match group {
                    Some(word) => Some(in_group(word) as u64),
                    None if total.iter().any(|part| name.contains(part)) => Some(tickets.len() as u64),
                    None => None,
                }
            }
        };
        let mut value = known.unwrap_or(0) as f64;
        if let Some(least) = schema["minimum"].as_f64() {
            value = value.max(least);
        }
        if let Some(beyond) = schema["exclusiveMinimum"].as_f64().filter(|beyond| value <= *beyond) {
            value = beyond + 1.0;
        }
        if let Some(most) = schema["maximum"].as_f64() {
            value = value.min(most);
        }
        if whole {
            // Integers up to 2^53, which is what JSON can carry.
            json!(value as i64)
        } else {
            json!(value)
        }
    }

    fn string(&self, schema: &Value, name: &str, item: Option<&Ticket>) -> String {
        let mut text = match schema["format"].as_str() {
            Some("date-time") => known_or(item, name, "2026-01-01T00:00:00Z"),
            Some("date") => "2026-01-01".to_owned(),
            Some("time") => "00:00:00Z".to_owned(),
            Some("email") => known_or(item, name, "nobody@example.com"),
            Some("uri") => known_or(item, name, "https://example.com/"),
            Some("uuid") => "00000000-0000-4000-8000-000000000000".to_owned(),
            _ => self.words(&name.to_lowercase(), item),
        };
        let least = size(&schema["minLength"]).unwrap_or(0).min(MAX_FORCED);
        let missing = least.saturating_sub(text.chars().count());
        text.extend(std::iter::repeat_n('.', missing));
        if let Some((end, _)) = size(&schema["maxLength"]).and_then(|most| text.char_indices().nth(most)) {
            text.truncate(end);
        }
        text
    }

    fn words(&self, name: &str, item: Option<&Ticket>) -> String {
        let Some(ticket) = item else {
            return match name {
                "title" | "subject" | "headline" => {
                    format!("{} tickets", self.source.tickets.len())
                }
                "channel" => String::new(),
                _ => self.source.summary.to_owned(),
            };
        };
        match name {
            "id" | "ticket_id" => ticket.id().map(|id| id.to_string()).unwrap_or_default(),
            "subject" | "title" | "name" => ticket.subject().to_owned(),
            "requester" | "customer" | "from" => {
                let requester = ticket.0.get("requester").unwrap_or(&Value::Null);
                let own = requester.as_str().or(requester["name"].as_str());
                own.unwrap_or(ticket.text("requester_name")).to_owned()
            }
            name if !ticket.text(name).is_empty() => ticket.text(name).to_owned(),
            _ => match ticket.text("description") {
                "" => ticket.subject().to_owned(),
                description => first_sentence(description),
            },
        }
    }
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| usize::try_from(size).ok())
}

fn known_or(item: Option<&Ticket>, name: &str, otherwise: &str) -> String {
    match item.map(|ticket| ticket.text(name)) {
        None | Some("") => otherwise.to_owned(),
        Some(text) => text.to_owned(),
    }
}

/// Whether the ticket has no value of that name, so that `null` is the honest answer.
fn is_unknown(name: &str, item: Option<&Ticket>) -> bool {
    item.is_some_and(|ticket| ticket.0.get(name).is_some_and(Value::is_null))
}

fn choose(options: &[Value], name: &str, item: Option<&Ticket>) -> Value {
    let own = item.and_then(|ticket| ticket.0.get(name));
    let fits = |value: &&Value| match (value.as_str(), own.and_then(Value::as_str)) {
        (Some(option), Some(own)) => option.eq_ignore_ascii_case(own),
        _ => own == Some(value),
    };
    let chosen = options.iter().find(fits).or(options.first());
    chosen.cloned().unwrap_or(Value::Null)
}

fn merged(schema: &Value, parts: &[Value], root: &Value) -> Value {
    let mut whole = schema.clone();
    if let Some(whole) = whole.as_object_mut() {
        whole.remove("allOf");
        for part in parts.iter().take(MAX_MERGED) {
            let part = match part["$ref"].as_str() {
                Some(target) => root.pointer(target.trim_start_matches('#')).unwrap_or(part),
                None => part,
            };
            for (key, value) in part.as_object().into_iter().flatten() {
                match (whole.get_mut(key), value) {
                    (Some(Value::Object(known)), Value::Object(more)) => {
                        known.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
                    }
                    (Some(Value::Array(known)), Value::Array(more)) => {
                        let room = MAX_MERGED.saturating_sub(known.len());
                        known.extend(more.iter().take(room).cloned());
                    }
                    _ => {
                        whole.insert(key.clone(), value.clone());
                    }
                }
            }
        }
    }
    whole
}

/// Returns the first sentence of a text, at most 30 words of it.
pub(crate) fn first_sentence(text: &str) -> String {
    let end = text
        .char_indices()
        .find(|&(at, character)| {
            let next = text[at + character.len_utf8()..].chars().next();
            character == '\n' || (".!?".contains(character) && next.is_none_or(char::is_whitespace))
        })
        .map_or(text.len(), |(at, character)| at + character.len_utf8());
    let words: Vec<_> = text[..end].split_whitespace().take(30).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_without_end_is_answered_all_the_same() {
        let tree = |least: u64| json!({"type": "array", "minItems": least, "items": {"$ref": "#"}});
        let twins =
            json!({"type": "object", "required": ["a", "b"], "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}});
        let doubling = (0..30).fold(
            json!({"type": "string"}),
            |inner, _| json!({"allOf": [inner.clone(), {"properties": {}}]}),
        );
        for schema in [
            json!({"$ref": "#"}),
            json!({"anyOf": [{"$ref": "#"}]}),
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
            json!({"properties": {"a": {"allOf": [{"$ref": "#"}]}}, "required": ["a"]}),
            tree(1),
            tree(1_000_000_000_000),
            twins,
            doubling,
            json!({"type": "string", "minLength": 1_000_000_000_000_000_000_u64}),
        ] {
            let source = Source {
                tickets: &[],
                summary: "none",
            };
            assert!(fill(&schema, &source).to_string().len() < 10_000_000, "{schema}");
        }
    }

    #[test]
    fn a_report_is_filled_and_fits() {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["total", "tickets", "summary", "urgent_count", "generated_at"],
            "properties": {
                "total": {"type": "integer", "minimum": 0},
                "urgent_count": {"type": "integer"},
                "summary": {"type": "string", "maxLength": 40},
                "generated_at": {"type": "string", "format": "date-time"},
                "tickets": {"type": "array", "items": {"$ref": "#/$defs/ticket"}},
            },
            "$defs": {"ticket": {
                "type": "object",
                "required": ["id", "subject", "priority"],
                "properties": {
                    "id": {"type": "integer"},
                    "subject": {"type": "string"},
                    "priority": {"type": ["string", "null"], "enum": ["low", "normal", "high", "urgent", null]},
                    "note": {"anyOf": [{"type": "string", "minLength": 3}, {"type": "null"}]},
                    "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                },
            }},
        });
        let ticket = json!({"id": 4, "subject": "Help", "priority": "urgent", "description": "It broke. Now."});
        let tickets = [Ticket(ticket.as_object().expect("an object").clone())];
        let source = Source {
            tickets: &tickets,
            summary: "One ticket.",
        };
        let filled = fill(&schema, &source);
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        assert!(validator.is_valid(&filled), "{filled}");
        assert_eq!(filled["total"], 1);
        assert_eq!(filled["urgent_count"], 1);
        assert_eq!(filled["tickets"][0]["priority"], "urgent");
        assert_eq!(filled["tickets"][0]["note"], "It broke.");
    }
}

//! The budget of a caller's schema: its cost after expanding its references, counted without expanding them.
//!
//! Pure, and linear in the schema's text: each subschema is visited once, its totals are remembered, and sums saturate,
//! so a schema that would expand to 2^60 parts is rejected as fast as a small one. The budget keeps ordinary checks
//! cheap; the process that runs a check guarantees that it ends at all.
//!
//! Keywords of all drafts are counted with the meaning they have in their own draft: at worst something is counted too
//! often and rejected too early. The contents of `enum`, `const`, `default` and `examples` are data, unless a reference
//! turns them into a schema.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use jsonptr::Token;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Violation;

/// Maximum size of a schema, in bytes of JSON.
pub const MAX_BYTES: usize = 64 * 1024;
/// Maximum number of parts after expanding references: subschemas, enumerated values and required names.
pub const MAX_NODES: u64 = 10_000;
/// Maximum number of keywords that combine or test schemas, after expanding references.
pub const MAX_COMBINATORS: u64 = 100;
/// Maximum nesting of subschemas, after expanding references.
pub const MAX_DEPTH: u32 = 64;
/// Maximum number of regular expressions in the schema's text.
pub const MAX_PATTERNS: u64 = 32;
/// Maximum number of regular expressions after expanding references.
pub const MAX_EXPANDED_PATTERNS: u64 = 256;
/// Maximum length of a regular expression in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// Maximum number of values of one `enum`.
pub const MAX_ENUM: usize = 1_000;
/// Maximum size of an `enum` or `const`, in bytes of JSON.
pub const MAX_ENUM_BYTES: usize = 32 * 1024;
/// Maximum number of names in one `required` or `dependentRequired`.
pub const MAX_REQUIRED: usize = 1_000;
/// Maximum length of a property name in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// The smallest and largest `multipleOf`: outside this range, a remainder requires arithmetic with very long integers.
pub const MULTIPLE_OF: (f64, f64) = (1e-9, 1e15);

/// The cost of a schema after its references are expanded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Number of subschemas, enumerated values and required names.
    pub nodes: u64,
    /// Number of keywords that combine or test schemas.
    pub combinators: u64,
    /// Number of regular expressions.
    pub patterns: u64,
    /// Levels of nested subschemas.
    pub depth: u32,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.nodes = self.nodes.saturating_add(other.nodes);
        self.combinators = self.combinators.saturating_add(other.combinators);
        self.patterns = self.patterns.saturating_add(other.patterns);
        self.depth = self.depth.max(other.depth.saturating_add(1));
    }

    /// Returns which limit is exceeded, if any.
    fn excess(self) -> Option<String> {
        let (what, found, most) = if self.nodes > MAX_NODES {
            (
                "subschemas, enumerated values and required names",
                self.nodes,
                MAX_NODES,
            )
        } else if self.combinators > MAX_COMBINATORS {
            (
                "combining keywords (anyOf, oneOf, allOf, not, if, ...)",
                self.combinators,
                MAX_COMBINATORS,
            )
        } else if self.patterns > MAX_EXPANDED_PATTERNS {
            ("regular expressions", self.patterns, MAX_EXPANDED_PATTERNS)
        } else {
            return None;
        };
        let found = if found > most.saturating_mul(1000) {
            "far more".to_owned()
        } else {
            found.to_string()
        };
        Some(format!(
            "has {found} {what} after expanding $ref; at most {most} are allowed"
        ))
    }
}

/// Returns the cost of `schema`, or where and why it exceeds the budget.
pub fn measure(schema: &Value) -> Result<Cost, Violation> {
    if !schema.is_object() {
        return Err(violation("", "must be a JSON object"));
    }
    if !fits(schema, MAX_BYTES) {
        return Err(violation("", format!("must be at most {MAX_BYTES} bytes")));
    }
    measured(schema).map_err(|fault| {
        let pointer = locate(schema, fault.schema).unwrap_or_default() + &fault.below;
        violation(&pointer, fault.message)
    })
}

fn measured(schema: &Value) -> Result<Cost, Fault> {
    let mut survey = Survey::default();
    survey.visit(schema, 0)?;
    let walk = Walk {
        root: schema,
        id: schema.get("$id").and_then(Value::as_str).unwrap_or_default(),
        anchors: survey.anchors,
    };
    let cost = walk.cost(schema, 0, &mut HashMap::new(), &mut HashSet::new())?;
    walk.no_idle_cycles()?;
    Ok(cost)
}

/// Returns whether a value has at most `max` bytes as JSON. Stops serialising as soon as it has more.
pub(crate) fn fits(value: &impl Serialize, max: usize) -> bool {
    struct Room(usize);
    impl std::io::Write for Room {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::WriteZero)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Room(max), value).is_ok()
}

fn violation(pointer: &str, message: impl Into<String>) -> Violation {
    Violation {
        pointer: pointer.to_owned(),
        message: message.into(),
    }
}

/// The identity of a subschema: its address in the one document that is measured.
type Key = *const Value;

/// A violation of the budget. Its pointer is built only at the end: building pointers during the walk would cost more
/// than the walk itself.
struct Fault {
    schema: Key,
    /// Pointer relative to that subschema.
    below: String,
    message: String,
}

fn fault<T>(schema: &Value, below: impl Into<String>, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault {
        schema: schema as Key,
        below: below.into(),
        message: message.into(),
    })
}

/// Finds the pointer of a subschema.
fn locate(value: &Value, wanted: Key) -> Option<String> {
    if std::ptr::eq(value, wanted) {
        return Some(String::new());
    }
    match value {
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, field)| Some(format!("/{}{}", escape(name), locate(field, wanted)?))),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| Some(format!("/{index}{}", locate(item, wanted)?)))
        }
        _ => None,
    }
}

fn escape(token: &str) -> Cow<'_, str> {
    Token::new(token).into_encoded()
}

/// How a keyword's subschemas relate to the value that their schema checks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// They check the same value.
    AtSame,
    /// They check parts of it, or nothing by themselves.
    AtParts,
}

/// Returns whether a keyword holds schemas by name (true) or a single schema or an array of schemas (false), and what
/// they check.
fn looks(keyword: &str) -> Option<(bool, Looks)> {
    Some(match keyword {
        "allOf" | "anyOf" | "oneOf" | "not" | "if" | "then" | "else" | "extends" | "disallow" => (false, Looks::AtSame),
        "items"
        | "prefixItems"
        | "additionalItems"
        | "contains"
        | "additionalProperties"
        | "propertyNames"
        | "unevaluatedItems"
        | "unevaluatedProperties"
        | "contentSchema" => (false, Looks::AtParts),
        "properties" | "patternProperties" | "$defs" | "definitions" => (true, Looks::AtParts),
        "dependentSchemas" | "dependencies" => (true, Looks::AtSame),
        _ => return None,
    })
}

/// Returns whether a keyword can make the validator check a value more than once, check its names, or depend on other
/// keywords.
fn combines(keyword: &str) -> bool {
    matches!(
        keyword,
        "allOf"
            | "anyOf"
            | "oneOf"
            | "not"
            | "if"
            | "contains"
            | "propertyNames"
            | "dependentSchemas"
            | "dependencies"
            | "unevaluatedItems"
            | "unevaluatedProperties"
            | "extends"
            | "disallow"
    )
}

/// Lists every direct subschema of `schema`.
fn children(schema: &Value) -> impl Iterator<Item = (&Value, Looks)> {
    let fields = schema.as_object().into_iter().flatten();
    fields.flat_map(|(keyword, value)| {
        let (one, several, by_name) = match (looks(keyword), value) {
            (Some((false, _)), Value::Array(schemas)) => (None, Some(schemas), None),
            (Some((false, _)), schema) => (Some(schema), None, None),
            (Some((true, _)), Value::Object(schemas)) => (None, None, Some(schemas.values())),
            // Malformed keywords are left to the metaschema.
            _ => (None, None, None),
        };
        let looks = looks(keyword).map_or(Looks::AtParts, |(_, looks)| looks);
        let found = one.into_iter().chain(several.into_iter().flatten());
        found
            .chain(by_name.into_iter().flatten())
            .map(move |schema| (schema, looks))
    })
}

/// Lists the regular expressions of one schema with their pointers relative to it.
fn patterns(fields: &Map<String, Value>) -> impl Iterator<Item = (String, &str)> {
    let own = fields.get("pattern").and_then(Value::as_str);
    let own = own.map(|pattern| ("/pattern".to_owned(), pattern));
    let names = fields.get("patternProperties").and_then(Value::as_object);
    let named = |name: &'_ str| format!("/patternProperties/{}", escape(name));
    let names = names.into_iter().flat_map(Map::keys);
    own.into_iter()
        .chain(names.map(move |name| (named(name), name.as_str())))
}

fn too_deep<T>(schema: &Value) -> Result<T, Fault> {
    fault(
        schema,
        "",
        format!("is nested deeper than {MAX_DEPTH} subschemas, $ref included"),
    )
}

/// One pass over the unexpanded schema: collects anchors and checks what is limited without expansion.
#[derive(Default)]
struct Survey<'a> {
    anchors: HashMap<&'a str, &'a Value>,
    patterns: u64,
}

impl<'a> Survey<'a> {
    fn visit(&mut self, schema: &'a Value, depth: u32) -> Result<(), Fault> {
        let Value::Object(fields) = schema else { return Ok(()) };
        if depth > MAX_DEPTH {
            return too_deep(schema);
        }
        for (keyword, value) in fields {
            let at = || format!("/{keyword}");
            match (keyword.as_str(), value) {
                ("$id" | "id" | "$schema", Value::String(_)) if depth > 0 => {
                    return fault(
                        schema,
                        at(),
                        format!("{keyword} is only supported at the root of the schema"),
                    );
                }
                ("$anchor" | "$dynamicAnchor", Value::String(name)) if self.anchors.insert(name, schema).is_some() => {
                    return fault(
                        schema,
                        at(),
                        "this anchor is already defined in another part of the schema",
                    );
                }
                _ => {}
            }
        }
        for (at, _) in patterns(fields) {
            self.patterns += 1;
            if self.patterns > MAX_PATTERNS {
                let message = format!("is one regular expression too many; at most {MAX_PATTERNS} are allowed");
                return fault(schema, at, message);
            }
        }
        children(schema).try_for_each(|(schema, _)| self.visit(schema, depth + 1))
    }
}

struct Walk<'a> {
    root: &'a Value,
    id: &'a str,
    anchors: HashMap<&'a str, &'a Value>,
}

impl<'a> Walk<'a> {
    /// Returns the totals of one subschema and everything it refers to. A reference back to a schema that is being
    /// visited counts once: how often it is followed depends on the value, and is limited where values are checked.
    fn cost(
        &self,
        schema: &'a Value,
        depth: u32,
        known: &mut HashMap<Key, Cost>,
        open: &mut HashSet<Key>,
    ) -> Result<Cost, Fault> {
        let key: Key = schema;
        let mut cost = Cost {
            nodes: 1,
            ..Cost::default()
        };
        let Value::Object(fields) = schema else { return Ok(cost) };
        let below = known.get(&key).map_or(0, |known| known.depth);
        if depth.saturating_add(below) > MAX_DEPTH {
            return too_deep(schema);
        }
        if let Some(known) = known.get(&key) {
            return Ok(*known);
        }
        if !open.insert(key) {
            return Ok(cost);
        }
        own(schema, fields, &mut cost)?;
        for (child, _) in children(schema) {
            cost.add(self.cost(child, depth + 1, known, open)?);
        }
        for target in self.references(schema, fields)? {
            cost.add(self.cost(target, depth + 1, known, open)?);
        }
        open.remove(&key);
        if let Some(excess) = cost.excess() {
            return fault(schema, "", excess);
        }
        known.insert(key, cost);
        Ok(cost)
    }

    /// Returns the schemas that one schema refers to.
    fn references(&self, schema: &Value, fields: &'a Map<String, Value>) -> Result<Vec<&'a Value>, Fault> {
        let mut targets = Vec::new();
        for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
            let Some(Value::String(reference)) = fields.get(keyword) else {
                continue;
            };
            let Some(target) = self.resolve(reference) else {
                let message = "does not resolve to a part of this schema; use references of the form #/$defs/name";
                return fault(schema, format!("/{keyword}"), message);
            };
            targets.push(target);
        }
        Ok(targets)
    }

    fn resolve(&self, reference: &str) -> Option<&'a Value> {
        let id = self.id.trim_end_matches('#');
        let own = reference.strip_prefix(id).unwrap_or(reference);
        let fragment = match own.strip_prefix('#') {
            Some(fragment) => percent_decoded(fragment)?,
            None if own.is_empty() && !id.is_empty() => String::new(),
            None => return None,
        };
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.root.pointer(&fragment);
        }
        self.anchors.get(fragment.as_str()).copied()
    }

    /// Rejects a schema that refers back to itself while checking the same value: its check would never end. A cycle
    /// that goes through parts of the value checks smaller and smaller parts.
    fn no_idle_cycles(&self) -> Result<(), Fault> {
        let mut finished = HashMap::new();
        let mut waiting = vec![self.root];
        while let Some(schema) = waiting.pop() {
            self.no_idle_cycle(schema, 0, &mut finished, &mut waiting)?;
        }
        Ok(())
    }

    /// `finished` says for each visited schema whether its visit is complete.
    fn no_idle_cycle(
        &self,
        schema: &'a Value,
        level: u32,
        finished: &mut HashMap<Key, bool>,
        waiting: &mut Vec<&'a Value>,
    ) -> Result<(), Fault> {
        let Value::Object(fields) = schema else { return Ok(()) };
        match finished.get(&(schema as Key)) {
            Some(true) => return Ok(()),
            Some(false) => {
                let message =
                    "refers to itself without descending into a part of the value, so its check would never end";
                return fault(schema, "", message);
            }
            None => {}
        }
        // The other walk stops where a cycle closes, so this one can take a longer path.
        if level > 4 * MAX_DEPTH {
            return too_deep(schema);
        }
        finished.insert(schema, false);
        for (child, looks) in children(schema) {
            match looks {
                Looks::AtSame => self.no_idle_cycle(child, level + 1, finished, waiting)?,
                Looks::AtParts => waiting.push(child),
            }
        }
        for target in self.references(schema, fields)? {
            self.no_idle_cycle(target, level + 1, finished, waiting)?;
        }
        finished.insert(schema, true);
        Ok(())
    }
}

/// Adds the cost of one schema without its subschemas.
fn own(schema: &Value, fields: &Map<String, Value>, cost: &mut Cost) -> Result<(), Fault> {
    let count = |cost: &mut Cost, n: usize| cost.nodes = cost.nodes.saturating_add(n as u64);
    for (at, pattern) in patterns(fields) {
        if pattern.len() > MAX_PATTERN_BYTES {
            let message = format!("is a regular expression of more than {MAX_PATTERN_BYTES} bytes");
            return fault(schema, at, message);
        }
        cost.patterns = cost.patterns.saturating_add(1);
    }
    for (keyword, value) in fields {
        let at = || format!("/{}", escape(keyword));
        if combines(keyword) {
            cost.combinators = cost.combinators.saturating_add(1);
        }
        match (keyword.as_str(), value) {
            ("enum" | "const", value) => {
                let values = value.as_array().filter(|_| keyword == "enum").map_or(1, Vec::len);
                if values > MAX_ENUM {
                    return fault(
                        schema,
                        at(),
                        format!("has {values} values; at most {MAX_ENUM} are allowed"),
                    );
                }
                if !fits(value, MAX_ENUM_BYTES) {
                    return fault(schema, at(), format!("has more than {MAX_ENUM_BYTES} bytes of values"));
                }
                count(cost, values);
            }
            ("required", Value::Array(names)) => {
                bounded_names(schema, names, at)?;
                count(cost, names.len());
            }
            ("dependentRequired" | "dependencies", Value::Object(by_name)) => {
                for (name, names) in by_name {
                    if let Value::Array(names) = names {
                        bounded_names(schema, names, || format!("{}/{}", at(), escape(name)))?;
                        count(cost, names.len());
                    }
                }
            }
            ("properties" | "dependentSchemas", Value::Object(by_name))
                if by_name.keys().any(|name| name.len() > MAX_NAME_BYTES) =>
            {
                return fault(schema, at(), format!("has a name longer than {MAX_NAME_BYTES} bytes"));
            }
            ("multipleOf" | "divisibleBy", Value::Number(number)) if !is_cheap_divisor(number) => {
                let (least, greatest) = MULTIPLE_OF;
                return fault(schema, at(), format!("must be between {least} and {greatest}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn bounded_names(schema: &Value, names: &[Value], at: impl Fn() -> String) -> Result<(), Fault> {
    if names.len() > MAX_REQUIRED {
        let message = format!("lists {} names; at most {MAX_REQUIRED} are allowed", names.len());
        return fault(schema, at(), message);
    }
    let long = |name: &Value| name.as_str().is_some_and(|name| name.len() > MAX_NAME_BYTES);
    if names.iter().any(long) {
        return fault(schema, at(), format!("has a name longer than {MAX_NAME_BYTES} bytes"));
    }
    Ok(())
}

fn percent_decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = rest.get(2..)?;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}
/// Returns whether a remainder by this number takes only a step or two.
fn is_cheap_divisor(number: &serde_json::Number) -> bool {
    let (least, greatest) = MULTIPLE_OF;
    number
        .as_f64()
        .is_some_and(|number| (least..=greatest).contains(&number))
}

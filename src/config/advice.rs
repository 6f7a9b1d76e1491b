//! Looks up what the configuration's schema allows at a place, so that a fault there can say what to write instead.

use copilotd_actors::domain::schema::Violation;
use jsonptr::Pointer;
use serde_json::Value;

use super::suggest::near;
use crate::shape::UNKNOWN_MEMBER;

/// The schema's definition of a secret.
const SECRET: &str = "#/$defs/secret";
/// The message where a secret was written as a plain text.
const PLAIN_SECRET: &str = "do not write a secret as plain text: use { env = \"NAME\" } and set NAME in the environment, or \
     { file = \"path\" }";

/// Where the embedding model of the process is named.
const MODEL: &str = "/embeddings/model";
/// Models that earlier versions ran, and what to write instead.
const FORMER_MODELS: [&str; 2] = ["all-MiniLM-L6-v2", "wordllama-l2-256"];
const FORMER_MODEL: &str = "this model is no longer supported: write \"bge-small-en-v1.5\", fetch it with `copilotd models pull`, \
     and remove or raise thresholds of caches, whose scale is another one (docs/operate/semantic-cache.md)";

/// The schema, and the part of it that a value is checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Advice<'a> {
    pub schema: &'a Value,
    pub part: &'a Value,
}

impl<'a> Advice<'a> {
    /// Returns what is wrong, and what to do about it where that is known.
    pub fn message(self, value: &Value, violation: &Violation) -> String {
        let Violation { pointer, message } = violation;
        if message == UNKNOWN_MEMBER
            && let Some((table, name)) = Pointer::parse(pointer).ok().and_then(Pointer::split_back)
        {
            let meant =
                near(&name.decoded(), self.names(table.as_str())).map(|meant| format!("; did you mean {meant:?}?"));
            return format!("{message}{}", meant.unwrap_or_default());
        }
        let named = value.pointer(pointer).and_then(Value::as_str);
        if pointer.as_str() == MODEL && named.is_some_and(|name| FORMER_MODELS.contains(&name)) {
            return FORMER_MODEL.to_owned();
        }
        let is_text = value.pointer(pointer).is_some_and(Value::is_string);
        if is_text && self.at(pointer).iter().any(|node| node["$ref"] == SECRET) {
            return PLAIN_SECRET.to_owned();
        }
        message.clone()
    }

    /// Returns the names that the members of a table may have.
    fn names(self, pointer: &str) -> Vec<&'a str> {
        let tables = self.at(pointer).into_iter().flat_map(|node| self.alternatives(node));
        let members = tables.filter_map(|node| node["properties"].as_object());
        members.flat_map(|members| members.keys().map(String::as_str)).collect()
    }

    /// Finds the schema nodes for a place; several where the schema has alternatives.
    fn at(self, pointer: &str) -> Vec<&'a Value> {
        let mut nodes = vec![self.part];
        // Of our own validator, so valid.
        let Ok(pointer) = Pointer::parse(pointer) else {
            return Vec::new();
        };
        for name in pointer.tokens() {
            let name = name.decoded();
            let tables = nodes.into_iter().flat_map(|node| self.alternatives(node));
            let below = tables.filter_map(|node| {
                let member = node["properties"].get(&*name);
                let item = node.get("items").filter(|_| name.parse::<usize>().is_ok());
                let other = node.get("additionalProperties").filter(|other| other.is_object());
                member.or(item).or(other)
            });
            nodes = below.collect();
        }
        nodes
    }

    /// Returns a node with all nodes that it references or combines.
    fn alternatives(self, node: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![node];
        let mut next = 0;
        // The schema has no cycles; the bound guards against one.
        while next < found.len() && found.len() < 64 {
            let node = found[next];
            next += 1;
            let reference = node["$ref"]
                .as_str()
                .and_then(|path| self.schema.pointer(path.trim_start_matches('#')));
            found.extend(reference);
            found.extend(node.get("then"));
            for list in ["oneOf", "anyOf", "allOf"] {
                found.extend(node[list].as_array().into_iter().flatten());
            }
        }
        found
    }
}

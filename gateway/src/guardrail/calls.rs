//! The tool calls of a choice: assembled from pieces, and their texts.

use std::collections::{HashMap, HashSet};

use copilotd_actors::domain::guardrail::Texts;
use copilotd_actors::domain::guardrail::content::{Numbered, Unreadable, Visit};
use serde_json::Value;

use super::Object;

/// Tool calls that arrive in pieces, found by index and id. Invariant: handling a piece takes time linear in its own
/// bytes, however many calls and pieces came before.
#[derive(Debug, Default)]
pub(super) struct CallAssembler {
    pub(super) all: Vec<Object>,
    /// The last call with an index, as JSON writes it.
    by_index: HashMap<String, usize>,
    /// The last call with an id.
    by_id: HashMap<String, usize>,
}

impl CallAssembler {
    /// Adds a call, or a piece of one; returns approximately how many bytes it added. A piece belongs to the last call
    /// with its index, unless its id says otherwise; without an index to the call with its id; without either to the
    /// last one. In a document each is a call of its own.
    pub(super) fn add(&mut self, piece: Object, is_whole: bool) -> usize {
        let index = piece.get("index").filter(|index| !index.is_null());
        let (index, id) = (index.map(Value::to_string), text_of(&piece, "id"));
        let known = match (&index, id) {
            _ if is_whole => None,
            (Some(index), id) => self.by_index.get(index).copied().filter(|at| {
                let known = text_of(&self.all[*at], "id");
                id.is_none() || known.is_none_or(|known| Some(known) == id)
            }),
            (None, Some(id)) => self.by_id.get(id).copied(),
            (None, None) => self.all.len().checked_sub(1),
        };
        let at = known.unwrap_or_else(|| {
            self.all.push(Object::new());
            self.all.len() - 1
        });
        if let Some(index) = index.filter(|_| known.is_none() && !is_whole) {
            self.by_index.insert(index, at);
        }
        let call = &mut self.all[at];
        let had_id = text_of(call, "id").is_some();
        let added = merge(call, piece);
        if let Some(id) = text_of(call, "id").filter(|_| !had_id && !is_whole) {
            let last = self.by_id.entry(id.to_owned()).or_insert(at);
            *last = at.max(*last);
        }
        added
    }
}

/// Renumbers calls whose provider gives no distinct indices: clients merge calls with one index.
pub(super) fn number(calls: &mut [Object]) {
    let mut seen = HashSet::new();
    let mut is_new = |call: &Object| {
        let index = call.get("index").filter(|index| index.is_number());
        index.is_some_and(|index| seen.insert(index.to_string()))
    };
    if !calls.iter().all(&mut is_new) {
        for (at, call) in calls.iter_mut().enumerate() {
            call.insert("index".to_owned(), at.into());
        }
    }
}

fn text_of<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Merges a piece of a call; returns approximately how many bytes it added.
pub(super) fn merge(known: &mut Object, piece: Object) -> usize {
    let mut added = 0;
    for (name, value) in piece {
        // Some servers repeat the other members in every piece; only these grow.
        let grows = matches!(name.as_str(), "arguments" | "input");
        match (known.get_mut(&name), value) {
            (Some(Value::Object(known)), Value::Object(more)) => added += merge(known, more),
            (Some(Value::String(text)), Value::String(more)) if grows || text.is_empty() => {
                added += more.len();
                text.push_str(&more);
            }
            (None | Some(Value::Null), value) => {
                added += name.len() + value.to_string().len();
                known.insert(name, value);
            }
            (Some(_), _) => {}
        }
    }
    added
}

/// The texts of a call. Its id and type are the protocol's own.
#[derive(Debug)]
pub(super) struct CallTexts<O>(pub(super) O);

impl<O: std::borrow::Borrow<Object> + Send + Sync> Texts for CallTexts<O> {
    fn each(&self, visit: &mut Visit<'_>) -> Result<(), Unreadable> {
        let mut texts = Numbered::new(visit);
        for (name, value) in self.0.borrow() {
            match (name.as_str(), value) {
                ("id" | "type" | "index", Value::String(_) | Value::Number(_)) => {}
                ("function" | "custom", Value::Object(function)) => {
                    let named = function.get("name");
                    let others = function.iter().filter(|(name, _)| *name != "name");
                    let values = named.into_iter().chain(others.map(|(_, value)| value));
                    values.for_each(|value| texts.value(value));
                }
                (_, value) => texts.value(value),
            }
        }
        Ok(())
    }
}

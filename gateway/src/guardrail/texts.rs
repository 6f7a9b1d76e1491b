//! The texts of an answer's unknown members.

use std::collections::HashMap;

use copilotd_actors::domain::guardrail::content::{Numbered, Unreadable, Visit};
use copilotd_actors::domain::guardrail::{TextRole, Texts};
use serde_json::Value;

use super::Object;

/// The texts of JSON values, joined by path. Paths are numbered, so that a text below many long names costs no more
/// than one at the top.
#[derive(Default)]
pub(super) struct TextsByPath<'b> {
    all: Vec<JoinedTexts>,
    /// By parent path and member name.
    below: HashMap<(Option<usize>, &'b str), usize>,
}

#[derive(Default)]
struct JoinedTexts {
    text: String,
    /// Names of the members there, one per line.
    names: String,
}

impl<'b> TextsByPath<'b> {
    fn below(&mut self, above: Option<usize>, name: &'b str) -> usize {
        let next = self.all.len();
        let at = *self.below.entry((above, name)).or_insert(next);
        if at == next {
            self.all.push(JoinedTexts::default());
        }
        at
    }

    fn gather(&mut self, value: &'b Value, at: usize) {
        match value {
            Value::String(text) => self.all[at].text.push_str(text),
            Value::Number(number) => self.all[at].text.push_str(&number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| self.gather(item, at)),
            Value::Object(members) => {
                for (name, value) in members {
                    let names = &mut self.all[at].names;
                    names.push('\n');
                    names.push_str(name);
                    let below = self.below(Some(at), name);
                    self.gather(value, below);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

impl<'b> TextsByPath<'b> {
    /// Joins the texts of objects that arrived one after the other: those at the same path may be pieces of one text.
    /// Names are texts too, below the top level.
    pub(super) fn of(objects: impl IntoIterator<Item = &'b Object>) -> Self {
        let mut places = Self::default();
        for object in objects {
            for (name, value) in object {
                let at = places.below(None, name);
                places.gather(value, at);
            }
        }
        places
    }

    /// Returns the texts, without those that are empty.
    pub(super) fn into_texts(self) -> JoinedByPath {
        let all = self.all.into_iter().flat_map(|place| [place.text, place.names]);
        JoinedByPath(all.filter(|text| !text.is_empty()).collect())
    }
}

/// Texts that were joined by their paths.
#[derive(Debug)]
pub(super) struct JoinedByPath(Vec<String>);

impl JoinedByPath {
    /// Returns the length of all texts.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(String::len).sum()
    }
}

impl Texts for JoinedByPath {
    fn each(&self, visit: &mut Visit<'_>) -> Result<(), Unreadable> {
        let mut texts = Numbered::new(visit);
        self.0.iter().for_each(|text| texts.text(TextRole::Text, text));
        Ok(())
    }
}

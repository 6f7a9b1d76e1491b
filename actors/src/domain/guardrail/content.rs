//! Content as guardrails see it: a sequence of texts.
//!
//! Texts are visited and not collected: a request may consist of a million small ones.

use std::ops::ControlFlow;

use serde_json::Value;

/// A text of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    /// Its number in the content, from 0; a finding names its place by it.
    pub number: usize,
    /// What it is.
    pub role: TextRole,
    /// The text itself.
    pub text: &'a str,
}

/// What a text is in its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextRole {
    /// A text or a string.
    Text,
    /// The name of a member. It cannot be redacted.
    Name,
    /// A number, as JSON writes it. It can only be redacted as a whole.
    Number,
}

/// Content that other parsers might read differently, so it cannot be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(
    /// What is wrong with it.
    pub String,
);

/// Visits a text; after `Break` no further text is visited.
pub type Visit<'a> = dyn FnMut(Text<'_>) -> ControlFlow<()> + 'a;

/// A content's texts.
pub trait Texts: Send + Sync {
    /// Visits the texts, always in the same order.
    ///
    /// # Errors
    /// When the content is ambiguous: what was visited until then means nothing.
    fn each(&self, visit: &mut Visit<'_>) -> Result<(), Unreadable>;
}

/// Numbers texts while they are visited.
pub struct Numbered<'a, 'b> {
    visit: &'a mut Visit<'b>,
    next: usize,
    is_over: bool,
}

impl<'a, 'b> Numbered<'a, 'b> {
    /// Starts with number 0.
    pub fn new(visit: &'a mut Visit<'b>) -> Self {
        Self {
            visit,
            next: 0,
            is_over: false,
        }
    }

    /// Visits a text, unless the visit is over.
    pub fn text(&mut self, role: TextRole, text: &str) {
        if !self.is_over {
            let number = self.next;
            self.next += 1;
            self.is_over = (self.visit)(Text { number, role, text }).is_break();
        }
    }

    /// Returns whether no further text is wanted.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Visits every string, name and number of a value.
    pub fn value(&mut self, value: &Value) {
        match value {
            _ if self.is_over => {}
            Value::String(text) => self.text(TextRole::Text, text),
            Value::Array(items) => items.iter().for_each(|item| self.value(item)),
            Value::Object(members) => members.iter().for_each(|(name, value)| self.member(name, value)),
            Value::Number(number) => self.text(TextRole::Number, &number.to_string()),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Visits a member: its name, then its value.
    pub fn member(&mut self, name: &str, value: &Value) {
        self.text(TextRole::Name, name);
        self.value(value);
    }
}

impl Texts for Value {
    fn each(&self, visit: &mut Visit<'_>) -> Result<(), Unreadable> {
        Numbered::new(visit).value(self);
        Ok(())
    }
}

impl Texts for String {
    fn each(&self, visit: &mut Visit<'_>) -> Result<(), Unreadable> {
        Numbered::new(visit).text(TextRole::Text, self);
        Ok(())
    }
}

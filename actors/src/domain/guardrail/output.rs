//! The guard of a model's answer, streamed or whole.

use super::deny::matching_redacted;
use super::pipeline::UNCHECKED_RULE;
use super::{BlockedByRule, COST_PER_BYTE, HoldBack, RuleSet};

/// Guards one text of an answer. A whole answer passes through it like a streamed one, in one piece.
///
/// Invariants: what is returned may be shown, except that nothing of a JSON answer may be shown before
/// [`finish`](Self::finish) has succeeded, since escapes in it may spell what a rule forbids; the result does not
/// depend on how the answer is split.
#[derive(Debug)]
pub struct OutputGuard {
    window: HoldBack,
    rules: RuleSet,
    /// What passed so far of an answer that is JSON.
    json: Option<String>,
    reported: usize,
    /// A placeholder while the guard itself works on the compute pool.
    is_spent: bool,
}

impl OutputGuard {
    /// Creates a guard with the rules for answers.
    pub fn new(rules: &RuleSet, is_json: bool) -> Self {
        Self {
            window: HoldBack::new(rules),
            rules: rules.clone(),
            json: (is_json && !rules.is_empty()).then(String::new),
            reported: 0,
            is_spent: false,
        }
    }

    /// Creates a guard that lets nothing pass.
    pub fn spent() -> Self {
        Self {
            is_spent: true,
            ..Self::new(&RuleSet::default(), false)
        }
    }

    /// Returns the cost of checking a piece, in the unit of [`compute`](crate::compute).
    pub fn cost(piece: &str) -> usize {
        piece.len() * COST_PER_BYTE
    }

    /// Returns the cost of [`finish`](Self::finish).
    pub fn cost_of_finish(&self) -> usize {
        self.json.as_ref().map_or(0, String::len) * COST_PER_BYTE
    }

    /// Adds a piece and returns what passes now, possibly nothing.
    pub fn push(&mut self, piece: &str) -> Result<String, BlockedByRule> {
        if self.is_spent {
            return Err(blocked(UNCHECKED_RULE));
        }
        let passed = self.window.push(piece)?;
        if let Some(json) = &mut self.json {
            json.push_str(&passed);
        }
        Ok(passed)
    }

    /// Ends the answer and returns what was held back.
    pub fn finish(&mut self) -> Result<String, BlockedByRule> {
        if self.is_spent {
            return Err(blocked(UNCHECKED_RULE));
        }
        let rest = self.window.finish()?;
        if let Some(mut json) = self.json.take() {
            json.push_str(&rest);
            if let Some(rule) = matching_redacted(&self.rules, &json) {
                return Err(blocked(&rule.name));
            }
            self.json = Some(json);
        }
        Ok(rest)
    }

    /// Marks the present end of the added text; see [`HoldBack::anchor`].
    pub fn anchor(&mut self) {
        self.window.anchor();
    }

    /// Returns where the anchors are in the text that passed so far; see [`HoldBack::anchors`].
    pub fn anchors(&self) -> &[usize] {
        self.window.anchors()
    }

    /// Returns the whole answer after [`finish`](Self::finish), if it is JSON to which rules apply.
    pub fn take_json(&mut self) -> Option<String> {
        self.json.take()
    }

    /// Returns the names of the redacting rules that were triggered, each once.
    pub fn redactions(&self) -> &[String] {
        self.window.redactions()
    }

    /// Returns those of the [`redactions`](Self::redactions) that this method has not returned before.
    pub fn new_redactions(&mut self) -> &[String] {
        let from = std::mem::replace(&mut self.reported, self.window.redactions().len());
        &self.window.redactions()[from..]
    }
}

fn blocked(rule: &str) -> BlockedByRule {
    BlockedByRule {
        rule: rule.to_owned(),
        released: String::new(),
    }
}

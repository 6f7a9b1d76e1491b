//! From findings to a verdict: the only place that decides what a finding does to a content.
//!
//! Invariants: the verdict depends on the kind of the content, the content and the findings alone, so it is the same in
//! a conversation and on the endpoint; a finding that cannot be carried out as it asks blocks the content.

use std::ops::Range;

use serde_json::Value;

use super::stage::{ContentKind, OnFinding};
use super::{OnMatch, REDACTED};

/// Reported as the rule when a content could not be checked.
pub const UNCHECKED_RULE: &str = "content that cannot be checked";

/// What a detector found in a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The name of the rule, for records. It quotes nothing of the content.
    pub rule: String,
    /// What should be done.
    pub action: OnMatch,
    /// Where; none if it is the content as a whole.
    pub place: Option<Place>,
}

/// A part of a content's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The number of the text in its content.
    pub number: usize,
    /// The bytes of the text.
    pub bytes: Range<usize>,
}

impl Finding {
    /// Returns the finding that stands for a content that was not checked: it does not pass.
    pub fn unreadable() -> Self {
        Self {
            rule: UNCHECKED_RULE.to_owned(),
            action: OnMatch::Block,
            place: None,
        }
    }
}

/// What becomes of a content.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<T> {
    /// It passes as it is.
    Allowed(T),
    /// It passes with parts of it replaced.
    Redacted {
        /// The content that readers and models may see.
        content: T,
        /// The names of the rules, each once, sorted.
        rules: Vec<String>,
    },
    /// Nothing of it passes.
    Blocked {
        /// The name of the rule.
        rule: String,
    },
}

/// Decides on a content that is passed on unchanged or not at all: returns the rule that blocks or withholds it.
pub fn blocked_by(kind: ContentKind, findings: &[Finding]) -> Option<&str> {
    debug_assert_ne!(kind.on_finding(), OnFinding::Redact, "{kind:?} may be edited");
    findings.first().map(|finding| finding.rule.as_str())
}

/// Decides on a content. `content` has the texts that the findings number, in the order of
/// [`Texts`](super::Texts).
pub fn judge(kind: ContentKind, content: Value, findings: &[Finding]) -> Verdict<Value> {
    let Some(first) = findings.first() else {
        return Verdict::Allowed(content);
    };
    let blocking = findings.iter().find(|finding| finding.action == OnMatch::Block);
    let blocking = blocking.or_else(|| findings.iter().find(|finding| finding.place.is_none()));
    let blocking = match kind.on_finding() {
        OnFinding::Block | OnFinding::Withhold => Some(first),
        OnFinding::Redact => blocking,
    };
    let rule = match blocking {
        Some(finding) => finding.rule.clone(),
        None => match Redaction::of(findings).value(content) {
            Ok(content) => {
                let mut rules: Vec<String> = findings.iter().map(|finding| finding.rule.clone()).collect();
                rules.sort_unstable();
                rules.dedup();
                return Verdict::Redacted { content, rules };
            }
            Err(NotReplaceable(rule)) => rule,
        },
    };
    Verdict::Blocked { rule }
}

/// Returns where a place of a content of one text lies after [`judge`] replaced what was found; at the end of the
/// replacement if it was within.
pub fn moved(at: usize, findings: &[Finding]) -> usize {
    let mut places: Vec<&Range<usize>> = findings
        .iter()
        .filter_map(|found| Some(&found.place.as_ref()?.bytes))
        .collect();
    places.sort_by_key(|bytes| (bytes.start, bytes.end));
    let (mut removed, mut added, mut replaced_to) = (0, 0, None);
    for bytes in places.into_iter().take_while(|bytes| bytes.start < at) {
        let begins_within = replaced_to.is_some_and(|end| bytes.start < end);
        if !begins_within {
            added += REDACTED.len();
        }
        let from = replaced_to.map_or(bytes.start, |end: usize| end.max(bytes.start));
        removed += bytes.end.min(at).saturating_sub(from);
        replaced_to = Some(from.max(bytes.end));
    }
    at - removed + added
}

/// A place that cannot be replaced; the name of the rule.
struct NotReplaceable(String);

/// Places to be replaced, in the order of the texts.
struct Redaction<'a> {
    places: std::iter::Peekable<std::vec::IntoIter<(Place, &'a str)>>,
    next: usize,
}

impl<'a> Redaction<'a> {
    fn of(findings: &'a [Finding]) -> Self {
        let place = |finding: &'a Finding| Some((finding.place.clone()?, finding.rule.as_str()));
        let mut places: Vec<_> = findings.iter().filter_map(place).collect();
        places.sort_by_key(|(place, _)| (place.number, place.bytes.start, place.bytes.end));
        Self {
            places: places.into_iter().peekable(),
            next: 0,
        }
    }

    fn value(mut self, value: Value) -> Result<Value, NotReplaceable> {
        let value = self.walk(value)?;
        // A place beyond the last text was meant for another content.
        match self.places.next() {
            Some((_, rule)) => Err(NotReplaceable(rule.to_owned())),
            None => Ok(value),
        }
    }

    fn walk(&mut self, value: Value) -> Result<Value, NotReplaceable> {
        Ok(match value {
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(items) => {
                let items: Result<_, _> = items.into_iter().map(|item| self.walk(item)).collect();
                Value::Array(items?)
            }
            Value::Object(members) => {
                let member = |(name, value): (String, Value)| {
                    // A name with a replaced part would be another name.
                    if let Some((_, rule)) = self.here() {
                        return Err(NotReplaceable(rule.to_owned()));
                    }
                    Ok((name, self.walk(value)?))
                };
                let members: Result<_, _> = members.into_iter().map(member).collect();
                Value::Object(members?)
            }
            Value::Number(number) => match self.here() {
                None => Value::Number(number),
                Some(_) => REDACTED.into(),
            },
            Value::Null | Value::Bool(_) => value,
        })
    }

    /// Moves on to the next text and returns its first place, dropping the others.
    fn here(&mut self) -> Option<(Place, &'a str)> {
        let number = self.next;
        self.next += 1;
        let first = self.places.next_if(|(place, _)| place.number == number);
        while self.places.next_if(|(place, _)| place.number == number).is_some() {}
        first
    }

    /// Replaces the places in the next text. Those that overlap are replaced together.
    fn text(&mut self, text: String) -> Result<String, NotReplaceable> {
        let number = self.next;
        self.next += 1;
        let (mut out, mut at, mut replaced_to) = (String::new(), 0, None);
        while let Some((Place { bytes, .. }, rule)) = self.places.next_if(|(place, _)| place.number == number) {
            let begins_within = replaced_to.is_some_and(|end| bytes.start < end);
            let is_valid = !bytes.is_empty() && text.get(bytes.clone()).is_some();
            if !is_valid {
                return Err(NotReplaceable(rule.to_owned()));
            }
            if !begins_within {
                out.push_str(&text[at..bytes.start]);
                out.push_str(REDACTED);
            }
            at = at.max(bytes.end);
            replaced_to = Some(at);
        }
        if replaced_to.is_none() {
            return Ok(text);
        }
        out.push_str(&text[at..]);
        Ok(out)
    }
}

#[cfg(test)]
mod tests;

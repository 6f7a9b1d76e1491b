//! The deny rules' findings in a content.

use std::ops::ControlFlow;

use super::content::{Text, TextRole, Texts, Unreadable};
use super::pipeline::{Finding, Place};
use super::stage::{ContentKind, OnFinding};
use super::{HoldBack, OnMatch, REDACTED, Rule, RuleSet, Rules};

/// Stands where a match was replaced: no literal contains it.
const MASK: &str = "\u{e000}";

/// Finds the rules that match in a content. Where one finding decides, only the first is returned.
///
/// # Errors
/// When the content is ambiguous.
pub fn find(rules: &Rules, kind: ContentKind, content: &dyn Texts) -> Result<Vec<Finding>, Unreadable> {
    let mut findings = Vec::new();
    for set in kind.rules(rules) {
        content.each(&mut |text| {
            match kind.on_finding() {
                OnFinding::Redact => set.find_places(text, &mut findings),
                OnFinding::Block | OnFinding::Withhold => {
                    findings.extend(set.matching_in(text).map(|rule| Finding::of(rule, None)));
                }
            }
            let decides = |finding: &Finding| finding.place.is_none() || finding.action == OnMatch::Block;
            match findings.last().is_some_and(decides) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if kind.on_finding() != OnFinding::Redact && !findings.is_empty() {
            break;
        }
    }
    Ok(findings)
}

/// Returns a rule that matches in an answer that is JSON, once its escapes are decoded: escapes can spell a literal in
/// many ways. What was redacted already does not match.
pub(super) fn matching_redacted<'a>(rules: &'a RuleSet, text: &str) -> Option<&'a Rule> {
    rules.matching_text(&text.replace(REDACTED, MASK))
}

impl Finding {
    fn of(rule: &Rule, place: Option<Place>) -> Self {
        Self {
            rule: rule.name.clone(),
            action: rule.action,
            place,
        }
    }
}

impl RuleSet {
    fn matching_in(&self, text: Text<'_>) -> Option<&Rule> {
        match text.role {
            TextRole::Text | TextRole::Name => self.matching_text(text.text),
            TextRole::Number => self.matching(text.text),
        }
    }

    /// Finds what is to be redacted in a text, and what cannot be: a blocking rule's match, and one in a name or in
    /// escapes.
    fn find_places(&self, text: Text<'_>, findings: &mut Vec<Finding>) {
        let place = |bytes| {
            let number = text.number;
            Some(Place { number, bytes })
        };
        match text.role {
            TextRole::Name => findings.extend(self.matching_in(text).map(|rule| Finding::of(rule, None))),
            TextRole::Number => {
                let found = self.matching_in(text);
                findings.extend(found.map(|rule| Finding::of(rule, place(0..text.text.len()))));
            }
            TextRole::Text => {
                let mut window = HoldBack::marking(self);
                let passed = window.push(text.text).and_then(|begun| Ok(begun + &window.finish()?));
                if let Err(blocked) = passed {
                    findings.push(Finding {
                        rule: blocked.rule,
                        action: OnMatch::Block,
                        place: None,
                    });
                    return;
                }
                let redactions = window.redactions().to_vec();
                let Some(marks) = window.into_marks() else {
                    // `thin` was not called: nothing can be replaced, so the content is blocked.
                    let rule = redactions.first().cloned();
                    let rule = rule.or_else(|| Some(self.matching_text(text.text)?.name.clone()));
                    findings.extend(rule.map(|rule| Finding {
                        rule,
                        action: OnMatch::Redact,
                        place: None,
                    }));
                    return;
                };
                let (mut masked, mut at) = (String::new(), 0);
                for (rule, bytes) in marks {
                    masked.push_str(text.text.get(at..bytes.start).unwrap_or_default());
                    masked.push_str(MASK);
                    at = bytes.end;
                    findings.push(Finding {
                        rule,
                        action: OnMatch::Redact,
                        place: place(bytes),
                    });
                }
                masked.push_str(text.text.get(at..).unwrap_or_default());
                // Matches in escapes only.
                findings.extend(matching_redacted(self, &masked).map(|rule| Finding::of(rule, None)));
            }
        }
    }
}

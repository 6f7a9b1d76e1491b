//! Guardrails on text: deny rules for prompts, and a hold-back window for streamed answers.
//!
//! Invariant: a forbidden literal never reaches a reader, however the provider cuts its stream into pieces. Text is
//! released only once no forbidden literal can begin in it and end in a later piece.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, Input, MatchKind, Span};

/// What happens where a forbidden literal is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMatch {
    /// The turn ends.
    Block,
    /// The literal is replaced by [`REDACTED`].
    Redact,
}

/// What stands in place of a redacted literal.
pub const REDACTED: &str = "[redacted]";

/// A deny rule: a literal, compared without regard to ASCII case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Name of the rule, for the record.
    pub name: String,
    /// The forbidden text; never empty.
    pub literal: String,
    /// What happens where it is found.
    pub action: OnMatch,
}

/// The deny rules of a copilot or of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Rules on prompts.
    pub input: RuleSet,
    /// Rules on answers.
    pub output: RuleSet,
}

/// Rules that are looked for together, in one pass over a text however many they are. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RuleSet(Option<Arc<Compiled>>);

#[derive(Debug)]
struct Compiled {
    rules: Vec<Rule>,
    /// Finds the leftmost literal, the longest one if several begin there.
    longest: AhoCorasick,
    /// Finds every literal, also those within another.
    every: AhoCorasick,
    /// Bytes of the longest literal.
    reach: usize,
    /// Rules by the first byte of their literals, in lower case.
    beginnings: Vec<Vec<usize>>,
}

impl RuleSet {
    /// Makes a set. A rule without a literal, which would match everywhere, is left out.
    ///
    /// # Panics
    /// With literals of some gigabytes in all.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let rules: Vec<Rule> = rules.into_iter().filter(|rule| !rule.literal.is_empty()).collect();
        if rules.is_empty() {
            return Self(None);
        }
        let literals = || rules.iter().map(|rule| rule.literal.as_bytes());
        let find = |kind| {
            let mut builder = AhoCorasickBuilder::new();
            // The others are somewhat faster, and many times larger.
            builder.kind(Some(AhoCorasickKind::ContiguousNFA));
            let built = builder.ascii_case_insensitive(true).match_kind(kind).build(literals());
            built.expect("rules fit into memory many times over")
        };
        let mut beginnings = vec![Vec::new(); 256];
        for (index, literal) in literals().enumerate() {
            beginnings[usize::from(literal[0].to_ascii_lowercase())].push(index);
        }
        Self(Some(Arc::new(Compiled {
            longest: find(MatchKind::LeftmostLongest),
            every: find(MatchKind::Standard),
            reach: literals().map(<[u8]>::len).max().unwrap_or(0),
            beginnings,
            rules,
        })))
    }

    /// Tells whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Lists the rules.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.as_ref().map_or(&[][..], |compiled| &compiled.rules).iter()
    }

    /// Puts these and `others` together.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        match (&self.0, &others.0) {
            (_, None) => self.clone(),
            (None, _) => others.clone(),
            _ => Self::new(self.iter().chain(others.iter()).cloned()),
        }
    }

    /// Returns a rule that blocks `text`, if there is one.
    pub fn blocking(&self, text: &str) -> Option<&Rule> {
        let compiled = self.0.as_ref()?;
        let found = compiled.every.find_overlapping_iter(text);
        found
            .map(|found| &compiled.rules[found.pattern()])
            .find(|rule| rule.blocks())
    }

    /// Returns the first rule that `text` holds the literal of, whatever is to happen then.
    pub fn matching(&self, text: &str) -> Option<&Rule> {
        let compiled = self.0.as_ref()?;
        let found = compiled.longest.find(text)?;
        Some(&compiled.rules[found.pattern()])
    }
}

impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for RuleSet {}

impl Compiled {
    /// Returns where the longest suffix begins, from `from` on, that is a proper prefix of a literal whose rule is `wanted`.
    fn unfinished(&self, text: &str, from: usize, wanted: impl Fn(&Rule) -> bool) -> usize {
        let bytes = text.as_bytes();
        let from = from.max(bytes.len().saturating_sub(self.reach.saturating_sub(1)));
        let grows = |&start: &usize| {
            let suffix = &bytes[start..];
            let beginning = usize::from(suffix[0].to_ascii_lowercase());
            let mut rules = self.beginnings[beginning].iter().map(|&index| &self.rules[index]);
            rules.any(|rule| {
                let literal = rule.literal.as_bytes();
                literal.len() > suffix.len() && literal[..suffix.len()].eq_ignore_ascii_case(suffix) && wanted(rule)
            })
        };
        (from..bytes.len()).find(grows).unwrap_or(bytes.len())
    }

    /// Finds a rule that blocks and whose literal begins within `span`.
    fn blocking_in(&self, text: &str, span: Span) -> Option<&Rule> {
        let end = text.len().min(span.end + self.reach);
        let found = self
            .every
            .find_overlapping_iter(Input::new(text).range(span.start..end));
        found
            .filter(|found| found.start() < span.end)
            .map(|found| &self.rules[found.pattern()])
            .find(|rule| rule.blocks())
    }
}

impl Rule {
    fn blocks(&self) -> bool {
        self.action == OnMatch::Block
    }
}

impl Rules {
    /// Puts these and `others` together; of two on the same place the longer one counts, whosoever it is.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        Self {
            input: self.input.and(&others.input),
            output: self.output.and(&others.output),
        }
    }
}

/// The window behind which streamed text is released.
#[derive(Debug)]
pub struct HoldBack {
    rules: RuleSet,
    held: String,
    /// Names of redacting rules that were applied, each once.
    redactions: Vec<String>,
}

/// A blocking rule matched; nothing of the match or after it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Name of the rule.
    pub rule: String,
    /// What stood before the match and may still be released.
    pub released: String,
}

impl HoldBack {
    /// Opens a window with rules on answers.
    pub fn new(rules: &RuleSet) -> Self {
        Self {
            rules: rules.clone(),
            held: String::new(),
            redactions: Vec::new(),
        }
    }

    /// Takes a piece of the answer and returns what may be released now, possibly nothing.
    pub fn push(&mut self, piece: &str) -> Result<String, Blocked> {
        self.held.push_str(piece);
        self.release(false)
    }

    /// Releases the rest at the end of the answer.
    pub fn finish(&mut self) -> Result<String, Blocked> {
        self.release(true)
    }

    /// Names the redacting rules that were applied.
    pub fn redactions(&self) -> &[String] {
        &self.redactions
    }

    fn release(&mut self, end: bool) -> Result<String, Blocked> {
        let held = std::mem::take(&mut self.held);
        let Some(compiled) = self.rules.0.clone() else {
            return Ok(held);
        };
        let mut released = String::new();
        let mut at = 0;
        // A longer literal that may still grow out of an earlier position has precedence over a match behind it.
        let mut keep_from = if end {
            held.len()
        } else {
            compiled.unfinished(&held, 0, |_| true)
        };
        let kept = loop {
            let Some(found) = compiled.longest.find(Input::new(&held).range(at..)) else {
                break keep_from;
            };
            if !end && found.start() >= keep_from {
                break keep_from;
            }
            let rule = &compiled.rules[found.pattern()];
            // What blocks is not made harmless by what redacts a part of it, or more than it.
            let blocking = if rule.blocks() {
                Some(rule)
            } else {
                compiled.blocking_in(&held, found.span())
            };
            if let Some(rule) = blocking {
                released.push_str(&held[at..found.start()]);
                return Err(Blocked {
                    rule: rule.name.clone(),
                    released,
                });
            }
            if !end && compiled.unfinished(&held, found.start(), Rule::blocks) < found.end() {
                break found.start();
            }
            released.push_str(&held[at..found.start()]);
            released.push_str(REDACTED);
            if !self.redactions.contains(&rule.name) {
                self.redactions.push(rule.name.clone());
            }
            at = found.end();
            if keep_from < at {
                keep_from = compiled.unfinished(&held, at, |_| true);
            }
        };
        released.push_str(&held[at..kept]);
        held[kept..].clone_into(&mut self.held);
        Ok(released)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(literal: &str, action: OnMatch) -> Rule {
        Rule {
            name: literal.to_lowercase(),
            literal: literal.to_owned(),
            action,
        }
    }

    fn set(rules: &[Rule]) -> RuleSet {
        RuleSet::new(rules.iter().cloned())
    }

    /// What is to be shown of a whole text, by looking at every place of it.
    fn naive(rules: &[Rule], text: &str) -> Result<String, Blocked> {
        let (bytes, mut shown, mut at) = (text.as_bytes(), String::new(), 0);
        while at < text.len() {
            let here = |rule: &&Rule| {
                let literal = rule.literal.as_bytes();
                bytes.len() - at >= literal.len() && bytes[at..at + literal.len()].eq_ignore_ascii_case(literal)
            };
            match rules.iter().filter(here).max_by_key(|rule| rule.literal.len()) {
                Some(rule) if rule.action == OnMatch::Block => {
                    return Err(Blocked {
                        rule: rule.name.clone(),
                        released: shown,
                    });
                }
                Some(rule) => {
                    let within = |other: &&Rule| {
                        let literal = other.literal.as_bytes();
                        let is_at = |&place: &usize| {
                            bytes.len() - place >= literal.len()
                                && bytes[place..place + literal.len()].eq_ignore_ascii_case(literal)
                        };
                        other.action == OnMatch::Block && (at..at + rule.literal.len()).any(|place| is_at(&place))
                    };
                    if let Some(other) = rules.iter().find(within) {
                        return Err(Blocked {
                            rule: other.name.clone(),
                            released: shown,
                        });
                    }
                    shown += REDACTED;
                    at += rule.literal.len();
                }
                None => {
                    let next = text[at..].chars().next().unwrap();
                    shown.push(next);
                    at += next.len_utf8();
                }
            }
        }
        Ok(shown)
    }

    fn run(rules: &[Rule], pieces: &[&str]) -> Result<String, Blocked> {
        let mut window = HoldBack::new(&set(rules));
        let mut out = String::new();
        let mut whole = |step: Result<String, Blocked>| match step {
            Ok(released) => {
                out += &released;
                Ok(out.clone())
            }
            Err(Blocked { rule, released }) => Err(Blocked {
                rule,
                released: format!("{out}{released}"),
            }),
        };
        for piece in pieces {
            whole(window.push(piece))?;
        }
        whole(window.finish())
    }

    #[test]
    fn text_without_rules_is_released_at_once() {
        assert_eq!(HoldBack::new(&RuleSet::default()).push("abc"), Ok("abc".into()));
    }

    #[test]
    fn only_what_may_grow_into_a_literal_is_held() {
        let mut window = HoldBack::new(&set(&[rule("secret", OnMatch::Block)]));
        assert_eq!(window.push("my se"), Ok("my ".into()));
        assert_eq!(window.push("a of sec"), Ok("sea of ".into()));
        assert_eq!(
            window.push("RET"),
            Err(Blocked {
                rule: "secret".into(),
                released: String::new()
            })
        );
    }

    #[test]
    fn redaction_goes_on_behind_the_match() {
        let rules = [rule("abc", OnMatch::Redact), rule("abcdef", OnMatch::Redact)];
        assert_eq!(run(&rules, &["xab", "cdy"]), Ok("x[redacted]dy".into()));
        assert_eq!(run(&rules, &["xab", "cde", "f!"]), Ok("x[redacted]!".into()));
    }

    #[test]
    fn what_redacts_does_not_make_harmless_what_blocks() {
        let around = [rule("my key is sk-", OnMatch::Redact), rule("sk-", OnMatch::Block)];
        let beside = [rule("id: sk", OnMatch::Redact), rule("sk-", OnMatch::Block)];
        let same = [rule("x", OnMatch::Redact), rule("X", OnMatch::Block)];
        for (rules, pieces, released) in [
            (&around, &["so my key is sk-1"][..], "so "),
            (&beside, &["so id: sk-1"], "so "),
            (&beside, &["so id: s", "k", "-", "1"], "so "),
            (&same, &["a x"], "a "),
        ] {
            let blocked = run(rules, pieces).unwrap_err();
            assert_eq!(blocked.released, released, "{pieces:?}");
        }
        assert_eq!(run(&beside, &["so id: s", "k", " is"]), Ok("so [redacted] is".into()));
    }

    #[test]
    fn a_blocked_prompt_names_its_rule() {
        let rules = [rule("no", OnMatch::Redact), rule("DROP TABLE", OnMatch::Block)];
        let rules = set(&rules);
        assert_eq!(
            rules.blocking("no; drop table x").map(|r| r.name.as_str()),
            Some("drop table")
        );
        assert_eq!(rules.blocking("drop the table"), None);
        // A redacting rule around a blocking one does not hide it.
        let nested = set(&[rule("my secret is", OnMatch::Redact), rule("secret", OnMatch::Block)]);
        assert_eq!(
            nested.blocking("my secret is out").map(|r| r.name.as_str()),
            Some("secret")
        );
        assert_eq!(
            nested.matching("my secret is out").map(|r| r.name.as_str()),
            Some("my secret is")
        );
    }

    proptest! {
        /// However a text is cut into pieces, the result is that of the whole text.
        #[test]
        fn cutting_changes_nothing(
            words in prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "é", "aab", "ba", "x"]), 0..20),
            cuts in prop::collection::vec(0usize..64, 0..10),
            literals in prop::collection::vec(prop::sample::select(vec!["ab", "aba", "bé", "aabx", "b"]), 0..4),
            blocks in prop::collection::vec(any::<bool>(), 4),
        ) {
            let text = words.concat();
            let action = |blocks: bool| if blocks { OnMatch::Block } else { OnMatch::Redact };
            let rules: Vec<Rule> = literals.iter().zip(&blocks).map(|(l, blocks)| rule(l, action(*blocks))).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| text.is_char_boundary(*c)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();

            let mut shown = String::new();
            let mut window = HoldBack::new(&set(&rules));
            let mut blocked = false;
            for piece in pieces {
                match window.push(piece) {
                    Ok(out) => shown += &out,
                    Err(stop) => { shown += &stop.released; blocked = true; break; }
                }
            }
            if !blocked {
                match window.finish() {
                    Ok(out) => shown += &out,
                    Err(stop) => { shown += &stop.released; blocked = true; }
                }
            }
            match naive(&rules, &text) {
                Ok(whole) => { prop_assert!(!blocked); prop_assert_eq!(&shown, &whole); }
                Err(stop) => { prop_assert!(blocked); prop_assert_eq!(&shown, &stop.released); }
            }
            for rule in rules.iter().filter(|rule| rule.blocks()) {
                prop_assert!(!shown.contains(&rule.literal));
            }
        }
    }
}

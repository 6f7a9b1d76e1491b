//! Finds literals in folded text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, MatchKind};

use super::Rule;
use super::fold::{FoldedText, Form, IgnorableFilter, fold_literal, fold_simple, is_simple, letter, segments};

/// Bytes of folded text that are searched at once.
const CHUNK: usize = 32 * 1024;

/// The literals that are compared in one form.
#[derive(Debug)]
pub(super) struct LiteralMatcher {
    pub(super) form: Form,
    literals: Vec<Literal>,
    /// Finds every literal, including those within another.
    every: AhoCorasick,
    /// Length of the longest literal in bytes.
    reach: usize,
    /// Indexes of literals by their first byte.
    beginnings: Vec<Vec<usize>>,
}

#[derive(Debug)]
struct Literal {
    folded: String,
    /// Index of its rule in the set.
    rule: usize,
    blocks: bool,
}

/// A literal found in a text, from the first segment it touches to the one after the last.
#[derive(Debug, Clone)]
pub(super) struct LiteralMatch {
    pub(super) segments: Range<usize>,
    pub(super) rule: usize,
    pub(super) blocks: bool,
}

/// The beginning of a literal at the end of a text, which later text may complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartialMatch {
    pub(super) segment: usize,
    pub(super) blocks: bool,
}

impl LiteralMatcher {
    pub(super) fn new(form: Form, rules: &[Rule], wanted: impl Iterator<Item = usize>) -> Self {
        let literal = |rule: usize| Literal {
            folded: fold_literal(&rules[rule].literal, form),
            rule,
            blocks: rules[rule].blocks(),
        };
        let literals: Vec<Literal> = wanted
            .map(literal)
            .filter(|literal| !literal.folded.is_empty())
            .collect();
        let mut beginnings = vec![Vec::new(); 256];
        for (at, literal) in literals.iter().enumerate() {
            beginnings[usize::from(literal.folded.as_bytes()[0])].push(at);
        }
        let every = AhoCorasickBuilder::new()
            // The other kinds are somewhat faster and many times larger.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::Standard)
            .build(literals.iter().map(|literal| &literal.folded))
            .expect("rules fit into memory many times over");
        Self {
            form,
            every,
            reach: literals.iter().map(|literal| literal.folded.len()).max().unwrap_or(0),
            beginnings,
            literals,
        }
    }

    /// Lists the rules whose literals are in `text`, each once.
    pub(super) fn rules_in(&self, text: &str) -> Vec<usize> {
        // Where segments begin and end matters to look-alikes only.
        if self.form == Form::Plain && is_simple(text) {
            self.rules_in_simple(text)
        } else {
            self.rules_in_any(text)
        }
    }

    fn rules_in_simple(&self, text: &str) -> Vec<usize> {
        let (mut found, mut folded) = (Vec::new(), FoldedText::default());
        let (mut rest, mut in_space) = (text, false);
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(CHUNK.min(rest.len()));
            in_space = fold_simple(chunk, in_space, &mut folded.text);
            self.add_rules(&folded, &mut found);
            let cut = folded.text.len().saturating_sub(self.reach);
            folded.text.drain(..cut);
            rest = later;
        }
        found
    }

    fn rules_in_any(&self, text: &str) -> Vec<usize> {
        let (mut found, mut folded) = (Vec::new(), FoldedText::default());
        segments(&IgnorableFilter::default().pass(text), |segment| {
            folded.push(segment, self.form);
            if folded.text.len() >= CHUNK + self.reach {
                self.add_rules(&folded, &mut found);
                folded.keep_last(self.reach);
            }
        });
        self.add_rules(&folded, &mut found);
        found
    }

    fn add_rules(&self, folded: &FoldedText, found: &mut Vec<usize>) {
        for (literal, _) in self.matches(folded) {
            let rule = self.literals[literal].rule;
            // Few rules match at all.
            if !found.contains(&rule) {
                found.push(rule);
            }
        }
    }

    /// Lists the literals in a text by their segments.
    pub(super) fn found<'a>(&'a self, folded: &'a FoldedText) -> impl Iterator<Item = LiteralMatch> + 'a {
        self.matches(folded).map(|(literal, place)| {
            let Literal { rule, blocks, .. } = self.literals[literal];
            LiteralMatch {
                segments: folded.segment_of(place.start)..folded.segment_behind(place.end),
                rule,
                blocks,
            }
        })
    }

    fn matches<'a>(&'a self, folded: &'a FoldedText) -> impl Iterator<Item = (usize, Range<usize>)> + 'a {
        // Few texts contain any literal, and finding out whether one does is faster than looking for all of them.
        let has_any = self.every.is_match(&folded.text);
        let all = has_any.then(|| self.every.find_overlapping_iter(&folded.text));
        let found = all.into_iter().flatten();
        // One character may look like two (m like rn): half of it does not match.
        let is_whole = |place: &Range<usize>| {
            self.form == Form::Plain || (folded.is_edge(place.start) && folded.is_edge(place.end))
        };
        found
            .map(|found| (found.pattern().as_usize(), found.range()))
            .filter(move |(_, place)| is_whole(place))
    }

    /// Lists where a literal may begin that later text completes. If the last segment, number `open`, may still grow,
    /// `folded` ends with its settled part, and `next` is the letter with which the rest of it begins.
    pub(super) fn unfinished(&self, folded: &FoldedText, open: usize, next: Option<char>, out: &mut Vec<PartialMatch>) {
        let text = &folded.text;
        let may_go_on = |rest: &str| {
            let first = rest.chars().next();
            next.is_none_or(|next| first.is_some_and(|first| letter(first) == next))
        };
        let open_at = folded.start_of(open);
        let from = open_at.saturating_sub(self.reach);
        for at in (from..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let begun = &text[at..];
            for literal in self.beginning_with(begun.as_bytes()[0]) {
                let goes_on = literal
                    .folded
                    .strip_prefix(begun)
                    .is_some_and(|rest| !rest.is_empty() && may_go_on(rest));
                // The literal is complete but ends in the unfinished segment: one character may contain more than its
                // end (`ﬁ`).
                let ends_open = begun.starts_with(&literal.folded) && at + literal.folded.len() > open_at;
                if goes_on || ends_open {
                    let (segment, blocks) = (folded.segment_of(at), literal.blocks);
                    out.push(PartialMatch { segment, blocks });
                }
            }
        }
        if next.is_some() {
            let begins = self.literals.iter().filter(|literal| may_go_on(&literal.folded));
            out.extend(begins.map(|literal| PartialMatch {
                segment: open,
                blocks: literal.blocks,
            }));
        }
    }

    fn beginning_with(&self, byte: u8) -> impl Iterator<Item = &Literal> {
        self.beginnings[usize::from(byte)].iter().map(|at| &self.literals[*at])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::OnMatch;
    use super::*;

    fn matcher(literals: &[&str]) -> LiteralMatcher {
        let rule = |literal: &&str| Rule {
            name: literal.to_string(),
            literal: literal.to_string(),
            action: OnMatch::Block,
            confusables: false,
        };
        let rules: Vec<Rule> = literals.iter().map(rule).collect();
        LiteralMatcher::new(Form::Plain, &rules, 0..rules.len())
    }

    fn sorted(mut rules: Vec<usize>) -> Vec<usize> {
        rules.sort_unstable();
        rules
    }

    proptest! {
        #[test]
        fn the_fast_way_finds_the_same_rules(text in "[abAB \n.]{0,24}", before in 0_usize..40) {
            let matcher = matcher(&["ab", "a b", "bb.a", "b", "abba baab"]);
            // Also across the end of a chunk.
            for before in [before, CHUNK - 12 + before] {
                let text = format!("{}{text}", "x".repeat(before));
                prop_assert_eq!(sorted(matcher.rules_in_simple(&text)), sorted(matcher.rules_in_any(&text)));
            }
        }
    }
}

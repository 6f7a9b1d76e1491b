//! Holds back streamed text until it is safe to release.
//!
//! Invariants: a forbidden literal never reaches a reader, in whatever spelling and however the provider splits its
//! stream; releasing a text in pieces gives the same result as releasing it whole. Text is released only once no
//! forbidden literal can begin in it and end in a later piece.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Range;

use super::fold::{FoldedText, IgnorableFilter, SpaceRun, fold_open, segments};
use super::scan::{LiteralMatch, PartialMatch};
use super::{CompiledRules, REDACTED, RuleSet};

/// Bytes that are scanned at once, so that a long piece takes little memory.
const CHUNK: usize = 16 * 1024;
/// Characters of a run of white space that stay in the window. Further ones are counted separately.
const SPACES: usize = 32;
/// How often the character may change in the counted part of one run; the rest is dropped. Only a text that makes a
/// rule wait at the beginning of the run reaches this.
const MAX_CHANGES: usize = 64 * 1024;

/// The hold-back window of one answer; see the module.
#[derive(Debug)]
pub struct HoldBack {
    rules: RuleSet,
    held: String,
    thin: IgnorableFilter,
    run: SpaceRun,
    /// Ordered by position.
    counted: Vec<CountedSpaces>,
    /// Names of the redacting rules that were triggered, each once.
    redactions: Vec<String>,
    /// Where they matched; only for a text whose places are wanted.
    marks: Option<Marks>,
    /// Bytes of text returned so far.
    returned: usize,
    /// Places in the text; see [`HoldBack::anchor`].
    anchors: Anchors,
}

/// Places in the text as it was added, and where they came to lie in what was returned.
#[derive(Debug, Default)]
struct Anchors {
    /// Offsets in the held text, in order.
    held: VecDeque<usize>,
    /// Offsets in the returned text, in order.
    returned: Vec<usize>,
}

/// Where redacting rules matched in a whole text.
#[derive(Debug, Default)]
struct Marks {
    /// Each rule by its name, and the bytes of the text.
    places: Vec<(String, Range<usize>)>,
    /// Bytes of the text that were released or replaced so far.
    passed: usize,
    /// Whether characters were dropped, so that the bytes are not those of the original text.
    is_shifted: bool,
}

/// The number of white space characters before byte `at` of the held text, in addition to those kept there.
#[derive(Debug)]
struct CountedSpaces {
    at: usize,
    /// Each character and its number of repetitions.
    runs: Vec<(char, usize)>,
}

/// A blocking rule matched; nothing of the match or after it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedByRule {
    /// The name of the rule.
    pub rule: String,
    /// The text before the match, which may still be released.
    pub released: String,
}

impl HoldBack {
    /// Creates a window with the rules for answers.
    pub fn new(rules: &RuleSet) -> Self {
        Self {
            rules: rules.clone(),
            held: String::new(),
            thin: IgnorableFilter::default(),
            run: SpaceRun::default(),
            counted: Vec::new(),
            redactions: Vec::new(),
            marks: None,
            returned: 0,
            anchors: Anchors::default(),
        }
    }

    /// Marks the present end of the added text. [`HoldBack::anchors`] tells where that place is in the returned text.
    pub fn anchor(&mut self) {
        self.anchors.held.push_back(self.held.len());
        if self.held.is_empty() {
            self.anchors.settle(0, self.returned);
        }
    }

    /// Returns where the anchors are in the text returned so far, in order; those in held text are missing. An anchor
    /// within a redacted part is at the end of its replacement.
    pub fn anchors(&self) -> &[usize] {
        &self.anchors.returned
    }

    /// Creates a window that records where redacting rules match.
    pub(super) fn marking(rules: &RuleSet) -> Self {
        Self {
            marks: Some(Marks::default()),
            ..Self::new(rules)
        }
    }

    /// Returns the places that redacting rules matched, in order: the name of the rule and the bytes of the text. `None`
    /// if characters had to be dropped from the text, so that there are no such bytes.
    pub(super) fn into_marks(self) -> Option<Vec<(String, Range<usize>)>> {
        let marks = self.marks.filter(|marks| !marks.is_shifted)?;
        Some(marks.places)
    }

    /// Adds a piece of the answer and returns what may be released now, possibly nothing.
    pub fn push(&mut self, piece: &str) -> Result<String, BlockedByRule> {
        if self.rules.is_empty() {
            self.returned += piece.len();
            return Ok(piece.to_owned());
        }
        let mut out = String::with_capacity(piece.len());
        let mut rest = piece;
        loop {
            let (begun, later) = rest.split_at(rest.floor_char_boundary(CHUNK));
            let thin = self.thin.pass(begun);
            if let Some(marks) = &mut self.marks {
                marks.is_shifted |= thin.len() != begun.len();
            }
            self.hold(&thin);
            match self.release(false) {
                Ok(released) => out.push_str(&released),
                Err(BlockedByRule { rule, released }) => {
                    out.push_str(&released);
                    return Err(BlockedByRule { rule, released: out });
                }
            }
            if later.is_empty() {
                return Ok(out);
            }
            rest = later;
        }
    }

    /// Adds to the held text.
    fn hold(&mut self, text: &str) {
        for c in text.chars() {
            if self.run.number(c) <= SPACES {
                self.held.push(c);
                continue;
            }
            let at = self.held.len();
            if self.counted.last().is_none_or(|counted| counted.at != at) {
                self.counted.push(CountedSpaces { at, runs: Vec::new() });
            }
            let Some(CountedSpaces { runs, .. }) = self.counted.last_mut() else {
                continue;
            };
            let changes = runs.len();
            match runs.last_mut() {
                Some((last, times)) if *last == c => *times += 1,
                _ if changes < MAX_CHANGES => runs.push((c, 1)),
                _ => {
                    if let Some(marks) = &mut self.marks {
                        marks.is_shifted = true;
                    }
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
            + self
                .counted
                .iter()
                .map(|counted| counted.runs.len() * 16)
                .sum::<usize>()
    }

    /// Releases the rest at the end of the answer.
    pub fn finish(&mut self) -> Result<String, BlockedByRule> {
        self.release(true)
    }

    /// Returns the names of the redacting rules that were triggered.
    pub fn redactions(&self) -> &[String] {
        &self.redactions
    }

    fn release(&mut self, end: bool) -> Result<String, BlockedByRule> {
        let held = std::mem::take(&mut self.held);
        let Some(compiled) = self.rules.0.clone() else {
            self.returned += held.len();
            return Ok(held);
        };
        let ScanResult {
            starts,
            found,
            unfinished,
        } = ScanResult::at(&compiled, &held, end);
        let counted = std::mem::take(&mut self.counted);
        let text = |from: usize, to: usize| {
            let (mut at, end) = (starts[from], starts[to]);
            let mut text = String::with_capacity(end - at);
            for counted in counted
                .iter()
                .filter(|counted| starts[from] < counted.at && counted.at <= end)
            {
                text.push_str(&held[at..counted.at]);
                counted
                    .runs
                    .iter()
                    .for_each(|(c, times)| text.extend(std::iter::repeat_n(*c, *times)));
                at = counted.at;
            }
            text.push_str(&held[at..end]);
            text
        };
        let all = starts.len() - 1;
        let begun_from = |at: usize| {
            let begun = unfinished.iter().map(|begun| begun.segment);
            begun.filter(|segment| *segment >= at).min().unwrap_or(all)
        };
        let (mut released, mut at) = (String::new(), 0);
        // A longer literal that may still grow from an earlier position takes precedence over a match after it.
        let mut keep_from = begun_from(0);
        let mut rest = found.as_slice();
        let kept = loop {
            rest = &rest[rest.iter().take_while(|found| found.segments.start < at).count()..];
            let Some(next) = rest.first().filter(|next| next.segments.start < keep_from) else {
                break keep_from;
            };
            let place = next.segments.clone();
            // A blocking match still blocks if a redacting match covers part of it or all of it.
            let mut within = rest.iter().take_while(|found| found.segments.start < place.end);
            if let Some(blocking) = within.find(|found| found.blocks) {
                released.push_str(&text(at, place.start));
                return Err(BlockedByRule {
                    rule: compiled.rules[blocking.rule].name.clone(),
                    released,
                });
            }
            if unfinished
                .iter()
                .any(|begun| begun.blocks && place.contains(&begun.segment))
            {
                break place.start;
            }
            let before = text(at, place.start);
            self.anchors
                .pass(starts[at]..starts[place.start], self.returned + released.len(), |to| {
                    counted_before(&counted, starts[at], to)
                });
            released.push_str(&before);
            released.push_str(REDACTED);
            self.anchors.settle(starts[place.end], self.returned + released.len());
            let name = &compiled.rules[next.rule].name;
            if let Some(marks) = &mut self.marks {
                let begin = marks.passed + before.len();
                marks.passed = begin + text(place.start, place.end).len();
                marks.places.push((name.clone(), begin..marks.passed));
            }
            if !self.redactions.contains(name) {
                self.redactions.push(name.clone());
            }
            at = place.end;
            if keep_from < at {
                keep_from = begun_from(at);
            }
        };
        let last = text(at, kept);
        self.anchors
            .pass(starts[at]..starts[kept], self.returned + released.len(), |to| {
                counted_before(&counted, starts[at], to)
            });
        released.push_str(&last);
        self.returned += released.len();
        if let Some(marks) = &mut self.marks {
            marks.passed += last.len();
        }
        let cut = starts[kept];
        self.anchors.shift(cut);
        held[cut..].clone_into(&mut self.held);
        if self.held.is_empty() {
            // A literal that begins with white space would have been held.
            self.run.forget();
        }
        let rest = counted.into_iter().filter(|counted| counted.at > cut);
        self.counted = rest
            .map(|counted| CountedSpaces {
                at: counted.at - cut,
                ..counted
            })
            .collect();
        Ok(released)
    }
}

/// Returns the bytes of the counted white space between two places of the held text, as [`HoldBack::release`] writes it.
fn counted_before(counted: &[CountedSpaces], from: usize, to: usize) -> usize {
    let between = counted.iter().filter(|counted| from < counted.at && counted.at <= to);
    let runs = between.flat_map(|counted| &counted.runs);
    runs.map(|(c, times)| c.len_utf8() * times).sum()
}

impl Anchors {
    /// Settles the anchors in a part of the held text that is returned unchanged, where that part begins at `begin` in
    /// the returned text. `counted` are the bytes that are returned besides, up to a place.
    fn pass(&mut self, part: Range<usize>, begin: usize, counted: impl Fn(usize) -> usize) {
        while let Some(at) = self.held.pop_front_if(|at| *at <= part.end) {
            let at = at.max(part.start);
            self.returned.push(begin + (at - part.start) + counted(at));
        }
    }

    /// Settles the anchors up to a place of the held text at one place of the returned text.
    fn settle(&mut self, up_to: usize, at: usize) {
        while self.held.pop_front_if(|held| *held <= up_to).is_some() {
            self.returned.push(at);
        }
    }

    /// Tells that the beginning of the held text is gone.
    fn shift(&mut self, bytes: usize) {
        self.held.iter_mut().for_each(|at| *at = at.saturating_sub(bytes));
    }
}

/// The result of scanning the held text.
struct ScanResult {
    /// Where each segment begins; the last entry is the end of the text.
    starts: Vec<usize>,
    /// Ordered by position, longest first, and blocking ones first among equals.
    found: Vec<LiteralMatch>,
    unfinished: Vec<PartialMatch>,
}

impl ScanResult {
    fn at(compiled: &CompiledRules, held: &str, end: bool) -> Self {
        let (mut starts, mut at) = (vec![0], 0);
        let mut pieces = Vec::new();
        segments(held, |segment| {
            at += segment.len();
            starts.push(at);
            pieces.push(segment);
        });
        // The next character may attach to the last segment and change it.
        let open = if end { None } else { pieces.pop() };
        let (mut found, mut unfinished) = (Vec::new(), Vec::new());
        for lane in &compiled.lanes {
            let mut folded = FoldedText::default();
            pieces.iter().for_each(|piece| folded.push(piece, lane.form));
            found.extend(lane.found(&folded));
            if let Some(open) = open {
                let (settled, letter) = fold_open(open, lane.form);
                folded.push_folded(&settled);
                lane.unfinished(&folded, pieces.len(), letter, &mut unfinished);
            }
        }
        found.sort_by_key(|found| (found.segments.start, Reverse(found.segments.end), !found.blocks));
        Self {
            starts,
            found,
            unfinished,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::guardrail::{OnMatch, Rule};

    fn rules() -> RuleSet {
        let rule = |literal: &str| Rule {
            name: literal.to_owned(),
            literal: literal.to_owned(),
            action: OnMatch::Redact,
            confusables: false,
        };
        RuleSet::new([rule("secret"), rule("ab cd")])
    }

    /// Pushes the pieces with an anchor after each; returns the text and the anchors.
    fn anchored(rules: &RuleSet, pieces: &[&str]) -> (String, Vec<usize>) {
        let (mut window, mut text) = (HoldBack::new(rules), String::new());
        for piece in pieces {
            text.push_str(&window.push(piece).expect("nothing blocks"));
            window.anchor();
        }
        text.push_str(&window.finish().expect("nothing blocks"));
        (text, window.anchors().to_vec())
    }

    #[test]
    fn anchors_move_with_the_text_around_them() {
        let cases: [(&[&str], &str, &[usize]); 6] = [
            (&["the plan", " is"], "the plan is", &[8, 11]),
            (&["a secret plan", "."], "a [redacted] plan", &[17, 18]),
            // Within what is replaced.
            (&["a sec", "ret plan"], "a [redacted] plan", &[12, 17]),
            (&["a secret", " b"], "a [redacted] b", &[12, 14]),
            (&["x", "secret"], "x[redacted]", &[1, 11]),
            (&["", ""], "", &[0, 0]),
        ];
        for (pieces, text, anchors) in cases {
            let found = anchored(&rules(), pieces);
            assert!(found.0.starts_with(text), "{found:?}");
            assert_eq!(found.1, anchors, "{pieces:?}");
        }
        assert_eq!(
            anchored(&RuleSet::default(), &["ab", "cd"]),
            ("abcd".to_owned(), vec![2, 4])
        );
        // A long run of spaces is counted, not held.
        let spaces = " ".repeat(100);
        let (text, anchors) = anchored(&rules(), &["ab", &spaces, "x"]);
        assert_eq!((text.len(), anchors), (103, vec![2, 102, 103]));
    }

    proptest! {
        #[test]
        fn anchors_are_in_order_within_the_text_and_between_characters(
            pieces in prop::collection::vec("(secret|sec|ret|ab|cd| {1,40}|é|\u{200b}|x\u{301}|.){0,3}", 0..8),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (text, anchors) = anchored(&rules(), &pieces);
            prop_assert_eq!(anchors.len(), pieces.len());
            prop_assert!(anchors.is_sorted());
            prop_assert!(anchors.iter().all(|at| text.is_char_boundary(*at)), "{:?} {:?}", text, anchors);
            prop_assert_eq!(anchors.last().copied().unwrap_or(text.len()), text.len());
        }
    }
}

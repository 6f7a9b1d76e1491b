//! Holds back streamed text until it is safe to release.
//!
//! Invariants: a forbidden literal never reaches a reader, in whatever spelling and however the provider splits its
//! stream; releasing a text in pieces gives the same result as releasing it whole. Text is released only once no
//! forbidden literal can begin in it and end in a later piece.

use std::cmp::Reverse;
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
        }
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
            released.push_str(&before);
            released.push_str(REDACTED);
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
        released.push_str(&last);
        if let Some(marks) = &mut self.marks {
            marks.passed += last.len();
        }
        let cut = starts[kept];
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

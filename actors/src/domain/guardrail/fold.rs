//! The folded form in which rules compare texts, so that different spellings of a text are equal.
//!
//! A text is split into *segments*: a character and everything that attaches to it, such as combining marks and
//! invisible characters. Segments do not influence each other, so a text folds the same whole or in pieces, and a match
//! in the folded text identifies the original bytes exactly: the segments it touches.
//!
//! Folding is Unicode's `NFKC_Casefold` with these additions: control characters are ignored; a run of white space of
//! any length is one space; combining marks with which no letter exists (`s̷`) and marks of another script than the
//! letter's (`script`) are ignored; letters, digits and words in boxes, circles, parentheses and flags are letters,
//! digits and words (`boxed`). [`Form::LookAlike`] also treats confusable characters as equal (the skeleton of UTS #39)
//! and ignores all diacritics.

use std::borrow::Cow;
use std::sync::LazyLock;

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use unicode_normalization::char::{canonical_combining_class, decompose_canonical, decompose_compatible};
use unicode_normalization::{IsNormalized, UnicodeNormalization as _, is_nfc_quick};

use super::boxed::{spell, unboxed};
use super::script::{is_foreign, is_mark};

/// Maximum number of consecutive ignorable characters that are kept. Further ones are dropped.
pub const MAX_IGNORABLE: usize = 16;
/// The flag that tag characters turn into another one, such as that of Scotland.
const BLACK_FLAG: char = '\u{1f3f4}';
/// Maximum number of tag characters of a flag: a region code of five, and the end tag.
const MAX_FLAG: usize = 6;
/// Maximum number of characters that attach to the first one of a segment. The next one begins a new segment.
const MAX_ATTACHED: usize = 32;

static CASES: CaseMapperBorrowed<'static> = CaseMapper::new();

/// How much two texts may differ and still match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In case, compatibility forms and invisible characters.
    Plain,
    /// Also in confusable characters and diacritics.
    LookAlike,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Begins a segment.
    Base,
    /// White space: begins a segment unless it follows white space.
    Space,
    /// Attaches to the preceding character.
    Mark,
    /// Attaches and is invisible.
    Ignorable,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ' => Class::Space,
            c if c.is_ascii_control() => Class::Ignorable,
            _ => Class::Base,
        };
    }
    if folds_to_itself(c) {
        Class::Base
    } else if c.is_whitespace() {
        Class::Space
    } else if is_ignorable(c) {
        Class::Ignorable
    } else if is_diacritic(c) || attaches(compatible_beginning(c)) {
        Class::Mark
    } else {
        Class::Base
    }
}

/// Returns the class of a character in a segment that begins with `base`: a mark that does not belong to that letter is
/// ignorable.
fn class_behind(base: char, c: char) -> Class {
    match class(c) {
        Class::Base | Class::Mark if is_ignored_behind(base, c) => Class::Ignorable,
        class => class,
    }
}

/// Returns whether `c` is a mark, or a form of one, of another script than `base`. Diacritics belong to any letter.
fn is_ignored_behind(base: char, c: char) -> bool {
    if c < '\u{300}' || folds_to_itself(c) || is_diacritic(c) {
        return false;
    }
    let mark = compatible_beginning(c);
    is_mark(mark) && is_foreign(base, mark)
}

/// Returns true for large groups of letters that fold to themselves, so that their texts need no table lookup.
fn folds_to_itself(c: char) -> bool {
    matches!(c,
        '\u{430}'..='\u{44f}' // Cyrillic, small
        | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' // kana
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' // ideographs
        | '\u{ac00}'..='\u{d7a3}' // Hangul syllables
    )
}

/// Returns whether a character is invisible: default ignorable characters, controls, the frames of interlinear
/// annotations, the blank of braille, and noncharacters.
fn is_ignorable(c: char) -> bool {
    c.is_control() && !c.is_whitespace()
        || matches!(c, '\u{2800}' | '\u{fdd0}'..='\u{fdef}' | '\u{fff9}'..='\u{fffb}')
        || u32::from(c) & 0xfffe == 0xfffe
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Returns whether a mark leaves a letter the same to a reader: marks for any script, points and accents of one script,
/// and enclosing marks. Voicing marks, nuktas, viramas and vowel signs are not among them.
fn is_diacritic(c: char) -> bool {
    if c < '\u{300}' || folds_to_itself(c) {
        return false;
    }
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
        || matches!(canonical_combining_class(c), 1 | 10..=36 | 200..)
        || CodePointMapData::<GeneralCategory>::new().get(c) == GeneralCategory::EnclosingMark
}

/// Returns the ASCII character that a tag character repeats, if it is one.
fn untagged(c: char) -> Option<char> {
    matches!(c, '\u{e0020}'..='\u{e007e}')
        .then(|| char::from_u32(u32::from(c) - 0xe_0000))
        .flatten()
}

/// Returns the text that the tag characters of `text` spell, if it has any.
pub(super) fn tagged(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    Some(text.chars().filter_map(untagged).collect()).filter(|tagged: &String| !tagged.is_empty())
}

fn attaches(c: char) -> bool {
    canonical_combining_class(c) != 0 || is_nfc_quick(std::iter::once(c)) != IsNormalized::Yes
}

fn compatible_beginning(c: char) -> char {
    let mut first = None;
    decompose_compatible(c, |part| _ = first.get_or_insert(part));
    first.unwrap_or(c)
}

/// Returns the letter that a character begins with when its marks are removed.
pub(super) fn letter(c: char) -> char {
    if c.is_ascii() {
        return c;
    }
    let mut first = None;
    decompose_canonical(c, |part| _ = first.get_or_insert(part));
    first.unwrap_or(c)
}

/// A filter over all pieces of a text that drops ignorable characters and diacritics beyond [`MAX_IGNORABLE`] in a row,
/// and tag characters that belong to no flag.
#[derive(Debug, Clone, Default)]
pub(super) struct IgnorableFilter {
    in_a_row: usize,
    /// The character that marks attach to.
    base: Option<char>,
    /// How many more tag characters may follow the flag before this position.
    of_flag: usize,
}

impl IgnorableFilter {
    pub(super) fn pass<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        if is_simple(text) {
            // Nothing to drop: only what `pass_any` would remember.
            if let Some(last) = text.bytes().last() {
                (self.in_a_row, self.base, self.of_flag) = (0, Some(char::from(last)), 0);
            }
            return Cow::Borrowed(text);
        }
        self.pass_any(text)
    }

    fn pass_any<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        let mut kept: Option<String> = None;
        for (at, c) in text.char_indices() {
            let class = self.base.map_or_else(|| class(c), |base| class_behind(base, c));
            if matches!(class, Class::Base | Class::Space) {
                self.base = Some(c);
            }
            let drops = class == Class::Ignorable || is_diacritic(c);
            self.in_a_row = if drops { self.in_a_row + 1 } else { 0 };
            let is_tag = matches!(c, '\u{e0000}'..='\u{e007f}');
            let is_hidden = is_tag && self.of_flag == 0;
            self.of_flag = match c {
                BLACK_FLAG => MAX_FLAG,
                _ if is_tag => self.of_flag.saturating_sub(1),
                _ => 0,
            };
            if is_hidden || self.in_a_row > MAX_IGNORABLE {
                kept.get_or_insert_with(|| text[..at].to_owned());
            } else if let Some(kept) = &mut kept {
                kept.push(c);
            }
        }
        kept.map_or(Cow::Borrowed(text), Cow::Owned)
    }
}

/// Whether a text is ASCII without invisible characters: each of its characters is a segment, and so is each run of
/// white space. Most texts are like this, so they do not go through the tables.
pub(super) fn is_simple(text: &str) -> bool {
    // Without a branch per byte, so that several bytes are compared at once.
    text.bytes()
        .fold(true, |all, byte| all & matches!(byte, b'\t'..=b'\r' | b' '..=b'~'))
}

/// Whether a byte of a [simple](is_simple) text is white space.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

/// Adds the plain folded form of a [simple](is_simple) text to `out`. White space at its beginning continues a run if
/// `in_space`; returns whether it ends in one.
pub(super) fn fold_simple(text: &str, mut in_space: bool, out: &mut String) -> bool {
    for byte in text.bytes() {
        let is_space = is_space(byte);
        if !is_space {
            out.push(char::from(byte.to_ascii_lowercase()));
        } else if !in_space {
            out.push(' ');
        }
        in_space = is_space;
    }
    in_space
}

/// Calls `each` with the segments of `text`, in order and without gaps.
pub(super) fn segments<'a>(text: &'a str, mut each: impl FnMut(&'a str)) {
    if !is_simple(text) {
        return segments_any(text, each);
    }
    let mut from = 0;
    while from < text.len() {
        let spaces = text.as_bytes()[from..].iter().take_while(|byte| is_space(**byte));
        let end = from + spaces.count().max(1);
        each(&text[from..end]);
        from = end;
    }
}

fn segments_any<'a>(text: &'a str, mut each: impl FnMut(&'a str)) {
    let (mut from, mut attached, mut in_space) = (0, 0, false);
    let Some(mut base) = text.chars().next() else {
        return;
    };
    for (at, c) in text.char_indices() {
        let class = if at == 0 { class(c) } else { class_behind(base, c) };
        // White space folds to one space, and invisible characters to nothing: any number of them is one segment.
        let is_free = in_space && (matches!(class, Class::Space | Class::Ignorable) || is_diacritic(c));
        let attaches = matches!(class, Class::Mark | Class::Ignorable) && attached < MAX_ATTACHED;
        if at > 0 && (is_free || attaches) {
            attached += usize::from(!is_free);
            continue;
        }
        if at > 0 {
            each(&text[from..at]);
        }
        (from, attached, in_space, base) = (at, 0, class == Class::Space, c);
    }
    each(&text[from..]);
}

/// Counts the characters of a run of white space, and the invisible ones attached to it, over all pieces of a text.
#[derive(Debug, Clone, Default)]
pub(super) struct SpaceRun(usize);

impl SpaceRun {
    /// Processes the next character; returns its number in the run, or zero if it belongs to none.
    pub(super) fn number(&mut self, c: char) -> usize {
        let goes_on = match class(c) {
            Class::Space => true,
            _ if self.0 == 0 => false,
            Class::Ignorable => true,
            Class::Base | Class::Mark => is_diacritic(c) || is_ignored_behind(' ', c),
        };
        self.0 = if goes_on { self.0 + 1 } else { 0 };
        self.0
    }

    /// Resets the count.
    pub(super) fn forget(&mut self) {
        self.0 = 0;
    }
}

/// Adds the folded form of one segment to `out`.
pub(super) fn fold_segment(segment: &str, form: Form, out: &mut String) {
    if let [byte] = segment.as_bytes() {
        match (class(char::from(*byte)), form) {
            (Class::Space, _) => out.push(' '),
            (Class::Ignorable, _) => {}
            (_, Form::Plain) => out.push(char::from(byte.to_ascii_lowercase())),
            (_, Form::LookAlike) => out.push_str(&ASCII_LOOKS[usize::from(*byte)]),
        }
        return;
    }
    let mut chars = segment.chars();
    if form == Form::Plain
        && let (Some(c), None) = (chars.next(), chars.next())
        && folds_to_itself(c)
    {
        out.push(c);
        return;
    }
    let mut mapped = String::new();
    let base = segment.chars().next().unwrap_or_default();
    for (at, c) in segment.char_indices() {
        match if at == 0 { class(c) } else { class_behind(base, c) } {
            Class::Ignorable => {}
            // One space, however many: a segment of white space contains nothing else but marks.
            Class::Space if mapped.starts_with(' ') => {}
            Class::Space => mapped.push(' '),
            Class::Mark if mapped == " " && is_diacritic(c) => {}
            Class::Base | Class::Mark if form == Form::Plain => fold_char(c, &mut mapped),
            Class::Base | Class::Mark => look_of(c, &mut mapped),
        }
    }
    match form {
        Form::Plain => out.extend(mapped.nfc().filter(|c| !is_diacritic(*c))),
        Form::LookAlike => out.push_str(&mapped),
    }
}

/// Appends `NFKC_Casefold` of one character, decomposed.
fn fold_char(c: char, out: &mut String) {
    // A spacing accent such as ´ is not a space.
    if compatible_beginning(c) == ' ' {
        out.push(c);
        return;
    }
    let mut shown = String::new();
    spell(c, |c| shown.push(c));
    let mut folded = Cow::Borrowed(shown.as_str());
    // Folding may produce something that can be decomposed, and vice versa.
    for _ in 0..2 {
        let decomposed: String = folded.nfkd().filter(|c| !is_ignorable(*c)).map(unboxed).collect();
        folded = Cow::Owned(CASES.fold_string(&decomposed).into_owned());
    }
    out.extend(folded.nfkd());
}

/// The look of each ASCII character, whatever its case. `I`, `l`, `1` and `|` look alike, so `i` has to be one of them.
static ASCII_LOOKS: LazyLock<[String; 128]> = LazyLock::new(|| {
    std::array::from_fn(|byte| {
        let c = char::from(u8::try_from(byte).unwrap_or_default()).to_ascii_lowercase();
        let look = skeleton(&c.to_string()).to_ascii_lowercase();
        look.replace('i', "l")
    })
});

/// Latin letters that are written as small capitals.
const SMALL_CAPITALS: [(char, char); 24] = [
    ('ᴀ', 'a'),
    ('ʙ', 'b'),
    ('ᴄ', 'c'),
    ('ᴅ', 'd'),
    ('ᴇ', 'e'),
    ('ꜰ', 'f'),
    ('ɢ', 'g'),
    ('ʜ', 'h'),
    ('ɪ', 'i'),
    ('ᴊ', 'j'),
    ('ᴋ', 'k'),
    ('ʟ', 'l'),
    ('ᴍ', 'm'),
    ('ɴ', 'n'),
    ('ᴏ', 'o'),
    ('ᴘ', 'p'),
    ('ʀ', 'r'),
    ('ꜱ', 's'),
    ('ᴛ', 't'),
    ('ᴜ', 'u'),
    ('ᴠ', 'v'),
    ('ᴡ', 'w'),
    ('ʏ', 'y'),
    ('ᴢ', 'z'),
];

fn skeleton(text: &str) -> String {
    unicode_security::skeleton(text).collect()
}

/// Appends the look of a character without its marks: an ASCII character if it, or its other case, looks like one.
fn look_of(c: char, out: &mut String) {
    if compatible_beginning(c) == ' ' {
        out.push(c);
        return;
    }
    let mut shown = String::new();
    spell(c, |c| shown.push(c));
    for c in shown
        .nfkd()
        .filter(|c| !is_diacritic(*c) && !is_ignorable(*c))
        .map(unboxed)
    {
        let as_written = c.to_string();
        let small = SMALL_CAPITALS.iter().find(|(small, _)| *small == c);
        let looks = || {
            let forms = [
                as_written.clone(),
                c.to_lowercase().collect(),
                c.to_uppercase().collect(),
            ];
            let looks = forms.iter().map(|form| skeleton(form));
            looks
                .map(|look| look.chars().filter(|c| !is_diacritic(*c)).collect())
                .find(|look: &String| look.is_ascii())
        };
        let look = match small {
            Some((_, letter)) => letter.to_string(),
            None if c.is_ascii() => as_written,
            None => looks().unwrap_or_else(|| CASES.fold_string(&skeleton(&as_written)).into_owned()),
        };
        for c in look.chars() {
            match ASCII_LOOKS.get(c as usize) {
                Some(look) => out.push_str(look),
                None => out.extend(c.nfkd().filter(|c| !is_diacritic(*c))),
            }
        }
    }
}

/// A folded text with the position of each segment in it.
#[derive(Debug, Default)]
pub(super) struct FoldedText {
    pub(super) text: String,
    /// Where each segment's folded form begins.
    starts: Vec<usize>,
}

impl FoldedText {
    pub(super) fn push(&mut self, segment: &str, form: Form) {
        self.starts.push(self.text.len());
        fold_segment(segment, form, &mut self.text);
    }

    /// Adds a segment that is already folded.
    pub(super) fn push_folded(&mut self, folded: &str) {
        self.starts.push(self.text.len());
        self.text.push_str(folded);
    }

    /// Returns where a segment begins, or the end of the text.
    pub(super) fn start_of(&self, segment: usize) -> usize {
        self.starts.get(segment).copied().unwrap_or(self.text.len())
    }

    /// Returns the segment that contains the byte at `at`.
    pub(super) fn segment_of(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// Returns the first segment after the byte before `end`.
    pub(super) fn segment_behind(&self, end: usize) -> usize {
        self.starts.partition_point(|start| *start < end)
    }

    /// Keeps only the segments of roughly the last `bytes` bytes.
    pub(super) fn keep_last(&mut self, bytes: usize) {
        let from = self.segment_of(self.text.len().saturating_sub(bytes));
        let cut = self.starts.get(from).copied().unwrap_or(0);
        self.text.drain(..cut);
        self.starts.drain(..from);
        self.starts.iter_mut().for_each(|start| *start -= cut);
    }

    /// Returns whether a segment begins at `at`, or the text ends there.
    pub(super) fn is_edge(&self, at: usize) -> bool {
        at == self.text.len() || self.starts.binary_search(&at).is_ok()
    }
}

/// Folds a whole text, without positions.
pub(super) fn fold(text: &str, form: Form) -> String {
    let mut out = String::with_capacity(text.len());
    segments(&IgnorableFilter::default().pass(text), |segment| {
        fold_segment(segment, form, &mut out)
    });
    out
}

/// Folds the literal of a rule. Leading marks belong to no letter and are dropped.
pub(super) fn fold_literal(literal: &str, form: Form) -> String {
    let folded = fold(literal, form);
    folded.trim_start_matches(|c| attaches(c) || is_mark(c)).to_owned()
}

/// Folds an unfinished segment. Returns the part that stays the same whatever attaches later, and the letter with which
/// the rest begins, if there is a rest.
pub(super) fn fold_open(segment: &str, form: Form) -> (String, Option<char>) {
    let mut folded = String::new();
    fold_segment(segment, form, &mut folded);
    let last = folded.char_indices().rev().find(|(_, c)| !attaches(*c));
    let (at, first) = last.or_else(|| folded.char_indices().next()).unzip();
    folded.truncate(at.unwrap_or(0));
    (folded, first.map(letter))
}

#[cfg(test)]
mod tests;

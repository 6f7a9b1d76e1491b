//! The form in which rules compare texts, so that one text written in another way is still the same text.
//!
//! A text is cut into *segments*: a character and everything that attaches to it, such as combining marks and characters
//! that nobody sees. Segments do not influence each other, so a text that comes in pieces folds like the whole text, and a
//! match in the folded text names the original bytes exactly: the segments it touches.
//!
//! Folding is `NFKC_Casefold` of Unicode, with these additions: control characters are ignored; a run of white space is
//! one space, however long; combining marks that no letter exists with (`s̷`) and marks of another script than the letter's
//! (`script`) are ignored; letters, digits and words in boxes, circles, parentheses and flags are letters, digits and words
//! (`boxed`). [`Form::LookAlike`] moreover reads characters that look alike as the same one (the skeleton of UTS #39) and
//! ignores all diacritics.

use std::borrow::Cow;
use std::sync::LazyLock;

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::{canonical_combining_class, decompose_canonical, decompose_compatible};
use unicode_normalization::{IsNormalized, is_nfc_quick};

use super::boxed::{spell, unboxed};
use super::script::{is_foreign, is_mark};

/// Most ignorable characters in a row that are kept. Further ones are dropped.
pub const MAX_IGNORABLE: usize = 16;
/// What tag characters make another flag of, such as that of Scotland.
const BLACK_FLAG: char = '\u{1f3f4}';
/// Most tag characters of a flag: a region's code of five, and the end.
const MAX_FLAG: usize = 6;
/// Most characters that attach to the first one of a segment. What follows begins a new segment.
const MAX_ATTACHED: usize = 32;

static CASES: CaseMapperBorrowed<'static> = CaseMapper::new();

/// How much two texts may differ and still be the same to a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Case, compatibility forms and what nobody sees.
    Plain,
    /// Also characters that look alike, and diacritics.
    LookAlike,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Begins a segment.
    Base,
    /// White space: begins a segment unless the one before it is white space.
    Space,
    /// Attaches to what is before it.
    Mark,
    /// Attaches, and is not seen.
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

/// The class of a character behind `base`, the first one of its segment: a mark that does not belong there is not seen.
fn class_behind(base: char, c: char) -> Class {
    match class(c) {
        Class::Base | Class::Mark if is_ignored_behind(base, c) => Class::Ignorable,
        class => class,
    }
}

/// Whether `c` is a mark, or a form of one, of another script than `base`. Diacritics are read with any letter.
fn is_ignored_behind(base: char, c: char) -> bool {
    if c < '\u{300}' || folds_to_itself(c) || is_diacritic(c) {
        return false;
    }
    let mark = compatible_beginning(c);
    is_mark(mark) && is_foreign(base, mark)
}

/// Letters of which there are many, so that their texts need no look into the tables.
fn folds_to_itself(c: char) -> bool {
    matches!(c,
        '\u{430}'..='\u{44f}' // Cyrillic, small
        | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' // kana
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' // ideographs
        | '\u{ac00}'..='\u{d7a3}' // Hangul syllables
    )
}

/// What no reader sees: default ignorable characters, controls, the frames of interlinear annotations, the blank of
/// braille, and noncharacters.
fn is_ignorable(c: char) -> bool {
    c.is_control() && !c.is_whitespace()
        || matches!(c, '\u{2800}' | '\u{fdd0}'..='\u{fdef}' | '\u{fff9}'..='\u{fffb}')
        || u32::from(c) & 0xfffe == 0xfffe
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Marks without which a letter is still the same letter to a reader: those for any script, points and accents of one
/// script, and marks that enclose. Voicing marks, nuktas, viramas and vowel signs are not among them.
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

/// The ASCII character that a tag character repeats, if it is one.
fn untagged(c: char) -> Option<char> {
    matches!(c, '\u{e0020}'..='\u{e007e}')
        .then(|| char::from_u32(u32::from(c) - 0xe_0000))
        .flatten()
}

/// The text that the tag characters of `text` spell, if it has any.
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

/// The letter that a character begins with once its marks are taken off it.
pub(super) fn letter(c: char) -> char {
    if c.is_ascii() {
        return c;
    }
    let mut first = None;
    decompose_canonical(c, |part| _ = first.get_or_insert(part));
    first.unwrap_or(c)
}

/// Drops ignorable characters and diacritics beyond [`MAX_IGNORABLE`] in a row, and tag characters that belong to no flag,
/// over all pieces of a text.
#[derive(Debug, Clone, Default)]
pub(super) struct Thin {
    in_a_row: usize,
    /// What marks attach to.
    base: Option<char>,
    /// How many more tag characters may follow the flag before this place.
    of_flag: usize,
}

impl Thin {
    pub(super) fn pass<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
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

/// Calls `each` with the segments of `text`, in order and without gaps.
pub(super) fn segments<'a>(text: &'a str, mut each: impl FnMut(&'a str)) {
    let (mut from, mut attached, mut in_space) = (0, 0, false);
    let Some(mut base) = text.chars().next() else {
        return;
    };
    for (at, c) in text.char_indices() {
        let class = if at == 0 { class(c) } else { class_behind(base, c) };
        // White space folds to one space, and what nobody sees to nothing: any amount of it is one segment.
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

/// Counts the characters of a run of white space, and of what attaches to it unseen, over all pieces of a text.
#[derive(Debug, Clone, Default)]
pub(super) struct SpaceRun(usize);

impl SpaceRun {
    /// Takes the next character; its number in the run, or zero if it belongs to none.
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

    /// Begins again: what was before is of no use any more.
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
            // One space, however many: a segment of white space holds nothing else but marks.
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

/// `NFKC_Casefold` of one character, decomposed.
fn fold_char(c: char, out: &mut String) {
    // A spacing accent such as ´ is not a space.
    if compatible_beginning(c) == ' ' {
        out.push(c);
        return;
    }
    let mut shown = String::new();
    spell(c, |c| shown.push(c));
    let mut folded = Cow::Borrowed(shown.as_str());
    // Folding may bring about what can be decomposed, and the other way round.
    for _ in 0..2 {
        let decomposed: String = folded.nfkd().filter(|c| !is_ignorable(*c)).map(unboxed).collect();
        folded = Cow::Owned(CASES.fold_string(&decomposed).into_owned());
    }
    out.extend(folded.nfkd());
}

/// What ASCII characters look like, whatever their case. `I`, `l`, `1` and `|` look alike, so `i` has to be one of them.
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

/// What a character looks like, without its marks: an ASCII one if it, or its other case, looks like one.
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

/// A text in the form in which it is compared, with the place of each segment in it.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub(super) text: String,
    /// Where each segment's form begins.
    starts: Vec<usize>,
}

impl Folded {
    pub(super) fn push(&mut self, segment: &str, form: Form) {
        self.starts.push(self.text.len());
        fold_segment(segment, form, &mut self.text);
    }

    /// Adds a segment that is folded already.
    pub(super) fn push_folded(&mut self, folded: &str) {
        self.starts.push(self.text.len());
        self.text.push_str(folded);
    }

    /// Where a segment begins, or the text ends.
    pub(super) fn start_of(&self, segment: usize) -> usize {
        self.starts.get(segment).copied().unwrap_or(self.text.len())
    }

    /// The segment that holds the byte at `at`.
    pub(super) fn segment_of(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The first segment behind the byte before `end`.
    pub(super) fn segment_behind(&self, end: usize) -> usize {
        self.starts.partition_point(|start| *start < end)
    }

    /// Leaves the segments of the last `bytes` bytes, about.
    pub(super) fn keep_last(&mut self, bytes: usize) {
        let from = self.segment_of(self.text.len().saturating_sub(bytes));
        let cut = self.starts.get(from).copied().unwrap_or(0);
        self.text.drain(..cut);
        self.starts.drain(..from);
        self.starts.iter_mut().for_each(|start| *start -= cut);
    }

    /// Whether a segment begins at `at`, or the text ends there.
    pub(super) fn is_edge(&self, at: usize) -> bool {
        at == self.text.len() || self.starts.binary_search(&at).is_ok()
    }
}

/// Folds a whole text, without the places.
pub(super) fn fold(text: &str, form: Form) -> String {
    let mut out = String::with_capacity(text.len());
    segments(&Thin::default().pass(text), |segment| {
        fold_segment(segment, form, &mut out)
    });
    out
}

/// Folds the literal of a rule. Marks that it begins with belong to no letter and are left out.
pub(super) fn fold_literal(literal: &str, form: Form) -> String {
    let folded = fold(literal, form);
    folded.trim_start_matches(|c| attaches(c) || is_mark(c)).to_owned()
}

/// Folds what an unfinished segment holds so far. The first part stays whatever attaches to it later; the letter is the
/// one that the rest begins with, if there is a rest.
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

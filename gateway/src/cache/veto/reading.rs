//! Features of a question that are extracted before two are compared.

use std::collections::{BTreeMap, BTreeSet};

use super::words::{date, is_filler, negates, number, stem, unit};

/// The extracted features of a question.
pub(super) struct QuestionFeatures {
    /// Numbers, with their counts.
    pub(super) numbers: BTreeMap<String, usize>,
    pub(super) dates: BTreeSet<String>,
    pub(super) units: BTreeSet<&'static str>,
    pub(super) negated: bool,
    pub(super) words: BTreeSet<String>,
    pub(super) asked: Option<Interrogative>,
    names: BTreeSet<String>,
    stems: BTreeSet<String>,
    order: Vec<String>,
    directed: bool,
}

/// What is asked for, if a question word says so. "What", "which" and plain "how" are too often interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrogative {
    Person,
    Time,
    Place,
    Reason,
    Amount,
    Duration,
}

impl QuestionFeatures {
    pub(super) fn of(text: &str) -> Self {
        let text = text.replace(['\u{2019}', '\u{2018}'], "'");
        let mut reading = Self {
            numbers: BTreeMap::new(),
            dates: BTreeSet::new(),
            units: BTreeSet::new(),
            negated: false,
            words: BTreeSet::new(),
            asked: None,
            names: BTreeSet::new(),
            stems: BTreeSet::new(),
            order: Vec::new(),
            directed: false,
        };
        let mut starts = true;
        for raw in text.split(|c: char| c.is_whitespace() || matches!(c, ';' | '"' | '(' | ')' | '[' | ']' | '`' | '/'))
        {
            let token = raw
                .trim_matches(|c: char| !(c.is_alphanumeric() || matches!(c, '$' | '€' | '£' | '¥' | '₹' | '%' | '_')));
            if !token.is_empty() {
                reading.add(token, starts);
            }
            starts = raw.ends_with(['.', '?', '!', ':']) || (token.is_empty() && starts);
        }
        reading.asked = asked(&text.to_lowercase());
        reading
    }

    fn add(&mut self, token: &str, starts: bool) {
        // A sign attached to a number is a unit of its own.
        let bare = token.trim_matches(|c: char| matches!(c, '$' | '€' | '£' | '¥' | '₹' | '%'));
        if bare.len() < token.len() {
            let signs = token.chars().filter(|c| !bare.contains(*c));
            self.units
                .extend(signs.filter_map(|sign| unit(sign.encode_utf8(&mut [0; 4]))));
        }
        if bare.is_empty() {
            return;
        }
        let lower = bare.to_lowercase();
        if let Some(known) = unit(&lower) {
            self.units.insert(known);
            return;
        }
        if let Some(value) = number(&lower) {
            *self.numbers.entry(value.to_owned()).or_default() += 1;
            return;
        }
        if bare.chars().any(|c| c.is_ascii_digit()) {
            self.number(&lower);
            return;
        }
        if let Some(date) = date(&lower) {
            self.dates.insert(date.to_owned());
            return;
        }
        if negates(&lower) {
            self.negated = true;
            return;
        }
        if is_name(bare, starts) {
            self.names.insert(stem(&lower).to_owned());
        }
        self.directed |= matches!(
            lower.as_str(),
            "from" | "to" | "into" | "than" | "before" | "after" | "over" | "between"
        );
        self.stems.insert(stem(&lower).to_owned());
        // Parts of a compound also match the other side's names.
        self.stems.extend(
            lower
                .split(|c: char| !c.is_alphanumeric())
                .filter(|part| !part.is_empty())
                .map(|part| stem(part).to_owned()),
        );
        if !is_filler(&lower) {
            self.order.push(stem(&lower).to_owned());
        }
        self.words.insert(lower);
    }

    fn number(&mut self, token: &str) {
        let split = token.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',')));
        let (value, rest) = match split {
            Some(at) if at > 0 => token.split_at(at),
            // "v2.10.0", or a name with digits in it.
            _ => (token.strip_prefix('v').unwrap_or(token), ""),
        };
        let value = value.trim_matches([',', '.']).replace(',', "");
        let value = match value.split_once('.') {
            // "5.0" is "5"; "2.10.0" is a version.
            Some((whole, part)) if !part.contains('.') && part.chars().all(|c| c == '0') => whole.to_owned(),
            _ => value,
        };
        *self.numbers.entry(value).or_default() += 1;
        match unit(rest) {
            Some(known) => _ = self.units.insert(known),
            // "1st" is "1"; "16khz" is not "16mhz".
            None if !rest.is_empty() && !matches!(rest, "st" | "nd" | "rd" | "th" | "s") => {
                *self.numbers.entry(rest.to_owned()).or_default() += 1;
            }
            None => {}
        }
    }

    /// Whether every name of `other` occurs here in some form.
    pub(super) fn knows_names_of(&self, other: &Self) -> bool {
        other.names.iter().all(|name| self.stems.contains(name))
    }

    /// Whether both have the same words in another order, where the order matters.
    pub(super) fn is_reordering_of(&self, other: &Self) -> bool {
        let sorted = |order: &[String]| {
            let mut order = order.to_vec();
            order.sort();
            order
        };
        self.directed && other.directed && self.order != other.order && sorted(&self.order) == sorted(&other.order)
    }
}

/// Whether a word is written like a name: inner capitals, code characters, or a capital within a sentence.
fn is_name(word: &str, starts: bool) -> bool {
    let mut chars = word.chars();
    let first = chars.next().is_some_and(char::is_uppercase);
    let inner = chars.clone().any(char::is_uppercase);
    let is_code = word.contains('_') || chars.as_str().contains('.');
    inner || is_code || (first && !starts && word.chars().count() > 1)
}

fn asked(text: &str) -> Option<Interrogative> {
    let words: Vec<&str> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    match words.as_slice() {
        ["who" | "whom" | "whose", ..] => Some(Interrogative::Person),
        ["when", ..] => Some(Interrogative::Time),
        ["where", ..] => Some(Interrogative::Place),
        ["why", ..] => Some(Interrogative::Reason),
        ["how", "many" | "much", ..] => Some(Interrogative::Amount),
        ["how", "long", ..] => Some(Interrogative::Duration),
        _ => None,
    }
}

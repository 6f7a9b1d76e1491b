//! What becomes of an accepted fact beside those that are known.

use jiff::Timestamp;
use unicode_segmentation::UnicodeSegmentation as _;

use crate::lexical::terms;

/// Most facts of one user that are valid at a time.
pub const MAX_FACTS: usize = 500;
/// Most facts of one user, those that have ended included; beyond it those that ended first are dropped.
pub const MAX_STORED: usize = 1_000;

/// A fact about a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The statement.
    pub text: String,
    /// What it is the value of, if that has one value only.
    pub attribute: Option<Attribute>,
    /// When the user said it first.
    pub valid_from: Timestamp,
    /// When the user said it last; not before `valid_from`.
    pub said_at: Timestamp,
    /// When the user said something else instead; none while it is valid.
    pub valid_to: Option<Timestamp>,
}

/// Something that a person has one of: a newer value replaces the older one. A closed list, so that no model can invent a name
/// under which two values stand beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// What the user is called.
    Name,
    /// Where the user lives.
    Home,
    /// For whom the user works.
    Employer,
    /// What the user does there.
    Role,
    /// An address for mail.
    Email,
    /// A telephone number.
    Phone,
    /// How old the user is.
    Age,
    /// The day of birth.
    Birthday,
    /// The language in which the user wants answers.
    Language,
    /// The time zone.
    TimeZone,
    /// What the user has subscribed to.
    Plan,
}

/// What becomes of a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It says what the fact at this index says already: that one was said again.
    Known(usize),
    /// It is new. The facts at these indexes end when it begins.
    New {
        /// In ascending order.
        supersedes: Vec<usize>,
        /// When something else was said instead, if that is known already: messages are not always learned from in the order
        /// in which they were written.
        valid_to: Option<Timestamp>,
    },
    /// The user has as many facts as are kept, and it supersedes none: it is dropped.
    Full,
}

/// Decides about a fact that [`accept`](super::accept) let through and that was said at `said_at`. `facts` are all facts of the
/// user; those that have ended play no part.
///
/// Invariant: what was said last holds, in whatever order the statements come.
pub fn admit(facts: &[Fact], text: &str, attribute: Option<Attribute>, said_at: Timestamp) -> Admission {
    let valid = || facts.iter().enumerate().filter(|(_, fact)| fact.valid_to.is_none());
    let (content, is_denied) = content(text);
    let same = |fact: &Fact| self::content(&fact.text);
    if let Some((known, _)) = valid().find(|(_, fact)| same(fact) == (content.clone(), is_denied)) {
        return Admission::Known(known);
    }
    let count = count(text);
    let contradicts = |fact: &Fact| {
        let is_value = attribute.is_some() && fact.attribute == attribute;
        let is_count = || count.is_some() && self::count(&fact.text) == count;
        is_value || same(fact) == (content.clone(), !is_denied) || is_count()
    };
    let contradicted: Vec<(usize, &Fact)> = valid().filter(|(_, fact)| contradicts(fact)).collect();
    // Of two in one message the one that stands later was said later.
    let (earlier, later): (Vec<_>, Vec<_>) = contradicted.into_iter().partition(|(_, fact)| fact.said_at <= said_at);
    let supersedes: Vec<usize> = earlier.into_iter().map(|(index, _)| index).collect();
    let valid_to = later.iter().map(|(_, fact)| fact.valid_from.max(said_at)).min();
    if supersedes.is_empty() && valid_to.is_none() && valid().count() >= MAX_FACTS {
        return Admission::Full;
    }
    Admission::New { supersedes, valid_to }
}

/// Returns a statement with its number left out, if it states how many or how much: "User has 12 seats", "User's shop opens at 7".
/// Another number in the same words replaces the first one. A number that names a thing ("car 7") does not count.
fn count(text: &str) -> Option<Vec<String>> {
    let mut words: Vec<String> = text.unicode_words().map(str::to_lowercase).collect();
    let is_number = |word: &String| word.starts_with(|c: char| c.is_ascii_digit());
    let mut numbers = (0..words.len()).filter(|at| is_number(&words[*at]));
    let (Some(at), None) = (numbers.next(), numbers.next()) else {
        return None;
    };
    let is_followed = words.get(at + 1).is_some();
    let is_led = at > 0 && matches!(words[at - 1].as_str(), "at" | "is" | "to");
    if !is_followed && !is_led {
        return None;
    }
    "#".clone_into(&mut words[at]);
    Some(words)
}

/// Returns the terms of a statement in order, without words for the user and denials, and whether it denies.
fn content(text: &str) -> (Vec<String>, bool) {
    let is_denial = |term: &str| matches!(term, "never" | "cannot") || term.ends_with("n't");
    // `terms` leaves "not" and "no" out, as stop words.
    let is_denied = text
        .to_lowercase()
        .replace('\u{2019}', "'")
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .any(|word| matches!(word, "not" | "no") || is_denial(word));
    let empty = [
        "user", "custom", "longer", "ani", "more", "anymor", "doe", "do", "ha", "have",
    ];
    let mut content: Vec<String> = terms(text).into_iter().map(|(term, _)| term).collect();
    content.retain(|term| !is_denial(term) && !empty.contains(&term.as_str()));
    content.sort_unstable();
    (content, is_denied)
}

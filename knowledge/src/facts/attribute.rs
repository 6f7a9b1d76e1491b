//! What a statement is the value of.
//!
//! Read from the statement's words, never told by the model: a wrong attribute would end a fact that still holds.

use unicode_segmentation::UnicodeSegmentation;

use super::book::Attribute;
use super::words::{is_denial, plain};

/// How a statement about the user begins, after "User" or "The user". `*` stands for one word; whatever follows is the value.
const BEGINNINGS: [(&str, Attribute); 30] = [
    ("user is named", Attribute::Name),
    ("user is called", Attribute::Name),
    ("user's name is", Attribute::Name),
    ("user lives in", Attribute::Home),
    ("user lives at", Attribute::Home),
    ("user moved to", Attribute::Home),
    ("user is based in", Attribute::Home),
    ("user's home is", Attribute::Home),
    ("user works at", Attribute::Employer),
    ("user works for", Attribute::Employer),
    ("user's employer is", Attribute::Employer),
    ("user works as", Attribute::Role),
    ("user's job is", Attribute::Role),
    ("user's job title is", Attribute::Role),
    ("user's role is", Attribute::Role),
    ("user's email is", Attribute::Email),
    ("user's email address is", Attribute::Email),
    ("user's phone is", Attribute::Phone),
    ("user's phone number is", Attribute::Phone),
    ("user's age is", Attribute::Age),
    ("user is * years old", Attribute::Age),
    ("user's birthday is", Attribute::Birthday),
    ("user was born on", Attribute::Birthday),
    ("user's preferred language is", Attribute::Language),
    ("user prefers answers in", Attribute::Language),
    ("user wants answers in", Attribute::Language),
    ("user's time zone is", Attribute::TimeZone),
    ("user's timezone is", Attribute::TimeZone),
    ("user is on the * plan", Attribute::Plan),
    ("user's plan is", Attribute::Plan),
];

impl Attribute {
    /// Returns what the statement is the value of; none if that may have several values, and for what is denied.
    pub fn of(text: &str) -> Option<Self> {
        let words: Vec<String> = text.unicode_words().map(plain).collect();
        let words = match words.split_first() {
            Some((first, rest)) if first == "the" => rest,
            _ => words.as_slice(),
        };
        if words.iter().any(|word| is_denial(word)) {
            return None;
        }
        let begins = |pattern: &str| {
            let mut words = words.iter();
            pattern
                .split(' ')
                .all(|expected| words.next().is_some_and(|word| expected == "*" || word == expected))
        };
        let found = BEGINNINGS.iter().find(|(pattern, _)| begins(pattern));
        found.map(|(_, attribute)| *attribute)
    }
}

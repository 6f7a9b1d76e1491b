//! Facts about a user: short dated statements that outlive a conversation.
//!
//! A model proposes facts; it also invents, misreads jokes, and repeats what it was told a moment ago. So nothing that a model
//! proposes is believed: a fact is accepted only if the user's own message says it. [`accept`] is given that message and the
//! range on which the fact rests, and refuses unless every word, number and date of the fact occurs there, or in a closed list
//! of words that say nothing. It is built to refuse: a fact that is missed costs a question, a false one costs trust.
//!
//! Invariants: an accepted fact has no content word, number or date that its range lacks; relative dates ("yesterday") are
//! resolved against the time of the message; proposing the same facts again changes nothing ([`Admission::Known`]).

mod attribute;
mod book;
mod context;
mod dates;
mod memory;
mod outcome;
pub mod proposals;
mod queue;
pub mod store;
mod words;

use std::ops::Range;

pub use book::{Admission, Attribute, Fact, MAX_FACTS, MAX_STORED, admit};
use jiff::civil::Date;
pub use memory::{EditError, FactMemory};
pub use outcome::learned;

/// Most bytes of a fact.
pub const MAX_FACT_BYTES: usize = 300;

/// A statement that a model proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// A sentence about the user.
    pub text: String,
    /// The bytes of the user's message on which it rests.
    pub range: Range<usize>,
}

/// A message in the user's own words. Whoever makes one vouches that it is that, and neither an answer of an assistant or a
/// tool, nor retrieved or recalled text.
#[derive(Debug, Clone, Copy)]
pub struct UserMessage<'a> {
    /// What the user wrote.
    pub text: &'a str,
    /// The day on which it was written, where the user was.
    pub day: Date,
}

/// Why a proposed fact was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The fact is empty, too long, or has several lines.
    #[error("the fact must be one line of 1 to {MAX_FACT_BYTES} bytes")]
    Malformed,
    /// The range is empty or not within the message.
    #[error("the range does not lie within the message")]
    OutOfRange,
    /// What the user wrote there states nothing about the user.
    #[error("the user did not state it: {0}")]
    NotStated(
        /// What speaks against it.
        NotStated,
    ),
    /// A word, number or date of the fact does not occur in the range.
    #[error("{0:?} does not occur in the user's words")]
    Unsupported(
        /// The word.
        String,
    ),
    /// A time of the fact cannot be turned into a date.
    #[error("{0:?} names no date")]
    UnresolvedTime(
        /// The word.
        String,
    ),
    /// The user's words deny or qualify something and the fact does not, or the other way round.
    #[error("{0:?} is missing in the fact, or in the user's words")]
    Distorted(
        /// The word.
        String,
    ),
}

/// Why words are no statement about their user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStated {
    /// It is a question.
    #[error("it is a question")]
    Question,
    /// It is said as a joke, a wish or a condition.
    #[error("it is a joke, a guess or a condition")]
    Hypothetical,
    /// It stands in quotation marks, or somebody else is reported to have said it.
    #[error("it is somebody else's statement")]
    Reported,
    /// It does not speak of the user.
    #[error("it is not about the user")]
    NotAboutUser,
}

/// Accepts a proposed fact, with its relative dates resolved, or says why not.
pub fn accept(proposed: &Proposed, message: UserMessage<'_>) -> Result<String, Refusal> {
    let text = proposed.text.trim();
    if text.is_empty() || text.len() > MAX_FACT_BYTES || text.chars().any(char::is_control) {
        return Err(Refusal::Malformed);
    }
    let quote = message.text.get(proposed.range.clone()).ok_or(Refusal::OutOfRange)?;
    if quote.trim().is_empty() {
        return Err(Refusal::OutOfRange);
    }
    let sentences = context::sentences_around(message.text, &proposed.range);
    context::check_statement(message.text, &proposed.range, sentences)?;
    let text = dates::resolve(text, message.day);
    words::check_qualifiers(&text, context::without_contrast(sentences, quote))?;
    context::check_subject(&text, quote)?;
    let text_without_dates = dates::check(&text, quote, message.day)?;
    words::check_support(&text_without_dates, quote)?;
    Ok(text)
}

#[cfg(test)]
mod tests;

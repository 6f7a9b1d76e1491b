//! What is learned from one message: pure, and the only place where a fact is made from a model's words.

use copilotd_actors::domain::guardrail::REDACTED;
use copilotd_actors::domain::ids::FactId;
use jiff::tz::Offset;
use unicode_segmentation::UnicodeSegmentation;

use super::book::{Admission, Attribute, Fact, admit};
use super::proposals::Proposals;
use super::store::{Change, Lesson, StoredFact, surplus};
use super::words::plain;
use super::{Proposed, Refusal, UserMessage, accept};

/// What becomes of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// The change of the user's facts.
    pub change: Change,
    /// What became of each proposed fact, for the metrics.
    pub outcomes: Vec<&'static str>,
}

/// Learns from a message: `known` are all facts of its user, `proposals` what a model read in it.
///
/// Invariant: every fact of the change is stated in a range of `message`, or was among `known`.
pub fn learned(known: &[StoredFact], lesson: &Lesson, message: &str, proposals: &Proposals) -> Learned {
    let mut facts = known.to_vec();
    let mut changed: Vec<FactId> = Vec::new();
    let mut outcomes = vec!["no_quote"; proposals.dropped];
    for proposed in &proposals.proposed {
        let outcome = match check(proposed, message, lesson) {
            Ok(text) => take(&mut facts, &mut changed, lesson, proposed, text),
            Err(refused) => refused,
        };
        outcomes.push(outcome);
    }
    let delete = surplus(&facts);
    let put = facts
        .into_iter()
        .filter(|fact| changed.contains(&fact.id) && !delete.contains(&fact.id));
    Learned {
        change: Change {
            put: put.collect(),
            delete,
        },
        outcomes,
    }
}

/// Returns the text of the fact, or the name of what speaks against it.
fn check(proposed: &Proposed, message: &str, lesson: &Lesson) -> Result<String, &'static str> {
    let quote = message.get(proposed.range.clone()).unwrap_or_default();
    // What the guardrails replaced is not what the user said.
    if quote.contains(REDACTED) || proposed.text.contains(REDACTED) {
        return Err("redacted");
    }
    let mut words = proposed.text.unicode_words().map(plain).filter(|word| word != "the");
    if !words.next().is_some_and(|word| word == "user" || word == "user's") {
        return Err("malformed");
    }
    // Where the user was is not known; UTC is at most a day off.
    let day = Offset::UTC.to_datetime(lesson.said_at).date();
    let message = UserMessage { text: message, day };
    accept(proposed, message).map_err(|refusal| refusal.code())
}

fn take(
    facts: &mut Vec<StoredFact>,
    changed: &mut Vec<FactId>,
    lesson: &Lesson,
    proposed: &Proposed,
    text: String,
) -> &'static str {
    let attribute = Attribute::of(&text);
    let plain: Vec<Fact> = facts.iter().map(|fact| fact.fact.clone()).collect();
    match admit(&plain, &text, attribute, lesson.said_at) {
        Admission::Full => "full",
        Admission::Known(index) => {
            let fact = &mut facts[index];
            // It belongs to the last statement, so that it outlives the conversation of the first one.
            if fact.fact.said_at < lesson.said_at {
                fact.fact.said_at = lesson.said_at;
                (fact.conversation, fact.turn) = (lesson.conversation, lesson.turn);
                fact.range = proposed.range.clone();
                changed.push(fact.id);
            }
            "known"
        }
        Admission::New { supersedes, valid_to } => {
            let id = FactId::derived(lesson.turn, &text);
            if facts.iter().any(|fact| fact.id == id) {
                return "known";
            }
            for index in supersedes {
                facts[index].fact.valid_to = Some(lesson.said_at);
                changed.push(facts[index].id);
            }
            changed.push(id);
            facts.push(StoredFact {
                id,
                fact: Fact {
                    text,
                    attribute,
                    valid_from: lesson.said_at,
                    said_at: lesson.said_at,
                    valid_to,
                },
                conversation: lesson.conversation,
                turn: lesson.turn,
                range: proposed.range.clone(),
                is_corrected: false,
            });
            "stored"
        }
    }
}

impl Refusal {
    /// Returns the name for the metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OutOfRange => "out_of_range",
            Self::NotStated(_) => "not_stated",
            Self::Unsupported(_) => "unsupported",
            Self::UnresolvedTime(_) => "unresolved_time",
            Self::Distorted(_) => "distorted",
        }
    }
}

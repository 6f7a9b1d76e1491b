//! Gate (d): refuses questions that are near in meaning and yet differ in a number, a date, a unit, a name, a negation,
//! an opposite or what is asked for. Embeddings hardly see these.
//!
//! Invariant: symmetric, and a text never vetoes itself.

mod reading;
mod words;

use reading::QuestionFeatures;

/// What differs between two questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Veto {
    /// A number or a version.
    Number,
    /// A month, a weekday, "yesterday".
    Date,
    /// A unit or a currency.
    Unit,
    /// A name, or a word written like one: an identifier, an abbreviation.
    Name,
    /// One is negated and the other is not.
    Negation,
    /// One has a word and the other its opposite.
    Antonym,
    /// One asks who, the other when.
    QuestionWord,
    /// The same words in another order: "from A to B".
    Order,
}

impl Veto {
    /// Stable name for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Date => "date",
            Self::Unit => "unit",
            Self::Name => "name",
            Self::Negation => "negation",
            Self::Antonym => "antonym",
            Self::QuestionWord => "asked",
            Self::Order => "order",
        }
    }
}

/// Compares two questions.
pub fn veto(a: &str, b: &str) -> Option<Veto> {
    let (a, b) = (QuestionFeatures::of(a), QuestionFeatures::of(b));
    if a.numbers != b.numbers {
        Some(Veto::Number)
    } else if a.dates != b.dates {
        Some(Veto::Date)
    } else if a.units != b.units {
        Some(Veto::Unit)
    } else if !a.knows_names_of(&b) || !b.knows_names_of(&a) {
        Some(Veto::Name)
    } else if a.negated != b.negated {
        Some(Veto::Negation)
    } else if words::opposed(&a.words, &b.words) {
        Some(Veto::Antonym)
    } else if matches!((a.asked, b.asked), (Some(a), Some(b)) if a != b) {
        Some(Veto::QuestionWord)
    } else if a.is_reordering_of(&b) {
        Some(Veto::Order)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_differs_is_seen() {
        for (a, b, expected) in [
            ("How do I reset the password?", "How can the password be reset?", None),
            ("Rates for 2023?", "Rates for 2024?", Some(Veto::Number)),
            ("Does it exist in v2.10.0?", "Does it exist in version 2.10.0?", None),
            (
                "Does it exist in 2.10.0?",
                "Does it exist in 2.1.0?",
                Some(Veto::Number),
            ),
            ("A trip for two people", "A trip for 2 people", None),
            ("A trip for two people", "A trip for three people", Some(Veto::Number)),
            ("Costs over 1,000 dollars", "Costs over 1000 dollars", None),
            ("Open on Monday?", "Open on Tuesday?", Some(Veto::Date)),
            ("Open on Mondays?", "Open on monday?", None),
            ("Who won yesterday?", "Who won today?", Some(Veto::Date)),
            ("How heavy is it in kg?", "How heavy is it in pounds?", Some(Veto::Unit)),
            ("5 km run", "5 kilometers run", None),
            ("Price in €", "Price in EUR", None),
            ("Flights to Paris", "Flights to Rome", Some(Veto::Name)),
            ("the capital of France", "the capital of france", None),
            (
                "What is Dynamics CRM Services?",
                "What is Dynamics CRM?",
                Some(Veto::Name),
            ),
            ("call load_dataset here", "call load_metric here", Some(Veto::Name)),
            (
                "Is it allowed to smoke?",
                "Is it not allowed to smoke?",
                Some(Veto::Negation),
            ),
            ("It isn't supported", "It is supported", Some(Veto::Negation)),
            ("It isn\u{2019}t supported", "It is not supported", None),
            ("How to enable backups", "How to disable backups", Some(Veto::Antonym)),
            (
                "How to increase the limit",
                "How to decrease the limit",
                Some(Veto::Antonym),
            ),
            (
                "Who approves holidays?",
                "When are holidays approved?",
                Some(Veto::QuestionWord),
            ),
            (
                "convert from csv to json",
                "convert from json to csv",
                Some(Veto::Order),
            ),
            (
                "Is a lawful act needed",
                "Is an unlawful act needed",
                Some(Veto::Antonym),
            ),
        ] {
            assert_eq!(veto(a, b), expected, "{a} / {b}");
            assert_eq!(veto(b, a), expected, "{b} / {a}");
        }
    }

    proptest! {
        #[test]
        fn it_is_symmetric_and_reflexive(a in "\\PC{0,40}", b in "[a-z0-9 .,'A-Z]{0,40}") {
            prop_assert_eq!(veto(&a, &b).is_some(), veto(&b, &a).is_some());
            prop_assert_eq!(veto(&a, &a), None);
            prop_assert_eq!(veto(&b, &b), None);
        }
    }
}

//! Signs that a question is about the person who asks, or names a person: its answer must not be shared.
//!
//! A false positive costs a hit; a false negative costs trust. So the rules are broad.

/// Beginnings that say "I" but mean anybody.
const ANYBODY: [&str; 12] = [
    "how do i ",
    "how can i ",
    "how should i ",
    "how would i ",
    "where do i ",
    "where can i ",
    "when can i ",
    "what do i need ",
    "what should i ",
    "can i ",
    "do i need ",
    "should i ",
];

/// Whether `text` refers to the person who asks, or contains an email address, a telephone number, an account number or
/// one of `names` (of the user).
pub fn is_personal(text: &str, names: &[&str]) -> bool {
    let mut lower = text.to_lowercase();
    if lower.contains('\u{2019}') {
        lower = lower.replace('\u{2019}', "'");
    }
    let said = ANYBODY
        .iter()
        .find_map(|beginning| lower.strip_prefix(beginning))
        .unwrap_or(&lower);
    let names: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    // Shorter parts of an id match words by accident.
    let names: Vec<&str> = names
        .iter()
        .flat_map(|name| name.split(|c: char| !c.is_alphanumeric()))
        .filter(|part| part.chars().count() >= 3)
        .collect();
    said.split(|c: char| !(c.is_alphanumeric() || matches!(c, '\'' | '@' | '.' | '+' | '-' | '_')))
        .map(|word| word.trim_matches(|c: char| matches!(c, '\'' | '.' | '-' | '_')))
        .filter(|word| !word.is_empty())
        .any(|word| is_own(word) || is_address(word) || is_secret_number(word) || names.contains(&word))
        || has_long_number(text)
}

/// Words that refer to the person who asks.
fn is_own(word: &str) -> bool {
    matches!(
        word,
        "i" | "i'm" | "i've" | "i'd" | "i'll" | "me" | "my" | "mine" | "myself" | "mein" | "meine" | "ich"
    )
}

fn is_address(word: &str) -> bool {
    word.split_once('@')
        .is_some_and(|(user, host)| !user.is_empty() && host.contains('.'))
}

/// Long mixes of letters and digits: an IBAN, a token, an order number.
fn is_secret_number(word: &str) -> bool {
    word.len() >= 10
        && word.chars().filter(char::is_ascii_digit).count() >= 6
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Seven digits or more, together or grouped like a telephone or card number.
fn has_long_number(text: &str) -> bool {
    let mut digits = 0;
    let mut gap = 0;
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits += 1;
            gap = 0;
            if digits >= 7 {
                return true;
            }
        } else if matches!(c, ' ' | '-' | '/' | '(' | ')' | '.' | '+') && gap < 2 {
            gap += 1;
        } else {
            digits = 0;
            gap = 0;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_questions_are_told_from_general_ones() {
        for (text, expected) in [
            ("What is our holiday policy?", false),
            ("What's my balance?", true),
            ("How do I export a report?", false),
            ("How do I export my report?", true),
            ("Why was I charged twice", true),
            ("I\u{2019}ve lost the card", true),
            ("Mail ada@example.com the report", true),
            ("Call +49 (30) 123 456", true),
            ("Card 4111 1111 1111 1111", true),
            ("IBAN DE89370400440532013000", true),
            ("Is Ada in the office?", true),
            ("Is the adapter in the office?", false),
            ("Which documents changed in 2023 and 2024?", false),
            ("Does version 2.10.0 have it", false),
            ("How much does it weigh in Miami?", false),
        ] {
            assert_eq!(is_personal(text, &["ada.lovelace"]), expected, "{text}");
        }
    }
}

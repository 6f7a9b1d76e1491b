//! Titles of conversations: the beginning of what the user wrote.

use super::chat::{Chat, Role};
use super::fill::first_sentence;

const MAX_WORDS: usize = 6;

/// Returns the title, if the request asks for one: its system text does, and no tools are offered.
pub(crate) fn requested(chat: &Chat) -> Option<String> {
    let asked: String = chat.system_text().chars().take(200).collect();
    let asked = asked.to_lowercase();
    if !chat.tools.is_empty() || !asked.contains("title") || !asked.contains("conversation") {
        return None;
    }
    let exchange = chat.messages.iter().find(|message| message.role == Role::User)?;
    Some(title(&exchange.text))
}

/// Names what the user wants: the first words of their first sentence.
pub(crate) fn title(exchange: &str) -> String {
    let said = exchange.strip_prefix("User:").unwrap_or(exchange);
    let said = said.split("\n\nAssistant:").next().unwrap_or(said).trim();
    let sentence = first_sentence(said);
    let words: Vec<&str> = sentence.split_whitespace().take(MAX_WORDS).collect();
    let words = words.join(" ");
    let words = words.trim_end_matches(|c: char| !c.is_alphanumeric());
    let mut letters = words.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_the_beginning_of_what_the_user_wants() {
        for (exchange, expected) in [
            (
                "User:\nwhich tickets are unread?\n\nAssistant:\nFour.",
                "Which tickets are unread",
            ),
            (
                "User:\nOpen a ticket: the printer on the third floor is on fire. Hurry!\n\nAssistant:\nDone.",
                "Open a ticket: the printer on",
            ),
            ("", ""),
        ] {
            assert_eq!(title(exchange), expected);
        }
    }
}

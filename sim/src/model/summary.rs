//! Summaries of conversations: extractive, short, deterministic.

use super::chat::{Chat, Role};

const MAX_WORDS: usize = 80;
const MAX_SENTENCE_WORDS: usize = 25;

/// Returns the summary, if the request asks for one.
///
/// A summary included in a prompt as memory is not such a request: the system text must ask ("summarise", "compress",
/// "condense" something like a conversation), and no tools are offered.
pub(crate) fn requested(chat: &Chat) -> Option<String> {
    let asked: String = chat.system_text().chars().take(600).collect();
    let asked = asked.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| asked.contains(word));
    let wanted = chat.tools.is_empty()
        && has(&["summaris", "summariz", "compress", "condense"])
        && has(&["conversation", "transcript", "dialogue", "messages", "history"]);
    if !wanted {
        return None;
    }
    let said: Vec<_> = chat
        .messages
        .iter()
        .filter(|message| message.role != Role::System)
        .map(|message| message.text.as_str())
        .collect();
    Some(summarise(&said.join("\n")))
}

/// Picks the sentences with numbers and names, in their order.
pub(crate) fn summarise(text: &str) -> String {
    let sentences: Vec<Vec<&str>> = text
        .split_inclusive(['\n', '.', '!', '?'])
        .map(|sentence| sentence.split_whitespace().take(MAX_SENTENCE_WORDS).collect())
        .filter(|words: &Vec<_>| words.len() > 2)
        .collect();
    // A summary must be shorter than its source.
    let budget = MAX_WORDS.min(text.split_whitespace().count() / 2).max(3);
    let mut order: Vec<usize> = (0..sentences.len()).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse(weight(&sentences[at])), at));
    let mut chosen = Vec::new();
    let mut words = 0;
    for at in order {
        if words + sentences[at].len() <= budget {
            words += sentences[at].len();
            chosen.push(at);
        }
    }
    chosen.sort_unstable();
    let picked: Vec<_> = chosen.iter().map(|&at| sentences[at].join(" ")).collect();
    if picked.is_empty() {
        let start: Vec<_> = text.split_whitespace().take(budget).collect();
        return start.join(" ");
    }
    picked.join(" ")
}

fn weight(words: &[&str]) -> usize {
    let numbers = words
        .iter()
        .filter(|word| word.contains(|c: char| c.is_ascii_digit()))
        .count();
    let named = |word: &&&str| word.starts_with(char::is_uppercase);
    let names = words.iter().skip(1).filter(named).count();
    // Otherwise long sentences would win by their length alone.
    (numbers * 30 + names * 10) / words.len().max(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_short_and_keeps_numbers() {
        let filler = "Well that is quite all right then my friend. ".repeat(60);
        let text = format!("{filler}The order of Ada is number 4711 from Berlin. {filler}");
        let summary = summarise(&text);
        assert!(summary.contains("4711"), "{summary}");
        assert!(summary.split_whitespace().count() <= MAX_WORDS);
        assert_eq!(summarise("one two three four five six"), "one two three");
    }
}

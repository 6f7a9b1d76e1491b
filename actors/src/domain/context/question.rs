//! What a turn searches the knowledge for, and whether the question can be understood without the conversation.

use super::memory::{Block, EntryContent, Memory};
use super::prompt::PromptMessage;
use crate::domain::guardrail::neutral;

/// Bytes of a prompt that are searched for: its beginning and its end.
const MAX_PROMPT: usize = 4 * 1024;
/// Bytes of the earlier exchange that the small model reads.
const MAX_EARLIER: usize = 2 * 1024;
/// Prompts of at most this many words are rewritten.
const SHORT: usize = 3;
/// Maximum bytes of a rewritten question; a longer one is not a question.
const MAX_REWRITTEN: usize = 1024;

/// Words that refer to what was said before. Not among them: words that mostly have another use, such as "there" and
/// German "sie".
const REFERRING: [&str; 40] = [
    "above", "ceci", "cela", "celle", "celui", "ceux", "dabei", "dafür", "damit", "davon", "dazu", "dies", "diese",
    "diesem", "diesen", "dieser", "dieses", "elle", "elles", "he", "her", "him", "his", "ihm", "it", "its", "jene",
    "jener", "latter", "ones", "same", "she", "that", "their", "them", "these", "they", "this", "those", "ça",
];

/// Words with which a prompt continues an earlier one.
const CONTINUING: [&str; 14] = [
    "aber", "also", "and", "auch", "but", "et", "mais", "oder", "or", "ou", "so", "then", "und", "why",
];

/// Words of greetings, thanks and assent. A prompt of these alone asks nothing. Not among them: "yes" and "no", which answer
/// what was asked.
const SMALL_TALK: [&str; 46] = [
    "a",
    "afternoon",
    "awesome",
    "beaucoup",
    "bonjour",
    "bonsoir",
    "bye",
    "cheers",
    "ciao",
    "cool",
    "dank",
    "danke",
    "dear",
    "evening",
    "good",
    "goodbye",
    "gracias",
    "great",
    "gut",
    "guten",
    "hallo",
    "hello",
    "hey",
    "hi",
    "hola",
    "lot",
    "lovely",
    "merci",
    "moin",
    "much",
    "nice",
    "ok",
    "okay",
    "perfect",
    "perfekt",
    "salut",
    "schön",
    "servus",
    "super",
    "tag",
    "thank",
    "thanks",
    "there",
    "very",
    "vielen",
    "you",
];

/// The small model's task.
const INSTRUCTIONS: &str = "Rewrite the last message of the user as one question that can be understood without the \
conversation: replace words that refer to something by what they refer to. Keep the language, names and numbers. Add \
nothing. Answer with the question alone; do not answer it.";

/// The question of a running turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// The prompt.
    pub prompt: String,
    /// The prompt of the turn before, or the summary if that turn is in it.
    pub previous: Option<String>,
    /// The answer to it.
    pub answer: Option<String>,
}

impl Question {
    /// Reads the question from the end of the window.
    pub fn of(memory: &Memory) -> Self {
        let mut blocks = memory.blocks.iter().rev();
        let running = blocks.next().filter(|block| block.end_seq.is_none());
        let before = running.and_then(|_| blocks.next());
        Self {
            prompt: running
                .map(|block| ends(&prompt(block), MAX_PROMPT))
                .unwrap_or_default(),
            previous: before
                .map(prompt)
                .or_else(|| Some(memory.summary.as_ref()?.text.clone()))
                .map(|text| ends(&text, MAX_EARLIER)),
            answer: before.and_then(answer).map(|text| ends(text, MAX_EARLIER)),
        }
    }

    /// Returns what the user wrote in the running turn, as the log holds it; none if no turn runs.
    pub fn whole(memory: &Memory) -> Option<String> {
        let running = memory.blocks.back().filter(|block| block.end_seq.is_none());
        running.map(prompt)
    }

    /// Returns whether the question may not be understood without the turn before: it is very short, continues that
    /// turn, or refers to something by a word that names nothing. The first turn of a conversation never needs it, nor
    /// does one that asks nothing, such as "Hello!".
    pub fn needs_conversation(&self) -> bool {
        if self.previous.is_none() {
            return false;
        }
        let words = self.prompt.split(|c: char| !c.is_alphanumeric());
        let words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
        let continues = words.first().is_some_and(|word| CONTINUING.contains(&word.as_str()));
        let asks_about = matches!(words.as_slice(), [first, second, ..] if matches!(first.as_str(), "what" | "how") && second == "about");
        let refers = || words.iter().any(|word| REFERRING.contains(&word.as_str()));
        let asks = words.iter().any(|word| !SMALL_TALK.contains(&word.as_str()));
        asks && (words.len() <= SHORT || continues || asks_about || refers())
    }

    /// Returns what is searched for when the question stands alone.
    pub fn alone(&self) -> String {
        self.prompt.clone()
    }

    /// Returns what is searched for when nobody rewrote a question that needs the turn before: both prompts.
    pub fn with_previous(&self) -> String {
        match &self.previous {
            Some(previous) => format!("{previous}\n{}", self.prompt),
            None => self.alone(),
        }
    }

    /// Returns the request to the small model.
    pub fn rewriting(&self) -> Vec<PromptMessage> {
        let part = |who: &str, text: &Option<String>| {
            let text = text.as_deref().unwrap_or_default();
            format!("{who}:\n{}\n\n", neutral(text))
        };
        let earlier = part("Earlier message of the user", &self.previous) + &part("Answer to it", &self.answer);
        let last = format!("Last message of the user:\n{}", neutral(&self.prompt));
        vec![
            PromptMessage::System {
                text: INSTRUCTIONS.to_owned(),
            },
            PromptMessage::User { text: earlier + &last },
        ]
    }

    /// Returns the question that the small model wrote, if it can be one.
    pub fn rewritten(written: &str) -> Option<String> {
        let text = written.trim();
        let is_question = text.len() <= MAX_REWRITTEN && text.chars().any(char::is_alphanumeric);
        is_question.then(|| text.to_owned())
    }
}

fn prompt(block: &Block) -> String {
    let input = block.entries.iter().find_map(|entry| match &entry.content {
        EntryContent::User { input } => Some(input.text()),
        _ => None,
    });
    input.unwrap_or_default()
}

/// Returns the last answer of a turn.
fn answer(block: &Block) -> Option<&str> {
    block.entries.iter().rev().find_map(|entry| match &entry.content {
        EntryContent::Assistant { text, .. } if !text.trim().is_empty() => Some(text.as_str()),
        _ => None,
    })
}

/// Returns a text, or its beginning and its end if it is longer than `max` bytes.
fn ends(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(max / 2);
    let tail = text.ceil_char_boundary(text.len() - max / 2);
    format!("{}\n{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(prompt: &str) -> Question {
        Question {
            prompt: prompt.to_owned(),
            previous: Some("How many vacation days do employees have?".to_owned()),
            answer: Some("Thirty.".to_owned()),
        }
    }

    #[test]
    fn only_what_refers_to_the_conversation_is_rewritten() {
        for prompt in [
            "And in the first year?",
            "What about part-time staff in Berlin?",
            "Who approves them before the summer starts?",
            "until when",
            "yes",
            "Und wie ist es im ersten Jahr bei Teilzeit?",
            "Wer muss davon im Voraus etwas wissen?",
        ] {
            assert!(question(prompt).needs_conversation(), "{prompt}");
            let first = Question {
                previous: None,
                ..question(prompt)
            };
            assert!(!first.needs_conversation(), "{prompt}");
        }
        for prompt in [
            "How do I reset the password of my mailbox?",
            "Where is the parking deck of the harbour office?",
            "Wie viele Urlaubstage haben Angestellte in Berlin?",
            "Hello!",
            "Thank you very much",
            "ok, thanks",
            "Vielen Dank!",
            "?!",
            "",
        ] {
            assert!(!question(prompt).needs_conversation(), "{prompt}");
        }
    }

    #[test]
    fn without_a_rewritten_question_both_prompts_are_searched_for() {
        let follow_up = question("And in the first year?");
        assert_eq!(
            follow_up.with_previous(),
            "How many vacation days do employees have?\nAnd in the first year?"
        );
        assert_eq!(follow_up.alone(), "And in the first year?");
    }

    #[test]
    fn the_word_lists_are_sorted() {
        assert!(REFERRING.is_sorted() && CONTINUING.is_sorted() && SMALL_TALK.is_sorted());
    }

    #[test]
    fn what_the_small_model_writes_must_be_a_question() {
        assert_eq!(Question::rewritten(" How many? \n"), Some("How many?".to_owned()));
        for written in ["", " \n", "?!", &"word ".repeat(300)] {
            assert_eq!(Question::rewritten(written), None, "{written:?}");
        }
    }

    #[test]
    fn a_long_prompt_keeps_its_beginning_and_its_end() {
        let long = format!("begin {} end", "é".repeat(9000));
        let kept = ends(&long, 100);
        assert!(kept.starts_with("begin") && kept.ends_with("end") && kept.len() <= 101);
    }
}

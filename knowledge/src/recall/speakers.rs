//! Who speaks in a conversation, and whom a question names.

use unicode_segmentation::UnicodeSegmentation;

/// Most speakers whose names are known; turns of further ones count as said by nobody.
const MAX_SPEAKERS: usize = 64;

/// The speakers of a conversation.
#[derive(Debug, Default)]
pub(super) struct Speakers {
    /// Lower-case words of each one's name.
    names: Vec<Vec<String>>,
}

impl Speakers {
    /// Returns the number of a speaker; none if there are too many.
    pub(super) fn register(&mut self, name: &str) -> Option<u16> {
        let words: Vec<String> = name.unicode_words().map(str::to_lowercase).collect();
        let at = match self.names.iter().position(|known| *known == words) {
            Some(at) => at,
            None if self.names.len() < MAX_SPEAKERS => {
                self.names.push(words);
                self.names.len() - 1
            }
            None => return None,
        };
        u16::try_from(at).ok()
    }

    /// Returns the speaker whom a question names, by any word of the name; none if it names nobody, or several.
    pub(super) fn named(&self, question: &str) -> Option<u16> {
        let words: Vec<String> = question.unicode_words().map(bare).collect();
        let mut named = (0_u16..)
            .zip(&self.names)
            .filter(|(_, name)| name.iter().any(|word| words.contains(word)));
        let (first, _) = named.next()?;
        named.next().is_none().then_some(first)
    }

    /// Returns the question without the names of speakers; the question itself if nothing else is left.
    pub(super) fn without_names(&self, question: &str) -> String {
        let is_name = |word: &str| {
            let word = bare(word);
            self.names.iter().any(|name| name.contains(&word))
        };
        let mut text = String::with_capacity(question.len());
        for piece in question.split_word_bounds().filter(|piece| !is_name(piece)) {
            if !(piece.starts_with(char::is_whitespace) && (text.is_empty() || text.ends_with(char::is_whitespace))) {
                text.push_str(piece);
            }
        }
        if text.unicode_words().next().is_none() {
            return question.to_owned();
        }
        text
    }
}

/// Returns a word in lower case, without the ending of the English possessive.
fn bare(word: &str) -> String {
    let word = word.to_lowercase();
    let stem = word.strip_suffix("'s").or_else(|| word.strip_suffix("\u{2019}s"));
    stem.map_or_else(|| word.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_one_speaker_or_none() {
        let mut speakers = Speakers::default();
        assert_eq!(speakers.register("Ann Lee"), Some(0));
        assert_eq!(speakers.register("Bo"), Some(1));
        assert_eq!(speakers.register("ann lee"), Some(0));
        for (question, named, rest) in [
            ("When did Ann move?", Some(0), "When did move?"),
            ("Bo's car", Some(1), "car"),
            ("What is Lee\u{2019}s job", Some(0), "What is job"),
            ("Did Ann call Bo?", None, "Did call ?"),
            ("Annual fee", None, "Annual fee"),
            ("Ann", Some(0), "Ann"),
            ("", None, ""),
        ] {
            assert_eq!(speakers.named(question), named, "{question}");
            assert_eq!(speakers.without_names(question), rest, "{question}");
        }
        for n in 2..MAX_SPEAKERS {
            assert!(speakers.register(&format!("s{n}")).is_some());
        }
        assert_eq!(speakers.register("one more"), None);
    }
}

//! Divides a text into sentences, well enough to choose a quote.

use std::ops::Range;

/// Characters that may stand between the end of a sentence and the white space after it.
const CLOSING: [char; 8] = ['"', '\'', ')', ']', '»', '”', '’', '」'];

/// Returns the sentences of a text in order, each without the white space around it; none is empty. A line break ends a
/// sentence, too.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let (mut ranges, mut start, mut at) = (Vec::new(), 0, 0);
    let mut add = |from: usize, to: usize| {
        let part = &text[from..to];
        let trimmed = part.trim();
        if !trimmed.is_empty() {
            let begin = from + (part.len() - part.trim_start().len());
            ranges.push(begin..begin + trimmed.len());
        }
    };
    while let Some(c) = text[at..].chars().next() {
        let end = at + c.len_utf8();
        at = match c {
            '\n' | '\r' | '。' | '！' | '？' => {
                add(start, end);
                start = end;
                end
            }
            '.' | '!' | '?' | '…' => {
                let closed = end + (text[end..].len() - text[end..].trim_start_matches(CLOSING).len());
                if ends(text, start, at, closed) {
                    add(start, closed);
                    start = closed;
                }
                closed
            }
            _ => end,
        };
    }
    add(start, text.len());
    ranges
}

/// Returns whether the full stop at `stop` ends the sentence that began at `start`; `closed` is the end of the quotation
/// marks after it.
fn ends(text: &str, start: usize, stop: usize, closed: usize) -> bool {
    let mut behind = text[closed..].chars();
    let Some(next) = behind.next() else { return true };
    if !next.is_whitespace() {
        return false;
    }
    // "e.g. this", "U. S.": not the end of a sentence.
    let word = text[start..stop].rsplit(|c: char| !c.is_alphanumeric()).next();
    let is_initial = word.is_some_and(|word| word.chars().count() == 1 && word.chars().all(char::is_alphabetic));
    let goes_on = behind.find(|c| !c.is_whitespace()).is_some_and(char::is_lowercase);
    !(goes_on || is_initial && text[stop..].starts_with('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_divided_where_a_reader_would() {
        let cases: [(&str, &[&str]); 8] = [
            ("One. Two! Three?", &["One.", "Two!", "Three?"]),
            ("It costs 3.50 a day. Bring it.", &["It costs 3.50 a day.", "Bring it."]),
            ("See e.g. the list. Then go.", &["See e.g. the list.", "Then go."]),
            ("He said \"no.\" Then he left.", &["He said \"no.\"", "Then he left."]),
            (
                "A heading\n\n- a point\n- another",
                &["A heading", "- a point", "- another"],
            ),
            ("日本語です。次の文。", &["日本語です。", "次の文。"]),
            ("no end", &["no end"]),
            (" \n . ", &["."]),
        ];
        for (text, expected) in cases {
            let found: Vec<&str> = sentences(text).into_iter().map(|range| &text[range]).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn sentences_are_in_order_and_leave_out_white_space_alone(text in "([a-zé]{1,5}|[A-Z]|[.!?…。]|[ \n\"')]|[0-9]){0,60}") {
            let found = sentences(&text);
            let mut at = 0;
            for range in &found {
                prop_assert!(range.start >= at && range.end > range.start);
                prop_assert!(text[at..range.start].trim().is_empty());
                prop_assert_eq!(text[range.clone()].trim(), &text[range.clone()]);
                at = range.end;
            }
            prop_assert!(text[at..].trim().is_empty());
        }
    }
}

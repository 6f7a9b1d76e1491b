//! Replaces the sentences of an answer that nothing supports.

use std::ops::Range;

use crate::domain::content::Citation;

/// Replaces ranges of a text, in order and apart from each other, by `replacement`, and moves the citations with the text.
/// Ranges with only white space between them are replaced together.
pub fn replace(
    text: &str,
    mut citations: Vec<Citation>,
    ranges: &[Range<usize>],
    replacement: &str,
) -> (String, Vec<Citation>) {
    let ranges = joined(text, ranges);
    let mut replaced = String::with_capacity(text.len());
    let mut copied = 0;
    for range in &ranges {
        replaced.push_str(&text[copied..range.start]);
        replaced.push_str(replacement);
        copied = range.end;
    }
    replaced.push_str(&text[copied..]);
    for citation in &mut citations {
        citation.at = citation.at.map(|at| moved(at, &ranges, replacement.len() as u64));
    }
    (replaced, citations)
}

fn joined(text: &str, ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if text[last.end..range.start].trim().is_empty() => last.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    joined
}

/// Returns where a place of the text is after the ranges were replaced; one within a range is at its beginning.
fn moved(at: u64, ranges: &[Range<usize>], replacement: u64) -> u64 {
    let mut place = at;
    for range in ranges {
        let (start, end) = (range.start as u64, range.end as u64);
        if at >= end {
            place = place + replacement - (end - start);
        } else if at > start {
            place -= at - start;
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn citation(at: u64) -> Citation {
        Citation {
            document_id: String::new(),
            external_id: String::new(),
            title: String::new(),
            uri: None,
            quote: String::new(),
            page: None,
            chunk_id: String::new(),
            score: None,
            at: Some(at),
        }
    }

    #[test]
    fn what_is_replaced_together_and_where_citations_go() {
        let text = "Yes. No one knows. Perhaps.\nThirty days. Maybe";
        let part = |part: &str| {
            let start = text.find(part).expect("a part of the text");
            start..start + part.len()
        };
        let ranges = [part("No one knows."), part("Perhaps."), part("Maybe")];
        let behind = part("Thirty days.").end as u64;
        let (replaced, citations) = replace(text, vec![citation(4), citation(behind)], &ranges, "[?]");
        assert_eq!(replaced, "Yes. [?]\nThirty days. [?]");
        let places: Vec<u64> = citations.iter().filter_map(|citation| citation.at).collect();
        assert_eq!(
            places,
            [
                4,
                replaced
                    .find(" [?]")
                    .map_or(0, |_| "Yes. [?]\nThirty days.".len() as u64)
            ]
        );
        assert_eq!(replace("", Vec::new(), &[], "[?]").0, "");
    }

    proptest! {
        #[test]
        fn what_stands_before_a_citation_still_does(
            parts in prop::collection::vec(("[a-zé]{1,6}[.] ", any::<bool>()), 0..12),
        ) {
            let (mut text, mut ranges, mut citations) = (String::new(), Vec::new(), Vec::new());
            for (part, is_supported) in &parts {
                let start = text.len();
                text.push_str(part);
                let end = text.len() - 1;
                if *is_supported {
                    citations.push(citation(end as u64));
                } else {
                    ranges.push(start..end);
                }
            }
            let (replaced, moved) = replace(&text, citations.clone(), &ranges, "<none>");
            for (before, after) in citations.iter().zip(&moved) {
                let (before, after) = (before.at.unwrap() as usize, after.at.unwrap() as usize);
                let sentence = text[..before].rsplit(' ').next().unwrap();
                prop_assert!(replaced[..after].ends_with(sentence), "{replaced:?} {after}");
            }
            for range in &ranges {
                let kept = parts.iter().any(|(part, is_supported)| *is_supported && part.trim() == &text[range.clone()]);
                prop_assert!(kept || !replaced.split(' ').any(|word| word == &text[range.clone()]));
            }
        }
    }
}

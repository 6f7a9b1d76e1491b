//! Properties of chunks.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::document::Format;
use crate::extract::{Limits, Page, extract};

fn markdown(text: &str) -> Extracted {
    extract(text.as_bytes(), Format::Markdown, None, &Limits::default()).unwrap()
}

fn plain(text: impl Into<String>) -> Extracted {
    Extracted {
        text: text.into(),
        ..Extracted::default()
    }
}

/// Asserts the invariants and returns the chunks.
#[track_caller]
fn checked(extracted: &Extracted) -> Vec<ChunkDraft> {
    let text = &extracted.text;
    let chunks = chunk(extracted, &Estimate);
    let mut at = 0;
    for chunk in &chunks {
        let (start, end) = (
            usize::try_from(chunk.start).unwrap(),
            usize::try_from(chunk.end).unwrap(),
        );
        assert_eq!(chunk.text, text[start..end]);
        assert!(
            text[at..start].trim().is_empty(),
            "{:?} is in no chunk",
            &text[at..start]
        );
        assert!(!chunk.text.trim().is_empty());
        assert!(Estimate.count(&chunk.text) <= MOST_TOKENS);
        assert!(Estimate.count(&chunk.heading) <= HEADING_TOKENS);
        assert!(chunk.text.len() <= MOST_TOKENS * 16);
        at = end;
    }
    assert!(text[at..].trim().is_empty());
    assert_eq!(chunks, chunk(extracted, &Estimate), "not deterministic");
    chunks
}

const WORDS: &[&str] = &[
    "refund",
    "the",
    "customer",
    "a",
    "order",
    "within",
    "policy",
    "is",
    "of",
    "agent",
    "configuration",
    "when",
    "account",
    "to",
    "subscription",
    "plan",
    "and",
    "invoice",
    "must",
    "not",
    "cancel",
    "export",
    "région",
    "Größe",
    "7",
];

/// A small generator, so that documents are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn words(&mut self, from: usize, to: usize) -> String {
        let count = from + self.below(to - from);
        let words: Vec<&str> = (0..count).map(|_| WORDS[self.below(WORDS.len())]).collect();
        words.join(" ")
    }

    fn paragraph(&mut self) -> String {
        let count = 1 + self.below(7);
        let sentences: Vec<String> = (0..count).map(|_| format!("The {}.", self.words(4, 25))).collect();
        sentences.join(" ")
    }

    /// Sections of paragraphs, lists, tables and code.
    fn handbook(&mut self, sections: usize) -> String {
        let mut text = "# Handbook\n\n".to_owned();
        for section in 0..sections {
            let level = 2 + self.below(3);
            text += &format!("{} Section {section}: {}\n\n", "#".repeat(level), self.words(1, 6));
            for _ in 0..1 + self.below(6) {
                match self.below(8) {
                    0 => (0..3 + self.below(8)).for_each(|_| text += &format!("- {}\n", self.words(3, 20))),
                    1 => {
                        text += "| name | value |\n|---|---|\n";
                        (0..2 + self.below(10))
                            .for_each(|_| text += &format!("| {} | {} |\n", self.words(1, 4), self.words(1, 6)));
                    }
                    2 => text += &format!("```\n{}\n\n# {}\n```\n", self.words(3, 20), self.words(3, 20)),
                    _ => text += &format!("{}\n", self.paragraph()),
                }
                text.push('\n');
            }
        }
        text
    }

    fn paragraphs(&mut self, count: usize) -> String {
        let paragraphs: Vec<String> = (0..count).map(|_| self.paragraph()).collect();
        paragraphs.join("\n\n")
    }

    /// Lines of equal length that break sentences, as in e-mails and extracted PDFs.
    fn wrapped(&mut self, count: usize) -> String {
        let mut text = String::new();
        for (number, word) in self.paragraphs(count).split_whitespace().enumerate() {
            text += word;
            text.push(if number % 13 == 12 { '\n' } else { ' ' });
        }
        text
    }
}

/// Edits one place, and returns what the edit replaced. It leaves the fences of code alone: without one of them,
/// all that follows is code or is no longer.
fn edit(draw: &mut Draw, text: &str) -> (String, std::ops::Range<usize>) {
    loop {
        let at = text.floor_char_boundary(draw.below(text.len()));
        let (most, with) = match draw.below(3) {
            0 => (0, draw.words(1, 60) + "\n\n"),
            1 => (draw.below(800), String::new()),
            _ => (40, draw.paragraph()),
        };
        let end = text.floor_char_boundary((at + most).min(text.len()));
        let around =
            &text[text.floor_char_boundary(at.saturating_sub(3))..text.floor_char_boundary((end + 3).min(text.len()))];
        if !around.contains('`') {
            return (format!("{}{with}{}", &text[..at], &text[end..]), at..end.max(at + 1));
        }
    }
}

#[test]
fn an_edit_keeps_the_chunks_it_does_not_touch() {
    let mut draw = Draw(7);
    type Make = fn(&mut Draw) -> (Extracted, Format);
    let kinds: [(&str, Make); 5] = [
        ("handbook", |draw| (markdown(&draw.handbook(40)), Format::Markdown)),
        ("paragraphs", |draw| (plain(draw.paragraphs(150)), Format::Text)),
        ("wrapped lines", |draw| (plain(draw.wrapped(150)), Format::Text)),
        ("words alone", |draw| (plain(draw.words(9_999, 10_000)), Format::Text)),
        ("one run", |draw| {
            (plain(draw.words(4_999, 5_000).replace(' ', "")), Format::Text)
        }),
    ];
    for (kind, make) in kinds {
        let (mut worst, mut sizes) = (1.0_f64, Vec::new());
        for _ in 0..40 {
            let (before, format) = make(&mut draw);
            let (text, touched) = edit(&mut draw, &before.text);
            let after = if format == Format::Markdown {
                markdown(&text)
            } else {
                plain(text)
            };
            let (old, new) = (checked(&before), checked(&after));
            let mut kept: HashMap<&str, usize> = HashMap::new();
            new.iter().for_each(|chunk| *kept.entry(&chunk.text).or_default() += 1);
            let (mut untouched, mut same) = (0, 0);
            for chunk in &old {
                let (start, end) = (
                    usize::try_from(chunk.start).unwrap(),
                    usize::try_from(chunk.end).unwrap(),
                );
                if end <= touched.start || start >= touched.end {
                    untouched += 1;
                    if let Some(count) = kept.get_mut(chunk.text.as_str()).filter(|count| **count > 0) {
                        *count -= 1;
                        same += 1;
                    }
                }
            }
            sizes.extend(old.iter().map(|chunk| Estimate.count(&chunk.text)));
            worst = worst.min(f64::from(same) / f64::from(untouched));
        }
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        println!(
            "{kind}: {} chunks, {mean} tokens on average, at least {worst:.3} kept",
            sizes.len()
        );
        assert!(worst >= 0.95, "{kind}: {worst}");
        // A run without spaces counts as one token per character when it is cut, and is estimated as a long word here.
        let least = if kind == "one run" { 50 } else { 150 };
        assert!((least..=300).contains(&mean), "{kind}: {mean} tokens");
    }
}

#[test]
fn chunks_carry_their_headings_and_pages() {
    let mut draw = Draw(1);
    let mut part = || (0..3).map(|_| draw.paragraph() + "\n\n").collect::<String>();
    let text = format!(
        "# Guide\n\n{}\n## Billing\n\n{}\n### Refunds\n\n{}\n## Access\n\n{}",
        part(),
        part(),
        part(),
        part()
    );
    let mut extracted = markdown(&text);
    let at = text.find("### Refunds").unwrap();
    extracted.marks.pages = vec![Page { number: 1, offset: 0 }, Page { number: 2, offset: at }];
    for chunk in checked(&extracted) {
        let start = usize::try_from(chunk.start).unwrap();
        let begins = |heading: &str| chunk.text.starts_with(heading);
        let expected = if begins("# Guide") {
            ""
        } else if begins("## ") || start < text.find("## Billing").unwrap() {
            "Guide"
        } else if begins("### ") || start < at {
            "Guide > Billing"
        } else if start < text.find("## Access").unwrap() {
            "Guide > Billing > Refunds"
        } else {
            "Guide > Access"
        };
        assert_eq!(chunk.heading, expected, "{}", chunk.text);
        assert_eq!(chunk.page, Some(if start < at { 1 } else { 2 }));
    }
}

#[test]
fn small_sections_share_a_chunk_and_large_ones_do_not() {
    let small: String = (0..40)
        .map(|i| format!("## Question {i}\n\nYes, since version {i}.\n\n"))
        .collect();
    let chunks = checked(&markdown(&small));
    assert!(chunks.len() < 12, "{} chunks", chunks.len());
    let mut draw = Draw(3);
    let large: String = (0..10)
        .map(|i| format!("## Part {i}\n\n{}\n\n", draw.words(100, 120)))
        .collect();
    let chunks = checked(&markdown(&large));
    assert_eq!(chunks.len(), 10);
    assert!(chunks.iter().all(|chunk| chunk.text.starts_with("## Part")));
}

#[test]
fn the_context_names_title_and_headings_once() {
    let draft = |heading: &str| ChunkDraft {
        text: "Text.".into(),
        heading: heading.into(),
        page: None,
        start: 0,
        end: 5,
    };
    for (heading, title, expected) in [
        ("", None, "Text."),
        ("A > B", None, "A > B\nText."),
        ("A > B", Some("T"), "T\nA > B\nText."),
        ("A > B", Some("A"), "A > B\nText."),
        ("A", Some("A"), "A\nText."),
        ("AB > C", Some("A"), "A\nAB > C\nText."),
        ("", Some("A"), "A\nText."),
    ] {
        assert_eq!(draft(heading).context_text(title), expected);
    }
    let long = draft("").context_text(Some(&"é".repeat(500)));
    assert!(long.len() < 210);
}

#[test]
fn a_long_path_of_headings_is_cut() {
    let name = "configuration of accounts ".repeat(8);
    let text = format!("# {name}\n## {name}\n### {name}\n\n{}", Draw(5).paragraphs(20));
    let chunks = checked(&markdown(&text));
    assert!(chunks.iter().any(|chunk| chunk.heading == name.trim()));
    let text = format!("# {}\n\n{}", "internationalization ".repeat(18), Draw(5).paragraphs(20));
    let chunks = checked(&markdown(&text));
    assert!(chunks.last().unwrap().heading.starts_with("internationalization"));
}

proptest! {
    #[test]
    fn any_text_is_cut_by_the_rules(text in "(\\PC{0,40}|[ \n\r\t]{1,3}|#{1,6} |[a-z]{1,9}[.!?] |```\n|x{200}|[。-ﾟ]{1,30}){0,200}") {
        checked(&plain(text.clone()));
        if !text.trim().is_empty() {
            checked(&markdown(&text));
        }
    }

    #[test]
    fn repeated_text_is_cut_by_the_rules(unit in "[a-z. \n#|-]{1,30}", times in 1..3_000_usize) {
        checked(&plain(unit.repeat(times)));
    }
}

#[test]
fn chunks_of_a_price_list_have_whole_rows_with_their_columns() {
    let rows = (0..300).map(|row| {
        format!(
            "Widget {row},WX-{row:04},{}.90,a widget for the {row}th time\n",
            row * 7
        )
    });
    let list = format!("product,article,price,remark\n{}", rows.collect::<String>());
    let extracted = extract(list.as_bytes(), Format::Csv, None, &Limits::default()).unwrap();
    let chunks = chunk(&extracted, &Estimate);
    assert!(chunks.len() > 10, "{} chunks", chunks.len());
    let mut seen = 0;
    for chunk in &chunks {
        for row in chunk.text.trim().split("\n\n") {
            let names: Vec<&str> = row
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, _)| name)
                .collect();
            assert_eq!(names, ["product", "article", "price", "remark"], "{row}");
            seen += 1;
        }
    }
    assert_eq!(seen, 300);
}

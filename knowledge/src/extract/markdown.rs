//! Markdown: the text stays as it is, so quotes are exact; only its structure is read.

use pulldown_cmark::{Event, HeadingLevel, MetadataBlockKind, Options, Parser, Tag, TagEnd};

use super::marks::{Extracted, Heading, Marks};

/// Longest heading or title, in bytes. What is longer was not meant as one.
const LONGEST_HEADING: usize = 400;

/// Reads the structure of a Markdown text.
pub fn extract(text: String) -> Extracted {
    let mut reader = Reader::default();
    let options = Options::ENABLE_TABLES | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
    for (event, range) in Parser::new_ext(&text, options).into_offset_iter() {
        reader.read(event, range);
    }
    let Reader { title, marks, .. } = reader;
    // A first heading of the first level is what most documents have as their title.
    let first = marks.headings.first().filter(|heading| heading.level == 1);
    let title = title.or_else(|| first.map(|heading| heading.text.clone()));
    Extracted { title, text, marks }
}

#[derive(Default)]
struct Reader {
    title: Option<String>,
    marks: Marks,
    /// The heading that is being read.
    heading: Option<Heading>,
    is_metadata: bool,
}

impl Reader {
    fn read(&mut self, event: Event<'_>, range: std::ops::Range<usize>) {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                self.heading = Some(Heading {
                    level: number(level),
                    offset: range.start,
                    text: String::new(),
                });
            }
            Event::End(TagEnd::Heading(_)) => {
                let heading = self.heading.take().map(|heading| Heading {
                    text: clean(&heading.text),
                    ..heading
                });
                self.marks
                    .headings
                    .extend(heading.filter(|heading| !heading.text.is_empty()));
            }
            Event::Start(Tag::CodeBlock(_)) => self.marks.verbatim.push(range),
            Event::Start(Tag::MetadataBlock(MetadataBlockKind::YamlStyle)) => {
                self.is_metadata = true;
                self.marks.verbatim.push(range);
            }
            Event::End(TagEnd::MetadataBlock(_)) => self.is_metadata = false,
            Event::Text(text) if self.is_metadata && self.title.is_none() => self.title = title_of(&text),
            Event::Text(text) | Event::Code(text) => self.push(&text),
            Event::SoftBreak | Event::HardBreak => self.push(" "),
            _ => {}
        }
    }

    fn push(&mut self, text: &str) {
        if let Some(heading) = &mut self.heading
            && heading.text.len() < LONGEST_HEADING
        {
            heading.text.push_str(text);
        }
    }
}

/// Returns the value of `title:` in a block of YAML.
fn title_of(yaml: &str) -> Option<String> {
    let value = yaml.lines().find_map(|line| line.strip_prefix("title:"))?.trim();
    let unquoted = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let title = clean(unquoted.unwrap_or(value));
    (!title.is_empty()).then_some(title)
}

/// Joins words by single spaces and cuts what is too long.
pub fn clean(text: &str) -> String {
    let mut clean = String::new();
    for word in text.split_whitespace() {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
        if clean.len() >= LONGEST_HEADING {
            clean.truncate(clean.floor_char_boundary(LONGEST_HEADING));
            break;
        }
    }
    clean
}

fn number(level: HeadingLevel) -> u8 {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headings(extracted: &Extracted) -> Vec<(u8, &str)> {
        let headings = extracted.marks.headings.iter();
        headings.map(|heading| (heading.level, heading.text.as_str())).collect()
    }

    #[test]
    fn headings_of_every_form() {
        let text = "Handbook\n===\n\nIntro\n\n## Refunds & `codes` ##\n\n```sh\n# no heading\n\nls\n```\n\nLate\n---\n\n> ### Quoted\n\n#nothing\n";
        let extracted = extract(text.to_owned());
        assert_eq!(extracted.text, text);
        assert_eq!(extracted.title.as_deref(), Some("Handbook"));
        assert_eq!(
            headings(&extracted),
            [(1, "Handbook"), (2, "Refunds & codes"), (2, "Late"), (3, "Quoted")]
        );
        for heading in &extracted.marks.headings {
            let word = heading.text.split(' ').next().unwrap();
            assert!(text[heading.offset..].lines().next().unwrap().contains(word));
        }
        let code: Vec<&str> = extracted
            .marks
            .verbatim
            .iter()
            .map(|range| &text[range.clone()])
            .collect();
        assert_eq!(code.len(), 1);
        assert!(code[0].contains("# no heading\n\nls"));
    }

    #[test]
    fn titles() {
        for (text, title) in [
            (
                "---\ntitle: \"Opening hours\"\ntags: [a]\n---\n# Other\n",
                Some("Opening hours"),
            ),
            ("## Section\n# Later\n", None),
            ("no heading\n", None),
            ("---\ntitle:\n---\n# Kept\n", Some("Kept")),
        ] {
            assert_eq!(extract(text.to_owned()).title.as_deref(), title, "{text}");
        }
    }

    #[test]
    fn a_long_heading_is_cut() {
        let extracted = extract(format!("# {}\n", "é word ".repeat(1_000)));
        assert!(extracted.marks.headings[0].text.len() <= LONGEST_HEADING);
    }
}

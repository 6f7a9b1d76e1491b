//! Writes text with collapsed white space, lists, tables and headings.

use super::super::markdown::clean;
use super::super::marks::{Heading, Marks};

/// Deepest indentation of lists.
const INDENTED: usize = 8;

/// What separates the next text from the one before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    #[default]
    None,
    Space,
    Line,
    Paragraph,
}

#[derive(Default)]
pub struct Writer {
    pub text: String,
    marks: Marks,
    gap: Gap,
    /// Written before the next text of a list item.
    marker: Option<String>,
    /// Level of the open heading, and where it begins if it has text.
    heading: Option<(u8, Option<usize>)>,
    /// Where the open preformatted text begins, if it has text.
    verbatim: Option<usize>,
    /// Where the open row of a table begins.
    row: Option<usize>,
}

impl Writer {
    /// Separates what follows by at least this.
    pub fn gap(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }

    /// Writes text in which any white space is one space.
    pub fn flow(&mut self, text: &str) {
        if text.starts_with(char::is_whitespace) {
            self.gap(Gap::Space);
        }
        for (number, word) in text.split_whitespace().enumerate() {
            if number > 0 {
                self.gap(Gap::Space);
            }
            self.begin();
            // Marks where a word may be broken are not part of it.
            self.text
                .extend(word.chars().filter(|char| !matches!(char, '\u{ad}' | '\u{200b}')));
        }
        if text.ends_with(char::is_whitespace) {
            self.gap(Gap::Space);
        }
    }

    /// Writes text as it is.
    pub fn verbatim(&mut self, text: &str) {
        let text = if self.verbatim.is_none() {
            text.trim_start_matches(['\r', '\n'])
        } else {
            text
        };
        if text.is_empty() {
            return;
        }
        // Within one preformatted text, line breaks are its own.
        if self.verbatim.is_some() && self.gap == Gap::Space {
            self.gap = Gap::None;
        }
        self.begin();
        self.verbatim.get_or_insert(self.text.len());
        self.text.push_str(text);
    }

    /// Begins preformatted text.
    pub fn begin_verbatim(&mut self) {
        self.end_verbatim();
    }

    /// Ends preformatted text.
    pub fn end_verbatim(&mut self) {
        if let Some(start) = self.verbatim.take() {
            let end = self.text.trim_end().len();
            self.text.truncate(end);
            if start < end {
                self.marks.verbatim.push(start..end);
            }
        }
    }

    /// Begins an item of a list. `depth` counts the lists around it; a numbered one has its number.
    pub fn item(&mut self, depth: usize, number: Option<u32>) {
        let indent = "  ".repeat(depth.saturating_sub(1).min(INDENTED));
        self.marker = Some(match number {
            Some(number) => format!("{indent}{number}. "),
            None => format!("{indent}- "),
        });
    }

    /// Begins a heading.
    pub fn begin_heading(&mut self, level: u8) {
        self.heading = Some((level, None));
    }

    /// Ends a heading.
    pub fn end_heading(&mut self) {
        if let Some((level, Some(offset))) = self.heading.take() {
            let text = clean(&self.text[offset..]);
            if !text.is_empty() {
                self.marks.headings.push(Heading { level, offset, text });
            }
        }
    }

    /// Returns the words of the heading that ended last.
    pub fn last_heading(&self) -> Option<&str> {
        self.marks.headings.last().map(|heading| heading.text.as_str())
    }

    /// Begins a cell of a table.
    pub fn cell(&mut self) {
        self.gap = match self.row {
            Some(_) => Gap::None,
            None => self.gap.max(Gap::Line),
        };
        if self.row.is_some() {
            self.text.push_str(" | ");
        } else {
            self.begin();
            self.row = Some(self.text.len());
            self.text.push_str("| ");
        }
    }

    /// Ends the row of a table.
    pub fn end_row(&mut self) {
        let Some(start) = self.row.take() else {
            return;
        };
        let is_empty = !self.text[start..].contains(|char: char| char != '|' && !char.is_whitespace());
        if is_empty {
            self.text.truncate(start);
        } else {
            self.text.push_str(" |");
        }
        self.gap(Gap::Line);
    }

    /// Writes what comes before text.
    fn begin(&mut self) {
        let gap = std::mem::take(&mut self.gap);
        let newlines = self.text.len() - self.text.trim_end_matches('\n').len();
        self.text.push_str(match gap {
            _ if self.text.is_empty() => "",
            Gap::None => "",
            Gap::Space if self.text.ends_with([' ', '\n']) => "",
            Gap::Space => " ",
            Gap::Line => &"\n"[newlines.min(1)..],
            Gap::Paragraph => &"\n\n"[newlines.min(2)..],
        });
        if let Some(marker) = self.marker.take() {
            self.text.push_str(&marker);
        }
        if let Some((_, start @ None)) = &mut self.heading {
            *start = Some(self.text.len());
        }
    }

    /// Returns the text with its structure.
    pub fn finish(self) -> (String, Marks) {
        (self.text, self.marks)
    }
}

//! Chunks: the passages of documents that are searched and cited.
//!
//! A text is cut in three steps. `atoms` are what is never cut: sentences, or words of very long ones. Each begins at
//! a boundary with a strength: of a heading, a paragraph, a list item, a sentence. `boundaries` chooses where chunks
//! begin: a boundary that is stronger than all others near it, whatever comes before. [`chunk`] makes drafts of them.
//!
//! Invariants: chunks are in order and do not overlap; every byte that is not white space is in exactly one; none has more
//! than [`MOST_TOKENS`]. Whether a boundary is chosen depends on the text around it only, so after an edit all chunks but
//! those nearby have the same text as before, and keep their ids and vectors. (Splitters that fill one chunk after the
//! other move every boundary after the edit, up to the next heading.)

mod atoms;
mod boundaries;
mod tokens;

use copilotd_actors::domain::ids::{ChunkId, DocumentId};

use crate::document::{DocumentKey, Version};
use crate::extract::{Extracted, Heading};
pub use tokens::{Estimate, TokenCount};

/// Most tokens of a chunk's text. With a title and [`HEADING_TOKENS`] it stays below the 512 that embedding models of the
/// BERT family read. Chunks have about 256 on average where a text leaves the choice.
pub const MOST_TOKENS: usize = 368;
/// Most tokens of [`ChunkDraft::heading`].
pub const HEADING_TOKENS: usize = 64;
/// Longest part of a title that [`ChunkDraft::context_text`] contains, in bytes.
const TITLE_BYTES: usize = 192;
/// Between the headings of a path.
const SEPARATOR: &str = " > ";

/// A chunk cut from a document's text, before it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkDraft {
    /// Its text: exactly the bytes `start..end` of the extracted text.
    pub text: String,
    /// The headings above it, outermost first, joined by " > "; empty if there is none.
    pub heading: String,
    /// The page on which it begins, from 1; none for formats without pages.
    pub page: Option<u32>,
    /// Offset of its first byte in the extracted text.
    pub start: u64,
    /// Offset after its last byte.
    pub end: u64,
}

impl ChunkDraft {
    /// Returns what is embedded and indexed: the title and the headings give the passage its context.
    pub fn context_text(&self, title: Option<&str>) -> String {
        let title = title.unwrap_or_default();
        let title = &title[..title.floor_char_boundary(TITLE_BYTES)];
        let mut text = String::with_capacity(title.len() + self.heading.len() + self.text.len() + 2);
        // The outermost heading often is the title.
        let repeats = self
            .heading
            .strip_prefix(title)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(SEPARATOR));
        for part in [if repeats { "" } else { title }, &self.heading] {
            if !part.is_empty() {
                text.push_str(part);
                text.push('\n');
            }
        }
        text.push_str(&self.text);
        text
    }
}

/// Cuts a text into chunks. Takes time and memory linear in its length.
pub fn chunk(extracted: &Extracted, count: &dyn TokenCount) -> Vec<ChunkDraft> {
    let text = &extracted.text;
    let atoms = atoms::atoms(extracted, count);
    let starts = boundaries::choose(&atoms);
    let ends = starts.iter().skip(1).copied().chain([atoms.len()]);
    let mut headings = Path::new(extracted);
    let mut pages = extracted.marks.pages.iter().peekable();
    let mut page = None;
    let mut drafts = Vec::with_capacity(starts.len());
    for (first, end) in starts.iter().copied().zip(ends) {
        let (Some(first), Some(last)) = (atoms.get(first), atoms.get(end.saturating_sub(1))) else {
            continue;
        };
        while let Some(next) = pages.next_if(|page| page.offset <= first.start) {
            page = Some(next.number);
        }
        drafts.push(ChunkDraft {
            text: text[first.start..last.end].to_owned(),
            heading: headings.above(first.start, count),
            page,
            start: first.start as u64,
            end: last.end as u64,
        });
    }
    drafts
}

/// The headings above a place that moves forward.
struct Path<'a> {
    text: &'a str,
    headings: std::iter::Peekable<std::slice::Iter<'a, Heading>>,
    /// Outermost first; levels increase.
    path: Vec<&'a Heading>,
}

impl<'a> Path<'a> {
    fn new(extracted: &'a Extracted) -> Self {
        Self {
            text: &extracted.text,
            headings: extracted.marks.headings.iter().peekable(),
            path: Vec::new(),
        }
    }

    /// Returns the headings above the chunk that begins at `start`. Those it begins with are part of its text.
    fn above(&mut self, start: usize, count: &dyn TokenCount) -> String {
        while let Some(heading) = self.headings.next_if(|heading| heading.offset < start) {
            self.path.retain(|outer| outer.level < heading.level);
            self.path.push(heading);
        }
        let own = self
            .headings
            .peek()
            .filter(|own| line_start(self.text, own.offset) <= start);
        let most = own.map_or(u8::MAX, |own| own.level);
        let above = self.path.iter().filter(|heading| heading.level < most);
        let names: Vec<&str> = above.map(|heading| heading.text.as_str()).collect();
        within_tokens(&names, count)
    }
}

/// Joins the innermost headings that are short enough together.
fn within_tokens(names: &[&str], count: &dyn TokenCount) -> String {
    for from in 0..names.len() {
        let path = names[from..].join(SEPARATOR);
        if count.count(&path) <= HEADING_TOKENS {
            return path;
        }
    }
    // Not even the innermost one: as many of its words as fit. A token is one byte at least.
    let mut cut = String::new();
    for word in names.last().copied().unwrap_or_default().split_whitespace() {
        if cut.len() + 1 + word.len() > HEADING_TOKENS {
            break;
        }
        if !cut.is_empty() {
            cut.push(' ');
        }
        cut.push_str(word);
    }
    cut
}

/// Returns the offset at which the line of `offset` begins to have text.
fn line_start(text: &str, offset: usize) -> usize {
    let begin = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
    let line = &text[begin..];
    begin + (line.len() - line.trim_start().len())
}

/// A stored chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Its id: derived from the document and the text, so a chunk that an update does not change keeps it.
    pub id: ChunkId,
    /// Its document.
    pub document: DocumentId,
    /// Key of its document.
    pub key: DocumentKey,
    /// Title of its document.
    pub title: Option<String>,
    /// Address of its document.
    pub uri: Option<String>,
    /// The version in which it first occurred.
    pub since: Version,
    /// Whether it is part of the searchable version. A cited chunk stays readable after an update removed it.
    pub is_current: bool,
    /// Its position among the chunks of its version, from 0.
    pub ordinal: u32,
    /// The passage.
    pub draft: ChunkDraft,
}

#[cfg(test)]
mod tests;

//! The result of an extraction.

use std::ops::Range;

/// The text of a document with its structure. All offsets are bytes of `text`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The title that the document gives itself.
    pub title: Option<String>,
    /// The text. Chunks and citations quote it byte by byte.
    pub text: String,
    /// Its structure.
    pub marks: Marks,
}

/// The structure of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Its headings, in order of their offsets.
    pub headings: Vec<Heading>,
    /// Its pages, in order of their offsets; empty for formats without pages.
    pub pages: Vec<Page>,
    /// Code and other text in which empty lines separate nothing, in order and not overlapping.
    pub verbatim: Vec<Range<usize>>,
}

/// A heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// Its level, from 1 (outermost) to 6.
    pub level: u8,
    /// Offset of the block that it heads, which begins with the heading itself.
    pub offset: usize,
    /// Its words, without markup.
    pub text: String,
}

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Its number, from 1.
    pub number: u32,
    /// Offset of its first byte.
    pub offset: usize,
}

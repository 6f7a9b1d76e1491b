//! What a worker asks of either reader.

/// An open document of either reader.
pub trait Readable {
    /// Returns the number of pages.
    fn pages(&self) -> u32;

    /// Returns the title in the document's properties, if it has at most `most` code units.
    fn title(&self, most: usize) -> Option<String>;

    /// Returns the text of a page, counted from 0; none if it cannot be read.
    fn text(&self, number: u32) -> Option<String>;
}

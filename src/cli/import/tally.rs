//! What an import has done so far.

/// Skipped files that are named; of more only the number is shown.
pub(super) const SHOWN_SKIPS: u64 = 50;

/// Numbers of documents.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    /// New content was accepted; in a dry run, content that would be sent.
    pub stored: u64,
    /// The server has the same content.
    pub unchanged: u64,
    /// Could not be read, sent or ingested.
    pub failed: u64,
    /// Of these, those that could not be read from the source.
    pub unread: u64,
    /// Files that are no documents.
    pub skipped: u64,
    /// Documents that the source does not have.
    pub deleted: u64,
}

impl Tally {
    /// Returns the numbers as a line.
    pub fn line(&self, is_dry: bool) -> String {
        let Self {
            stored,
            unchanged,
            failed,
            skipped,
            deleted,
            ..
        } = self;
        if is_dry {
            return format!("would store {stored} and delete {deleted}; {failed} failed, {skipped} skipped");
        }
        let deleted = match deleted {
            0 => String::new(),
            deleted => format!(", {deleted} deleted"),
        };
        format!("{stored} stored, {unchanged} unchanged, {failed} failed, {skipped} skipped{deleted}")
    }
}

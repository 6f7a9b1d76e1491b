//! The chunks of a version with their ids: pure.

use std::collections::HashMap;

use copilotd_actors::domain::ids::{ChunkId, DocumentId};

use crate::chunk::ChunkDraft;
use crate::index::ChunkPlace;

/// A chunk with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: ChunkId,
    pub(super) draft: ChunkDraft,
}

/// Gives each chunk of a document its id; equal chunks are told apart by their order.
pub(super) fn identify(document: DocumentId, drafts: Vec<ChunkDraft>) -> Vec<Piece> {
    let mut seen: HashMap<(String, String), u32> = HashMap::new();
    let mut pieces = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let repetition = seen.entry((draft.heading.clone(), draft.text.clone())).or_default();
        let id = ChunkId::derived(document, &draft.heading, &draft.text, *repetition);
        *repetition += 1;
        pieces.push(Piece { id, draft });
    }
    pieces
}

impl Piece {
    /// Returns the id and the place in the version.
    pub(super) fn place(&self) -> (ChunkId, ChunkPlace) {
        let place = ChunkPlace {
            page: self.draft.page,
            start: self.draft.start,
            end: self.draft.end,
        };
        (self.id, place)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use uuid::Uuid;

    use super::*;

    fn draft(text: &str, heading: &str, start: u64) -> ChunkDraft {
        ChunkDraft {
            text: text.to_owned(),
            heading: heading.to_owned(),
            page: None,
            start,
            end: start + text.len() as u64,
        }
    }

    #[test]
    fn chunks_that_an_edit_moves_keep_their_ids() {
        let document = DocumentId::new(Uuid::from_u128(1));
        let before = identify(
            document,
            vec![draft("a", "h", 0), draft("b", "h", 1), draft("a", "h", 2)],
        );
        let after = identify(
            document,
            vec![draft("new", "h", 0), draft("a", "h", 3), draft("a", "h", 4)],
        );
        assert_eq!(before[0].id, after[1].id);
        assert_eq!(before[2].id, after[2].id, "the second of two equal chunks");
        assert_eq!(after[2].place().1.start, 4);
        let ids: HashSet<_> = before.iter().map(|piece| piece.id).collect();
        assert_eq!(ids.len(), 3);
        let elsewhere = identify(document, vec![draft("a", "other", 0)]);
        assert!(!ids.contains(&elsewhere[0].id), "another heading");
        let other = identify(DocumentId::new(Uuid::from_u128(2)), vec![draft("a", "h", 0)]);
        assert!(!ids.contains(&other[0].id), "another document");
    }
}

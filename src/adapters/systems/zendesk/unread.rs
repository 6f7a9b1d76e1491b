//! The rule for unread tickets.

/// Who wrote a comment, as far as the rule needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remark {
    /// Whether the requester wrote it.
    pub requester: bool,
    /// Whether an agent wrote it.
    pub agent: bool,
    /// Whether the requester can see it.
    pub public: bool,
}

/// Returns whether a ticket waits for an answer: it is open or new and has no public agent comment since the
/// requester's last. A requester who is an agent too counts as the requester. `None`: the given comments do not decide
/// it, older ones are needed; with all comments given, that means unread.
pub fn is_unread(status: &str, newest_first: impl IntoIterator<Item = Remark>) -> Option<bool> {
    if !matches!(status, "new" | "open") {
        return Some(false);
    }
    newest_first.into_iter().find_map(|remark| {
        if remark.requester {
            Some(true)
        } else if remark.agent && remark.public {
            Some(false)
        } else {
            // An internal note, or somebody in copy: neither asks nor answers.
            None
        }
    })
}

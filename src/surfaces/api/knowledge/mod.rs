//! `/v1/knowledge`: a tenant's documents, and searches in them.

pub mod chunks;
mod content;
pub mod documents;
pub mod search;
mod view;

use copilotd_knowledge::document::Reader;

use crate::http::credentials::{Caller, Scopes};

/// Returns the caller as a reader of documents: an administrator reads all, an API key that acts for nobody only those
/// for everybody.
fn reader(caller: &Caller) -> Reader {
    if caller.scopes.contains(Scopes::ADMIN) {
        return Reader::Administrator;
    }
    Reader::Caller {
        user: caller.acting_user().cloned(),
        roles: caller.roles.iter().cloned().collect(),
    }
}

//! What the simulated model providers share: what is answered, when, and what goes wrong. The wire format is each
//! provider's own.
//!
//! An answer is decided by the first of these that applies:
//! 1. a script queued with `POST /_sim/script` (`script.rs`);
//! 2. a request to rewrite a follow-up question (`rewrite.rs`);
//! 3. a directive `[[sim …]]` in the last user message (`directive.rs`);
//! 4. the persona, which uses the tools and the documents it is offered (`persona.rs`).
//!
//! Tokens are counted approximately: one per four characters, rounded up. Cached prompt tokens are those of the longest
//! common prefix with an earlier request for the same model, in blocks of 16.

mod advice;
pub(crate) mod chat;
pub(crate) mod control;
mod directive;
mod excerpts;
mod fill;
mod knobs;
mod persona;
pub(crate) mod pieces;
pub(crate) mod play;
mod rewrite;
mod script;
pub(crate) mod state;
pub(crate) mod step;
mod summary;
mod tickets;
mod title;
pub(crate) mod usage;

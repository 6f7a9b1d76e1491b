//! What a model call is given.
//!
//! An actor gathers the parts ([`gathered::Gathered`]: instructions, summary, window, tools, passages), which may need
//! I/O and counts their tokens on the compute pool. [`assemble::assemble`] is pure and decides what of it goes into the
//! prompt, within a [`assemble::Budget`]. A new source of context is gathered as [`gathered::Passage`]s.

pub mod assemble;
pub mod compression;
pub mod gathered;
pub mod memory;
pub mod project;
pub mod prompt;
pub mod question;
pub mod recalled;
pub mod recent;
pub mod replay;
pub mod rerank;
pub mod sent;
pub mod title;
pub mod tokens;

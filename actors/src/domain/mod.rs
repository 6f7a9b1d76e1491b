//! The pure core. Nothing here awaits, reads a clock, generates an id or does I/O.

pub mod access;
pub mod citation;
pub mod content;
pub mod context;
pub mod context_record;
pub mod conversation;
pub mod event;
pub mod failure;
pub mod file;
pub mod guardrail;
pub mod hash;
pub mod ids;
pub mod json;
pub mod policy;
pub mod prices;
pub mod schema;
pub mod search_words;
pub mod sent_prompt;
pub mod surrogates;
pub mod tenant;
pub mod token_bucket;
pub mod tool;
pub mod usage;
pub mod weight;

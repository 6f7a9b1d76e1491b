//! What a model call is given: the memory of the conversation, its window, its summary and the prompt made of them.

pub mod compression;
pub mod memory;
pub mod project;
pub mod prompt;
pub mod tokens;

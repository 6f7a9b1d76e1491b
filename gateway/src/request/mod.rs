//! What a caller asks for, and the form of what it gets back.

pub mod body;
pub mod call;
pub mod embed;
pub mod embed_input;
pub mod files;
pub mod model_request;
pub mod prompt_tokens;
pub mod report;
pub mod role;
pub mod strict;

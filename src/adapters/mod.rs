//! What the ports of the actors are in the outside world: each module drives one foreign system.

pub mod genai_span;
pub mod models;
pub mod openai;

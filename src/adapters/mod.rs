//! What stands between the actors' ports and the outside world. One driver per adapter; nothing here imports another.

pub mod slack;
pub mod systems;
pub mod tools;
pub mod zendesk;

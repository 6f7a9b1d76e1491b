//! Conversations, turns, events, messages, files, approvals and client tools of one user: what the product's own clients
//! call.

pub mod approvals;
pub mod client_tools;
pub mod conversations;
pub mod events;
pub mod facts;
pub mod files;
pub mod knowledge;
pub mod messages;
pub mod tickets;
pub mod turns;

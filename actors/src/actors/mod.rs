//! The actors: the directory, one per conversation, one agent per turn, one connector per tenant and external system.

pub mod admission;
pub mod agent;
pub mod compressor;
pub mod connector;
pub mod conversation;
pub mod conversations;
pub mod reconcile;
pub mod shared;
pub mod spans;
pub mod titler;

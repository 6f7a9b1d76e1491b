//! The gateway of copilotd: every model call goes through it, whether it is a turn's, a summary's or a call of the
//! OpenAI-compatible endpoint. It decides whether a call may run, where it runs, and what happens when that fails.
//!
//! No web framework, HTTP client or driver is known here. Providers, the store of usage records, a shared store of limits and
//! embedding models are ports, which `copilotd`'s adapters implement.
//!
//! Invariant: a call leaves for a target only with a key that [`access::Access`] handed out for its tenant.
#![warn(missing_docs)]

pub mod access;
pub mod answer;
pub mod cache;
pub mod dispatch;
pub mod error;
pub mod guardrail;
pub mod ledger;
pub mod limit;
pub mod meter;
pub mod provider;
pub mod request;
pub mod routing;
pub mod spending;
pub mod target;

pub use dispatch::{Embeddings, Gateway, ModelCard};

//! The knowledge of copilotd: turns a tenant's documents into chunks, and finds the chunks that help to answer a question.
//!
//! No web framework, HTTP client or driver is known here. The index and the embedding model are ports, which `copilotd`'s
//! adapters implement.
//!
//! Invariant: every operation on documents takes a [`TenantScope`](copilotd_actors::tenancy::TenantScope), and every search
//! names its [`Reader`](document::Reader): the index returns nothing that this reader may not see.
#![warn(missing_docs)]

pub mod chunk;
pub mod document;
pub mod extract;
pub mod facts;
#[cfg(feature = "fakes")]
pub mod fakes;
pub mod fusion;
pub mod index;
pub mod ingest;
pub mod lexical;
pub mod library;
pub mod query;
pub mod recall;
pub mod recollect;
pub mod retrieve;
pub mod sync;
pub mod turn_vectors;

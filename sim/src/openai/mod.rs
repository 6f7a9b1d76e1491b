//! An OpenAI-compatible provider that follows scripts, directives and a small persona.
//!
//! `POST /v1/chat/completions`, `GET /v1/models`, `GET /v1/models/{id}` and `POST /v1/embeddings`.
//! What a completion says is decided by the first of these that applies:
//! 1. a script queued with `POST /_sim/script` (`script.rs`);
//! 2. a directive `[[sim …]]` in the last user message (`directive.rs`);
//! 3. the persona, which uses the tools it is offered (`persona.rs`).
//!
//! Tokens are counted approximately: one for four characters, rounded up. Cached prompt tokens are
//! those of the longest common prefix with an earlier request for the same model, in blocks of 16.
//! The model `no-such-model` does not exist; every other name does.

mod directive;
mod embeddings;
mod fill;
mod knobs;
mod persona;
mod request;
mod routes;
mod script;
mod state;
mod step;
mod stream;
mod summary;
mod tickets;
mod usage;
mod validate;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::{Running, net};

/// Starts the provider; the base URL for clients is `{base_url}/v1`.
pub async fn start(listen: SocketAddr) -> io::Result<Running> {
    let provider = Arc::new(state::Provider::new());
    net::serve(listen, routes::router(provider)).await
}

//! An OpenAI-compatible provider, driven by scripts, directives and a small persona.
//!
//! `POST /v1/chat/completions`, `GET /v1/models`, `GET /v1/models/{id}` and `POST /v1/embeddings`.
//! The content of a completion is decided in `model`.
//!
//! The model `no-such-model` does not exist; every other name does.

mod embeddings;
mod request;
mod routes;
mod stream;
mod validate;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::state::Provider;
use crate::{Running, net};

/// Starts the provider; the base URL for clients is `{base_url}/v1`.
pub async fn start(listen: SocketAddr) -> io::Result<Running> {
    let provider = Arc::new(Provider::new());
    net::serve(listen, routes::router(provider)).await
}

//! Anthropic's Messages API, as far as chat needs it, driven by scripts, directives and a small persona.
//!
//! `POST /v1/messages`. The content of an answer is decided in `model`, as for the other provider, so a test can make
//! both answer or fail in the same way. Where directives and scripts use OpenAI's terms (`finish=length`,
//! `code=context_length_exceeded`), the answer uses Anthropic's.
//!
//! Only prompts marked for the cache are written to it and read from it, in blocks of 16 tokens. A request with
//! `thinking` is answered with a thought first. The model `no-such-model` does not exist; every other name does.

mod refusal;
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

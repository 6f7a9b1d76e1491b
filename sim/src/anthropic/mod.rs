//! Anthropic's Messages API, as far as chat needs it, that follows scripts, directives and a small persona.
//!
//! `POST /v1/messages`. What an answer says is decided in `model`, as for the other provider: so a test can have both say the
//! same or fail alike. Where directives and scripts use OpenAI's words (`finish=length`, `code=context_length_exceeded`),
//! Anthropic's are said.
//!
//! Prompts that are marked for the cache are written to it and read from it in blocks of 16 tokens; others are not. A request
//! with `thinking` is answered with a thought first. The model `no-such-model` does not exist; every other name does.

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

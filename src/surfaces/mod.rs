//! One file per resource: request type, response type, handlers.

pub mod admin;
mod answer_memory;
pub mod api;
pub mod assets;
mod conversation_access;
mod cross_origin;
pub mod error_documents;
pub mod fair_share;
pub mod file_access;
pub(crate) mod hand_over;
pub mod openai;
pub mod openapi;
pub mod operator;
pub(crate) mod refusal;
pub mod router;
pub mod standby;
pub mod state;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use crate::http::problems::{Code, Problem, Retry};
use state::Shutdown;

/// Refuses new work while the process is shutting down.
fn ensure_accepting_work(shutdown: &Shutdown) -> Result<(), Problem> {
    if shutdown.is_draining() {
        let problem = Problem::new(Code::Unavailable).detail("the server is shutting down; nothing was stored");
        return Err(problem.retry(Retry::Safe));
    }
    Ok(())
}

//! Chaos test: users work while the real server is killed and stopped and loses its dependencies; then a checker
//! outside the process compares what they saw, and what the simulated vendors received, with what the API serves. See
//! `docs/extend/chaos.md`.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "clippy's allowance covers test functions only; seeds and program paths come from the environment"
)]

mod check;
mod client;
mod config;
mod findings;
mod history;
mod run;
mod schedule;
mod server;
mod stage;
#[expect(dead_code, reason = "shared by two test programs, each of which uses a part")]
mod support;
mod user;
mod watcher;

use run::{Settings, run};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by scripts/chaos"]
async fn sqlite() {
    run(Settings::from_env(), None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by scripts/chaos"]
async fn mongodb() {
    if let Some(binary) = support::secantus::binary() {
        run(Settings::from_env(), Some(binary)).await;
    }
}

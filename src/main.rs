//! The `copilotd` program.

use std::process::ExitCode;

use copilotd::adapters::schema_check;
use copilotd::{app, cli};

fn main() -> ExitCode {
    // First of all: a schema worker needs none of the rest, and its memory is counted from here.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == schema_check::ARGUMENT)
    {
        return schema_check::run_worker();
    }
    // Dependencies link in both crypto providers of rustls; without an explicit default it panics at the first
    // connection. An error only means that a default was already installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os(), &app::context(), app::run)
}

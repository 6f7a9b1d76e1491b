//! The `copilotd` program.

use std::process::ExitCode;

use copilotd::adapters::schema_check;
use copilotd::{app, cli};

fn main() -> ExitCode {
    // Before everything else: a worker needs none of it, and counts its memory from here.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == schema_check::ARGUMENT)
    {
        return schema_check::run_worker();
    }
    // Both of rustls' providers are linked in by dependencies; without a choice it panics at the first connection. An
    // error says that a choice was made already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os(), &app::context(), app::run)
}

//! The `copilotd` program.

use std::process::ExitCode;

use copilotd::{app, cli};

fn main() -> ExitCode {
    // Both of rustls' providers are linked in by dependencies; without a choice it panics at the first connection. An
    // error says that a choice was made already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os(), &app::context(), app::run)
}

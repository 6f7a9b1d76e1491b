//! The `copilotd` program.

use std::process::ExitCode;

use copilotd::adapters::{pdf, schema_check};
use copilotd::{app, cli};

fn main() -> ExitCode {
    // First of all: workers need none of the rest, and their memory is counted from here.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == schema_check::ARGUMENT => return schema_check::run_worker(),
        Some(first) if first == pdf::ARGUMENT => return pdf::run_worker(arguments),
        _ => {}
    }
    // Dependencies link in both crypto providers of rustls; without an explicit default it panics at the first
    // connection. An error only means that a default was already installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os(), &app::context(), app::run)
}

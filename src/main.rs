//! The `copilotd` program.

use std::collections::BTreeSet;
use std::process::ExitCode;

use copilotd::cli::{self, Context, Failure};
use copilotd::config::Env;

fn main() -> ExitCode {
    // Both of rustls' providers are linked in by dependencies; without a choice it panics at the first connection. An
    // error says that a choice was made already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let context = Context {
        env: Env::of_process(),
        known_tools: BTreeSet::new(),
        now: jiff::Timestamp::now(),
    };
    cli::run(std::env::args_os(), &context, |command, _context| {
        Err(Failure::failed(format!("this build has no {command:?}")))
    })
}

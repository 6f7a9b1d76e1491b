//! The command line. Exit codes: 0 success, 1 failure, 2 wrong usage or configuration.

mod args;
mod check;
mod healthcheck;
mod import;
mod key;
mod remote;
mod token;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

#[cfg(feature = "demo")]
pub use args::DemoArgs;
pub use args::{
    CheckArgs, Cli, Command, ConfigArgs, HealthcheckArgs, ImportArgs, KeyCommand, KnowledgeCommand, MintArgs,
    ModelsCommand, ProjectionsCommand, PullArgs, RevokeArgs, Scope, ServeArgs, ServerArgs, TenantCommand, TokenArgs,
    TokenCommand, VerifyArgs,
};
use clap::Parser;
use jiff::Timestamp;

use crate::config::{Config, Env, Globals, Source, SystemKinds};
pub use check::check;
pub use healthcheck::healthcheck;
pub use token::verify as verify_token;

/// The commands' environment.
#[derive(Debug)]
pub struct Context {
    /// Environment variables.
    pub env: Env,
    /// The kinds of external systems that tenants may have.
    pub kinds: SystemKinds,
    /// The current time.
    pub now: Timestamp,
}

impl Context {
    /// Reads and checks the configuration that a command names.
    pub fn config(&self, args: &ConfigArgs) -> Result<Config, Failure> {
        let source = self.source(args)?;
        let config = source.config();
        config.map_err(|faults| unusable(args, &source.report_all(&faults)))
    }

    /// Reads and checks the configuration that a command names, without its tenants.
    pub fn globals(&self, args: &ConfigArgs) -> Result<Globals, Failure> {
        let source = self.source(args)?;
        let globals = source.globals();
        globals.map_err(|faults| unusable(args, &source.report_all(&faults)))
    }

    /// Reads the configuration that a command names, without checking it.
    pub fn source(&self, args: &ConfigArgs) -> Result<Source, Failure> {
        let source = Source::load(&args.config, &self.env, &self.kinds);
        source.map_err(|faults| unusable(args, &faults.to_string()))
    }
}

fn unusable(args: &ConfigArgs, faults: &str) -> Failure {
    Failure::usage(format!(
        "{} is not a valid configuration:\n{faults}",
        args.config.display()
    ))
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// Whether the arguments or the configuration are wrong.
    usage: bool,
    message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// Wrong arguments or configuration (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            usage: true,
            message: message.into(),
        }
    }

    /// Any other failure (exit code 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            usage: false,
            message: message.into(),
        }
    }
}

/// Runs the command in `args`. `check`, `token` and `key create` without a server run here; `app` runs the others.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    context: &Context,
    app: impl FnOnce(Command, &Context) -> Result<(), Failure>,
) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Clap also reports help and version as errors, meant for standard output and exit code 0.
            let code = if error.use_stderr() { 2 } else { 0 };
            return if error.print().is_ok() {
                ExitCode::from(code)
            } else {
                ExitCode::FAILURE
            };
        }
    };
    let outcome = match cli.command {
        Command::Check(args) if !args.online => check::check(&args, context).map(drop),
        Command::Token(TokenArgs { command: None, mint }) => token::run(&mint, context),
        Command::Key(KeyCommand::Create {
            name,
            scopes,
            expires,
            secret_file,
            server: None,
            ..
        }) => key::create(&name, &scopes, expires, secret_file.as_deref()),
        command => app(command, context),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_stderr(&format!("error: {}", failure.message));
            ExitCode::from(if failure.usage { 2 } else { 1 })
        }
    }
}

/// Runs a command that asks a running server.
pub async fn remote(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Tenant(command) => remote::tenant(command).await,
        Command::Key(command) => remote::key(command).await,
        Command::Token(TokenArgs {
            command: Some(command), ..
        }) => remote::token(command).await,
        Command::Knowledge(KnowledgeCommand::Import(args)) => import::run(args).await,
        _ => Err(Failure::failed("internal error: this command needs no server")),
    }
}

/// Writes a line to standard error; ignores a closed one.
fn print_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes to standard output; a closed pipe is a failure, not a panic.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))
}

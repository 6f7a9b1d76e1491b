//! The command line. Exit codes: 0 fine, 1 failed, 2 used wrongly.

mod args;
mod key;
mod remote;
mod token;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

pub use args::{
    Cli, Command, ConfigArgs, DemoArgs, KeyCommand, MintArgs, ModelsCommand, ProjectionsCommand, PullArgs, RevokeArgs,
    Scope, ServerArgs, TenantCommand, TokenArgs, TokenCommand,
};
use clap::Parser;
use jiff::Timestamp;

use crate::config::{Config, Env, Faults, Globals, Source};

/// What the commands need from outside.
#[derive(Debug)]
pub struct Context {
    /// The environment.
    pub env: Env,
    /// Names that a copilot's `tools` may hold.
    pub known_tools: BTreeSet<String>,
    /// The time of the call.
    pub now: Timestamp,
}

impl Context {
    /// Reads the configuration that a command names.
    pub fn config(&self, args: &ConfigArgs) -> Result<Config, Failure> {
        let config = self.source(args)?.config();
        config.map_err(|faults| unusable(args, &faults))
    }

    /// Reads what is not a tenant's in the configuration that a command names.
    pub fn globals(&self, args: &ConfigArgs) -> Result<Globals, Failure> {
        let globals = self.source(args)?.globals();
        globals.map_err(|faults| unusable(args, &faults))
    }

    /// Reads the configuration that a command names, to which tenants may be added.
    pub fn source(&self, args: &ConfigArgs) -> Result<Source, Failure> {
        let source = Source::load(&args.config, &self.env, &self.known_tools);
        source.map_err(|faults| unusable(args, &faults))
    }
}

fn unusable(args: &ConfigArgs, faults: &Faults) -> Failure {
    Failure::usage(format!("{} cannot be used:\n{faults}", args.config.display()))
}

/// A command that did not do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    /// Whether the caller is to blame: a wrong argument or configuration.
    usage: bool,
    message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// Blames the arguments or the configuration (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            usage: true,
            message: message.into(),
        }
    }

    /// Says that it did not work (exit code 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            usage: false,
            message: message.into(),
        }
    }
}

/// Runs what `args` ask for. `check`, `token` and a `key create` without a server are done here; `app` does the commands that run the product.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    context: &Context,
    app: impl FnOnce(Command, &Context) -> Result<(), Failure>,
) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and the version come as errors too, meant for standard output and with exit code 0.
            let code = if error.use_stderr() { 2 } else { 0 };
            return if error.print().is_ok() {
                ExitCode::from(code)
            } else {
                ExitCode::FAILURE
            };
        }
    };
    let outcome = match cli.command {
        Command::Check(args) => check(&args, context),
        Command::Token(TokenArgs { command: None, mint }) => token::run(&mint, context),
        Command::Key(KeyCommand::Create {
            name,
            scopes,
            expires,
            server: None,
            ..
        }) => key::create(&name, &scopes, expires),
        command => app(command, context),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {}", failure.message);
            ExitCode::from(if failure.usage { 2 } else { 1 })
        }
    }
}

fn check(args: &ConfigArgs, context: &Context) -> Result<(), Failure> {
    let config = context.config(args)?;
    for warning in config.warnings(context.now) {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    let copilots: usize = config.tenants.iter().map(|tenant| tenant.copilots.len()).sum();
    print(&format!(
        "{}: fine, {} tenants, {copilots} copilots\n",
        args.config.display(),
        config.tenants.len()
    ))
}

/// Runs what is asked of a running server.
pub async fn remote(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Tenant(command) => remote::tenant(command).await,
        Command::Key(command) => remote::key(command).await,
        Command::Token(TokenArgs {
            command: Some(command), ..
        }) => remote::token(command).await,
        _ => Err(Failure::failed("not asked of a server")),
    }
}

/// Writes to standard output; a closed pipe is a failure and not a panic.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))
}

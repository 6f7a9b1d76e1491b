//! The arguments of every command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use copilotd_actors::domain::ids::{TenantId, UserId};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use crate::revocations::RevocationId;
use crate::scopes::Scopes;
use crate::tenants::KeyId;

/// Version and commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("COPILOTD_COMMIT"), ")");

/// The backend for AI copilots in SaaS products: durable conversations, one supervised actor each.
#[derive(Debug, Parser)]
#[command(name = "copilotd", version = VERSION, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs everything in one process on embedded defaults, with a simulated outside world
    Demo(DemoArgs),
    /// Runs the product
    Serve(ServeArgs),
    /// Checks a configuration and names every fault at once
    Check(CheckArgs),
    /// Asks the configured server whether it is ready; for a container's health check
    Healthcheck(HealthcheckArgs),
    /// Mints a user token, where the configuration holds a secret that can sign one; `token revoke` revokes tokens
    Token(TokenArgs),
    /// Works with API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Works with the tenants of a running server
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Works with what is derived from the log
    #[command(subcommand)]
    Projections(ProjectionsCommand),
    /// Works with the embedding models that run in the process
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Writes the description of the HTTP interface (OpenAPI 3.1)
    Openapi,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Port on the loopback address; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Directory of the data; killed and started again on the same one it goes on where it was
    #[arg(long, value_name = "DIR", default_value = "copilotd-demo")]
    pub data_dir: PathBuf,
}

/// Names the configuration.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "copilotd.toml")]
    pub config: PathBuf,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Waits while another process has the store, and takes over when that one stops or dies
    ///
    /// It listens meanwhile: /readyz answers 503 with the status "standby", and requests wait up to 5 s for the takeover. With a standby
    /// there, SIGTERM makes the process that serves hand over within 2 s instead of draining. Without another process it
    /// serves at once.
    #[arg(long)]
    pub standby: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also reaches providers, the store, Redis and published keys, each within a few seconds; changes nothing there
    #[arg(long, conflicts_with = "no_secrets")]
    pub online: bool,
    /// Secrets of the environment and of files need not be there, as on a machine that builds
    #[arg(long)]
    pub no_secrets: bool,
}

/// Arguments of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// The configuration, which says where the server listens
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Asks whether the process is alive (`/healthz`) and not whether its dependencies answer (`/readyz`)
    #[arg(long)]
    pub live: bool,
    /// Longest time for the answer
    #[arg(long, value_name = "TIME", default_value = "3s")]
    pub timeout: SignedDuration,
}

/// Arguments of `token`: of minting, or a command.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct TokenArgs {
    /// What to do in place of minting
    #[command(subcommand)]
    pub command: Option<TokenCommand>,
    /// What to mint
    #[command(flatten)]
    pub mint: MintArgs,
}

/// Arguments of `token verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The token or API key; read from standard input when missing or `-`, which keeps it out of the list of processes
    pub credential: Option<SecretString>,
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Works with user tokens: `verify` by the configuration, the others with those that a running server accepts (scope admin).
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Revokes all tokens of a user that were issued up to now, or one token; effective immediately
    Revoke {
        /// What to revoke
        #[command(flatten)]
        what: RevokeArgs,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Explains a user token or API key by the configuration: what holds, and what does not
    ///
    /// Revocations, and tenants and keys that a running server keeps, are not known to it.
    Verify(VerifyArgs),
    /// Lists the revocations in force
    Revocations(ServerArgs),
    /// Lifts a revocation: tokens that it hit are accepted again until their end
    Lift {
        /// Id of the revocation, rev_…
        id: RevocationId,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Whose tokens, or which.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RevokeArgs {
    /// The user; API keys that act for the user are not affected
    #[arg(long)]
    pub user: Option<UserId>,
    /// The token's jti, or its name in the audit log (jwt:…)
    #[arg(long, value_name = "ID")]
    pub token_id: Option<String>,
}

/// Arguments of minting a token. Tenant and user are required, but not beside a command in its place.
#[derive(Debug, Args)]
pub struct MintArgs {
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The tenant
    #[arg(long, required = true)]
    pub tenant: Option<TenantId>,
    /// The user
    #[arg(long, required = true)]
    pub user: Option<UserId>,
    /// What the token allows; may be given several times or with commas
    #[arg(long = "scope", value_enum, value_delimiter = ',', default_value = "chat")]
    pub scopes: Vec<Scope>,
    /// How long the token lives, at most 24h
    #[arg(long, default_value = "1h")]
    pub ttl: SignedDuration,
}

/// Works with API keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Makes an API key and shows it once: with its hash for the configuration, or with --server kept by a running server
    Create {
        /// What the key allows; may be given several times or with commas
        #[arg(long = "scope", value_enum, value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// Name of the key
        #[arg(long, default_value = "backend")]
        name: String,
        /// End of the key, such as 2027-01-31T00:00:00Z; none when missing
        #[arg(long, value_name = "TIME")]
        expires: Option<Timestamp>,
        /// A new file for the key itself, readable by this user alone; without it the key is shown: on a terminal with the rest, else on
        /// standard error, so that what goes into the configuration holds no secret
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// Address of a running server, which is to keep the key; its id and the key are then all that is written
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// Credential with the scope admin for the server; better in the environment than on the command line
        #[arg(long, env = "COPILOTD_CREDENTIAL", hide_env_values = true)]
        credential: Option<SecretString>,
    },
    /// Lists the tenant's keys
    List(ServerArgs),
    /// Takes a key back: it is refused at once
    Revoke {
        /// Id of the key, key_…
        id: KeyId,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Names a running server and who asks.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address of the running server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// Credential for it; better in the environment than on the command line
    #[arg(long, env = "COPILOTD_CREDENTIAL", hide_env_values = true)]
    pub credential: SecretString,
}

/// Works with the tenants of a running server; needs the scope operator.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Lists the tenants
    List(ServerArgs),
    /// Shows a tenant; its secrets are named and not shown
    Show {
        /// The tenant
        id: TenantId,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Makes a tenant
    Create {
        /// Its id
        id: TenantId,
        /// File with its settings: what stands in a tenant of the configuration, as TOML, or the same as JSON
        #[arg(long, value_name = "FILE")]
        settings: PathBuf,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Changes a tenant's settings
    Update {
        /// The tenant
        id: TenantId,
        /// File with a merge patch (RFC 7396) of its settings, as JSON, or as TOML where nothing is to be removed
        #[arg(long, value_name = "FILE")]
        patch: PathBuf,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Refuses a tenant's credentials, ends its streams and cancels its open turns; nothing is deleted
    Suspend {
        /// The tenant
        id: TenantId,
        /// Also when it is the tenant of the credential that asks, which is refused from then on
        #[arg(long)]
        force: bool,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Serves a suspended tenant again
    Resume {
        /// The tenant
        id: TenantId,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Works with what is derived from the log.
#[derive(Debug, Subcommand)]
pub enum ProjectionsCommand {
    /// Rebuilds every projection from the log; the server has to be stopped
    Rebuild(ConfigArgs),
}

/// Works with the embedding models that run in the process.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Fetches a model's files and checks them by their hashes; those that are right already are left alone
    Pull(PullArgs),
}

/// Arguments of `models pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// `all-MiniLM-L6-v2`, or `wordllama-l2-256`, which is lighter and weaker
    pub model: String,
    /// Address below which the files stand as MODEL/FILE
    #[arg(long, value_name = "URL")]
    pub from: String,
    /// Directory of all models
    #[arg(long, value_name = "DIR", default_value = "data/models")]
    pub into: PathBuf,
}

/// A scope, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "each is the scope of its name")]
pub enum Scope {
    Chat,
    Gateway,
    Knowledge,
    Admin,
    Operator,
}

impl Scope {
    /// Returns the set of all `scopes`.
    pub fn set(scopes: &[Self]) -> Scopes {
        let one = |scope: &Self| match scope {
            Self::Chat => Scopes::CHAT,
            Self::Gateway => Scopes::GATEWAY,
            Self::Knowledge => Scopes::KNOWLEDGE,
            Self::Admin => Scopes::ADMIN,
            Self::Operator => Scopes::OPERATOR,
        };
        scopes.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}

//! The arguments of every command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use copilotd_actors::domain::ids::{CollectionName, TenantId, UserId};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use copilotd_actors::domain::access::revocation::RevocationId;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::tenant::KeyId;

/// Version and commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("COPILOTD_COMMIT"), ")");

/// The self-hosted backend for AI copilots in SaaS products
#[derive(Debug, Parser)]
#[command(name = "copilotd", version = VERSION, arg_required_else_help = true)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// A command with its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process with simulated models and systems, without a configuration
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Run the server
    Serve(ServeArgs),
    /// Check a configuration and list all its errors and warnings
    Check(CheckArgs),
    /// Ask the configured server whether it is ready; for a container's health check
    Healthcheck(HealthcheckArgs),
    /// Issue a user token, if the tenant has an HS256 issuer; verify or revoke tokens
    Token(TokenArgs),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Manage the tenants of a running server, with a credential of the scope operator
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Store documents in a running server
    #[command(subcommand)]
    Knowledge(KnowledgeCommand),
    /// Rebuild projections: data derived from the conversations' logs
    #[command(subcommand)]
    Projections(ProjectionsCommand),
    /// Download embedding models that run inside the process
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Print the OpenAPI 3.1 description of the HTTP API
    Openapi,
}

/// Arguments of `demo`.
#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Port on 127.0.0.1; 0 picks a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Data directory; start a killed demo again with the same one, and it continues where it stopped
    #[arg(long, value_name = "DIR", default_value = "copilotd-demo")]
    pub data_dir: PathBuf,
}

/// The configuration file.
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
    /// Wait while another process uses the store, and take over when it stops or dies
    ///
    /// While it waits, it already listens: /readyz answers 503 with the status "standby", and requests wait up to 5 s
    /// for the takeover. When a standby is waiting, SIGTERM makes the serving process hand over within 2 s instead of
    /// draining. If no other process uses the store, it serves immediately.
    #[arg(long)]
    pub standby: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also contact providers, the store, Redis, external systems and JWKS addresses, 5 s each; changes nothing there
    #[arg(long, conflicts_with = "no_secrets")]
    pub online: bool,
    /// Do not read secrets from environment variables and files, for example on a build machine
    #[arg(long)]
    pub no_secrets: bool,
}

/// Arguments of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// The configuration, for the server's address
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only check that the process is alive (`/healthz`), not that its dependencies answer (`/readyz`)
    #[arg(long)]
    pub live: bool,
    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "3s")]
    pub timeout: SignedDuration,
}

/// Arguments of `token`: those of issuing a token, or a subcommand.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct TokenArgs {
    /// A subcommand, instead of issuing a token
    #[command(subcommand)]
    pub command: Option<TokenCommand>,
    /// The token to issue
    #[command(flatten)]
    pub mint: MintArgs,
}

/// Arguments of `token verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The token or API key; if missing or `-`, it is read from standard input, which keeps it out of the process list
    pub credential: Option<SecretString>,
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Subcommands of `token`: `verify` works from the configuration, the others ask a running server (scope admin).
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Revoke all tokens of a user that were issued up to now, or one token; effective immediately
    Revoke {
        /// What to revoke
        #[command(flatten)]
        what: RevokeArgs,
        /// Reason for the audit log
        #[arg(long)]
        reason: Option<String>,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Check a user token or API key against the configuration and explain why it is accepted or refused
    ///
    /// It does not see revocations, or tenants and keys that were created through the API of a running server.
    Verify(VerifyArgs),
    /// List the revocations in force
    Revocations(ServerArgs),
    /// Lift a revocation: tokens that it refused are accepted again until they expire
    Lift {
        /// Id of the revocation (rev_…)
        id: RevocationId,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// The user or the token to revoke.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RevokeArgs {
    /// The user whose tokens to revoke; API keys that act for the user are not affected
    #[arg(long)]
    pub user: Option<UserId>,
    /// The token to revoke: its jti, or its name in the audit log (jwt:…)
    #[arg(long, value_name = "ID")]
    pub token_id: Option<String>,
}

/// Arguments of issuing a token. Tenant and user are required, unless a subcommand is given.
#[derive(Debug, Args)]
pub struct MintArgs {
    /// The configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The tenant's id
    #[arg(long, required = true)]
    pub tenant: Option<TenantId>,
    /// The user's id, the token's `sub`
    #[arg(long, required = true)]
    pub user: Option<UserId>,
    /// Scope of the token; repeat it or separate several with commas
    #[arg(long = "scope", value_enum, value_delimiter = ',', default_value = "chat")]
    pub scopes: Vec<Scope>,
    /// Lifetime of the token, at most 24h
    #[arg(long, default_value = "1h")]
    pub ttl: SignedDuration,
}

/// Subcommands of `key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create an API key and show it once: with its hash for the configuration, or with --server in a running server
    Create {
        /// Scope of the key; repeat it or separate several with commas
        #[arg(long = "scope", value_enum, value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// Name of the key, unique in its tenant
        #[arg(long, default_value = "backend")]
        name: String,
        /// When the key expires, such as 2027-01-31T00:00:00Z; never if missing
        #[arg(long, value_name = "TIME")]
        expires: Option<Timestamp>,
        /// Write the key to this new file, readable only by you; otherwise it is printed: on a terminal with the rest,
        /// else on standard error, so that output redirected into the configuration contains no secret
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// Create the key in the running server at this address; prints only its id and the key
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// Credential with the scope admin for the server; prefer the environment variable to the command line
        #[arg(long, env = "COPILOTD_CREDENTIAL", hide_env_values = true)]
        credential: Option<SecretString>,
    },
    /// List the tenant's keys
    List(ServerArgs),
    /// Revoke a key, effective immediately
    Revoke {
        /// Id of the key (key_…)
        id: KeyId,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// A running server and the credential for it.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address of the running server
    #[arg(
        long,
        value_name = "URL",
        env = "COPILOTD_SERVER",
        default_value = "http://127.0.0.1:8080"
    )]
    pub server: String,
    /// Credential for the server; prefer the environment variable to the command line
    #[arg(long, env = "COPILOTD_CREDENTIAL", hide_env_values = true)]
    pub credential: SecretString,
}

/// Subcommands of `tenant`; they need the scope operator.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// List the tenants
    List(ServerArgs),
    /// Show a tenant; secrets are shown as fingerprints
    Show {
        /// The tenant
        id: TenantId,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Create a tenant
    Create {
        /// Id of the new tenant
        id: TenantId,
        /// File with its settings, as in a `[[tenants]]` table: JSON, or TOML if its name ends in .toml
        #[arg(long, value_name = "FILE")]
        settings: PathBuf,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Change a tenant's settings
    Update {
        /// The tenant
        id: TenantId,
        /// File with a JSON merge patch (RFC 7396) of its settings; or TOML (.toml), which cannot remove anything
        #[arg(long, value_name = "FILE")]
        patch: PathBuf,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Suspend a tenant: refuse its credentials, end its streams and cancel its open turns; deletes nothing
    Suspend {
        /// The tenant
        id: TenantId,
        /// Allow this for your own tenant, whose credentials, including the one you use, are then refused
        #[arg(long)]
        force: bool,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a tenant and all its data; prints the id of the deletion job
    Delete {
        /// The tenant
        id: TenantId,
        /// Allow this for your own tenant, whose credentials, including the one you use, are then refused
        #[arg(long)]
        force: bool,
        /// Wait until the deletion is complete
        #[arg(long)]
        wait: bool,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Resume a suspended tenant
    Resume {
        /// The tenant
        id: TenantId,
        /// The server
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Subcommands of `knowledge`; they need the scope knowledge.
#[derive(Debug, Subcommand)]
pub enum KnowledgeCommand {
    /// Store the files of a directory, or the lines of a JSONL file, as documents of a collection
    ///
    /// A file's id is its path below the directory; hidden files and symbolic links are skipped. A line is
    /// {"external_id": …, "text": …} with any of title, uri, metadata, allowed_users and allowed_roles. Content that is
    /// stored already is no work, so an import that was interrupted continues when it is started again.
    Import(ImportArgs),
}

/// Arguments of `knowledge import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A directory, a file, or a JSONL file (.jsonl or .ndjson); - reads JSONL from standard input
    pub path: PathBuf,
    /// The collection
    #[arg(long, value_name = "NAME")]
    pub collection: CollectionName,
    /// Documents that are sent at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub parallel: u8,
    /// Largest document, in bytes; a larger one fails without being sent
    #[arg(long, value_name = "BYTES", default_value_t = 20 * 1024 * 1024)]
    pub max_bytes: u64,
    /// Role that may read the documents of a directory; repeat it for several. Without roles and users, the access of
    /// stored documents is kept, and new ones are for everybody in the tenant
    #[arg(long = "allowed-role", value_name = "ROLE")]
    pub allowed_roles: Vec<String>,
    /// User who may read the documents of a directory; repeat it for several
    #[arg(long = "allowed-user", value_name = "USER")]
    pub allowed_users: Vec<UserId>,
    /// List what would be stored and deleted; changes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until searches find the documents; documents that cannot be read then count as failed
    #[arg(long)]
    pub wait: bool,
    /// Delete documents of the collection that the source does not have (any more), at most this many
    ///
    /// Nothing is deleted if more are missing, if any file or line of the source could not be read or stored, or if the
    /// source has no document. Documents of a source that the server synchronises are never deleted.
    #[arg(long, value_name = "AT_MOST")]
    pub delete_missing: Option<u64>,
    /// The server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Subcommands of `projections`.
#[derive(Debug, Subcommand)]
pub enum ProjectionsCommand {
    /// Rebuild all projections from the log; stop the server first
    Rebuild(ConfigArgs),
}

/// Subcommands of `models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Download a model's files and verify their hashes; files that are already correct are not downloaded again
    Pull(PullArgs),
}

/// Arguments of `models pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// `bge-small-en-v1.5`
    pub model: String,
    /// Where the files are: a repository on Hugging Face (https://HOST/OWNER/NAME/resolve/REVISION), any other address
    /// to which MODEL/FILE is appended, or a directory
    #[arg(long, value_name = "URL|DIR")]
    pub from: String,
    /// Directory for all models
    #[arg(long, value_name = "DIR", default_value = "data/models")]
    pub into: PathBuf,
}

/// A scope as a command-line argument.
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
    /// Returns `scopes` as a set.
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

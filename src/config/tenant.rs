//! The configuration of a tenant: issuers, API keys, limits, copilots and external systems.

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::conversation::quota::{Quota, Quotas};
use copilotd_actors::domain::file::{self, FilePolicy, FileQuota, MediaType};
use copilotd_actors::domain::guardrail::Rules;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::ServingState;
use copilotd_gateway::access::AllowedModels;
use copilotd_gateway::limit::{self, Limits};
use copilotd_gateway::request::role::DEFAULT_ROLE_CLAIMS;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;

use super::copilot::rules;
use super::key::Alg;
use super::models::nano_usd;
use super::{Copilot, DenyRule, KnowledgeSource, System};

/// A tenant: one customer company.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Id of the tenant.
    pub id: TenantId,
    /// Whether prompts and answers may appear in logs and traces.
    #[serde(default)]
    pub log_content: bool,
    /// Whether it is suspended: its credentials are refused, no calls are made for it, and open turns are cancelled.
    #[serde(default)]
    pub suspended: bool,
    /// Set if its settings have a fault: it is not served, and its open turns wait until the fault is fixed.
    #[serde(skip)]
    pub left_out: Option<LeftOut>,
    /// Whether its credentials may grant the scope `operator`. Only the configuration file can set it.
    #[serde(default)]
    pub operator: bool,
    /// Issuers of its users' tokens, one entry per key.
    #[serde(default)]
    pub issuers: Vec<Issuer>,
    /// API keys for servers.
    #[serde(default)]
    pub api_keys: Vec<ApiKey>,
    /// Origins of its web pages, which may read responses to requests with its credentials, as browsers send them.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// Its copilots; the first one is the default.
    #[serde(default)]
    pub copilots: Vec<Copilot>,
    /// Limits of the whole tenant.
    #[serde(default)]
    pub limits: TenantLimits,
    /// How long its conversations are stored.
    #[serde(default)]
    pub retention: Retention,
    /// Files that its users attach to their prompts.
    #[serde(default)]
    pub files: TenantFiles,
    /// The models that it may use.
    #[serde(default)]
    pub models: TenantModels,
    /// Its own keys for providers, used instead of the shared ones.
    #[serde(default)]
    pub provider_keys: Vec<OwnKeys>,
    /// Texts that prompts must not contain, in turns and on the OpenAI-compatible routes.
    #[serde(default)]
    pub deny_input: Vec<DenyRule>,
    /// Texts that answers of either must not contain.
    #[serde(default)]
    pub deny_output: Vec<DenyRule>,
    /// Version of the knowledge behind its answers; cached answers of another version are dropped.
    #[serde(default)]
    pub knowledge_version: String,
    /// Its external systems.
    #[serde(default)]
    pub systems: Vec<System>,
    /// Systems whose documents are kept up to date in its collections.
    #[serde(default)]
    pub sources: Vec<KnowledgeSource>,
}

/// What is known about a tenant whose settings have a fault.
#[derive(Debug, Clone, Default)]
pub struct LeftOut {
    /// Its API keys that are not revoked. They are refused with the reason, since only a holder of the key can send it.
    pub api_keys: Vec<ApiKey>,
}

impl Tenant {
    /// A tenant that is left out: only its id is known and none of its credentials is accepted.
    pub fn left_out(id: TenantId, suspended: bool) -> Self {
        Self {
            id,
            suspended,
            left_out: Some(LeftOut::default()),
            log_content: false,
            operator: false,
            issuers: Vec::new(),
            api_keys: Vec::new(),
            allowed_origins: Vec::new(),
            copilots: Vec::new(),
            limits: TenantLimits::default(),
            retention: Retention::default(),
            files: TenantFiles::default(),
            models: TenantModels::default(),
            provider_keys: Vec::new(),
            deny_input: Vec::new(),
            deny_output: Vec::new(),
            knowledge_version: String::new(),
            systems: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// Returns whether it is served.
    pub fn standing(&self) -> ServingState {
        if self.suspended {
            ServingState::Suspended
        } else if self.left_out.is_some() {
            ServingState::LeftOut
        } else {
            ServingState::Served
        }
    }

    /// Returns the scopes that its credentials can have at most.
    pub fn grantable(&self) -> Scopes {
        if self.operator {
            Scopes::ALL
        } else {
            Scopes::ALL.without(Scopes::OPERATOR)
        }
    }

    /// Returns the guardrail rules for all its prompts and answers.
    pub fn rules(&self) -> Rules {
        rules(&self.deny_input, &self.deny_output)
    }
}

/// An issuer of user tokens, with one of its keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The `iss` claim.
    pub iss: String,
    /// The only algorithm that is accepted with this key.
    pub alg: Alg,
    /// The `kid` header that selects this key among several of the same `iss`.
    pub kid: Option<String>,
    /// Secret for HS256.
    pub secret: Option<SecretString>,
    /// Public key for the other algorithms, as PEM.
    pub pem: Option<SecretString>,
    /// JWKS address of the public keys for the other algorithms.
    pub jwks_url: Option<String>,
    /// The claims that make up a token's role; [`DEFAULT_ROLE_CLAIMS`] if missing.
    role_claims: Option<Vec<String>>,
    /// The scopes that its tokens may grant; others in a token's `scope` claim are ignored.
    #[serde(default = "usual_scopes")]
    pub scopes: Scopes,
}

fn usual_scopes() -> Scopes {
    Scopes::ALL.without(Scopes::OPERATOR)
}

impl Issuer {
    /// Returns the secret or the PEM text, whichever the algorithm needs. A checked configuration without `jwks_url`
    /// has it.
    pub fn material(&self) -> Option<&SecretString> {
        if self.alg == Alg::Hs256 {
            self.secret.as_ref()
        } else {
            self.pem.as_ref()
        }
    }

    /// Returns the claims that make up a token's role, sorted.
    pub fn role_claims(&self) -> Vec<String> {
        let mut names = match &self.role_claims {
            Some(names) => names.clone(),
            None => DEFAULT_ROLE_CLAIMS.map(str::to_owned).to_vec(),
        };
        names.sort_unstable();
        names
    }
}

/// An API key, of which only the hash is stored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Name of the key.
    pub name: String,
    /// Hash of the key.
    pub hash: KeyHash,
    /// Scopes of the key.
    pub scopes: Scopes,
    /// When it expires, if ever.
    pub expires_at: Option<Timestamp>,
}

/// How long a tenant's conversations are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Days after its last change at which a conversation is erased; never if missing.
    pub conversations_days: Option<u32>,
}

/// Files that a tenant's users attach to their prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantFiles {
    /// Accepted types; all that we know if missing.
    pub types: Option<Vec<MediaType>>,
    /// Largest file, in bytes.
    pub max_bytes: Option<u64>,
    /// Bytes of all files together; 0: no limit.
    pub quota_bytes: Option<u64>,
    /// Bytes of the files of one user; 0: no limit.
    pub user_quota_bytes: Option<u64>,
}

impl TenantFiles {
    /// Returns what the tenant accepts.
    pub fn policy(&self) -> FilePolicy {
        FilePolicy {
            types: self.types.clone().unwrap_or_else(|| MediaType::ALL.to_vec()),
            max_bytes: self.max_bytes.map_or(file::MAX_BYTES, |max| max.min(file::MAX_BYTES)),
            quota: FileQuota {
                tenant: limit_or(self.quota_bytes, FILE_QUOTA).unwrap_or(UNLIMITED),
                user: limit_or(self.user_quota_bytes, USER_FILE_QUOTA).unwrap_or(UNLIMITED),
            },
        }
    }
}

/// The models that a tenant may use. A missing list allows all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantModels {
    /// Patterns of `provider/model`, where `*` matches any characters.
    pub allow: Option<Vec<String>>,
    /// Allowed regions of providers; a provider without a region is then not allowed.
    pub regions: Option<Vec<String>>,
}

impl TenantModels {
    /// Returns the rule for which models are allowed.
    pub fn allowed(&self) -> AllowedModels<'_> {
        AllowedModels {
            allow: self.allow.as_deref(),
            regions: self.regions.as_deref(),
        }
    }
}

/// A tenant's own keys for a provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnKeys {
    /// Name of the provider.
    pub provider: String,
    api_key: Option<SecretString>,
    #[serde(default)]
    api_keys: Vec<SecretString>,
}

impl OwnKeys {
    /// Returns the keys; never empty.
    pub fn keys(&self) -> impl Iterator<Item = &SecretString> {
        self.api_key.iter().chain(&self.api_keys)
    }
}

/// Limits of a whole tenant, and of each of its users and keys; a missing one means no limit or the default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantLimits {
    /// Requests per minute: turns, and calls of the OpenAI-compatible routes.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Concurrent model calls.
    pub concurrent_calls: Option<u64>,
    /// US dollars per day.
    pub usd_per_day: Option<f64>,
    /// US dollars per calendar month.
    pub usd_per_month: Option<f64>,
    /// Write requests per minute, of all users together; 0: no limit.
    pub writes_per_minute: Option<u64>,
    /// Searches in documents per minute, of all users together; 0: no limit.
    pub searches_per_minute: Option<u64>,
    /// Stored conversations; 0: no limit.
    pub conversations: Option<u64>,
    /// Stored bytes of conversations' logs; 0: no limit.
    pub log_bytes: Option<u64>,
    /// Documents; 0: no limit.
    pub documents: Option<u64>,
    /// Bytes of documents; 0: no limit.
    pub document_bytes: Option<u64>,
    /// Searchable chunks of documents; 0: no limit.
    pub document_chunks: Option<u64>,
    /// Most bytes of a request body on the OpenAI-compatible routes, if not the default.
    pub body_bytes: Option<u64>,
    /// Limits of each user.
    #[serde(default)]
    pub per_user: UserLimits,
    /// Limits of each API key.
    #[serde(default)]
    pub per_key: SubjectLimits,
}

/// Limits of one user.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Concurrent model calls.
    pub concurrent_calls: Option<u64>,
    /// US dollars per day.
    pub usd_per_day: Option<f64>,
    /// US dollars per calendar month.
    pub usd_per_month: Option<f64>,
    /// Write requests per minute; 0: no limit.
    pub writes_per_minute: Option<u64>,
    /// Searches in documents per minute; 0: no limit.
    pub searches_per_minute: Option<u64>,
    /// Stored conversations; 0: no limit.
    pub conversations: Option<u64>,
    /// Stored bytes of conversations' logs; 0: no limit.
    pub log_bytes: Option<u64>,
}

/// Limits of one API key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Concurrent model calls.
    pub concurrent_calls: Option<u64>,
    /// US dollars per day.
    pub usd_per_day: Option<f64>,
    /// US dollars per calendar month.
    pub usd_per_month: Option<f64>,
}

/// Default writes per minute of a user.
const USER_WRITES: u64 = 120;
/// Default writes per minute of a tenant.
const TENANT_WRITES: u64 = 100 * USER_WRITES;
/// Searches of a user per minute, unless it has others. One embeds its question, which takes some 10 ms.
const USER_SEARCHES: u64 = 300;
/// Searches of all users of a tenant per minute, unless it has others.
const TENANT_SEARCHES: u64 = 100 * USER_SEARCHES;
/// Default quota of a user: conversations, and bytes of their logs.
const USER_QUOTA: (u64, u64) = (10_000, 1 << 30);
/// As good as no limit, and a number that every store can count to.
const UNLIMITED: u64 = i64::MAX.unsigned_abs();
/// Documents of a tenant, their bytes, and their chunks, unless it has others.
const DOCUMENT_QUOTA: (u64, u64, u64) = (100_000, 10 << 30, 1_000_000);
/// Default bytes of a tenant's attached files.
const FILE_QUOTA: u64 = 10 << 30;
/// Default bytes of a user's attached files.
const USER_FILE_QUOTA: u64 = 1 << 30;
/// Default quota of a tenant: conversations, and bytes of their logs.
const TENANT_QUOTA: (u64, u64) = (1_000_000, 100 << 30);

/// Returns limits of requests per minute. An API key may send as many as a user.
fn rates(tenant: Option<u64>, user: Option<u64>) -> limit::TenantLimits {
    let rate = |requests_per_minute| Limits {
        requests_per_minute,
        ..Limits::default()
    };
    limit::TenantLimits {
        tenant: rate(tenant),
        user: rate(user),
        key: rate(user),
    }
}

/// Returns a limit or its default; 0 means no limit.
fn limit_or(configured: Option<u64>, default: u64) -> Option<u64> {
    Some(configured.unwrap_or(default)).filter(|limit| *limit > 0)
}

impl UserLimits {
    fn limits(&self) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrent_calls: self.concurrent_calls,
            usd_per_day: self.usd_per_day.map(nano_usd),
            usd_per_month: self.usd_per_month.map(nano_usd),
        }
    }
}

impl SubjectLimits {
    fn limits(&self) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrent_calls: self.concurrent_calls,
            usd_per_day: self.usd_per_day.map(nano_usd),
            usd_per_month: self.usd_per_month.map(nano_usd),
        }
    }
}

impl TenantLimits {
    /// Converts the limits to the limiter's type, with money in nano-dollars.
    pub fn limits(&self) -> limit::TenantLimits {
        limit::TenantLimits {
            tenant: Limits {
                requests_per_minute: self.requests_per_minute,
                tokens_per_minute: self.tokens_per_minute,
                concurrent_calls: self.concurrent_calls,
                usd_per_day: self.usd_per_day.map(nano_usd),
                usd_per_month: self.usd_per_month.map(nano_usd),
            },
            user: self.per_user.limits(),
            key: self.per_key.limits(),
        }
    }

    /// Returns the limits of writes.
    pub fn writes(&self) -> limit::TenantLimits {
        rates(
            limit_or(self.writes_per_minute, TENANT_WRITES),
            limit_or(self.per_user.writes_per_minute, USER_WRITES),
        )
    }

    /// Returns the limits of searches in documents.
    pub fn searches(&self) -> limit::TenantLimits {
        rates(
            limit_or(self.searches_per_minute, TENANT_SEARCHES),
            limit_or(self.per_user.searches_per_minute, USER_SEARCHES),
        )
    }

    /// Returns what the tenant may store of documents.
    pub fn documents(&self) -> copilotd_knowledge::index::Quota {
        let (documents, bytes, chunks) = DOCUMENT_QUOTA;
        copilotd_knowledge::index::Quota {
            documents: limit_or(self.documents, documents).unwrap_or(UNLIMITED),
            bytes: limit_or(self.document_bytes, bytes).unwrap_or(UNLIMITED),
            chunks: limit_or(self.document_chunks, chunks).unwrap_or(UNLIMITED),
        }
    }

    /// Returns the quotas of stored conversations.
    pub fn quotas(&self) -> Quotas {
        let quota = |conversations, bytes, default: (u64, u64)| Quota {
            conversations: limit_or(conversations, default.0),
            bytes: limit_or(bytes, default.1),
        };
        let user = &self.per_user;
        Quotas {
            tenant: quota(self.conversations, self.log_bytes, TENANT_QUOTA),
            user: quota(user.conversations, user.log_bytes, USER_QUOTA),
        }
    }
}

/// Default base URL of Slack's Web API.
pub(super) const SLACK_BASE_URL: &str = "https://slack.com/api/";

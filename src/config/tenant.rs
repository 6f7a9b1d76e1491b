//! One tenant: who signs for it, which keys it has, its copilots and the systems they may call.

use copilotd_actors::domain::conversation::quota::{Quota, Quotas};
use copilotd_actors::domain::guardrail::Rules;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Standing;
use copilotd_gateway::limit::{self, Limits};
use copilotd_gateway::request::role::DEFAULT_ROLE_CLAIMS;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;

use super::copilot::rules;
use super::key::{Alg, KeyHash};
use super::models::nano_usd;
use super::{Copilot, DenyRule};
use crate::scopes::Scopes;

/// A customer company.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Whether prompts and answers may appear in logs and traces.
    #[serde(default)]
    pub log_content: bool,
    /// Whether an operator has suspended it: none of its credentials is accepted, none of its calls is made, and what is open ends.
    #[serde(default)]
    pub suspended: bool,
    /// Whether its settings have a fault: it is not served, and what is open waits until they are fixed.
    #[serde(skip)]
    pub left_out: Option<LeftOut>,
    /// Whether its credentials may grant the scope `operator`. Counts in the configuration file alone.
    #[serde(default)]
    pub operator: bool,
    /// Keys of those who sign its users' tokens.
    #[serde(default)]
    pub issuers: Vec<Issuer>,
    /// Keys for servers.
    #[serde(default)]
    pub api_keys: Vec<ApiKey>,
    /// Its copilots; the first one is the default.
    #[serde(default)]
    pub copilots: Vec<Copilot>,
    /// Bounds of the whole tenant.
    #[serde(default)]
    pub limits: TenantLimits,
    /// How long its conversations are kept.
    #[serde(default)]
    pub retention: Retention,
    /// The models that it may use.
    #[serde(default)]
    pub models: TenantModels,
    /// Keys of its own for providers, in the place of the shared ones.
    #[serde(default)]
    pub provider_keys: Vec<OwnKeys>,
    /// Texts that stop a prompt, of a copilot's turn as of the OpenAI-compatible endpoint.
    #[serde(default)]
    pub deny_input: Vec<DenyRule>,
    /// Texts that never reach a reader of either.
    #[serde(default)]
    pub deny_output: Vec<DenyRule>,
    /// The version of what its answers rest on; kept answers of another one are dropped.
    #[serde(default)]
    pub knowledge_version: String,
    /// Its Zendesk.
    pub zendesk: Option<Zendesk>,
    /// Its Slack workspace.
    pub slack: Option<Slack>,
}

/// What is known of a tenant whose settings have a fault.
#[derive(Debug, Clone, Default)]
pub struct LeftOut {
    /// Its API keys that are not revoked. They are refused, and told why: who sends one is who knows it.
    pub api_keys: Vec<ApiKey>,
}

impl Tenant {
    /// A tenant of which little but its id is known, and nothing is accepted.
    pub fn left_out(id: TenantId, suspended: bool) -> Self {
        Self {
            id,
            suspended,
            left_out: Some(LeftOut::default()),
            log_content: false,
            operator: false,
            issuers: Vec::new(),
            api_keys: Vec::new(),
            copilots: Vec::new(),
            limits: TenantLimits::default(),
            retention: Retention::default(),
            models: TenantModels::default(),
            provider_keys: Vec::new(),
            deny_input: Vec::new(),
            deny_output: Vec::new(),
            knowledge_version: String::new(),
            zendesk: None,
            slack: None,
        }
    }

    /// Tells whether work is done for it.
    pub fn standing(&self) -> Standing {
        if self.suspended {
            Standing::Suspended
        } else if self.left_out.is_some() {
            Standing::LeftOut
        } else {
            Standing::Served
        }
    }

    /// The scopes that its credentials can have at all, whatever their issuers and keys say.
    pub fn grantable(&self) -> Scopes {
        if self.operator {
            Scopes::ALL
        } else {
            Scopes::ALL.without(Scopes::OPERATOR)
        }
    }

    /// Returns the rules on all that is said in its name.
    pub fn rules(&self) -> Rules {
        rules(&self.deny_input, &self.deny_output)
    }
}

/// One key of an issuer of tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The `iss` claim.
    pub iss: String,
    /// The one algorithm that is accepted with this key.
    pub alg: Alg,
    /// The `kid` header that chooses this key among several of the same `iss`.
    pub kid: Option<String>,
    /// Secret of HS256.
    pub secret: Option<SecretString>,
    /// Public key of the other algorithms.
    pub pem: Option<SecretString>,
    /// Where the public keys of the other algorithms are published.
    pub jwks_url: Option<String>,
    /// The claims that are a token's role; the usual ones unless given.
    role_claims: Option<Vec<String>>,
    /// The scopes that its tokens may grant; others in a token's `scope` claim are passed over.
    #[serde(default = "usual_scopes")]
    pub scopes: Scopes,
}

fn usual_scopes() -> Scopes {
    Scopes::ALL.without(Scopes::OPERATOR)
}

impl Issuer {
    /// Returns the secret or the PEM text, whichever the algorithm needs; a checked configuration has it.
    pub fn material(&self) -> Option<&SecretString> {
        if self.alg == Alg::Hs256 {
            self.secret.as_ref()
        } else {
            self.pem.as_ref()
        }
    }

    /// Lists the claims that are a token's role, in one order.
    pub fn role_claims(&self) -> Vec<String> {
        let mut names = match &self.role_claims {
            Some(names) => names.clone(),
            None => DEFAULT_ROLE_CLAIMS.map(str::to_owned).to_vec(),
        };
        names.sort_unstable();
        names
    }
}

/// An API key, known by its hash alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Its name.
    pub name: String,
    /// Hash of the key.
    pub hash: KeyHash,
    /// What it allows.
    pub scopes: Scopes,
    /// Its end, if it has one.
    pub expires_at: Option<Timestamp>,
}

/// How long a tenant's conversations are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Days after the last change of a conversation at which it is erased; all are kept unless given.
    pub conversations_days: Option<u32>,
}

/// The models that a tenant may use. What is not given allows all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantModels {
    /// Patterns: `provider/model`, where `*` stands for any part of a name.
    pub allow: Option<Vec<String>>,
    /// Regions of the providers; one without a region is not allowed then.
    pub regions: Option<Vec<String>>,
}

impl TenantModels {
    /// Tells whether a model of a provider in a region may be used.
    pub fn allows(&self, provider: &str, model: &str, region: Option<&str>) -> bool {
        let name = format!("{provider}/{model}");
        let named = |patterns: &Vec<String>| patterns.iter().any(|pattern| matches(pattern, &name));
        let there = |regions: &Vec<String>| region.is_some_and(|region| regions.iter().any(|known| known == region));
        self.allow.as_ref().is_none_or(named) && self.regions.as_ref().is_none_or(there)
    }
}

/// Tells whether `text` is as `pattern` says, in which `*` stands for any characters, also none.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Keys of a tenant for a provider.
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
    /// Lists them; never empty.
    pub fn keys(&self) -> impl Iterator<Item = &SecretString> {
        self.api_key.iter().chain(&self.api_keys)
    }
}

/// Bounds of a whole tenant, and of each of its users and keys; nothing means no bound.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantLimits {
    /// Requests per minute: turns, and calls of the OpenAI-compatible routes.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Model calls at one time.
    pub concurrent_calls: Option<u64>,
    /// US dollars per day.
    pub usd_per_day: Option<f64>,
    /// US dollars per calendar month.
    pub usd_per_month: Option<f64>,
    /// Requests per minute that change something, of all users together; 0: no limit.
    pub writes_per_minute: Option<u64>,
    /// Conversations that are kept; 0: no limit.
    pub conversations: Option<u64>,
    /// Bytes of the log that are kept; 0: no limit.
    pub log_bytes: Option<u64>,
    /// Bytes of a request body on the OpenAI-compatible routes, where more or less than the usual is wanted.
    pub body_bytes: Option<u64>,
    /// Bounds of each user.
    #[serde(default)]
    pub per_user: UserLimits,
    /// Bounds of each API key.
    #[serde(default)]
    pub per_key: SubjectLimits,
}

/// Bounds of one user.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Model calls at one time.
    pub concurrent_calls: Option<u64>,
    /// US dollars per day.
    pub usd_per_day: Option<f64>,
    /// US dollars per calendar month.
    pub usd_per_month: Option<f64>,
    /// Requests per minute that change something; 0: no limit.
    pub writes_per_minute: Option<u64>,
    /// Conversations that are kept; 0: no limit.
    pub conversations: Option<u64>,
    /// Bytes of the log that are kept; 0: no limit.
    pub log_bytes: Option<u64>,
}

/// Bounds of one API key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute.
    pub tokens_per_minute: Option<u64>,
    /// Model calls at one time.
    pub concurrent_calls: Option<u64>,
    /// US dollars per day.
    pub usd_per_day: Option<f64>,
    /// US dollars per calendar month.
    pub usd_per_month: Option<f64>,
}

/// Writes per minute of a user, unless the configuration says otherwise.
const USER_WRITES: u64 = 120;
/// Writes per minute of a tenant.
const TENANT_WRITES: u64 = 100 * USER_WRITES;
/// What a user may keep.
const USER_QUOTA: (u64, u64) = (10_000, 1 << 30);
/// What a tenant may keep.
const TENANT_QUOTA: (u64, u64) = (1_000_000, 100 << 30);

/// Reads a limit that has a default, and that 0 switches off.
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
    /// Returns them as the limiter takes them, money in exact integers.
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

    /// Returns the rates of writes. A credential that administers may write as often as a user.
    pub fn writes(&self) -> limit::TenantLimits {
        let rate = |writes| Limits {
            requests_per_minute: writes,
            ..Limits::default()
        };
        let of_user = limit_or(self.per_user.writes_per_minute, USER_WRITES);
        limit::TenantLimits {
            tenant: rate(limit_or(self.writes_per_minute, TENANT_WRITES)),
            user: rate(of_user),
            key: rate(of_user),
        }
    }

    /// Returns what may be kept in the log.
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

/// A Zendesk account: `email` and `token`, or `oauth_token`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zendesk {
    /// Address of the account.
    pub base_url: String,
    /// User of the API token.
    pub email: Option<String>,
    /// API token.
    pub token: Option<SecretString>,
    /// OAuth access token.
    pub oauth_token: Option<SecretString>,
}

/// A Slack workspace.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// Address of the Web API.
    #[serde(default = "slack_base_url")]
    pub base_url: String,
    /// Token of the bot.
    pub bot_token: SecretString,
    /// Secret that signs what Slack sends.
    pub signing_secret: Option<SecretString>,
}

/// Address of Slack's Web API where none is given.
pub(super) const SLACK_BASE_URL: &str = "https://slack.com/api/";

fn slack_base_url() -> String {
    SLACK_BASE_URL.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_models_are_allowed() {
        let models = |allow: Option<&[&str]>, regions: Option<&[&str]>| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            TenantModels {
                allow: allow.map(owned),
                regions: regions.map(owned),
            }
        };
        for (allow, regions, allowed) in [
            (None, None, true),
            (Some(&["main/gpt-4o"][..]), None, true),
            (Some(&["main/gpt-4"]), None, false),
            (Some(&["main/gpt"]), None, false),
            (Some(&["main/*"]), None, true),
            (Some(&["*/gpt-4o"]), None, true),
            (Some(&["*4o"]), None, true),
            (Some(&["*4"]), None, false),
            (Some(&["m*/*-*o"]), None, true),
            (Some(&["*o*o*o*"]), None, false),
            (Some(&["other/*", "*"]), None, true),
            (Some(&[]), None, false),
            (None, Some(&["eu"][..]), true),
            (None, Some(&["us", "eu"]), true),
            (None, Some(&["us"]), false),
            (Some(&["main/*"]), Some(&["us"]), false),
            (Some(&["other/*"]), Some(&["eu"]), false),
        ] {
            let found = models(allow, regions).allows("main", "gpt-4o", Some("eu"));
            assert_eq!(found, allowed, "{allow:?} {regions:?}");
        }
        assert!(!models(None, Some(&["eu"])).allows("main", "gpt-4o", None));
    }
}

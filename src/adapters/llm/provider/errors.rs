//! Maps what went wrong to one of the failure classes and a text that a tenant may read.
//!
//! What a provider says about its account (keys, organisations, quotas) is the operator's business: such failures get
//! our own words. What it says about the request is the tenant's: it is passed on, truncated and cleaned.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::compute::ComputeError;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::{ModelError, Refusal, RefusedBy};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::deadlines::TimedOut;
use super::sent_at::sent_at;
use crate::retry_after;

/// Longest wait that a provider can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest text of a provider that is passed on.
const MAX_MESSAGE: usize = 500;
/// Shorter secrets are not masked: they would mask innocent text (a header's value may be `1`).
const MIN_SECRET: usize = 8;
/// Most characters of a message that are searched for its subject.
const MAX_LOOKED_AT: usize = 1_000;
/// Characters that the name of a field may have beside letters and digits.
const PARAM: &[u8] = b"_-.[]";

/// Creates the errors of one deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Errors {
    name: Arc<str>,
    secrets: Arc<[SecretString]>,
}

/// What a provider said about an error.
#[derive(Debug, Default)]
struct ProviderError {
    message: String,
    /// `code` and `type` in lower case, for comparison.
    words: Vec<String>,
    /// The field of the request that is wrong.
    param: Option<String>,
    status: Option<u16>,
    /// Whether it lists fields that the request lacks, as validators of frameworks do.
    lacks_fields: bool,
}

impl Errors {
    /// Errors of the deployment `name`, whose texts never contain one of `secrets`.
    pub fn new(name: &str, secrets: Vec<SecretString>) -> Self {
        Self {
            name: name.into(),
            secrets: secrets.into(),
        }
    }

    /// Returns the deployment's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error of `class`; its message is the deployment's name followed by `what`.
    pub fn plain(&self, class: FailureClass, what: &str) -> ModelError {
        ModelError {
            class,
            message: format!("model {}: {what}", self.name),
            retry_after: None,
            refusal: None,
        }
    }

    /// The error for an HTTP status that is not a success.
    pub fn status(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ModelError {
        let body = serde_json::from_slice::<Value>(body).ok();
        let said = body
            .as_ref()
            .map(|body| ProviderError::of(inner(body)))
            .unwrap_or_default();
        let class = said.class(status.as_u16());
        let mut error = self.describe(class, &said, &format!("status {}", status.as_u16()));
        error.retry_after = retry_after::read(headers, Some(sent_at(headers)), MAX_RETRY_AFTER);
        error.refusal = said.refusal(class, status.as_u16());
        if body.is_none() && matches!(status.as_u16(), 400 | 406 | 411..=429 | 431) {
            // An HTML page: whatever refused, a proxy or a firewall before the provider, it was not about the request.
            error.refusal.take_if(|_| class == FailureClass::Rejected);
        }
        error
    }

    /// The error for an `error` object in the stream.
    pub fn in_stream(&self, error: &Value) -> ModelError {
        let said = ProviderError::of(inner(error));
        // Once it streams, the request was accepted: an error without a status is the provider's.
        let class = said.class(said.status.unwrap_or(500));
        let mut error = self.describe(class, &said, "while answering");
        error.refusal = said.refusal(class, said.status.unwrap_or(400));
        error
    }

    /// The error for a passed deadline.
    pub fn silence(&self, silence: TimedOut) -> ModelError {
        let what = match silence {
            TimedOut::FirstToken(limit) => format!("the provider sent no content within {limit:?}"),
            TimedOut::Idle(limit) => format!("the provider sent no content for {limit:?}"),
            TimedOut::Total(limit) => format!("the answer took longer than {limit:?}"),
            TimedOut::Tail => "the provider did not end its response after the answer was complete".to_owned(),
        };
        self.plain(FailureClass::TimedOut, &what)
    }

    /// The error for a request that was not answered.
    pub fn transport(&self, error: &reqwest::Error) -> ModelError {
        let what = if error.is_connect() && error.is_timeout() {
            // Nobody is there, or nobody who finishes a handshake: trying again would be the same wait once more.
            return self.plain(FailureClass::TimedOut, "connecting to the provider timed out");
        } else if error.is_connect() {
            "cannot connect to the provider"
        } else if error.is_builder() {
            return self.plain(FailureClass::Rejected, "cannot build the request to the provider");
        } else {
            "the connection broke before the provider answered"
        };
        self.plain(FailureClass::Network, what)
    }

    /// The error for a broken body. A peer that just closes is a cut; anything else is the network's.
    pub fn body(&self, error: &reqwest::Error) -> ModelError {
        let mut source: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(cause) = source {
            let io = cause.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof) {
                return self.cut();
            }
            source = cause.source();
        }
        self.plain(FailureClass::Network, "the connection broke during the answer")
    }

    /// The error for a stream that ended without a finish reason.
    pub fn cut(&self) -> ModelError {
        self.plain(FailureClass::Cut, "the answer was cut off")
    }

    /// The error for a request that the provider's protocol cannot express: another target may do better. `param` is
    /// the unsupported part; its name may be anything that a caller wrote.
    pub fn unsupported(&self, param: &str, why: &str) -> ModelError {
        let param = is_identifier(param, PARAM).then(|| param.to_owned());
        let what = param.as_deref().unwrap_or("a field");
        ModelError {
            refusal: Some(Box::new(Refusal {
                by: RefusedBy::Adapter,
                code: Some("unsupported_by_provider".to_owned()),
                param: param.clone(),
                is_certain: false,
            })),
            ..self.plain(
                FailureClass::Rejected,
                &format!("unsupported by this provider: {what}: {why}"),
            )
        }
    }

    /// The error for an answer that does not follow the protocol.
    pub fn malformed(&self, what: &str) -> ModelError {
        self.plain(FailureClass::Malformed, what)
    }

    /// The error for a large document that this process had no capacity to translate or read.
    pub fn not_computed(&self, error: ComputeError) -> ModelError {
        self.plain(
            FailureClass::Overload,
            &format!("cannot translate the request or read the answer: {error}"),
        )
    }

    fn describe(&self, class: FailureClass, said: &ProviderError, place: &str) -> ModelError {
        let code = said.words.first().map(|code| format!(", {code}")).unwrap_or_default();
        let own = match class {
            FailureClass::Key => Some("the provider rejected the credentials"),
            FailureClass::Rate => Some("the provider's rate limit is reached"),
            FailureClass::Overload => Some("the provider is overloaded or failing"),
            FailureClass::ContextLength => None,
            _ if said.message.is_empty() => Some("the provider refused the request"),
            // If it is unclear what a refusal is about, its text may be about the operator's account.
            FailureClass::Rejected if said.is_about_account() => Some("the provider refused the request"),
            _ => None,
        };
        let text = match (own, class) {
            (Some(own), _) => format!("{own} ({place}{code})"),
            (None, FailureClass::ContextLength) if said.message.is_empty() => {
                format!("the prompt is too long for the model ({place})")
            }
            (None, FailureClass::ContextLength) => {
                format!("the prompt is too long for the model: {}", self.clean(&said.message))
            }
            (None, FailureClass::ContentPolicy) => {
                format!("the provider's content policy: {}", self.clean(&said.message))
            }
            (None, _) => format!(
                "the provider refused the request ({place}): {}",
                self.clean(&said.message)
            ),
        };
        self.plain(class, &text)
    }

    /// Masks words that contain a piece of a secret, or that look like a credential: providers echo keys truncated,
    /// starred in the middle, or in another spelling.
    fn mask(&self, text: &str) -> String {
        let secrets = self.secrets.iter().map(ExposeSecret::expose_secret);
        let pieces: Vec<&str> = secrets
            .filter(|secret| secret.is_ascii() && secret.len() >= MIN_SECRET)
            .flat_map(|secret| (0..=secret.len() - MIN_SECRET).filter_map(|at| secret.get(at..at + MIN_SECRET)))
            .collect();
        let mut masked = String::with_capacity(text.len());
        for word in text.split_inclusive(char::is_whitespace) {
            let bare = word.trim_matches(|c: char| c.is_whitespace() || "\"'`()[]{}<>,;:.!?".contains(c));
            if looks_like_a_key(bare) || pieces.iter().any(|piece| bare.contains(piece)) {
                let end = word.chars().next_back().filter(|c| c.is_whitespace());
                masked.push_str("***");
                masked.extend(end);
            } else {
                masked.push_str(word);
            }
        }
        masked
    }

    /// Truncates a text, strips control characters and masks secrets that a provider echoes.
    pub fn clean(&self, text: &str) -> String {
        let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Before truncating, so that no half of a secret is left.
        for secret in self.secrets.iter().map(ExposeSecret::expose_secret) {
            if secret.len() >= MIN_SECRET {
                text = text.replace(secret, "***");
            }
        }
        let text = self.mask(&text);
        match text.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// Finds the error in a document: itself, a member of it, or the first of a list.
fn inner(body: &Value) -> &Value {
    let list = body.as_array().or_else(|| body.get("errors")?.as_array());
    let body = list.and_then(|list| list.first()).unwrap_or(body);
    let error = body.get("error").filter(|error| !error.is_null()).unwrap_or(body);
    error.get(0).unwrap_or(error)
}

impl ProviderError {
    /// Reads `{message, type, code}`, a bare text, or the answers of web frameworks.
    fn of(error: &Value) -> Self {
        if let Some(message) = error.as_str() {
            return Self {
                message: message.to_owned(),
                ..Self::default()
            };
        }
        let inner = error.pointer("/innererror/code");
        // Google's details name the reason more precisely than its code does.
        let details = error.get("details").and_then(Value::as_array).into_iter().flatten();
        let reasons = details.filter_map(|detail| detail.get("reason"));
        let words = [error.get("code"), error.get("type"), inner, error.get("status")]
            .into_iter()
            .flatten()
            .chain(reasons)
            .filter_map(Value::as_str)
            // Identifiers only: these appear in errors.
            .filter(|word| is_identifier(word, b"_-."))
            .map(str::to_ascii_lowercase)
            .filter(|word| !word.is_empty())
            .collect();
        let status = ["code", "status", "status_code"].iter().find_map(|field| {
            let value = error.get(field)?;
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
            u16::try_from(number).ok().filter(|status| (400..600).contains(status))
        });
        let message = [
            "message",
            "detail",
            "error",
            "msg",
            "error_msg",
            "error_description",
            "title",
        ]
        .iter()
        .find_map(|field| {
            let value = error.get(field)?;
            // FastAPI lists what is wrong.
            value.as_str().or_else(|| value.get(0)?.get("msg")?.as_str())
        });
        let param = error.get("param").and_then(Value::as_str);
        Self {
            lacks_fields: lacks_fields(error),
            message: message.unwrap_or_default().to_owned(),
            words,
            param: param.filter(|param| is_identifier(param, PARAM)).map(str::to_owned),
            status,
        }
    }

    /// The provider's own description of a fault in the request.
    fn refusal(&self, class: FailureClass, status: u16) -> Option<Box<Refusal>> {
        use FailureClass::{ContentPolicy, ContextLength, Rejected};
        matches!(class, ContextLength | ContentPolicy | Rejected).then(|| {
            Box::new(Refusal {
                by: RefusedBy::Provider(status),
                code: self.words.first().cloned(),
                param: self.param.clone(),
                is_certain: class != Rejected || self.is_certain(),
            })
        })
    }

    /// Returns whether a refusal is surely about the request, and about something that no other provider would accept
    /// either. What one model does not support, another one may, and so may one whose validator is less strict.
    fn is_certain(&self) -> bool {
        const WORDS: &[&str] = &[
            "invalid_type",
            "invalid_json",
            "missing_required_parameter",
            "empty_array",
            "integer_below_min_value",
            "integer_above_max_value",
            "decimal_below_min_value",
            "decimal_above_max_value",
            "string_below_min_length",
        ];
        const MEMBERS: &[&str] = &[
            "messages",
            "temperature",
            "top_p",
            "n",
            "stop",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "tools",
            "tool_choice",
            "functions",
        ];
        if self.is_about_account() {
            return false;
        }
        let text = self.message.to_ascii_lowercase();
        let names_model = ["support", "model", "not allowed", "not permitted"];
        let is_plain = !names_model.iter().any(|part| text.contains(part));
        let root = self
            .param
            .as_deref()
            .map(|param| param.split(['.', '[']).next().unwrap_or_default());
        let is_member = root.is_some_and(|root| MEMBERS.contains(&root));
        let is_invalid = self
            .words
            .iter()
            .all(|word| matches!(word.as_str(), "invalid_value" | "invalid_request_error"));
        self.lacks_fields
            || (self.param.is_some() && self.has(WORDS))
            || (is_member && is_invalid && is_plain)
            || (text.contains("required") && names_a_member(&self.message))
    }

    /// The message without its quotations: they repeat what a caller wrote, which must not make a key look revoked.
    fn unquoted(&self) -> String {
        let mut text = String::new();
        let mut quote = None;
        let mut before = ' ';
        for c in self.message.chars().take(MAX_LOOKED_AT) {
            match quote {
                Some(end) if c == end => quote = None,
                Some(_) => {}
                // An apostrophe within a word quotes nothing.
                None if matches!(c, '"' | '`') || (c == '\'' && !before.is_alphanumeric()) => quote = Some(c),
                None => text.push(c.to_ascii_lowercase()),
            }
            before = c;
        }
        text
    }

    /// Returns whether it is about a key, an account or its money, in whatever words.
    fn is_about_account(&self) -> bool {
        const KEYS: &[&str] = &[
            "api key",
            "api-key",
            "api_key",
            "apikey",
            "access token",
            "credential",
            "authentication",
        ];
        const KEY_FAULTS: &[&str] = &[
            "invalid",
            "not valid",
            "incorrect",
            "expired",
            "revoked",
            "missing",
            "disabled",
            "wrong",
            "not found",
            "unknown",
            "deactivated",
            "denied",
            "failed",
            "required",
            "no longer",
            "not exist",
            "suspended",
            "blocked",
            "leaked",
        ];
        const ACCOUNTS: &[&str] = &[
            "account",
            "organization",
            "organisation",
            "subscription",
            "workspace",
            "billing",
        ];
        const ACCOUNT_FAULTS: &[&str] = &[
            "disabled",
            "suspended",
            "deactivated",
            "inactive",
            "not active",
            "overdue",
            "arrear",
            "good standing",
            "past due",
            "blocked",
            "closed",
            "terminated",
            "banned",
            "restricted",
            "expired",
            "hard limit",
            "spending limit",
            "not exist",
            "on hold",
            "not found",
            "delinquent",
            "unpaid",
        ];
        const MONEY: &[&str] = &[
            "credit balance",
            "insufficient balance",
            "insufficient credit",
            "insufficient fund",
            "insufficient quota",
            "out of credit",
            "no credit",
            "exceeded your current quota",
            "exceeded your monthly",
            "api usage limits",
            "payment required",
            "payment method",
            "add credits",
            "purchase credits",
            "recharge",
            "top up",
            "billing details",
            "billing hard limit",
            "unpaid invoice",
            "free tier",
            "trial has",
            "trial period",
        ];
        if self.param.is_some() || self.lacks_fields {
            return false;
        }
        let text = self.unquoted();
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        (says(KEYS) && says(KEY_FAULTS)) || (says(ACCOUNTS) && says(ACCOUNT_FAULTS)) || says(MONEY)
    }

    /// Returns whether it says that the prompt is too long for the model, in whatever words.
    fn is_about_length(&self) -> bool {
        const SUBJECTS: &[&str] = &[
            "prompt",
            "input",
            "context",
            "sequence",
            "messages",
            "request",
            "conversation",
        ];
        const FAULTS: &[&str] = &[
            "exceed",
            "too many",
            "too long",
            "too large",
            "longer than",
            "larger than",
            "greater than",
            "more than",
            "maximum",
            "over the limit",
            "above the limit",
            "limit of",
            "does not fit",
            "reduce",
            "overflow",
        ];
        const OUTPUT: &[&str] = &[
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "max_new_tokens",
        ];
        if self.param.as_deref().is_some_and(|param| OUTPUT.contains(&param)) {
            return false;
        }
        let text = self.unquoted();
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let is_output = says(OUTPUT) && !says(&["prompt", "input", "context", "sequence"]);
        text.contains("token") && says(SUBJECTS) && says(FAULTS) && !is_output
    }

    fn has(&self, words: &[&str]) -> bool {
        self.words.iter().any(|word| words.contains(&word.as_str()))
    }

    fn class(&self, status: u16) -> FailureClass {
        const CONTEXT: &[&str] = &[
            "context_length_exceeded",
            "exceed_context_size_error",
            "string_above_max_length",
            "request_too_large",
        ];
        const POLICY: &[&str] = &[
            "content_filter",
            "content_policy_violation",
            "responsibleaipolicyviolation",
            "moderation_blocked",
            "invalid_prompt",
        ];
        const KEY: &[&str] = &[
            "invalid_api_key",
            "insufficient_quota",
            "authentication_error",
            "permission_error",
            "billing_error",
            "api_key_invalid",
            "api_key_expired",
            "api_key_service_blocked",
            "invalid_authentication",
            "invalid_authentication_error",
            "authenticationerror",
            "unauthenticated",
            "unauthorized",
            "account_deactivated",
            "account_suspended",
            "account_not_active",
            "billing_not_active",
            "billing_hard_limit_reached",
            "insufficient_balance",
            "insufficient_credits",
            "arrearage",
            "accountoverdueerror",
            "exceeded_current_quota_error",
            "unauthorizedexception",
            "accessdeniedexception",
            "unrecognizedclientexception",
            "expiredtokenexception",
        ];
        const RATE: &[&str] = &["rate_limit_exceeded", "rate_limit_error", "requests", "tokens"];
        const OVERLOAD: &[&str] = &["server_error", "overloaded_error", "api_error", "engine_overloaded"];
        let text = self.message.to_ascii_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));

        // The provider's own code comes before the status: each of these is seen with several.
        if self.has(CONTEXT) {
            return FailureClass::ContextLength;
        }
        if self.has(POLICY) {
            return FailureClass::ContentPolicy;
        }
        // A used-up quota is answered with 429, but waiting does not help.
        if self.has(KEY) {
            return FailureClass::Key;
        }
        match status {
            400 | 403 | 422
                if says(&[
                    "content management policy",
                    "content policy",
                    "content filtering policy",
                    "usage polic",
                    "moderation",
                ]) =>
            {
                FailureClass::ContentPolicy
            }
            400 | 422
                if says(&[
                    "maximum context length",
                    "context length",
                    "context window",
                    "context size",
                    "context limit",
                    "prompt is too long",
                    "`inputs` tokens",
                ]) =>
            {
                FailureClass::ContextLength
            }
            400 | 422 if self.is_about_account() => FailureClass::Key,
            400 | 422 if self.is_about_length() => FailureClass::ContextLength,
            401..=403 => FailureClass::Key,
            // Timeouts and conflicts on the provider's side: the same request may succeed a moment later.
            408 | 409 | 425 => FailureClass::Overload,
            413 => FailureClass::ContextLength,
            429 => FailureClass::Rate,
            500.. if self.has(RATE) => FailureClass::Rate,
            500.. => FailureClass::Overload,
            _ if self.has(OVERLOAD) => FailureClass::Overload,
            _ => FailureClass::Rejected,
        }
    }
}

/// Returns whether a validator lists missing fields, and nothing else: `{"detail": [{"type": "missing", "loc": …}]}`
/// and its like.
fn lacks_fields(error: &Value) -> bool {
    let lacks = |item: &Value| {
        let says = |name: &str| {
            item.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_ascii_lowercase()
        };
        item.get("loc").is_some() && (says("type").contains("missing") || says("msg").contains("required"))
    };
    let list = error.get("detail").and_then(Value::as_array);
    list.is_some_and(|list| !list.is_empty() && list.iter().all(lacks))
}

/// Returns whether a text begins with a member of the request, as Anthropic names what is wrong: `messages.0.content:
/// ...`.
fn names_a_member(text: &str) -> bool {
    const MEMBERS: [&str; 4] = ["messages", "tools", "tool_choice", "response_format"];
    let Some((path, _)) = text.split_once(": ") else {
        return false;
    };
    let root = path.split(['.', '[']).next().unwrap_or_default();
    MEMBERS.contains(&root) && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.[]".contains(&b))
}

/// Returns whether a word looks like a credential, whoever's it is.
fn looks_like_a_key(word: &str) -> bool {
    const PREFIXES: [&str; 13] = [
        "sk-", "sk_", "pk-", "rk-", "AIza", "AKIA", "gsk_", "hf_", "xai-", "r8_", "eyJ", "org-", "proj_",
    ];
    let value = word.rsplit(['=', ':', '\'', '"']).next().unwrap_or(word);
    let is_keyed = |text: &str| text.len() >= 8 && PREFIXES.iter().any(|prefix| text.starts_with(prefix));
    // Long, and of letters and digits mixed, like nothing that people write.
    let is_random = |text: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-*".contains(&b);
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
        let is_turn = |pair: &&[u8]| {
            let kinds = (pair[0].is_ascii_digit(), pair[1].is_ascii_digit());
            kinds.0 != kinds.1 && pair.iter().all(u8::is_ascii_alphanumeric)
        };
        let turns = text.as_bytes().windows(2).filter(is_turn).count();
        text.len() >= 24 && text.bytes().all(plain) && digits >= 4 && letters >= 4 && turns >= 6
    };
    is_keyed(word) || is_keyed(value) || is_random(value)
}

fn is_identifier(text: &str, extra: &[u8]) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
}

#[cfg(test)]
mod tests;

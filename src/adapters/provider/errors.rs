//! Turns what went wrong into one of the failure classes and a text that a tenant may read.
//!
//! What a provider says about its account (keys, organisations, quotas) is the operator's business: such failures get
//! our own words. What it says about the request is the tenant's: it is passed on, cut short and cleaned.

use std::error::Error;
use std::sync::Arc;

use copilotd_actors::compute::ComputeError;
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::ports::{ModelError, Refusal};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::clocks::Silence;
use super::retry_after::retry_after;
use crate::gateway::upstream::UNSUPPORTED;

/// Longest text of a provider that is passed on.
const MAX_MESSAGE: usize = 500;
/// Shorter secrets are not looked for: they would mask innocent text (a header's value may be `1`).
const MIN_SECRET: usize = 8;
/// Most characters of a message that are looked through for what it is about.
const MAX_LOOKED_AT: usize = 1_000;
/// What the name of a field may hold beside letters and digits.
const PARAM: &[u8] = b"_-.[]";

/// Makes the errors of one deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Errors {
    name: Arc<str>,
    secrets: Arc<[SecretString]>,
}

/// What a provider said about an error.
#[derive(Debug, Default)]
struct Said {
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
    /// Errors of the deployment `name`, whose texts never hold one of `secrets`.
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

    /// An error of `class`; `what` goes on after the deployment's name.
    pub fn plain(&self, class: FailureClass, what: &str) -> ModelError {
        ModelError {
            class,
            message: format!("model {}: {what}", self.name),
            retry_after: None,
            refusal: None,
        }
    }

    /// The error behind an HTTP status that is not a success.
    pub fn status(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ModelError {
        let body = serde_json::from_slice::<Value>(body).ok();
        let said = body.as_ref().map(|body| Said::of(inner(body))).unwrap_or_default();
        let class = said.class(status.as_u16());
        let mut error = self.describe(class, &said, &format!("status {}", status.as_u16()));
        error.retry_after = retry_after(headers);
        error.refusal = said.refusal(class, status.as_u16());
        if body.is_none() && matches!(status.as_u16(), 400 | 406 | 411..=429 | 431) {
            // A page: whatever refused, a proxy or a wall before the provider, it was not about the request.
            error.refusal.take_if(|_| class == FailureClass::Rejected);
        }
        error
    }

    /// The error behind an `error` object in the stream.
    pub fn in_stream(&self, error: &Value) -> ModelError {
        let said = Said::of(inner(error));
        // Once it streams, the request was accepted: an error without a status is the provider's.
        let class = said.class(said.status.unwrap_or(500));
        let mut error = self.describe(class, &said, "in mid-answer");
        error.refusal = said.refusal(class, said.status.unwrap_or(400));
        error
    }

    /// A clock ran out.
    pub fn silence(&self, silence: Silence) -> ModelError {
        let what = match silence {
            Silence::FirstToken(limit) => format!("it sent no content within {limit:?}"),
            Silence::Idle(limit) => format!("it sent no content for {limit:?}"),
            Silence::Total(limit) => format!("the answer took longer than {limit:?}"),
            Silence::Tail => "it did not end the answer".to_owned(),
        };
        self.plain(FailureClass::Silence, &what)
    }

    /// The request was not answered.
    pub fn transport(&self, error: &reqwest::Error) -> ModelError {
        let what = if error.is_connect() && error.is_timeout() {
            // Nobody is there, or nobody who finishes a handshake: to ask again would be the same wait once more.
            return self.plain(FailureClass::Silence, "no connection in time");
        } else if error.is_connect() {
            "no connection"
        } else if error.is_builder() {
            return self.plain(FailureClass::Rejected, "the request could not be built");
        } else {
            "the connection broke before it answered"
        };
        self.plain(FailureClass::Network, what)
    }

    /// The answer's body broke. A peer that just closes is a cut; anything else is the network's.
    pub fn body(&self, error: &reqwest::Error) -> ModelError {
        let mut source: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(cause) = source {
            let io = cause.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof) {
                return self.cut();
            }
            source = cause.source();
        }
        self.plain(FailureClass::Network, "the connection broke in mid-answer")
    }

    /// The stream ended without a reason to finish.
    pub fn cut(&self) -> ModelError {
        self.plain(FailureClass::Cut, "the answer was cut off")
    }

    /// The request cannot be said in the provider's protocol: another target may do better. `param` is the part that
    /// cannot; its name may be anything that a caller wrote.
    pub fn unsupported(&self, param: &str, why: &str) -> ModelError {
        let param = is_identifier(param, PARAM).then(|| param.to_owned());
        let what = param.as_deref().unwrap_or("a field");
        ModelError {
            refusal: Some(Box::new(Refusal {
                status: UNSUPPORTED,
                code: Some("unsupported_by_provider".to_owned()),
                param: param.clone(),
                is_certain: false,
            })),
            ..self.plain(
                FailureClass::Rejected,
                &format!("this provider cannot be asked that: {what}: {why}"),
            )
        }
    }

    /// What came was not the protocol.
    pub fn malformed(&self, what: &str) -> ModelError {
        self.plain(FailureClass::Malformed, what)
    }

    /// Tells that this process had no room to translate or read a large document.
    pub fn not_computed(&self, error: ComputeError) -> ModelError {
        self.plain(
            FailureClass::Overload,
            &format!("its request or answer was not worked on: {error}"),
        )
    }

    fn describe(&self, class: FailureClass, said: &Said, place: &str) -> ModelError {
        let code = said.words.first().map(|code| format!(", {code}")).unwrap_or_default();
        let own = match class {
            FailureClass::Key => Some("the provider does not accept the credentials"),
            FailureClass::Rate => Some("the provider asks for patience"),
            FailureClass::Overload => Some("the provider is overloaded or broken"),
            FailureClass::ContextLength => None,
            _ if said.message.is_empty() => Some("the provider refused the request"),
            // Where it is not clear whom a refusal is about, its words may be about the operator's account.
            FailureClass::Rejected if said.is_about_account() => Some("the provider refused the request"),
            _ => None,
        };
        let text = match (own, class) {
            (Some(own), _) => format!("{own} ({place}{code})"),
            (None, FailureClass::ContextLength) if said.message.is_empty() => {
                format!("the prompt does not fit ({place})")
            }
            (None, FailureClass::ContextLength) => format!("the prompt does not fit: {}", self.clean(&said.message)),
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

    /// Masks words that hold a piece of a secret, or that look like a credential: providers echo keys cut short, starred in the
    /// middle, or under another spelling.
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

    /// Cuts, strips control characters and masks secrets that a provider echoes.
    pub fn clean(&self, text: &str) -> String {
        let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Before the cut, so that no secret is left by half.
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

impl Said {
    /// Reads `{message, type, code}`, a bare text, or what frameworks answer on their own.
    fn of(error: &Value) -> Self {
        if let Some(message) = error.as_str() {
            return Self {
                message: message.to_owned(),
                ..Self::default()
            };
        }
        let inner = error.pointer("/innererror/code");
        // Google's details name the reason more exactly than its code does.
        let details = error.get("details").and_then(Value::as_array).into_iter().flatten();
        let reasons = details.filter_map(|detail| detail.get("reason"));
        let words = [error.get("code"), error.get("type"), inner, error.get("status")]
            .into_iter()
            .flatten()
            .chain(reasons)
            .filter_map(Value::as_str)
            // Identifiers only: these stand in errors.
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

    /// How the provider named a fault that is the request's.
    fn refusal(&self, class: FailureClass, status: u16) -> Option<Box<Refusal>> {
        use FailureClass::{ContentPolicy, ContextLength, Rejected};
        matches!(class, ContextLength | ContentPolicy | Rejected).then(|| {
            Box::new(Refusal {
                status,
                code: self.words.first().cloned(),
                param: self.param.clone(),
                is_certain: class != Rejected || self.is_certain(),
            })
        })
    }

    /// Whether a refusal is surely about the request, and about something that no other provider would take either. What one
    /// model does not support, another one may, and so may one whose validator is less strict.
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

    /// What is said, without what it quotes: quoted is what a caller wrote, which must not make a key look dead.
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

    /// Whether it is about a key, an account or its money, in whatever words.
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

    /// Whether it says that the prompt is too long for the model, in whatever words.
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

        // The provider's own word comes before the status: each of these is seen with several.
        if self.has(CONTEXT) {
            return FailureClass::ContextLength;
        }
        if self.has(POLICY) {
            return FailureClass::ContentPolicy;
        }
        // A used-up quota is answered 429, but patience does not help.
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
            // Time-outs and conflicts of the provider's own making: the same request may go well a moment later.
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

/// Whether a validator lists fields that are missing, and nothing else: `{"detail": [{"type": "missing", "loc": …}]}` and its
/// like.
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

/// Whether a text begins with a member of the request, as Anthropic names what is wrong: `messages.0.content: ...`.
fn names_a_member(text: &str) -> bool {
    const MEMBERS: [&str; 4] = ["messages", "tools", "tool_choice", "response_format"];
    let Some((path, _)) = text.split_once(": ") else {
        return false;
    };
    let root = path.split(['.', '[']).next().unwrap_or_default();
    MEMBERS.contains(&root) && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.[]".contains(&b))
}

/// Whether a word looks like a credential, whoever's it is.
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
mod tests {
    use super::*;

    fn errors() -> Errors {
        Errors::new("main", vec!["sk-secret".to_owned().into(), String::new().into()])
    }

    #[test]
    fn statuses_and_words_make_the_class() {
        for (status, body, class) in [
            (
                401,
                r#"{"error":{"message":"Incorrect API key provided: sk-secret","code":"invalid_api_key"}}"#,
                FailureClass::Key,
            ),
            (402, "", FailureClass::Key),
            (403, "<html>", FailureClass::Key),
            (
                403,
                r#"{"error":{"message":"flagged by moderation"}}"#,
                FailureClass::ContentPolicy,
            ),
            (
                404,
                r#"{"error":{"message":"no such model","code":"model_not_found"}}"#,
                FailureClass::Rejected,
            ),
            (408, "", FailureClass::Overload),
            (
                400,
                r#"{"error":{"message":"x","code":"context_length_exceeded"}}"#,
                FailureClass::ContextLength,
            ),
            (
                400,
                r#"{"object":"error","message":"This model's maximum context length is 4096 tokens.","code":400}"#,
                FailureClass::ContextLength,
            ),
            (
                500,
                r#"{"error":{"code":400,"type":"exceed_context_size_error","message":"x"}}"#,
                FailureClass::ContextLength,
            ),
            (413, "", FailureClass::ContextLength),
            (
                400,
                r#"{"error":{"message":"x","code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
                FailureClass::ContentPolicy,
            ),
            (
                400,
                r#"{"error":{"message":"unknown field","type":"invalid_request_error"}}"#,
                FailureClass::Rejected,
            ),
            (422, r#"{"detail":[{"loc":["body"]}]}"#, FailureClass::Rejected),
            (
                429,
                r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#,
                FailureClass::Rate,
            ),
            (
                429,
                r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#,
                FailureClass::Key,
            ),
            (500, "oh no", FailureClass::Overload),
            (503, r#"{"error":"overloaded"}"#, FailureClass::Overload),
            (529, "", FailureClass::Overload),
            (302, "", FailureClass::Rejected),
            // As a list.
            (
                400,
                r#"[{"error":{"code":400,"message":"x","status":"context_length_exceeded","type":"context_length_exceeded"}}]"#,
                FailureClass::ContextLength,
            ),
            (429, r#"[{"error":{"code":429}}]"#, FailureClass::Rate),
            (
                422,
                r#"{"detail":[{"loc":["body"],"msg":"maximum context length"}]}"#,
                FailureClass::ContextLength,
            ),
            // As Anthropic says it.
            (
                401,
                r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#,
                FailureClass::Key,
            ),
            (
                403,
                r#"{"type":"error","error":{"type":"permission_error","message":"x"}}"#,
                FailureClass::Key,
            ),
            (
                402,
                r#"{"type":"error","error":{"type":"billing_error","message":"x"}}"#,
                FailureClass::Key,
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#,
                FailureClass::Key,
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
                FailureClass::ContextLength,
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 1 + 2 > 2"}}"#,
                FailureClass::ContextLength,
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}"#,
                FailureClass::ContentPolicy,
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages: at least one message is required"}}"#,
                FailureClass::Rejected,
            ),
            (
                404,
                r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-0"}}"#,
                FailureClass::Rejected,
            ),
            (
                413,
                r#"{"type":"error","error":{"type":"request_too_large","message":"x"}}"#,
                FailureClass::ContextLength,
            ),
            (
                429,
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"x"}}"#,
                FailureClass::Rate,
            ),
            (
                500,
                r#"{"type":"error","error":{"type":"api_error","message":"x"}}"#,
                FailureClass::Overload,
            ),
            (
                504,
                r#"{"type":"error","error":{"type":"timeout_error","message":"x"}}"#,
                FailureClass::Overload,
            ),
            (
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#,
                FailureClass::Overload,
            ),
        ] {
            let error = errors().status(
                StatusCode::from_u16(status).unwrap(),
                &HeaderMap::new(),
                body.as_bytes(),
            );
            assert_eq!(error.class, class, "{status} {body}");
            assert!(error.message.starts_with("model main: "), "{}", error.message);
            assert!(!error.message.contains("sk-secret"), "{}", error.message);
        }
    }

    fn status(status: u16, body: &str) -> ModelError {
        errors().status(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            body.as_bytes(),
        )
    }

    #[test]
    fn a_dead_key_or_account_is_known_in_any_vendors_words() {
        for body in [
            r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]"#,
            r#"[{"error":{"code":400,"message":"API Key not found. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]"#,
            r#"{"error":[{"message":"The api_key you sent is expired"}]}"#,
            r#"{"code":"Arrearage","message":"Access denied, please make sure your account is in good standing.","request_id":"x"}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2026-12-01."}}"#,
            r#"{"error":{"message":"Your account is not active, please check your billing details on our website.","type":"billing_not_active"}}"#,
            r#"{"error":{"message":"Billing hard limit has been reached","type":"insufficient_quota","code":"billing_hard_limit_reached"}}"#,
            r#"{"error":{"message":"Insufficient Balance","type":"unknown_error"}}"#,
            r#"{"detail":"Your subscription has expired"}"#,
            r#"{"error":"Invalid credentials"}"#,
            r#"{"msg":"account suspended"}"#,
        ] {
            for code in [400, 422] {
                assert_eq!(status(code, body).class, FailureClass::Key, "{body}");
            }
        }
        // What a caller wrote, and a provider quotes, kills no key.
        for body in [
            r#"{"error":{"message":"Invalid value: 'your API key is invalid'. Supported values are: 'a'.","param":null}}"#,
            r#"{"error":{"message":"Unknown role `account suspended`"}}"#,
            r#"{"error":{"message":"API key is not valid for this","param":"messages[0].content"}}"#,
        ] {
            assert_eq!(status(400, body).class, FailureClass::Rejected, "{body}");
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_is_known_in_any_words() {
        for message in [
            "This endpoint's maximum is 8192 tokens. However, you requested about 9000 tokens in the messages.",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            "Input is too long: 5000 tokens, the sequence may have at most 4096",
            "Requested tokens (5000) exceed context of 4096",
            "Too many tokens in the prompt",
            "Please reduce your prompt; it has 5000 tokens",
            "input tokens and max_tokens exceed the limit of the context",
        ] {
            let body = serde_json::json!({"error": {"message": message}}).to_string();
            assert_eq!(status(400, &body).class, FailureClass::ContextLength, "{message}");
        }
        for (message, param) in [
            (
                "max_tokens is too large: 100000. This model supports at most 4096 completion tokens.",
                Some("max_tokens"),
            ),
            (
                "max_tokens: 5000 > 4096, which is the maximum allowed number of output tokens",
                None,
            ),
            ("Too many images in request", None),
        ] {
            let body = serde_json::json!({"error": {"message": message, "param": param}}).to_string();
            assert_eq!(status(400, &body).class, FailureClass::Rejected, "{message}");
        }
    }

    #[test]
    fn only_what_is_surely_the_callers_fault_is_certain() {
        for (body, is_certain) in [
            (
                r#"{"error":{"message":"Invalid type for 'messages': expected an array.","type":"invalid_request_error","param":"messages","code":"invalid_type"}}"#,
                true,
            ),
            (
                r#"{"error":{"message":"Missing required parameter: 'messages[0].content'.","param":"messages[0].content","code":"missing_required_parameter"}}"#,
                true,
            ),
            (
                r#"{"error":{"message":"Invalid 'temperature': decimal above maximum value.","param":"temperature","code":"decimal_above_max_value"}}"#,
                true,
            ),
            (
                r#"{"error":{"message":"-1 is less than the minimum of 0 - 'temperature'","type":"invalid_request_error","param":"temperature","code":null}}"#,
                true,
            ),
            (
                r#"{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required"}]}"#,
                true,
            ),
            (
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages: at least one message is required"}}"#,
                true,
            ),
            // What one provider does not take, another one may.
            (
                r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0.2 with this model.","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}"#,
                false,
            ),
            (
                r#"{"error":{"message":"Unknown parameter: 'reasoning'.","param":"reasoning","code":"unknown_parameter"}}"#,
                false,
            ),
            (
                r#"{"detail":[{"type":"extra_forbidden","loc":["body","user"],"msg":"Extra inputs are not permitted"}]}"#,
                false,
            ),
            (r#"{"error":{"message":"Not today.","code":"E17"}}"#, false),
            (r#"{"error":{"message":"x"}}"#, false),
            ("{}", false),
            ("[]", false),
            ("[[[]]]", false),
            ("7", false),
        ] {
            let error = status(400, body);
            assert_eq!(error.class, FailureClass::Rejected, "{body}");
            assert_eq!(error.refusal.unwrap().is_certain, is_certain, "{body}");
        }
        // A page is nobody's word about the request.
        for body in ["<html><h1>400 Bad Request</h1></html>", "", "upstream request failed"] {
            let error = status(400, body);
            assert_eq!((error.class, error.refusal), (FailureClass::Rejected, None), "{body}");
        }
    }

    #[test]
    fn no_key_and_no_account_comes_through() {
        let errors = Errors::new("main", vec!["sk-proj-abcdefghijklmnop".to_owned().into()]);
        for text in [
            "bad key sk-proj-abcdefghijklmnop",
            "bad key 'sk-proj-abc***mnop'.",
            "bad key: proj-abcdefgh…",
            "token=efghijklmnop refused",
            "Authorization: Bearer sk-ant-REDACTED-bbbbbbbbbbbb",
            "key AIzaSyA1234567890abcdefghijklmnopqrstuv is blocked",
            "credential eyJhbGciOiJIUzI1NiJ9.e30.abc",
            "organization org-AbCdEf123456 is over its quota",
            "key 3f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c",
        ] {
            let clean = errors.clean(text);
            assert!(clean.contains("***"), "{clean}");
            for secret in ["abcdefgh", "mnop", "1234567890", "eyJ", "AbCdEf", "9a8b7c", "REDACTED"] {
                assert!(!clean.contains(secret), "{clean}");
            }
        }
        // Innocent words stay.
        let text = "messages.0.content: expected a string, got 12345 (see request-id 7) for gpt-4o-mini-2024-07-18";
        assert_eq!(errors.clean(text), text);
    }

    #[test]
    fn errors_in_the_stream_have_words_or_a_status_or_nothing() {
        for (error, class) in [
            (r#"{"message":"x","type":"server_error"}"#, FailureClass::Overload),
            (r#"{"message":"x","code":429}"#, FailureClass::Rate),
            (r#"{"message":"x","code":"429"}"#, FailureClass::Rate),
            (r#"{"message":"x","type":"rate_limit_error"}"#, FailureClass::Rate),
            (
                r#"{"message":"x","code":"context_length_exceeded"}"#,
                FailureClass::ContextLength,
            ),
            (r#"{"message":"x","code":400}"#, FailureClass::Rejected),
            (r#"{"message":"x","type":"overloaded_error"}"#, FailureClass::Overload),
            (r#""broken""#, FailureClass::Overload),
            ("{}", FailureClass::Overload),
        ] {
            let value: Value = serde_json::from_str(error).unwrap();
            assert_eq!(errors().in_stream(&value).class, class, "{error}");
        }
    }

    #[test]
    fn a_providers_text_is_cut_cleaned_and_masked() {
        let text = format!("bad\r\nkey sk-secret {}", "é".repeat(2_000));
        let clean = errors().clean(&text);
        assert!(clean.starts_with("bad  key *** é"), "{clean}");
        assert_eq!(clean.chars().count(), MAX_MESSAGE + 1);
    }
}

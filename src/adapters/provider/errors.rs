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
        let said = match serde_json::from_slice::<Value>(body) {
            Ok(body) => Said::of(inner(&body)),
            Err(_) => Said::default(),
        };
        let class = said.class(status.as_u16());
        let mut error = self.describe(class, &said, &format!("status {}", status.as_u16()));
        error.retry_after = retry_after(headers);
        error.refusal = said.refusal(class, status.as_u16());
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
            "no connection in time"
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

    /// Cuts, strips control characters and masks secrets that a provider echoes.
    pub fn clean(&self, text: &str) -> String {
        let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Before the cut, so that no secret is left by half.
        for secret in self.secrets.iter().map(ExposeSecret::expose_secret) {
            if secret.len() >= MIN_SECRET {
                text = text.replace(secret, "***");
            }
        }
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
    body.get("error").filter(|error| !error.is_null()).unwrap_or(body)
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
        let words = [error.get("code"), error.get("type"), inner]
            .into_iter()
            .flatten()
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
        let message = ["message", "detail", "error", "msg", "error_msg"]
            .iter()
            .find_map(|field| {
                let value = error.get(field)?;
                // FastAPI lists what is wrong.
                value.as_str().or_else(|| value.get(0)?.get("msg")?.as_str())
            });
        let param = error.get("param").and_then(Value::as_str);
        Self {
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
            })
        })
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
            // Anthropic's word for an account without money.
            400 if says(&["credit balance is too low"]) => FailureClass::Key,
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

//! Configuration of one deployment of a model.

use std::fmt;
use std::time::Duration;

use copilotd_actors::domain::usage::Price;
use reqwest::Url;
use secrecy::SecretString;

/// One model on one server.
#[derive(Clone)]
pub struct OpenAiConfig {
    /// Name of the deployment; appears in errors and is never sent to the provider.
    pub name: String,
    /// Base of the API, `https://api.openai.com/v1` for OpenAI's own. A query (`?api-version=…`) is kept.
    pub base_url: String,
    /// The key; if empty, none is sent.
    pub api_key: SecretString,
    /// The model, as the server names it.
    pub model: String,
    pub auth: Auth,
    /// Longest time until a connection is established.
    pub connect: Duration,
    /// Without a price, usage costs nothing.
    pub price: Option<Price>,
    /// Headers that are sent with each request. Their values may be secrets.
    pub headers: Vec<(String, SecretString)>,
    /// Where servers differ.
    pub dialect: Dialect,
}

impl OpenAiConfig {
    /// Describes a deployment without a price, with the dialect and the form of the key that its address suggests.
    pub fn new(name: &str, base_url: &str, api_key: SecretString, model: &str) -> Self {
        Self {
            name: name.to_owned(),
            base_url: base_url.to_owned(),
            api_key,
            model: model.to_owned(),
            auth: Auth::of(base_url),
            connect: Duration::from_secs(5),
            price: None,
            headers: Vec::new(),
            dialect: Dialect::of(base_url),
        }
    }
}

impl fmt::Debug for OpenAiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        // The address is left out: until it is checked, it may contain a password.
        f.debug_struct("OpenAiConfig")
            .field("name", &self.name)
            .field("model", &self.model)
            .field("auth", &self.auth)
            .field("price", &self.price)
            .field("headers", &headers)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// How a key is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    Bearer,
    /// `api-key`, as Azure requires.
    ApiKey,
}

impl Auth {
    /// Guesses by the host.
    pub fn of(base_url: &str) -> Self {
        if host(base_url).ends_with(".openai.azure.com") {
            Self::ApiKey
        } else {
            Self::Bearer
        }
    }

    /// Returns the header.
    pub(super) fn header(self, key: &str) -> (String, SecretString) {
        match self {
            Self::Bearer => ("authorization".to_owned(), format!("Bearer {key}").into()),
            Self::ApiKey => ("api-key".to_owned(), key.to_owned().into()),
        }
    }
}

fn host(base_url: &str) -> String {
    let url = Url::parse(base_url).ok();
    url.and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_default()
}

/// Where servers of the same protocol differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Name of the field that limits the answer.
    pub max_tokens: MaxTokensField,
    /// Whether `parallel_tool_calls` is sent with tools.
    pub parallel_tool_calls: bool,
    /// Whether usage is requested with `stream_options`; without it, usage is estimated.
    pub stream_usage: bool,
    /// Whether a hash of the user is sent with a conversation's calls.
    pub user: bool,
    /// Whether the conversation's id is sent as `prompt_cache_key`.
    pub prompt_cache_key: bool,
    /// Whether plain `http` means HTTP/2 from the first byte, as behind some meshes.
    pub http2_cleartext: bool,
    /// Most streams of one HTTP/2 connection; servers commonly allow 100.
    pub streams_per_connection: usize,
}

/// Name of the field that limits the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxTokensField {
    /// Required by OpenAI's newer models.
    MaxCompletionTokens,
    /// Known to older self-hosted servers.
    MaxTokens,
}

impl Dialect {
    /// Guesses by the host. OpenAI deprecates `max_tokens` and its reasoning models refuse it, while servers that
    /// copied the protocol before 2024 silently ignore `max_completion_tokens`, so that the answer would have no limit:
    /// only OpenAI's own host, and Azure's that runs the same models, get the new name.
    pub fn of(base_url: &str) -> Self {
        let host = host(base_url);
        let own = host == "openai.com" || host.ends_with(".openai.com");
        let azure = host.ends_with(".openai.azure.com");
        Self {
            max_tokens: if own || azure {
                MaxTokensField::MaxCompletionTokens
            } else {
                MaxTokensField::MaxTokens
            },
            parallel_tool_calls: true,
            stream_usage: true,
            user: true,
            prompt_cache_key: own,
            http2_cleartext: false,
            streams_per_connection: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_openai_gets_what_only_openai_knows() {
        let own = Dialect::of("https://eu.api.openai.com/v1");
        assert_eq!(own.max_tokens, MaxTokensField::MaxCompletionTokens);
        assert!(own.prompt_cache_key);
        for base in [
            "http://localhost:11434/v1",
            "https://openai.com.evil.example/v1",
            "https://notopenai.com/v1",
        ] {
            let other = Dialect::of(base);
            assert_eq!(other.max_tokens, MaxTokensField::MaxTokens, "{base}");
            assert!(!other.prompt_cache_key, "{base}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut config = OpenAiConfig::new("m", "https://u:hunter2@h/v1", "hunter2".to_owned().into(), "gpt");
        config.headers = vec![("api-key".to_owned(), "hunter2".to_owned().into())];
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

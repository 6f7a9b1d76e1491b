//! Configuration of one deployment of a model.

use std::fmt;
use std::time::Duration;

use copilotd_actors::domain::usage::Price;
use secrecy::{ExposeSecret, SecretString};

/// Longest answer, in tokens, if neither a request nor the configuration sets a limit.
pub const MAX_TOKENS: u64 = 4096;
/// The API version in use.
const VERSION: &str = "2023-06-01";

/// One model on one server.
#[derive(Clone)]
pub struct AnthropicConfig {
    /// Name of the deployment; appears in errors and is never sent to the provider.
    pub name: String,
    /// Base of the API, `https://api.anthropic.com/v1` for Anthropic's own.
    pub base_url: String,
    /// The key; if empty, none is sent.
    pub api_key: SecretString,
    /// The model, as the server names it.
    pub model: String,
    pub auth: Auth,
    /// Longest answer, in tokens, if a request does not set a limit: the API requires one.
    pub max_tokens: u64,
    /// Longest time until a connection is established.
    pub connect: Duration,
    /// Without a price, usage costs nothing.
    pub price: Option<Price>,
    /// Headers that are sent with each request, `anthropic-beta` for instance. Their values may be secrets.
    pub headers: Vec<(String, SecretString)>,
    /// Whether plain `http` means HTTP/2 from the first byte, as behind some meshes.
    pub http2_cleartext: bool,
}

/// How a key is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `x-api-key`, as Anthropic requires.
    ApiKey,
    /// `Authorization: Bearer`, as some proxies require.
    Bearer,
}

impl AnthropicConfig {
    /// Describes a deployment without a price.
    pub fn new(name: &str, base_url: &str, api_key: SecretString, model: &str) -> Self {
        Self {
            name: name.to_owned(),
            base_url: base_url.to_owned(),
            api_key,
            model: model.to_owned(),
            auth: Auth::ApiKey,
            max_tokens: MAX_TOKENS,
            connect: Duration::from_secs(5),
            price: None,
            headers: Vec::new(),
            http2_cleartext: false,
        }
    }

    /// Lists the headers of a request; the configured ones come last and so replace others of the same name.
    pub(super) fn all_headers(&self) -> Result<Vec<(String, SecretString)>, String> {
        let mut headers = vec![("anthropic-version".to_owned(), VERSION.to_owned().into())];
        let key = self.api_key.expose_secret();
        if key.chars().any(|c| c.is_control() || !c.is_ascii()) {
            return Err("api_key contains characters that are not allowed in a header".to_owned());
        }
        if !key.is_empty() {
            headers.push(match self.auth {
                Auth::ApiKey => ("x-api-key".to_owned(), self.api_key.clone()),
                Auth::Bearer => ("authorization".to_owned(), format!("Bearer {key}").into()),
            });
        }
        headers.extend(self.headers.iter().cloned());
        Ok(headers)
    }
}

impl fmt::Debug for AnthropicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        // The address is left out: until it is checked, it may contain a password.
        f.debug_struct("AnthropicConfig")
            .field("name", &self.name)
            .field("model", &self.model)
            .field("auth", &self.auth)
            .field("max_tokens", &self.max_tokens)
            .field("price", &self.price)
            .field("headers", &headers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_the_version_and_the_key_and_may_be_replaced() {
        let mut config = AnthropicConfig::new("m", "https://h/v1", "hunter22".to_owned().into(), "claude");
        let shown = |config: &AnthropicConfig| -> Vec<String> {
            let headers = config.all_headers().unwrap();
            headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.expose_secret()))
                .collect()
        };
        assert_eq!(shown(&config), ["anthropic-version: 2023-06-01", "x-api-key: hunter22"]);
        config.auth = Auth::Bearer;
        config.headers = vec![("anthropic-version".to_owned(), "2030-01-01".to_owned().into())];
        let expected = [
            "anthropic-version: 2023-06-01",
            "authorization: Bearer hunter22",
            "anthropic-version: 2030-01-01",
        ];
        assert_eq!(shown(&config), expected);
        assert!(!format!("{config:?}").contains("hunter22"));
        config.api_key = "ключ".to_owned().into();
        assert!(config.all_headers().is_err());
    }
}

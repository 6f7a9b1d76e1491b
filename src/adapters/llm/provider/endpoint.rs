//! Addresses of resources of a provider's API.

use reqwest::Url;

/// Returns the address of a resource under `base_url`.
pub fn endpoint(base_url: &str, resource: &[&str]) -> Result<Url, String> {
    let mut url = Url::parse(base_url).map_err(|error| format!("base_url is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("base_url must begin with http:// or https:// and name a host".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("base_url must not contain a user or a password; use api_key or headers".into());
    }
    url.set_fragment(None);
    url.path_segments_mut()
        .map_err(|()| "base_url cannot have a path".to_owned())?
        .pop_if_empty()
        .extend(resource);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_stands_under_the_base_url() {
        for (base, expected) in [
            (
                "https://api.openai.com/v1",
                Ok("https://api.openai.com/v1/chat/completions"),
            ),
            ("http://gpu:8000/v1/", Ok("http://gpu:8000/v1/chat/completions")),
            ("http://gpu:8000", Ok("http://gpu:8000/chat/completions")),
            (
                "https://x.openai.azure.com/openai/deployments/d?api-version=1",
                Ok("https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1"),
            ),
            ("gpu:8000/v1", Err("http")),
            ("", Err("not a URL")),
            ("file:///etc/passwd", Err("http")),
            ("https://user:hunter2@host/v1", Err("password")),
        ] {
            match (endpoint(base, &["chat", "completions"]), expected) {
                (Ok(url), Ok(expected)) => assert_eq!(url.as_str(), expected),
                (Err(reason), Err(part)) => {
                    assert!(reason.contains(part) && !reason.contains("hunter2"), "{base}: {reason}");
                }
                (got, expected) => panic!("{base}: {got:?} instead of {expected:?}"),
            }
        }
    }
}

//! Origins of web pages: what browsers send in `Origin`.

use reqwest::Url;

/// Returns what is wrong with an origin. Browsers send each in one form only, so it has to be written in that form.
pub(super) fn fault(text: &str) -> Option<String> {
    if text.contains('*') {
        return Some("wildcards are not supported: list each origin of your own pages".to_owned());
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return Some(format!("expected an origin such as https://app.example.com: {error}")),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Some("expected an origin that begins with https:// or http://".to_owned());
    }
    let sent = url.origin().ascii_serialization();
    (sent != text).then(|| format!("browsers send the origin of this address as {sent}: write it so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_browser_sends_is_accepted() {
        for good in [
            "https://app.example.com",
            "https://app.example.com:8443",
            "http://localhost:3000",
            "http://[::1]:3000",
            "https://xn--mller-kva.example",
        ] {
            assert_eq!(fault(good), None, "{good}");
        }
        for (bad, said) in [
            ("*", "wildcards"),
            ("null", "expected an origin"),
            ("", "expected an origin"),
            ("app.example.com", "expected an origin"),
            ("https://*.example.com", "wildcards"),
            ("file:///tmp", "begins with https://"),
            ("https://app.example.com/", "as https://app.example.com:"),
            ("https://app.example.com/path?q", "as https://app.example.com:"),
            ("https://app.example.com:443", "as https://app.example.com:"),
            ("https://App.Example.com", "as https://app.example.com:"),
            ("https://user@app.example.com", "as https://app.example.com:"),
            ("https://müller.example", "as https://xn--mller-kva.example:"),
        ] {
            assert!(
                fault(bad).is_some_and(|fault| fault.contains(said)),
                "{bad}: {:?}",
                fault(bad)
            );
        }
    }
}

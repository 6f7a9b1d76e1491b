//! Makes text and addresses harmless in Slack's mrkdwn.

/// Longer addresses are shown as text only: a link may not be split.
const MAX_URL: usize = 1500;

/// Escapes text; Slack knows no other escaping.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            // Invisible, and in JSON each takes six characters.
            control if control.is_control() && !matches!(control, '\n' | '\t') => {}
            other => escaped.push(other),
        }
    }
    escaped
}

/// Allows only addresses that lead out of Slack; whatever could end the link early is percent-encoded.
pub(super) fn safe_url(url: &str) -> Option<String> {
    let scheme = url.split_once(':')?.0.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https" | "mailto") || url.chars().count() > MAX_URL {
        return None;
    }
    let mut safe = String::with_capacity(url.len());
    for character in url.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("%3C"),
            '>' => safe.push_str("%3E"),
            '|' => safe.push_str("%7C"),
            ' ' => safe.push_str("%20"),
            control if control.is_control() => return None,
            other => safe.push(other),
        }
    }
    Some(safe)
}

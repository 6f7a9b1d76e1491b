//! The canonical form in which issuers are compared, so that different spellings of one issuer are found.

use reqwest::Url;
use unicode_normalization::UnicodeNormalization as _;

/// Longest issuer that is parsed, in bytes; the schema allows 500 characters.
const MAX_LENGTH: usize = 4_000;

/// Returns the form that all spellings of an issuer share. Deliberately strict: when in doubt, two spellings are the
/// same issuer.
///
/// Unicode is normalised to NFKC and stripped of invisible characters. Of a URL, scheme and host are lower-cased and
/// IDNA-encoded; default port, user, empty query, empty fragment and empty path segments are removed; percent-encoding
/// and dot segments are resolved.
pub(super) fn canonical(iss: &str) -> String {
    let text = visible(iss);
    if text.len() > MAX_LENGTH {
        return text;
    }
    let Ok(url) = Url::parse(&text) else { return text };
    let Some(host) = url.host_str() else {
        return visible(url.as_str());
    };
    let host = host.to_lowercase();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let mut canonical = format!("{}://{}{port}", url.scheme(), host.trim_end_matches('.'));
    for segment in segments(url.path()) {
        canonical.push('/');
        canonical.push_str(&segment);
    }
    for (mark, part) in [('?', url.query()), ('#', url.fragment())] {
        if let Some(part) = part.filter(|part| !part.is_empty()) {
            canonical.push(mark);
            canonical.push_str(&decoded(part));
        }
    }
    canonical
}

fn visible(text: &str) -> String {
    let kept = text.nfkc().filter(|c| !is_invisible(*c) && !c.is_control());
    kept.collect::<String>().trim().to_owned()
}

/// Whether a character is invisible, so that a resolver or a person ignores it.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{2800}' | '\u{110bd}' | '\u{110cd}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Decodes percent-encoding repeatedly until nothing is left to decode, and normalises the result.
fn decoded(text: &str) -> String {
    let mut text = text.to_owned();
    // Terminates: each round that changes something makes the text shorter.
    loop {
        let once = visible(&percent_encoding::percent_decode_str(&text).decode_utf8_lossy());
        if once == text {
            return text;
        }
        text = once;
    }
}

/// Splits a path after decoding, because some readers treat an encoded slash or dot as a real one.
fn segments(path: &str) -> Vec<String> {
    let mut segments = Vec::new();
    for segment in decoded(path).split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => _ = segments.pop(),
            other => segments.push(other.to_owned()),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_issuer() {
        for (one, other, same) in [
            ("https://acme.example", "https://acme.example/", true),
            ("https://acme.example", "HTTPS://ACME.EXAMPLE:443/", true),
            ("https://acme.example", "https://ａｃｍｅ.example", true),
            ("https://acme.example", "https://acme。example", true),
            ("https://acme.example", "https://acme.example.", true),
            ("https://acme.example", "https://ac\u{200b}me.example", true),
            ("https://acme.example", " https://acme.example\u{feff}", true),
            ("https://acme.example", "https://acme.example?#", true),
            ("https://acme.example", "https://user@acme.example", true),
            ("https://acme.example", "https:\\\\acme.example", true),
            ("https://acme.example", "https://%61cme.example", true),
            ("https://acme.example/a", "https://acme.example/./b/../a//", true),
            ("https://acme.example/a", "https://acme.example/%61", true),
            ("https://acme.example/a", "https://acme.example/%2561", true),
            ("https://acme.example/a", "https://acme.example/b/%2e%2e/a", true),
            ("https://acme.example/a", "https://acme.example/b%2F..%2Fa", true),
            ("https://acme.example/ﬁ", "https://acme.example/fi", true),
            ("https://acme.example/é", "https://acme.example/e\u{301}", true),
            ("https://bücher.example", "https://xn--bcher-kva.example", true),
            ("http://127.0.0.1:80", "http://127.1", true),
            ("acme-backend", "ａcme-backend", true),
            ("acme-backend", "acme-backend ", true),
            ("https://acme.example", "https://acme.example.org", false),
            ("https://acme.example", "http://acme.example", false),
            ("https://acme.example", "https://acme.example:8443", false),
            ("https://acme.example/a", "https://acme.example/A", false),
            ("https://acme.example/a", "https://acme.example/b", false),
            ("https://acme.example/?a=1", "https://acme.example/?a=2", false),
            ("acme", "globex", false),
        ] {
            assert_eq!(
                canonical(one) == canonical(other),
                same,
                "{one} {other}: {} {}",
                canonical(one),
                canonical(other)
            );
        }
    }
}

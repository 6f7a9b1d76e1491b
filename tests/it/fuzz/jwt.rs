//! Credentials: the verifier must not accept a token that nobody signed.

use copilotd::http::credentials::Verifier;
use serde_json::json;

use super::text::Choices;
use crate::credentials::{claims, config, now, sign};

/// Only the signed text is accepted, whatever is changed, removed or inserted.
#[test]
fn fuzz_jwt() {
    let verifier = Verifier::new(&config()).unwrap();
    let good = sign(&claims(json!({ "scope": "chat admin" })));
    assert!(verifier.verify(&good, None, now()).is_ok());
    super::fuzz(512, |input| {
        let mut choices = Choices::new(input);
        let mut token = good.clone().into_bytes();
        for _ in 0..=choices.byte() % 4 {
            let at = (usize::from(choices.byte()) << 8 | usize::from(choices.byte())) % (token.len() + 1);
            match choices.byte() % 4 {
                0 if at < token.len() => token[at] = choices.byte(),
                1 => token.insert(at, choices.byte()),
                2 => token.truncate(at),
                _ => {
                    let piece = choices.take(8).to_vec();
                    token.splice(at..at, piece);
                }
            }
        }
        let Ok(token) = std::str::from_utf8(&token) else { return };
        let accepted = verifier.verify(token, None, now()).is_ok();
        assert_eq!(accepted, token == good, "{token}");
        let raw = String::from_utf8_lossy(input);
        assert!(verifier.verify(&raw, Some(&raw), now()).is_err());
    });
}

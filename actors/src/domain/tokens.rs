//! The one tokenizer: what triggers a compression and what plans it count alike.

/// Tokens that chat protocols add around a message, as OpenAI documents for its chat models.
pub const PER_MESSAGE: u64 = 4;

/// Counts the tokens of `text` in the encoding `o200k_base`. Other vendors' models differ by some percent.
pub fn count(text: &str) -> u64 {
    tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64
}

/// Returns the longest beginning of `text` that has about `tokens` tokens at most, cut at a character.
pub fn clip(text: &str, tokens: u64) -> &str {
    let encoder = tiktoken_rs::o200k_base_singleton();
    let encoded = encoder.encode_ordinary(text);
    let Some(kept) = encoded.get(..usize::try_from(tokens).unwrap_or(usize::MAX)) else {
        return text;
    };
    // Tokens may end inside a character: count bytes and step back to a boundary.
    let mut bytes = encoder
        .decode_bytes(kept)
        .map_or(0, |bytes| bytes.len())
        .min(text.len());
    while !text.is_char_boundary(bytes) {
        bytes -= 1;
    }
    &text[..bytes]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_keeps_whole_characters() {
        let text = "Grüße aus Köln 🙂🙂🙂";
        for tokens in 0..count(text) + 2 {
            let clipped = clip(text, tokens);
            assert!(text.starts_with(clipped));
            assert!(count(clipped) <= tokens + 1, "{clipped:?}");
        }
        assert_eq!(clip(text, 1000), text);
    }
}

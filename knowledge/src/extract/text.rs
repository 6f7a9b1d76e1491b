//! Decoding: from bytes in any of the web's encodings to text.
//!
//! The encoding is, in this order: that of a byte order mark; the one that the media type declares; UTF-8 if the bytes are
//! valid; UTF-8 with replacement characters (U+FFFD) if at least half of the bytes beyond ASCII belong to valid
//! sequences; else windows-1252, as browsers assume.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

use super::error::ExtractError;
use super::limits::Limits;

/// Share of control characters, in hundredths, above which content is no text.
const MOST_CONTROLS: usize = 2;

/// Decodes content. NUL, which not every store can hold, becomes a replacement character.
pub fn decode(content: &[u8], charset: Option<&str>, limits: &Limits) -> Result<String, ExtractError> {
    // Decoding makes at most three bytes of one.
    if content.len() > limits.text_bytes {
        return Err(ExtractError::TooLarge);
    }
    let encoding = match Encoding::for_bom(content) {
        Some((encoding, _)) => encoding,
        None => charset
            .and_then(|label| Encoding::for_label(label.trim().as_bytes()))
            .unwrap_or_else(|| guess(content)),
    };
    // Removes the mark.
    let (text, _, _) = encoding.decode(content);
    if text.len() > limits.text_bytes {
        return Err(ExtractError::TooLarge);
    }
    let controls = text.bytes().filter(|byte| is_control(*byte)).count();
    if controls * 100 > text.len() * MOST_CONTROLS {
        return Err(ExtractError::NotText);
    }
    Ok(if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text.into_owned()
    })
}

/// Whether a byte is a control character that text does not have.
fn is_control(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c)
}

fn guess(content: &[u8]) -> &'static Encoding {
    let (mut valid, mut invalid) = (0_usize, 0_usize);
    for chunk in content.utf8_chunks() {
        valid += chunk.valid().bytes().filter(|byte| !byte.is_ascii()).count();
        invalid += chunk.invalid().len();
    }
    if valid >= invalid { UTF_8 } else { WINDOWS_1252 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(content: &[u8], charset: Option<&str>) -> Result<String, ExtractError> {
        decode(content, charset, &Limits::default())
    }

    #[test]
    fn the_encoding_is_found() {
        let utf16 = |bytes: fn(u16) -> [u8; 2], text: &str| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for (content, charset, expected) in [
            (b"\xc3\xa9t\xc3\xa9".to_vec(), None, "été"),
            (b"\xef\xbb\xbf\xc3\xa9t\xc3\xa9".to_vec(), Some("latin1"), "été"),
            (utf16(u16::to_le_bytes, "\u{feff}Grüße"), None, "Grüße"),
            (utf16(u16::to_be_bytes, "\u{feff}Grüße"), Some("utf-8"), "Grüße"),
            (utf16(u16::to_le_bytes, "Grüße"), Some(" UTF-16LE "), "Grüße"),
            (b"\xe9t\xe9".to_vec(), None, "été"),
            (b"\xe9t\xe9".to_vec(), Some("utf-8"), "\u{fffd}t\u{fffd}"),
            (b"\x93\xfa\x96{".to_vec(), Some("shift_jis"), "日本"),
            (b"\xe9t\xe9".to_vec(), Some("no such charset"), "été"),
            (
                "grüße grüße \u{20ac}".bytes().chain([0xff]).collect(),
                None,
                "grüße grüße €\u{fffd}",
            ),
            (Vec::new(), None, ""),
        ] {
            assert_eq!(
                decoded(&content, charset).as_deref(),
                Ok(expected),
                "{content:?} {charset:?}"
            );
        }
    }

    #[test]
    fn binary_data_is_refused() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";
        assert_eq!(decoded(png, None), Err(ExtractError::NotText));
        let text = format!("{}\0 end", "words ".repeat(20));
        assert_eq!(decoded(text.as_bytes(), None).unwrap(), text.replace('\0', "\u{fffd}"));
    }

    #[test]
    fn text_is_bounded_after_decoding() {
        let limits = Limits {
            text_bytes: 10,
            ..Limits::default()
        };
        assert_eq!(decode(b"0123456789", None, &limits).as_deref(), Ok("0123456789"));
        assert_eq!(decode(b"01234567890", None, &limits), Err(ExtractError::TooLarge));
        assert_eq!(
            decode(b"\x80\x80\x80\x80", Some("windows-1252"), &limits),
            Err(ExtractError::TooLarge)
        );
    }
}

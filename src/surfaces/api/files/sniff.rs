//! The type of a file by its content.

use copilotd_actors::domain::file::{FileKind, MediaType};

/// Bytes at the beginning that show what a file is.
const HEAD: usize = 8 * 1024;

/// Looks at a file that arrives piece by piece.
#[derive(Debug, Default)]
pub(super) struct Sniffer {
    head: Vec<u8>,
    text: TextCheck,
}

/// Whether the bytes so far are UTF-8 without NUL characters.
#[derive(Debug, Default)]
struct TextCheck {
    /// The beginning of a character that the next piece may complete.
    rest: Vec<u8>,
    is_broken: bool,
}

impl TextCheck {
    fn push(&mut self, bytes: &[u8]) {
        if self.is_broken {
            return;
        }
        let joined;
        let bytes = if self.rest.is_empty() {
            bytes
        } else {
            joined = [self.rest.as_slice(), bytes].concat();
            &joined
        };
        let (valid, rest) = match std::str::from_utf8(bytes) {
            Ok(_) => (bytes, &[][..]),
            Err(error) if error.error_len().is_none() => bytes.split_at(error.valid_up_to()),
            Err(_) => {
                self.is_broken = true;
                return;
            }
        };
        self.is_broken = valid.contains(&0);
        self.rest = rest.to_vec();
    }

    fn is_text(&self) -> bool {
        !self.is_broken && self.rest.is_empty()
    }
}

impl Sniffer {
    /// Looks at the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let missing = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        self.text.push(bytes);
    }

    /// Returns whether it may still turn out to be one of these types.
    pub(super) fn may_be(&self, types: &[MediaType]) -> bool {
        let is_known = self.by_signature().is_some_and(|found| types.contains(&found));
        let is_text = |media_type: &MediaType| media_type.kind() == FileKind::Text;
        is_known || (!self.text.is_broken && types.iter().any(is_text))
    }

    /// Returns the type of the whole file. What the client declares, or else the ending of the name, decides only among types of
    /// text, which look alike.
    pub(super) fn media_type(&self, declared: Option<&str>, name: &str) -> Option<MediaType> {
        match self.by_signature() {
            // A PDF may be all text, an image never is: "GIF" begins sentences, too.
            Some(found) if found == MediaType::Pdf || !self.text.is_text() => return Some(found),
            None if !self.text.is_text() => return None,
            _ => {}
        }
        let is_text = |media_type: &MediaType| media_type.kind() == FileKind::Text;
        let declared = declared.and_then(|declared| declared.parse::<MediaType>().ok());
        // Browsers that do not know an ending declare plain text or nothing.
        let declared = declared.filter(|media_type| is_text(media_type) && *media_type != MediaType::Text);
        Some(declared.or_else(|| by_ending(name)).unwrap_or(MediaType::Text))
    }

    /// Returns what the first bytes show, if we know it.
    fn by_signature(&self) -> Option<MediaType> {
        let found = infer::get(&self.head)?.mime_type().parse::<MediaType>().ok()?;
        Some(found).filter(|found| found.kind() != FileKind::Text)
    }
}

fn by_ending(name: &str) -> Option<MediaType> {
    let (_, ending) = name.rsplit_once('.')?;
    match ending.to_ascii_lowercase().as_str() {
        "md" | "markdown" => Some(MediaType::Markdown),
        "csv" => Some(MediaType::Csv),
        "json" => Some(MediaType::Json),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    fn found(pieces: &[&[u8]], declared: Option<&str>, name: &str) -> Option<MediaType> {
        let mut sniffer = Sniffer::default();
        pieces.iter().for_each(|piece| sniffer.push(piece));
        sniffer.media_type(declared, name)
    }

    #[test]
    fn the_content_decides_and_the_declared_type_only_among_texts() {
        for (pieces, declared, name, expected) in [
            (&[PNG][..], Some("text/plain"), "a.txt", Some(MediaType::Png)),
            (&[&b"\xff\xd8\xff\xe0\0\x10JFIF"[..]], None, "", Some(MediaType::Jpeg)),
            (&[&b"GIF89a\x01\0"[..]], None, "", Some(MediaType::Gif)),
            (&[&b"RIFF\x1a\0\0\0WEBPVP8 "[..]], None, "", Some(MediaType::Webp)),
            (&[&b"%PDF-1.7\n"[..]], Some("image/png"), "", Some(MediaType::Pdf)),
            (&[&b"a,b\n1,2\n"[..]], Some("text/csv"), "a", Some(MediaType::Csv)),
            (&[&b"a,b"[..]], Some("image/png"), "a.CSV", Some(MediaType::Csv)),
            (&[&b"a,b"[..]], Some("text/plain"), "a.csv", Some(MediaType::Csv)),
            (
                &[&b"# a"[..]],
                Some("text/markdown"),
                "a.txt",
                Some(MediaType::Markdown),
            ),
            (
                &[&b"GIF is a format"[..]],
                Some("text/plain"),
                "a",
                Some(MediaType::Text),
            ),
            (&[&b"BM, a text"[..]], None, "a", Some(MediaType::Text)),
            (
                &[&b"plain"[..]],
                Some("application/octet-stream"),
                "a",
                Some(MediaType::Text),
            ),
            (
                &[&b"<html><body>"[..]],
                Some("text/html"),
                "a.html",
                Some(MediaType::Text),
            ),
            (&[&b"caf\xc3"[..], &b"\xa9"[..]], None, "", Some(MediaType::Text)),
            (&[&b"caf\xc3"[..]], None, "", None),
            (&[&b"caf\xe9 latin"[..]], Some("text/plain"), "", None),
            (&[&b"nul\0"[..]], Some("text/plain"), "", None),
            (&[&b"PK\x03\x04\x14\0\0\0"[..]], Some("text/plain"), "", None),
            (&[&b"\x7fELF\x02\x01\x01\0"[..]], Some("image/png"), "", None),
        ] {
            assert_eq!(found(pieces, declared, name), expected, "{pieces:?} {declared:?}");
        }
    }

    #[test]
    fn what_cannot_become_an_accepted_type_is_known_early() {
        for (bytes, types, expected) in [
            (PNG, &[MediaType::Png][..], true),
            (PNG, &[MediaType::Text][..], false),
            (&b"text"[..], &[MediaType::Csv][..], true),
            (&b"text"[..], &[MediaType::Png][..], false),
            (&b"\xff\xfe\0"[..], &[MediaType::Text][..], false),
        ] {
            let mut sniffer = Sniffer::default();
            sniffer.push(bytes);
            assert_eq!(sniffer.may_be(types), expected, "{bytes:?}");
        }
    }
}

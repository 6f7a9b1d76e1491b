//! Where a value is in a request, and what of it is base64.

/// Parts of a message that are not text.
const MEDIA: [&str; 5] = ["image_url", "input_audio", "file", "video_url", "audio_url"];
/// Shortest text that is taken for base64 where base64 is allowed.
const MIN_BASE64: usize = 64;

/// Where a value is. Data is only expected in a part of a message's content; elsewhere the same names mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonPosition {
    Message,
    /// The content of a message.
    Content,
    /// A part of the content.
    Part,
    /// A part that is not text, or a `data:` URL of it.
    Media,
    /// Base64, or a `data:` URL of it.
    Data,
    /// A URL, possibly with embedded data.
    Url,
    /// A role or a type.
    Kind,
    Other,
}

impl JsonPosition {
    pub(super) fn below(self, name: &str) -> Self {
        match (self, name) {
            (Self::Message, "content") => Self::Content,
            (Self::Part, name) if MEDIA.contains(&name) => Self::Media,
            (Self::Media, "data" | "file_data") => Self::Data,
            (Self::Media, "url") => Self::Url,
            (_, "role" | "type") => Self::Kind,
            _ => Self::Other,
        }
    }

    /// The position of an item of a list in this one.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Content => Self::Part,
            Self::Kind => Self::Kind,
            _ => Self::Other,
        }
    }
}

/// Returns what remains of a text without its base64 data: of a `data:` URL the head; where data is expected, nothing
/// if all of it is base64.
pub(super) fn without_base64(text: &str, is_data: bool) -> &str {
    const MARK: &str = ";base64,";
    let beginning = &text[..text.floor_char_boundary(256)];
    let is_url = beginning
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    let (head, data) = match beginning.find(MARK) {
        Some(at) if is_url => text.split_at(at + MARK.len()),
        _ if is_data && text.len() >= MIN_BASE64 => ("", text),
        _ => return text,
    };
    let is_digit =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=' | b'\r' | b'\n');
    if data.bytes().all(is_digit) { head } else { text }
}

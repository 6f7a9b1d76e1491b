//! Reads the body of a `PUT`: a content with its format, and the attributes sent with it.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use copilotd_actors::domain::ids::{TenantId, UserId};
use copilotd_knowledge::document::{AttributeChanges, Format};
use copilotd_knowledge::library::Content;
use mime::Mime;
use multer::Multipart;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::http::bodies::{self, BodyLimits};
use crate::http::extract::invalid;
use crate::http::problems::{Code, Problem};
use crate::request_body;

/// What may surround the document in a multipart body.
const ENVELOPE_BYTES: usize = 1024 * 1024;
/// Formats by media type.
const FORMATS: [(&str, Format); 9] = [
    ("text/plain", Format::Text),
    ("text/markdown", Format::Markdown),
    ("text/x-markdown", Format::Markdown),
    ("text/html", Format::Html),
    ("application/xhtml+xml", Format::Html),
    ("application/pdf", Format::Pdf),
    ("text/csv", Format::Csv),
    (
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        Format::Docx,
    ),
    ("application/json", Format::Json),
];
/// Formats by the ending of a file's name, for parts that state no type.
const ENDINGS: [(&str, Format); 9] = [
    ("txt", Format::Text),
    ("md", Format::Markdown),
    ("markdown", Format::Markdown),
    ("html", Format::Html),
    ("htm", Format::Html),
    ("pdf", Format::Pdf),
    ("csv", Format::Csv),
    ("docx", Format::Docx),
    ("json", Format::Json),
];

/// Attributes in a request. A member that is missing changes nothing; null removes the attribute.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct AttributesBody {
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    uri: Option<Option<String>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    metadata: Option<Option<BTreeMap<String, Value>>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    allowed_users: Option<Option<BTreeSet<UserId>>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    allowed_roles: Option<Option<BTreeSet<String>>>,
}
request_body!(AttributesBody, "update_document.json");

/// Body of a `PUT` in JSON: the text of a document, with its attributes.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct DocumentBody {
    text: String,
    #[serde(flatten)]
    attributes: AttributesBody,
}
request_body!(DocumentBody, "put_document.json");

/// Tells a member that is null from one that is missing.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

impl From<AttributesBody> for AttributeChanges {
    fn from(body: AttributesBody) -> Self {
        Self {
            title: body.title,
            uri: body.uri,
            metadata: body.metadata.map(Option::unwrap_or_default),
            users: body.allowed_users,
            roles: body.allowed_roles,
        }
    }
}

/// Reads a body of at most `max_bytes` of content.
pub(super) async fn read(
    mut request: Request,
    tenant: &TenantId,
    max_bytes: usize,
) -> Result<(Content, AttributeChanges), Problem> {
    let limits = request.extensions().get::<BodyLimits>().copied().unwrap_or_default();
    let limits = BodyLimits {
        bytes: max_bytes,
        ..limits
    };
    let media = media_type(request.headers())?;
    if media.essence_str() == mime::APPLICATION_JSON.essence_str() {
        request.extensions_mut().insert(limits);
        let body = bodies::read(request).await?;
        let decoded = bodies::parse_with(Some(tenant), body, bodies::decode::<DocumentBody>).await??;
        let bytes = decoded.text.into_bytes();
        let format = Format::Text;
        return Ok((Content { format, bytes }, decoded.attributes.into()));
    }
    if media.essence_str() == mime::MULTIPART_FORM_DATA.essence_str() {
        let boundary = media
            .get_param(mime::BOUNDARY)
            .map(|boundary| boundary.as_str().to_owned());
        let boundary =
            boundary.ok_or_else(|| Problem::new(Code::Malformed).detail("the multipart boundary is missing"))?;
        let bytes = max_bytes.saturating_add(ENVELOPE_BYTES);
        let body = bodies::receive(request, BodyLimits { bytes, ..limits }).await?;
        return multipart(body, boundary, tenant, max_bytes).await;
    }
    let format = format_of(&media).ok_or_else(unsupported)?;
    let bytes = bodies::receive(request, limits).await?.into();
    Ok((Content { format, bytes }, AttributeChanges::default()))
}

fn media_type(headers: &HeaderMap) -> Result<Mime, Problem> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::new(Code::UnsupportedMediaType).detail("compressed bodies are not accepted"));
    }
    let stated = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media: Mime = stated.and_then(|text| text.parse().ok()).ok_or_else(unsupported)?;
    match media.get_param(mime::CHARSET) {
        Some(charset) if charset != mime::UTF_8 && charset != "us-ascii" => {
            Err(Problem::new(Code::UnsupportedMediaType).detail("texts have to be in UTF-8"))
        }
        _ => Ok(media),
    }
}

fn format_of(media: &Mime) -> Option<Format> {
    let known = FORMATS.iter().find(|(name, _)| media.essence_str() == *name);
    known.map(|(_, format)| *format)
}

fn unsupported() -> Problem {
    Problem::new(Code::UnsupportedMediaType).detail(
        "expected text/plain, text/markdown, text/html, text/csv, application/pdf, \
         application/vnd.openxmlformats-officedocument.wordprocessingml.document, application/json or multipart/form-data",
    )
}

/// Reads the parts `document` and `attributes`, in any order. Other parts are ignored.
async fn multipart(
    body: Bytes,
    boundary: String,
    tenant: &TenantId,
    max_bytes: usize,
) -> Result<(Content, AttributeChanges), Problem> {
    let malformed = |error: multer::Error| Problem::new(Code::Malformed).detail(format!("multipart body: {error}"));
    let whole = futures::stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut parts = Multipart::new(whole, boundary);
    let (mut content, mut changes) = (None, None);
    while let Some(part) = parts.next_field().await.map_err(malformed)? {
        match part.name() {
            Some("document") if content.is_none() => {
                let stated = part.content_type().and_then(format_of);
                let named = part.file_name().and_then(format_of_name);
                let bytes: Vec<u8> = part.bytes().await.map_err(malformed)?.into();
                if bytes.len() > max_bytes {
                    let message = format!("the document is larger than {max_bytes} bytes");
                    return Err(Problem::new(Code::TooLarge).detail(message));
                }
                let sniffed = bytes.starts_with(b"%PDF-").then_some(Format::Pdf);
                let format = stated.or(named).or(sniffed).ok_or_else(|| {
                    Problem::new(Code::UnsupportedMediaType)
                        .detail("the part `document` has neither a supported Content-Type nor a known file name ending")
                })?;
                content = Some(Content { format, bytes });
            }
            Some("attributes") if changes.is_none() => {
                let bytes = part.bytes().await.map_err(malformed)?;
                let decoded = bodies::parse_with(Some(tenant), bytes, bodies::decode::<AttributesBody>);
                changes = Some(AttributeChanges::from(decoded.await??));
            }
            Some(name @ ("document" | "attributes")) => {
                return Err(invalid("", format!("the part `{name}` occurs twice")));
            }
            _ => {}
        }
    }
    let content = content.ok_or_else(|| invalid("", "the part `document` is missing"))?;
    Ok((content, changes.unwrap_or_default()))
}

fn format_of_name(name: &str) -> Option<Format> {
    let (_, ending) = name.rsplit_once('.')?;
    let known = ENDINGS.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known));
    known.map(|(_, format)| *format)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parts(body: &str) -> Result<(Content, AttributeChanges), Problem> {
        let body = body.replace('\n', "\r\n");
        multipart(Bytes::from(body), "b".to_owned(), &"acme".parse().unwrap(), 8).await
    }

    #[tokio::test]
    async fn parts_come_in_any_order_and_each_once() {
        let document = "--b\nContent-Disposition: form-data; name=\"document\"; filename=\"a.MD\"\n\n# a\n";
        let attributes = "--b\nContent-Disposition: form-data; name=\"attributes\"\n\n{\"title\": null}\n";
        let other = "--b\nContent-Disposition: form-data; name=\"other\"\n\nx\n";
        for body in [
            format!("{document}{other}{attributes}--b--\n"),
            format!("{attributes}{document}--b--\n"),
        ] {
            let (content, changes) = parts(&body).await.unwrap();
            assert_eq!(
                (content.format, content.bytes.as_slice()),
                (Format::Markdown, &b"# a"[..])
            );
            assert_eq!(changes.title, Some(None));
        }
        let twice = parts(&format!("{document}{document}--b--\n")).await;
        assert_eq!(twice.unwrap_err().code(), Code::Invalid);
        assert_eq!(
            parts(&format!("{attributes}--b--\n")).await.unwrap_err().code(),
            Code::Invalid
        );
        assert_eq!(
            parts(document).await.unwrap_err().code(),
            Code::Malformed,
            "without an end"
        );
        let unknown = "--b\nContent-Disposition: form-data; name=\"document\"\n\nabc\n--b--\n";
        assert_eq!(parts(unknown).await.unwrap_err().code(), Code::UnsupportedMediaType);
        let long = "--b\nContent-Disposition: form-data; name=\"document\"\n\n%PDF-1.7 and more\n--b--\n";
        assert_eq!(parts(long).await.unwrap_err().code(), Code::TooLarge);
    }

    #[test]
    fn types_name_formats() {
        for (stated, expected) in [
            ("text/plain", Ok(Some(Format::Text))),
            ("Text/HTML; charset=UTF-8", Ok(Some(Format::Html))),
            ("application/pdf", Ok(Some(Format::Pdf))),
            (
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
                Ok(Some(Format::Docx)),
            ),
            ("image/png", Ok(None)),
            ("text/plain; charset=latin1", Err(())),
            ("nonsense", Err(())),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, stated.parse().unwrap());
            let format = media_type(&headers).map(|media| format_of(&media)).map_err(drop);
            assert_eq!(format, expected, "{stated}");
        }
    }
}

//! The parts of one message's content.

use serde_json::{Value, json};

use super::Unsupported;

/// Image types that the API accepts as data.
const IMAGES: &[&str] = &["image/gif", "image/jpeg", "image/png", "image/webp"];

/// Whose content it is; allowed parts depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageRole {
    System,
    User,
    Assistant,
    Tool,
}

/// Translates the content of message `at`. Blank texts are omitted: the API does not accept them.
pub(super) fn blocks(at: usize, content: &Value, side: MessageRole) -> Result<Vec<Value>, Unsupported> {
    let mut blocks = Vec::new();
    match content {
        Value::Null => {}
        Value::String(_) => blocks.extend(text(content)),
        Value::Array(parts) => {
            for (n, part) in parts.iter().enumerate() {
                let wrong = |why: &str| Unsupported::new(format!("messages[{at}].content[{n}]"), why);
                let Some(mut block) = block(part, side).map_err(wrong)? else {
                    continue;
                };
                if let Some(mark) = part.get("cache_control") {
                    block["cache_control"] = mark.clone();
                }
                blocks.push(block);
            }
        }
        _ => {
            let param = format!("messages[{at}].content");
            return Err(Unsupported::new(param, "must be a string or an array of parts"));
        }
    }
    Ok(blocks)
}

/// Returns a block of a text, unless it is blank.
pub(super) fn text(text: &Value) -> Option<Value> {
    let text = text.as_str().filter(|text| !text.trim().is_empty())?;
    Some(json!({"type": "text", "text": text}))
}

fn block(part: &Value, side: MessageRole) -> Result<Option<Value>, &'static str> {
    let shows = matches!(side, MessageRole::User | MessageRole::Tool);
    match part["type"].as_str() {
        Some("text") if part["text"].is_string() => Ok(text(&part["text"])),
        Some("refusal") if side == MessageRole::Assistant => Ok(text(&part["refusal"])),
        Some("image_url") if shows => image(&part["image_url"]["url"]).map(Some),
        Some("file") if shows => file(&part["file"]).map(Some),
        // In Anthropic's own format already.
        Some("image" | "document" | "search_result") if shows => Ok(Some(part.clone())),
        Some("thinking" | "redacted_thinking") if side == MessageRole::Assistant => Ok(Some(part.clone())),
        _ => Err("parts of this type are not supported here"),
    }
}

fn image(url: &Value) -> Result<Value, &'static str> {
    let url = url.as_str().ok_or("its url must be a string")?;
    let source = match data(url) {
        Some((kind, data)) if IMAGES.contains(&kind) => json!({"type": "base64", "media_type": kind, "data": data}),
        None if url.starts_with("https://") || url.starts_with("http://") => json!({"type": "url", "url": url}),
        _ => return Err("images must be JPEG, PNG, GIF or WebP, as base64 or by URL"),
    };
    Ok(json!({"type": "image", "source": source}))
}

fn file(file: &Value) -> Result<Value, &'static str> {
    let pdf = file["file_data"].as_str().and_then(data);
    let Some(("application/pdf", data)) = pdf else {
        return Err("files must be PDFs in base64");
    };
    let source = json!({"type": "base64", "media_type": "application/pdf", "data": data});
    let mut document = json!({"type": "document", "source": source});
    if let Some(name) = file["filename"].as_str() {
        document["title"] = json!(name);
    }
    Ok(document)
}

/// Splits `data:KIND;base64,DATA`.
fn data(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let kind = head.strip_suffix(";base64")?;
    Some((kind.split(';').next().unwrap_or(kind), data))
}

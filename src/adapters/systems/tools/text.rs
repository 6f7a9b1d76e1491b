//! Limits of results: texts are clipped and what was left out is counted, so that a model knows what it does not see.

use serde_json::Value;

/// Longest result of a tool, as JSON.
pub const RESULT_BYTES: usize = 24 * 1024;
/// Space for what surrounds a list in a result.
const ENVELOPE_BYTES: usize = 1024;

/// Shortens `text` until it needs at most `max` bytes inside a JSON string, and says how many characters are missing.
pub fn clip(text: &str, max: usize) -> String {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += json_len(character);
        if used > max {
            // The note needs space too; its exact size is not worth a second pass over long texts.
            let note = 40.min(max);
            let (begun, _) = text.split_at_checked(at).unwrap_or((text, ""));
            let (kept, rest) = fitting(begun, max - note);
            let more = rest.chars().count() + text.chars().count() - begun.chars().count();
            return format!("{kept}… [{more} more characters]");
        }
    }
    text.to_owned()
}

/// Takes items from the front until a list of them would be too long beside `base`; returns how many were left out.
pub fn fit(items: Vec<Value>, base: &Value) -> (Vec<Value>, usize) {
    let mut room = RESULT_BYTES.saturating_sub(ENVELOPE_BYTES + json_bytes(base));
    let total = items.len();
    let mut kept = Vec::with_capacity(total);
    for item in items {
        let bytes = json_bytes(&item) + 1;
        if bytes > room {
            break;
        }
        room -= bytes;
        kept.push(item);
    }
    let left_out = total - kept.len();
    (kept, left_out)
}

/// Splits a text where it no longer fits.
fn fitting(text: &str, max: usize) -> (&str, &str) {
    let mut used = 0;
    let end = text
        .char_indices()
        .find(|(_, character)| {
            used += json_len(*character);
            used > max
        })
        .map_or(text.len(), |(at, _)| at);
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn json_len(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        control if control < ' ' => 6,
        other => other.len_utf8(),
    }
}

fn json_bytes(value: &Value) -> usize {
    value.to_string().len()
}

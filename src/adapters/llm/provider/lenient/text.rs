//! Texts: as texts, as lists of parts, or as objects with a text; with surrogate pairs that were split.

use copilotd_actors::domain::surrogates::unit;
use serde_json::value::RawValue;

use super::{Members, is_null, is_text, items, skipped};

/// How deep parts may be nested.
const MAX_PARTS: usize = 4;

/// The first half of a surrogate pair at the end of a piece; the other half may begin the next one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PendingSurrogate(Option<u16>);

impl PendingSurrogate {
    /// Nothing more comes: a waiting half becomes U+FFFD.
    pub fn close(&mut self, out: &mut String) {
        if self.0.take().is_some() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn push(&mut self, c: char, out: &mut String) {
        self.close(out);
        out.push(c);
    }

    fn unit(&mut self, unit: u16, out: &mut String) {
        match (unit, self.0) {
            (0xD800..=0xDBFF, _) => {
                self.close(out);
                self.0 = Some(unit);
            }
            (0xDC00..=0xDFFF, Some(first)) => {
                self.0 = None;
                out.extend(char::decode_utf16([first, unit]).filter_map(Result::ok));
            }
            (0xDC00..=0xDFFF, None) => out.push(char::REPLACEMENT_CHARACTER),
            _ => self.push(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER), out),
        }
    }
}

/// What a piece says, by kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TextParts {
    /// The text for the reader.
    pub text: String,
    /// The reasoning.
    pub thought: String,
    /// The refusal.
    pub refusal: String,
    /// Whether it was written in another way than as one plain text.
    pub is_odd: bool,
}

/// Reads the content of `raw`: a text, a list of parts, or an object with a text. Half of a surrogate pair at its end
/// waits in `seam` for the next piece.
pub fn said(raw: &RawValue, seam: &mut PendingSurrogate) -> TextParts {
    let mut said = TextParts::default();
    if is_null(raw) {
        return said;
    }
    if is_text(raw) {
        said.is_odd = !string(raw.get(), seam, &mut said.text);
        return said;
    }
    said.is_odd = true;
    part(raw, seam, &mut said, 0);
    said
}

fn part(raw: &RawValue, seam: &mut PendingSurrogate, said: &mut TextParts, depth: usize) {
    let json = raw.get();
    match json.as_bytes().first() {
        _ if depth > MAX_PARTS => skipped("part"),
        Some(b'"') => {
            string(json, seam, &mut said.text);
        }
        Some(b'[') => items(Some(raw))
            .into_iter()
            .for_each(|item| part(item, seam, said, depth + 1)),
        Some(b'{') => match Members::read(json) {
            Some(members) => object(&members, seam, said, depth),
            None => skipped("part"),
        },
        // Some servers turn a token that looks like a number into one.
        Some(b'-' | b'0'..=b'9') => json.chars().for_each(|c| seam.push(c, &mut said.text)),
        _ => skipped("part"),
    }
}

fn object(members: &Members<'_>, seam: &mut PendingSurrogate, said: &mut TextParts, depth: usize) {
    let kind = members.text("type").unwrap_or_default();
    let first = |names: &[&str]| names.iter().find_map(|name| members.get(name));
    let (inner, is_thought, is_refusal) = match kind.as_str() {
        "thinking" | "reasoning" | "reasoning_content" | "thought" => (
            first(&["thinking", "reasoning", "text", "content", "summary"]),
            true,
            false,
        ),
        "refusal" => (first(&["refusal", "text"]), false, true),
        "" | "text" | "output_text" | "text_delta" => (first(&["text", "content", "value"]), false, false),
        _ => (None, false, false),
    };
    let Some(inner) = inner else {
        return skipped("part");
    };
    if !is_thought && !is_refusal {
        return part(inner, seam, said, depth + 1);
    }
    // Everything inside a reasoning part is reasoning, whatever it is called there.
    let (mut within, mut own) = (TextParts::default(), PendingSurrogate::default());
    part(inner, &mut own, &mut within, depth + 1);
    own.close(&mut within.text);
    let all = within.text + &within.thought + &within.refusal;
    if is_thought {
        said.thought.push_str(&all);
    } else {
        said.refusal.push_str(&all);
    }
}

/// Reads a word: an id, a name, a reason. A number is read as it is written; `None` for anything else.
pub fn word(raw: &RawValue) -> Option<String> {
    let json = raw.get();
    match json.as_bytes().first() {
        Some(b'"') => {
            let (mut seam, mut out) = (PendingSurrogate::default(), String::new());
            string(json, &mut seam, &mut out);
            seam.close(&mut out);
            Some(out)
        }
        Some(b'-' | b'0'..=b'9') => Some(json.to_owned()),
        _ => None,
    }
}

/// Reads a JSON string, continuing what `seam` holds; returns whether it was read unchanged.
fn string(json: &str, seam: &mut PendingSurrogate, out: &mut String) -> bool {
    if seam.0.is_none()
        && let Ok(text) = serde_json::from_str::<String>(json)
    {
        if out.is_empty() {
            *out = text;
        } else {
            out.push_str(&text);
        }
        return true;
    }
    let inner = json.strip_prefix('"').unwrap_or(json);
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    if inner.is_empty() {
        return true;
    }
    let bytes = inner.as_bytes();
    let mut rest = inner.char_indices();
    while let Some((at, c)) = rest.next() {
        if c != '\\' {
            seam.push(c, out);
            continue;
        }
        if let Some(unit) = unit(bytes, at) {
            seam.unit(unit, out);
            rest.nth(4);
            continue;
        }
        match rest.next().map(|(_, escaped)| escaped) {
            Some('n') => seam.push('\n', out),
            Some('r') => seam.push('\r', out),
            Some('t') => seam.push('\t', out),
            Some('b') => seam.push('\u{8}', out),
            Some('f') => seam.push('\u{c}', out),
            Some(other) => seam.push(other, out),
            None => seam.push('\\', out),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_text_is_a_text_a_list_of_parts_or_an_object() {
        for (json, text, thought, is_odd) in [
            (r#""a\u00e9\n""#, "aé\n", "", false),
            ("null", "", "", false),
            (r#"["a","b"]"#, "ab", "", true),
            (r#"[{"type":"text","text":"Bon"}]"#, "Bon", "", true),
            (
                r#"[{"type":"thinking","thinking":[{"type":"text","text":"Hm"}]},{"type":"text","text":"Bon"}]"#,
                "Bon",
                "Hm",
                true,
            ),
            (r#"[{"type":"thinking","thinking":"Hm"}]"#, "", "Hm", true),
            (
                r#"[{"type":"image_url","image_url":{}},{"text":"a"},null,7,true]"#,
                "a7",
                "",
                true,
            ),
            (r#"{"type":"text","text":{"value":"a"}}"#, "a", "", true),
            (r#"{"text":"a"}"#, "a", "", true),
            (r#"{"parts":[1]}"#, "", "", true),
            ("12.5", "12.5", "", true),
            ("false", "", "", true),
            ("[[[[[[[[\"deep\"]]]]]]]]", "", "", true),
        ] {
            let found = said(raw(json), &mut PendingSurrogate::default());
            assert_eq!(
                (found.text.as_str(), found.thought.as_str(), found.is_odd),
                (text, thought, is_odd),
                "{json}"
            );
        }
        let refused = said(
            raw(r#"[{"type":"refusal","refusal":"No."}]"#),
            &mut PendingSurrogate::default(),
        );
        assert_eq!(refused.refusal, "No.");
    }

    #[test]
    fn a_pair_that_was_cut_is_joined_or_replaced() {
        for (pieces, expected) in [
            (&[r#""go \ud83d""#, r#""\ude80 now""#][..], "go 🚀 now"),
            (&[r#""go \ud83d""#, r#""""#, r#""\ude80""#], "go 🚀"),
            (&[r#""go \ud83d""#, r#"" now""#], "go \u{fffd} now"),
            (&[r#""go \ud83d""#, r#""\n""#], "go \u{fffd}\n"),
            (&[r#""go \ud83d""#, r#""\u00e9""#], "go \u{fffd}é"),
            (&[r#""\ude80""#], "\u{fffd}"),
            (&[r#""a\ud83d\ud83d""#, r#""\ude80""#], "a\u{fffd}🚀"),
            (&[r#""go \ud83d""#], "go \u{fffd}"),
            (&[r#""\\ud83d \ud83d""#, r#""\ude80\"\/""#], "\\ud83d 🚀\"/"),
        ] {
            let (mut seam, mut text) = (PendingSurrogate::default(), String::new());
            for piece in pieces {
                text += &said(raw(piece), &mut seam).text;
            }
            seam.close(&mut text);
            assert_eq!(text, expected, "{pieces:?}");
        }
    }

    #[test]
    fn words_are_texts_or_numbers() {
        for (json, expected) in [
            (r#""a\ud83d""#, Some("a\u{fffd}")),
            ("7", Some("7")),
            ("{}", None),
            ("true", None),
        ] {
            assert_eq!(word(raw(json)).as_deref(), expected, "{json}");
        }
    }
}

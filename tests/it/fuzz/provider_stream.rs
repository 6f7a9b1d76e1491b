//! Server-sent events of model providers.

use bytes::Bytes;
use copilotd::adapters::llm::provider::lenient::{
    Count, Members, PendingSurrogate, mend, said, without_lone_surrogates,
};
use copilotd::adapters::llm::provider::{Reason, SseReader};
use serde_json::value::RawValue;

use super::text::Choices;

const LINES: &[&str] = &[
    "data:",
    "data: ",
    "data",
    "data: {}",
    "event: ping",
    ": comment",
    "id: 1",
    "retry: 5",
    "database: x",
    "\u{feff}data: x",
    "",
    "",
    "data: [DONE]",
];
const ENDS: &[&str] = &["\n", "\n", "\r\n", "\r", "\n\n", "\r\n\r\n"];

/// Decodes a stream in chunks whose lengths come from `cuts`.
fn read(stream: &[u8], mut cuts: Choices<'_>) -> Vec<Vec<u8>> {
    let (mut reader, mut events, mut rest) = (SseReader::default(), Vec::new(), stream);
    while !rest.is_empty() {
        let length = (usize::from(cuts.byte()) + 1).min(rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        let mut piece = Bytes::copy_from_slice(piece);
        while reader.advance(&mut piece).unwrap() {
            events.push(reader.data().to_vec());
        }
    }
    if reader.finish() {
        events.push(reader.data().to_vec());
    }
    events
}

/// The result does not depend on how a stream is split into chunks.
#[test]
fn fuzz_provider_stream() {
    super::fuzz(2048, |input| {
        let (cuts, script) = input.split_at(input.len() / 4);
        let (mut choices, mut stream) = (Choices::new(script), Vec::new());
        while !choices.is_empty() {
            if choices.byte() < 230 {
                stream.extend_from_slice(choices.of(LINES).as_bytes());
                stream.extend_from_slice(choices.of(ENDS).as_bytes());
            } else {
                stream.extend_from_slice(choices.take(16));
            }
        }
        let whole = read(&stream, Choices::new(&[255; 64]));
        assert_eq!(read(&stream, Choices::new(cuts)), whole);
        assert_eq!(read(&stream, Choices::new(&[])), whole, "byte by byte");
    });
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"a\"",
    "\"content\"",
    "\\",
    "\\u",
    "\\ud83d",
    "\\ude80",
    "d83d",
    "1",
    "-1.5",
    "NaN",
    "-Infinity",
    "null",
    "true",
    " ",
    "\n",
    "é",
    "🧀",
    "\u{0}",
];

/// Repairing JSON does not change valid JSON, and the result does not depend on how the text is split.
#[test]
fn fuzz_provider_json() {
    super::fuzz(512, |input| {
        let (mut choices, mut text) = (Choices::new(input), String::new());
        while !choices.is_empty() {
            text.push_str(choices.of(JSON));
        }
        let is_json = |text: &str| serde_json::from_str::<&RawValue>(text).is_ok();
        let mended = mend(&text);
        if is_json(&text) {
            assert_eq!(mended, text);
            let whole = without_lone_surrogates(&text);
            assert_eq!(whole.len(), text.len());
            // Only nesting can make it invalid now.
            let read = serde_json::from_str::<serde_json::Value>(&whole);
            assert!(read.is_ok() || text.matches(['[', '{']).count() > 100, "{text}");
        }
        if let Some(members) = Members::read(&mended) {
            for (name, raw) in members.iter() {
                let mut seam = PendingSurrogate::default();
                let _ = (name, said(raw, &mut seam), Reason::of(Some(raw)), Count::of(Some(raw)));
            }
        }
    });
}

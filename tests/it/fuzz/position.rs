//! `Last-Event-ID`.

use copilotd_actors::domain::stream::Position;

use super::text::Choices;

const PARTS: &[&str] = &[
    "0",
    "1",
    "17",
    ".",
    "..",
    "-1",
    "+1",
    " 1",
    "1 ",
    "00",
    "18446744073709551615",
    "99999999999999999999",
    "٣",
    "1e3",
    "~",
    "~AAAA",
    "",
];

/// What is read as a position is written again as the same position, and consists of digits and at most one dot.
#[test]
fn fuzz_last_event_id() {
    let check = |text: &str| {
        if let Ok(position) = text.parse::<Position>() {
            assert!(text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "{text}");
            assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }
    };
    super::fuzz(128, |input| {
        check(&String::from_utf8_lossy(input));
        let (mut choices, mut text) = (Choices::new(input), String::new());
        while !choices.is_empty() {
            text.push_str(choices.of(PARTS));
        }
        check(&text);
    });
}

//! `Last-Event-ID`.

use copilotd::http::credentials::Tickets;
use copilotd_actors::domain::conversation::stream::Position;

use super::text::Choices;
use crate::credentials::tickets::{ada, conversation, signed};
use crate::credentials::{later, now};

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

/// A parsed position encodes to the same position, and consists of digits and at most one dot.
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

/// After its first minute a ticket resumes only with the exact id that its stream sent.
#[test]
fn fuzz_last_event_id_of_a_ticket() {
    let tickets = Tickets::new(&[7; 32]);
    let ticket = tickets.issue(conversation(), &ada(), now()).ticket;
    let id = signed(&tickets, &ticket, "17.4");
    assert!(tickets.verify(&ticket, later(61), Some(&id)).is_ok());
    super::fuzz(128, |input| {
        let mut choices = Choices::new(input);
        let mut changed = id.clone().into_bytes();
        for _ in 0..=choices.byte() % 3 {
            let at = usize::from(choices.byte()) % (changed.len() + 1);
            match choices.byte() % 3 {
                0 if at < changed.len() => changed[at] = choices.byte(),
                1 => changed.truncate(at),
                _ => changed.insert(at, choices.byte()),
            }
        }
        let Ok(changed) = std::str::from_utf8(&changed) else {
            return;
        };
        let accepted = tickets.verify(&ticket, later(61), Some(changed)).is_ok();
        assert_eq!(accepted, changed == id, "{changed}");
        // Nor does a modified ticket open a stream.
        let (mut other, at) = (ticket.clone().into_bytes(), usize::from(choices.byte()) % ticket.len());
        other[at] = choices.byte();
        let Ok(other) = std::str::from_utf8(&other) else { return };
        assert_eq!(tickets.verify(other, now(), None).is_ok(), other == ticket, "{other}");
    });
}

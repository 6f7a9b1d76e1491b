//! Stream tickets.

use copilotd::http::credentials::{Caller, CredentialKind, Refusal, Scopes, Tickets, Verifier};
use copilotd_actors::domain::conversation::stream::PositionSuffix as _;
use copilotd_actors::domain::ids::ConversationId;
use serde_json::json;

use super::{KEY, claims, config, later, now, sign};

pub fn conversation() -> ConversationId {
    "conv_00000000000000000000000000000007".parse().unwrap()
}

/// A caller whose token lives an hour.
pub fn ada() -> Caller {
    let token = sign(&claims(json!({ "scope": "chat admin" })));
    Verifier::new(&config()).unwrap().verify(&token, None, now()).unwrap()
}

/// The event id that a stream of the ticket sends at a position.
pub fn signed(tickets: &Tickets, ticket: &str, position: &str) -> String {
    let mut id = position.to_owned();
    tickets
        .verify(ticket, now(), None)
        .unwrap()
        .positions
        .write(position, &mut id);
    id
}

fn refused(tickets: &Tickets, ticket: &str) -> Option<Refusal> {
    tickets.verify(ticket, now(), Some("0")).err()
}

#[test]
fn a_position_is_signed_for_one_ticket_and_exactly() {
    let tickets = Tickets::new(&[7; 32]);
    let issue = || tickets.issue(conversation(), &ada(), now()).ticket;
    let (ticket, other) = (issue(), issue());
    assert_ne!(ticket, other, "also in the same second");
    let late = |ticket: &str, id: &str| tickets.verify(ticket, later(61), Some(id)).is_ok();
    let id = signed(&tickets, &ticket, "17.4");
    assert!(late(&ticket, &id) && !late(&other, &id));
    let (_, mac) = id.split_once('~').unwrap();
    assert_eq!(mac.len(), 22);
    for wrong in [
        format!("17~{mac}"),
        format!("17.5~{mac}"),
        format!("17.04~{mac}"),
        format!("017.4~{mac}"),
        format!("17.4 ~{mac}"),
        format!("17.4~{}", &mac[..21]),
        format!("17.4~{}", &mac[..4]),
        format!("17.4~{mac}A"),
        format!("17.4~{mac}=="),
        format!("17.4~~{mac}"),
        format!("17.4~{mac}~{mac}"),
        format!("17.4~{}", mac.to_lowercase()),
        format!("~{mac}"),
        "17.4~".to_owned(),
        "~".to_owned(),
        "17.4".to_owned(),
        mac.to_owned(),
        String::new(),
    ] {
        assert!(!late(&ticket, &wrong), "{wrong}");
    }
    for place in 5..id.len() {
        let mut changed = id.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        assert!(!late(&ticket, &String::from_utf8(changed).unwrap()), "{place}");
    }
    // Nor is a ticket's own signature accepted, or another key's.
    let (_, signature) = ticket.rsplit_once('.').unwrap();
    assert!(!late(&ticket, &format!("17.4~{}", &signature[..22])));
    let foreign = Tickets::new(&[8; 32]);
    let foreign_ticket = foreign.issue(conversation(), &ada(), now()).ticket;
    assert!(!late(&ticket, &signed(&foreign, &foreign_ticket, "17.4")));
}

#[test]
fn a_ticket_is_opened_within_a_minute_and_resumed_until_the_token_ends() {
    let tickets = Tickets::new(&[7; 32]);
    let issued = tickets.issue(conversation(), &ada(), now());
    assert_eq!((issued.open_until, issued.resume_until), (later(60), later(3_600)));
    let sent = signed(&tickets, &issued.ticket, "17.4");
    let sent = Some(sent.as_str());
    for (seconds, resume_from, expected) in [
        (-61, None, Some(Refusal::TicketTooOld)),
        (-60, None, None),
        (0, None, None),
        (60, None, None),
        (60, Some("17.4"), None),
        (60, Some("17.4~nonsense"), None),
        (61, None, Some(Refusal::TicketTooOld)),
        (61, Some("17.4"), Some(Refusal::TicketTooOld)),
        (61, Some("0"), Some(Refusal::TicketTooOld)),
        (61, sent, None),
        (3_599, sent, None),
        (3_600, sent, Some(Refusal::Expired)),
        (3_600, None, Some(Refusal::Expired)),
    ] {
        let admission = tickets.verify(&issued.ticket, later(seconds), resume_from);
        assert_eq!(admission.as_ref().err().copied(), expected, "{seconds} {resume_from:?}");
    }
    let admission = tickets.verify(&issued.ticket, later(1), None).unwrap();
    assert_eq!(admission.conversation, conversation());
    assert_eq!(
        (admission.caller.user.as_str(), admission.caller.scope.tenant().as_str()),
        ("ada", "acme")
    );
    assert_eq!(
        (admission.caller.scopes, admission.caller.kind),
        (Scopes::CHAT, CredentialKind::Ticket)
    );
    assert_eq!(admission.caller.expires_at, Some(later(3_600)));
    assert_eq!(
        admission.caller.credential,
        ada().credential,
        "so that it ends with the token"
    );
}

#[test]
fn a_ticket_works_after_a_restart_and_with_the_same_key_alone() {
    let issued = Tickets::new(&[7; 32]).issue(conversation(), &ada(), now());
    assert!(Tickets::new(&[7; 32]).verify(&issued.ticket, now(), None).is_ok());
    assert_eq!(refused(&Tickets::new(&[8; 32]), &issued.ticket), Some(Refusal::Unknown));
}

#[test]
fn a_changed_ticket_is_not_known() {
    let tickets = Tickets::new(&[7; 32]);
    let ticket = tickets.issue(conversation(), &ada(), now()).ticket;
    assert!(
        ticket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)),
        "needs no escaping: {ticket}"
    );
    for place in 0..ticket.len() {
        let mut changed = ticket.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(refused(&tickets, &changed), Some(Refusal::Unknown), "{place}");
    }
    let huge = "x".repeat(100_000);
    for text in [
        "",
        "cpt_",
        "cpt_.",
        "a.b",
        &ticket[4..],
        &ticket[..ticket.len() - 1],
        &format!("{ticket}A"),
        &huge,
    ] {
        assert_eq!(refused(&tickets, text), Some(Refusal::Unknown), "{text}");
    }
}

#[test]
fn a_ticket_of_an_api_key_ends_after_a_day() {
    let caller = Verifier::new(&config())
        .unwrap()
        .verify(KEY, Some("ada"), now())
        .unwrap();
    let tickets = Tickets::new(&[7; 32]);
    let issued = tickets.issue(conversation(), &caller, now());
    let day = 24 * 3_600;
    assert_eq!(issued.resume_until, later(day));
    let sent = signed(&tickets, &issued.ticket, "3");
    let admission = tickets.verify(&issued.ticket, later(day - 1), Some(&sent)).unwrap();
    assert_eq!((admission.caller.user.as_str(), admission.caller.token), ("ada", None));
    let late = tickets.verify(&issued.ticket, later(day), Some(&sent));
    assert_eq!(late.err(), Some(Refusal::Expired));
}

#[test]
fn a_token_that_ends_within_the_minute_ends_its_ticket() {
    let token = sign(&claims(json!({ "exp": later(10).as_second() })));
    let caller = Verifier::new(&config()).unwrap().verify(&token, None, now()).unwrap();
    let tickets = Tickets::new(&[7; 32]);
    let issued = tickets.issue(conversation(), &caller, now());
    assert_eq!((issued.open_until, issued.resume_until), (later(10), later(10)));
    let late = tickets.verify(&issued.ticket, later(10), None);
    assert_eq!(late.err(), Some(Refusal::Expired));
}

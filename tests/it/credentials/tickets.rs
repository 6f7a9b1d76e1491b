//! Stream tickets.

use copilotd::http::auth::{Caller, CredentialKind, Refusal, Scopes, Tickets, Verifier};
use copilotd_actors::domain::ids::ConversationId;
use serde_json::json;

use super::{KEY, claims, config, later, now, sign};

fn conversation() -> ConversationId {
    "conv_00000000000000000000000000000007".parse().unwrap()
}

/// A caller whose token lives an hour.
fn ada() -> Caller {
    let token = sign(&claims(json!({ "scope": "chat admin" })));
    Verifier::new(&config()).unwrap().verify(&token, None, now()).unwrap()
}

#[test]
fn a_ticket_is_opened_within_a_minute_and_resumed_until_the_token_ends() {
    let tickets = Tickets::new(&[7; 32]);
    let issued = tickets.issue(conversation(), &ada(), now());
    assert_eq!((issued.open_until, issued.resume_until), (later(60), later(3_600)));
    for (seconds, resuming, expected) in [
        (0, false, None),
        (60, false, None),
        (61, false, Some(Refusal::TicketNotOpened)),
        (61, true, None),
        (3_599, true, None),
        (3_600, true, Some(Refusal::Expired)),
        (3_600, false, Some(Refusal::Expired)),
    ] {
        let admission = tickets.verify(&issued.ticket, later(seconds), resuming);
        assert_eq!(admission.as_ref().err().copied(), expected, "{seconds} {resuming}");
    }
    let admission = tickets.verify(&issued.ticket, later(1), false).unwrap();
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
    assert!(Tickets::new(&[7; 32]).verify(&issued.ticket, now(), false).is_ok());
    assert_eq!(
        Tickets::new(&[8; 32]).verify(&issued.ticket, now(), false),
        Err(Refusal::Unknown)
    );
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
        assert_eq!(tickets.verify(&changed, now(), true), Err(Refusal::Unknown), "{place}");
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
        assert_eq!(tickets.verify(text, now(), true), Err(Refusal::Unknown), "{text}");
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
    let admission = tickets.verify(&issued.ticket, later(day - 1), true).unwrap();
    assert_eq!(admission.caller.user.as_str(), "ada");
    assert_eq!(tickets.verify(&issued.ticket, later(day), true), Err(Refusal::Expired));
}

#[test]
fn a_token_that_ends_within_the_minute_ends_its_ticket() {
    let token = sign(&claims(json!({ "exp": later(10).as_second() })));
    let caller = Verifier::new(&config()).unwrap().verify(&token, None, now()).unwrap();
    let tickets = Tickets::new(&[7; 32]);
    let issued = tickets.issue(conversation(), &caller, now());
    assert_eq!((issued.open_until, issued.resume_until), (later(10), later(10)));
    assert_eq!(tickets.verify(&issued.ticket, later(10), false), Err(Refusal::Expired));
}

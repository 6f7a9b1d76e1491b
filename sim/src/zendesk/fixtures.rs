//! People and tickets to try out.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::Zendesk;
use super::model::{Comment, Ticket, User, now};

/// The user of a bearer token, and of an unknown e-mail address.
pub(crate) const ADMIN: u64 = 1;
const AGENT: u64 = 2;
const ADA: u64 = 11;
const BOB: u64 = 12;
const CAROL: u64 = 13;
const DAN: u64 = 14;

/// Returns the account's staff, who exist even without fixtures.
pub(crate) fn staff() -> Vec<User> {
    vec![
        user(ADMIN, "Admin", "admin@example.com", "admin"),
        user(AGENT, "Grace Agent", "grace@example.com", "agent"),
    ]
}

fn user(id: u64, name: &str, email: &str, role: &'static str) -> User {
    User {
        id,
        name: name.to_owned(),
        email: email.to_owned(),
        role: role.into(),
        external_id: None,
        created_at: now() - SignedDuration::from_hours(24 * 90),
    }
}

/// Adds customers and their tickets.
pub(crate) fn fill(zendesk: &mut Zendesk) {
    zendesk.users.extend([
        user(ADA, "Ada Customer", "ada@example.com", "end-user"),
        user(BOB, "Bob Customer", "bob@example.com", "end-user"),
        user(CAROL, "Carol Customer", "carol@example.com", "end-user"),
        user(DAN, "Dan Customer", "dan@example.com", "end-user"),
    ]);
    let tickets = [
        (
            101,
            "Invoice charged twice this month",
            "open",
            Some("high"),
            ADA,
            "billing",
            &[(
                ADA,
                "My card was charged twice for invoice 2026-1042, 49 EUR each. Please refund one of them. The second charge came two minutes after the first.",
            )][..],
        ),
        (
            102,
            "Export to CSV stops at 1,000 rows",
            "new",
            None,
            BOB,
            "export",
            &[(
                BOB,
                "When I export the customer list, the file ends after 1,000 rows. We have 3,450 customers. It worked until last week.",
            )],
        ),
        (
            103,
            "Cannot log in since the password reset",
            "open",
            Some("urgent"),
            CAROL,
            "login",
            &[
                (
                    CAROL,
                    "After I reset my password I only see 'session expired'. I have a demo for a client at noon, please help quickly.",
                ),
                (
                    AGENT,
                    "Sorry about that. Please clear the cookies of our site and try again in a private window.",
                ),
                (CAROL, "I did, in two browsers. Still 'session expired'."),
            ],
        ),
        (
            104,
            "Please add a second administrator",
            "pending",
            Some("normal"),
            DAN,
            "account",
            &[
                (DAN, "Could you make my colleague an administrator too?"),
                (AGENT, "Gladly. Which address should it be?"),
            ],
        ),
        (
            105,
            "Webhook delivers events twice",
            "open",
            Some("high"),
            ADA,
            "api",
            &[
                (
                    ADA,
                    "Since Monday our webhook endpoint gets most events twice, with the same event id. We answer 200 within 300 ms.",
                ),
                (AGENT, "Thank you, we can see the duplicates and are looking into it."),
            ],
        ),
        (
            106,
            "Typo on the pricing page",
            "solved",
            Some("low"),
            BOB,
            "website",
            &[(BOB, "The pricing page says 'anual'."), (AGENT, "Fixed, thank you!")],
        ),
        (
            107,
            "How do I cancel the trial?",
            "new",
            Some("normal"),
            DAN,
            "billing",
            &[(
                DAN,
                "I do not want to continue after the trial. Where do I cancel, and will I be charged on Friday?",
            )],
        ),
        (
            108,
            "Mobile app crashes when attaching a photo",
            "open",
            Some("urgent"),
            BOB,
            "mobile",
            &[(
                BOB,
                "The app closes each time I attach a photo to a task. Android 16, app version 5.2.1. Five people in our team see the same.",
            )],
        ),
    ];
    for (number, (id, subject, status, priority, requester, tag, said)) in tickets.into_iter().enumerate() {
        let age = SignedDuration::from_hours(72 - 8 * number as i64);
        let created_at = now() - age;
        let comments: Vec<_> = said
            .iter()
            .enumerate()
            .map(|(at, (author, body))| {
                comment(
                    id * 10 + at as u64,
                    *author,
                    body,
                    created_at + SignedDuration::from_mins(47 * at as i64),
                )
            })
            .collect();
        zendesk.tickets.push(Ticket {
            id,
            subject: subject.to_owned(),
            status: status.to_owned(),
            priority: priority.map(str::to_owned),
            kind: Some("question".to_owned()),
            requester_id: requester,
            submitter_id: requester,
            assignee_id: comments.iter().any(|comment| comment.author_is_agent).then_some(AGENT),
            tags: vec![tag.to_owned()],
            external_id: None,
            custom_fields: json!([]),
            created_at,
            updated_at: comments.last().map_or(created_at, |comment| comment.created_at),
            comments,
            audits: Vec::new(),
        });
    }
}

fn comment(id: u64, author_id: u64, body: &str, created_at: Timestamp) -> Comment {
    Comment {
        id,
        author_id,
        author_is_agent: author_id < ADA,
        body: body.to_owned(),
        public: true,
        created_at,
    }
}

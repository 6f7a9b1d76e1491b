//! People and channels to try out.

use super::Slack;
use super::model::{BOT_USER, Channel, Message, User};

/// Returns the app's own user, who exists even without fixtures.
pub(crate) fn bot() -> User {
    User {
        id: BOT_USER.to_owned(),
        name: "copilot".to_owned(),
        real_name: "Copilot".to_owned(),
        email: None,
        is_bot: true,
    }
}

/// Adds colleagues, and channels with a first message.
pub(crate) fn fill(slack: &mut Slack) {
    for (id, name, real_name) in [
        ("U0SIMADA01", "ada", "Ada Colleague"),
        ("U0SIMBOB01", "bob", "Bob Colleague"),
        ("U0SIMCAR01", "carol", "Carol Colleague"),
    ] {
        slack.users.push(User {
            id: id.to_owned(),
            name: name.to_owned(),
            real_name: real_name.to_owned(),
            email: Some(format!("{name}@example.com")),
            is_bot: false,
        });
    }
    // The copilot is not in #random, and #old-news is archived: both reject its messages.
    for (id, name, is_member, is_archived, said) in [
        (
            "C0SUPPORT01",
            "support",
            true,
            false,
            Some("Alerts of the copilot will show up here."),
        ),
        ("C0GENERAL01", "general", true, false, Some("Good morning, everyone!")),
        ("C0RANDOM001", "random", false, false, None),
        ("C0OLDNEWS01", "old-news", true, true, None),
    ] {
        let mut messages = Vec::new();
        if let Some(text) = said {
            messages.push(Message {
                ts: slack.new_ts(),
                thread_ts: None,
                user: "U0SIMADA01".to_owned(),
                text: text.to_owned(),
                blocks: None,
                metadata: None,
                broadcast: false,
                edited: false,
                streaming: false,
                reactions: Vec::new(),
            });
        }
        slack.channels.push(Channel {
            id: id.to_owned(),
            name: name.to_owned(),
            created: 1_700_000_000,
            is_member,
            is_archived,
            with: None,
            messages,
        });
    }
}

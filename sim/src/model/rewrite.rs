//! Follow-up questions, rewritten so that they can be understood without the conversation.

use super::chat::Chat;
use super::fill::first_sentence;

const ASKED: &str = "Rewrite the last message of the user";
const EARLIER: &str = "Earlier message of the user:\n";
const LAST: &str = "Last message of the user:\n";

/// Returns the rewritten question, if the request asks for one: the follow-up and the question that it follows.
///
/// A directive in either message is meant for the answer, not for this request.
pub(crate) fn requested(chat: &Chat) -> Option<String> {
    if !chat.tools.is_empty() || !chat.system_text().starts_with(ASKED) {
        return None;
    }
    let (before, last) = chat.last_user().rsplit_once(LAST)?;
    let earlier = before.strip_prefix(EARLIER).unwrap_or(before);
    let [last, earlier] = [last, earlier].map(|text| first_sentence(without_directive(text)));
    Some(format!("{last} {earlier}").trim().to_owned())
}

fn without_directive(text: &str) -> &str {
    let text = text.trim();
    match text
        .strip_prefix("[[sim")
        .and_then(|directive| directive.split_once("]]"))
    {
        Some((_, rest)) => rest.trim(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::chat::{Message, Role};

    fn asking(system: &str, user: &str) -> Chat {
        let message = |role, text: &str| Message {
            role,
            text: text.to_owned(),
            calls: Vec::new(),
            call_id: None,
        };
        Chat {
            model: "m".to_owned(),
            stream: false,
            include_usage: false,
            n: 1,
            max_tokens: None,
            messages: vec![message(Role::System, system), message(Role::User, user)],
            tools: Vec::new(),
            no_calls: false,
            response_schema: None,
            prompt: String::new(),
        }
    }

    #[test]
    fn a_follow_up_gets_the_question_before_it() {
        let user = "Earlier message of the user:\nHow long does a refund take? Tell me.\n\nAnswer to it:\nFive days.\n\n\
                    Last message of the user:\n[[sim tokens=40]] And for annual plans?";
        let rewritten = requested(&asking("Rewrite the last message of the user as one question.", user));
        assert_eq!(
            rewritten.as_deref(),
            Some("And for annual plans? How long does a refund take?")
        );
        assert_eq!(requested(&asking("You help.", user)), None);
    }
}

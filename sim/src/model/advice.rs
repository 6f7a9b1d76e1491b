//! Answers to everyday support questions when no tool is needed: the first topic whose words occur decides.

/// Words of each topic, and the answer.
const TOPICS: [(&[&str], &str); 12] = [
    (
        &["refund", "charged", "invoice", "billing", "payment", "price", "bill"],
        "I am sorry about the trouble with the bill. Please tell me the number of the invoice and the date of the charge; then I can look for the ticket about it, or open one for the billing team. A refund usually reaches the customer's account within five working days after billing has confirmed it.",
    ),
    (
        &["password", "log in", "login", "sign in", "locked", "session"],
        "For trouble with signing in, three steps help most of the time: open the page in a private window, ask for a new password link, and use the link within an hour on the same device. If the customer still cannot sign in, tell me their e-mail address and I will look for their tickets or open a new one for the team.",
    ),
    (
        &["export", "csv", "download", "report"],
        "An export that stops early has usually reached the limit of rows for one file. Ask the customer to export the list in two parts, by date for instance, and check whether both files are complete. If a part is missing as well, I can open a ticket with the time of the export, so that the team can look at it.",
    ),
    (
        &["cancel", "trial", "subscription", "upgrade", "plan"],
        "A trial or a plan can be cancelled at any time in the account's settings, under Subscription. It stays usable until the end of the period that is paid for, and nothing is charged after that. If the customer would rather have us do it, I can open a ticket for the account team.",
    ),
    (
        &["order", "deliver", "shipping", "package", "late"],
        "I am sorry that it is late. Please give me the order number, and I will look for a ticket about it. If there is none, I can open one with high priority, so that the team can ask the carrier today and write to the customer with a new date.",
    ),
    (
        &[
            "crash",
            "bug",
            "broken",
            "error",
            "does not work",
            "doesn't work",
            "slow",
        ],
        "That should not happen. To find the cause, the team needs to know what the customer did last, the version of the app and the device, and whether others see the same. Tell me what you know, and I will look for similar tickets or open a new one.",
    ),
    (
        &["hours", "opening", "phone", "contact", "reach you"],
        "The support team answers on weekdays between nine and six, usually within four hours. Urgent tickets are looked at around the clock. If you tell me what it is about, I can open a ticket now, so that it is first in line.",
    ),
    (
        &["privacy", "gdpr", "delete my data", "personal data"],
        "Requests about personal data go to the privacy team, who answer within a month at most. I can open a ticket for them; please tell me the customer's e-mail address and whether they want a copy of their data or want it deleted.",
    ),
    (
        &["weather", "joke", "football", "recipe", "capital of"],
        "I am afraid I can only help with support work: looking up tickets, answering customers, opening new tickets and posting to Slack. Is there a customer or a ticket that I can help you with?",
    ),
    (
        &["thank", "thanks", "great", "perfect"],
        "You are welcome! Tell me whenever I can look something up or write something for you.",
    ),
    (
        &["who are you", "what can you do", "what are you", "help"],
        "I am the support copilot of this team. I can search tickets and summarise them, read a ticket with all its comments, create or update tickets, add comments and internal notes, and post messages to Slack. Before I create a ticket, you are asked to approve it.",
    ),
    (
        &["long", "detail", "explain", "story"],
        "Gladly. A ticket goes through four stages here. It begins as new, until somebody has read it. It becomes open when an agent takes it, and the customer then hears from us within four hours. While we wait for the customer it is pending, and the clock for our answer stands still. Once the problem is gone it is solved, and after four weeks it is closed for good. Urgent tickets are the exception: they are looked at around the clock, and the channel #support is told about each of them. If you name a ticket, I can tell you where it stands and what I would do next.",
    ),
];

const DEFAULT_ANSWER: &str = "I want to be sure that I understand you. Is this about a certain customer or ticket? Tell me the number or a few words from it, and I will look it up. I can also summarise the unread tickets, open a new ticket, or post a message to Slack for you.";

/// Returns the answer to a message.
pub(crate) fn on(asked: &str) -> &'static str {
    let low = asked.to_lowercase();
    let is_about = |words: &&[&str]| words.iter().any(|word| occurs(&low, word));
    let found = TOPICS.iter().find(|(words, _)| is_about(words));
    found.map_or(DEFAULT_ANSWER, |(_, said)| said)
}

/// Whether a word starts somewhere in the text: "refund" is in "refunds", "bill" is not in "possibility".
fn occurs(low: &str, word: &str) -> bool {
    low.match_indices(word).any(|(at, _)| {
        low[..at]
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_fits_the_question_and_never_repeats_it() {
        for (asked, said) in [
            ("Can I get a refund?", "bill"),
            ("I cannot log in any more", "signing in"),
            ("What is the weather?", "support work"),
            ("What is a possibility?", "I want to be sure"),
            ("", "I want to be sure"),
            ("Thanks!", "You are welcome"),
        ] {
            assert!(on(asked).contains(said), "{asked}: {}", on(asked));
            assert!(asked.is_empty() || !on(asked).contains(asked));
        }
        let all = TOPICS.iter().map(|(_, said)| *said).chain([DEFAULT_ANSWER]);
        for said in all {
            let low = said.to_lowercase();
            assert!(!low.contains("simulat") && !low.contains("you wrote"), "{said}");
        }
    }
}

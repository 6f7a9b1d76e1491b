//! The persona: what a sensible support copilot would do, as readable rules.
//!
//! It looks at the last user message, the tools and the excerpts of documents it is offered and the results so far, and
//! decides one step at a time, as a model does. It keeps no state between requests.

use serde_json::{Value, json};

use super::advice;
use super::chat::{Chat, PastCall};
use super::excerpts;
use super::fill::{Source, fill, first_sentence};
use super::step::{Call, Step};
use super::summary;
use super::tickets::{Failure, Ticket, failure_in, tickets_in};
use super::title;

/// Tickets read individually in one turn.
const MAX_READS: usize = 25;

const SEARCH: &str = "zendesk_search_tickets";
const GET: &str = "zendesk_get_ticket";
const COMMENTS: &str = "zendesk_list_comments";
const CREATE: &str = "zendesk_create_ticket";
const UPDATE: &str = "zendesk_update_ticket";
const COMMENT: &str = "zendesk_add_comment";
const POST: &str = "slack_post_message";

/// Decides the next step of the turn.
pub(crate) fn answer(chat: &Chat) -> Step {
    if let Some(title) = title::requested(chat) {
        return Step::say(title);
    }
    if let Some(summary) = summary::requested(chat) {
        return Step::say(summary);
    }
    let asked = chat.last_user();
    if let Some(step) = named_tool(chat, asked) {
        return step;
    }
    let intent = Intent::read(asked);
    let step = match &intent {
        Intent::Report { channel } => report(chat, channel.as_deref()),
        Intent::Create { subject } => once(
            chat,
            CREATE,
            json!({
                "subject": subject,
                "body": format!("{subject}\n\nOpened by the support copilot on behalf of a colleague, who wrote: {}", first_sentence(asked)),
            }),
        ),
        Intent::Post { channel, text } => once(chat, POST, json!({"channel": channel, "text": text})),
        Intent::Update { ticket, changes } => {
            let mut arguments = changes.clone();
            arguments["ticket_id"] = json!(ticket);
            once(chat, UPDATE, arguments)
        }
        Intent::Comment { ticket, body, public } => once(
            chat,
            COMMENT,
            json!({"ticket_id": ticket, "body": body, "public": public}),
        ),
        Intent::Show { ticket } => show(chat, *ticket),
        Intent::Search { query } => {
            let arguments = match query {
                Some(query) => json!({"query": query}),
                None if asked.to_lowercase().contains("unread") => json!({"unread": true}),
                None => json!({"query": "status<solved"}),
            };
            once(chat, SEARCH, arguments)
        }
        Intent::Greeting | Intent::Other => None,
    };
    step.unwrap_or_else(|| conclude(chat, &intent))
}

/// Obeys "call NAME with {…}" for any tool that is offered under that name, such as one of the user's page, and then
/// says what came of it.
fn named_tool(chat: &Chat, asked: &str) -> Option<Step> {
    let (name, arguments) = named_call(asked)?;
    if !chat.offers(name) {
        return None;
    }
    if let Some((call, result)) = chat.results().into_iter().find(|(call, _)| call.name == name) {
        let said = match failure_in(result) {
            Some(Failure::Unknown) => format!("I cannot tell whether {} took effect. Please check.", call.name),
            Some(_) => format!("I could not use {}: {}", call.name, data_in(result)),
            None => format!("Done. {} answered: {}", call.name, data_in(result)),
        };
        return Some(Step::say(said));
    }
    (!chat.no_calls).then(|| Step::call(vec![Call::new(name, arguments)]))
}

/// Finds the name and the arguments in "call NAME" or "call NAME with {…}".
fn named_call(asked: &str) -> Option<(&str, Value)> {
    let at = asked.to_ascii_lowercase().find("call ")? + "call ".len();
    let rest = asked.get(at..)?.trim_start();
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c)));
    let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let arguments = rest.trim_start().strip_prefix("with");
    let mut values = serde_json::Deserializer::from_str(arguments.unwrap_or_default()).into_iter::<Value>();
    let arguments = values.next().and_then(Result::ok).filter(Value::is_object);
    (!name.is_empty()).then(|| (name, arguments.unwrap_or_else(|| json!({}))))
}

/// Returns the beginning of what a tool answered, without the delimiters around it.
fn data_in(result: &str) -> String {
    let lines = result.lines().filter(|line| !line.trim_start().starts_with('<'));
    lines.collect::<Vec<_>>().join("\n").chars().take(300).collect()
}

/// What the user wants.
#[derive(Debug, PartialEq)]
enum Intent {
    Greeting,
    /// Summarise the unread tickets and perhaps alert a channel.
    Report {
        channel: Option<String>,
    },
    Create {
        subject: String,
    },
    Post {
        channel: String,
        text: String,
    },
    Update {
        ticket: u64,
        changes: Value,
    },
    Comment {
        ticket: u64,
        body: String,
        public: bool,
    },
    Show {
        ticket: u64,
    },
    Search {
        query: Option<String>,
    },
    Other,
}

impl Intent {
    fn read(asked: &str) -> Self {
        let low = asked.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| low.contains(word));
        let channel = channel_in(asked);
        let ticket = ticket_in(&low);
        if has(&["unread"]) && has(&["summar", "report", "digest", "overview", "alert"]) {
            return Self::Report { channel };
        }
        if has(&["create", "open a", "file a", "raise a", "new ticket"]) && has(&["ticket"]) && ticket.is_none() {
            return Self::Create {
                subject: subject_in(asked),
            };
        }
        if let Some(ticket) = ticket {
            if has(&["comment", "reply", "answer", "note"]) {
                let body = asked.split_once(':').map_or(asked, |(_, body)| body).trim().to_owned();
                let public = !has(&["internal", "private", "note"]);
                return Self::Comment { ticket, body, public };
            }
            if let Some(changes) = changes_in(&low) {
                return Self::Update { ticket, changes };
            }
            return Self::Show { ticket };
        }
        if let Some(channel) = channel.filter(|_| has(&["post", "send", "say", "tell", "write", "alert", "announce"])) {
            let text = posted_text(asked);
            return Self::Post { channel, text };
        }
        if has(&["ticket"]) {
            return Self::Search { query: about(asked) };
        }
        let first = low.split(|c: char| !c.is_alphabetic()).find(|word| !word.is_empty());
        if ["hi", "hello", "hey", "moin", "hallo"].contains(&first.unwrap_or_default()) {
            return Self::Greeting;
        }
        Self::Other
    }
}

/// Makes the call unless it was made already; `None` without the tool.
fn once(chat: &Chat, tool: &str, arguments: Value) -> Option<Step> {
    let made = chat.results().iter().any(|(call, _)| call.name == tool);
    (!made && chat.offers(tool)).then(|| Step::call(vec![Call::new(tool, arguments)]))
}

fn results_of<'a>(chat: &'a Chat, tool: &str) -> Vec<&'a str> {
    let results = chat.results().into_iter();
    results
        .filter(|(call, _)| call.name == tool)
        .map(|(_, result)| result)
        .collect()
}

/// The showcase: search, read the tickets in parallel, alert the channel.
fn report(chat: &Chat, channel: Option<&str>) -> Option<Step> {
    if let Some(step) = once(chat, SEARCH, json!({"unread": true})) {
        return Some(step);
    }
    let found: Vec<_> = results_of(chat, SEARCH).into_iter().flat_map(tickets_in).collect();
    let read = !results_of(chat, GET).is_empty();
    if !read && !found.is_empty() && chat.offers(GET) {
        let ids = found.iter().filter_map(Ticket::id).take(MAX_READS);
        return Some(Step::call(
            ids.map(|id| Call::new(GET, json!({"ticket_id": id}))).collect(),
        ));
    }
    let channel = channel?;
    let searched = results_of(chat, SEARCH)
        .into_iter()
        .any(|result| failure_in(result).is_none());
    let text = alert(&tickets_read(chat));
    // Without a search nothing is known, and nobody should be alerted.
    searched
        .then(|| once(chat, POST, json!({"channel": channel, "text": text})))
        .flatten()
}

fn show(chat: &Chat, ticket: u64) -> Option<Step> {
    let results = chat.results();
    if results.is_empty() {
        let tools = [GET, COMMENTS].into_iter().filter(|tool| chat.offers(tool));
        let calls: Vec<_> = tools
            .map(|tool| Call::new(tool, json!({"ticket_id": ticket})))
            .collect();
        return (!calls.is_empty()).then(|| Step::call(calls));
    }
    None
}

/// Returns the tickets of this turn with everything that was read about each.
fn tickets_read(chat: &Chat) -> Vec<Ticket> {
    let mut tickets: Vec<Ticket> = Vec::new();
    for (call, result) in chat.results() {
        if ![SEARCH, GET].contains(&call.name.as_str()) || failure_in(result).is_some() {
            continue;
        }
        for ticket in tickets_in(result) {
            match tickets.iter_mut().find(|known| known.id() == ticket.id()) {
                Some(known) => known.0.extend(ticket.0),
                None => tickets.push(ticket),
            }
        }
    }
    tickets
}

fn alert(tickets: &[Ticket]) -> String {
    let mut text = match tickets.len() {
        0 => "*No unread tickets.*".to_owned(),
        1 => "*1 unread ticket*".to_owned(),
        n => format!("*{n} unread tickets*"),
    };
    for ticket in tickets {
        text.push_str(&format!("\n• {}", line(ticket)));
    }
    text
}

fn line(ticket: &Ticket) -> String {
    let id = ticket.id().map(|id| format!("#{id} ")).unwrap_or_default();
    let about: Vec<_> = [ticket.text("status"), ticket.text("priority")]
        .into_iter()
        .filter(|word| !word.is_empty())
        .collect();
    if about.is_empty() {
        format!("{id}{}", ticket.subject())
    } else {
        format!("{id}{} ({})", ticket.subject(), about.join(", "))
    }
}

/// The last step of the turn: an answer in prose or in the requested format.
fn conclude(chat: &Chat, intent: &Intent) -> Step {
    let tickets = tickets_read(chat);
    let prose = prose(chat, intent, &tickets);
    match &chat.response_schema {
        None => Step::say(prose),
        Some(schema) if schema.is_object() => {
            let source = Source {
                tickets: &tickets,
                summary: &prose,
            };
            Step::say(fill(schema, &source).to_string())
        }
        Some(_) => Step::say(json!({"answer": prose}).to_string()),
    }
}

fn prose(chat: &Chat, intent: &Intent, tickets: &[Ticket]) -> String {
    let results = chat.results();
    let mut said = Vec::new();
    for (call, result) in &results {
        let Some(failure) = failure_in(result) else {
            continue;
        };
        let deed = deed(&call.name);
        let is_reading = [SEARCH, GET, COMMENTS].contains(&call.name.as_str());
        if is_reading {
            // If several things could not be read, only the first one is reported.
            let told = format!("I could not {deed}. Please check what you asked for, or ask me to try again.");
            if said.is_empty() {
                said.push(told);
            }
            continue;
        }
        said.push(match failure {
            Failure::Rejected => format!("You decided against it, so I did not {deed}: that step was rejected."),
            Failure::Failed => format!(
                "I could not {deed}, so nothing was changed there. Please check the details, or ask me to try again."
            ),
            Failure::Unknown => format!(
                "I cannot tell whether I managed to {deed}. Please check before you ask me to try again, so that it is not done twice."
            ),
        });
    }
    let done: Vec<_> = results
        .iter()
        .filter(|(_, result)| failure_in(result).is_none())
        .collect();
    for (call, result) in &done {
        match call.name.as_str() {
            CREATE => said.push(match tickets_in(result).first().and_then(Ticket::id) {
                Some(id) => format!("I created ticket #{id}. You can find it in Zendesk."),
                None => "I created the ticket. You can find it in Zendesk.".to_owned(),
            }),
            UPDATE => said.push(updated(call)),
            COMMENT => said.push(commented(call)),
            POST => said.push(match argument(call, "channel") {
                Some(channel) => format!("I posted the message to {channel} in Slack."),
                None => "I posted the message to Slack.".to_owned(),
            }),
            _ => {}
        }
    }
    let looked = done.iter().any(|(call, _)| call.name == SEARCH || call.name == GET);
    if looked && tickets.is_empty() {
        said.push("I found no tickets that match. Try other words, or ask for all open tickets.".to_owned());
    }
    if !tickets.is_empty() {
        said.push(match tickets.len() {
            1 => "Here is the ticket:".to_owned(),
            count => format!("Here are the {count} tickets that I found:"),
        });
        said.extend(tickets.iter().map(|ticket| {
            let details = first_sentence(ticket.text("description"));
            let separator = if details.is_empty() { "" } else { ": " };
            format!("- {}{separator}{details}", line(ticket))
        }));
    }
    if said.is_empty() {
        return without_tools(chat, intent);
    }
    said.join("\n")
}

/// Describes what a tool does, in everyday words.
fn deed(tool: &str) -> &str {
    match tool {
        SEARCH => "search the tickets",
        GET => "open the ticket",
        COMMENTS => "read the comments",
        CREATE => "create the ticket",
        UPDATE => "update the ticket",
        COMMENT => "add the comment",
        POST => "post the message to Slack",
        _ => "do that",
    }
}

fn argument(call: &PastCall, name: &str) -> Option<String> {
    let arguments: Value = serde_json::from_str(&call.arguments).ok()?;
    match &arguments[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

fn named(call: &PastCall) -> String {
    argument(call, "ticket_id").map_or("the ticket".to_owned(), |id| format!("ticket #{id}"))
}

fn updated(call: &PastCall) -> String {
    let changes: Vec<_> = ["status", "priority"]
        .into_iter()
        .filter_map(|name| Some(format!("its {name} is now {}", argument(call, name)?)))
        .collect();
    match changes.as_slice() {
        [] => format!("I updated {}.", named(call)),
        changes => format!("I updated {}: {}.", named(call), changes.join(" and ")),
    }
}

fn commented(call: &PastCall) -> String {
    match argument(call, "public").as_deref() {
        Some("false") => format!(
            "I added an internal note to {}. The customer does not see it.",
            named(call)
        ),
        _ => format!("I added your comment to {}. The customer can read it.", named(call)),
    }
}

fn without_tools(chat: &Chat, intent: &Intent) -> String {
    match intent {
        Intent::Greeting => "Hello! How can I help you today? I can look up tickets, read what customers wrote, create or update tickets, and post to Slack. For example, ask me to summarise the unread tickets and alert #support.".to_owned(),
        Intent::Other => excerpts::answer(chat).unwrap_or_else(|| advice::on(chat.last_user()).to_owned()),
        _ if chat.results().is_empty() => "I cannot do that in this conversation, because I have no access to the system that it needs. Nothing was changed. Please ask your administrator to give me access, or tell me how else I can help.".to_owned(),
        _ => "That is done. Is there anything else I can help you with?".to_owned(),
    }
}

fn channel_in(asked: &str) -> Option<String> {
    let name = |at: usize| -> String {
        let rest = asked[at + 1..].chars();
        rest.take_while(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    let mut names = asked.match_indices('#').map(|(at, _)| name(at));
    names
        .find(|name| name.contains(|c: char| c.is_alphabetic()))
        .map(|name| format!("#{name}"))
}

/// Finds the number in "ticket 12", "ticket #12" or "#12".
fn ticket_in(low: &str) -> Option<u64> {
    let after = |at: usize| -> Option<u64> {
        let rest = low[at..].trim_start_matches([' ', '#']);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let named = low
        .match_indices("ticket")
        .find_map(|(at, word)| after(at + word.len()));
    named.or_else(|| low.match_indices('#').find_map(|(at, _)| after(at)))
}

fn changes_in(low: &str) -> Option<Value> {
    let mut changes = json!({});
    for status in ["pending", "hold", "solved", "open"] {
        if low.contains(&format!("to {status}")) || low.contains(&format!("as {status}")) {
            changes["status"] = json!(status);
        }
    }
    let words: Vec<_> = low.split(|c: char| !c.is_alphabetic()).collect();
    if words.contains(&"solve") || words.contains(&"close") {
        changes["status"] = json!("solved");
    }
    for priority in ["urgent", "high", "normal", "low"] {
        if low.contains("priority") && words.contains(&priority) {
            changes["priority"] = json!(priority);
        }
    }
    (changes != json!({})).then_some(changes)
}

fn about(asked: &str) -> Option<String> {
    let (_, subject) = asked.split_once(" about ")?;
    let end = subject.find(['.', '?', '!', '\n']).unwrap_or(subject.len());
    Some(subject[..end].trim().to_owned())
}

fn subject_in(asked: &str) -> String {
    let subject = about(asked)
        .or_else(|| asked.split_once(':').map(|(_, rest)| rest.trim().to_owned()))
        .filter(|subject| !subject.is_empty());
    subject
        .unwrap_or_else(|| first_sentence(asked))
        .chars()
        .take(120)
        .collect()
}

/// Returns the text to post: the quoted part, or what stands between the verb and "in #channel".
fn posted_text(asked: &str) -> String {
    let mut quoted = asked.split('"');
    if let (Some(_), Some(text), Some(_)) = (quoted.next(), quoted.next(), quoted.next()) {
        return text.to_owned();
    }
    let before = asked.split('#').next().unwrap_or(asked).trim_end();
    let before = [" in", " to", " on"]
        .iter()
        .find_map(|word| before.strip_suffix(word))
        .unwrap_or(before);
    let text = before.split_once(' ').map_or("", |(_, text)| text).trim();
    let rest = asked.split_once(':').map_or(asked, |(_, rest)| rest).trim();
    if text.split_whitespace().count() > 1 {
        text
    } else {
        rest
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_by_name_is_read() {
        for (asked, expected) in [
            (
                "call open_page with {\"path\": \"/a\"} please",
                Some(("open_page", json!({"path": "/a"}))),
            ),
            ("Please call open-page.", Some(("open-page", json!({})))),
            ("call open_page with [1]", Some(("open_page", json!({})))),
            ("call open_page with {", Some(("open_page", json!({})))),
            ("call ", None),
            ("open_page", None),
        ] {
            assert_eq!(named_call(asked), expected, "{asked}");
        }
        assert_eq!(
            data_in("<tool_result status=\"succeeded\">\n{\"a\": 1}\n</tool_result>"),
            "{\"a\": 1}"
        );
    }

    #[test]
    fn intents_are_read() {
        let post = |text: &str| Intent::Post {
            channel: "#general".into(),
            text: text.into(),
        };
        for (asked, intent) in [
            ("Hello there", Intent::Greeting),
            (
                "summarise the unread tickets, put them into the report schema, alert #support",
                Intent::Report {
                    channel: Some("#support".into()),
                },
            ),
            (
                "Create a ticket about the broken printer.",
                Intent::Create {
                    subject: "the broken printer".into(),
                },
            ),
            ("post lunch is ready in #general", post("lunch is ready")),
            ("Post \"a b\" to #general please", post("a b")),
            ("Tell #general: we are back", post("we are back")),
            (
                "set ticket #12 to solved",
                Intent::Update {
                    ticket: 12,
                    changes: json!({"status": "solved"}),
                },
            ),
            (
                "comment on ticket 12: thank you",
                Intent::Comment {
                    ticket: 12,
                    body: "thank you".into(),
                    public: true,
                },
            ),
            ("What does ticket 12 say?", Intent::Show { ticket: 12 }),
            (
                "Are there tickets about refunds?",
                Intent::Search {
                    query: Some("refunds".into()),
                },
            ),
            ("What is the weather?", Intent::Other),
        ] {
            assert_eq!(Intent::read(asked), intent, "{asked}");
        }
    }
}

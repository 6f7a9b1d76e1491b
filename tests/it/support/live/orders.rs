//! The workload: turns of every kind, each with its possible outcomes.

use serde_json::{Value, json};

/// What a client does while its turn runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Wait,
    /// Approves the tool call.
    Approve,
    /// Rejects the tool call.
    Reject,
    /// Claims the call of a client tool, runs it and answers.
    Run,
    /// Cancels after the first text.
    Cancel,
    /// Cancels immediately, usually while the turn is still queued.
    CancelQueued,
    /// Cancels while the vendor holds the answer to a writing call, then releases it.
    CancelHeld,
    /// Rates the answer and renames the conversation.
    Rate,
    /// Deletes the conversation after the first text.
    Erase,
}

/// A turn to submit.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its conversation; turns of one conversation are submitted in this order.
    pub talk: String,
    pub copilot: &'static str,
    pub body: Value,
    /// Whether it is submitted only once the conversation's stream shows text of the turn before.
    pub over_text: bool,
    pub act: Act,
    /// Its allowed final statuses.
    pub ends: &'static [&'static str],
    /// Text that everything the turn changes in external systems contains.
    pub mark: Option<String>,
}

const COMPLETED: &[&str] = &["completed"];
const FAILED: &[&str] = &["failed"];
/// Final statuses of a turn that is cancelled: the cancel may come too late.
const STOPPED: &[&str] = &["cancelled", "completed"];

/// The ticket whose changes the simulated Zendesk delays.
pub const HELD_TICKET: u64 = 105;

fn order(talk: &str, input: &str) -> Order {
    Order {
        talk: talk.to_owned(),
        copilot: "support",
        body: json!({ "input": input }),
        over_text: false,
        act: Act::Wait,
        ends: COMPLETED,
        mark: None,
    }
}

impl Order {
    fn by(self, copilot: &'static str) -> Self {
        Self { copilot, ..self }
    }

    fn act(self, act: Act, ends: &'static [&'static str]) -> Self {
        Self { act, ends, ..self }
    }

    fn ends(self, ends: &'static [&'static str]) -> Self {
        Self { ends, ..self }
    }

    fn over_text(self) -> Self {
        Self {
            over_text: true,
            ..self
        }
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.body[field] = value;
        self
    }

    fn marked(self, mark: String) -> Self {
        Self {
            mark: Some(mark),
            ..self
        }
    }
}

fn ticket(talk: &str, mark: String) -> Order {
    let input = format!(r#"[[sim tool=zendesk_create_ticket args={{"subject": "{mark}", "body": "as asked"}}]]"#);
    order(talk, &input).marked(mark)
}

fn post(talk: &str, mark: String) -> Order {
    let input = format!(r##"[[sim tool=slack_post_message args={{"channel": "#support", "text": "{mark}"}}]]"##);
    order(talk, &input).marked(mark)
}

fn comment(talk: &str, ticket: u64, mark: String) -> Order {
    let arguments = json!({ "ticket_id": ticket, "body": mark, "public": false });
    order(talk, &format!("[[sim tool=zendesk_add_comment args={arguments}]]")).marked(mark)
}

/// A turn that brings a client tool, which the model calls.
fn page(talk: &str) -> Order {
    let parameters = json!({ "type": "object", "properties": { "path": { "type": "string" } }, "required": ["path"] });
    let tools = json!([{ "name": "open_page", "description": "Opens a page.", "parameters": parameters }]);
    order(talk, r#"[[sim tool=open_page args={"path": "/orders"}]]"#)
        .with("client_tools", tools)
        .act(Act::Run, COMPLETED)
}

/// Turns of every kind, over a dozen conversations whose names begin with `run`.
pub fn mixed(run: &str) -> Vec<Order> {
    let talk = |name: &str| format!("{run}-{name}");
    let mark = |name: &str| format!("mark-{run}-{name}.");
    let schema = json!({
        "type": "object",
        "properties": { "answer": { "type": "string" } },
        "required": ["answer"],
        "additionalProperties": false,
    });
    let reads = talk("reads");
    let queue = talk("queue");
    let brief = talk("brief");
    vec![
        order(&talk("text"), "[[sim tokens=40]]"),
        order(&talk("text"), "[[sim tokens=20 chunk=3]]").act(Act::Rate, COMPLETED),
        order(
            &reads,
            r#"[[sim tool=zendesk_search_tickets args={"query": "status<solved"}]]"#,
        ),
        order(
            &reads,
            r#"[[sim tool=zendesk_get_ticket args={"ticket_id": 101} calls=3]]"#,
        ),
        order(&reads, "[[sim tool=zendesk_get_ticket args={}]]"),
        ticket(&talk("ticket"), mark("ticket")),
        ticket(&talk("approved"), mark("approved"))
            .by("careful")
            .act(Act::Approve, COMPLETED),
        ticket(&talk("rejected"), mark("rejected"))
            .by("careful")
            .act(Act::Reject, COMPLETED),
        page(&talk("page")),
        post(&talk("post"), mark("post")),
        comment(&talk("comment"), 102, mark("comment")),
        comment(&talk("held"), HELD_TICKET, mark("held")).act(Act::CancelHeld, STOPPED),
        order(&talk("schema"), r#"[[sim json={"answer": "fine"}]]"#).with("response_schema", schema.clone()),
        // The model is told the error and corrects it.
        order(&talk("schema"), r#"[[sim json={"wrong": 1}]]"#).with("response_schema", schema),
        order(&talk("blocked"), r#"[[sim text="this is FORBIDDEN to say"]]"#).ends(FAILED),
        order(&talk("refused"), "[[sim status=400]]").ends(FAILED),
        order(&talk("cut"), "[[sim tokens=60 cut_after=80 fail_times=1]]"),
        order(
            &talk("limited"),
            r#"[[sim text="later" status=429 retry_after=1 fail_times=1]]"#,
        ),
        order(&talk("cancel"), "[[sim tokens=400]]").act(Act::Cancel, STOPPED),
        order(&queue, "[[sim tokens=60 pace_ms=20]]"),
        order(&queue, "[[sim tokens=10]]")
            .over_text()
            .act(Act::CancelQueued, STOPPED),
        order(&queue, "[[sim text=second]]"),
        order(&queue, "[[sim text=third]]"),
        order(&talk("interrupt"), "[[sim tokens=400]]").ends(STOPPED),
        order(&talk("interrupt"), "[[sim text=instead]]")
            .over_text()
            .with("when_busy", json!("interrupt")),
        order(&brief, "[[sim tokens=150 chunk=40]]").by("brief"),
        order(&brief, "[[sim tokens=150 chunk=40]]").by("brief"),
        order(&talk("erase"), "[[sim tokens=400]]").act(Act::Erase, STOPPED),
    ]
}

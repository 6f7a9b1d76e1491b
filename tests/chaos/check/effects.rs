//! No effect happens twice, and reported outcomes are true.

use std::collections::HashMap;

use serde_json::Value;

use super::{Summary, Turn};
use crate::findings::Promise;
use crate::schedule::Kind;
use crate::support::world;
use crate::user::{Submission, Submitted};

/// What was done at the simulated vendors: number of effects by mark.
pub struct World {
    marks: HashMap<String, usize>,
    keys: Vec<String>,
}

impl World {
    pub async fn of(world: &world::World) -> Self {
        let (zendesk, slack) = tokio::join!(world.state(&world.zendesk), world.state(&world.slack));
        Self {
            marks: count(&zendesk, &slack),
            keys: world.keyed_changes().await,
        }
    }

    fn happened(&self, mark: &str) -> usize {
        self.marks.get(mark).copied().unwrap_or_default()
    }

    /// Returns the idempotency keys with which two changes were made.
    pub fn twice(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        keys.sort_unstable();
        let pairs = keys.windows(2).filter(|pair| pair[0] == pair[1]);
        pairs.map(|pair| pair[0]).collect()
    }
}

/// Counts marks in tickets' subjects, in comments and in messages.
fn count(zendesk: &Value, slack: &Value) -> HashMap<String, usize> {
    fn list(value: &Value) -> impl Iterator<Item = &Value> {
        value.as_array().into_iter().flatten()
    }
    let subjects = list(&zendesk["tickets"]).map(|ticket| &ticket["subject"]);
    // A ticket's first comment is the ticket's own text.
    let comments = list(&zendesk["tickets"]).flat_map(|ticket| list(&ticket["comments"]).skip(1));
    let comments = comments.map(|comment| &comment["body"]);
    let messages = list(&slack["channels"]).flat_map(|channel| list(&channel["messages"]));
    let messages = messages.map(|message| &message["text"]);
    let mut marks = HashMap::new();
    for text in subjects.chain(comments).chain(messages) {
        if let Some(mark) = text.as_str().and_then(mark_in) {
            *marks.entry(mark.to_owned()).or_default() += 1;
        }
    }
    marks
}

/// Returns the mark in a text.
pub fn mark_in(text: &str) -> Option<&str> {
    let from = text.find("mark-")?;
    let end = text[from..].find('.')?;
    Some(&text[from..=from + end])
}

pub fn check(
    ask: &Submission,
    turn: Option<&Turn>,
    erased: bool,
    world: &World,
    summary: &mut Summary,
    broken: &mut impl FnMut(Promise, String),
) {
    if !matches!(ask.order.kind, Kind::Ticket | Kind::Comment | Kind::Post) {
        return;
    }
    let happened = world.happened(&ask.mark);
    summary.effects += happened;
    let result = match turn {
        Some(turn) => {
            let statuses: Vec<&str> = turn.view["tool_calls"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|call| call["status"].as_str())
                .collect();
            for status in &statuses {
                *summary.calls.entry((*status).to_owned()).or_default() += 1;
            }
            judge(&statuses, happened).map_err(|what| format!("{what}: {}", turn.view["tool_calls"]))
        }
        // Erased: its effect stays, and happened at most once.
        None if erased => (happened <= 1)
            .then_some(())
            .ok_or(format!("erased, and done {happened} times")),
        None if matches!(ask.submitted, Submitted::Refused(..)) && happened > 0 => {
            Err("the submission was refused, but its effect happened".to_owned())
        }
        None => Ok(()),
    };
    if let Err(what) = result {
        broken(Promise::Effects, format!("{} {:?}: {what}", ask.mark, ask.order.kind));
    }
}

/// Compares how often an effect happened with the calls that report it.
fn judge(statuses: &[&str], happened: usize) -> Result<(), String> {
    let of = |wanted: &str| statuses.iter().filter(|status| **status == wanted).count();
    let (succeeded, unknown) = (of("succeeded"), of("unknown"));
    if (succeeded..=succeeded + unknown).contains(&happened) {
        Ok(())
    } else {
        Err(format!(
            "the effect happened {happened} times, but the statuses of its calls are {statuses:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_is_done_once_if_it_succeeded_and_never_if_it_did_not() {
        for (statuses, happened, right) in [
            (&["succeeded"][..], 1, true),
            (&["succeeded"], 0, false),
            (&["succeeded"], 2, false),
            (&["unknown"], 0, true),
            (&["unknown"], 1, true),
            (&["unknown"], 2, false),
            (&["failed"], 0, true),
            (&["failed"], 1, false),
            (&["rejected"], 1, false),
            (&["cancelled"], 1, false),
            (&["awaiting_approval"], 1, false),
            (&[], 0, true),
            (&[], 1, false),
        ] {
            assert_eq!(judge(statuses, happened).is_ok(), right, "{statuses:?} {happened}");
        }
    }

    #[test]
    fn marks_are_counted_wherever_they_are() {
        let zendesk = json!({"tickets": [
            {"subject": "mark-1-u-1.", "comments": [{"body": "mark-1-u-1. the ticket's own text"}]},
            {"subject": "other", "comments": [{"body": "x"}, {"body": "mark-1-u-2. secret"}, {"body": "mark-1-u-2. secret"}]},
        ]});
        let slack = json!({"channels": [{"messages": [{"text": "mark-1-u-12. secret"}]}]});
        let marks = count(&zendesk, &slack);
        assert_eq!(marks["mark-1-u-1."], 1);
        assert_eq!(marks["mark-1-u-2."], 2);
        assert_eq!(marks["mark-1-u-12."], 1);
    }
}

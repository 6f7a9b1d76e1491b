//! Nothing that was acknowledged is lost: turns, cancellations, decisions, titles.

use std::collections::BTreeMap;

use super::{ServedConversation, Summary, Turn};
use crate::findings::Promise;
use crate::user::{Acknowledgements, Submission, Submitted, UserConversation};

pub fn check(
    talk: &UserConversation,
    served: &ServedConversation,
    summary: &mut Summary,
    broken: &mut impl FnMut(Promise, String),
) {
    if served.view["title"] != talk.title.as_str() {
        broken(
            Promise::Kept,
            format!("the title is {}, expected {}", served.view["title"], talk.title),
        );
    }
    let asked: Vec<(&str, &Submitted)> = talk
        .asks
        .iter()
        .map(|ask| (ask.mark.as_str(), &ask.submitted))
        .collect();
    let inputs: BTreeMap<&str, String> = served
        .turns
        .iter()
        .map(|(id, turn)| (id.as_str(), turn.view["input"].to_string()))
        .collect();
    for what in judge_turns(&asked, &inputs) {
        broken(Promise::Kept, what);
    }
    for ask in &talk.asks {
        let Some(turn) = ask.turn().and_then(|id| served.turns.get(id)) else {
            continue;
        };
        summary.turns += 1;
        summary.recovered += usize::from(turn.view["attempt"].as_u64() > Some(1));
        *summary.ends.entry(end(turn)).or_default() += 1;
        let told = ask.told.lock().clone();
        if let Err(what) = judge_told(&told, turn) {
            broken(Promise::Kept, format!("{}: {what}", ask.mark));
        }
        if let Err(what) = judge_end(ask, turn) {
            broken(Promise::Kept, format!("{}: {what}", ask.mark));
        }
    }
}

/// Returns how the turn ended, with the error's code.
fn end(turn: &Turn) -> String {
    match turn.view["error"]["code"].as_str() {
        Some(code) => format!("{} {code}", turn.status()),
        None => turn.status().to_owned(),
    }
}

/// Compares the submissions with the turns that exist: `turns` maps turn ids to inputs.
fn judge_turns(asked: &[(&str, &Submitted)], turns: &BTreeMap<&str, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (mark, submitted) in asked {
        let found: Vec<&str> = turns
            .iter()
            .filter(|(_, input)| input.contains(mark))
            .map(|(id, _)| *id)
            .collect();
        let right = match submitted {
            Submitted::Acknowledged(id) => found == [id.as_str()],
            Submitted::Refused(..) => found.is_empty(),
            Submitted::Unknown => found.len() <= 1,
        };
        if !right {
            wrong.push(format!(
                "{mark}: the submission was answered with {submitted:?}, but its turns are {found:?}"
            ));
        }
    }
    for (id, input) in turns {
        if !asked.iter().any(|(mark, _)| input.contains(mark)) {
            wrong.push(format!("turn {id} was submitted by nobody: {input}"));
        }
    }
    wrong
}

/// What a user was told stays true.
fn judge_told(told: &Acknowledgements, turn: &Turn) -> Result<(), String> {
    if let Some(ended) = &told.ended
        && ended != turn.status()
    {
        return Err(format!(
            "the user was told that it ended as {ended}, but its status is {}",
            turn.status()
        ));
    }
    if let Some(approved) = told.approved {
        let decided: Vec<&str> = turn
            .events
            .iter()
            .filter(|event| event.name == "approval.decided")
            .filter_map(|event| event.data["decision"].as_str())
            .collect();
        let wanted = if approved { "approved" } else { "rejected" };
        if decided != [wanted] {
            return Err(format!(
                "the acknowledged decision was {wanted}, but the log has {decided:?}"
            ));
        }
    }
    Ok(())
}

/// Turns do not fail by themselves: a turn fails only because of what was done to it.
fn judge_end(ask: &Submission, turn: &Turn) -> Result<(), String> {
    let codes = [
        "attempts_exhausted",
        "provider_unavailable",
        "rate_limited",
        "budget_exhausted",
        "limit_time",
    ];
    match (turn.status(), turn.view["error"]["code"].as_str()) {
        ("completed" | "cancelled", None) => Ok(()),
        ("failed", Some(code)) if codes.contains(&code) => Ok(()),
        (status, code) => Err(format!(
            "{:?} ended as {status} {code:?}: {}",
            ask.order.kind, turn.view["error"]
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::support::transcript::Durable;

    fn acknowledged(id: &str) -> Submitted {
        Submitted::Acknowledged(id.to_owned())
    }

    #[test]
    fn lost_doubled_and_unasked_turns_are_told() {
        let one = acknowledged("t1");
        let refused = Submitted::Refused(409, "turn_running".to_owned());
        let asked = [("m-1.", &one), ("m-2.", &refused), ("m-3.", &Submitted::Unknown)];
        let turns = |turns: &[(&'static str, &str)]| -> BTreeMap<&'static str, String> {
            turns.iter().map(|(id, input)| (*id, (*input).to_owned())).collect()
        };
        let wrong = |found: &[(&'static str, &str)]| judge_turns(&asked, &turns(found)).len();
        assert_eq!(wrong(&[("t1", "m-1.")]), 0);
        assert_eq!(wrong(&[("t1", "m-1."), ("t3", "m-3.")]), 0);
        assert_eq!(wrong(&[]), 1, "lost");
        assert_eq!(wrong(&[("t1", "m-1."), ("t2", "m-1.")]), 1, "doubled");
        assert_eq!(wrong(&[("t9", "m-1.")]), 1, "another id");
        assert_eq!(wrong(&[("t1", "m-1."), ("t2", "m-2.")]), 1, "refused and done");
        assert_eq!(wrong(&[("t1", "m-1."), ("t3", "m-3."), ("t4", "m-3.")]), 1);
        assert_eq!(wrong(&[("t1", "m-1."), ("t4", "m-4.")]), 1, "nobody's");
    }

    #[test]
    fn what_was_told_stays_true() {
        let turn = |status: &str, decisions: &[&str]| Turn {
            view: json!({ "status": status }),
            events: decisions
                .iter()
                .map(|decision| Durable {
                    seq: 1,
                    name: "approval.decided".to_owned(),
                    data: json!({ "decision": decision }),
                })
                .collect(),
        };
        let told = |ended: Option<&str>, approved| Acknowledgements {
            ended: ended.map(str::to_owned),
            approved,
        };
        let right = |told, turn: &Turn| judge_told(&told, turn).is_ok();
        assert!(right(told(Some("cancelled"), None), &turn("cancelled", &[])));
        assert!(!right(told(Some("cancelled"), None), &turn("completed", &[])));
        assert!(right(told(None, Some(true)), &turn("completed", &["approved"])));
        assert!(!right(told(None, Some(true)), &turn("completed", &["rejected"])));
        assert!(!right(told(None, Some(false)), &turn("completed", &[])));
        assert!(!right(
            told(None, Some(true)),
            &turn("completed", &["approved", "approved"])
        ));
    }
}

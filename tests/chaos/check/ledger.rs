//! The ledger of each user matches what the provider counted for the user's turns.
//!
//! At least the tokens of all undisturbed turns that ended well before a death: a process that is killed may lose the
//! entries of its last 200 ms, and while the store is unavailable entries wait in memory. At most the tokens of all
//! calls, where those of disturbed turns may be estimates (`usage.rs`).
//! calls, where those of disturbed turns may be estimates (`usage.rs`).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::usage::{Call, Tokens, of_ledger};
use super::{ServedConversation, Turn};
use crate::client::Client;
use crate::config::admin_key;
use crate::findings::Promise;
use crate::history::History;
use crate::schedule::TENANTS;
use crate::user::UserConversation;

/// Ledger entries this much older than a death are stored.
const BOOKING: Duration = Duration::from_secs(2);

/// Periods in which the process may die with entries that are not stored yet.
pub struct UncertainPeriods(pub Vec<(Duration, Duration)>);

impl UncertainPeriods {
    /// Whether the entries of a turn that ended at this time are certainly stored.
    fn is_booked(&self, ended: Duration) -> bool {
        let mut times = self.0.iter();
        !times.any(|(from, to)| from.saturating_sub(BOOKING) <= ended && ended <= *to)
    }
}

/// Compares the ledger, user by user.
pub async fn check(
    talks: &[(&UserConversation, Option<ServedConversation>)],
    calls: &HashMap<String, Vec<Call>>,
    history: &History,
    doubtful: &UncertainPeriods,
) {
    let mut bounds: BTreeMap<(usize, &str), (Tokens, Tokens)> = BTreeMap::new();
    for (talk, served) in talks {
        let user = bounds.entry((talk.tenant, talk.client.user())).or_default();
        for ask in &talk.asks {
            let turn = served
                .as_ref()
                .zip(ask.turn())
                .and_then(|(served, id)| served.turns.get(id));
            let calls = calls.get(&ask.mark).map_or(&[][..], Vec::as_slice);
            let booked = turn
                .and_then(|turn| ended(turn, history))
                .is_some_and(|at| doubtful.is_booked(at));
            let (least, most) = of_ledger(turn, calls, booked);
            user.0 += least;
            user.1 += most;
        }
    }
    let Some((talk, _)) = talks.first() else { return };
    let shared = &talk.client.shared;
    for tenant in 0..TENANTS.len() {
        let admin = Client::new(shared.clone(), admin_key(tenant), "auditor".to_owned());
        let Some(ledger) = ledger(&admin, history).await else {
            shared
                .findings
                .add(Promise::Usage, None, "the usage report could not be read");
            continue;
        };
        for ((_, user), (least, most)) in bounds.iter().filter(|((of, _), _)| *of == tenant) {
            let booked = ledger.get(*user).copied().unwrap_or_default();
            if let Err(what) = judge(booked, *least, *most) {
                shared
                    .findings
                    .add(Promise::Usage, None, format!("the ledger of {user}: {what}"));
            }
        }
    }
}

/// Returns the tokens by user.
async fn ledger(admin: &Client, history: &History) -> Option<HashMap<String, Tokens>> {
    let day = |days: i64| (history.begun_at() + SignedDuration::from_hours(24 * days)).to_string()[..10].to_owned();
    let path = format!("/v1/admin/usage?group_by=user&from={}&to={}", day(-1), day(1));
    let (status, report) = admin.get(&path).await?;
    let rows = report["data"].as_array().filter(|_| status == 200)?;
    let row = |row: &Value| {
        let number = |name: &str| row[name].as_u64().unwrap_or_default();
        let tokens = Tokens {
            prompt: number("prompt_tokens"),
            completion: number("completion_tokens"),
        };
        Some((row["key"].as_str()?.to_owned(), tokens))
    };
    Some(rows.iter().filter_map(row).collect())
}

/// Returns when a turn ended, since the start of the run.
fn ended(turn: &Turn, history: &History) -> Option<Duration> {
    let at: Timestamp = turn.view["finished_at"].as_str()?.parse().ok()?;
    Duration::try_from(at.duration_since(history.begun_at())).ok()
}

fn judge(booked: Tokens, least: Tokens, most: Tokens) -> Result<(), String> {
    let within = (least.prompt..=most.prompt).contains(&booked.prompt)
        && (least.completion..=most.completion).contains(&booked.completion);
    within
        .then_some(())
        .ok_or(format!("{booked:?} is not between {least:?} and {most:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(prompt: u64, completion: u64) -> Tokens {
        Tokens { prompt, completion }
    }

    #[test]
    fn too_little_and_too_much_are_told() {
        let right = |booked| judge(booked, tokens(100, 10), tokens(200, 20)).is_ok();
        assert!(right(tokens(100, 10)));
        assert!(right(tokens(200, 20)));
        assert!(!right(tokens(99, 10)));
        assert!(!right(tokens(100, 9)));
        assert!(!right(tokens(201, 10)));
        assert!(!right(tokens(100, 21)));
    }

    #[test]
    fn what_ended_just_before_a_death_may_be_lost() {
        let at = Duration::from_secs;
        let doubtful = UncertainPeriods(vec![(at(10), at(11))]);
        assert!(doubtful.is_booked(at(7)));
        assert!(!doubtful.is_booked(at(9)));
        assert!(!doubtful.is_booked(at(11)));
        assert!(doubtful.is_booked(at(12)));
    }
}

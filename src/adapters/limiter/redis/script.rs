//! The script that runs inside Redis: its arguments and its answer.

use std::sync::LazyLock;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::token_bucket::MAX_RATE;
use copilotd_actors::domain::usage::NanoUsd;
use copilotd_gateway::limit::{AccountUsage, ActualUsage, Demand, Limits, TenantLimits};
use copilotd_gateway::spending::Subject;
use jiff::Timestamp;
use redis::{Script, ScriptInvocation};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Longest name of a user or key that is used unchanged in the name of a Redis key.
const MAX_NAME: usize = 64;
/// Numbers that the script returns for each account.
const WIDTH: usize = 6;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limiter.lua")));

/// Operations of the script.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    /// Reserves a demand on all accounts or on none.
    Reserve,
    /// Replaces a reservation by what was used.
    Settle,
    /// Records what the ledger knows, and returns the state of the accounts.
    Look,
    /// Like `Look`, by a process that has reserved nothing yet.
    Begin,
    /// Like `Look`; also sets the tenant's mark.
    Owed,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Settle => "settle",
            Self::Look => "look",
            Self::Begin => "begin",
            Self::Owed => "owed",
        }
    }
}

/// The names of a tenant's keys. The part in braces decides where a cluster stores them: all in one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyNames<'a> {
    pub prefix: &'a str,
    pub tenant: &'a TenantId,
}

impl KeyNames<'_> {
    /// Returns a pattern that matches the names of all of the tenant's keys; no tenant's id has a character that is
    /// special in patterns.
    pub fn pattern(&self) -> String {
        format!("{}:{{{}}}:*", escaped(self.prefix), self.tenant)
    }

    /// The mark: it exists once money was taken over from the ledger.
    fn mark(&self) -> String {
        format!("{}:{{{}}}:mark", self.prefix, self.tenant)
    }

    /// The keys of an account's counters and of its reservations.
    fn account(&self, subject: &Subject) -> [String; 2] {
        let of = match subject {
            Subject::Tenant => "tenant".to_owned(),
            Subject::User(user) => format!("user:{}", bounded(user.as_str())),
            Subject::Key(key) => format!("key:{}", bounded(key)),
        };
        let key = format!("{}:{{{}}}:{of}", self.prefix, self.tenant);
        let leases = format!("{}:{{{}}}:leases:{of}", self.prefix, self.tenant);
        [key, leases]
    }
}

/// Escapes what is special in a pattern.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A name of at most [`MAX_NAME`] bytes unchanged; for a longer one its hash, with a prefix that no short name has.
fn bounded(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return format!("={name}");
    }
    format!("#{}", hex::encode(Sha256::digest(name)))
}

/// A request to the script about one tenant.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub names: KeyNames<'a>,
    /// In milliseconds; `None`: the server's clock.
    pub now: Option<i64>,
    /// Life of a reservation in milliseconds.
    pub life: u128,
    /// Whether to answer only when the tenant has its mark.
    pub marked: bool,
    /// The reservation.
    pub id: Option<Uuid>,
    pub demand: Demand,
    pub spent: ActualUsage,
    pub limits: TenantLimits,
    pub subjects: &'a [Subject],
    /// What the ledger knows of these subjects in the day and the month; empty: nothing.
    pub owed: &'a [(NanoUsd, NanoUsd)],
}

impl Request<'_> {
    pub fn invocation(&self, operation: Operation) -> ScriptInvocation<'static> {
        let mut call = begin(operation.word(), self.names, self.now, self.life);
        let (demand, spent) = (&self.demand, &self.spent);
        call.arg(u8::from(self.marked))
            .arg(self.id.map(|id| id.simple().to_string()).unwrap_or_default())
            .arg(demand.requests)
            .arg(demand.tokens)
            .arg(demand.calls)
            .arg(demand.cost)
            .arg(spent.tokens.min(demand.tokens.saturating_add(MAX_RATE)))
            .arg(spent.cost);
        for (n, subject) in self.subjects.iter().enumerate() {
            let [numbers, leases] = self.names.account(subject);
            let limits = self.limits.of(subject);
            let owed = self.owed.get(n).copied().unwrap_or_default();
            call.key(numbers).key(leases);
            for rate in [limits.requests_per_minute, limits.tokens_per_minute] {
                number(&mut call, rate.map(|rate| rate.clamp(1, MAX_RATE)));
            }
            for most in [limits.concurrent_calls, limits.usd_per_day, limits.usd_per_month] {
                number(&mut call, most);
            }
            call.arg(owed.0).arg(owed.1);
        }
        call
    }
}

/// A reservation that is renewed.
#[derive(Debug, Clone)]
pub(super) struct OpenReservation {
    pub id: Uuid,
    pub demand: Demand,
    pub subjects: Vec<Subject>,
}

/// Extends these reservations of one tenant by another life.
pub(super) fn renew(
    names: KeyNames<'_>,
    now: Option<i64>,
    life: u128,
    leases: &[OpenReservation],
) -> ScriptInvocation<'static> {
    let mut call = begin("renew", names, now, life);
    call.arg(0);
    for OpenReservation { id, demand, subjects } in leases {
        let member = format!("{}:{}:{}", id.simple(), demand.calls, demand.cost);
        for subject in subjects {
            let [numbers, leases] = names.account(subject);
            call.key(numbers).key(leases).arg(&member);
        }
    }
    call
}

/// Checks that the script runs and may write.
pub(super) fn probe(prefix: &str) -> ScriptInvocation<'static> {
    let mut call = SCRIPT.prepare_invoke();
    call.key(format!("{prefix}:probe")).arg("probe").arg(0).arg(0);
    call
}

fn begin(operation: &str, names: KeyNames<'_>, now: Option<i64>, life: u128) -> ScriptInvocation<'static> {
    let mut call = SCRIPT.prepare_invoke();
    // As text: the protocol has no number that wide, and no value comes near it.
    call.key(names.mark())
        .arg(operation)
        .arg(now.unwrap_or(0))
        .arg(life.to_string());
    call
}

fn number(call: &mut ScriptInvocation<'_>, limit: Option<u64>) {
    match limit {
        Some(limit) => call.arg(limit),
        None => call.arg(-1),
    };
}

/// The script's answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub now: Timestamp,
    pub verdict: Verdict,
    /// In the order of the request's subjects.
    used: Vec<AccountUsage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    /// The demand does not fit.
    Full,
    /// Redis has lost its data, or never had any: what the ledger knows has to be written first.
    Unmarked,
}

impl Reply {
    /// Parses an answer; `None` if it is not one of this script's.
    pub fn read(answer: &[String]) -> Option<Self> {
        let [verdict, now, numbers @ ..] = answer else {
            return None;
        };
        let whole = |text: &String| text.parse::<i64>().ok();
        let money = |text: &String| text.parse::<u64>().ok();
        let account = |numbers: &[String]| {
            let [requests, tokens, calls, held, day, month] = numbers else {
                return None;
            };
            Some(AccountUsage {
                requests: whole(requests)?,
                tokens: whole(tokens)?,
                calls: money(calls)?,
                held: money(held)?,
                day: money(day)?,
                month: money(month)?,
            })
        };
        Some(Self {
            now: Timestamp::from_millisecond(whole(now)?).ok()?,
            verdict: match verdict.as_str() {
                "ok" => Verdict::Done,
                "no" => Verdict::Full,
                "unmarked" => Verdict::Unmarked,
                _ => return None,
            },
            used: numbers.chunks(WIDTH).map(account).collect::<Option<_>>()?,
        })
    }

    /// Returns each subject's limits and use.
    pub fn accounts(&self, subjects: &[Subject], limits: &TenantLimits) -> Vec<(&'static str, Limits, AccountUsage)> {
        let used = subjects.iter().zip(&self.used);
        used.map(|(subject, used)| (subject.word(), *limits.of(subject), *used))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_keys_are_bounded_and_differ() {
        let tenant = "acme".parse().unwrap();
        let names = KeyNames {
            prefix: "copilotd",
            tenant: &tenant,
        };
        let key = |name: &str| names.account(&Subject::Key(name.to_owned()))[0].clone();
        assert_eq!(key("ci"), "copilotd:{acme}:key:=ci");
        let long = "x".repeat(65);
        assert!(key(&long).starts_with("copilotd:{acme}:key:#"));
        assert_eq!(key(&long).len(), "copilotd:{acme}:key:#".len() + 64);
        let looks_hashed = key(&long)["copilotd:{acme}:key:".len()..].to_owned();
        assert_ne!(key(&looks_hashed), key(&long), "nobody can choose another's key");
    }

    #[test]
    fn an_invalid_answer_is_rejected() {
        let texts = |answer: &[&str]| answer.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert!(Reply::read(&texts(&["ok", "5", "1", "2", "3", "4", "5", "6"])).is_some());
        for bad in [
            &["ok"][..],
            &["maybe", "5"],
            &["ok", "x"],
            &["ok", "5", "1"],
            &["ok", "5", "1", "2", "3", "-4", "5", "6"],
        ] {
            assert!(Reply::read(&texts(bad)).is_none(), "{bad:?}");
        }
    }
}

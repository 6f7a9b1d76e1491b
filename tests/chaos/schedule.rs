//! What happens in a run: faults and users' actions, as a pure function of a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt as _, SeedableRng as _};

/// Users of each tenant.
const USERS: usize = 10;
pub const TENANTS: [&str; 2] = ["acme", "globex"];

/// How long a process is stopped; shorter in a short run.
const STOP: u64 = 10_000;
/// Longest outage of a dependency.
const LONGEST_LOSS: u64 = 60_000;
/// Faults start after this time and have ended this long before the end, so that every run has calm periods too.
const CALM: u64 = 3_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub seed: u64,
    pub lasts: Duration,
    /// Sorted by start. Faults of the process do not overlap each other; those of dependencies may overlap all others.
    pub faults: Vec<Fault>,
    pub users: Vec<User>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    pub at: Duration,
    pub lasts: Duration,
    pub kind: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// SIGKILL; the process is restarted when the fault ends.
    Kill,
    /// SIGSTOP, and SIGCONT when the fault ends.
    Stop,
    Lose(Dependency, FailureMode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    Provider,
    Zendesk,
    Slack,
    /// Redis.
    Limits,
    /// MongoDB; skipped in a run on SQLite.
    Store,
}

pub const DEPENDENCIES: [Dependency; 5] = [
    Dependency::Provider,
    Dependency::Zendesk,
    Dependency::Slack,
    Dependency::Limits,
    Dependency::Store,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureMode {
    /// Nothing listens.
    Refused,
    /// Connections are reset.
    Reset,
    /// Connections end.
    Cut,
    /// No bytes pass; what was sent arrives when the fault ends.
    Silent,
    /// Requests arrive, answers do not.
    AnswersLost,
    /// Answers are delayed.
    Slow,
    /// Its process is killed, and restarted when the fault ends. Only for dependencies that keep their state or may
    /// lose it.
    Killed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct User {
    pub tenant: usize,
    pub name: String,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Time spent typing before it.
    pub pause: Duration,
    pub act: Act,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Continues in a new conversation.
    Open {
        careful: bool,
    },
    Submit(Order),
    Rename,
    /// Deletes the conversation; the next step starts in a new one.
    Erase,
    /// Tries to access what belongs to somebody else.
    Trespass,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub kind: Kind,
    pub then: Then,
    pub when_busy: WhenBusy,
    pub reading: Reading,
    /// Time the user watches before the next step, unless the turn ends sooner.
    pub looks_on: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This many words, one per so many milliseconds.
    Words {
        count: u32,
        pace_ms: u32,
    },
    /// An answer that repeats the conversation's secret this many times.
    Secret {
        times: u32,
    },
    /// A tool that changes nothing.
    LookUp,
    /// Tools that do: in a careful conversation a ticket needs approval first.
    Ticket,
    Comment,
    Post,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Wait,
    Cancel {
        after: Duration,
    },
    /// Decides if asked for approval.
    Decide {
        approve: bool,
    },
    /// Does not wait for the answer to the request, and never repeats it.
    Leave {
        after: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    Enqueue,
    Reject,
    Interrupt,
}

/// How a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Pause before each piece that is read from the connection.
    pub pause: Duration,
    /// Leaves after this many pieces and reconnects with `Last-Event-ID`.
    pub leaves_after: Option<u32>,
}

impl Schedule {
    /// Builds the schedule; always the same for the same arguments.
    pub fn new(seed: u64, seconds: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let lasts = seconds * 1000;
        let mut faults = process_faults(&mut random, lasts);
        // Two lanes: two dependencies may be down at the same time.
        faults.extend(losses(&mut random, lasts));
        if seconds > 90 {
            faults.extend(losses(&mut random, lasts));
        }
        faults.sort_by_key(|fault| fault.at);
        let users = (0..TENANTS.len() * USERS).map(|n| user(&mut random, n, lasts));
        Self {
            seed,
            lasts: Duration::from_millis(lasts),
            users: users.collect(),
            faults,
        }
    }

    /// Returns when the last fault has ended.
    pub fn faults_end(&self) -> Duration {
        let ends = self.faults.iter().map(|fault| fault.at + fault.lasts);
        ends.max().unwrap_or_default()
    }
}

fn ms(range: std::ops::Range<u64>, random: &mut impl Rng) -> Duration {
    Duration::from_millis(random.random_range(range))
}

/// Adds faults from a calm period at the beginning to one at the end, with pauses between them.
fn lane(
    random: &mut StdRng,
    lasts: u64,
    pauses: std::ops::Range<u64>,
    mut next: impl FnMut(&mut StdRng, u64) -> (u64, FaultKind),
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = CALM + random.random_range(0..pauses.start);
    loop {
        let left = lasts.saturating_sub(CALM).saturating_sub(at);
        if left < 1_000 {
            return faults;
        }
        let (length, kind) = next(random, left);
        let length = length.min(left);
        faults.push(Fault {
            at: Duration::from_millis(at),
            lasts: Duration::from_millis(length),
            kind,
        });
        at += length + random.random_range(pauses.clone());
    }
}

fn process_faults(random: &mut StdRng, lasts: u64) -> Vec<Fault> {
    let mut n = 0;
    lane(random, lasts, 3_000..12_000, |random, left| {
        n += 1;
        // One of each kind for certain, then at random; twice as many kills as stops.
        let stop = n == 2 || (n > 2 && random.random_range(0..3) == 0);
        if stop && left >= STOP.min(lasts / 6) {
            (STOP.min(lasts / 6), FaultKind::Stop)
        } else {
            // Most servers are restarted at once.
            let down = if random.random_bool(0.7) { 50..500 } else { 1_000..8_000 };
            (random.random_range(down), FaultKind::Kill)
        }
    })
}

fn losses(random: &mut StdRng, lasts: u64) -> Vec<Fault> {
    let longest = LONGEST_LOSS.min(lasts / 6).max(1_000);
    let mut order = DEPENDENCIES.to_vec();
    let mut n = 0;
    lane(random, lasts, 500..4_000, |random, _| {
        if n % order.len() == 0 {
            shuffle(&mut order, random);
        }
        let dependency = order[n % order.len()];
        n += 1;
        let manners: &[FailureMode] = match dependency {
            Dependency::Limits | Dependency::Store => &[
                FailureMode::Refused,
                FailureMode::Reset,
                FailureMode::Silent,
                FailureMode::AnswersLost,
                FailureMode::Slow,
                FailureMode::Killed,
                FailureMode::Killed,
            ],
            Dependency::Provider | Dependency::Zendesk | Dependency::Slack => &[
                FailureMode::Refused,
                FailureMode::Reset,
                FailureMode::Cut,
                FailureMode::Silent,
                FailureMode::AnswersLost,
                FailureMode::Slow,
            ],
        };
        let manner = manners[random.random_range(0..manners.len())];
        // Most outages are short, some last as long as they may.
        let length = match random.random_range(0..10) {
            0 => longest,
            1..4 => random.random_range(longest / 3..=longest),
            _ => random.random_range(500..=(longest / 3).max(501)),
        };
        (length, FaultKind::Lose(dependency, manner))
    })
}

fn shuffle<T>(items: &mut [T], random: &mut impl Rng) {
    for at in (1..items.len()).rev() {
        items.swap(at, random.random_range(0..=at));
    }
}

fn user(random: &mut StdRng, n: usize, lasts: u64) -> User {
    let tenant = n % TENANTS.len();
    let mut steps = Vec::new();
    let mut planned = 0;
    while planned < lasts {
        let pause = ms(100..2_500, random);
        let act = act(random);
        planned += u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        if let Act::Submit(order) = &act {
            // Only a part of it: turns mostly end sooner.
            planned += u64::try_from(order.looks_on.as_millis()).unwrap_or(u64::MAX) / 3;
        }
        steps.push(Step { pause, act });
    }
    User {
        tenant,
        name: format!("u{n}"),
        steps,
    }
}

fn act(random: &mut StdRng) -> Act {
    match random.random_range(0..100) {
        0..10 => Act::Open {
            careful: random.random_bool(0.4),
        },
        10..16 => Act::Erase,
        16..20 => Act::Rename,
        20..25 => Act::Trespass,
        _ => Act::Submit(order(random)),
    }
}

fn order(random: &mut StdRng) -> Order {
    let kind = match random.random_range(0..100) {
        0..40 => Kind::Words {
            count: random.random_range(5..150),
            pace_ms: random.random_range(5..40),
        },
        40..55 => Kind::Secret {
            times: [1, 3, 40, 400][random.random_range(0..4)],
        },
        55..62 => Kind::LookUp,
        62..76 => Kind::Ticket,
        76..86 => Kind::Comment,
        _ => Kind::Post,
    };
    let plain = matches!(kind, Kind::Words { .. } | Kind::Secret { .. });
    let then = match random.random_range(0..100) {
        0..18 => Then::Cancel {
            after: ms(0..2_500, random),
        },
        // Nobody would be there to decide on a ticket.
        18..26 if plain => Then::Leave {
            after: ms(1..300, random),
        },
        _ => Then::Decide {
            approve: random.random_bool(0.7),
        },
    };
    let then = if plain && matches!(then, Then::Decide { .. }) {
        Then::Wait
    } else {
        then
    };
    Order {
        kind,
        then,
        when_busy: match random.random_range(0..10) {
            0 => WhenBusy::Reject,
            1 | 2 => WhenBusy::Interrupt,
            _ => WhenBusy::Enqueue,
        },
        reading: reading(random, plain),
        looks_on: ms(300..6_000, random),
    }
}

/// Only answers are read slowly: a user who has to decide watches.
fn reading(random: &mut StdRng, plain: bool) -> Reading {
    let slow = plain && random.random_bool(0.25);
    // A slow reader that leaves too soon would never get anywhere.
    let soonest = if slow { 10 } else { 1 };
    Reading {
        pause: if slow { ms(300..1_500, random) } else { Duration::ZERO },
        leaves_after: random.random_bool(0.4).then(|| random.random_range(soonest..30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run() {
        for seconds in [60, 600] {
            assert_eq!(Schedule::new(7, seconds), Schedule::new(7, seconds));
            assert_ne!(Schedule::new(7, seconds).faults, Schedule::new(8, seconds).faults);
            assert_ne!(Schedule::new(7, seconds).users, Schedule::new(8, seconds).users);
        }
    }

    #[test]
    fn faults_are_bounded_and_over_before_the_end() {
        for seed in 0..200 {
            for seconds in [15, 60, 600] {
                let schedule = Schedule::new(seed, seconds);
                assert!(!schedule.faults.is_empty());
                assert!(schedule.faults_end() <= schedule.lasts - Duration::from_millis(CALM));
                for fault in &schedule.faults {
                    let bound = match fault.kind {
                        FaultKind::Kill => 8_000,
                        FaultKind::Stop => STOP,
                        FaultKind::Lose(..) => LONGEST_LOSS,
                    };
                    assert!(fault.lasts <= Duration::from_millis(bound), "{fault:?}");
                }
                let process = |fault: &&Fault| !matches!(fault.kind, FaultKind::Lose(..));
                let faults: Vec<_> = schedule.faults.iter().filter(process).collect();
                for pair in faults.windows(2) {
                    assert!(pair[0].at + pair[0].lasts <= pair[1].at, "{pair:?}");
                }
            }
        }
    }

    #[test]
    fn a_long_run_has_every_kind_of_fault_and_of_action() {
        let schedule = Schedule::new(1, 1_800);
        for kind in [FaultKind::Kill, FaultKind::Stop] {
            assert!(schedule.faults.iter().any(|fault| fault.kind == kind), "{kind:?}");
        }
        for dependency in DEPENDENCIES {
            let longest = schedule
                .faults
                .iter()
                .filter(|fault| matches!(fault.kind, FaultKind::Lose(lost, _) if lost == dependency));
            assert!(longest.map(|fault| fault.lasts).max() > Some(Duration::from_secs(20)));
        }
        for user in &schedule.users {
            let has = |find: &dyn Fn(&Act) -> bool| user.steps.iter().any(|step| find(&step.act));
            assert!(has(&|act| *act == Act::Erase));
            assert!(has(&|act| *act == Act::Trespass));
            assert!(has(
                &|act| matches!(act, Act::Submit(order) if matches!(order.then, Then::Cancel { .. }))
            ));
            assert!(has(
                &|act| matches!(act, Act::Submit(order) if order.reading.pause > Duration::ZERO)
            ));
        }
        let tenants = |tenant| schedule.users.iter().filter(|user| user.tenant == tenant).count();
        assert_eq!((tenants(0), tenants(1)), (USERS, USERS));
    }

    /// Nobody would ever decide.
    #[test]
    fn who_leaves_asks_for_nothing_that_waits_for_a_person() {
        let steps = Schedule::new(3, 1_800).users.into_iter().flat_map(|user| user.steps);
        for step in steps {
            if let Act::Submit(order) = step.act
                && matches!(order.then, Then::Leave { .. })
            {
                assert!(matches!(order.kind, Kind::Words { .. } | Kind::Secret { .. }));
            }
        }
    }
}

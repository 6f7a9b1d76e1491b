//! The rule for calls with an unknown outcome: as a table, and in a model of every order of crashes, delays, lost
//! answers and wrong clocks.

use std::collections::HashSet;
use std::time::Duration;

use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::domain::tool::outcome::{LookUpState, NextAction, SendState, next, status_if_given_up};
use jiff::SignedDuration;

const WINDOW: Duration = Duration::from_secs(7200);
const KEYED: Repeat = Repeat::Keyed(WINDOW);
const KINDS: [Repeat; 4] = [Repeat::Read, KEYED, Repeat::LookUp, Repeat::Never];

const NOW: NextAction = NextAction::LookUp(Duration::ZERO);
const UNKNOWN: NextAction = NextAction::End(ToolStatus::Unknown);

fn here(seconds: u64) -> SendState {
    SendState::Here(Duration::from_secs(seconds))
}

fn earlier(seconds: i64) -> SendState {
    SendState::Earlier(SignedDuration::from_secs(seconds))
}

#[test]
fn the_rule_as_a_table() {
    let found = NextAction::End(ToolStatus::Succeeded);
    let again = |pause| NextAction::LookUp(Duration::from_millis(pause));
    for (repeat, sent, looked, then) in [
        // A call that changes nothing is sent again, and one whose key the vendor still remembers.
        (Repeat::Read, here(0), LookUpState::NotYet, NextAction::Send),
        (Repeat::Read, earlier(-5), LookUpState::NotYet, NextAction::Send),
        (KEYED, here(1799), LookUpState::NotYet, NextAction::Send),
        (KEYED, here(1800), LookUpState::NotYet, NOW),
        (KEYED, here(1800), LookUpState::Missing(5), UNKNOWN),
        // For a call of an earlier process the age of the key is unknown: it is looked up first, and the wall clock may
        // only forbid.
        (KEYED, earlier(0), LookUpState::NotYet, NOW),
        (KEYED, earlier(0), LookUpState::Found, found),
        (KEYED, earlier(3599), LookUpState::Missing(1), NextAction::Send),
        (KEYED, earlier(3600), LookUpState::Missing(1), again(300)),
        (KEYED, earlier(3600), LookUpState::Missing(5), UNKNOWN),
        (KEYED, earlier(-1), LookUpState::Missing(5), UNKNOWN),
        (KEYED, earlier(i64::MIN), LookUpState::Missing(5), UNKNOWN),
        (KEYED, earlier(0), LookUpState::Impossible, UNKNOWN),
        // A call without a key is looked up a few times and never sent again.
        (Repeat::LookUp, here(0), LookUpState::NotYet, NOW),
        (Repeat::LookUp, earlier(0), LookUpState::NotYet, NOW),
        (Repeat::LookUp, earlier(86_400), LookUpState::Found, found),
        (Repeat::LookUp, earlier(0), LookUpState::Missing(1), again(300)),
        (Repeat::LookUp, here(0), LookUpState::Missing(4), again(2500)),
        (Repeat::LookUp, here(0), LookUpState::Missing(5), UNKNOWN),
        (Repeat::LookUp, earlier(86_400), LookUpState::Missing(u32::MAX), UNKNOWN),
        (Repeat::LookUp, here(0), LookUpState::Impossible, UNKNOWN),
        (Repeat::Never, here(0), LookUpState::NotYet, UNKNOWN),
        (Repeat::Never, earlier(0), LookUpState::NotYet, UNKNOWN),
    ] {
        assert_eq!(next(repeat, sent, looked), then, "{repeat:?} {sent:?} {looked:?}");
    }
    for repeat in KINDS {
        assert_eq!(
            next(repeat, SendState::Never, LookUpState::NotYet),
            NextAction::Send,
            "{repeat:?}"
        );
        assert_eq!(
            status_if_given_up(repeat, SendState::Never),
            ToolStatus::Failed,
            "{repeat:?}"
        );
        for sent in [here(0), earlier(0)] {
            let expected = match repeat {
                Repeat::Read => ToolStatus::Failed,
                _ => ToolStatus::Unknown,
            };
            assert_eq!(status_if_given_up(repeat, sent), expected, "{repeat:?} {sent:?}");
        }
    }
}

/// All look-ups of one call together end within five seconds: a restart costs no more.
#[test]
fn look_ups_that_find_nothing_end_within_five_seconds() {
    let pauses = (1..).map_while(
        |times| match next(Repeat::LookUp, earlier(0), LookUpState::Missing(times)) {
            NextAction::LookUp(pause) => Some(pause),
            _ => None,
        },
    );
    assert_eq!(pauses.sum::<Duration>(), Duration::from_secs(5));
}

/// Half hours: the model's unit of time.
const UNIT: u32 = 1800;
const KEY_LIVES: u32 = 4;
/// The longest time that bytes are on their way to a vendor that knows keys; to others they may be on their way for
/// ever.
const BYTES_LIVE: u32 = 2;
/// How long a vendor's lists may lag behind its effects.
const LAG: u32 = 1;
const LAST: u32 = 8;
const MOST_SENT: usize = 3;
const MOST_CRASHES: u32 = 2;

/// One call, its vendor and the bytes between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Model {
    now: u32,
    /// When each copy that is still on its way was sent.
    copies: Vec<u32>,
    copies_ever: usize,
    /// When each effect happened.
    effects: Vec<u32>,
    key_from: Option<u32>,
    crashes: u32,
    /// The call's age by the wall clock, for all processes after the first.
    age: Option<i64>,
    doubt_since: Option<u32>,
    looked: u32,
    impossible: bool,
    ended: Option<ToolStatus>,
}

impl Model {
    fn new() -> Self {
        Self {
            now: 0,
            copies: Vec::new(),
            copies_ever: 0,
            effects: Vec::new(),
            key_from: None,
            crashes: 0,
            age: None,
            doubt_since: None,
            looked: 0,
            impossible: false,
            ended: None,
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut other = self.clone();
        change(&mut other);
        other
    }

    fn sent(&self) -> SendState {
        match (self.doubt_since, self.age) {
            (Some(since), _) => here(u64::from((self.now - since) * UNIT)),
            (None, Some(age)) => earlier(age),
            (None, None) => SendState::Never,
        }
    }

    fn arrive(&mut self, repeat: Repeat, copy: u32) {
        let at = self.copies.iter().position(|known| *known == copy);
        self.copies.remove(at.expect("a copy on its way"));
        let is_known = self.key_from.is_some_and(|from| self.now < from + KEY_LIVES);
        if matches!(repeat, Repeat::Keyed(_)) && is_known {
            return;
        }
        self.key_from = Some(self.now);
        self.effects.push(self.now);
    }

    fn leave(&mut self) {
        self.copies.push(self.now);
        self.copies_ever += 1;
    }

    fn doubt(&mut self) {
        self.doubt_since.get_or_insert(self.now);
        (self.looked, self.impossible) = (0, false);
    }

    /// A new process that knows only that the call was recorded as called, and its age by its own wall clock.
    fn crash(&mut self, age: i64) {
        self.crashes += 1;
        self.age = Some(age);
        (self.doubt_since, self.looked, self.impossible) = (None, 0, false);
    }

    /// Returns all states that can follow.
    fn futures(&self, repeat: Repeat) -> Vec<Self> {
        let mut futures = Vec::new();
        for copy in &self.copies {
            futures.push(self.with(|model| model.arrive(repeat, *copy)));
        }
        if self.now < LAST {
            futures.push(self.with(|model| {
                model.now += 1;
                // The call's deadline, about a minute, ends a series of look-ups.
                model.looked = 0;
                if matches!(repeat, Repeat::Keyed(_)) {
                    model.copies.retain(|left| model.now <= left + BYTES_LIVE);
                }
            }));
        }
        if self.ended.is_some() {
            return futures;
        }
        if self.crashes < MOST_CRASHES {
            for age in [-86_400, 0, 3599, 86_400] {
                futures.push(self.with(|model| model.crash(age)));
            }
        }
        let status = status_if_given_up(repeat, self.sent());
        futures.push(self.with(|model| model.ended = Some(status)));
        let looked = match (self.impossible, self.looked) {
            (true, _) => LookUpState::Impossible,
            (false, 0) => LookUpState::NotYet,
            (false, times) => LookUpState::Missing(times),
        };
        match next(repeat, self.sent(), looked) {
            NextAction::End(status) => futures.push(self.with(|model| model.ended = Some(status))),
            NextAction::LookUp(_) => {
                if !self.effects.is_empty() {
                    futures.push(self.with(|model| model.ended = Some(ToolStatus::Succeeded)));
                }
                if self.effects.iter().all(|at| self.now <= at + LAG) {
                    futures.push(self.with(|model| model.looked += 1));
                }
                futures.push(self.with(|model| model.impossible = true));
            }
            NextAction::Send if self.copies_ever < MOST_SENT => {
                // Held up or lost, with the process alive or dead; arrived, but the answer was lost; arrived and
                // answered.
                futures.push(self.with(|model| {
                    model.leave();
                    model.doubt();
                }));
                if self.crashes < MOST_CRASHES {
                    futures.push(self.with(|model| {
                        model.leave();
                        model.crash(0);
                    }));
                }
                let arrived = self.with(|model| {
                    model.leave();
                    model.arrive(repeat, model.now);
                });
                futures.push(arrived.with(Self::doubt));
                futures.push(arrived.with(|model| model.ended = Some(ToolStatus::Succeeded)));
            }
            NextAction::Send => {}
        }
        futures
    }

    fn check(&self, repeat: Repeat) {
        let times = self.effects.len();
        assert!(!repeat.changes_something() || times <= 1, "{repeat:?} twice: {self:#?}");
        match self.ended {
            Some(ToolStatus::Succeeded) => assert!(times > 0, "{repeat:?} did not happen: {self:#?}"),
            Some(ToolStatus::Failed) => assert!(
                !repeat.changes_something() || times == 0,
                "{repeat:?} happened: {self:#?}"
            ),
            _ => {}
        }
    }
}

#[test]
fn no_order_of_crashes_delays_and_clock_jumps_makes_an_effect_happen_twice() {
    for repeat in KINDS {
        let mut seen = HashSet::from([Model::new()]);
        let mut open = vec![Model::new()];
        let (mut succeeded, mut failed) = (false, false);
        while let Some(model) = open.pop() {
            model.check(repeat);
            succeeded |= model.ended == Some(ToolStatus::Succeeded);
            failed |= model.ended == Some(ToolStatus::Failed);
            for future in model.futures(repeat) {
                if seen.insert(future.clone()) {
                    open.push(future);
                }
            }
        }
        assert!(seen.len() > 1000, "{repeat:?}: {}", seen.len());
        assert!(succeeded && failed, "{repeat:?}");
    }
}

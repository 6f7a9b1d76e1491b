//! Routing over targets that follow scripts, in paused time: which target is called how often and when, and how long a
//! caller waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{Model, ModelError, ModelEvent};
use copilotd_gateway::Gateway;
use copilotd_gateway::access::{Key, SharedKeys};
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::provider::{Piece, PieceStream, Timeouts, Upstream, UpstreamCall, WholeAnswer};
use copilotd_gateway::request::call::{GatewayCall, Mode};
use copilotd_gateway::routing::Route;
use copilotd_gateway::target::{Target, TargetName, TargetState};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Ledger, TEXT, read, request};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a target does, piece by piece.
#[derive(Debug, Clone)]
enum Act {
    Wait(Duration),
    /// Reasoning, which a client sees beside the text.
    Think,
    /// A chunk without content.
    Empty,
    Say(&'static str),
    Fail(FailureClass, Option<Duration>),
    End,
}

fn fails(class: FailureClass) -> Vec<Act> {
    vec![Act::Fail(class, None)]
}

fn answers() -> Vec<Act> {
    vec![Act::Say(TEXT), Act::End]
}

fn after(wait: Duration) -> Vec<Act> {
    [vec![Act::Wait(wait)], answers()].concat()
}

/// A target that follows scripts, one per call; the last one repeats.
#[derive(Debug)]
struct Scripted {
    scripts: Mutex<VecDeque<Vec<Act>>>,
    asked: Mutex<Vec<Instant>>,
}

impl Scripted {
    fn next(&self) -> Vec<Act> {
        self.asked.lock().push(Instant::now());
        let mut scripts = self.scripts.lock();
        if scripts.len() > 1 {
            scripts.pop_front().unwrap()
        } else {
            scripts[0].clone()
        }
    }

    fn set(&self, script: Vec<Act>) {
        *self.scripts.lock() = VecDeque::from([script]);
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }
}

fn error(class: FailureClass, retry_after: Option<Duration>) -> ModelError {
    ModelError {
        class,
        message: class.code().to_owned(),
        retry_after,
        refusal: None,
    }
}

fn chunk(delta: &serde_json::Value) -> Option<bytes::Bytes> {
    Some(
        json!({"id": "x", "choices": [{"index": 0, "delta": delta}]})
            .to_string()
            .into(),
    )
}

#[async_trait]
impl Upstream for Scripted {
    async fn stream(&self, call: &UpstreamCall) -> Result<PieceStream, ModelError> {
        let mut script = VecDeque::from(self.next());
        let clocks = call.timeouts;
        let begun = Instant::now();
        if let Some(&Act::Fail(class, retry_after)) = script.front() {
            return Err(error(class, retry_after));
        }
        let mut clock = clocks.first_token;
        let pieces = stream::unfold(false, move |is_over| {
            let (mut acts, left) = (std::mem::take(&mut script), clocks.total);
            let limit = clock;
            let mut out = None;
            let mut wait = Duration::ZERO;
            while let Some(act) = acts.pop_front() {
                match act {
                    Act::Wait(time) => wait += time,
                    act => {
                        out = Some(act);
                        break;
                    }
                }
            }
            script = acts;
            if matches!(out, Some(Act::Say(_) | Act::Think)) {
                clock = clocks.idle;
            }
            async move {
                if is_over {
                    return None;
                }
                let most = limit.min(left.saturating_sub(begun.elapsed()));
                if wait > most {
                    sleep(most).await;
                    return Some((Err(error(FailureClass::TimedOut, None)), true));
                }
                sleep(wait).await;
                let item = match out? {
                    Act::Say(text) => Ok(Piece {
                        chunk: chunk(&json!({"content": text})),
                        events: vec![ModelEvent::Text(text.to_owned())],
                        content: true,
                        written: text.len() as u64,
                    }),
                    Act::Think => Ok(Piece {
                        chunk: chunk(&json!({"reasoning_content": "hm"})),
                        content: true,
                        written: 2,
                        ..Piece::default()
                    }),
                    Act::Empty => Ok(Piece {
                        chunk: chunk(&json!({"role": "assistant", "content": ""})),
                        ..Piece::default()
                    }),
                    Act::Fail(class, retry_after) => return Some((Err(error(class, retry_after)), true)),
                    Act::End => {
                        let end = vec![ModelEvent::Usage(Usage::default()), ModelEvent::Finished(Finish::Stop)];
                        return Some((
                            Ok(Piece {
                                events: end,
                                ..Piece::default()
                            }),
                            true,
                        ));
                    }
                    Act::Wait(_) => unreachable!("waits were added up"),
                };
                Some((item, false))
            }
        });
        Ok(pieces.boxed())
    }

    async fn whole(&self, call: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
        let (mut wait, mut end) = (Duration::ZERO, Ok(()));
        for act in self.next() {
            match act {
                Act::Wait(time) => wait += time,
                Act::Fail(class, retry_after) => end = Err(error(class, retry_after)),
                _ => {}
            }
        }
        if wait > call.timeouts.total {
            sleep(call.timeouts.total).await;
            return Err(error(FailureClass::TimedOut, None));
        }
        sleep(wait).await;
        end?;
        Ok(WholeAnswer {
            body: json!({"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}]})
                .to_string()
                .into(),
            model: "m".to_owned(),
            usage: Usage::default(),
            finish: Finish::Stop,
        })
    }
}

struct ScriptedRoute {
    gateway: Arc<Gateway>,
    targets: Vec<Arc<Scripted>>,
    ledger: Arc<Ledger>,
    begun: Instant,
}

/// The default timeouts of a route.
const USUAL: Timeouts = Timeouts {
    connect: ms(2_000),
    first_token: ms(10_000),
    idle: ms(15_000),
    total: ms(120_000),
};

fn world(scripts: Vec<Vec<Vec<Act>>>) -> ScriptedRoute {
    world_with(scripts, Duration::ZERO, None)
}

/// Targets `0`, `1` … with the scripts of their calls; `thinker` is marked as a reasoning model.
fn world_with(scripts: Vec<Vec<Vec<Act>>>, patience: Duration, thinker: Option<usize>) -> ScriptedRoute {
    let (mut targets, mut keys, mut all) = (Vec::new(), HashMap::new(), Vec::new());
    for (at, scripts) in scripts.into_iter().enumerate() {
        let name = TargetName {
            provider: at.to_string(),
            model: "m".to_owned(),
        };
        let scripted = Arc::new(Scripted {
            scripts: Mutex::new(scripts.into()),
            asked: Mutex::default(),
        });
        all.push(Arc::clone(&scripted));
        let key = Arc::new(Key::new("k".to_owned(), scripted));
        keys.insert(name.clone(), vec![key].into());
        targets.push(Arc::new(Target {
            name,
            region: None,
            context_tokens: 1_000,
            weight: None,
            tools: true,
            schema: true,
            prefill: false,
            reads: Vec::new(),
            reasoning: thinker == Some(at),
            state: Arc::new(TargetState::default()),
        }));
    }
    let route = Route {
        name: "default".to_owned(),
        targets,
        timeouts: USUAL,
        first_token_reasoning: ms(60_000),
        patience,
        mode: Mode::Live,
        hedges: None,
    };
    let ledger = Arc::new(Ledger::default());
    let gateway = Gateway::new(vec![route], Arc::new(SharedKeys::new(keys))).with_meter(ledger.clone());
    ScriptedRoute {
        gateway: Arc::new(gateway),
        targets: all,
        ledger,
        begun: Instant::now(),
    }
}

impl ScriptedRoute {
    /// Makes a call; returns what was read, or the error's kind, and how long it took.
    async fn ask(&self, call: GatewayCall) -> (Result<String, GatewayErrorKind>, Duration) {
        let begun = Instant::now();
        let got = match self.gateway.chat(call).await {
            Ok(reply) => {
                let read = read(reply).await;
                match read.error {
                    Some(error) => Err(error.kind),
                    None if read.finished => Ok(read.text),
                    None => Ok(format!("unfinished: {}", read.text)),
                }
            }
            Err(error) => Err(error.kind),
        };
        (got, begun.elapsed())
    }

    fn asked(&self) -> Vec<usize> {
        self.targets.iter().map(|target| target.asked()).collect()
    }
}

/// The three forms in which an answer is requested.
const FORMS: [(bool, Mode); 3] = [(true, Mode::Live), (true, Mode::Buffered), (false, Mode::Live)];

#[tokio::test(start_paused = true)]
async fn in_a_total_outage_each_target_is_asked_once_a_call_and_an_answer_follows_soon_after_it() {
    for (stream, mode) in FORMS {
        for class in [FailureClass::Overload, FailureClass::Network] {
            let world = world(vec![vec![fails(class)]; 2]);
            for _ in 0..5 {
                world.ask(request(stream, mode)).await.0.unwrap_err();
            }
            let before = world.asked();
            for _ in 0..20 {
                world.ask(request(stream, mode)).await.0.unwrap_err();
                sleep(ms(3_000)).await;
            }
            let asked: Vec<usize> = world
                .asked()
                .iter()
                .zip(before)
                .map(|(now, before)| now - before)
                .collect();
            assert!(asked.iter().all(|asked| *asked <= 20), "{class:?} {asked:?}");
            assert_eq!(world.ledger.lines().len(), world.asked().iter().sum::<usize>());
            // Back again: the preferred target answers within its pause, at the end of which it is probed.
            world.targets.iter().for_each(|target| target.set(answers()));
            sleep(ms(8_000)).await;
            let before = world.asked()[0];
            assert_eq!(world.ask(request(stream, mode)).await.0, Ok(TEXT.to_owned()));
            assert_eq!(world.asked()[0], before + 1, "the probe");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_answered_from_memory_until_its_time_has_come() {
    for (class, kind) in [
        (FailureClass::Rate, GatewayErrorKind::RateLimited),
        (FailureClass::Overload, GatewayErrorKind::Unavailable),
    ] {
        let world = world(vec![vec![vec![Act::Fail(class, Some(ms(60_000)))]]; 2]);
        let ask = || world.gateway.chat(request(true, Mode::Live));
        ask().await.unwrap_err();
        assert_eq!(world.asked(), [1, 1]);
        for second in 1..30 {
            sleep(ms(1_000)).await;
            let error = ask().await.unwrap_err();
            assert_eq!((error.kind, error.attempts), (kind, 0), "{second}");
            let left = error.retry_after.unwrap();
            assert_eq!(left.as_secs_f64().ceil() as u64, 60 - second);
        }
        assert_eq!(world.asked(), [1, 1], "nobody was asked");
        // One probe in between, and its result holds from then on.
        sleep(ms(1_000)).await;
        assert!(ask().await.unwrap_err().attempts <= 2);
        assert_eq!(world.asked(), [2, 2]);
        for _ in 0..10 {
            assert_eq!(ask().await.unwrap_err().attempts, 0);
        }
        // A probe that is answered ends the cooldown at once.
        world.targets.iter().for_each(|target| target.set(answers()));
        sleep(ms(45_000)).await;
        assert_eq!(world.ask(request(true, Mode::Live)).await.0, Ok(TEXT.to_owned()));
        assert_eq!(world.ask(request(true, Mode::Live)).await.0, Ok(TEXT.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_learns_from_memory_too_when_to_come_back() {
    let world = world(vec![vec![vec![Act::Fail(FailureClass::Rate, Some(ms(60_000)))]]]);
    for (wait, asked) in [(0, 1), (20_000, 1)] {
        sleep(ms(wait)).await;
        let Err(error) = world.gateway.stream(crate::model::request()).await else {
            panic!("it is limited")
        };
        assert_eq!(error.class, FailureClass::Rate);
        assert_eq!(error.retry_after.unwrap().as_secs(), 60 - wait / 1_000);
        assert_eq!(world.asked(), [asked]);
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_limits_the_soonest_is_told() {
    let limited = |wait| vec![vec![Act::Fail(FailureClass::Rate, Some(ms(wait)))]];
    let world = world(vec![limited(300_000), limited(40_000)]);
    for _ in 0..2 {
        let error = world.gateway.chat(request(false, Mode::Live)).await.unwrap_err();
        assert_eq!(error.retry_after.unwrap().as_secs(), 40);
    }
}

#[tokio::test(start_paused = true)]
async fn the_preferred_target_is_waited_for_only_where_the_route_says_so() {
    for (patience, first, second, took) in [(0, 1, 1, 0), (3_000, 2, 0, 2), (1_000, 1, 1, 0)] {
        let limited = vec![Act::Fail(FailureClass::Rate, Some(ms(2_000)))];
        let world = world_with(vec![vec![limited, answers()], vec![answers()]], ms(patience), None);
        let (got, time) = world.ask(request(true, Mode::Live)).await;
        assert_eq!(got, Ok(TEXT.to_owned()));
        assert_eq!(
            (world.asked(), time.as_secs()),
            (vec![first, second], took),
            "{patience}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_token_has_ten_seconds_and_a_minute_where_the_model_thinks_first() {
    let mut thinking = request(true, Mode::Live);
    thinking.body.set("reasoning_effort", &"high").unwrap();
    let mut hasty = request(true, Mode::Live);
    hasty.body.set("reasoning_effort", &"none").unwrap();
    for (thinker, call, wait, answered_by) in [
        (None, request(true, Mode::Live), 9_000, 0),
        (None, request(true, Mode::Live), 11_000, 1),
        (None, hasty, 11_000, 1),
        (None, thinking.clone(), 50_000, 0),
        (None, thinking, 61_000, 1),
        (Some(0), request(true, Mode::Live), 50_000, 0),
        (Some(1), request(true, Mode::Live), 50_000, 1),
    ] {
        let world = world_with(vec![vec![after(ms(wait))], vec![answers()]], Duration::ZERO, thinker);
        let (got, _) = world.ask(call).await;
        assert_eq!(got, Ok(TEXT.to_owned()));
        let asked = [vec![1, 0], vec![1, 1]][answered_by].clone();
        assert_eq!(world.asked(), asked, "{thinker:?} {wait}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_target_leaves_time_for_the_others_and_the_last_one_has_all_that_is_left() {
    // It goes on and on, a word every ten seconds.
    let endless: Vec<Act> = (0..100)
        .flat_map(|_| [Act::Say("on "), Act::Wait(ms(10_000))])
        .collect();
    let world_of = |first: Vec<Act>, second: Vec<Act>| world(vec![vec![first], vec![second]]);
    let slow = world_of(endless, answers());
    let (got, took) = slow.ask(request(true, Mode::Buffered)).await;
    assert_eq!((got, slow.asked()), (Ok(TEXT.to_owned()), vec![1, 1]));
    assert!(took <= ms(61_000), "{took:?}");

    // A slow document from the only target that can answer: the other one is rate-limited, or was silent already. The
    // target is known to be slow, so the document is not requested twice.
    for other in [
        vec![Act::Fail(FailureClass::Rate, Some(ms(90_000)))],
        fails(FailureClass::TimedOut),
    ] {
        let world = world(vec![
            vec![fails(FailureClass::Overload), other],
            vec![after(ms(100_000))],
        ]);
        for asked in 1..3 {
            let (got, took) = world.ask(request(false, Mode::Live)).await;
            assert_eq!(got, Ok(TEXT.to_owned()));
            assert!((100..101).contains(&took.as_secs()), "{took:?}");
            // Nothing was known of it the first time: it was called again after 60 and after 90 s.
            assert_eq!(world.asked()[1], asked + 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_that_is_silent_on_the_last_target_is_asked_for_once_more_beside_it() {
    let silent = || after(ms(900_000));
    // Alone; with another one that failed, or that can answer again by now.
    for (scripts, asked) in [
        (vec![vec![silent(), answers()]], vec![2]),
        (
            vec![vec![fails(FailureClass::TimedOut)], vec![silent(), answers()]],
            vec![1, 2],
        ),
        (
            vec![
                vec![vec![Act::Fail(FailureClass::Rate, Some(ms(30_000)))], answers()],
                vec![silent()],
            ],
            vec![2, 1],
        ),
    ] {
        let world = world(scripts);
        let (got, took) = world.ask(request(false, Mode::Live)).await;
        assert_eq!(got, Ok(TEXT.to_owned()), "{asked:?}");
        assert!((59..61).contains(&took.as_secs()), "{took:?}");
        assert_eq!(world.asked(), asked);
        assert_eq!(
            world.ledger.take().len(),
            asked.iter().sum::<usize>(),
            "each request is booked"
        );
    }
    // Three times silent: the call ends at its deadline.
    let world = world(vec![vec![silent()]]);
    let (got, took) = world.ask(request(false, Mode::Live)).await;
    assert_eq!((got, took.as_secs()), (Err(GatewayErrorKind::Timeout), 120));
    assert_eq!(world.asked(), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_live_answer_is_resumed_while_only_reasoning_or_nothing_was_sent() {
    use FailureClass::{Cut, Key, Malformed, Network, Overload, Rate, TimedOut};
    for class in [Cut, Key, Malformed, Network, Overload, Rate, TimedOut] {
        for before in [
            vec![Act::Think, Act::Think],
            vec![Act::Empty, Act::Think],
            vec![Act::Empty; 70],
        ] {
            let dies = [before.clone(), vec![Act::Fail(class, None)]].concat();
            let second = vec![
                Act::Think,
                Act::Say("All "),
                Act::Say("is well that ends well."),
                Act::End,
            ];
            let world = world(vec![vec![dies], vec![second]]);
            let (got, _) = world.ask(request(true, Mode::Live)).await;
            assert_eq!(got, Ok(TEXT.to_owned()), "{class:?} {before:?}");
            assert_eq!(world.ledger.lines().len(), world.asked().iter().sum::<usize>());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_resumed_after_a_rate_limit_where_another_target_says_the_same() {
    let dies = vec![Act::Say("All is "), Act::Fail(FailureClass::Rate, None)];
    let two = world(vec![vec![dies.clone()], vec![answers()]]);
    assert_eq!(two.ask(request(true, Mode::Live)).await.0, Ok(TEXT.to_owned()));
    assert_eq!(two.asked(), [1, 1]);
    // Text already sent is never contradicted.
    let other = vec![Act::Say("Nothing is."), Act::End];
    let two = world(vec![vec![dies.clone()], vec![other]]);
    assert_eq!(
        two.ask(request(true, Mode::Live)).await.0,
        Err(GatewayErrorKind::RateLimited)
    );
    // What a content policy stopped is stopped everywhere.
    let stopped = vec![Act::Think, Act::Fail(FailureClass::ContentPolicy, None)];
    let two = world(vec![vec![stopped], vec![answers()]]);
    assert_eq!(
        two.ask(request(true, Mode::Live)).await.0,
        Err(GatewayErrorKind::ContentPolicy)
    );
    assert_eq!(two.asked(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_healthy_target_that_was_cut_is_asked_again_when_the_others_are_down() {
    for (stream, mode) in [(true, Mode::Buffered), (false, Mode::Live)] {
        let dies = || vec![Act::Say("All "), Act::Fail(FailureClass::Cut, None)];
        let world = world(vec![
            vec![fails(FailureClass::Overload)],
            vec![vec![Act::Fail(FailureClass::Rate, Some(ms(60_000)))]],
            vec![answers()],
        ]);
        // Until the first is known to be down.
        for _ in 0..6 {
            assert_eq!(world.ask(request(stream, mode)).await.0, Ok(TEXT.to_owned()));
        }
        for deaths in 1..4 {
            let third = &world.targets[2];
            *third.scripts.lock() = (0..deaths).map(|_| dies()).chain([answers()]).collect();
            assert_eq!(
                world.ask(request(stream, mode)).await.0,
                Ok(TEXT.to_owned()),
                "{deaths}"
            );
        }
        assert_eq!(world.ledger.lines().len(), world.asked().iter().sum::<usize>());
        assert!(world.begun.elapsed() < ms(60_000));
    }
}

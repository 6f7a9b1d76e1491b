//! A bad day of 50 seconds: three targets of one route that fail one after the other and together, scripted in this
//! process. Also used by the integration tests, with paused time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent};
use copilotd_gateway::Gateway;
use copilotd_gateway::access::{Key, SharedKeys};
use copilotd_gateway::answer::Answer;
use copilotd_gateway::meter::Meter;
use copilotd_gateway::provider::{Piece, PieceStream, Timeouts, Upstream, UpstreamCall, WholeAnswer};
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{CacheControl, Caller, GatewayCall, Mode};
use copilotd_gateway::routing::Route;
use copilotd_gateway::target::{Target, TargetName, TargetState};
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

/// Length of a day; afterwards it starts over.
pub const DAY: Duration = Duration::from_secs(50);
/// Words of a complete answer.
const WORDS: usize = 12;

/// What a target does to every call at some time of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Limited,
    LimitedEveryOther,
    Unavailable,
    Reset,
    Silent,
}

/// The schedule of one target.
fn trouble(target: usize, second: f64) -> Trouble {
    let at = |from: f64, to: f64| (from..to).contains(&second);
    match target {
        0 if at(8.0, 20.0) => Trouble::Limited,
        0 | 1 if at(if target == 0 { 24.0 } else { 28.0 }, 32.0) => Trouble::Unavailable,
        0 if at(36.0, 40.0) => Trouble::Reset,
        0 if at(44.0, 46.0) => Trouble::Silent,
        1 if at(12.0, 18.0) => Trouble::LimitedEveryOther,
        1 if at(44.0, 46.0) => Trouble::Reset,
        _ => Trouble::None,
    }
}

/// A target that follows the schedule.
#[derive(Debug)]
struct ScriptedTarget {
    target: usize,
    begun: Instant,
    seed: u64,
    calls: AtomicU64,
}

/// Returns a pseudo-random number in 0..1 for its arguments.
fn roll(seed: u64, target: usize, call: u64, what: u64) -> f64 {
    let mut z = seed ^ ((target as u64) << 56) ^ call.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (what << 48);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

fn failed(class: FailureClass) -> ModelError {
    ModelError {
        class,
        message: format!("scripted: {}", class.code()),
        retry_after: None,
        refusal: None,
    }
}

fn word(n: usize) -> Piece {
    let text = format!("word{n} ");
    Piece {
        chunk: Some(
            json!({"choices": [{"index": 0, "delta": {"content": text}}]})
                .to_string()
                .into(),
        ),
        written: text.len() as u64,
        events: vec![ModelEvent::Text(text)],
        content: true,
    }
}

impl ScriptedTarget {
    /// Decides the fate of the next call: the error before its answer starts, where silence is noticed after `silence`;
    /// else how its answer breaks off, if it does: after how many words, and whether silently.
    async fn begin(&self, silence: Duration) -> Result<Option<(usize, bool)>, ModelError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let second = self.begun.elapsed().as_secs_f64() % DAY.as_secs_f64();
        sleep(Duration::from_millis(5)).await;
        match trouble(self.target, second) {
            Trouble::Limited => return Err(failed(FailureClass::Rate)),
            Trouble::LimitedEveryOther if call.is_multiple_of(2) => return Err(failed(FailureClass::Rate)),
            Trouble::Unavailable => return Err(failed(FailureClass::Overload)),
            Trouble::Reset => return Err(failed(FailureClass::Network)),
            Trouble::Silent => {
                sleep(silence).await;
                return Err(failed(FailureClass::TimedOut));
            }
            Trouble::None | Trouble::LimitedEveryOther => {}
        }
        let roll = |what| roll(self.seed, self.target, call, what);
        if roll(1) < 0.01 {
            return Err(failed(FailureClass::Overload));
        }
        let words = (1.0 + roll(3) * (WORDS - 1) as f64) as usize;
        Ok((roll(2) < 0.02).then(|| (words, roll(4) < 0.2)))
    }
}

#[async_trait]
impl Upstream for ScriptedTarget {
    async fn stream(&self, call: &UpstreamCall) -> Result<PieceStream, ModelError> {
        let dies = self.begin(call.timeouts.first_token.min(call.timeouts.total)).await?;
        let idle = call.timeouts.idle;
        let pieces = stream::unfold((0, false), move |(n, is_over)| async move {
            if is_over {
                return None;
            }
            sleep(Duration::from_millis(3)).await;
            match dies {
                Some((words, is_silent)) if n >= words => {
                    let class = if is_silent {
                        FailureClass::TimedOut
                    } else {
                        FailureClass::Cut
                    };
                    if is_silent {
                        sleep(idle).await;
                    }
                    Some((Err(failed(class)), (n, true)))
                }
                _ if n < WORDS => Some((Ok(word(n)), (n + 1, false))),
                _ => {
                    let usage = Usage {
                        prompt_tokens: 10,
                        completion_tokens: WORDS as u64,
                        ..Usage::default()
                    };
                    let piece = Piece {
                        events: vec![ModelEvent::Usage(usage), ModelEvent::Finished(Finish::Stop)],
                        ..Piece::default()
                    };
                    Some((Ok(piece), (n, true)))
                }
            }
        });
        Ok(pieces.boxed())
    }

    async fn whole(&self, call: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
        // Nothing of a document arrives before it is complete.
        match self.begin(call.timeouts.total).await? {
            Some((_, true)) => {
                sleep(call.timeouts.total).await;
                Err(failed(FailureClass::TimedOut))
            }
            Some((_, false)) => Err(failed(FailureClass::Cut)),
            None => {
                sleep(Duration::from_millis(40)).await;
                Ok(WholeAnswer {
                    body: json!({"choices": [{"message": {"content": whole()}}]})
                        .to_string()
                        .into(),
                    model: "scripted".to_owned(),
                    usage: Usage {
                        prompt_tokens: 10,
                        completion_tokens: WORDS as u64,
                        ..Usage::default()
                    },
                    finish: Finish::Stop,
                })
            }
        }
    }
}

fn whole() -> String {
    (0..WORDS).map(|n| format!("word{n} ")).collect()
}

/// What a caller received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// The complete answer.
    Whole,
    /// An error, described.
    Lost(String),
    /// Something else, presented as the answer.
    Wrong(String),
}

/// A running day.
#[derive(Debug)]
pub struct Day {
    gateway: Arc<Gateway>,
    targets: Vec<Arc<ScriptedTarget>>,
    begun: Instant,
}

impl Day {
    /// Starts a day whose accidents follow from `seed`.
    pub fn begin(seed: u64, meter: Option<Arc<dyn Meter>>) -> Self {
        let begun = Instant::now();
        let (mut targets, mut keys, mut scripts) = (Vec::new(), HashMap::new(), Vec::new());
        for target in 0..3 {
            let name = TargetName {
                provider: ["one", "two", "three"][target].to_owned(),
                model: "m".to_owned(),
            };
            let script = Arc::new(ScriptedTarget {
                target,
                begun,
                seed,
                calls: AtomicU64::new(0),
            });
            scripts.push(Arc::clone(&script));
            let key = Arc::new(Key::new("k".to_owned(), script));
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
                reasoning: false,
                state: Arc::new(TargetState::default()),
            }));
        }
        let route = Route {
            name: "default".to_owned(),
            targets,
            // The defaults, but with shorter waits for the first token and between two tokens.
            timeouts: Timeouts {
                connect: Duration::from_secs(2),
                first_token: Duration::from_secs(2),
                idle: Duration::from_secs(2),
                total: Duration::from_secs(120),
            },
            first_token_reasoning: Duration::from_secs(60),
            patience: Duration::ZERO,
            mode: Mode::Buffered,
            hedges: None,
        };
        let gateway = Gateway::new(vec![route], Arc::new(SharedKeys::new(keys)));
        let gateway = match meter {
            Some(meter) => gateway.with_meter(meter),
            None => gateway,
        };
        Self {
            gateway: Arc::new(gateway),
            targets: scripts,
            begun,
        }
    }

    /// Makes call number `n`, at its time, given `per_second` calls per second.
    pub async fn call(&self, n: u32, per_second: u32, caller: Caller, is_streamed: bool) -> CallOutcome {
        sleep_until(self.begun + Duration::from_secs(1) * n / per_second).await;
        let body =
            json!({"model": "default", "stream": is_streamed, "messages": [{"role": "user", "content": "Go on."}]});
        let body = match ChatBody::from_value(&body) {
            Ok(body) => body,
            Err(error) => return CallOutcome::Lost(error.message),
        };
        let call = GatewayCall {
            caller,
            route: "default".to_owned(),
            body,
            mode: Some(Mode::Buffered),
            cache: CacheControl::Bypass,
            knowledge: None,
        };
        let reply = match self.gateway.chat(call).await {
            Ok(reply) => reply,
            Err(error) => return CallOutcome::Lost(format!("{:?} after {} attempts", error.kind, error.attempts)),
        };
        match reply.answer {
            Answer::Whole(body) if String::from_utf8_lossy(&body).contains(&whole()) => CallOutcome::Whole,
            Answer::Whole(body) => CallOutcome::Wrong(String::from_utf8_lossy(&body).into_owned()),
            Answer::Stream(mut pieces) => {
                let mut text = String::new();
                let mut is_finished = false;
                while let Some(piece) = pieces.next().await {
                    match piece {
                        Err(error) => return CallOutcome::Lost(format!("{:?}", error.kind)),
                        Ok(piece) => {
                            for event in piece.events {
                                match event {
                                    ModelEvent::Text(more) => text.push_str(&more),
                                    ModelEvent::Finished(_) => is_finished = true,
                                    _ => {}
                                }
                            }
                        }
                    }
                }
                if is_finished && text == whole() {
                    CallOutcome::Whole
                } else {
                    CallOutcome::Wrong(text)
                }
            }
        }
    }

    /// Returns the number of requests that each target received.
    pub fn seen(&self) -> Vec<u64> {
        self.targets
            .iter()
            .map(|target| target.calls.load(Ordering::Relaxed))
            .collect()
    }
}

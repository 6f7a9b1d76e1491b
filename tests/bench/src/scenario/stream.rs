//! Many answers that stream at the same time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Size, submit};
use crate::client::{AnswerTimings, Pace, direct};
use crate::http::Connection;
use crate::report::Report;
use crate::stats::{Samples, added, decimal, kib};
use crate::world::{Programs, ServerOptions, Testbed};

/// Time to the provider's first word: none, so that it hides none of the server's own work.
const FIRST_MS: u64 = 0;

/// Number of streams, their pace, and how far apart they start.
pub(super) struct Load {
    pub(super) many: usize,
    pace: Pace,
    ramp: Duration,
    hold: Duration,
}

impl Load {
    pub(super) fn new(many: usize, small: bool) -> Self {
        let per_second = match many {
            0..=200 => 50,
            201..=2000 => 5,
            _ => 1,
        };
        let ramp = Duration::from_millis(many as u64 * if many > 2000 { 5 } else { 10 });
        let hold = Duration::from_secs(if small { 4 } else { 12 });
        let words = (ramp + hold).as_secs() * per_second + 1;
        Self {
            many,
            pace: Pace {
                words,
                first_ms: FIRST_MS,
                pace_ms: 1000 / per_second,
            },
            ramp,
            hold,
        }
    }

    /// Returns when the stream with this number starts.
    fn start(&self, begun: Instant, number: usize) -> Instant {
        begun + self.ramp.mul_f64(number as f64 / self.many as f64)
    }
}

/// What the readers of all streams saw.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) first: Samples,
    pub(super) gaps: Samples,
    accepted: Samples,
    words: u64,
    pub(super) errors: usize,
}

impl Sums {
    fn of(outcomes: Vec<anyhow::Result<AnswerTimings>>) -> Self {
        let mut sums = Self::default();
        for outcome in outcomes {
            match outcome {
                Ok(seen) => {
                    sums.first.add(seen.first);
                    sums.accepted.add(seen.accepted);
                    sums.gaps.merge(seen.gaps);
                    sums.words += seen.words;
                }
                Err(error) => {
                    sums.errors += 1;
                    eprintln!("a stream failed: {error:#}");
                }
            }
        }
        sums
    }
}

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let usual = size.pick(vec![100, 1000, 5000, 9500], vec![20, 300]);
    let wanted = if size.streams.is_empty() {
        usual
    } else {
        size.streams.clone()
    };
    let mut report = Report::new(
        "stream: concurrent streaming turns",
        "Starts are spread evenly (10 ms apart, 5 ms for more than 2,000); all streams are open together for seconds \
         afterwards. The provider answers its first word at once. *First text* is from sending the request to the \
         first text: `POST …/turns`, 202, `GET …/events` and the first delta on one connection, compared with one \
         `POST /v1/chat/completions` to the provider, run just before. *Memory* is resident memory while all are open, \
         less that before the conversations were created, per stream. *CPU* is user and system time of the server \
         from the first submission to the end of all work after the last turn, per token; *while streaming* is the same \
         over the time when all streams are open.",
        &[
            "streams × tokens/s",
            "tokens each",
            "first text direct, p50 / p99 ms",
            "first text, p50 / p99 ms",
            "added p50 / p99 ms",
            "202 p50 / p99 ms",
            "gap direct, p50 / p99 ms",
            "gap, p50 / p99 ms",
            "memory KiB",
            "CPU µs per token",
            "while streaming",
            "errors",
        ],
    );
    for many in wanted {
        let need = 2 * many as u64 + 200;
        anyhow::ensure!(need <= size.open_files, "{many} streams need {need} open files");
        report.row(measure(programs, &Load::new(many, size.small)).await?);
    }
    Ok(report)
}

async fn measure(programs: &Programs, load: &Load) -> anyhow::Result<Vec<String>> {
    let world = Testbed::start(programs, ServerOptions::default()).await?;
    warm_up(&world).await?;
    let provider = world.provider;
    let pace = load.pace;
    let straight = spread(load, |_| async move {
        direct(&mut Connection::open(provider).await?, pace).await
    });
    let straight = Sums::of(straight.0.join_all().await);
    let before = world.used()?.resident;
    let conversations = Arc::new(submit::conversations(&world.client, load.many).await?);
    world.quiet().await?;
    let begun = world.used()?;
    let (tasks, start) = spread(load, |number| {
        let (client, conversations) = (Arc::clone(&world.client), Arc::clone(&conversations));
        async move {
            let mut connection = client.connect().await?;
            client.turn(&mut connection, number, &conversations[number], pace).await
        }
    });
    let all_open = start + load.ramp + Duration::from_secs(1);
    tokio::time::sleep_until(all_open).await;
    let (open, open_at) = (world.used()?, Instant::now());
    tokio::time::sleep_until(start + load.ramp + load.hold.saturating_sub(Duration::from_secs(1))).await;
    let (held, held_for) = (world.used()?, open_at.elapsed());
    let through = Sums::of(tasks.join_all().await);
    world.quiet().await?;
    let ended = world.used()?;
    let per_second = 1000.0 / pace.pace_ms as f64;
    let streamed = load.many as f64 * per_second * held_for.as_secs_f64();
    let micros = |cpu: Duration, tokens: f64| decimal(cpu.as_secs_f64() * 1e6 / tokens.max(1.0));
    let memory = held.resident.max(open.resident).saturating_sub(before) as f64;
    Ok(vec![
        format!("{} × {per_second:.0}", load.many),
        pace.words.to_string(),
        straight.first.both(),
        through.first.both(),
        format!(
            "{} / {}",
            added(&through.first, &straight.first, 0.5),
            added(&through.first, &straight.first, 0.99)
        ),
        through.accepted.both(),
        straight.gaps.both(),
        through.gaps.both(),
        kib(memory / load.many as f64),
        micros(ended.cpu - begun.cpu, through.words as f64),
        micros(held.cpu - open.cpu, streamed),
        (through.errors + straight.errors).to_string(),
    ])
}

/// Runs the streams of a load through the server, each in a conversation of its own.
pub(super) async fn through(world: &Testbed, load: &Load) -> anyhow::Result<Sums> {
    let conversations = Arc::new(submit::conversations(&world.client, load.many).await?);
    world.quiet().await?;
    let pace = load.pace;
    let (tasks, _) = spread(load, |number| {
        let (client, conversations) = (Arc::clone(&world.client), Arc::clone(&conversations));
        async move {
            let mut connection = client.connect().await?;
            client.turn(&mut connection, number, &conversations[number], pace).await
        }
    });
    Ok(Sums::of(tasks.join_all().await))
}

/// Runs a few turns, so that what is built on first use does not count.
pub(super) async fn warm_up(world: &Testbed) -> anyhow::Result<()> {
    let pace = Pace {
        words: 20,
        first_ms: 0,
        pace_ms: 1,
    };
    let mut connection = world.client.connect().await?;
    for user in 0..20 {
        let conversation = world.client.create(&mut connection, user).await?;
        world.client.turn(&mut connection, user, &conversation, pace).await?;
    }
    world.quiet().await
}

/// Starts one task per stream at its time.
fn spread<F, T>(load: &Load, make: impl Fn(usize) -> F) -> (JoinSet<T>, Instant)
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let begun = Instant::now() + Duration::from_millis(100);
    let mut tasks = JoinSet::new();
    for number in 0..load.many {
        let (start, work) = (load.start(begun, number), make(number));
        tasks.spawn(async move {
            tokio::time::sleep_until(start).await;
            work.await
        });
    }
    (tasks, begun)
}

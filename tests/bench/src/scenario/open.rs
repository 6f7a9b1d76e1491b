//! What the gateway adds below saturation. Requests are sent at predetermined random times without waiting for answers,
//! like those of independent callers; the latency of each counts from its planned time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Size;
use super::gateway::TargetRequest;
use crate::http::Connection;
use crate::report::Report;
use crate::stats::{Samples, added, decimal, ms};
use crate::world::Testbed;

/// Connections that share the requests.
const CONNECTIONS: usize = 64;
/// Shares of the saturated rate.
const SHARES: [f64; 3] = [0.25, 0.5, 0.75];

/// What callers saw.
#[derive(Default)]
struct OpenLoopResults {
    latencies: Samples,
    /// How much later than planned requests were sent: the client's own part of the latencies.
    late: Samples,
    per_second: f64,
    errors: usize,
}

/// Measures at shares of `saturated`, the requests per second that [`CONNECTIONS`] reach in a closed loop.
pub(super) async fn run(
    world: &Testbed,
    size: &Size,
    saturated: f64,
    [straight, through]: [&TargetRequest; 2],
) -> anyhow::Result<Report> {
    let time = Duration::from_secs(size.pick(20, 3));
    let mut report = Report::new(
        "gateway: 64 connections below saturation",
        "The same requests of 1 KiB, sent at a share of the rate that 64 connections in a closed loop have just reached through the gateway. \
         The gaps are random (Poisson); a request takes the connection of the 64 that has been idle longest, \
         or waits for one. Latencies count from the planned time of the request, so that a late client hides nothing; how late it \
         was is in *sent late*. The direct calls have the same rate. *Busy* is the server's share of its processor.",
        &[
            "of saturation",
            "sent per second",
            "answered per second, direct / through",
            "direct p50 / p99 ms",
            "through p50 / p99 ms",
            "added p50 / p99 ms",
            "sent late p99, direct / through ms",
            "busy",
            "errors",
        ],
    );
    for share in SHARES {
        let rate = saturated * share;
        let direct = at_rate(rate, time, straight).await?;
        world.quiet().await?;
        let (before, begun) = (world.used()?.cpu, Instant::now());
        let gateway = at_rate(rate, time, through).await?;
        let busy = world.used()?.cpu.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
        report.row(vec![
            format!("{:.0}%", share * 100.0),
            decimal(rate),
            format!("{} / {}", decimal(direct.per_second), decimal(gateway.per_second)),
            direct.latencies.both(),
            gateway.latencies.both(),
            format!(
                "{} / {}",
                added(&gateway.latencies, &direct.latencies, 0.5),
                added(&gateway.latencies, &direct.latencies, 0.99)
            ),
            format!(
                "{} / {}",
                ms(direct.late.percentile(0.99)),
                ms(gateway.late.percentile(0.99))
            ),
            format!("{:.0}%", busy * 100.0),
            (direct.errors + gateway.errors).to_string(),
        ]);
    }
    Ok(report)
}

async fn at_rate(rate: f64, time: Duration, asked: &TargetRequest) -> anyhow::Result<OpenLoopResults> {
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut connection = Connection::open(asked.address).await?;
        asked.call(&mut connection).await?;
        connections.push(connection);
    }
    let (meant, due) = mpsc::unbounded_channel();
    // The longest waiter for the lock gets the next request: connections take turns.
    let due = Arc::new(Mutex::new(due));
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(caller(connection, asked.clone(), Arc::clone(&due)));
    }
    let begun = Instant::now();
    let clock = std::thread::Builder::new()
        .name("clock".to_owned())
        .spawn(move || send_on_time(begun, rate, time, &meant))?;
    let mut all = OpenLoopResults::default();
    for done in tasks.join_all().await {
        let some = done?;
        all.latencies.merge(some.latencies);
        all.late.merge(some.late);
        all.errors += some.errors;
    }
    all.per_second = all.latencies.count() as f64 / begun.elapsed().as_secs_f64();
    clock.join().ok().context("the clock ended early")?;
    Ok(all)
}

/// Sends a request whenever one is due and it is this connection's turn.
async fn caller(
    mut connection: Connection,
    asked: TargetRequest,
    due: Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>,
) -> anyhow::Result<OpenLoopResults> {
    let mut seen = OpenLoopResults::default();
    loop {
        let next = due.lock().await.recv().await;
        let Some(meant) = next else { return Ok(seen) };
        seen.late.add(meant.elapsed());
        match asked.call(&mut connection).await {
            Ok(()) => seen.latencies.add(meant.elapsed()),
            Err(error) => {
                seen.errors += 1;
                eprintln!("a call failed: {error:#}");
                connection = Connection::open(asked.address).await?;
            }
        }
    }
}

/// Signals when each request is due. In its own thread, because the runtime's timers have a resolution of a
/// millisecond.
fn send_on_time(begun: Instant, rate: f64, time: Duration, due: &mpsc::UnboundedSender<Instant>) {
    // By default Linux lets a sleep last 50 µs longer than requested.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)) {
        eprintln!("sleeps stay coarse: {error}");
    }
    let mut gaps = Gaps::new(rate);
    let mut at = gaps.draw();
    while at < time {
        let meant = begun + at;
        std::thread::sleep(meant.saturating_duration_since(Instant::now()));
        if due.send(meant).is_err() {
            return;
        }
        at += gaps.draw();
    }
}

/// Gaps of a Poisson process; the same in every run.
struct Gaps {
    state: u64,
    rate: f64,
}

impl Gaps {
    fn new(rate: f64) -> Self {
        Self {
            state: 0x2545_F491_4F6C_DD1D,
            rate,
        }
    }

    fn draw(&mut self) -> Duration {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        // In (0, 1], so that the logarithm is finite.
        let chance = ((self.state >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-chance.ln() / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_a_poisson_process() {
        let mut gaps = Gaps::new(1_000.0);
        let drawn: Vec<f64> = (0..100_000).map(|_| gaps.draw().as_secs_f64() * 1_000.0).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.05, "variance {variance}");
    }

    #[test]
    fn requests_are_due_in_order_within_the_time_and_at_the_rate() {
        let (meant, mut due) = mpsc::unbounded_channel();
        let begun = Instant::now();
        let time = Duration::from_millis(50);
        send_on_time(begun, 10_000.0, time, &meant);
        drop(meant);
        let all: Vec<Instant> = std::iter::from_fn(|| due.try_recv().ok()).collect();
        assert!((350..650).contains(&all.len()), "{} requests", all.len());
        assert!(all.is_sorted());
        assert!(all.iter().all(|meant| *meant < begun + time));
    }
}

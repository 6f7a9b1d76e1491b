//! What the gateway adds to a call of the provider with everything on: verification, reservation, breaker, accounting.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Size, open};
use crate::http::Connection;
use crate::report::Report;
use crate::stats::{Samples, added, decimal};
use crate::world::{Programs, ServerOptions, Testbed};

/// Numbers of connections, with requests of 1 KiB.
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Sizes of requests in KiB, with 64 connections.
const SIZES: [usize; 3] = [1, 16, 64];
/// Path of chat completions.
pub(super) const PATH: &str = "/v1/chat/completions";
/// Tokens of an answer.
const TOKENS: usize = 20;

/// What callers saw.
pub(super) struct CallResults {
    /// Latencies of the calls that were answered.
    pub(super) latencies: Samples,
    /// Answers per second.
    pub(super) per_second: f64,
    /// Calls that failed.
    pub(super) errors: usize,
}

/// The request and where it is sent.
#[derive(Clone)]
pub(super) struct TargetRequest {
    /// Where to connect.
    pub(super) address: SocketAddr,
    /// The path.
    pub(super) path: String,
    /// Header lines of the request.
    pub(super) headers: String,
    /// The request's body.
    pub(super) body: String,
}

impl TargetRequest {
    /// Sends the request once and reads the whole answer.
    pub(super) async fn call(&self, connection: &mut Connection) -> anyhow::Result<()> {
        let response = connection
            .send("POST", &self.path, &self.headers, Some(&distinct(&self.body)))
            .await?;
        let status = response.status;
        let text = connection.text(response).await?;
        ensure!(status == 200, "{status}: {text}");
        Ok(())
    }
}

/// Measures at saturation, then below it.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Vec<Report>> {
    let time = Duration::from_secs(size.pick(10, 2));
    let options = ServerOptions {
        one_core: true,
        limits: true,
        ..ServerOptions::default()
    };
    let world = Testbed::start(programs, options).await?;
    let headers = format!("authorization: Bearer {}\r\n", world.key);
    let straight = |kib| TargetRequest {
        address: world.provider,
        path: PATH.to_owned(),
        headers: "authorization: Bearer simulated\r\n".to_owned(),
        body: body("sim-large", kib),
    };
    let through = |kib| TargetRequest {
        address: world.client.address(),
        path: PATH.to_owned(),
        headers: headers.clone(),
        body: body("default", kib),
    };
    let mut report = Report::new(
        "gateway: one whole answer after the other, directly and through the gateway",
        "`POST /v1/chat/completions` without a stream on keep-alive connections, each sending the next request as soon as the previous one is answered; the \
         answer has 20 tokens and is immediate. The server has one processor to itself; provider and client share \
         the rest of the machine, also in the direct calls. Everything is on: the API key is verified; requests, tokens, calls and money are \
         reserved for tenant, user and key and settled; the cache looks up the same question (and finds none, up to 4 KiB); the breaker and \
         the ledger are updated. *CPU* is the server's, per request.",
        &[
            "connections × request",
            "direct, requests/s",
            "through, requests/s",
            "direct p50 / p99 ms",
            "through p50 / p99 ms",
            "added p50 / p99 ms",
            "CPU µs per request",
            "resident MiB",
            "errors",
        ],
    );
    let mut rows: Vec<(usize, usize)> = CONNECTIONS.iter().map(|&connections| (connections, 1)).collect();
    rows.extend(SIZES.iter().skip(1).map(|&kib| (64, kib)));
    let floor = floor(&world, time, &straight(1)).await?;
    let mut below = None;
    for (connections, kib) in rows {
        let direct = callers(connections, time, straight(kib)).await?;
        let before = world.used()?.cpu;
        let gateway = callers(connections, time, through(kib)).await?;
        let used = world.used()?;
        let cpu = used.cpu.saturating_sub(before).as_secs_f64() * 1e6 / gateway.latencies.count().max(1) as f64;
        report.row(vec![
            format!("{connections} × {kib} KiB"),
            decimal(direct.per_second),
            decimal(gateway.per_second),
            direct.latencies.both(),
            gateway.latencies.both(),
            format!(
                "{} / {}",
                added(&gateway.latencies, &direct.latencies, 0.5),
                added(&gateway.latencies, &direct.latencies, 0.99)
            ),
            decimal(cpu),
            decimal(used.resident as f64 / 1024.0 / 1024.0),
            (direct.errors + gateway.errors).to_string(),
        ]);
        if (connections, kib) == (64, 1) {
            below = Some(open::run(&world, size, gateway.per_second, [&straight(1), &through(1)]).await?);
        }
    }
    Ok([Some(floor), Some(report), below].into_iter().flatten().collect())
}

/// Measures a relay with the same HTTP libraries that does nothing else, on the processor that the gateway uses
/// afterwards.
async fn floor(world: &Testbed, time: Duration, straight: &TargetRequest) -> anyhow::Result<Report> {
    let mut report = Report::new(
        "gateway: the floor",
        "The same requests of 1 KiB through a bare relay on the server's processor: axum accepts them, reqwest forwards them, nothing is \
         parsed, checked or stored. What the gateway below adds beyond this is its own cost.",
        &[
            "connections",
            "through, requests/s",
            "direct p50 / p99 ms",
            "through p50 / p99 ms",
            "added p50 / p99 ms",
            "CPU µs per request",
            "errors",
        ],
    );
    let (relay, address) = world.relay()?;
    let through = TargetRequest {
        address,
        ..straight.clone()
    };
    callers(4, time / 4, through.clone()).await?;
    for connections in CONNECTIONS {
        let direct = callers(connections, time, straight.clone()).await?;
        let before = relay.used()?.cpu;
        let seen = callers(connections, time, through.clone()).await?;
        let cpu = relay.used()?.cpu.saturating_sub(before).as_secs_f64() * 1e6 / seen.latencies.count().max(1) as f64;
        report.row(vec![
            connections.to_string(),
            decimal(seen.per_second),
            direct.latencies.both(),
            seen.latencies.both(),
            format!(
                "{} / {}",
                added(&seen.latencies, &direct.latencies, 0.5),
                added(&seen.latencies, &direct.latencies, 0.99)
            ),
            decimal(cpu),
            (direct.errors + seen.errors).to_string(),
        ]);
    }
    Ok(report)
}

/// Placeholder in a body for a word that differs in each request, so that no cache has seen it.
const WORD: &str = "zzzzzzzz";

/// Replaces [`WORD`] with a different word.
fn distinct(body: &str) -> String {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let mut n = REQUESTS.fetch_add(1, Ordering::Relaxed);
    let letter = |_| {
        let letter = char::from(b'a' + (n % 26) as u8);
        n /= 26;
        letter
    };
    let word: String = (0..WORD.len()).map(letter).collect();
    body.replacen(WORD, &word, 1)
}

/// Returns a request body of about `kib` KiB.
pub(super) fn body(model: &str, kib: usize) -> String {
    let directive = format!("[[sim tokens={TOKENS} first_ms=0 pace_ms=0]]");
    let filler = "lorem ipsum ".repeat(kib * 1024 / 12);
    let content = format!(
        "{WORD} {}{directive}",
        &filler[..(kib * 1024).saturating_sub(200).min(filler.len())]
    );
    json!({ "model": model, "messages": [{ "role": "user", "content": content }], "max_tokens": 64 }).to_string()
}

/// Returns the same request for a streamed answer.
pub(super) fn streamed(request: &TargetRequest) -> TargetRequest {
    TargetRequest {
        body: request.body.replacen('{', "{\"stream\":true,", 1),
        ..request.clone()
    }
}

/// Sends requests for `time` on so many connections, on each the next as soon as the previous one is answered.
pub(super) async fn callers(connections: usize, time: Duration, asked: TargetRequest) -> anyhow::Result<CallResults> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let asked = asked.clone();
        tasks.spawn(async move {
            let (mut latencies, mut errors) = (Samples::default(), 0);
            let mut connection = Connection::open(asked.address).await?;
            while begun.elapsed() < time {
                let sent = Instant::now();
                match asked.call(&mut connection).await {
                    Ok(()) => latencies.add(sent.elapsed()),
                    Err(error) => {
                        errors += 1;
                        eprintln!("a call failed: {error:#}");
                        connection = Connection::open(asked.address).await?;
                    }
                }
            }
            anyhow::Ok((latencies, errors))
        });
    }
    let (mut latencies, mut errors) = (Samples::default(), 0);
    for done in tasks.join_all().await {
        let (some, failed) = done?;
        latencies.merge(some);
        errors += failed;
    }
    let per_second = latencies.count() as f64 / begun.elapsed().as_secs_f64();
    Ok(CallResults {
        latencies,
        per_second,
        errors,
    })
}

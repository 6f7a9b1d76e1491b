//! The gateway with user tokens, limits, ledger, cache and deny rules against a bare relay, alternately in one run: what
//! counts is the ratio, which a slow or busy machine changes less than the figures themselves.

use std::time::Duration;

use super::Size;
use super::gateway::{CallResults, PATH, TargetRequest, body, callers, streamed};
use crate::report::Report;
use crate::stats::decimal;
use crate::world::{Programs, ServerOptions, Testbed};

const CONNECTIONS: usize = 64;

/// One measurement of one program.
struct Round {
    per_second: f64,
    /// Microseconds of CPU per request.
    cpu: f64,
    errors: usize,
}

impl Round {
    fn new(results: &CallResults, used: Duration) -> Self {
        Self {
            per_second: results.per_second,
            cpu: used.as_secs_f64() * 1e6 / results.latencies.count().max(1) as f64,
            errors: results.errors,
        }
    }
}

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let (time, rounds) = (Duration::from_secs(size.pick(5, 2)), size.pick(7, 5));
    let options = ServerOptions {
        one_core: true,
        limits: true,
        rules: true,
        ..ServerOptions::default()
    };
    let world = Testbed::start(programs, options).await?;
    let (relay, address) = world.relay()?;
    let token = world.user_token("ada")?;
    let mut report = Report::new(
        "ratio: the gateway with everything on, and a bare relay",
        "Requests of 1 KiB on 64 connections, answers of 20 tokens, for the relay and the gateway in turn on the same processor; medians of all \
         rounds, and the median of each round's ratio. User tokens (HS256), limits of tenant and user, prices, exact cache (no hit), ledger, and \
         three deny rules (two literals for answers, one for prompts) that do not match.",
        &[
            "answers",
            "relay, requests/s",
            "gateway, requests/s",
            "ratio",
            "relay, CPU µs",
            "gateway, CPU µs",
            "ratio",
            "errors",
        ],
    );
    let asked = |address, model, credential: &str| TargetRequest {
        address,
        path: PATH.to_owned(),
        headers: format!("authorization: Bearer {credential}\r\n"),
        body: body(model, 1),
    };
    let direct = asked(address, "sim-large", "simulated");
    let through = asked(world.client.address(), "default", &token);
    for (name, direct, through) in [
        ("whole", direct.clone(), through.clone()),
        ("streamed", streamed(&direct), streamed(&through)),
    ] {
        callers(4, time / 4, direct.clone()).await?;
        callers(4, time / 4, through.clone()).await?;
        let (mut relayed, mut guarded) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let before = relay.used()?.cpu;
            let results = callers(CONNECTIONS, time, direct.clone()).await?;
            relayed.push(Round::new(&results, relay.used()?.cpu.saturating_sub(before)));
            let before = world.used()?.cpu;
            let results = callers(CONNECTIONS, time, through.clone()).await?;
            // The last records are stored after the answers.
            world.quiet().await?;
            guarded.push(Round::new(&results, world.used()?.cpu.saturating_sub(before)));
        }
        let of = |rounds: &[Round], figure: fn(&Round) -> f64| decimal(median(rounds.iter().map(figure).collect()));
        let ratio = |figure: fn(&Round) -> f64| {
            let pairs = relayed.iter().zip(&guarded);
            decimal(median(pairs.map(|(relay, own)| figure(own) / figure(relay)).collect()))
        };
        report.row(vec![
            name.to_owned(),
            of(&relayed, |round| round.per_second),
            of(&guarded, |round| round.per_second),
            ratio(|round| round.per_second),
            of(&relayed, |round| round.cpu),
            of(&guarded, |round| round.cpu),
            ratio(|round| round.cpu),
            relayed
                .iter()
                .chain(&guarded)
                .map(|round| round.errors)
                .sum::<usize>()
                .to_string(),
        ]);
    }
    Ok(report)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

//! What a turn costs by itself: create a conversation, submit a turn of one token, read it to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Size;
use crate::client::Pace;
use crate::report::Report;
use crate::stats::{decimal, mib};
use crate::world::{Programs, ServerOptions, Testbed};

const CALLERS: usize = 16;
const PACE: Pace = Pace {
    words: 1,
    first_ms: 0,
    pace_ms: 0,
};

/// One of the servers that are compared.
struct Contender {
    world: Testbed,
    slices: Vec<Slice>,
}

/// What one round of turns cost.
struct Slice {
    /// Milliseconds of CPU per turn.
    cpu: f64,
    /// Bytes written to the disk per turn.
    disk: f64,
    /// Turns per second.
    rate: f64,
}

/// Runs the scenario: the server alone, or in alternating rounds with the one of `--against`.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let (rounds, turns) = size.pick((10, 2_000), (4, 500));
    let options = ServerOptions {
        one_core: true,
        ..ServerOptions::default()
    };
    let mut contenders = Vec::new();
    for server in std::iter::once(&programs.server).chain(&size.against) {
        let programs = Programs {
            server: server.clone(),
            ..programs.clone()
        };
        let world = Testbed::start(&programs, options.clone()).await?;
        // Builds what is built on first use.
        round(&world, turns / 2).await?;
        contenders.push(Contender {
            world,
            slices: Vec::new(),
        });
    }
    for number in 0..rounds {
        // Each goes first in every other round, so that a machine that becomes slower favours neither.
        if number % 2 == 1 {
            contenders.reverse();
        }
        for contender in &mut contenders {
            let slice = round(&contender.world, turns).await?;
            contender.slices.push(slice);
        }
        if number % 2 == 1 {
            contenders.reverse();
        }
    }
    let mut report = Report::new(
        &format!("short: {CALLERS} callers, each create + turn of one token + stream, again and again"),
        &format!(
            "The server has one processor to itself. Each caller has one connection. {rounds} rounds of {turns} turns, \
             in turns with the server of `--against`, if there is one, which then is the second column; a ratio is that \
             of two neighbouring rounds. CPU time counts until the server is idle."
        ),
        &["figure, median (least to most)", "server", "against", "ratio"],
    );
    type Figure = fn(&Slice) -> f64;
    let figures: [(&str, Figure); 3] = [
        ("CPU, ms per turn", |slice| slice.cpu),
        ("written to disk, KiB per turn", |slice| slice.disk / 1024.0),
        ("turns per second", |slice| slice.rate),
    ];
    for (name, figure) in figures {
        let of = |contender: &Contender| contender.slices.iter().map(figure).collect::<Vec<f64>>();
        let mut cells = vec![name.to_owned(), spread(of(&contenders[0]))];
        if let Some(other) = contenders.get(1) {
            let (own, other) = (of(&contenders[0]), of(other));
            let ratios = own.iter().zip(&other).map(|(own, other)| own / other.max(f64::EPSILON));
            cells.extend([spread(other.clone()), spread(ratios.collect())]);
        } else {
            cells.extend([String::new(), String::new()]);
        }
        report.row(cells);
    }
    let mut resident = vec!["resident afterwards, MiB".to_owned()];
    for contender in &contenders {
        resident.push(mib(contender.world.used()?.resident as f64));
    }
    resident.resize(4, String::new());
    report.row(resident);
    Ok(report)
}

/// Runs `turns` turns and measures them.
async fn round(world: &Testbed, turns: usize) -> anyhow::Result<Slice> {
    world.quiet().await?;
    let (before, begun) = (world.used()?, Instant::now());
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for user in 0..CALLERS {
        let (client, next) = (Arc::clone(&world.client), Arc::clone(&next));
        callers.spawn(async move {
            let mut connection = client.connect().await?;
            while next.fetch_add(1, Ordering::Relaxed) < turns {
                let conversation = client.create(&mut connection, user).await?;
                client.turn(&mut connection, user, &conversation, PACE).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let took: Duration = begun.elapsed();
    world.quiet().await?;
    let after = world.used()?;
    let each = |figure: f64| figure / turns as f64;
    Ok(Slice {
        cpu: each((after.cpu - before.cpu).as_secs_f64() * 1000.0),
        disk: each((after.disk - before.disk) as f64),
        rate: turns as f64 / took.as_secs_f64(),
    })
}

/// Formats the median with the extremes.
fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().map(decimal).unwrap_or_default();
    format!(
        "{} ({} to {})",
        at(figures.len() / 2),
        at(0),
        at(figures.len().saturating_sub(1))
    )
}

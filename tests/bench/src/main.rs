//! `copilotd-bench`: measures the real binary against the simulated provider, in three processes on loopback.

mod client;
mod http;
mod machine;
mod process;
mod relay;
mod report;
mod scenario;
mod sse;
mod stats;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

use crate::scenario::{Endpoint, Flood, Scenario, Size};
use crate::world::Programs;

/// Measures copilotd against a simulated provider called directly, and prints Markdown tables.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to measure
    #[arg(value_enum, required_unless_present = "relay")]
    scenarios: Vec<Scenario>,
    /// Serves as the bare relay to this address, until it is killed; the scenario `gateway` starts one
    #[arg(long, hide = true)]
    relay: Option<SocketAddr>,
    /// Sizes that take about a minute in all
    #[arg(long)]
    small: bool,
    /// Numbers of streams, in place of the usual ones
    #[arg(long, value_delimiter = ',')]
    streams: Vec<usize>,
    /// Floods, in place of all
    #[arg(long = "flood", value_enum)]
    floods: Vec<Flood>,
    /// Directory of labelled pairs, for `semcache`
    #[arg(long)]
    data: Option<PathBuf>,
    /// Directory of the embedding models, for `embed` and `semcache`
    #[arg(long, env = "COPILOTD_MODELS")]
    models: Option<PathBuf>,
    /// An endpoint as JSON (name, address, path, model, key), for `endpoint`; the first is what the others are in front of
    #[arg(long)]
    endpoint: Vec<Endpoint>,
    /// Number of calls, for `badday` (30,000)
    #[arg(long)]
    calls: Option<u32>,
    /// What the accidents of `badday` follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The server's program (beside this one)
    #[arg(long)]
    server: Option<PathBuf>,
    /// The provider's program (beside this one)
    #[arg(long)]
    sim: Option<PathBuf>,
    /// Where data directories are made; its disk is measured with the server
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.relay {
        // As the server runs: with as many threads as it has processors.
        Some(provider) => tokio::runtime::Runtime::new()?.block_on(relay::serve(provider)),
        None => {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build()?.block_on(measure(arguments))
        }
    }
}

async fn measure(arguments: Arguments) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let beside = own.parent().context("the directory of this program")?;
    let programs = Programs {
        server: arguments.server.unwrap_or_else(|| beside.join("copilotd")),
        sim: arguments.sim.unwrap_or_else(|| beside.join("copilotd-sim")),
        scratch: arguments.scratch,
    };
    let size = Size {
        small: arguments.small,
        streams: arguments.streams,
        floods: arguments.floods,
        data: arguments.data,
        models: arguments.models,
        endpoints: arguments.endpoint,
        calls: arguments.calls,
        seed: arguments.seed,
        open_files: machine::raise_open_files()?,
    };
    println!("{}; {} open files per process\n", machine::describe(), size.open_files);
    for scenario in Scenario::all_of(&arguments.scenarios) {
        let reports = scenario.run(&programs, &size).await;
        for report in reports.with_context(|| format!("{scenario:?}"))? {
            println!("{report}");
        }
    }
    Ok(())
}

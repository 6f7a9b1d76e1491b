//! `copilotd-bench`: measures the real binary against the simulated provider, in three processes on loopback.

mod client;
mod http;
mod machine;
mod postgres;
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

use crate::scenario::{Endpoint, Flood, Index, Scenario, Size};
use crate::world::Programs;

/// Measures copilotd against a simulated provider called directly, and prints Markdown tables.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to measure
    #[arg(value_enum, required_unless_present = "relay")]
    scenarios: Vec<Scenario>,
    /// Serve as a bare relay to this address until killed; started by the scenario `gateway`
    #[arg(long, hide = true)]
    relay: Option<SocketAddr>,
    /// Use small sizes, about a minute in all
    #[arg(long)]
    small: bool,
    /// Numbers of streams, instead of the default ones
    #[arg(long, value_delimiter = ',')]
    streams: Vec<usize>,
    /// Floods to run, instead of all
    #[arg(long = "flood", value_enum)]
    floods: Vec<Flood>,
    /// Directory of labelled pairs, for `semcache`
    #[arg(long)]
    data: Option<PathBuf>,
    /// Directory of the embedding models, for `embed`, `ingest`, `beside`, `semcache` and a second run of `history`
    #[arg(long, env = "COPILOTD_MODELS")]
    models: Option<PathBuf>,
    /// An endpoint as JSON (name, address, path, model, key), for `endpoint`; the first one is the provider behind the
    /// others
    #[arg(long)]
    endpoint: Vec<Endpoint>,
    /// Number of calls, for `badday` (30,000)
    #[arg(long)]
    calls: Option<u32>,
    /// Seed of the accidents in `badday`
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which index is searched, for `search`; PostgreSQL needs --postgres
    #[arg(long, value_enum, default_value_t = Index::Sqlite)]
    index: Index,
    /// Directory in which PostgreSQL with pgvector is installed
    #[arg(long, env = "COPILOTD_POSTGRES")]
    postgres: Option<PathBuf>,
    /// Path of the server binary (default: beside this one)
    #[arg(long)]
    server: Option<PathBuf>,
    /// Another server binary, such as one of an earlier version, that takes turns with the first; for `short`
    #[arg(long)]
    against: Option<PathBuf>,
    /// Path of the simulator binary (default: beside this one)
    #[arg(long)]
    sim: Option<PathBuf>,
    /// Directory for data directories; its disk is measured with the server
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.relay {
        // Like the server: with as many threads as there are processors.
        Some(provider) => tokio::runtime::Runtime::new()?.block_on(relay::serve(provider)),
        None => {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build()?.block_on(measure(arguments))
        }
    }
}

async fn measure(arguments: Arguments) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let beside = own.parent().context("this program has no parent directory")?;
    let programs = Programs {
        server: arguments.server.unwrap_or_else(|| beside.join("copilotd")),
        sim: arguments.sim.unwrap_or_else(|| beside.join("copilotd-sim")),
        scratch: arguments.scratch,
    };
    let size = Size {
        small: arguments.small,
        streams: arguments.streams,
        floods: arguments.floods,
        against: arguments.against,
        data: arguments.data,
        models: arguments.models,
        endpoints: arguments.endpoint,
        calls: arguments.calls,
        index: arguments.index,
        postgres: arguments.postgres,
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

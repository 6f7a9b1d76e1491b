//! The scenarios. Each one has its own server and provider.

mod badday;
mod beside;
mod bytes;
mod embed;
mod endpoint;
mod floods;
mod gateway;
mod history;
mod idle;
mod ingest;
mod open;
mod ratio;
mod search;
mod semcache;
mod short;
mod stream;
mod submit;
mod turns;
mod unread;

use std::path::PathBuf;

use clap::ValueEnum;
pub use endpoint::Endpoint;
pub use floods::Flood;
pub use search::Index;

use crate::report::Report;
use crate::world::Programs;

/// Name of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// All of them
    All,
    /// Turns that are submitted at once
    Submit,
    /// Concurrent streaming turns
    Stream,
    /// Turns per second
    Turns,
    /// What a turn of one token costs by itself; with --against in alternation with another server
    Short,
    /// Long conversations
    History,
    /// Bytes handed to the store
    Bytes,
    /// Idle conversations
    Idle,
    /// The OpenAI-compatible endpoint, at saturation and below
    Gateway,
    /// The endpoint with everything on and a bare relay in turn, and the ratio of both
    Ratio,
    /// What a tenant's flood does to another tenant
    Floods,
    /// Clients that do not read their answers, and bodies that do not end; not part of `all`: takes four minutes
    Unread,
    /// Embedding models in this process; not part of `all`: needs --models
    Embed,
    /// Searches in the index of the knowledge, and what ten times the other tenants change
    Search,
    /// Documents stored over HTTP against a bare loop over the engine; not part of `all`: needs --models
    Ingest,
    /// Streams with ingestion beside them, and searches beside streams; not part of `all`: needs --models
    Beside,
    /// Any running OpenAI-compatible gateways; not part of `all`: needs --endpoint
    Endpoint,
    /// Buffered calls while providers fail; not part of `all`: measures no time
    Badday,
    /// The semantic cache on labelled pairs; not part of `all`: needs --data and --models
    Semcache,
}

/// How much is measured.
#[derive(Debug)]
pub struct Size {
    /// Whether it must finish in about a minute.
    pub small: bool,
    /// Requested numbers of streams.
    pub streams: Vec<usize>,
    /// Requested floods.
    pub floods: Vec<Flood>,
    /// Another server binary, for `short`.
    pub against: Option<PathBuf>,
    /// Directory of the labelled pairs.
    pub data: Option<PathBuf>,
    /// Directory of the embedding models.
    pub models: Option<PathBuf>,
    /// Running endpoints; the first is the provider itself.
    pub endpoints: Vec<Endpoint>,
    /// Number of calls, for `badday`.
    pub calls: Option<u32>,
    /// The index that is searched.
    pub index: Index,
    /// Where PostgreSQL is installed.
    pub postgres: Option<PathBuf>,
    /// Seed of its accidents.
    pub seed: u64,
    /// Maximum open files per process.
    pub open_files: u64,
}

impl Size {
    /// Returns one of two figures, by size.
    pub fn pick<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }
}

impl Scenario {
    /// Returns the requested scenarios.
    pub fn all_of(asked: &[Self]) -> Vec<Self> {
        let every = [
            Self::Submit,
            Self::Stream,
            Self::Turns,
            Self::Short,
            Self::History,
            Self::Bytes,
            Self::Idle,
            Self::Gateway,
            Self::Ratio,
            Self::Floods,
            Self::Search,
        ];
        if asked.contains(&Self::All) {
            every.to_vec()
        } else {
            asked.to_vec()
        }
    }

    /// Runs the scenario.
    pub async fn run(self, programs: &Programs, size: &Size) -> anyhow::Result<Vec<Report>> {
        let report = match self {
            Self::All => anyhow::bail!("`all` is not one of them"),
            Self::Submit => submit::run(programs, size).await,
            Self::Stream => stream::run(programs, size).await,
            Self::Turns => turns::run(programs, size).await,
            Self::Short => short::run(programs, size).await,
            Self::History => return history::run(programs, size).await,
            Self::Bytes => bytes::run(programs, size).await,
            Self::Idle => idle::run(programs, size).await,
            Self::Gateway => return gateway::run(programs, size).await,
            Self::Ratio => ratio::run(programs, size).await,
            Self::Floods => floods::run(programs, size).await,
            Self::Unread => unread::run(programs, size).await,
            Self::Embed => return embed::run(size).await,
            Self::Search => search::run(programs, size).await,
            Self::Ingest => return ingest::run(programs, size).await,
            Self::Beside => return beside::run(programs, size).await,
            Self::Endpoint => endpoint::run(size).await,
            Self::Badday => badday::run(size).await,
            Self::Semcache => semcache::run(size).await,
        };
        Ok(vec![report?])
    }
}

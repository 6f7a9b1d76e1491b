//! What is measured. Each scenario has a server and a provider of its own.

mod badday;
mod bytes;
mod embed;
mod endpoint;
mod floods;
mod gateway;
mod history;
mod idle;
mod open;
mod semcache;
mod stream;
mod submit;
mod turns;
mod unread;

use std::path::PathBuf;

use clap::ValueEnum;
pub use endpoint::Endpoint;
pub use floods::Flood;

use crate::report::Report;
use crate::world::Programs;

/// A scenario by its name.
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
    /// Long conversations
    History,
    /// Bytes handed to the store
    Bytes,
    /// Idle conversations
    Idle,
    /// The OpenAI-compatible endpoint, at saturation and below
    Gateway,
    /// What a tenant's flood does to another tenant
    Floods,
    /// Clients that do not read their answers, and bodies that do not end; not among `all`, since it takes four minutes
    Unread,
    /// Embedding models in this process; not among `all`, since it needs --models
    Embed,
    /// Any OpenAI-compatible gateways that run already; not among `all`, since it needs --endpoint
    Endpoint,
    /// Buffered calls while providers fail; not among `all`, since it measures no time
    Badday,
    /// The semantic cache on labelled pairs; not among `all`, since it needs --data and --models
    Semcache,
}

/// How much is measured.
#[derive(Debug)]
pub struct Size {
    /// Whether it has to be done in about a minute.
    pub small: bool,
    /// Numbers of streams that were asked for.
    pub streams: Vec<usize>,
    /// Floods that were asked for.
    pub floods: Vec<Flood>,
    /// Directory of the labelled pairs.
    pub data: Option<PathBuf>,
    /// Directory of the embedding models.
    pub models: Option<PathBuf>,
    /// Endpoints that run already; the first is the provider itself.
    pub endpoints: Vec<Endpoint>,
    /// Number of calls, for `badday`.
    pub calls: Option<u32>,
    /// What its accidents follow from.
    pub seed: u64,
    /// Files a process may open.
    pub open_files: u64,
}

impl Size {
    /// One of two figures.
    pub fn pick<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }
}

impl Scenario {
    /// The scenarios that were asked for.
    pub fn all_of(asked: &[Self]) -> Vec<Self> {
        let every = [
            Self::Submit,
            Self::Stream,
            Self::Turns,
            Self::History,
            Self::Bytes,
            Self::Idle,
            Self::Gateway,
            Self::Floods,
        ];
        if asked.contains(&Self::All) {
            every.to_vec()
        } else {
            asked.to_vec()
        }
    }

    /// Measures.
    pub async fn run(self, programs: &Programs, size: &Size) -> anyhow::Result<Vec<Report>> {
        let report = match self {
            Self::All => anyhow::bail!("`all` is not one of them"),
            Self::Submit => submit::run(programs, size).await,
            Self::Stream => stream::run(programs, size).await,
            Self::Turns => turns::run(programs, size).await,
            Self::History => history::run(programs, size).await,
            Self::Bytes => bytes::run(programs, size).await,
            Self::Idle => idle::run(programs, size).await,
            Self::Gateway => return gateway::run(programs, size).await,
            Self::Floods => floods::run(programs, size).await,
            Self::Unread => unread::run(programs, size).await,
            Self::Embed => embed::run(size).await,
            Self::Endpoint => endpoint::run(size).await,
            Self::Badday => badday::run(size).await,
            Self::Semcache => semcache::run(size).await,
        };
        Ok(vec![report?])
    }
}

//! The embedding models of this process.

use crate::adapters::embed::{self, ModelKind};
use crate::cli::{Failure, PullArgs};

/// Runs `copilotd models pull`.
pub async fn pull(args: &PullArgs) -> Result<(), Failure> {
    let kind: ModelKind = args
        .model
        .parse()
        .map_err(|message| Failure::usage(format!("the model {:?} {message}", args.model)))?;
    let client = reqwest::Client::builder().build();
    let client = client.map_err(|error| Failure::failed(format!("cannot make an HTTP client: {error}")))?;
    let fetched = embed::pull(&client, kind, &args.from, &args.into)
        .await
        .map_err(|error| Failure::failed(format!("{:#}", anyhow::Error::from(error))))?;
    println!("{kind}: {fetched} files fetched into {}", args.into.display());
    Ok(())
}

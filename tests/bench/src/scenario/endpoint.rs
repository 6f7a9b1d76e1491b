//! What any gateway with OpenAI's endpoint adds to a call of the provider. All of them must be running already; the
//! comparison script starts them.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use super::Size;
use super::gateway::{TargetRequest, body, callers};
use crate::report::Report;
use crate::stats::{added, decimal};

/// A running endpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Name in the table.
    name: String,
    /// Address it listens on.
    address: SocketAddr,
    /// Path of chat completions.
    path: String,
    /// Its name of the provider's model.
    model: String,
    /// Bearer token.
    key: String,
}

impl FromStr for Endpoint {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

impl Endpoint {
    fn asked(&self) -> TargetRequest {
        TargetRequest {
            address: self.address,
            path: self.path.clone(),
            headers: format!("authorization: Bearer {}\r\n", self.key),
            body: body(&self.model, 1),
        }
    }
}

/// Runs the scenario.
pub async fn run(size: &Size) -> anyhow::Result<Report> {
    let time = Duration::from_secs(size.pick(10, 2));
    let (provider, gateways) = size
        .endpoints
        .split_first()
        .context("--endpoint is required: first the provider, then the gateways in front of it")?;
    let mut report = Report::new(
        "endpoint: gateways in front of one provider",
        "Requests of 1 KiB without a stream, immediate answers of 20 tokens, on keep-alive connections, each sending the next request as soon as \
         the previous one is answered. *Direct* is the same against the provider, just before.",
        &[
            "gateway",
            "direct p50 / p99 ms",
            "through p50 / p99 ms",
            "added p50 / p99 ms",
            "requests/s, 1 connection",
            "requests/s, 16 connections",
            "requests/s, 64 connections",
            "errors",
        ],
    );
    for gateway in gateways {
        // What the first calls import, compile or allocate is not to be measured.
        callers(4, time / 3, gateway.asked()).await?;
        let direct = callers(1, time, provider.asked()).await?;
        let one = callers(1, time, gateway.asked()).await?;
        let some = callers(16, time, gateway.asked()).await?;
        let many = callers(64, time, gateway.asked()).await?;
        report.row(vec![
            gateway.name.clone(),
            direct.latencies.both(),
            one.latencies.both(),
            format!(
                "{} / {}",
                added(&one.latencies, &direct.latencies, 0.5),
                added(&one.latencies, &direct.latencies, 0.99)
            ),
            decimal(one.per_second),
            decimal(some.per_second),
            decimal(many.per_second),
            (direct.errors + one.errors + some.errors + many.errors).to_string(),
        ]);
    }
    Ok(report)
}

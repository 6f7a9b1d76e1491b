//! `copilotd-sim`: all simulators in one program.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// An OpenAI-compatible provider, an Anthropic, a Zendesk and a Slack on loopback, with state and knobs.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Port of the OpenAI-compatible provider; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    openai_port: u16,
    /// Port of Anthropic; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    anthropic_port: u16,
    /// Port of Zendesk; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    zendesk_port: u16,
    /// Port of Slack; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    slack_port: u16,
    /// Start with some tickets, people and channels
    #[arg(long)]
    fixtures: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let on = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let openai = copilotd_sim::openai::start(on(arguments.openai_port)).await?;
    let anthropic = copilotd_sim::anthropic::start(on(arguments.anthropic_port)).await?;
    let zendesk = copilotd_sim::zendesk::start(on(arguments.zendesk_port), arguments.fixtures).await?;
    let slack = copilotd_sim::slack::start(on(arguments.slack_port), arguments.fixtures).await?;
    // The only line on stdout, for scripts that start this program; all simulators are serving by now.
    println!(
        "{}",
        serde_json::json!({
            "openai": openai.base_url(),
            "anthropic": anthropic.base_url(),
            "zendesk": zendesk.base_url(),
            "slack": slack.base_url(),
        })
    );
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        outcome = tokio::signal::ctrl_c() => outcome?,
    }
    Ok(())
}

//! A whole process in miniature: directory, connectors and reconciler over fake ports that outlive a crash.

mod client;
mod probe;
mod viewer;
mod world;

pub use client::Client;
pub use viewer::{Seen, Viewer, parse};
pub use world::{Probe, World, copilot, scope, submission, submitted, tool};

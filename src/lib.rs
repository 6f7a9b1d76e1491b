//! copilotd: the self-hosted backend for AI copilots. This crate is everything around `copilotd_actors`: configuration,
//! HTTP, adapters and the command line.

pub mod adapters;
pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod http;
pub mod jobs;
pub mod postgres_url;
pub mod private_files;
pub mod response_body;
pub mod retry_after;
pub mod revocations;
pub mod shape;
pub mod surfaces;
pub mod system_kind;
pub mod telemetry;
pub mod tenants;

//! Crashes the server at each of its named crash points, with turns of every kind running; the outcome has to be as if
//! nothing had happened.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod ingestion;
mod points;
mod scenario;
mod sync;
mod tenants;
mod titles;

//! The server dies at each of its named points, with turns of every kind running; then everything has to come out as if
//! nothing had happened.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod points;
mod scenario;
mod tenants;

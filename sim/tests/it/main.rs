//! The simulators against the vendors' published descriptions, and against what other tests need of them.
//!
//! The descriptions are found through `COPILOTD_SPECS`, else in `../shared/specs` beside the checkout. Where they lag
//! behind the real API, `overlay.json` adds to them, each addition with its source.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod accounts;
mod anthropic;
mod behaviour;
mod exports;
mod faults;
mod kept;
mod openai;
mod person;
mod persona;
mod slack;
mod specs;
mod zendesk;

//! The pure core, as tables and properties. No runtime, no clock.

mod acts;
mod audit;
mod support;

mod approvals;
mod lifecycle;
mod models;
mod prompt_rules;
mod recovery;
mod stopping;
mod submitting;
mod tools;

//! Tests of the pure core, as tables and properties. No runtime, no clock.

mod acts;
mod audit;
mod history;
mod support;

mod approvals;
mod assemble;
mod client_tools;
mod codec;
mod doubt;
mod effects;
mod lifecycle;
mod marks;
mod memory;
mod models;
mod prompt_rules;
mod recovery;
mod replacing;
mod rules;
mod schemas;
mod stopping;
mod submitting;
mod tools;

//! The pure core, as tables and properties. No runtime, no clock.

mod acts;
mod audit;
mod support;

mod prompt_rules;

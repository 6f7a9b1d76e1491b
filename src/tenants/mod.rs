//! Tenants while the process runs: the file's, those an operator has made or changed since, and their API keys.
//!
//! The file is the beginning. What an operator changes is stored, sealed, as the tenant's whole settings, and stands in the place
//! of the file's from then on. Invariants: a change is checked as a whole configuration would be, then recorded, then stored, then
//! taken by every part of the process, or it is refused and nothing has happened; no change touches another tenant; a tenant with a
//! fault, of the file or stored, is left out and named, and keeps none of the others from being served, suspended or revoked; a
//! secret never goes to another place than the one it was given for; only the file reads the environment and files.

mod changes;
mod deletion;
mod entry;
mod error;
mod keys;
mod patch;
mod present;
mod record;
mod roster;
mod seal;
mod standings;
mod store;

pub use error::{ChangeError, SettingsFault};
pub use keys::{KeyView, NewKey};
pub use present::{Origin, ShownStatus, TenantView};
pub use record::{KeyId, KeyUse, Requester, StoredKey, StoredTenant, TenantStatus};
pub use roster::{Change, Part, Roster, SettingsChange};
pub use seal::Seal;
pub use standings::PresentStandings;
pub use store::TenantStore;

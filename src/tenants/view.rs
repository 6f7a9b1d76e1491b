//! Tenants as an operator sees them.

use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::domain::tenant::TenantStatus;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// Where a tenant's settings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    File,
    /// The store: created or changed at run time.
    Stored,
}

/// Whether a tenant is served, as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShownStatus {
    /// Served.
    Active,
    /// Not served; nothing is deleted.
    Suspended,
    /// Not served; a job is erasing it.
    Deleting,
}

impl From<TenantStatus> for ShownStatus {
    fn from(status: TenantStatus) -> Self {
        match status {
            TenantStatus::Active => Self::Active,
            TenantStatus::Suspended => Self::Suspended,
        }
    }
}

/// A tenant as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct TenantView {
    /// Id of the tenant.
    pub id: TenantId,
    /// Whether it is served.
    pub status: ShownStatus,
    /// The job that is deleting it, if there is one.
    pub deletion: Option<JobId>,
    /// Where its settings come from.
    pub origin: Origin,
    /// Whether its credentials may grant the scope `operator`, which only the configuration file decides.
    pub operator: bool,
    /// Its settings, with fingerprints in place of secrets.
    pub settings: Value,
    /// Why it is left out, if it is.
    pub faults: Vec<String>,
    /// Warnings, which do not keep it from being served.
    pub warnings: Vec<String>,
    /// When it was created or first changed at run time.
    pub created_at: Option<Timestamp>,
    /// When it was last changed at run time.
    pub updated_at: Option<Timestamp>,
}

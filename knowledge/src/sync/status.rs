//! What administrators see of sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use jiff::Timestamp;
use parking_lot::Mutex;

/// The state of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activity {
    /// It is reading what changed.
    #[default]
    Running,
    /// It has read everything, and looks again after its interval.
    UpToDate,
    /// The last run ended early; it tries again after its interval.
    Failed,
}

/// What is known of a source since the process started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// The kind of the other system.
    pub kind: &'static str,
    /// What it is doing.
    pub activity: Activity,
    /// When the last run ended.
    pub last_run_at: Option<Timestamp>,
    /// Why the last run ended early, or waits at the moment.
    pub last_error: Option<String>,
    /// Documents in the index.
    pub documents: u64,
    /// Items that are left out, such as restricted articles whose readers are not known.
    pub skipped: u64,
}

/// The sources of all tenants.
#[derive(Debug, Clone, Default)]
pub struct SourceBook(Arc<Mutex<Sources>>);

type Sources = BTreeMap<(TenantId, String), SourceStatus>;

impl SourceBook {
    /// Returns the sources of a tenant, in order of their names.
    pub fn of(&self, tenant: &TenantId) -> Vec<(String, SourceStatus)> {
        let sources = self.0.lock();
        let own = sources.iter().filter(|((owner, _), _)| owner == tenant);
        own.map(|((_, name), status)| (name.clone(), status.clone())).collect()
    }

    /// Whether a source of the tenant may be storing something.
    pub fn is_active(&self, tenant: &TenantId) -> bool {
        self.0.lock().keys().any(|(owner, _)| owner == tenant)
    }

    pub(super) fn update(&self, tenant: &TenantId, name: &str, change: impl FnOnce(&mut SourceStatus)) {
        let mut sources = self.0.lock();
        change(sources.entry((tenant.clone(), name.to_owned())).or_default());
    }

    pub(super) fn remove(&self, tenant: &TenantId, name: &str) {
        self.0.lock().remove(&(tenant.clone(), name.to_owned()));
    }
}

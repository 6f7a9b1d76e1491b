//! The deny rules as a detector.

use std::time::Duration;

use async_trait::async_trait;

use crate::compute;
use crate::domain::guardrail::content::Unreadable;
use crate::domain::guardrail::{ContentKind, Finding, Rules, find};
use crate::ports::{Content, Detector, DetectorError};
use crate::tenancy::TenantScope;

/// Longest wait for the compute pool, whose queue is bounded and shared fairly among tenants.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The deny rules of a tenant or a copilot. Scanned on the compute pool if the contents are long.
#[derive(Debug)]
pub struct DenyRules {
    rules: Rules,
}

impl DenyRules {
    /// Creates the detector of these rules. Cheap.
    pub fn new(rules: &Rules) -> Self {
        let rules = rules.clone();
        Self { rules }
    }
}

#[async_trait]
impl Detector for DenyRules {
    fn name(&self) -> &str {
        "deny rules"
    }

    fn looks_at(&self, kind: ContentKind) -> bool {
        kind.rules(&self.rules).next().is_some()
    }

    fn timeout(&self) -> Duration {
        TIMEOUT
    }

    async fn inspect(&self, scope: &TenantScope, contents: &[Content]) -> Result<Vec<Vec<Finding>>, DetectorError> {
        let cost = contents.iter().map(|content| content.cost).sum();
        let (rules, contents) = (self.rules.clone(), contents.to_vec());
        let scan = move || {
            let found = contents
                .iter()
                .map(|content| find(&rules, content.kind, &*content.texts));
            found.collect::<Result<Vec<_>, Unreadable>>()
        };
        Ok(compute::run(Some(scope.tenant()), cost, scan).await??)
    }
}

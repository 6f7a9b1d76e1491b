//! Runs the guardrails: the deny rules and the registered detectors look at a content together, and the pure pipeline
//! ([`domain::guardrail`](crate::domain::guardrail)) decides what becomes of it.
//!
//! Conversations and the OpenAI-compatible endpoint use the same [`Guardrails`].
//!
//! Invariant: a content passes only once every detector that looks at its kind has inspected it.

mod deny;
pub mod output;
mod report;

use std::sync::Arc;

use futures::future::{try_join, try_join_all};

use crate::compute::{self, ComputeError};
use crate::domain::conversation::command::Command;
use crate::domain::conversation::screen::{PartTexts, PreparedCommand, ScreenedCommand};
use crate::domain::guardrail::{ContentKind, Finding, Rules};
use crate::domain::policy::Policy;
use crate::ports::{Content, Detector, DetectorError};
use crate::tenancy::TenantScope;
pub use deny::DenyRules;
pub use report::{Entrance, report};

/// The registered detectors. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Guardrails {
    detectors: Arc<[Arc<dyn Detector>]>,
}

/// A content that could not be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detector}: {cause}")]
pub struct Unchecked {
    /// The detector that gave no findings.
    pub detector: String,
    /// Why.
    #[source]
    pub cause: DetectorError,
}

impl From<ComputeError> for DetectorError {
    fn from(error: ComputeError) -> Self {
        match error {
            ComputeError::Full => Self::Busy,
            ComputeError::Panicked => Self::Unavailable(error.to_string()),
        }
    }
}

impl Guardrails {
    /// Registers detectors, beside the deny rules.
    pub fn new(detectors: impl IntoIterator<Item = Arc<dyn Detector>>) -> Self {
        Self {
            detectors: detectors.into_iter().collect(),
        }
    }

    /// Returns the registered detectors.
    pub fn detectors(&self) -> &[Arc<dyn Detector>] {
        &self.detectors
    }

    /// Returns whether a registered detector looks at contents of this kind.
    pub fn looks_at(&self, kind: ContentKind) -> bool {
        self.detectors.iter().any(|detector| detector.looks_at(kind))
    }

    /// Returns whether a command's content has to be inspected by registered detectors.
    pub fn looks_at_command(&self, command: &Command) -> bool {
        command.content_kind().is_some_and(|kind| self.looks_at(kind))
    }

    /// Inspects contents: what the deny rules find in each, then what the registered detectors find. All of them run
    /// at the same time.
    pub async fn inspect(
        &self,
        scope: &TenantScope,
        rules: &Rules,
        contents: &[Content],
    ) -> Result<Vec<Vec<Finding>>, Unchecked> {
        let deny = DenyRules::new(rules);
        let of_rules = inspect_with(&deny, scope, contents);
        let registered = self.detectors.iter();
        let of_others = registered.map(|detector| inspect_with(&**detector, scope, contents));
        let (mut findings, others) = try_join(of_rules, try_join_all(of_others)).await?;
        for of_detector in others {
            for (all, more) in findings.iter_mut().zip(of_detector) {
                all.extend(more);
            }
        }
        Ok(findings)
    }

    /// Screens a command, on the compute pool if it is long. `tool` is the tool of the call that it decides on, if any.
    pub async fn screen(
        &self,
        scope: &TenantScope,
        command: Command,
        policy: &Arc<Policy>,
        tool: Option<String>,
    ) -> Result<ScreenedCommand, Unchecked> {
        let (tenant, cost) = (Some(scope.tenant()), command.weight());
        let failed = |error: ComputeError| Unchecked {
            detector: "screening".to_owned(),
            cause: error.into(),
        };
        let own = Arc::clone(policy);
        let prepare = move || command.prepare(&own, tool.as_deref());
        let prepared = compute::run(tenant, cost, prepare).await;
        let prepared = Arc::new(prepared.map_err(failed)?);
        let content = |number| {
            let texts = PartTexts::new(Arc::clone(&prepared), number);
            Content::new(prepared.kind(number), texts, cost / prepared.len())
        };
        let contents: Vec<Content> = (0..prepared.len()).map(content).collect();
        let findings = self.inspect(scope, &policy.rules, &contents).await?;
        drop(contents);
        let own = Arc::clone(policy);
        let finish = move || PreparedCommand::finish(Arc::unwrap_or_clone(prepared), &own, findings);
        let screened = compute::run(tenant, cost, finish).await;
        screened.map_err(failed)
    }
}

/// Lets one detector inspect those contents that it looks at.
async fn inspect_with(
    detector: &dyn Detector,
    scope: &TenantScope,
    contents: &[Content],
) -> Result<Vec<Vec<Finding>>, Unchecked> {
    let failed = |cause| Unchecked {
        detector: detector.name().to_owned(),
        cause,
    };
    let mut findings = vec![Vec::new(); contents.len()];
    let (numbers, wanted): (Vec<usize>, Vec<Content>) = contents
        .iter()
        .cloned()
        .enumerate()
        .filter(|(_, content)| detector.looks_at(content.kind))
        .unzip();
    if wanted.is_empty() {
        return Ok(findings);
    }
    let limit = detector.timeout();
    let inspected = tokio::time::timeout(limit, detector.inspect(scope, &wanted)).await;
    let inspected = inspected.unwrap_or(Err(DetectorError::TimedOut(limit)));
    let inspected = inspected.map_err(failed)?;
    if inspected.len() != wanted.len() {
        let message = format!("{} contents, {} answers", wanted.len(), inspected.len());
        return Err(failed(DetectorError::Unavailable(message)));
    }
    for (number, found) in numbers.into_iter().zip(inspected) {
        findings[number] = found;
    }
    Ok(findings)
}

#[cfg(test)]
mod tests;

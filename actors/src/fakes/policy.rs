//! Copilots that a test configures.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;

use crate::domain::conversation::quota::Quotas;
use crate::domain::guardrail::{OnMatch, Rule, RuleSet};
use crate::domain::ids::{CopilotName, TenantId};
use crate::domain::policy::{Policy, Repeat, ToolDefinition, ToolPolicy};
use crate::domain::schema::{InvalidSchema, Schema};
use crate::ports::{Policies, ServingState};
use crate::tenancy::TenantScope;

/// Policies that are the same for every tenant; the first copilot is the default.
#[derive(Debug, Default)]
pub struct FixedPolicies {
    policies: Mutex<Vec<Arc<Policy>>>,
    quotas: Mutex<Quotas>,
    standings: Mutex<HashMap<TenantId, ServingState>>,
}

impl FixedPolicies {
    /// Creates policies with a single copilot.
    pub fn of(policy: Policy) -> Self {
        Self {
            policies: Mutex::new(vec![Arc::new(policy)]),
            ..Self::default()
        }
    }

    /// Replaces the copilot of the same name, or adds one: simulates a reload of the configuration.
    pub fn set(&self, policy: Policy) {
        let mut policies = self.policies.lock();
        match policies.iter_mut().find(|known| known.copilot == policy.copilot) {
            Some(known) => *known = Arc::new(policy),
            None => policies.push(Arc::new(policy)),
        }
    }

    /// Suspends or resumes a tenant.
    pub fn suspend(&self, tenant: &TenantId, is_suspended: bool) {
        let standing = if is_suspended {
            ServingState::Suspended
        } else {
            ServingState::Served
        };
        self.stand(tenant, standing);
    }

    /// Sets whether a tenant is left out, suspended or served. As in production, a tenant that is left out has no
    /// copilots.
    pub fn stand(&self, tenant: &TenantId, standing: ServingState) {
        let mut standings = self.standings.lock();
        standings.insert(tenant.clone(), standing);
    }
}

impl FixedPolicies {
    /// Sets the storage quotas of every tenant.
    pub fn limit(&self, quotas: Quotas) {
        *self.quotas.lock() = quotas;
    }
}

impl Policies for FixedPolicies {
    fn quotas(&self, _: &TenantScope) -> Quotas {
        *self.quotas.lock()
    }

    fn policy(&self, scope: &TenantScope, copilot: Option<&CopilotName>) -> Option<Arc<Policy>> {
        if self.standing(scope) == ServingState::LeftOut {
            return None;
        }
        let policies = self.policies.lock();
        match copilot {
            None => policies.first().cloned(),
            Some(name) => policies.iter().find(|policy| policy.copilot == *name).cloned(),
        }
    }

    fn standing(&self, scope: &TenantScope) -> ServingState {
        let standings = self.standings.lock();
        standings.get(scope.tenant()).copied().unwrap_or_default()
    }
}

/// Returns a copilot on route `main` with summaries on route `small`, without tools and rules.
pub fn policy(copilot: CopilotName) -> Policy {
    Policy {
        instructions: "You help.".to_owned(),
        route: "main".to_owned(),
        model: "fake-1".to_owned(),
        small_route: "small".to_owned(),
        memory: crate::domain::policy::MemoryPolicy::for_context(128_000, 128_000),
        ..Policy::removed(Some(&copilot))
    }
}

impl Policy {
    /// Adds a tool of `system` that accepts any object and has `timeout` for a call.
    ///
    /// # Errors
    /// Never in practice: the schema is fixed.
    pub fn with_tool(
        mut self,
        name: &str,
        system: &str,
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<Self, InvalidSchema> {
        let tool = ToolDefinition {
            name: name.to_owned(),
            description: format!("Does {name}."),
            system: system.to_owned(),
            repeat,
            timeout,
            parameters: Schema::compile(json!({ "type": "object" }))?,
            tokens: OnceLock::new(),
        };
        let tool = ToolPolicy {
            tool: Arc::new(tool),
            approval: false,
            timeout,
        };
        self.tools.insert(name.to_owned(), tool);
        Ok(self)
    }

    /// Requires approval for each call of `tool`.
    pub fn with_approval(mut self, tool: &str) -> Self {
        if let Some(tool) = self.tools.get_mut(tool) {
            tool.approval = true;
        }
        self
    }

    /// Adds a rule for answers.
    pub fn with_output_rule(mut self, literal: &str, action: OnMatch) -> Self {
        let rule = Rule {
            name: literal.to_owned(),
            literal: literal.to_owned(),
            action,
            confusables: false,
        };
        self.rules.output = self.rules.output.and(&RuleSet::new([rule]));
        self
    }
}

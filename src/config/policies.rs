//! The copilots' policies, built from the configuration.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::conversation::quota::Quotas;
use copilotd_actors::domain::guardrail::Rules;
use copilotd_actors::domain::ids::{CopilotName, TenantId};
use copilotd_actors::domain::policy::{Policy, ToolPolicy};
use copilotd_actors::domain::sent_prompt::FixedParts;
use copilotd_actors::ports::{Policies, ServingState, ToolDefinitions};
use copilotd_actors::tenancy::TenantScope;

use super::{Config, Copilot, Faults, ServingStates, Tenant};

/// The policies of one configuration.
#[derive(Debug, Clone, Default)]
pub struct ConfiguredPolicies {
    of_tenants: HashMap<TenantId, OfTenant>,
    standings: ServingStates,
}

#[derive(Debug, Clone, Default)]
struct OfTenant {
    quotas: Quotas,
    copilots: Vec<Arc<Policy>>,
}

impl Policies for ConfiguredPolicies {
    fn policy(&self, scope: &TenantScope, copilot: Option<&CopilotName>) -> Option<Arc<Policy>> {
        let policies = &self.of_tenants.get(scope.tenant())?.copilots;
        match copilot {
            Some(name) => policies.iter().find(|policy| policy.copilot == *name).cloned(),
            None => policies.first().cloned(),
        }
    }

    fn quotas(&self, scope: &TenantScope) -> Quotas {
        self.of_tenants
            .get(scope.tenant())
            .map(|tenant| tenant.quotas)
            .unwrap_or_default()
    }

    fn standing(&self, scope: &TenantScope) -> ServingState {
        self.standings.of(scope.tenant())
    }
}

impl ConfiguredPolicies {
    /// Returns the number of copilots, over all tenants.
    pub fn len(&self) -> usize {
        self.of_tenants.values().map(|tenant| tenant.copilots.len()).sum()
    }

    /// Whether there is no copilot at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Config {
    /// Builds the policy of every copilot. `catalog` returns the tools of a tenant's systems.
    pub fn policies(&self, catalog: impl Fn(&TenantId) -> ToolDefinitions) -> Result<ConfiguredPolicies, Faults> {
        let mut faults = Faults::default();
        let mut all = HashMap::new();
        for (t, tenant) in self.tenants.iter().enumerate() {
            let (mut policies, of_all, tools) = (Vec::new(), tenant.rules(), catalog(&tenant.id));
            for (c, copilot) in tenant.copilots.iter().enumerate() {
                let path = format!("tenants[{t}].copilots[{c}]");
                let rules = of_all.and(&copilot.rules());
                policies.extend(
                    self.policy(tenant, copilot, rules, &tools, &path, &mut faults)
                        .map(Arc::new),
                );
            }
            let tenant_policies = OfTenant {
                quotas: tenant.limits.quotas(),
                copilots: policies,
            };
            all.insert(tenant.id.clone(), tenant_policies);
        }
        faults.into_result()?;
        Ok(ConfiguredPolicies {
            of_tenants: all,
            standings: ServingStates::of_config(self),
        })
    }

    fn policy(
        &self,
        tenant: &Tenant,
        copilot: &Copilot,
        rules: Rules,
        tools: &ToolDefinitions,
        path: &str,
        faults: &mut Faults,
    ) -> Option<Policy> {
        let mut offered = BTreeMap::new();
        for (index, name) in copilot.tools.iter().enumerate() {
            let Some(tool) = tools.get(name) else {
                let mut systems = tenant.systems.iter();
                let is_discovered = systems.any(|system| system.discovers_tools && system.owns(name));
                // A system that has to be asked for its tools may not have answered yet.
                if !is_discovered {
                    faults.add(format!("{path}.tools[{index}]"), format!("there is no tool {name:?}"));
                }
                continue;
            };
            let policy = ToolPolicy {
                tool: Arc::clone(tool),
                approval: copilot.approval.contains(name),
                timeout: copilot
                    .tool_timeouts
                    .get(name)
                    .map_or(tool.timeout, |s| Duration::from_secs(*s)),
            };
            offered.insert(name.clone(), policy);
        }
        // Loading has checked the routes.
        let route = self.route(&copilot.route)?;
        let small_route = self.route(copilot.small_route())?;
        Some(Policy {
            copilot: copilot.name.clone(),
            instructions: copilot.instructions.clone(),
            route: route.name.clone(),
            model: route.model().to_owned(),
            small_route: small_route.name.clone(),
            titles: copilot.titles(),
            prices: self.price_list().history(route.model()),
            tools: offered,
            client_tools: copilot.client_tools,
            limits: copilot.limits.limits(),
            memory: copilot
                .memory
                .memory(route.context_tokens(), small_route.context_tokens()),
            rules,
            knowledge: copilot.knowledge(),
            reads: route.reads(),
            fixed: FixedParts::default(),
        })
    }
}

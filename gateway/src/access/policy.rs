//! What applies to a tenant's calls, beside the models it may use.

use copilotd_actors::domain::guardrail as guard;

/// Policy for all answers of the endpoint to one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantPolicy {
    /// Guardrail rules for prompts and answers.
    pub rules: guard::Rules,
    /// Version of the knowledge that the tenant's answers rest on.
    pub knowledge_version: String,
}

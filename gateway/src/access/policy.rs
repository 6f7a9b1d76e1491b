//! The terms on which a tenant's calls are answered, beside what it may call.

use copilotd_actors::domain::guardrail as guard;

/// What holds for every answer of the endpoint to one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Its rules on prompts and answers.
    pub rules: guard::Rules,
    /// The version of what its answers rest on.
    pub knowledge_version: String,
}

//! The configuration of a copilot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet, Rules};
use copilotd_actors::domain::ids::{CollectionName, CopilotName};
use copilotd_actors::domain::policy::{CitationPolicy, KnowledgePolicy, Limits, MemoryPolicy};
use serde::Deserialize;

use super::models::nano_usd;
use super::optional_seconds;

/// A copilot of a tenant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copilot {
    /// Name of the copilot.
    pub name: CopilotName,
    /// System instructions for every conversation.
    #[serde(default)]
    pub instructions: String,
    /// Route for its answers.
    pub route: String,
    small_route: Option<String>,
    titles: Option<bool>,
    /// Names of the tools it may call.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Tools whose every call needs a person's approval.
    #[serde(default)]
    pub approval: Vec<String>,
    /// Whether its turns may bring tools of the user's page. They give nobody a right: what a page's function does, the
    /// page could do without a model, so they are allowed unless the operator says otherwise.
    #[serde(default = "super::models::yes")]
    pub client_tools: bool,
    /// Timeout of one call in seconds, by tool.
    #[serde(default)]
    pub tool_timeouts: BTreeMap<String, u64>,
    /// Limits of a turn.
    #[serde(default)]
    pub limits: LimitOverrides,
    /// When the conversation's history is compressed.
    #[serde(default)]
    pub memory: MemoryOverrides,
    /// Collections of the tenant's knowledge that its turns search.
    #[serde(default)]
    pub knowledge: Vec<CollectionName>,
    /// Whether its answers cite the documents they rest on.
    #[serde(default)]
    pub citations: Citations,
    /// What readers see in place of a sentence that no citation supports, with `citations = "required"`.
    pub unsupported_text: Option<String>,
    /// Whether its small model orders the documents that were found for a turn.
    #[serde(default)]
    pub rerank: bool,
    /// Texts that end a turn when its prompt contains them.
    #[serde(default)]
    pub deny_input: Vec<DenyRule>,
    /// Texts that answers must not contain.
    #[serde(default)]
    pub deny_output: Vec<DenyRule>,
}

impl Copilot {
    /// Returns the route for summaries.
    pub fn small_route(&self) -> &str {
        self.small_route.as_deref().unwrap_or(&self.route)
    }

    /// Returns whether titles are written: by default only by a small model, because `route` may be a costly one.
    pub fn titles(&self) -> bool {
        self.titles.unwrap_or(self.small_route.is_some())
    }

    /// Returns the documents that it draws on.
    pub fn knowledge(&self) -> KnowledgePolicy {
        KnowledgePolicy {
            collections: self.knowledge.clone(),
            citations: self.citations.into(),
            replacement: self.unsupported_text.as_deref().map(Arc::from),
            reranks: self.rerank,
        }
    }

    /// Returns its own guardrail rules, without the tenant's.
    pub fn rules(&self) -> Rules {
        rules(&self.deny_input, &self.deny_output)
    }
}

/// Whether answers cite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Citations {
    /// The model is not asked to cite.
    Off,
    /// The model is asked to cite.
    #[default]
    On,
    /// As `On`; the message names the sentences that no citation supports.
    Required,
}

impl From<Citations> for CitationPolicy {
    fn from(citations: Citations) -> Self {
        match citations {
            Citations::Off => Self::Off,
            Citations::On => Self::On,
            Citations::Required => Self::Required,
        }
    }
}

/// Limits of a turn that differ from [`Limits::default`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field overrides the one of its name in `Limits`")]
pub struct LimitOverrides {
    pub queue: Option<usize>,
    pub input_bytes: Option<usize>,
    pub metadata_bytes: Option<usize>,
    pub steps: Option<u32>,
    pub tokens: Option<u64>,
    pub cost_usd: Option<f64>,
    #[serde(default, rename = "time_s", deserialize_with = "optional_seconds")]
    pub time: Option<Duration>,
    pub calls_per_step: Option<usize>,
    pub result_bytes: Option<usize>,
    pub answer_bytes: Option<usize>,
    pub attempts: Option<u32>,
    pub repairs: Option<u32>,
    #[serde(default, rename = "approval_s", deserialize_with = "optional_seconds")]
    pub approval: Option<Duration>,
    #[serde(default, rename = "wait_s", deserialize_with = "optional_seconds")]
    pub wait: Option<Duration>,
}

impl LimitOverrides {
    /// Returns the effective limits.
    pub fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            queue: self.queue.unwrap_or(usual.queue),
            input_bytes: self.input_bytes.unwrap_or(usual.input_bytes),
            metadata_bytes: self.metadata_bytes.unwrap_or(usual.metadata_bytes),
            steps: self.steps.unwrap_or(usual.steps),
            tokens: self.tokens.unwrap_or(usual.tokens),
            cost: self.cost_usd.map_or(usual.cost, nano_usd),
            time: self.time.unwrap_or(usual.time),
            calls_per_step: self.calls_per_step.unwrap_or(usual.calls_per_step),
            result_bytes: self.result_bytes.unwrap_or(usual.result_bytes),
            answer_bytes: self.answer_bytes.unwrap_or(usual.answer_bytes),
            attempts: self.attempts.unwrap_or(usual.attempts),
            repairs: self.repairs.unwrap_or(usual.repairs),
            approval: self.approval.unwrap_or(usual.approval),
            wait: self.wait.unwrap_or(usual.wait),
        }
    }
}

/// Memory figures that differ from [`MemoryPolicy::for_context`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field overrides the one of its name in `MemoryPolicy`")]
pub struct MemoryOverrides {
    /// See [`MemoryPolicy::with_budget`].
    pub budget_tokens: Option<u64>,
    pub trigger_tokens: Option<u64>,
    pub keep_tokens: Option<u64>,
    pub hard_tokens: Option<u64>,
    pub summary_tokens: Option<u64>,
    pub pass_tokens: Option<u64>,
    pub passes: Option<usize>,
    #[serde(default, rename = "timeout_s", deserialize_with = "optional_seconds")]
    pub timeout: Option<Duration>,
    pub facts: Option<bool>,
}

impl MemoryOverrides {
    /// Returns the effective figures for the context sizes of the two routes.
    pub fn memory(&self, context_tokens: u64, small_context_tokens: u64) -> MemoryPolicy {
        let usual = MemoryPolicy::for_context(context_tokens, small_context_tokens);
        let usual = match self.budget_tokens {
            Some(budget) => usual.with_budget(budget),
            None => usual,
        };
        MemoryPolicy {
            context_tokens,
            trigger_tokens: self.trigger_tokens.unwrap_or(usual.trigger_tokens),
            keep_tokens: self.keep_tokens.unwrap_or(usual.keep_tokens),
            hard_tokens: self.hard_tokens.unwrap_or(usual.hard_tokens),
            summary_tokens: self.summary_tokens.unwrap_or(usual.summary_tokens),
            pass_tokens: self.pass_tokens.unwrap_or(usual.pass_tokens),
            passes: self.passes.unwrap_or(usual.passes),
            timeout: self.timeout.unwrap_or(usual.timeout),
            facts: self.facts.unwrap_or(usual.facts),
            ..usual
        }
    }
}

/// A rule that denies a literal text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyRule {
    /// Name of the rule.
    pub name: String,
    /// The text.
    pub literal: String,
    /// What happens to a text that contains it.
    #[serde(default)]
    pub action: OnDeny,
    /// Whether look-alike characters count as the same.
    #[serde(default)]
    pub confusables: bool,
}

/// What happens when a deny rule matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDeny {
    /// The turn ends.
    #[default]
    Block,
    /// The text is replaced.
    Redact,
}

/// Converts rules to the domain's type.
pub(super) fn rules(input: &[DenyRule], output: &[DenyRule]) -> Rules {
    Rules {
        input: RuleSet::new(input.iter().map(DenyRule::rule)),
        output: RuleSet::new(output.iter().map(DenyRule::rule)),
    }
}

impl DenyRule {
    /// Converts the rule to the domain's type.
    pub fn rule(&self) -> Rule {
        Rule {
            name: self.name.clone(),
            literal: self.literal.clone(),
            action: match self.action {
                OnDeny::Block => OnMatch::Block,
                OnDeny::Redact => OnMatch::Redact,
            },
            confusables: self.confusables,
        }
    }
}

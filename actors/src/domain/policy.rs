//! A copilot's policy, from the tenant's configuration. Passed into `decide`; never part of the log.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;

use super::file::FileKind;
use super::guardrail::Rules;
use super::ids::{CollectionName, CopilotName};
use super::prices::PriceHistory;
use super::schema::Schema;
use super::sent_prompt::FixedParts;
use super::usage::{NanoUsd, Usage};

/// The policy of a copilot.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The copilot's name.
    pub copilot: CopilotName,
    /// The instructions at the beginning of every prompt.
    pub instructions: String,
    /// The route for answers.
    pub route: String,
    /// The name of the model behind `route`, for records.
    pub model: String,
    /// The route for summaries: a smaller, cheaper model.
    pub small_route: String,
    /// Whether the small model writes titles of conversations that have none.
    pub titles: bool,
    /// Prices of the model behind `route`, for steps whose usage has to be estimated.
    pub prices: PriceHistory,
    /// The tools that it may call, by name.
    pub tools: BTreeMap<String, ToolPolicy>,
    /// Whether its turns may bring tools of the user's page.
    pub client_tools: bool,
    /// The limits of a turn.
    pub limits: Limits,
    /// When and how its memory is compressed.
    pub memory: MemoryPolicy,
    /// The guardrail rules.
    pub rules: Rules,
    /// The documents that its turns draw on.
    pub knowledge: KnowledgePolicy,
    /// The kinds of files beside text that a target of `route` reads: no others are loaded for a prompt.
    pub reads: Vec<FileKind>,
    /// System message and tools of its prompts, once they were needed.
    pub fixed: FixedParts,
}

/// The documents that a copilot draws on, and how its answers cite them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnowledgePolicy {
    /// The collections that its turns search; without any, nothing is retrieved.
    pub collections: Vec<CollectionName>,
    /// Whether answers cite.
    pub citations: CitationPolicy,
    /// What readers see in place of a sentence that no citation supports, if citations are required; none to only name these
    /// sentences. With it, an answer is shown once it is whole.
    pub replacement: Option<Arc<str>>,
    /// Whether the small model orders what was found.
    pub reranks: bool,
}

/// Whether answers cite the documents that they rest on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CitationPolicy {
    /// The model is not asked to cite.
    Off,
    /// The model is asked to cite.
    #[default]
    On,
    /// The model is asked to cite, and the message names the sentences that no citation supports.
    Required,
}

impl KnowledgePolicy {
    /// Returns whether the model is asked to cite.
    pub fn cites(&self) -> bool {
        !self.collections.is_empty() && self.citations != CitationPolicy::Off
    }

    /// Returns whether sentences need a citation.
    pub fn requires_citations(&self) -> bool {
        !self.collections.is_empty() && self.citations == CitationPolicy::Required
    }

    /// Returns what replaces sentences without one.
    pub fn replacement(&self) -> Option<&Arc<str>> {
        self.replacement.as_ref().filter(|_| self.requires_citations())
    }
}

impl Policy {
    /// Returns the policy of a copilot that is no longer configured: it has no route, so that open turns end with a
    /// clear failure.
    pub fn removed(copilot: Option<&CopilotName>) -> Self {
        Self {
            copilot: copilot.cloned().unwrap_or_else(CopilotName::unnamed),
            instructions: String::new(),
            route: String::new(),
            model: String::new(),
            small_route: String::new(),
            titles: false,
            prices: PriceHistory::default(),
            tools: BTreeMap::new(),
            client_tools: true,
            limits: Limits::default(),
            memory: MemoryPolicy::for_context(8_192, 8_192),
            rules: Rules::default(),
            knowledge: KnowledgePolicy::default(),
            reads: Vec::new(),
            fixed: FixedParts::default(),
        }
    }

    /// Adds the cost, at the model's price at a point in time, to an estimated usage.
    #[must_use]
    pub fn priced(&self, usage: Usage, at: Timestamp) -> Usage {
        let cost = self.prices.at(at).map_or(0, |price| price.cost(&usage));
        Usage { cost, ..usage }
    }
}

impl Policy {
    /// Returns the policy of a copilot whose settings cannot be read while its tenant is left out: nothing is started
    /// under it, and its limits are open, so that nothing ends because of them.
    pub fn unavailable(copilot: Option<&CopilotName>) -> Self {
        Self {
            limits: Limits {
                steps: u32::MAX,
                tokens: u64::MAX,
                attempts: u32::MAX,
                repairs: u32::MAX,
                ..Limits::default()
            },
            ..Self::removed(copilot)
        }
    }
}

/// The settings for one tool of a copilot.
#[derive(Debug, Clone)]
pub struct ToolPolicy {
    /// The definition of the tool.
    pub tool: Arc<ToolDefinition>,
    /// Whether a person has to approve each call.
    pub approval: bool,
    /// The time limit of one call; the definition's unless configured.
    pub timeout: Duration,
}

/// The definition of a tool, read from its file in `schemas/tools/`.
#[derive(Debug)]
pub struct ToolDefinition {
    /// The name by which the model calls the tool.
    pub name: String,
    /// The description for the model.
    pub description: String,
    /// The name of the external system whose connector runs the tool, such as `zendesk`.
    pub system: String,
    /// Whether a call may be repeated.
    pub repeat: Repeat,
    /// The time limit of one call.
    pub timeout: Duration,
    /// The JSON Schema of the arguments.
    pub parameters: Schema,
    /// Tokens of the definition; counted at its first use.
    pub tokens: OnceLock<u64>,
}

/// What may be done with a call whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// The call changes nothing: send it again.
    Read,
    /// The vendor remembers the call's idempotency key for this long, and its effect can also be looked up: see
    /// `doubt`.
    Keyed(Duration),
    /// The call can be looked up at the vendor by its id, but a second copy would have a second effect: look it up and
    /// never send it again.
    LookUp,
    /// The outcome cannot be determined: the call ends as `unknown`.
    Never,
}

impl Repeat {
    /// Returns whether the call changes anything in the external system.
    pub fn changes_something(self) -> bool {
        self != Self::Read
    }
}

/// The limits of a turn and its queue.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum number of turns queued behind the running one.
    pub queue: usize,
    /// Maximum size of a prompt, in bytes.
    pub input_bytes: usize,
    /// Maximum size of metadata, in bytes of JSON.
    pub metadata_bytes: usize,
    /// Maximum number of model steps of a turn.
    pub steps: u32,
    /// Maximum number of tokens of a turn, prompts and answers together.
    pub tokens: u64,
    /// Maximum cost of a turn; 0 means no limit.
    pub cost: NanoUsd,
    /// Maximum time of a turn, not counting the time it waits for approvals, a provider or a limit.
    pub time: Duration,
    /// Maximum number of tool calls of one step.
    pub calls_per_step: usize,
    /// Maximum size of one tool result, in bytes of JSON.
    pub result_bytes: usize,
    /// Maximum size of one answer, in bytes.
    pub answer_bytes: usize,
    /// Maximum number of attempts of a turn across crashes. Waits for a provider or a limit do not count.
    pub attempts: u32,
    /// Maximum number of invalid arguments or answers that the model may repair in one turn.
    pub repairs: u32,
    /// How long a person may take to decide on an approval.
    pub approval: Duration,
    /// Maximum total time that a model step waits for an unavailable provider or a limit; the wait is visible to
    /// clients.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 16,
            input_bytes: 64 * 1024,
            metadata_bytes: 16 * 1024,
            steps: 16,
            tokens: 1_000_000,
            cost: 0,
            time: Duration::from_secs(600),
            calls_per_step: 16,
            result_bytes: 32 * 1024,
            answer_bytes: 256 * 1024,
            attempts: 3,
            repairs: 3,
            approval: Duration::from_secs(3600),
            wait: Duration::from_secs(600),
        }
    }
}

/// When the memory is compressed and how much of it stays verbatim. All token figures are those of the one tokenizer.
#[derive(Debug, Clone)]
pub struct MemoryPolicy {
    /// Context size of the answering model.
    pub context_tokens: u64,
    /// The window is compressed once it is larger than this.
    pub trigger_tokens: u64,
    /// Maximum size of what stays verbatim afterwards.
    pub keep_tokens: u64,
    /// The window is truncated once it is larger than this and no summary can be made.
    pub hard_tokens: u64,
    /// Maximum length of a summary.
    pub summary_tokens: u64,
    /// Maximum input of one summariser call.
    pub pass_tokens: u64,
    /// Maximum number of summariser calls of one compression; text beyond that is dropped.
    pub passes: usize,
    /// Time limit of one summariser call.
    pub timeout: Duration,
    /// Maximum size of the retrieved chunks in one prompt.
    pub retrieved_tokens: u64,
    /// Whether facts about the user are learned and used.
    pub facts: bool,
    /// Maximum size of the facts about the user in one prompt.
    pub fact_tokens: u64,
    /// What optional parts of a prompt leave free for the answer.
    pub answer_tokens: u64,
    /// Maximum size of summary, earlier turns and recalled messages in one prompt; none if the whole window is sent.
    pub conversation_tokens: Option<u64>,
    /// Maximum size of the recalled messages in one prompt if there is no `conversation_tokens`.
    pub recalled_tokens: u64,
}

/// The retrieved chunks get at most this part of the context.
const RETRIEVED_SHARE: u64 = 4;
/// The most that retrieved chunks get: eight of the usual 256 tokens, each with its frame, twice over.
const MAX_RETRIEVED_TOKENS: u64 = 4_096;
/// Facts about the user get at most this part of the context, with or without a budget.
const FACTS_SHARE: u64 = 16;
/// The most that facts about the user get: about 25 of them.
const MAX_FACT_TOKENS: u64 = 1_024;
/// Without a budget, recalled messages get at most this part of the context.
const RECALLED_SHARE: u64 = 8;
/// The most that recalled messages get without a budget.
const MAX_RECALLED_TOKENS: u64 = 2_000;
/// With a budget, the summary gets at most this part of it.
const SUMMARY_SHARE: u64 = 10;
/// With a budget, a compression keeps at most this part of it verbatim.
const KEPT_SHARE: u64 = 4;
/// One part in this many of a budget stays free: other tokenizers count more. BERT's, with 8 tokens for each message, counts up
/// to 1.6 % more (docs/reference/evaluation.md).
const MARGIN: u64 = 50;
/// A summary of fewer tokens would say nothing.
const MIN_SUMMARY_TOKENS: u64 = 64;

impl MemoryPolicy {
    /// Derives the values from the context sizes of the two models.
    pub fn for_context(context_tokens: u64, small_context_tokens: u64) -> Self {
        Self {
            context_tokens,
            trigger_tokens: (context_tokens / 2).min(16_000),
            keep_tokens: (context_tokens / 6).min(6_000),
            hard_tokens: context_tokens * 7 / 10,
            summary_tokens: (context_tokens / 16).clamp(64, 1_000),
            pass_tokens: (small_context_tokens / 2).clamp(256, 12_000),
            passes: 8,
            timeout: Duration::from_secs(60),
            retrieved_tokens: (context_tokens / RETRIEVED_SHARE).min(MAX_RETRIEVED_TOKENS),
            facts: false,
            fact_tokens: (context_tokens / FACTS_SHARE).min(MAX_FACT_TOKENS),
            answer_tokens: (context_tokens / 8).min(4_096),
            conversation_tokens: None,
            recalled_tokens: (context_tokens / RECALLED_SHARE).min(MAX_RECALLED_TOKENS),
        }
    }

    /// Bounds what of the conversation a prompt contains besides the running turn: summary, recent turns and recalled
    /// messages. Instructions, documents and the answer have bounds of their own. Older turns are compressed as soon as
    /// the window exceeds the budget; what is compressed can still be recalled.
    #[must_use]
    pub fn with_budget(self, budget_tokens: u64) -> Self {
        Self {
            trigger_tokens: self.trigger_tokens.min(budget_tokens),
            keep_tokens: self.keep_tokens.min(budget_tokens / KEPT_SHARE),
            summary_tokens: self
                .summary_tokens
                .min((budget_tokens / SUMMARY_SHARE).max(MIN_SUMMARY_TOKENS)),
            conversation_tokens: Some(budget_tokens - budget_tokens / MARGIN),
            ..self
        }
    }
}

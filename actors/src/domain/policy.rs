//! What a tenant's configuration says about one copilot. Passed into `decide`; never part of the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::guard::Rules;
use super::ids::CopilotName;
use super::prices::PriceHistory;
use super::schema::Schema;
use super::usage::{NanoUsd, Usage};

/// Everything that decides how a copilot works.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name.
    pub copilot: CopilotName,
    /// What it is told before every conversation.
    pub instructions: String,
    /// Route of its answers.
    pub route: String,
    /// Name of the model behind `route`, for the record.
    pub model: String,
    /// Route of summaries: a smaller, cheaper model.
    pub small_route: String,
    /// Prices of the model behind `route`, for steps whose usage only we can estimate.
    pub prices: PriceHistory,
    /// Tools it may call, by name.
    pub tools: BTreeMap<String, ToolPolicy>,
    /// Bounds of a turn.
    pub limits: Limits,
    /// When and how its memory is compressed.
    pub memory: MemoryPolicy,
    /// Its guardrails.
    pub rules: Rules,
}

impl Policy {
    /// Stands for a copilot that is not configured any more: it has no route, so that open turns end with a clear failure.
    pub fn removed(copilot: Option<&CopilotName>) -> Self {
        Self {
            copilot: copilot.cloned().unwrap_or_else(CopilotName::unnamed),
            instructions: String::new(),
            route: String::new(),
            model: String::new(),
            small_route: String::new(),
            prices: PriceHistory::default(),
            tools: BTreeMap::new(),
            limits: Limits::default(),
            memory: MemoryPolicy::for_context(8_192, 8_192),
            rules: Rules::default(),
        }
    }

    /// Puts into an estimate of its model's usage what that costs at a point in time.
    #[must_use]
    pub fn priced(&self, usage: Usage, at: Timestamp) -> Usage {
        let cost = self.prices.at(at).map_or(0, |price| price.cost(&usage));
        Usage { cost, ..usage }
    }
}

impl Policy {
    /// Stands for a copilot whose settings cannot be read now, while its tenant is left out: nothing is begun by it, and it has no
    /// bounds, so that nothing ends because of them.
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

/// One tool as a copilot may use it.
#[derive(Debug, Clone)]
pub struct ToolPolicy {
    /// What the tool is.
    pub tool: Arc<ToolDefinition>,
    /// Whether a person has to allow each call.
    pub approval: bool,
    /// Longest time for one call; the definition's unless configured.
    pub timeout: Duration,
}

/// A tool, read from its file in `schemas/tools/`.
#[derive(Debug)]
pub struct ToolDefinition {
    /// Name that the model calls.
    pub name: String,
    /// What the model is told about it.
    pub description: String,
    /// External system whose connector runs it, such as `zendesk`.
    pub system: String,
    /// What repeating it would do.
    pub repeat: Repeat,
    /// Longest time for one call.
    pub timeout: Duration,
    /// JSON Schema of its arguments.
    pub parameters: Schema,
}

/// What may be done with a call whose outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing: do it again.
    Read,
    /// The vendor knows its idempotency key for so long, and what it did can also be looked up: see `doubt`.
    Keyed(Duration),
    /// It can be found at the vendor by its id, but a second copy would have a second effect: look, and never send it again.
    LookUp,
    /// Nobody can tell: it ends `unknown`.
    Never,
}

impl Repeat {
    /// Whether the call changes something outside.
    pub fn changes_something(self) -> bool {
        self != Self::Read
    }
}

/// Bounds of a turn and its queue.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Turns that may wait behind the running one.
    pub queue: usize,
    /// Bytes of a prompt.
    pub input_bytes: usize,
    /// Bytes of metadata, as JSON.
    pub metadata_bytes: usize,
    /// Model steps of a turn.
    pub steps: u32,
    /// Tokens of a turn, prompts and answers together.
    pub tokens: u64,
    /// Money of a turn; 0 means no limit.
    pub cost: NanoUsd,
    /// Time of a turn, not counting the time it waits for approvals, for a provider or for a limit.
    pub time: Duration,
    /// Tool calls that one step may ask for.
    pub calls_per_step: usize,
    /// Bytes of one tool result, as JSON.
    pub result_bytes: usize,
    /// Bytes of one answer.
    pub answer_bytes: usize,
    /// Attempts of a turn over crashes. Waits for a provider or a limit are none.
    pub attempts: u32,
    /// Invalid arguments or answers that the model may repair in one turn.
    pub repairs: u32,
    /// Time a person has to decide.
    pub approval: Duration,
    /// Longest time that a model step waits, visibly and in all, for a provider that is unavailable or for a limit.
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

/// When the memory is compressed and how much of it stays verbatim. All figures are tokens of the one tokenizer.
#[derive(Debug, Clone)]
pub struct MemoryPolicy {
    /// Context of the answering model.
    pub context_tokens: u64,
    /// The window is compressed once it is larger than this.
    pub trigger_tokens: u64,
    /// What stays verbatim afterwards, at most.
    pub keep_tokens: u64,
    /// The window is truncated, if no summary can be had, once it is larger than this.
    pub hard_tokens: u64,
    /// Length of a summary, at most.
    pub summary_tokens: u64,
    /// Input of one summariser call, at most.
    pub pass_tokens: u64,
    /// Summariser calls of one compression, at most; what is beyond is left out.
    pub passes: usize,
    /// Time of one summariser call.
    pub timeout: Duration,
}

impl MemoryPolicy {
    /// Derives the figures from the contexts of the two models.
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
        }
    }
}

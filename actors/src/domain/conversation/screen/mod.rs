//! Screening: checks the content of a command against its copilot's guardrails, its tools' schemas and the size limits.
//!
//! Screening takes time proportional to the content, so it is a separate step before [`decide`](super::decide), which
//! only uses the result. [`Command::weight`] is its cost; above [`INLINE_COST`](crate::compute::INLINE_COST) it
//! belongs on the compute pool. It has two halves, between which detectors look at the content
//! ([`Guardrails::screen`](crate::guardrails::Guardrails::screen)): [`Command::prepare`], then
//! [`PreparedCommand::finish`] with what they found. [`Command::screen`] is both, with the deny rules alone.
//!
//! Invariant: only a [`ScreenedCommand`] can be decided, and its content does not change afterwards.

mod call;
mod content;
mod request;
mod tool_answer;

use super::command::{Command, Decision, StoppedWork};
use super::decide::Rejection;
use crate::domain::guardrail::{self as guard, ContentKind, Finding};
use crate::domain::ids::TurnId;
use crate::domain::policy::Policy;
use crate::domain::schema::AcceptedSchema;
use crate::domain::tool::client;
use crate::domain::weight;
pub(crate) use call::parse as parse_arguments;
use content::Part;
pub use content::PartTexts;
pub use request::MAX_TITLE;
pub(crate) use tool_answer::bounded_error;

/// A command whose content is ready to be checked: bounded, parsed, and divided into contents.
#[derive(Debug, Clone)]
pub struct PreparedCommand {
    command: Command,
    result: ScreeningResult,
    parts: Vec<Part>,
}

/// A command whose content was checked.
#[derive(Debug, Clone)]
pub struct ScreenedCommand {
    command: Command,
    result: ScreeningResult,
}

/// The result of screening a command.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ScreeningResult {
    /// Why a caller's request is rejected.
    pub(crate) fault: Option<Rejection>,
    /// The name of the rule that blocks a user's text, or withholds a tool's result or a provider's error text.
    pub(crate) forbidden_by: Option<String>,
    /// The results for the calls that a model asks for, in the same order.
    pub(crate) calls: Vec<CallVerdict>,
    /// The names of the rules that redacted a tool's result.
    pub(crate) redactions: Vec<String>,
    /// The tool against whose schema edited arguments were checked.
    pub(crate) tool: Option<String>,
}

/// The result of screening one call of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CallVerdict {
    /// The name of the rule that forbids the call. Its arguments are dropped then.
    pub(crate) forbidden_by: Option<String>,
    pub(crate) arguments: Arguments,
}

/// Whether a call's arguments satisfy its tool's schema.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Arguments {
    /// The tool does not exist.
    #[default]
    NoTool,
    Valid,
    /// The arguments satisfy the schema of a tool of the user's page.
    ValidForPage,
    /// The arguments are invalid; the text tells the model why.
    Invalid(String),
}

impl ScreenedCommand {
    /// Returns the command.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Returns the running turn's progress, to be filled in.
    pub fn stop_mut(&mut self) -> Option<&mut StoppedWork> {
        self.command.stop_mut()
    }

    /// Replaces a submission's turn id with the one derived from its idempotency key.
    pub fn set_turn(&mut self, id: TurnId) {
        if let Command::Submit { turn, .. } = &mut self.command {
            *turn = id;
        }
    }

    pub(crate) fn into_parts(self) -> (Command, ScreeningResult) {
        (self.command, self.result)
    }
}

impl Command {
    /// Returns the cost of screening, in the unit of [`compute`](crate::compute). An estimate that is itself cheap.
    pub fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes = match self {
            Self::Create { title, metadata, .. } => text(title) + weight::of_members(metadata),
            Self::Update { title, metadata } => text(title) + metadata.as_ref().map_or(0, weight::of_members),
            Self::Submit {
                input,
                metadata,
                response_schema,
                client_tools,
                ..
            } => {
                let schema = response_schema.as_ref().map(AcceptedSchema::source);
                let tools = client_tools
                    .iter()
                    .map(|tool| client::weight(std::slice::from_ref(tool)));
                input.bytes() + weight::of_members(metadata) + schema.map_or(0, weight::of) + tools.sum::<usize>()
            }
            Self::Decide { decision, reason, .. } => {
                let edited = match decision {
                    Decision::Approve { arguments } => arguments.as_ref(),
                    Decision::Reject => None,
                };
                text(reason) + edited.map_or(0, weight::of)
            }
            Self::ModelReplied { reply, .. } => {
                let calls = reply.calls.iter();
                calls.map(|(name, arguments)| name.len() + weight::of(arguments)).sum()
            }
            Self::ModelFailed { failure, .. } => failure.message.len(),
            Self::ToolReplied { result, error, .. } | Self::AnswerClientTool { result, error, .. } => {
                text(error) + result.as_ref().map_or(0, weight::of)
            }
            _ => 0,
        };
        bytes * guard::COST_PER_BYTE
    }

    /// Returns what the command's content is, if it has any that guardrails check.
    pub fn content_kind(&self) -> Option<ContentKind> {
        match self {
            Self::Submit { .. } => Some(ContentKind::Prompt),
            Self::Decide { .. } => Some(ContentKind::CallDecision),
            Self::ModelReplied { .. } => Some(ContentKind::ToolCall),
            Self::ModelFailed { .. } => Some(ContentKind::ProviderError),
            Self::ToolReplied { .. } | Self::AnswerClientTool { .. } => Some(ContentKind::ToolAnswer),
            _ => None,
        }
    }

    /// Checks the command's shape and size, parses what a model wrote and bounds what a tool answered. `tool` is the
    /// tool of the call that the command decides on, if any.
    pub fn prepare(mut self, policy: &Policy, tool: Option<&str>) -> PreparedCommand {
        let mut result = ScreeningResult::default();
        let limits = &policy.limits;
        let mut parts = Vec::new();
        match &mut self {
            Self::Create { title, metadata, .. } => {
                result.fault = request::fault(title.as_deref(), Some(metadata), limits);
            }
            Self::Update { title, metadata } => {
                result.fault = request::fault(title.as_deref(), metadata.as_ref(), limits);
            }
            Self::Submit {
                input,
                metadata,
                client_tools,
                ..
            } => {
                result.fault = request::prompt_fault(input, metadata, limits);
                result.fault = result
                    .fault
                    .take()
                    .or_else(|| client_tools.fault_under(policy).map(Rejection::from));
                // Rejected content need not be checked.
                parts.extend(result.fault.is_none().then_some(Part::Prompt));
            }
            Self::Decide { decision, .. } => {
                result.tool = tool.map(str::to_owned);
                result.fault = request::decision_fault(policy, decision, tool);
                let is_too_large = matches!(result.fault, Some(Rejection::TooLarge { .. }));
                let with_arguments = !is_too_large;
                parts.push(Part::CallDecision { with_arguments });
            }
            Self::ModelReplied { reply, .. } => {
                let parse = |(number, (_, arguments)): (usize, &mut (String, _))| Part::ToolCall {
                    number,
                    written: call::parse(arguments),
                };
                parts.extend(reply.calls.iter_mut().enumerate().map(parse));
            }
            Self::ModelFailed { .. } => parts.push(Part::ProviderError),
            Self::ToolReplied { result, error, .. } => parts.push(tool_answer::prepare(policy, result, error)),
            Self::AnswerClientTool {
                result: answer, error, ..
            } => {
                result.fault = request::answer_fault(answer.as_ref(), error.as_deref());
                // Rejected content need not be checked.
                let part = result
                    .fault
                    .is_none()
                    .then(|| tool_answer::prepare(policy, answer, error));
                parts.extend(part);
            }
            _ => {}
        }
        PreparedCommand {
            command: self,
            result,
            parts,
        }
    }

    /// Screens the command with the deny rules alone.
    pub fn screen(self, policy: &Policy, tool: Option<&str>) -> ScreenedCommand {
        let prepared = self.prepare(policy, tool);
        let find = |part| {
            let content = PartTexts::new(&prepared, part);
            guard::find(&policy.rules, prepared.kind(part), &content).unwrap_or_else(|_| vec![Finding::unreadable()])
        };
        let findings = (0..prepared.len()).map(find).collect();
        prepared.finish(policy, findings)
    }
}

impl PreparedCommand {
    /// Carries out what was found: one list of findings for each content, in their order. Replaces in the command what
    /// readers must not see. A content without a list was not checked, so it counts as blocked.
    pub fn finish(self, policy: &Policy, findings: Vec<Vec<Finding>>) -> ScreenedCommand {
        let Self {
            mut command,
            mut result,
            parts,
        } = self;
        let mut findings = findings.into_iter();
        for part in parts {
            let findings = findings.next().unwrap_or_else(|| vec![Finding::unreadable()]);
            let kind = part.kind();
            match (part, &mut command) {
                (Part::Prompt | Part::CallDecision { .. }, _) => {
                    result.forbidden_by = guard::blocked_by(kind, &findings).map(str::to_owned);
                }
                (Part::ToolCall { number, .. }, Command::ModelReplied { reply, .. }) => {
                    let of_page = reply.client_calls.get(&number);
                    let calls = reply.calls.get_mut(number);
                    result
                        .calls
                        .extend(calls.map(|asked| call::finish(policy, asked, of_page, &findings)));
                }
                (
                    Part::ToolAnswer(answer),
                    Command::ToolReplied {
                        result: value, error, ..
                    }
                    | Command::AnswerClientTool {
                        result: value, error, ..
                    },
                ) => {
                    let verdict = guard::judge(kind, answer, &findings);
                    tool_answer::finish(policy, verdict, value, error, &mut result);
                }
                (Part::ProviderError, Command::ModelFailed { failure, .. }) => {
                    if let Some(rule) = guard::blocked_by(kind, &findings) {
                        result.forbidden_by = Some(rule.to_owned());
                        "a guardrail rule withholds the provider's message".clone_into(&mut failure.message);
                    }
                }
                // Each part belongs to its command.
                (Part::ToolCall { .. } | Part::ToolAnswer(_) | Part::ProviderError, _) => {}
            }
        }
        ScreenedCommand { command, result }
    }
}

//! `Agent`: runs one step of a turn: assembles the prompt, streams the answer through the guardrails into the live
//! message, and reports the outcome to its conversation.
//!
//! A task, not an actor: it receives no messages, and an actor's mailboxes would take as much memory as a conversation.
//! Supervised by its `Conversation`, which cancels by dropping its handle: the task is dropped at its next await, and
//! the upstream connection with it; a panic is reported as [`conversation::Msg::AgentDied`]. It owns nothing that must
//! survive. Tool calls go to the connectors, which report to the conversation directly.

mod answer;
mod cite;
mod client_calls;
mod facts;
mod files;
mod knowledge;
mod prompt;
mod recall;
mod report;
mod rerank;
mod retrieved;
mod rewrite;
mod small;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use metrics::{counter, histogram};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::conversation::{self, ConversationRef};
use super::shared::{Alive, Shared, until};
use crate::domain::citation::Mark;
use crate::domain::citation::markers::MarkerCode;
use crate::domain::content::Finish;
use crate::domain::context::memory::Memory;
use crate::domain::context::tokens;
use crate::domain::conversation::command::{Command, ModelFailure, ModelReply, OutputCheck, Step};
use crate::domain::conversation::screen::ScreenedCommand;
use crate::domain::event::GuardAction;
use crate::domain::failure::FailureClass;
use crate::domain::guardrail::pipeline::UNCHECKED_RULE;
use crate::domain::guardrail::{self as guard, ContentKind, OutputGuard, Rules, Stage, Verdict, judge};
use crate::domain::ids::{ConversationId, TenantId, UserId};
use crate::domain::policy::Policy;
use crate::domain::schema::describe;
use crate::domain::sent_prompt::ToolOffer;
use crate::domain::usage::Usage;
use crate::fairness::share::{UNMEASURED, metered};
use crate::guardrails::Unchecked;
use crate::jitter::jitter;
use crate::live::LiveMessage;
use crate::ports::{Content, ModelError, ModelEvent, ModelRequest, SchemaError, SchemaVerdict, ServingState};
use crate::tenancy::TenantScope;
use crate::{compute, crash};
use answer::Answer;
use files::TurnFiles;
use knowledge::Asked;
pub(crate) use prompt::count_entries;
use report::UNCHECKED_TEXT;
pub(super) use retrieved::RetrievalSlot;

/// Wait before the second attempt; doubles with each further one.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Upper bound of the jitter added to a visible wait, so that turns given the same time do not all come back at once.
const MAX_JITTER: Duration = Duration::from_secs(2);

/// One run step: a model call of a turn.
#[derive(Debug)]
pub struct RunStep {
    /// Turn, step and attempt.
    pub at: Step,
    /// Earliest start.
    pub not_before: Option<Timestamp>,
    /// Conversation memory from which the prompt is assembled.
    pub memory: Memory,
    /// Whether an earlier prompt of this turn was too long; if so, a summary that waits for the next turn is used now.
    pub needs_summary: bool,
    /// Policy of the copilot.
    pub policy: Arc<Policy>,
    /// JSON schema that the answer must satisfy.
    pub response_schema: Option<Arc<Value>>,
    /// The turn's client tools.
    pub client_tools: Arc<Vec<ToolOffer>>,
    /// API key that submitted the turn; the model call counts against its limits.
    pub api_key: Option<String>,
    /// The user's roles; they decide which documents the turn may read.
    pub roles: Arc<[String]>,
    /// When the turn was accepted; the time to first text is measured from here.
    pub accepted_at: Timestamp,
    /// Live message into which the answer is released.
    pub live: Arc<LiveMessage>,
    /// Tracing span of the turn.
    pub span: tracing::Span,
}

/// Runs a step; see the module documentation.
pub struct Agent {
    /// Ports and limits of the process.
    pub shared: Arc<Shared>,
    /// Conversation to which outcomes are reported.
    pub conversation: ConversationRef,
    /// Conversation id.
    pub id: ConversationId,
    /// Tenant scope.
    pub scope: TenantScope,
    /// User whose turn it is.
    pub user: UserId,
    /// What the turn's earlier steps retrieved.
    pub(super) retrieved: RetrievalSlot,
}

/// How a stream ended.
enum StreamOutcome {
    /// A complete answer, its tool calls as the model wrote them (name and arguments), and where it cites.
    Replied(Box<ModelReply>, Vec<(String, String)>, Vec<Mark>),
    BlockedByRule {
        rule: String,
        usage: Usage,
        model: String,
    },
    Failed(ModelFailure),
    /// Failed before any of the answer arrived.
    Unanswered(ModelFailure),
}

impl Agent {
    /// Starts a step. Dropping the handle stops it.
    pub(super) fn start(self, run_step: Box<RunStep>) -> AbortOnDropHandle<()> {
        let task = async move {
            let _alive = Alive::new("agent");
            let (at, conversation) = (run_step.at, self.conversation.clone());
            let share = self.shared.shares.of(self.scope.tenant());
            // Estimate for the connection to the provider.
            share.charge(UNMEASURED);
            let run = AssertUnwindSafe(self.run_step(run_step)).catch_unwind();
            if metered(share, Box::pin(run)).await.is_err() {
                let _ = conversation.cast(conversation::Msg::AgentDied(at));
            }
        };
        AbortOnDropHandle::new(tokio::spawn(task))
    }

    /// Everything but the stream itself is boxed: this future exists for as long as the answer streams, and would
    /// reserve memory for the largest of its parts.
    async fn run_step(&self, run_step: Box<RunStep>) {
        let RunStep {
            at,
            not_before,
            memory,
            needs_summary,
            policy,
            response_schema,
            client_tools,
            api_key,
            roles,
            accepted_at,
            live,
            span,
        } = *run_step;
        Box::pin(self.pause(at, not_before, &policy)).await;
        if self.defer_unless_served(at) {
            return;
        }
        let tenant = self.scope.tenant();
        let asked = Asked {
            at,
            memory: &memory,
            needs_summary,
            policy: &policy,
            roles: &roles,
            api_key: api_key.as_deref(),
            accepted_at,
            is_json: response_schema.is_some(),
        };
        let (knowledge, files) = Box::pin(async { tokio::join!(self.retrieved(asked), self.files(&asked)) }).await;
        let TurnFiles {
            passages: attached,
            omitted,
            guardrails: of_files,
        } = files;
        let passages = knowledge.passages.iter().cloned().chain(attached).collect();
        let assembled = prompt::assemble(
            tenant,
            memory,
            needs_summary,
            &policy,
            response_schema.clone(),
            &client_tools,
            passages,
        );
        let assembled = Box::pin(assembled).await;
        let mut assembled = match assembled {
            Ok(Ok(assembled)) => assembled,
            Ok(Err(too_large)) => {
                let class = FailureClass::ContextLength;
                let failure = failure(class, too_large.to_string(), &policy, Usage::default(), None);
                self.report_too_large(at, failure);
                return;
            }
            Err(error) => {
                let message = format!("prompt could not be assembled: {error}");
                let failure = failure(FailureClass::Overload, message, &policy, Usage::default(), None);
                let failed = Box::pin(self.screen(Command::ModelFailed { at, failure }, &policy)).await;
                span.in_scope(|| self.tell(failed));
                return;
            }
        };
        let prompt_tokens = assembled.tokens;
        // Assembling may have taken a while: check again.
        if self.defer_unless_served(at) {
            return;
        }
        knowledge.complete(&mut assembled.record);
        omitted.into_iter().for_each(|item| assembled.record.omit(item));
        // Cost and triggered rules are recorded once, with the first prompt that used what was retrieved.
        let is_new = self.retrieved.report(at);
        // Reported beside the model call, not before it: the record is committed while the provider works.
        let report = Command::ContextAssembled {
            at,
            prompt_tokens,
            summary_upto_seq: assembled.summary_upto_seq,
            retrieved: knowledge.listed(&assembled.record),
            retrieval: knowledge.record.clone().filter(|_| is_new),
            guardrails: if is_new {
                [knowledge.guardrails.clone(), of_files].concat()
            } else {
                Vec::new()
            },
            context: assembled.record.clone(),
            sent: assembled.sent,
        };
        span.in_scope(|| self.report(report, &policy));
        let request = ModelRequest {
            scope: self.scope.clone(),
            route: policy.route.clone(),
            conversation: self.id,
            turn: Some(at.turn),
            user: self.user.clone(),
            api_key,
            copilot: policy.copilot.clone(),
            messages: Arc::new(assembled.messages),
            tools: Arc::clone(&assembled.fixed.tools),
            response_schema: response_schema.as_deref().cloned(),
            max_tokens: None,
        };
        let outcome = self
            .stream(
                at,
                request,
                &policy,
                prompt_tokens,
                accepted_at,
                &live,
                response_schema.is_some(),
                knowledge.code.as_ref(),
                &span,
            )
            .await;
        let command = match outcome {
            StreamOutcome::Replied(reply, calls, mut marks) => {
                let inspected = Box::pin(self.inspected(at, *reply, &mut marks)).await;
                let mut reply = match inspected {
                    Ok(reply) => reply,
                    Err(blocked) => {
                        span.in_scope(|| self.report(blocked, &policy));
                        return;
                    }
                };
                if response_schema.is_none() {
                    Box::pin(self.cite(&mut reply, marks, &knowledge, &assembled.record, &policy)).await;
                }
                if self.holds(&policy, response_schema.is_some()) {
                    live.push(&reply.text);
                }
                if let Some(schema) = response_schema.filter(|_| calls.is_empty()) {
                    Box::pin(self.shared.wait_while_left_out(&self.scope)).await;
                    reply.output = Box::pin(self.check_output(&schema, &reply.text)).await;
                }
                reply.client_calls = Box::pin(self.check_client_calls(&client_tools, &policy, &calls)).await;
                match Box::pin(self.screened(at, reply, calls, &policy)).await {
                    Ok(screened) => {
                        span.in_scope(|| self.tell(screened));
                        return;
                    }
                    Err(command) => command,
                }
            }
            StreamOutcome::BlockedByRule { rule, usage, model } => Command::OutputBlocked { at, rule, model, usage },
            // The tenant may have been left out after a reload, and its provider keys with it: the step is repeated
            // once the fault is fixed.
            StreamOutcome::Unanswered(_) if self.standing() == ServingState::LeftOut => {
                let _ = self.conversation.cast(conversation::Msg::StepDeferred(at));
                return;
            }
            StreamOutcome::Unanswered(failure) if failure.class == FailureClass::ContextLength => {
                self.report_too_large(at, failure);
                return;
            }
            StreamOutcome::Unanswered(failure) | StreamOutcome::Failed(failure) => {
                counter!("copilotd_model_failures_total", "class" => failure.class.code()).increment(1);
                Command::ModelFailed { at, failure }
            }
        };
        let screened = Box::pin(self.screen(command, &policy)).await;
        span.in_scope(|| self.tell(screened));
    }

    /// Screens a failure, whose text may be a provider's. A text that cannot be checked is withheld.
    async fn screen(&self, mut command: Command, policy: &Arc<Policy>) -> ScreenedCommand {
        let guardrails = &self.shared.guardrails;
        if guardrails.looks_at_command(&command) {
            match guardrails.screen(&self.scope, command.clone(), policy, None).await {
                Ok(screened) => return screened,
                Err(error) => {
                    tracing::warn!(conversation = %self.id, %error, "error text of a model call could not be checked; withholding it");
                    if let Command::ModelFailed { failure, .. } = &mut command {
                        UNCHECKED_TEXT.clone_into(&mut failure.message);
                    }
                }
            }
        }
        command.screen(policy, None)
    }

    /// Returns whether an answer is shown only once it is whole: because detectors look at it, or because sentences without
    /// a citation are replaced.
    fn holds(&self, policy: &Policy, is_json: bool) -> bool {
        let replaces = policy.knowledge.replacement().is_some() && !is_json;
        replaces || self.shared.guardrails.looks_at(ContentKind::Answer)
    }

    /// Lets detectors inspect an answer that was held back for them.
    async fn inspected(&self, at: Step, mut reply: ModelReply, marks: &mut [Mark]) -> Result<ModelReply, Command> {
        let (kind, guardrails) = (ContentKind::Answer, &self.shared.guardrails);
        if !guardrails.looks_at(kind) {
            return Ok(reply);
        }
        let cost = OutputGuard::cost(&reply.text);
        let content = Content::new(kind, reply.text.clone(), cost);
        // The rules have been applied while it arrived.
        let inspected = guardrails.inspect(&self.scope, &Rules::default(), &[content]).await;
        let findings = inspected.map(|findings| findings.into_iter().flatten().collect::<Vec<_>>());
        let text = std::mem::take(&mut reply.text);
        let judged = findings.map(|findings| {
            let moved = |mark: &mut Mark| mark.at = guard::moved(mark.at, &findings);
            marks.iter_mut().for_each(moved);
            judge(kind, Value::String(text), &findings)
        });
        let rule = match judged {
            Ok(Verdict::Allowed(Value::String(text))) => {
                reply.text = text;
                return Ok(reply);
            }
            Ok(Verdict::Redacted {
                content: Value::String(text),
                rules,
            }) => {
                reply.text = text;
                let redacted = |rule| (Stage::Output, rule, GuardAction::Redact);
                reply.guardrails.extend(rules.into_iter().map(redacted));
                return Ok(reply);
            }
            Ok(Verdict::Blocked { rule }) => rule,
            // A text stays a text.
            Ok(Verdict::Allowed(_) | Verdict::Redacted { .. }) => UNCHECKED_RULE.to_owned(),
            Err(error) => {
                tracing::warn!(conversation = %self.id, %error, "answer could not be checked; blocking it");
                UNCHECKED_RULE.to_owned()
            }
        };
        let (model, usage) = (reply.model, reply.usage);
        Err(Command::OutputBlocked { at, rule, model, usage })
    }

    /// Parses and screens the tool calls of an answer, all together; on the compute pool when they are long. Fails the
    /// step if the screening cannot run.
    async fn screened(
        &self,
        at: Step,
        mut reply: ModelReply,
        calls: Vec<(String, String)>,
        policy: &Arc<Policy>,
    ) -> Result<ScreenedCommand, Command> {
        let (usage, model) = (reply.usage, reply.model.clone());
        let as_written = |(name, arguments)| (name, Value::String(arguments));
        reply.calls = calls.into_iter().map(as_written).collect();
        let reply = Command::ModelReplied { at, reply };
        let screened = self.shared.guardrails.screen(&self.scope, reply, policy, None).await;
        screened.map_err(|error: Unchecked| {
            let message = format!("answer could not be checked against the guardrail rules: {error}");
            let mut failure = failure(FailureClass::Overload, message, policy, usage, None);
            failure.model = model;
            Command::ModelFailed { at, failure }
        })
    }

    /// Checks an answer against the turn's schema. A crash during the check costs the turn an attempt: recovery records
    /// the next attempt before it calls the model again.
    async fn check_output(&self, schema: &Arc<Value>, answer: &str) -> OutputCheck {
        crash::point("effect.before:schema_check");
        match self.shared.ports.schemas.check(&self.scope, schema, answer).await {
            Ok(SchemaVerdict::Valid) => parsed(self.scope.tenant(), answer)
                .await
                .map_or(OutputCheck::Unavailable, OutputCheck::Valid),
            Ok(SchemaVerdict::Invalid(error)) => OutputCheck::Invalid(error),
            Err(SchemaError::Unusable(violation)) => OutputCheck::Invalid(describe(&[violation])),
            Err(SchemaError::TooExpensive) => OutputCheck::TooExpensive,
            Err(error @ (SchemaError::Busy | SchemaError::Unavailable(_))) => {
                tracing::error!(tenant = %self.scope.tenant(), conversation = %self.id, %error, "answer could not be validated against its response_schema; failing the turn");
                OutputCheck::Unavailable
            }
        }
    }

    /// Waits until `not_before`, or backs off before a repeated attempt. Holds no permit and no reservation while
    /// waiting: both are taken by the call.
    async fn pause(&self, at: Step, not_before: Option<Timestamp>, policy: &Policy) {
        let wait = match not_before {
            Some(time) => {
                // Never wait longer than the policy allows, even if the wall clock was changed meanwhile.
                let wait = until(self.shared.ports.clock.now(), time).min(policy.limits.wait);
                wait + jitter((wait / 16).clamp(RETRY_PAUSE, MAX_JITTER))
            }
            None if at.attempt > 1 => {
                let pause = RETRY_PAUSE * 2_u32.pow((at.attempt - 2).min(4));
                pause + jitter(pause)
            }
            None => return,
        };
        tokio::time::sleep(wait).await;
    }

    #[expect(clippy::too_many_arguments, reason = "one call site, which has each of them at hand")]
    async fn stream(
        &self,
        at: Step,
        request: ModelRequest,
        policy: &Policy,
        prompt_tokens: u64,
        accepted_at: Timestamp,
        live: &LiveMessage,
        validated: bool,
        markers: Option<&MarkerCode>,
        span: &tracing::Span,
    ) -> StreamOutcome {
        let is_held = self.holds(policy, validated);
        let mut answer = Answer::new(policy, validated, is_held, markers);
        crash::point("effect.before:model_request");
        // Only opening the stream is inside the span: staying in it while the answer arrives would cost a span entry
        // per token.
        let opening = self.shared.ports.model.stream(request).instrument(span.clone());
        let mut stream = match opening.await {
            Ok(stream) => stream,
            Err(error) => return StreamOutcome::Unanswered(from_error(error, policy, Usage::default())),
        };
        while let Some(event) = stream.next().await {
            let taken = match event {
                Ok(ModelEvent::Fallback { from, to, reason }) => {
                    let fell_back = Command::FellBack { at, from, to, reason };
                    span.in_scope(|| self.report(fell_back, policy));
                    continue;
                }
                Ok(ModelEvent::Text(piece)) => answer.push(self.scope.tenant(), piece, policy, live).await,
                Ok(event) => {
                    answer.take(event);
                    Ok(true)
                }
                Err(error) if answer.is_empty() => {
                    // No usage report means that nothing was billed: the provider refused the call.
                    let mut failure = from_error(error, policy, answer.usage.unwrap_or_default());
                    failure.model = answer.model;
                    return StreamOutcome::Unanswered(failure);
                }
                Err(error) => {
                    let usage = Box::pin(self.used(&answer, policy, prompt_tokens)).await;
                    let mut failure = from_error(error, policy, usage);
                    failure.model = answer.model;
                    return StreamOutcome::Failed(failure);
                }
            };
            if answer.first_token_ms.is_none() && !answer.text.is_empty() && !validated {
                answer.first_token_ms = Some(self.since(accepted_at));
            }
            crash::point("effect.during:model_stream");
            match taken {
                Ok(true) => {}
                // The answer reached its size limit; dropping the stream stops the provider.
                Ok(false) => {
                    answer.finish = Some(Finish::Length);
                    break;
                }
                Err(blocked) => return Box::pin(self.blocked(answer, blocked.rule, policy, prompt_tokens)).await,
            }
        }
        drop(stream);
        crash::point("effect.after:model_stream");
        if let Err(blocked) = answer.end(self.scope.tenant(), live).await {
            return Box::pin(self.blocked(answer, blocked.rule, policy, prompt_tokens)).await;
        }
        let Some(finish) = answer.finish else {
            let message = "provider ended the stream without a finish reason".to_owned();
            let usage = Box::pin(self.used(&answer, policy, prompt_tokens)).await;
            return StreamOutcome::Failed(failure(FailureClass::Cut, message, policy, usage, None));
        };
        let first_token_ms = answer
            .first_token_ms
            .or_else(|| validated.then(|| self.since(accepted_at)));
        if let Some(ms) = first_token_ms {
            histogram!("copilotd_first_token_seconds").record(ms as f64 / 1000.0);
        }
        let usage = Box::pin(self.used(&answer, policy, prompt_tokens)).await;
        let redacted = |rule: &String| (Stage::Output, rule.clone(), GuardAction::Redact);
        let marks = answer.marks();
        // The calls of an answer cut off at its size limit may be incomplete.
        let calls = if finish == Finish::Length {
            BTreeMap::new()
        } else {
            answer.calls
        };
        let calls = calls.into_values().filter(|(name, _)| !name.is_empty()).collect();
        let reply = ModelReply {
            guardrails: answer.guard.redactions().iter().map(redacted).collect(),
            calls: Vec::new(),
            client_calls: BTreeMap::new(),
            text: answer.text,
            citations: Vec::new(),
            unsupported: Vec::new(),
            output: OutputCheck::NotNeeded,
            finish,
            model: answer.model,
            usage,
            first_token_ms,
        };
        StreamOutcome::Replied(Box::new(reply), calls, marks)
    }

    async fn blocked(&self, answer: Answer, rule: String, policy: &Policy, prompt_tokens: u64) -> StreamOutcome {
        let usage = Box::pin(self.used(&answer, policy, prompt_tokens)).await;
        StreamOutcome::BlockedByRule {
            rule,
            usage,
            model: answer.model,
        }
    }

    /// Returns the reported usage, or an estimate: a provider reports nothing for a call that we stop.
    async fn used(&self, answer: &Answer, policy: &Policy, prompt_tokens: u64) -> Usage {
        if let Some(usage) = answer.usage {
            return usage;
        }
        let (written, coarse) = (answer.written.clone(), answer.written.coarse());
        let counted = compute::run(Some(self.scope.tenant()), written.cost(), move || written.count()).await;
        let usage = Usage {
            prompt_tokens,
            completion_tokens: counted.unwrap_or(coarse),
            estimated: true,
            ..Usage::default()
        };
        policy.priced(usage, self.shared.ports.clock.now())
    }
}

/// Parses an answer that is known to be JSON; on the compute pool when it is long.
async fn parsed(tenant: &TenantId, answer: &str) -> Option<Value> {
    let (cost, answer) = (answer.len(), answer.to_owned());
    let work = move || serde_json::from_str(answer.trim()).ok();
    compute::run(Some(tenant), cost, work).await.ok().flatten()
}

fn from_error(error: ModelError, policy: &Policy, usage: Usage) -> ModelFailure {
    failure(error.class, error.message, policy, usage, error.retry_after)
}

fn failure(
    class: FailureClass,
    message: String,
    policy: &Policy,
    usage: Usage,
    retry_after: Option<Duration>,
) -> ModelFailure {
    ModelFailure {
        class,
        message,
        model: policy.model.clone(),
        usage,
        retry_after,
    }
}

/// Estimates the usage of a step that is being stopped: a conversation's handler has no time to tokenize a long answer.
pub fn usage_of_sealed(text: &str, prompt_tokens: u64) -> Usage {
    Usage {
        prompt_tokens,
        completion_tokens: tokens::estimate(text),
        estimated: prompt_tokens > 0 || !text.is_empty(),
        ..Usage::default()
    }
}

//! A tool call on its way through a connector, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::gate::Gate;
use crate::actors::conversation::{self, ConversationRef};
use crate::actors::shared::until;
use crate::domain::content::ToolStatus;
use crate::domain::conversation::command::Command;
use crate::domain::conversation::decide::SETTLE_MARGIN;
use crate::domain::conversation::screen::ScreenedCommand;
use crate::domain::guardrail::ContentKind;
use crate::domain::ids::TurnId;
use crate::domain::policy::{Policy, Repeat};
use crate::domain::tool::outcome;
use crate::domain::tool::outcome::{LookUpState, SendState};
use crate::guardrails::Guardrails;
use crate::ports::ToolRequest;

/// A tool call to be made.
#[derive(Debug, Clone)]
pub struct Job {
    /// Request to the system.
    pub request: ToolRequest,
    /// External system.
    pub system: String,
    /// Turn that asked for the call.
    pub turn: TurnId,
    /// What repeating the call would do.
    pub repeat: Repeat,
    /// When the call was first recorded, perhaps by an earlier process with another wall clock.
    pub called_at: Timestamp,
    /// Deadline for the outcome.
    pub settles_at: Timestamp,
    /// Gate that the call must pass to be sent.
    pub gate: Arc<Gate>,
    /// Policy whose guardrail rules and limits apply to the answer.
    pub policy: Arc<Policy>,
    /// Guardrails through which the answer passes.
    pub guardrails: Guardrails,
    /// Conversation to which the outcome is reported.
    pub reply_to: ConversationRef,
    /// Span of the turn's trace.
    pub span: tracing::Span,
}

/// A call in the queue.
#[derive(Debug)]
pub struct QueuedCall {
    pub(super) job: Job,
    pub(super) attempts: u32,
    /// Rate-limit answers so far.
    pub(super) limited: u32,
    /// Whether the next attempt is a look-up instead of the call itself.
    pub(super) look_up: bool,
    /// Whether an earlier process or actor may have sent the call.
    pub(super) earlier: bool,
    /// Start of the current attempt, by the monotonic clock and the wall clock.
    pub(super) started: (Duration, Timestamp),
    /// Start of the first attempt in this process that may have taken effect, by the monotonic clock and the wall
    /// clock.
    pub(super) doubt_since: Option<(Duration, Timestamp)>,
    /// Result of the look-ups since then.
    pub(super) looked: LookUpState,
    /// What is known about the effect of the call, for the person who has to check.
    pub(super) trace: Option<String>,
    /// Deadline for the outcome, by the monotonic clock.
    pub(super) deadline: Duration,
    pub(super) not_before: Duration,
}

impl QueuedCall {
    /// Returns the time from which no attempt starts any more, because its outcome would come too late.
    pub(super) fn last_start(&self) -> Duration {
        let margin = if self.look_up { Duration::ZERO } else { SETTLE_MARGIN };
        self.deadline.saturating_sub(margin)
    }

    /// Whether the call may have reached the system; `elapsed` is by the monotonic clock, `now` by the wall clock.
    pub(super) fn sent(&self, elapsed: Duration, now: Timestamp) -> SendState {
        match self.doubt_since {
            // The monotonic clock stops while the machine sleeps, the wall clock does not: the greater age counts.
            Some((since, at)) => SendState::Here(elapsed.saturating_sub(since).max(until(at, now))),
            None if self.earlier => SendState::Earlier(now.duration_since(self.job.called_at)),
            None => SendState::Never,
        }
    }

    /// Whether an attempt, in this process or an earlier one, may have taken effect.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.earlier || self.doubt_since.is_some()
    }
}

/// Returns a call of a tenant that is left out: nothing more is sent for it until its conversation starts it again.
pub(super) fn defer(job: &Job) {
    job.gate.withdraw();
    let (call, gate) = (job.request.call, Arc::clone(&job.gate));
    let _ = job.reply_to.cast(conversation::Msg::CallDeferred { call, gate });
}

/// Returns the status of a call that is not sent now, but may have been sent by an earlier process.
pub(super) fn unsent(job: &Job) -> ToolStatus {
    let sent = match job.gate.is_sent() {
        true => SendState::Earlier(jiff::SignedDuration::ZERO),
        false => SendState::Never,
    };
    outcome::status_if_given_up(job.repeat, sent)
}

/// Returns the report of how a call ended.
pub(super) fn outcome(job: &Job, status: ToolStatus, result: Option<Value>, error: Option<String>) -> Command {
    Command::ToolReplied {
        turn: job.turn,
        call: job.request.call,
        status,
        result,
        error,
    }
}

/// Screens the answer of a system, on the compute pool if it is long. If it cannot be screened it is withheld, and the
/// call counts as succeeded all the same.
pub(super) async fn screened(job: &Job, result: Value) -> ScreenedCommand {
    let report = outcome(job, ToolStatus::Succeeded, Some(result), None);
    let screened = job
        .guardrails
        .screen(&job.request.scope, report, &job.policy, None)
        .await;
    screened.unwrap_or_else(|error| {
        tracing::warn!(
            tenant = %job.request.scope.tenant(), system = %job.system, call = %job.request.call, %error,
            "tool result could not be checked against the guardrail rules; withholding it from the model"
        );
        let why = "the tool's answer could not be checked, so it is withheld".to_owned();
        outcome(job, ToolStatus::Succeeded, None, Some(why)).screen(&job.policy, None)
    })
}

/// Reports the end of a call without an answer. If detectors have to look at the error first, which a connector cannot
/// wait for, a task of its own does; what they cannot check is withheld.
pub(super) fn report(job: &Job, status: ToolStatus, error: String) {
    if job.guardrails.looks_at(ContentKind::ToolAnswer) {
        let job = job.clone();
        tokio::spawn(async move {
            let report = outcome(&job, status, None, Some(error));
            let screened = job
                .guardrails
                .screen(&job.request.scope, report, &job.policy, None)
                .await;
            let screened = screened.unwrap_or_else(|error| {
                tracing::warn!(call = %job.request.call, %error, "error of a tool call could not be checked; withholding it from the model");
                let why = "the tool's error could not be checked, so it is withheld".to_owned();
                outcome(&job, status, None, Some(why)).screen(&job.policy, None)
            });
            send_report(&job, screened);
        });
        return;
    }
    send_report(job, outcome(job, status, None, Some(error)).screen(&job.policy, None));
}

/// Sends a report. A dead conversation is rebuilt from its log and recovers the call itself.
pub(super) fn send_report(job: &Job, report: ScreenedCommand) {
    job.span.in_scope(|| {
        let _ = job.reply_to.cast(conversation::Msg::report(report));
    });
}

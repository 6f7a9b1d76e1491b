//! A call on its way through a connector, and what it ends as.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::gate::Gate;
use crate::compute;
use crate::conversation::{self, ConversationRef};
use crate::domain::command::Command;
use crate::domain::content::ToolStatus;
use crate::domain::decide::SETTLE_MARGIN;
use crate::domain::doubt::{self, Looked, Sent};
use crate::domain::ids::TurnId;
use crate::domain::policy::{Policy, Repeat};
use crate::domain::screen::Screened;
use crate::ports::ToolRequest;
use crate::shared::until;

/// A call to be made.
#[derive(Debug, Clone)]
pub struct Job {
    /// What is called.
    pub request: ToolRequest,
    /// External system.
    pub system: String,
    /// The turn that wants it.
    pub turn: TurnId,
    /// What repeating it would do.
    pub repeat: Repeat,
    /// When it was first written down as called, perhaps by an earlier process and its calendar.
    pub called_at: Timestamp,
    /// Until then its outcome is waited for.
    pub settles_at: Timestamp,
    /// Sends or cancels.
    pub gate: Arc<Gate>,
    /// Whose rules and bounds hold for the answer.
    pub policy: Arc<Policy>,
    /// Who is told.
    pub reply_to: ConversationRef,
    /// The trace it belongs to.
    pub span: tracing::Span,
}

/// A call in the queue.
#[derive(Debug)]
pub struct Waiting {
    pub(super) job: Job,
    pub(super) tries: u32,
    /// How often the vendor asked for patience.
    pub(super) limited: u32,
    /// Whether it is looked up next; else it is sent.
    pub(super) look_up: bool,
    /// Whether an earlier life may have sent it.
    pub(super) earlier: bool,
    /// When the present try began, by both clocks.
    pub(super) started: (Duration, Timestamp),
    /// When the first try of this life began that may have taken effect, by the clock that never goes back and by the calendar.
    pub(super) doubt_since: Option<(Duration, Timestamp)>,
    /// What the look-ups since then said.
    pub(super) looked: Looked,
    /// What is known of its effect, for whoever has to check.
    pub(super) trace: Option<String>,
    /// When its outcome is waited for no longer, by the clock that never goes back.
    pub(super) deadline: Duration,
    pub(super) not_before: Duration,
}

impl Waiting {
    /// No try begins then or later: there would be no time left for its outcome.
    pub(super) fn last_start(&self) -> Duration {
        let margin = if self.look_up { Duration::ZERO } else { SETTLE_MARGIN };
        self.deadline.saturating_sub(margin)
    }

    /// Whether it may have reached its vendor, at this time of the clock that never goes back and of the calendar.
    pub(super) fn sent(&self, elapsed: Duration, now: Timestamp) -> Sent {
        match self.doubt_since {
            // A machine that was suspended stops its clock, but not the calendar: the older age counts.
            Some((since, at)) => Sent::Here(elapsed.saturating_sub(since).max(until(at, now))),
            None if self.earlier => Sent::Earlier(now.duration_since(self.job.called_at)),
            None => Sent::Never,
        }
    }

    /// Whether a try in this life or an earlier one may have taken effect.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.earlier || self.doubt_since.is_some()
    }
}

/// Gives a call back whose tenant is left out: nothing more is sent for it until its conversation asks again.
pub(super) fn hold(job: &Job) {
    job.gate.withdraw();
    let (call, gate) = (job.request.call, Arc::clone(&job.gate));
    let _ = job.reply_to.cast(conversation::Msg::CallHeld { call, gate });
}

/// What a call ends as that is not sent now; in an earlier life it may have been.
pub(super) fn unsent(job: &Job) -> ToolStatus {
    let sent = match job.gate.is_sent() {
        true => Sent::Earlier(jiff::SignedDuration::ZERO),
        false => Sent::Never,
    };
    doubt::given_up(job.repeat, sent)
}

/// The report of how a call ended.
pub(super) fn outcome(job: &Job, status: ToolStatus, result: Option<Value>, error: Option<String>) -> Command {
    Command::ToolReplied {
        turn: job.turn,
        call: job.request.call,
        status,
        result,
        error,
    }
}

/// Screens what a system answered, on the compute pool if it is long. What cannot be checked is withheld; the call has ended all the
/// same.
pub(super) async fn screened(job: &Job, result: Value) -> Screened {
    let report = outcome(job, ToolStatus::Succeeded, Some(result), None);
    let (cost, policy) = (report.weight(), Arc::clone(&job.policy));
    let screen = move || report.screen(&policy, None);
    let screened = compute::run(Some(job.request.scope.tenant()), cost, screen).await;
    screened.unwrap_or_else(|error| {
        tracing::warn!(call = %job.request.call, %error, "a tool's answer could not be checked; it is withheld");
        let why = "the tool's answer could not be checked, so it is withheld".to_owned();
        outcome(job, ToolStatus::Succeeded, None, Some(why)).screen(&job.policy, None)
    })
}

/// Tells the conversation of an end without an answer.
pub(super) fn report(job: &Job, status: ToolStatus, error: String) {
    tell(job, outcome(job, status, None, Some(error)).screen(&job.policy, None));
}

/// Tells the conversation. A dead one is rebuilt from its log and recovers the call by itself.
pub(super) fn tell(job: &Job, report: Screened) {
    job.span.in_scope(|| {
        let _ = job.reply_to.cast(conversation::Msg::report(report));
    });
}

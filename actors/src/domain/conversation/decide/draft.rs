//! A decision in progress: the records so far, and the state as it will be after them.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::conversation::DecisionState;
use crate::domain::conversation::command::{Env, Step};
use crate::domain::conversation::turn::{Call, Phase, Turn};
use crate::domain::event::{Event, FailureCode, GuardAction, Record};
use crate::domain::guardrail::Stage;
use crate::domain::ids::{CallId, Seq, TurnId};
use crate::domain::policy::{Limits, Policy};

pub(super) struct Draft<'a> {
    pub(super) env: Env<'a>,
    pub(super) book: DecisionState,
    pub(super) records: Vec<Record>,
    last_seq: Seq,
}

impl<'a> Draft<'a> {
    pub(super) fn new(book: &DecisionState, last_seq: Seq, env: Env<'a>) -> Self {
        Self {
            env,
            book: book.clone(),
            records: Vec::new(),
            last_seq,
        }
    }

    pub(super) fn policy(&self) -> &'a Policy {
        self.env.policy
    }

    pub(super) fn limits(&self) -> &'a Limits {
        &self.env.policy.limits
    }

    pub(super) fn after(&self, time: Duration) -> Timestamp {
        self.env.now.saturating_add(time).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn push(&mut self, turn: TurnId, event: Event) {
        self.record(Some(turn), event);
    }

    /// Finds a call of an open turn's current step.
    pub(super) fn call(&self, turn: TurnId, call: CallId) -> Option<Call> {
        let calls = self.book.turn(turn)?.calls();
        calls.iter().find(|known| known.id == call).cloned()
    }

    /// Records what a guardrail did. The rule's name says it all: nothing is quoted.
    pub(super) fn trigger(&mut self, turn: TurnId, stage: Stage, rule: String, action: GuardAction) {
        let detail = None;
        self.push(
            turn,
            Event::GuardrailTriggered {
                stage,
                rule,
                action,
                detail,
            },
        );
    }

    pub(super) fn push_plain(&mut self, event: Event) {
        self.record(None, event);
    }

    fn record(&mut self, turn: Option<TurnId>, event: Event) {
        self.last_seq += 1;
        let record = Record {
            seq: self.last_seq,
            at: self.env.now,
            turn,
            event,
        };
        self.book.apply(&record);
        self.records.push(record);
    }

    /// Returns the running turn if `at` is its current model step; reports for any other step are stale.
    pub(super) fn thinking_at(&self, at: Step) -> Option<&Turn> {
        self.book
            .active()
            .filter(|turn| turn.phase == Phase::Thinking && turn.present() == at)
    }

    /// Ends a turn as failed.
    pub(super) fn fail(&mut self, turn: TurnId, code: FailureCode, message: impl Into<String>) {
        let retryable = matches!(
            code,
            FailureCode::ProviderUnavailable
                | FailureCode::RateLimited
                | FailureCode::AttemptsExhausted
                | FailureCode::Internal
        );
        let usage = self.book.turn(turn).map(|turn| turn.usage.clone()).unwrap_or_default();
        self.push(
            turn,
            Event::TurnFailed {
                code,
                message: message.into(),
                retryable,
                usage,
            },
        );
    }

    /// Starts the next turn if nothing is running.
    pub(super) fn start_next(&mut self) {
        let Some(next) = self.book.turns.front().filter(|turn| turn.phase == Phase::Queued) else {
            return;
        };
        let turn = next.id;
        self.push(
            turn,
            Event::TurnStarted {
                attempt: 1,
                model: self.policy().model.clone(),
            },
        );
    }

    /// Checks the running turn's limits before another model step; fails the turn if one is exceeded.
    pub(super) fn bound_next_step(&mut self) {
        let limits = self.limits();
        let Some(turn) = self.book.active().filter(|turn| turn.phase == Phase::Thinking) else {
            return;
        };
        let (code, message) = if turn.repairs > limits.repairs {
            let message = format!(
                "the model produced no valid arguments or answer within {} repairs",
                limits.repairs
            );
            (FailureCode::SchemaFailed, message)
        } else if turn.step > limits.steps {
            (
                FailureCode::LimitSteps,
                format!("the turn needed more than {} model steps", limits.steps),
            )
        } else if turn.usage.sum.total_tokens() > limits.tokens {
            (
                FailureCode::LimitCost,
                format!("the turn used more than {} tokens", limits.tokens),
            )
        } else if limits.cost > 0 && turn.usage.sum.cost > limits.cost {
            (
                FailureCode::LimitCost,
                "the turn cost more than this copilot's limit allows".to_owned(),
            )
        } else {
            return;
        };
        let turn = turn.id;
        self.fail(turn, code, message);
        self.start_next();
    }
}

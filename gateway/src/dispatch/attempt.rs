//! One request to one target, and how it is reported: to the health of its target and key, to limits and to the ledger.
//!
//! Invariant: every attempt that began is settled exactly once: when it ends, fails, or is dropped.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent};
use futures::{StreamExt, stream};
use metrics::{counter, gauge};
use tokio::runtime::Handle;
use tokio::time::Instant;
use uuid::Uuid;

use super::attempt_usage::{AttemptUsage, KnownUsage, PendingCount};
use super::bill::Bill;
use super::limits::CallLimits;
use super::progress::Progress;
use crate::access::Key;
use crate::limit::{CompletedAnswer, InFlightCall, Reservation};
use crate::meter::{AttemptRecord, Meter, Outcome};
use crate::provider::{CallProgress, Piece, PieceStream};
use crate::request::call::{CacheOutcome, Caller};
use crate::request::prompt_tokens::Prompt;
use crate::routing::rule;
use crate::target::{Kind, Target};

/// Rough estimate of bytes per token where nothing was counted.
const BYTES_PER_TOKEN: u64 = 4;

/// Context of one call: who made it, and where its usage is reported.
#[derive(Debug, Clone)]
pub(super) struct CallContext {
    pub caller: Arc<Caller>,
    pub route: Arc<str>,
    pub meter: Option<Arc<dyn Meter>>,
    pub limits: Option<Arc<CallLimits>>,
    /// What the cache lookup gave.
    pub cache: CacheOutcome,
    /// Reservation for the whole request; settled when the last attempt is gone.
    pub reservation: Option<Arc<Reservation>>,
    /// Usage of all attempts so far.
    pub bill: Arc<Bill>,
    /// Process-wide count of attempts whose tokens are still being counted.
    pub counting: Arc<Bill>,
    /// The prompt, for estimates.
    pub prompt: Prompt,
    /// Size of the prompt in bytes.
    pub prompt_bytes: u64,
    /// Largest number of answer tokens, if the request limits it.
    pub max_output: Option<u64>,
    /// Number of answers (`n`).
    pub answers: u64,
}

/// What is known of an attempt when it begins.
#[derive(Debug, Clone)]
struct AttemptStart {
    /// Set once the meter knows of the attempt.
    id: Option<Uuid>,
    context: CallContext,
    target: Arc<Target>,
    key: Arc<Key>,
    kind: Kind,
    number: u32,
    started: Instant,
    progress: Arc<Progress>,
}

/// An attempt in flight. Dropping it settles the attempt as left.
#[derive(Debug)]
pub(super) struct AttemptGuard {
    start: AttemptStart,
    kind: Kind,
    progress: Arc<CallProgress>,
    first_content: Option<Duration>,
    model: Option<String>,
    usage: Option<Usage>,
    written: u64,
    is_settled: bool,
}

/// An attempt that ended and is not yet recorded.
struct EndedAttempt {
    start: AttemptStart,
    outcome: Outcome,
    model: Option<String>,
    first_content: Option<Duration>,
    written: u64,
    took: Duration,
}

impl AttemptStart {
    fn report_start(&mut self) {
        let Some(meter) = self.context.meter.clone() else {
            return;
        };
        let id = Uuid::now_v7();
        self.id = Some(id);
        let mut lost = self.clone();
        // Kept by the meter, it would delay the settlement beyond the attempt's end.
        lost.context.reservation = None;
        meter.began(id, Box::new(move |until_next| lost.lost(until_next)));
    }

    fn lost(&self, until_next: Duration) -> AttemptRecord {
        AttemptRecord {
            first_content: self.progress.first_content(),
            ..self.attempted(Outcome::Lost, self.estimate_usage(until_next))
        }
    }

    /// Estimates the usage if the process dies within `until_next`.
    fn estimate_usage(&self, until_next: Duration) -> Usage {
        let (caller, model) = (&self.context.caller, &self.target.name.model);
        let Some(limits) = self.context.limits.as_deref() else {
            return Usage {
                prompt_tokens: self.context.prompt.rough(),
                completion_tokens: self.progress.written().div_ceil(BYTES_PER_TOKEN),
                estimated: true,
                ..Usage::default()
            };
        };
        let call = InFlightCall {
            prompt_bytes: self.context.prompt_bytes,
            written: self.progress.written(),
            reported: self.progress.reported(),
            first_content: self.progress.first_content(),
            elapsed: self.started.elapsed(),
            until_next,
            max_output: self.context.max_output,
            answers: self.context.answers,
            is_unseen: self.kind == Kind::Document || self.target.reasoning,
        };
        let mut usage = limits.learned.estimate(caller.scope.tenant(), model, &call);
        if call.reported.is_none_or(|reported| reported.prompt_tokens == 0) {
            usage.prompt_tokens = self.context.prompt.rough();
        }
        usage.estimated = true;
        usage.cost = limits.cost(model, &usage).unwrap_or(0);
        usage
    }

    fn attempted(&self, outcome: Outcome, usage: Usage) -> AttemptRecord {
        AttemptRecord {
            id: self.id,
            caller: Arc::clone(&self.context.caller),
            route: Arc::clone(&self.context.route),
            target: self.target.name.clone(),
            key: self.key.name.clone(),
            number: self.number,
            model: None,
            usage,
            is_estimated: usage.estimated,
            outcome,
            cache: self.context.cache,
            first_content: None,
            took: self.started.elapsed(),
        }
    }
}

impl AttemptGuard {
    pub(super) fn begin(
        context: CallContext,
        target: Arc<Target>,
        key: Arc<Key>,
        kind: Kind,
        number: u32,
        progress: Arc<CallProgress>,
    ) -> Self {
        target.state.with(|health, _| health.began());
        let mut start = AttemptStart {
            id: None,
            context,
            target,
            key,
            kind,
            number,
            started: Instant::now(),
            progress: Arc::default(),
        };
        start.report_start();
        Self {
            start,
            kind,
            progress,
            first_content: None,
            model: None,
            usage: None,
            written: 0,
            is_settled: false,
        }
    }

    /// Notes that content arrived.
    pub(super) fn answered(&mut self) {
        if self.first_content.is_some() {
            return;
        }
        let took = self.start.started.elapsed();
        self.first_content = Some(took);
        self.start.progress.set_answered(took);
        let kind = self.kind;
        self.start
            .target
            .state
            .with(|health, now| health.answered(kind, took, now));
        self.start.key.accepted(self.start.started);
    }

    fn observe(&mut self, piece: &Piece) {
        if piece.content {
            self.answered();
        }
        self.written += piece.written;
        self.start.progress.add_written(piece.written);
        for event in &piece.events {
            match event {
                ModelEvent::Model(model) => self.model = Some(model.clone()),
                ModelEvent::Usage(usage) => {
                    self.usage = Some(*usage);
                    self.start.progress.set_reported(*usage);
                }
                ModelEvent::Finished(finish) => self.finished(*finish),
                ModelEvent::Text(_) | ModelEvent::ToolCall { .. } | ModelEvent::Fallback { .. } => {}
            }
        }
    }

    /// Settles an attempt that was answered as one document.
    pub(super) fn document(mut self, model: Option<&str>, usage: Usage, finish: Finish) {
        self.answered();
        self.model = model.map(str::to_owned);
        self.usage = Some(usage);
        self.finished(finish);
    }

    fn finished(&mut self, finish: Finish) {
        self.start.target.state.with(|health, now| health.succeeded(now));
        self.start.key.accepted(self.start.started);
        self.settle(Outcome::Finished(finish));
    }

    /// Settles the attempt as failed if `result` is an error.
    pub(super) fn settle_if_failed<T>(&mut self, result: Result<T, ModelError>) -> Result<T, ModelError> {
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    /// Settles an attempt that failed in this process: it says nothing about the target.
    pub(super) fn not_asked(&mut self, error: &ModelError) {
        self.settle(Outcome::Failed(error.class));
    }

    fn failed(&mut self, error: &ModelError) {
        self.start.target.state.with(|health, now| {
            if rule::counts_against_health(error.class) {
                health.failed(now, rand::random());
            } else {
                health.succeeded(now);
            }
        });
        self.settle(Outcome::Failed(error.class));
    }

    fn settle(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let level = self.start.target.state.with(|health, _| {
            health.ended();
            health.level()
        });
        gauge!("copilotd_gateway_breaker_state", "target" => self.start.target.name.to_string()).set(level);
        let provider = self.start.target.name.provider.clone();
        counter!("copilotd_gateway_attempts_total", "provider" => provider, "outcome" => outcome.code()).increment(1);
        let ended = EndedAttempt {
            start: self.start.clone(),
            outcome,
            model: self.model.take(),
            first_content: self.first_content,
            written: self.written,
            took: self.start.started.elapsed(),
        };
        match self.known(outcome).used() {
            AttemptUsage::KnownUsage(usage) => ended.record(usage),
            AttemptUsage::NeedsCount(count) => ended.count(count),
        }
    }

    fn known(&self, outcome: Outcome) -> KnownUsage {
        let seen = self.progress.seen();
        KnownUsage {
            began: self.first_content.is_some(),
            reported: self.usage.or(seen.reported),
            written: self.written,
            outcome,
            seen,
        }
    }
}

impl EndedAttempt {
    /// Counts tokens that the provider did not report, inline if that is quick. The reservation is held until then.
    fn count(self, count: PendingCount) {
        let prompt = &self.start.context.prompt;
        if !tokens::is_ready() {
            // The process has just started; dropping an answer must not wait for the tokenizer to load.
            if let Ok(runtime) = Handle::try_current() {
                drop(runtime.spawn_blocking(tokens::warm_up));
            }
            let prompt_tokens = if count.prompt { prompt.rough() } else { 0 };
            return self.record(count.with(prompt_tokens, count.coarse()));
        }
        let known = if count.prompt { prompt.known() } else { Some(0) };
        if let Some(prompt_tokens) = known.filter(|_| count.is_short()) {
            return self.record(count.with(prompt_tokens, count.answer_now()));
        }
        let Ok(runtime) = Handle::try_current() else {
            // The runtime is shutting down, so counting inline delays nobody.
            let prompt_tokens = if count.prompt { prompt.rough() } else { 0 };
            return self.record(count.with(prompt_tokens, count.answer_now()));
        };
        let pending = (self.start.context.bill.pending(), self.start.context.counting.pending());
        drop(runtime.spawn(async move {
            let context = &self.start.context;
            let tenant = context.caller.scope.tenant();
            let prompt_tokens = if count.prompt {
                context.prompt.count(tenant).await
            } else {
                0
            };
            let answer = count.answer(tenant).await;
            self.record(count.with(prompt_tokens, answer));
            drop(pending);
        }));
    }

    /// Reports the attempt's usage to the reservation, the learned statistics, the meter and the bill.
    fn record(self, mut usage: Usage) {
        let Self {
            start,
            outcome,
            model,
            first_content,
            written,
            took,
        } = self;
        let (context, target) = (&start.context, &start.target.name.model);
        // Uses today's price: the target only knows the one from when the process started.
        if let Some(cost) = context.limits.as_ref().and_then(|limits| limits.cost(target, &usage)) {
            usage.cost = cost;
        }
        if let Some(reservation) = &context.reservation {
            reservation.spend(&usage);
        }
        if let (Some(limits), Outcome::Finished(_), false) = (&context.limits, outcome, usage.estimated) {
            let ended = CompletedAnswer {
                prompt_bytes: context.prompt_bytes,
                written,
                usage: &usage,
                took,
            };
            limits.learned.learn(context.caller.scope.tenant(), target, ended);
        }
        if let Some(meter) = &context.meter {
            meter.attempted(AttemptRecord {
                model,
                first_content,
                took,
                ..start.attempted(outcome, usage)
            });
        }
        context.bill.add(usage);
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        if !self.is_settled {
            self.start.target.state.with(|health, now| health.abandoned(now));
            self.settle(Outcome::Left);
        }
    }
}

/// Passes `pieces` through while `running` observes them; the attempt ends with the stream.
pub(super) fn watch(pieces: PieceStream, running: AttemptGuard) -> PieceStream {
    stream::unfold((pieces, running), |(mut pieces, mut running)| async move {
        let item = pieces.next().await?;
        match &item {
            Ok(piece) => running.observe(piece),
            Err(error) => running.failed(error),
        }
        Some((item, (pieces, running)))
    })
    .boxed()
}

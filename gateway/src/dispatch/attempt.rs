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

use super::attempt_usage::{Count, Known, Used};
use super::bill::Bill;
use super::limits::Limits;
use super::progress::Progress;
use crate::access::Key;
use crate::limit::{Ended, Reservation, UnderWay};
use crate::meter::{Attempted, Meter, Outcome};
use crate::provider::{CallProgress, Piece, PieceStream};
use crate::request::call::{CacheOutcome, Caller};
use crate::request::prompt_tokens::Prompt;
use crate::routing::rule;
use crate::target::{Kind, Target};

/// Rough estimate of bytes per token where nothing was counted.
const BYTES_PER_TOKEN: u64 = 4;

/// Context of one call: who made it, and where its usage is reported.
#[derive(Debug, Clone)]
pub(super) struct Books {
    pub caller: Arc<Caller>,
    pub route: Arc<str>,
    pub meter: Option<Arc<dyn Meter>>,
    pub limits: Option<Arc<Limits>>,
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
struct Beginning {
    /// Set once the meter knows of the attempt.
    id: Option<Uuid>,
    books: Books,
    target: Arc<Target>,
    key: Arc<Key>,
    kind: Kind,
    number: u32,
    started: Instant,
    progress: Arc<Progress>,
}

/// An attempt in flight. Dropping it settles the attempt as left.
#[derive(Debug)]
pub(super) struct Running {
    beginning: Beginning,
    kind: Kind,
    progress: Arc<CallProgress>,
    first_content: Option<Duration>,
    model: Option<String>,
    usage: Option<Usage>,
    written: u64,
    is_settled: bool,
}

/// An attempt that ended and is not yet recorded.
struct Over {
    beginning: Beginning,
    outcome: Outcome,
    model: Option<String>,
    first_content: Option<Duration>,
    written: u64,
    took: Duration,
}

impl Beginning {
    fn tell(&mut self) {
        let Some(meter) = self.books.meter.clone() else { return };
        let id = Uuid::now_v7();
        self.id = Some(id);
        let mut lost = self.clone();
        // Kept by the meter, it would delay the settlement beyond the attempt's end.
        lost.books.reservation = None;
        meter.began(id, Box::new(move |until_next| lost.lost(until_next)));
    }

    fn lost(&self, until_next: Duration) -> Attempted {
        Attempted {
            first_content: self.progress.first_content(),
            ..self.attempted(Outcome::Lost, self.would_use(until_next))
        }
    }

    /// Estimates the usage if the process dies within `until_next`.
    fn would_use(&self, until_next: Duration) -> Usage {
        let (caller, model) = (&self.books.caller, &self.target.name.model);
        let Some(limits) = self.books.limits.as_deref() else {
            return Usage {
                prompt_tokens: self.books.prompt.rough(),
                completion_tokens: self.progress.written().div_ceil(BYTES_PER_TOKEN),
                estimated: true,
                ..Usage::default()
            };
        };
        let call = UnderWay {
            prompt_bytes: self.books.prompt_bytes,
            written: self.progress.written(),
            reported: self.progress.reported(),
            first_content: self.progress.first_content(),
            elapsed: self.started.elapsed(),
            until_next,
            max_output: self.books.max_output,
            answers: self.books.answers,
            is_unseen: self.kind == Kind::Document || self.target.reasoning,
        };
        let mut usage = limits.learned.estimate(caller.scope.tenant(), model, &call);
        if call.reported.is_none_or(|reported| reported.prompt_tokens == 0) {
            usage.prompt_tokens = self.books.prompt.rough();
        }
        usage.estimated = true;
        usage.cost = limits.cost(model, &usage).unwrap_or(0);
        usage
    }

    fn attempted(&self, outcome: Outcome, usage: Usage) -> Attempted {
        Attempted {
            id: self.id,
            caller: Arc::clone(&self.books.caller),
            route: Arc::clone(&self.books.route),
            target: self.target.name.clone(),
            key: self.key.name.clone(),
            number: self.number,
            model: None,
            usage,
            is_estimated: usage.estimated,
            outcome,
            cache: self.books.cache,
            first_content: None,
            took: self.started.elapsed(),
        }
    }
}

impl Running {
    pub(super) fn begin(
        books: Books,
        target: Arc<Target>,
        key: Arc<Key>,
        kind: Kind,
        number: u32,
        progress: Arc<CallProgress>,
    ) -> Self {
        target.state.with(|health, _| health.began());
        let mut beginning = Beginning {
            id: None,
            books,
            target,
            key,
            kind,
            number,
            started: Instant::now(),
            progress: Arc::default(),
        };
        beginning.tell();
        Self {
            beginning,
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
        let took = self.beginning.started.elapsed();
        self.first_content = Some(took);
        self.beginning.progress.set_answered(took);
        let kind = self.kind;
        self.beginning
            .target
            .state
            .with(|health, now| health.answered(kind, took, now));
        self.beginning.key.lives(self.beginning.started);
    }

    fn observe(&mut self, piece: &Piece) {
        if piece.content {
            self.answered();
        }
        self.written += piece.written;
        self.beginning.progress.add_written(piece.written);
        for event in &piece.events {
            match event {
                ModelEvent::Model(model) => self.model = Some(model.clone()),
                ModelEvent::Usage(usage) => {
                    self.usage = Some(*usage);
                    self.beginning.progress.set_reported(*usage);
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
        self.beginning.target.state.with(|health, now| health.succeeded(now));
        self.beginning.key.lives(self.beginning.started);
        self.settle(Outcome::Finished(finish));
    }

    /// Settles the attempt as failed if `result` is an error.
    pub(super) fn settling<T>(&mut self, result: Result<T, ModelError>) -> Result<T, ModelError> {
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    fn failed(&mut self, error: &ModelError) {
        self.beginning.target.state.with(|health, now| {
            if rule::is_ill(error.class) {
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
        let level = self.beginning.target.state.with(|health, _| {
            health.ended();
            health.level()
        });
        gauge!("copilotd_gateway_breaker_state", "target" => self.beginning.target.name.to_string()).set(level);
        let provider = self.beginning.target.name.provider.clone();
        counter!("copilotd_gateway_attempts_total", "provider" => provider, "outcome" => outcome.code()).increment(1);
        let over = Over {
            beginning: self.beginning.clone(),
            outcome,
            model: self.model.take(),
            first_content: self.first_content,
            written: self.written,
            took: self.beginning.started.elapsed(),
        };
        match self.known(outcome).used() {
            Used::Known(usage) => over.book(usage),
            Used::ToBeCounted(count) => over.count(count),
        }
    }

    fn known(&self, outcome: Outcome) -> Known {
        let seen = self.progress.seen();
        Known {
            began: self.first_content.is_some(),
            reported: self.usage.or(seen.reported),
            written: self.written,
            outcome,
            seen,
        }
    }
}

impl Over {
    /// Counts tokens that the provider did not report, inline if that is quick. The reservation is held until then.
    fn count(self, count: Count) {
        let prompt = &self.beginning.books.prompt;
        if !tokens::is_ready() {
            // The process has just started; dropping an answer must not wait for the tokenizer to load.
            if let Ok(runtime) = Handle::try_current() {
                drop(runtime.spawn_blocking(tokens::warm_up));
            }
            let prompt_tokens = if count.prompt { prompt.rough() } else { 0 };
            return self.book(count.with(prompt_tokens, count.coarse()));
        }
        let known = if count.prompt { prompt.known() } else { Some(0) };
        if let Some(prompt_tokens) = known.filter(|_| count.is_short()) {
            return self.book(count.with(prompt_tokens, count.answer_now()));
        }
        let Ok(runtime) = Handle::try_current() else {
            // The runtime is shutting down, so counting inline delays nobody.
            let prompt_tokens = if count.prompt { prompt.rough() } else { 0 };
            return self.book(count.with(prompt_tokens, count.answer_now()));
        };
        let pending = (
            self.beginning.books.bill.pending(),
            self.beginning.books.counting.pending(),
        );
        drop(runtime.spawn(async move {
            let books = &self.beginning.books;
            let tenant = books.caller.scope.tenant();
            let prompt_tokens = if count.prompt {
                books.prompt.count(tenant).await
            } else {
                0
            };
            let answer = count.answer(tenant).await;
            self.book(count.with(prompt_tokens, answer));
            drop(pending);
        }));
    }

    /// Reports the attempt's usage to the reservation, the learned statistics, the meter and the bill.
    fn book(self, mut usage: Usage) {
        let Self {
            beginning,
            outcome,
            model,
            first_content,
            written,
            took,
        } = self;
        let (books, target) = (&beginning.books, &beginning.target.name.model);
        // Uses today's price: the target only knows the one from when the process started.
        if let Some(cost) = books.limits.as_ref().and_then(|limits| limits.cost(target, &usage)) {
            usage.cost = cost;
        }
        if let Some(reservation) = &books.reservation {
            reservation.spend(&usage);
        }
        if let (Some(limits), Outcome::Finished(_), false) = (&books.limits, outcome, usage.estimated) {
            let ended = Ended {
                prompt_bytes: books.prompt_bytes,
                written,
                usage: &usage,
                took,
            };
            limits.learned.learn(books.caller.scope.tenant(), target, ended);
        }
        if let Some(meter) = &books.meter {
            meter.attempted(Attempted {
                model,
                first_content,
                took,
                ..beginning.attempted(outcome, usage)
            });
        }
        books.bill.add(usage);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_settled {
            self.beginning.target.state.with(|health, now| health.abandoned(now));
            self.settle(Outcome::Left);
        }
    }
}

/// Passes `pieces` through while `running` observes them; the attempt ends with the stream.
pub(super) fn watched(pieces: PieceStream, running: Running) -> PieceStream {
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

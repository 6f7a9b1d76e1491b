//! Answers that report the recorded usage of all their attempts: the ledger's numbers.
//!
//! Invariant: the last chunk of a stream that reports usage reports the request's whole bill, however many targets it
//! took and whoever ended it; a turn is told its bill once, at its end, good or bad.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use copilotd_actors::compute;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::{NanoUsd, Usage};
use copilotd_actors::ports::{ModelError, ModelEvent, ModelStream};
use futures::{StreamExt, stream};

use super::attempt::CallContext;
use super::bill::Bill;
use crate::answer::{Answer, AnswerStream};
use crate::provider::{Piece, PieceStream};
use crate::request::body::ChatBody;
use crate::request::report::{self, ReportCarrier};

/// Makes an answer of the endpoint report the request's bill; returns its cost, which is not known yet for a stream.
/// `reported` is what a document reports now.
pub(super) async fn answer(
    context: &CallContext,
    body: &ChatBody,
    answer: Answer,
    reported: Usage,
) -> (Answer, Option<NanoUsd>) {
    match answer {
        Answer::Stream(pieces) => {
            let stream = stream(pieces, Arc::clone(&context.bill), body.include_usage());
            (Answer::Stream(stream), None)
        }
        Answer::Whole(bytes) => {
            let (tenant, bill) = (context.caller.scope.tenant(), context.bill.total().await);
            let bytes = document(tenant, bytes, ReportCarrier::Completion, reported, bill).await;
            (Answer::Whole(bytes), Some(bill.cost))
        }
    }
}

/// Makes a document report `bill`; a large one is written on the compute pool. One that already reports it stays as it
/// is.
pub(super) async fn document(
    tenant: &TenantId,
    body: Bytes,
    carrier: ReportCarrier,
    reported: Usage,
    bill: Usage,
) -> Bytes {
    let priced = |usage| Usage { cost: 0, ..usage };
    if priced(reported) == priced(bill) && !bill.estimated {
        return body;
    }
    let (kept, size) = (body.clone(), body.len());
    let written = compute::run(Some(tenant), size, move || report::write(body, carrier, &bill)).await;
    // The header states the cost all the same.
    written.unwrap_or(kept)
}

/// An answer being streamed.
struct BilledStream {
    pieces: AnswerStream,
    bill: Arc<Bill>,
    /// Whether the caller wants a usage report.
    wanted: bool,
    /// The answer's first chunk, whose identity our own report takes over.
    first: Option<Bytes>,
    ready: VecDeque<Piece>,
}

fn stream(pieces: AnswerStream, bill: Arc<Bill>, wanted: bool) -> AnswerStream {
    let billed = BilledStream {
        pieces,
        bill,
        wanted,
        first: None,
        ready: VecDeque::new(),
    };
    stream::unfold(billed, |mut billed| async move {
        if let Some(piece) = billed.ready.pop_front() {
            return Some((Ok(piece), billed));
        }
        let item = match billed.pieces.next().await? {
            Ok(piece) => Ok(billed.take(piece).await),
            Err(error) => Err(error),
        };
        Some((item, billed))
    })
    .boxed()
}

impl BilledStream {
    async fn take(&mut self, mut piece: Piece) -> Piece {
        if self.first.is_none() {
            self.first.clone_from(&piece.chunk);
        }
        let is_end = |event: &ModelEvent| matches!(event, ModelEvent::Finished(_));
        let ends = piece.events.iter().any(is_end);
        // A broken answer reports no usage here: another target may continue it.
        piece.events.retain(|event| !matches!(event, ModelEvent::Usage(_)));
        if !ends {
            return piece;
        }
        let bill = self.bill.total().await;
        piece.events.insert(0, ModelEvent::Usage(bill));
        match &piece.chunk {
            Some(chunk) if report::is_report(chunk) => {
                piece.chunk = Some(report::write(chunk.clone(), ReportCarrier::Chunk, &bill));
            }
            // The stream was ended on our side before the provider could report.
            chunk if self.wanted => {
                let first = self.first.as_ref().or(chunk.as_ref());
                let told = report::chunk(first.map_or(b"{}", |first| first), &bill);
                let end = Piece {
                    chunk: Some(told),
                    events: std::mem::take(&mut piece.events),
                    ..Piece::default()
                };
                if piece.chunk.is_none() {
                    return end;
                }
                self.ready.push_back(end);
            }
            _ => {}
        }
        piece
    }
}

/// Converts pieces to the core's events. Usage is reported once, at the end: what was recorded for all attempts of the
/// call.
pub(super) fn events(pieces: PieceStream, bill: Arc<Bill>) -> ModelStream {
    let told = pieces.then(move |item| {
        let bill = Arc::clone(&bill);
        async move {
            let mut events: Vec<Result<ModelEvent, ModelError>> = Vec::new();
            match item {
                Ok(piece) => {
                    for event in piece.events {
                        match event {
                            ModelEvent::Usage(_) => {}
                            ModelEvent::Finished(_) => {
                                events.push(Ok(ModelEvent::Usage(bill.total().await)));
                                events.push(Ok(event));
                            }
                            event => events.push(Ok(event)),
                        }
                    }
                }
                Err(error) => {
                    events.extend(used(&bill).await.map(Ok));
                    events.push(Err(error));
                }
            }
            stream::iter(events)
        }
    });
    told.flatten().boxed()
}

/// The result of a call without an answer: its recorded usage, if any, then its error.
pub(super) async fn unanswered(bill: &Bill, error: ModelError) -> Result<ModelStream, ModelError> {
    match used(bill).await {
        Some(used) => Ok(stream::iter([Ok(used), Err(error)]).boxed()),
        None => Err(error),
    }
}

async fn used(bill: &Bill) -> Option<ModelEvent> {
    let bill = bill.total().await;
    (!bill.is_nothing()).then_some(ModelEvent::Usage(bill))
}

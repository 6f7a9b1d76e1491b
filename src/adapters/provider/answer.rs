//! One answer while it is being written.
//!
//! Invariant: the body (and with it the upstream connection) and the ticket are dropped as soon as nothing more is wanted:
//! at the end, at the first error, or when the reader drops the stream. Only a provider that has said `[DONE]` gets a
//! moment to end the body itself, so that the connection can serve again.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::{Price, Usage};
use copilotd_actors::ports::{ModelError, ModelEvent};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, Sleep};

use super::clocks::{Clocks, Silence};
use super::decoder::{Decoder, Out, Progress};
use super::errors::Errors;
use super::estimate::Transcript;
use super::hosts::Ticket;
use super::sse::SseReader;
use crate::adapters::genai_span::CallSpan;
use crate::gateway::upstream::{Piece, PieceStream};

/// How long a body may take to end after the provider's last word.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the reading of an answer needs.
pub struct Answer<D> {
    /// Gone as soon as nothing more is wanted of it.
    upstream: Option<Upstream>,
    /// Bytes that were read and not yet looked at. Events are taken off one by one, so that a large piece does not become
    /// a long queue.
    piece: Bytes,
    sse: SseReader,
    decoder: D,
    transcript: Transcript,
    clocks: Clocks,
    /// One timer for all clocks; it is moved only when a clock comes forward, and looks again when it rings.
    sleep: Pin<Box<Sleep>>,
    queue: Out,
    errors: Errors,
    price: Option<Price>,
    span: CallSpan,
    /// Bytes of the answer that pieces were told of.
    told: u64,
}

struct Upstream {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    _ticket: Ticket,
}

enum Read {
    Bytes(Bytes),
    End,
    Broken(ModelError),
    Silent(Silence),
}

impl<D: Decoder> Answer<D> {
    /// Begins to read `response`.
    #[expect(clippy::too_many_arguments, reason = "one call site, which has each of them at hand")]
    pub fn new(
        response: reqwest::Response,
        ticket: Ticket,
        decoder: D,
        transcript: Transcript,
        clocks: Clocks,
        errors: Errors,
        price: Option<Price>,
        span: CallSpan,
    ) -> Self {
        Self {
            upstream: Some(Upstream {
                body: response.bytes_stream().boxed(),
                _ticket: ticket,
            }),
            piece: Bytes::new(),
            sse: SseReader::default(),
            decoder,
            transcript,
            sleep: Box::pin(tokio::time::sleep_until(clocks.due())),
            clocks,
            queue: Out::new(),
            errors,
            price,
            span,
            told: 0,
        }
    }

    /// Turns it into a stream of pieces.
    pub fn into_stream(self) -> PieceStream {
        futures::stream::unfold(Box::new(self), |mut answer| async move {
            let item = answer.next().await?;
            Some((item, answer))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Piece, ModelError>> {
        self.clocks.resume(Instant::now());
        let item = loop {
            if let Some(mut item) = self.queue.pop_front() {
                if let Ok(piece) = &mut item {
                    let written = self.transcript.written();
                    piece.written = written - std::mem::replace(&mut self.told, written);
                }
                self.span.observe(&item);
                break Some(item);
            }
            self.upstream.as_ref()?;
            match self.sse.advance(&mut self.piece) {
                Ok(true) => self.event().await,
                Err(_) => {
                    let error = self.errors.malformed("it sent a line that is too long");
                    self.fail(error).await;
                }
                Ok(false) => match self.read().await {
                    Read::Bytes(piece) => self.piece = piece,
                    Read::End => self.end().await,
                    Read::Broken(_) | Read::Silent(_) if self.decoder.is_finished() => self.close().await,
                    Read::Broken(error) => self.fail(error).await,
                    Read::Silent(silence) => self.fail(self.errors.silence(silence)).await,
                },
            }
        };
        self.clocks.pause(Instant::now());
        item
    }

    /// Handles the event that the reader has ready.
    async fn event(&mut self) {
        let progress = self
            .decoder
            .decode(self.sse.data(), &mut self.queue, &mut self.transcript);
        let now = Instant::now();
        match progress {
            Ok(Progress::None) => {}
            Ok(Progress::Content) => self.clocks.content(now),
            Ok(Progress::Finished) => self.clocks.finished(now),
            Ok(Progress::Done) => return self.done().await,
            // The answer is whole; a last chunk that nobody understands takes nothing away from it.
            Err(_) if self.decoder.is_finished() => return self.close().await,
            Err(error) => return self.fail(error).await,
        }
        // A peer that never pauses keeps the timer from being asked.
        match self.clocks.expired(now) {
            Some(_) if self.decoder.is_finished() => self.close().await,
            Some(silence) => self.fail(self.errors.silence(silence)).await,
            None => {}
        }
    }

    async fn read(&mut self) -> Read {
        let Some(upstream) = &mut self.upstream else {
            return Read::End;
        };
        // Even empty it would hold on to the connection's read buffer, which then could not be used again: 8 KiB a stream.
        self.piece = Bytes::new();
        let due = self.clocks.due();
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
        loop {
            tokio::select! {
                biased;
                piece = upstream.body.next() => return match piece {
                    // Comments alone must not outrun the clocks.
                    Some(Ok(piece)) => match self.clocks.expired(Instant::now()) {
                        Some(silence) if !has_data(&piece) => Read::Silent(silence),
                        _ => Read::Bytes(piece),
                    },
                    Some(Err(error)) => Read::Broken(self.errors.body(&error)),
                    None => Read::End,
                },
                () = self.sleep.as_mut() => match self.clocks.expired(Instant::now()) {
                    Some(silence) => return Read::Silent(silence),
                    None => self.sleep.as_mut().reset(self.clocks.due()),
                },
            }
        }
    }

    /// The body ended.
    async fn end(&mut self) {
        if !self.decoder.is_finished() && self.sse.finish() {
            // Without its last empty line an event counts only if it is whole.
            let whole = self
                .decoder
                .decode(self.sse.data(), &mut self.queue, &mut self.transcript);
            if let Err(error) = whole
                && serde_json::from_slice::<serde::de::IgnoredAny>(self.sse.data()).is_ok()
            {
                return self.fail(error).await;
            }
        }
        self.close().await;
    }

    /// The provider said that nothing more will come.
    async fn done(&mut self) {
        if let Some(mut upstream) = self.upstream.take()
            && !matches!(upstream.body.next().now_or_never(), Some(None))
        {
            // The reader shall not wait for it.
            tokio::spawn(async move { tokio::time::timeout(GOODBYE, upstream.body.next()).await.map(drop) });
        }
        self.close().await;
    }

    /// Ends the answer: well if the provider gave a reason to finish, else as a cut.
    async fn close(&mut self) {
        match self.decoder.take_finish() {
            None => self.fail(self.errors.cut()).await,
            // A model that says nothing at all has not used a token either: the server broke, and says so politely.
            Some(Ok(Finish::Stop)) if !self.decoder.content_seen() && self.completion_tokens() == 0 => {
                self.fail(self.errors.malformed("it said nothing")).await;
            }
            Some(finish) => {
                self.upstream = None;
                let usage = self.usage().await;
                let chunk = self.decoder.usage_chunk(&usage);
                let mut last = Piece {
                    chunk,
                    events: vec![ModelEvent::Usage(usage)],
                    ..Piece::default()
                };
                let error = finish.map(|finish| last.events.push(ModelEvent::Finished(finish)));
                self.queue.push_back(Ok(last));
                self.queue.extend(error.err().map(Err));
            }
        }
    }

    /// Ends the answer as a failure. What was used by then is told first, if the provider had begun to work.
    async fn fail(&mut self, error: ModelError) {
        self.upstream = None;
        if self.decoder.content_seen() {
            let usage = self.usage().await;
            self.queue.push_back(Ok(Piece {
                events: vec![ModelEvent::Usage(usage)],
                ..Piece::default()
            }));
        }
        self.queue.push_back(Err(error));
    }

    fn completion_tokens(&self) -> u64 {
        self.decoder.usage().map_or(0, |usage| usage.completion_tokens)
    }

    async fn usage(&mut self) -> Usage {
        let mut usage = match self.decoder.usage() {
            Some(usage) => usage,
            None => self.transcript.clone().estimate().await,
        };
        usage.cost = self.price.map_or(0, |price| price.cost(&usage));
        usage
    }
}

/// Tells whether a piece may hold content: it has a line that is not a comment.
fn has_data(piece: &[u8]) -> bool {
    piece
        .split(|&byte| byte == b'\n')
        .any(|line| !line.trim_ascii().is_empty() && !line.starts_with(b":"))
}

//! One answer while it is being streamed.
//!
//! Invariant: the body (and with it the upstream connection) and the permit are dropped as soon as nothing more is
//! wanted: at the end, at the first error, or when the reader drops the stream. Only a provider that has sent `[DONE]`
//! gets a moment to end the body itself, so that the connection can be reused.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::compute;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::{Price, Usage};
use copilotd_actors::ports::{ModelError, ModelEvent};
use copilotd_gateway::provider::{CallProgress, Piece, PieceStream};
use futures::{FutureExt, StreamExt};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::time::{Instant, Sleep};

use super::body;
use super::connection_pool::StreamPermit;
use super::deadlines::{Deadlines, TimedOut};
use super::decoder::{Decoder, End, Out, Progress};
use super::deployment::MAX_DOCUMENT;
use super::errors::Errors;
use super::estimate::Transcript;
use super::memory::MemoryShare;
use super::sse::{SseError, SseReader};
use crate::adapters::llm::genai_span::CallSpan;

/// How long a body may take to end after the provider's last event.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What reading an answer needs.
pub struct Answer<D> {
    /// Dropped as soon as nothing more is wanted of it.
    upstream: Option<Upstream>,
    /// Bytes that were received and not yet parsed. Events are parsed one by one, so that a large piece does not become
    /// a long queue.
    piece: Bytes,
    form: Form,
    sse: SseReader,
    /// `None` when it was lost with the work of reading a large event.
    reading: Option<Box<Reading<D>>>,
    /// The share of the process's memory budget that the current event takes.
    memory: MemoryShare,
    deadlines: Deadlines,
    /// One timer for all deadlines; it is reset only when the next deadline becomes earlier, and checks again when it
    /// fires.
    sleep: Pin<Box<Sleep>>,
    errors: Errors,
    price: Option<Price>,
    span: CallSpan,
    /// Bytes of the answer that were passed on with pieces.
    reported_bytes: u64,
    progress: Arc<CallProgress>,
    /// The last report of usage that was passed on.
    reported: Option<Usage>,
}

/// What is moved to another thread to read a large event.
struct Reading<D> {
    decoder: D,
    transcript: Transcript,
    queue: Out,
}

/// The form of the answer. A server's header may name another one than it sends, so the first byte decides.
enum Form {
    Unknown,
    /// Server-sent events. `is_read`: there was at least one.
    Events {
        is_read: bool,
    },
    /// One document, or several in a row.
    Document(Vec<u8>),
}

struct Upstream {
    body: body::Body,
    _permit: StreamPermit,
}

enum BodyRead {
    Bytes(Bytes),
    End,
    BodyError(ModelError),
    Silent(TimedOut),
}

impl<D: Decoder> Answer<D> {
    /// Starts reading `response`.
    #[expect(clippy::too_many_arguments, reason = "one call site, which has all of them at hand")]
    pub fn new(
        response: reqwest::Response,
        permit: StreamPermit,
        decoder: D,
        transcript: Transcript,
        deadlines: Deadlines,
        errors: Errors,
        price: Option<Price>,
        span: CallSpan,
        progress: Arc<CallProgress>,
    ) -> Self {
        Self {
            upstream: Some(Upstream {
                body: body::open(response),
                _permit: permit,
            }),
            piece: Bytes::new(),
            form: Form::Unknown,
            sse: SseReader::default(),
            reading: Some(Box::new(Reading {
                decoder,
                transcript,
                queue: Out::new(),
            })),
            memory: MemoryShare::default(),
            sleep: Box::pin(tokio::time::sleep_until(deadlines.due())),
            deadlines,
            errors,
            price,
            span,
            reported_bytes: 0,
            progress,
            reported: None,
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
        self.deadlines.resume(Instant::now());
        let item = loop {
            let reading = self.reading.as_mut()?;
            if let Some(mut item) = reading.queue.pop_front() {
                if let Ok(piece) = &mut item {
                    let written = reading.transcript.written();
                    piece.written = written - std::mem::replace(&mut self.reported_bytes, written);
                }
                self.span.observe(&item);
                break Some(item);
            }
            if !matches!(self.form, Form::Document(_)) {
                self.memory.shrink_to(0);
            }
            self.upstream.as_ref()?;
            match self.sse.advance(&mut self.piece) {
                Ok(true) => {
                    let read = self.event().await;
                    if let Err(error) = read {
                        break Some(Err(error));
                    }
                }
                Err(unread) => {
                    let error = self.unread(unread);
                    self.fail(error).await;
                }
                Ok(false) => match self.read().await {
                    BodyRead::Bytes(piece) => self.take(piece).await,
                    BodyRead::End => {
                        if let Err(error) = self.end().await {
                            break Some(Err(error));
                        }
                    }
                    BodyRead::BodyError(_) | BodyRead::Silent(_) if self.is_finished() => self.close(End::Body).await,
                    BodyRead::BodyError(error) => self.fail(error).await,
                    BodyRead::Silent(silence) => self.fail(self.errors.silence(silence)).await,
                },
            }
        };
        self.deadlines.pause(Instant::now());
        item
    }

    fn is_finished(&self) -> bool {
        self.reading
            .as_ref()
            .is_some_and(|reading| reading.decoder.is_finished())
    }

    fn unread(&self, unread: SseError) -> ModelError {
        match unread {
            SseError::TooLong => self.errors.malformed("the provider sent a line that is too long"),
            SseError::MemoryExhausted => self
                .errors
                .plain(FailureClass::Overload, "this process is reading too many large answers"),
        }
    }

    /// Takes bytes of the body; the first ones determine its form.
    async fn take(&mut self, piece: Bytes) {
        if let Form::Unknown = self.form {
            // White space and a byte order mark do not count.
            let first = piece.iter().find(|byte| !b" \t\r\n\xef\xbb\xbf".contains(byte));
            match first {
                None => {}
                Some(b'{' | b'[') => self.form = Form::Document(Vec::new()),
                Some(_) => self.form = Form::Events { is_read: false },
            }
        }
        let Form::Document(document) = &mut self.form else {
            self.piece = piece;
            return;
        };
        // A document being received counts as content: the provider is not silent.
        self.deadlines.content(Instant::now());
        let held = document.len() + piece.len();
        if held > MAX_DOCUMENT {
            let error = self.errors.malformed("the provider sent an answer that is too long");
            return self.fail(error).await;
        }
        if self.memory.hold(held).is_err() {
            let error = self.unread(SseError::MemoryExhausted);
            return self.fail(error).await;
        }
        document.extend_from_slice(&piece);
    }

    /// Handles the event that the reader has ready. An error ends the answer: the reader's state is unknown after it.
    async fn event(&mut self) -> Result<(), ModelError> {
        self.form = Form::Events { is_read: true };
        let progress = if self.sse.data().len() > compute::INLINE_COST {
            let name = self.sse.name().to_owned();
            let (data, memory) = self.sse.take_data();
            self.memory = memory;
            self.compute(data, move |reading, data| reading.event(&name, data))
                .await?
        } else {
            match &mut self.reading {
                Some(reading) => reading.event(self.sse.name(), self.sse.data()),
                None => return Ok(()),
            }
        };
        self.note_report();
        let now = Instant::now();
        match progress {
            Ok(Progress::None) => {}
            Ok(Progress::Content) => self.deadlines.content(now),
            Ok(Progress::Finished) => self.deadlines.finished(now),
            Ok(Progress::Done) => {
                self.done().await;
                return Ok(());
            }
            // The answer is complete; an unreadable last chunk does not change that.
            Err(_) if self.is_finished() => {
                self.close(End::Body).await;
                return Ok(());
            }
            Err(error) => {
                if !self.has_begun() {
                    self.progress.failed_unanswered(&error);
                }
                self.fail(error).await;
                return Ok(());
            }
        }
        // A peer that never pauses keeps the timer from being polled.
        match self.deadlines.expired(now) {
            Some(_) if self.is_finished() => self.close(End::Body).await,
            Some(silence) => self.fail(self.errors.silence(silence)).await,
            None => {}
        }
        Ok(())
    }

    /// Passes a new report of usage on to the accounting at once: the call may be dropped before its end.
    fn note_report(&mut self) {
        let reported = self.reading.as_ref().and_then(|reading| reading.decoder.usage());
        if reported != self.reported {
            self.reported = reported;
            if let Some(usage) = reported {
                self.progress.reported(self.priced(usage));
            }
        }
    }

    fn priced(&self, usage: Usage) -> Usage {
        let cost = self.price.map_or(0, |price| price.cost(&usage));
        Usage { cost, ..usage }
    }

    /// Returns whether the provider has visibly begun to work: content came, or a report of usage.
    fn has_begun(&self) -> bool {
        let begun = |reading: &Reading<D>| reading.decoder.content_seen() || reading.decoder.usage().is_some();
        self.reading.as_deref().is_some_and(begun)
    }

    /// Runs something large on the compute pool instead of a thread that serves.
    async fn compute<T: Send + 'static>(
        &mut self,
        data: Vec<u8>,
        work: impl FnOnce(&mut Reading<D>, &[u8]) -> T + Send + 'static,
    ) -> Result<T, ModelError> {
        let Some(mut reading) = self.reading.take() else {
            return Err(self.errors.cut());
        };
        let tenant = reading.transcript.tenant().cloned();
        let cost = data.len();
        let run = move || {
            let result = work(&mut reading, &data);
            (reading, result)
        };
        match compute::run(tenant.as_ref(), cost, run).await {
            Ok((reading, result)) => {
                self.reading = Some(reading);
                Ok(result)
            }
            Err(error) => {
                self.upstream = None;
                let error = self.errors.not_computed(error);
                self.span.fail(error.class.code());
                Err(error)
            }
        }
    }

    async fn read(&mut self) -> BodyRead {
        let Some(upstream) = &mut self.upstream else {
            return BodyRead::End;
        };
        // Even an empty slice would hold on to the connection's read buffer, which then could not be reused: 8 KiB a
        // stream.
        self.piece = Bytes::new();
        let due = self.deadlines.due();
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
        loop {
            tokio::select! {
                biased;
                piece = upstream.body.next() => return match piece {
                    // Comments alone must not outrun the deadlines.
                    Some(Ok(piece)) => match self.deadlines.expired(Instant::now()) {
                        Some(silence) if !has_data(&piece) => BodyRead::Silent(silence),
                        _ => BodyRead::Bytes(piece),
                    },
                    Some(Err(body::BodyError::Network(error))) => BodyRead::BodyError(self.errors.body(&error)),
                    Some(Err(body::BodyError::Encoding)) => {
                        BodyRead::BodyError(self.errors.malformed("the provider sent an answer that cannot be decompressed"))
                    }
                    None => BodyRead::End,
                },
                () = self.sleep.as_mut() => match self.deadlines.expired(Instant::now()) {
                    Some(silence) => return BodyRead::Silent(silence),
                    None => self.sleep.as_mut().reset(self.deadlines.due()),
                },
            }
        }
    }

    /// The body ended.
    async fn end(&mut self) -> Result<(), ModelError> {
        if let Form::Document(document) = &mut self.form {
            let document = std::mem::take(document);
            let errors = self.errors.clone();
            let read = self
                .compute(document, move |reading, document| reading.document(document, &errors))
                .await?;
            self.note_report();
            match read {
                Ok(()) => self.close(End::Body).await,
                Err(error) => {
                    if !self.has_begun() {
                        self.progress.failed_unanswered(&error);
                    }
                    self.fail(error).await;
                }
            }
            return Ok(());
        }
        if let Some(reading) = &mut self.reading
            && !reading.decoder.is_finished()
            && self.sse.finish()
        {
            self.form = Form::Events { is_read: true };
            // Without its last empty line an event counts only if its data is complete.
            let whole = reading.event(self.sse.name(), self.sse.data());
            match whole {
                Ok(Progress::Done) => {
                    self.close(End::Done).await;
                    return Ok(());
                }
                Err(error) if serde_json::from_slice::<IgnoredAny>(self.sse.data()).is_ok() => {
                    self.fail(error).await;
                    return Ok(());
                }
                _ => {}
            }
        }
        self.close(End::Body).await;
        Ok(())
    }

    /// The provider said that nothing more will come.
    async fn done(&mut self) {
        if let Some(mut upstream) = self.upstream.take()
            && !matches!(upstream.body.next().now_or_never(), Some(None))
        {
            // The reader shall not wait for it.
            tokio::spawn(async move { tokio::time::timeout(END_TIMEOUT, upstream.body.next()).await.map(drop) });
        }
        self.close(End::Done).await;
    }

    /// Ends the answer: successfully if the provider gave a finish reason, otherwise as cut off.
    async fn close(&mut self, end: End) {
        let Some(reading) = &mut self.reading else { return };
        let finish = reading.decoder.finish(end, &mut reading.queue, &mut reading.transcript);
        let said_nothing = !reading.decoder.content_seen();
        let used = reading.decoder.usage().map_or(0, |usage| usage.completion_tokens);
        match finish {
            None => self.fail(self.unfinished()).await,
            // No content and no tokens used: the server failed, but answered with a success status.
            Some(Ok(Finish::Stop)) if said_nothing && used == 0 => {
                self.fail(self.errors.malformed("the provider sent an empty answer"))
                    .await;
            }
            Some(finish) => {
                self.upstream = None;
                let usage = self.usage().await;
                let Some(reading) = &mut self.reading else { return };
                let chunk = reading.decoder.usage_chunk(&usage);
                let mut last = Piece {
                    chunk,
                    events: vec![ModelEvent::Usage(usage)],
                    ..Piece::default()
                };
                let error = finish.map(|finish| last.events.push(ModelEvent::Finished(finish)));
                reading.queue.push_back(Ok(last));
                reading.queue.extend(error.err().map(Err));
            }
        }
    }

    /// The error of an answer that ended without a finish reason.
    fn unfinished(&self) -> ModelError {
        let said_nothing = self
            .reading
            .as_ref()
            .is_some_and(|reading| !reading.decoder.content_seen());
        match self.form {
            Form::Document(_) if said_nothing => self.errors.malformed("the provider did not answer with a stream"),
            Form::Events { is_read: false } if said_nothing && self.sse.is_foreign() => {
                self.errors.malformed("the provider did not answer with a stream")
            }
            _ => self.errors.cut(),
        }
    }

    /// Ends the answer as a failure. If the provider had begun to work, the usage so far is reported first.
    async fn fail(&mut self, error: ModelError) {
        self.upstream = None;
        let has_answered = self
            .reading
            .as_ref()
            .is_some_and(|reading| reading.decoder.content_seen());
        let usage = if has_answered { Some(self.usage().await) } else { None };
        let Some(reading) = &mut self.reading else { return };
        if let Some(usage) = usage {
            reading.queue.push_back(Ok(Piece {
                events: vec![ModelEvent::Usage(usage)],
                ..Piece::default()
            }));
        }
        reading.queue.push_back(Err(error));
    }

    async fn usage(&mut self) -> Usage {
        let Some(reading) = &self.reading else {
            return Usage::default();
        };
        let usage = reading.transcript.ended(reading.decoder.usage()).await;
        self.priced(usage)
    }
}

impl<D: Decoder> Reading<D> {
    fn event(&mut self, name: &str, data: &[u8]) -> Result<Progress, ModelError> {
        let mut decode = |data: &[u8]| self.decoder.decode(name, data, &mut self.queue, &mut self.transcript);
        if !data.contains(&b'\n') || serde_json::from_slice::<IgnoredAny>(data).is_ok() {
            return decode(data);
        }
        // Some servers leave out the empty line between events.
        let lines = || data.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let is_event = |line: &[u8]| line.is_empty() || line.starts_with(b"{") || line.eq_ignore_ascii_case(b"[done]");
        if !lines().all(is_event) {
            return decode(data);
        }
        let mut progress = Progress::None;
        for line in lines() {
            match decode(line)? {
                Progress::None => {}
                Progress::Done => return Ok(Progress::Done),
                found => progress = found,
            }
        }
        Ok(progress)
    }

    /// Reads a body that is one document, or several, as if they were events.
    fn document(&mut self, bytes: &[u8], errors: &Errors) -> Result<(), ModelError> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
        for value in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
            match value {
                Ok(value) => _ = self.event("", value.get().as_bytes())?,
                Err(error) if error.is_eof() => return Err(errors.cut()),
                Err(_) => return Err(errors.malformed("the provider sent a response that is not an answer")),
            }
        }
        Ok(())
    }
}

/// Returns whether a piece may contain content: it has a line that is not a comment.
fn has_data(piece: &[u8]) -> bool {
    piece
        .split(|&byte| byte == b'\n')
        .any(|line| !line.trim_ascii().is_empty() && !line.starts_with(b":"))
}

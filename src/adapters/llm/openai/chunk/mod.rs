//! Reads the chunks of a streamed answer, and passes them on.
//!
//! Chunks are passed on byte for byte, except nonstandard ones (`read`), which are rewritten as clients expect them
//! (`rewrite`).
//!
//! Invariants: a chunk with a finish reason is held back until nothing more came, so nobody sees a false end; content
//! after it revokes it. Calls are assembled by `provider::calls`, and are reported when complete.

mod reader;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent};
use copilotd_gateway::provider::Piece;
use copilotd_gateway::request::report::{self, ReportCarrier};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::reader::Reader;
use super::read::{self, Choice, ParsedChunk};
use super::rewrite::{self, Identity, OpenChunk};
use crate::adapters::llm::provider::calls::Calls;
use crate::adapters::llm::provider::lenient::{
    Members, PendingSurrogate, Writer, mend, skipped, without_lone_surrogates,
};
use crate::adapters::llm::provider::{self, End, Errors, Out, Progress, Reason, Transcript};

/// Most choices that are read of one answer.
const MAX_CHOICES: u64 = 128;
/// Events with these names are ignored, whatever they contain.
const HEARTBEATS: [&str; 4] = ["ping", "heartbeat", "keepalive", "keep-alive"];

/// The state of reading one answer.
#[derive(Debug)]
pub struct Decoder {
    errors: Errors,
    options: AnswerOptions,
    /// Boxed: a node of the map has room for eleven, and most answers have one.
    choices: BTreeMap<u64, Box<State>>,
    model_told: bool,
    /// The provider's own usage report, which is sent last, with our price in it.
    report: Option<Bytes>,
    content_seen: bool,
    refusal: String,
    usage: Option<Usage>,
    identity: Identity,
    /// Number of chunks held back so far.
    held: u64,
}

/// What the caller wants to receive.
#[derive(Debug, Clone, Copy)]
pub struct AnswerOptions {
    /// Whether chunks are passed on. Then a refusal and an end by the content filter are the caller's to read;
    /// otherwise they are failures: a refusal where a schema was requested, the filter always.
    pub chunks: bool,
    /// Whether the last chunk shall report usage.
    pub include_usage: bool,
    /// Whether a schema was requested.
    pub has_schema: bool,
    /// How many answers were requested.
    pub choices: u64,
}

/// One choice while it is streamed.
#[derive(Debug, Default)]
struct State {
    content: PendingSurrogate,
    thought: PendingSurrogate,
    refusal: PendingSurrogate,
    calls: Calls,
    /// Calls came as a list (`tool_calls`).
    has_list: bool,
    /// Calls came of a type that only the caller can read.
    has_others: bool,
    has_spoken: bool,
    ending: Option<Reason>,
    /// A finish reason was revoked by later content.
    was_ended: bool,
    held: Option<HeldChunk>,
}

/// A chunk with a finish reason.
#[derive(Debug)]
struct HeldChunk {
    /// As received, if it is standard, and its finish reason.
    plain: Option<(Reason, Bytes)>,
    open: OpenChunk,
    /// Its position among those that are held back.
    number: u64,
}

/// The result of reading one choice of a chunk.
struct ChoiceDelta {
    /// Its position in the chunk.
    at: usize,
    index: u64,
    /// The rewritten delta; `None` if it is standard.
    delta: Option<String>,
    reason: Option<Reason>,
    has_content: bool,
}

impl Decoder {
    /// Starts an answer.
    pub fn new(errors: Errors, options: AnswerOptions) -> Self {
        Self {
            errors,
            options,
            choices: BTreeMap::new(),
            model_told: false,
            report: None,
            content_seen: false,
            refusal: String::new(),
            usage: None,
            identity: Identity::default(),
            held: 0,
        }
    }

    /// Records which model answers, and reports it once.
    fn identify(&mut self, top: &Members<'_>, events: &mut Vec<ModelEvent>) {
        if self.identity.id.is_some() && self.model_told {
            return;
        }
        let said = Identity::of(top);
        if let Some(model) = said.model.clone().filter(|model| !model.is_empty())
            && !self.model_told
            && !self.content_seen
        {
            self.model_told = true;
            events.push(ModelEvent::Model(model));
        }
        if self.identity.id.is_none() {
            self.identity = said;
        }
    }

    /// Reads one choice. Only the first one's text becomes events.
    fn choice(
        &mut self,
        at: usize,
        choice: &Choice<'_>,
        piece: &mut Piece,
        transcript: &mut Transcript,
    ) -> Result<ChoiceDelta, ModelError> {
        let tells = self.options.chunks;
        let index = choice.index;
        let state = self.choices.entry(index).or_insert_with(|| {
            Box::new(State {
                calls: Calls::new(tells),
                ..State::default()
            })
        });
        let mut events = Vec::new();
        let mut reader = Reader {
            state,
            options: self.options,
            refusal: &mut self.refusal,
            events: &mut events,
            transcript,
            is_odd: choice.is_odd || !choice.has_index || choice.is_whole,
            has_content: false,
        };
        // Some servers repeat the whole message at the end.
        let is_repeated = choice.is_whole && reader.state.has_spoken;
        let delta = if is_repeated {
            reader.is_odd = true;
            "{}".to_owned()
        } else {
            reader
                .delta(&choice.said, choice.is_whole)
                .map_err(|what| self.errors.malformed(what))?
        };
        let (is_odd, has_content) = (reader.is_odd, reader.has_content);
        if has_content {
            state.has_spoken = true;
            self.content_seen = true;
            piece.content = true;
            if state.ending.take().is_some() {
                state.was_ended = true;
            }
            state.held = None;
        }
        if index == 0 {
            piece.events.append(&mut events);
        }
        if let Some(reason) = choice.reason {
            // Of two, the worse one: a part is never reported as the whole.
            state.ending = Some(state.ending.map_or(reason, |known| known.max(reason)));
        }
        Ok(ChoiceDelta {
            at,
            index,
            delta: is_odd.then_some(delta),
            reason: choice.reason,
            has_content,
        })
    }

    /// Returns whether every requested choice has ended.
    fn have_all_ended(&self) -> bool {
        let ended = self.choices.values().filter(|state| state.ending.is_some()).count();
        ended as u64 >= self.options.choices.max(1)
    }

    /// Passes a chunk on, in parts if need be, unless it contains nothing that the caller requested. The usage report
    /// is kept for the end, and so are finish reasons.
    fn pass(
        &mut self,
        data: &str,
        read: &ParsedChunk<'_>,
        choices_read: &[ChoiceDelta],
        mut piece: Piece,
        out: &mut Out,
    ) {
        if !self.options.chunks {
            return emit(piece, out);
        }
        if choices_read.is_empty() {
            if read.report.is_some() {
                let is_plain = self.usage.is_some() && !read.is_odd && read.choices.is_empty();
                self.report = is_plain.then(|| as_it_came(data));
            } else if read.has_choices && read.choices.is_empty() {
                piece.chunk = Some(if read.is_odd {
                    rewrite::chunk(read, None, &self.identity).with(None)
                } else {
                    as_it_came(data)
                });
            } else {
                skipped("chunk");
            }
            return emit(piece, out);
        }
        // Usage is reported once, at the end: clients add up all reports.
        let is_odd = read.is_odd || read.report.is_some() || choices_read.len() < read.choices.len();
        let is_odd = is_odd || choices_read.iter().any(|choices_read| choices_read.delta.is_some());
        let has_ended = choices_read.iter().any(|choices_read| choices_read.reason.is_some());
        if !is_odd && !has_ended {
            piece.chunk = Some(as_it_came(data));
            return emit(piece, out);
        }
        let plain = (!is_odd && choices_read.len() == 1).then(|| as_it_came(data));
        for (number, taken_one) in choices_read.iter().enumerate() {
            let Some(choice) = read.choices.get(taken_one.at) else {
                continue;
            };
            let is_last = number + 1 == choices_read.len();
            let delta = taken_one.delta.clone().unwrap_or_else(|| written(&choice.said));
            let open = rewrite::chunk(read, Some((choice, &delta)), &self.identity);
            let Some(reason) = taken_one.reason else {
                if delta != "{}" {
                    self.part(open.with(None), is_last, &mut piece, out);
                }
                continue;
            };
            let held = if taken_one.has_content {
                self.part(open.with(None), is_last, &mut piece, out);
                HeldChunk {
                    plain: None,
                    open: rewrite::own(&self.identity, taken_one.index, "{}"),
                    number: self.held,
                }
            } else {
                let plain = plain.clone().map(|bytes| (reason, bytes));
                HeldChunk {
                    plain,
                    open,
                    number: self.held,
                }
            };
            self.held += 1;
            if let Some(state) = self.choices.get_mut(&taken_one.index) {
                state.held = Some(held);
            }
        }
        emit(piece, out);
    }

    /// Sends a chunk; the last one of an event carries the event's meaning.
    fn part(&self, chunk: Bytes, is_last: bool, piece: &mut Piece, out: &mut Out) {
        if is_last {
            piece.chunk = Some(chunk);
        } else {
            out.push_back(Ok(Piece {
                chunk: Some(chunk),
                content: piece.content,
                ..Piece::default()
            }));
        }
    }

    fn chunk(
        &mut self,
        event: &str,
        data: &str,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        let mended;
        // The cause is not quoted: it may contain a piece of the conversation.
        let (data, top) = match Members::read(data) {
            Some(top) => (data, top),
            None => {
                mended = mend(data);
                let top = Members::read(&mended).ok_or_else(|| {
                    self.errors
                        .malformed("the provider sent something that is not a chunk of an answer")
                })?;
                (mended.as_str(), top)
            }
        };
        if let Some(errors) = read::error(event, &top) {
            let error = errors.first().map_or(data, |raw| raw.get());
            let error = serde_json::from_str(error).unwrap_or(Value::Null);
            return Err(self.errors.in_stream(&error));
        }
        let read = ParsedChunk::of(top, "chat.completion.chunk");
        let mut piece = Piece::default();
        if let Some(report) = read.report {
            self.usage = if report.is_wrong && report.usage.is_none() {
                None
            } else {
                report.usage.or(self.usage)
            };
        }
        self.identify(&read.top, &mut piece.events);
        let mut choices_read: Vec<ChoiceDelta> = Vec::with_capacity(1);
        for (at, choice) in read.choices.iter().enumerate() {
            // A choice that nobody requested would be a second answer mixed in.
            if choice.index < self.options.choices.clamp(1, MAX_CHOICES) {
                choices_read.push(self.choice(at, choice, &mut piece, transcript)?);
            } else {
                skipped("choice");
            }
        }
        if read.report.is_some() {
            transcript.note_report();
        }
        let has_ended = choices_read.iter().any(|choices_read| choices_read.reason.is_some());
        let progress = match has_ended {
            true if self.have_all_ended() => Progress::Finished,
            true => Progress::Content,
            false if piece.content => Progress::Content,
            false => Progress::None,
        };
        self.pass(data, &read, &choices_read, piece, out);
        Ok(progress)
    }

    /// The finish reason of each choice; `None` if one of them was cut off.
    fn endings(&self, end: End) -> Option<Vec<(u64, Reason)>> {
        // A server that names the reason of one choice names all of them: a choice without one was cut off.
        let names_reasons = self.choices.values().any(|state| state.ending.is_some());
        let ending = |index: u64, state: &State| {
            let implied_reason = || state.implied_reason(end).filter(|_| !names_reasons);
            let reason = state.ending.or_else(implied_reason)?;
            Some((index, reason))
        };
        let endings: Option<Vec<_>> = self
            .choices
            .iter()
            .map(|(index, state)| ending(*index, state))
            .collect();
        endings.filter(|endings| !endings.is_empty())
    }

    fn ended(&self, endings: &[(u64, Reason)]) -> Result<Finish, ModelError> {
        if !self.refusal.is_empty() {
            let text = format!("the model refused: {}", self.errors.clean(&self.refusal));
            return Err(self.errors.plain(FailureClass::ContentPolicy, &text));
        }
        let mut first = None;
        for (index, reason) in endings {
            let Some(state) = self.choices.get(index) else { continue };
            let has_calls = state.calls.any() || state.has_others;
            let finish = reason.ending(has_calls, self.options.chunks, &self.errors)?;
            if finish != Finish::Length {
                state.calls.whole().map_err(|what| self.errors.malformed(what))?;
            }
            first.get_or_insert(finish);
        }
        first.ok_or_else(|| self.errors.cut())
    }

    /// Sends what was held back until the good end.
    fn flush(&mut self, endings: &[(u64, Reason)], out: &mut Out, transcript: &mut Transcript) {
        let mut ends = BTreeMap::new();
        for (index, reason) in endings {
            let Some(state) = self.choices.get_mut(index) else {
                continue;
            };
            let mut piece = Piece::default();
            let mut delta = Writer::default();
            for (name, seam) in [
                ("content", &mut state.content),
                ("reasoning_content", &mut state.thought),
                ("refusal", &mut state.refusal),
            ] {
                let mut text = String::new();
                seam.close(&mut text);
                if text.is_empty() {
                    continue;
                }
                transcript.add(&text);
                delta.text(name, &text);
                if *index == 0 && name == "content" {
                    piece.events.push(ModelEvent::Text(text));
                }
            }
            let is_whole = *reason <= Reason::ToolCalls;
            let calls = state.calls.tell_rest(is_whole, false);
            if self.options.chunks && state.has_list && !calls.is_empty() {
                delta.raw("tool_calls", &format!("[{}]", calls.join(",")));
            }
            if *index == 0 && is_whole {
                let whole = state.calls.whole().unwrap_or_default().into_iter();
                piece.events.extend(whole.map(|call| ModelEvent::ToolCall {
                    index: call.number,
                    name: Some(call.name),
                    arguments: call.arguments,
                }));
            }
            if !self.options.chunks {
                emit(piece, out);
                continue;
            }
            if !delta.is_empty() {
                piece.chunk = Some(rewrite::own(&self.identity, *index, &delta.finish()).with(None));
            }
            emit(piece, out);
            let has_calls = state.calls.any() || state.has_others;
            let is_old_form = has_calls && !state.has_list && !state.has_others;
            let reason = match *reason {
                Reason::Stop if has_calls => Reason::ToolCalls,
                reason => reason,
            };
            let word = match reason {
                Reason::ToolCalls if is_old_form => Some("function_call"),
                reason => reason.word(),
            };
            let place = (state.held.as_ref().map_or(u64::MAX, |held| held.number), *index);
            let chunk = match state.held.take() {
                Some(HeldChunk {
                    plain: Some((said, plain)),
                    ..
                }) if said == reason => plain,
                Some(held) => held.open.with(word),
                None => rewrite::own(&self.identity, *index, "{}").with(word),
            };
            ends.insert(place, chunk);
        }
        out.extend(ends.into_values().map(|chunk| {
            Ok(Piece {
                chunk: Some(chunk),
                ..Piece::default()
            })
        }));
    }
}

impl State {
    /// The reason of a choice that names none, if the server says that it has finished and the content does not
    /// contradict that.
    fn implied_reason(&self, end: End) -> Option<Reason> {
        if end != End::Done || self.was_ended || !self.has_spoken {
            return None;
        }
        match self.calls.any() || self.has_others {
            false => Some(Reason::Stop),
            true if self.calls.are_closed() && !self.has_others => Some(Reason::ToolCalls),
            true => None,
        }
    }
}

/// Passes a chunk on, made readable for every parser.
fn as_it_came(data: &str) -> Bytes {
    match without_lone_surrogates(data) {
        Cow::Borrowed(data) => Bytes::copy_from_slice(data.as_bytes()),
        Cow::Owned(data) => data.into(),
    }
}

/// Rewrites an object.
fn written(members: &Members<'_>) -> String {
    let mut out = Writer::default();
    members.iter().for_each(|(name, raw)| out.pass(name, raw));
    out.finish()
}

fn emit(piece: Piece, out: &mut Out) {
    if piece.chunk.is_some() || piece.content || !piece.events.is_empty() {
        out.push_back(Ok(piece));
    }
}

impl provider::Decoder for Decoder {
    fn decode(
        &mut self,
        event: &str,
        data: &[u8],
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        let text = String::from_utf8_lossy(data);
        let text = text.trim();
        let word = text.trim_matches('"');
        if word.eq_ignore_ascii_case("[DONE]") {
            return Ok(Progress::Done);
        }
        if text.is_empty() || HEARTBEATS.iter().any(|name| event == *name || word == *name) {
            return Ok(Progress::None);
        }
        if event == "error" && !text.starts_with(['{', '[']) {
            return Err(self.errors.in_stream(&Value::from(word)));
        }
        if !text.starts_with('[') {
            return self.chunk(event, text, out, transcript);
        }
        // Some servers write lists, of errors above all.
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| {
            self.errors
                .malformed("the provider sent something that is not a chunk of an answer")
        })?;
        let mut progress = Progress::None;
        for item in items {
            match self.chunk(event, item.get(), out, transcript)? {
                Progress::None => {}
                found => progress = found,
            }
        }
        Ok(progress)
    }

    fn content_seen(&self) -> bool {
        self.content_seen
    }

    fn is_finished(&self) -> bool {
        self.have_all_ended()
    }

    fn finish(&mut self, end: End, out: &mut Out, transcript: &mut Transcript) -> Option<Result<Finish, ModelError>> {
        let endings = self.endings(end)?;
        let ended = self.ended(&endings);
        if ended.is_ok() {
            self.flush(&endings, out, transcript);
        }
        Some(ended)
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn usage_chunk(&mut self, usage: &Usage) -> Option<Bytes> {
        if !self.options.chunks || !self.options.include_usage {
            return None;
        }
        let report = self.report.take().filter(|_| self.usage.is_some()).unwrap_or_else(|| {
            let told: Value = serde_json::from_str(&rewrite::usage_report(usage)).unwrap_or(Value::Null);
            let chunk = json!({
                "id": self.identity.id, "object": "chat.completion.chunk",
                "created": self.identity.created.unwrap_or(0), "model": self.identity.model,
                "choices": [],
                "usage": told,
            });
            chunk.to_string().into()
        });
        Some(report::write(report, ReportCarrier::Chunk, usage))
    }
}

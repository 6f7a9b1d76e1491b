//! Positions and frames of the event stream: which bytes a reader gets for which records, and where it resumes.
//!
//! Invariant: the deltas of a segment concatenate to the text of its `message.completed` event, whatever mixture of
//! live text and records a reader saw and wherever it was disconnected.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::view::public_event;
use crate::domain::event::{Event, Record};
use crate::domain::ids::{MessageId, Seq, TurnId};

/// The complete position of a reader: the SSE `id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The last durable event.
    pub seq: Seq,
    /// Number of bytes of the open message that were sent; none if nothing of it was sent.
    pub offset: Option<usize>,
}

/// The text is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected <seq> or <seq>.<offset>")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.len() <= 19 && digits.bytes().all(|b| b.is_ascii_digit());
            if plain {
                digits.parse::<u64>().map_err(|_| InvalidPosition)
            } else {
                Err(InvalidPosition)
            }
        };
        match text.split_once('.') {
            None => Ok(Self {
                seq: number(text)?,
                offset: None,
            }),
            Some((seq, offset)) => {
                let offset = usize::try_from(number(offset)?).map_err(|_| InvalidPosition)?;
                Ok(Self {
                    seq: number(seq)?,
                    offset: Some(offset),
                })
            }
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{}.{offset}", self.seq),
            None => write!(f, "{}", self.seq),
        }
    }
}

/// A record as the stream's writers need it; encoded once for all of them.
#[derive(Debug, PartialEq)]
pub struct EncodedRecord {
    /// The sequence number of the record.
    pub seq: Seq,
    /// The turn of the record.
    pub turn: Option<TurnId>,
    /// Name and data of the public event; none for internal records.
    public: Option<(&'static str, String)>,
    /// The effect on the open segment.
    segment: Segment,
    /// Whether the turn ends with it.
    pub terminal: bool,
    /// Whether the conversation was erased by it.
    pub erased: bool,
}

/// The effect of a record on the text of its turn.
#[derive(Debug, PartialEq)]
enum Segment {
    Untouched,
    Opened,
    Completed { message_id: MessageId, text: String },
    Discarded,
}

/// The content of a `message.delta`. Written without a [`serde_json::Value`] in between: there is one per token and
/// reader.
#[derive(Serialize)]
struct Delta<'a> {
    seq: Seq,
    turn_id: TurnId,
    at: Timestamp,
    message_id: MessageId,
    text: &'a str,
}

/// Writes a value as JSON.
fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts, numbers and JSON values can be written to memory")
}

impl EncodedRecord {
    /// Returns the approximate size in memory, in bytes.
    pub fn size(&self) -> usize {
        let public = self.public.as_ref().map_or(0, |(_, data)| data.len());
        let segment = match &self.segment {
            Segment::Completed { text, .. } => text.len(),
            Segment::Untouched | Segment::Opened | Segment::Discarded => 0,
        };
        size_of::<Self>() + public + segment
    }

    /// Encodes a record.
    pub fn new(record: &Record) -> Self {
        let segment = match &record.event {
            Event::TurnStarted { .. } => Segment::Opened,
            Event::MessageCompleted { message_id, text, .. } => Segment::Completed {
                message_id: *message_id,
                text: text.clone(),
            },
            Event::MessageReset { .. } => Segment::Discarded,
            // Not even the end of a turn: that turn may have been queued behind the one whose message is open, and an
            // open message is closed by a record of its own.
            _ => Segment::Untouched,
        };
        Self {
            seq: record.seq,
            turn: record.turn,
            public: public_event(record).map(|event| (event.name, json_text(&event.data))),
            segment,
            terminal: record.event.is_terminal(),
            erased: matches!(record.event, Event::ConversationErased { .. }),
        }
    }

    /// Returns the approximate size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let text = if let Segment::Completed { text, .. } = &self.segment {
            text.len()
        } else {
            0
        };
        self.public.as_ref().map_or(0, |(_, data)| data.len()) + text + 64
    }

    /// Checks a resume offset against the segment that this record closes. Returns `None` if it closes none, else
    /// whether `offset` is a character boundary of its text. A discarded text accepts any offset. A record that only
    /// opens a segment accepts 0: before it there was no text (a segment that a crash left open is discarded before the
    /// next one opens).
    pub fn admits_offset(&self, offset: usize) -> Option<bool> {
        match &self.segment {
            Segment::Untouched => None,
            Segment::Opened => Some(offset == 0),
            Segment::Discarded => Some(true),
            Segment::Completed { text, .. } => Some(text.is_char_boundary(offset)),
        }
    }
}

/// Writes a suffix to the positions in the event ids of a stream, such as a proof that the stream sent them.
pub trait PositionSuffix: fmt::Debug + Send + Sync {
    /// Writes the suffix for `position`; it contains no line break.
    fn write(&self, position: &str, out: &mut String);
}

/// One reader of a conversation or of one of its turns. Pure: turns records and live text into frames.
#[derive(Debug)]
pub struct Reader {
    /// If set, only events of this turn are sent.
    turn: Option<TurnId>,
    /// The last record that was processed.
    seen: Seq,
    /// The last durable event that was sent, or where the reader resumed.
    sent: Seq,
    /// Number of bytes of the open segment that were sent.
    offset: usize,
    ended: bool,
    suffix: Option<Arc<dyn PositionSuffix>>,
}

impl Reader {
    /// Creates a reader that has everything up to `position`.
    pub fn new(turn: Option<TurnId>, position: Position) -> Self {
        let Position { seq, offset } = position;
        Self {
            turn,
            seen: seq,
            sent: seq,
            offset: offset.unwrap_or(0),
            ended: false,
            suffix: None,
        }
    }

    /// Adds a suffix to every event id.
    pub fn with_suffix(self, suffix: Arc<dyn PositionSuffix>) -> Self {
        Self {
            suffix: Some(suffix),
            ..self
        }
    }

    /// Writes the preamble before any event. If ids have a suffix, that is the starting position, so that a reader that
    /// is disconnected before the first event can resume too.
    pub fn write_preamble(&self, out: &mut String) {
        if self.suffix.is_some() {
            self.id(out);
            out.push('\n');
        }
    }

    /// Returns the last record that was processed; the next one to process follows it.
    pub fn seen(&self) -> Seq {
        self.seen
    }

    /// Returns whether the stream is complete: the turn ended, or the conversation was erased.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Processes the next record and writes the frames for it.
    pub fn record(&mut self, encoded: &EncodedRecord, now: Timestamp, out: &mut String) {
        debug_assert!(encoded.seq > self.seen, "records come in order, each once");
        self.seen = encoded.seq;
        if encoded.erased {
            self.ended = true;
        }
        if self.turn.is_some() && encoded.turn != self.turn {
            return;
        }
        match &encoded.segment {
            Segment::Untouched => {}
            Segment::Opened | Segment::Discarded => self.offset = 0,
            Segment::Completed { message_id, text } => {
                if let (Some(turn), Some(rest)) = (encoded.turn, text.get(self.offset..)) {
                    self.delta(turn, *message_id, rest, now, out);
                }
                self.offset = 0;
            }
        }
        if let Some((name, data)) = &encoded.public {
            self.sent = encoded.seq;
            self.frame(name, data, out);
        }
        if encoded.terminal && self.turn.is_some() {
            self.ended = true;
        }
    }

    /// Processes the open message's text and writes its new part. `from(offset)` returns the text after an offset.
    pub fn live(
        &mut self,
        turn: TurnId,
        message_id: MessageId,
        from: impl FnOnce(usize) -> Option<String>,
        now: Timestamp,
        out: &mut String,
    ) {
        if self.turn.is_none_or(|wanted| wanted == turn)
            && let Some(text) = from(self.offset)
        {
            self.delta(turn, message_id, &text, now, out);
        }
    }

    fn delta(&mut self, turn: TurnId, message_id: MessageId, text: &str, now: Timestamp, out: &mut String) {
        if text.is_empty() {
            return;
        }
        self.offset += text.len();
        let delta = Delta {
            seq: self.sent,
            turn_id: turn,
            at: now,
            message_id,
            text,
        };
        self.frame("message.delta", &json_text(&delta), out);
    }

    fn frame(&self, name: &str, data: &str, out: &mut String) {
        use std::fmt::Write as _;
        self.id(out);
        // Writing to a string cannot fail.
        let _ = write!(out, "event: {name}\ndata: ");
        one_line(data, out);
        out.push_str("\n\n");
    }

    /// Writes the `id:` line with the position.
    fn id(&self, out: &mut String) {
        use std::fmt::Write as _;
        let offset = (self.offset > 0).then_some(self.offset);
        let position = Position { seq: self.sent, offset };
        let Some(suffix) = &self.suffix else {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "id: {position}");
            return;
        };
        let position = position.to_string();
        let _ = write!(out, "id: {position}");
        suffix.write(&position, out);
        out.push('\n');
    }
}

/// Writes JSON as one line for every client: some treat characters as line ends that JSON does not escape.
fn one_line(json: &str, out: &mut String) {
    use std::fmt::Write as _;
    let mut rest = json;
    while let Some(at) = rest.find(['\u{85}', '\u{2028}', '\u{2029}']) {
        out.push_str(&rest[..at]);
        let mut behind = rest[at..].chars();
        let end = behind.next().map_or(0, u32::from);
        let _ = write!(out, "\\u{end:04x}");
        rest = behind.as_str();
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::usage::TotalUsage;

    #[test]
    fn the_end_of_a_queued_turn_leaves_the_open_message_alone() {
        let (running, queued) = (TurnId::new(Uuid::from_u128(1)), TurnId::new(Uuid::from_u128(2)));
        let message = MessageId::of_step(running, 1, 1);
        let now = Timestamp::UNIX_EPOCH;
        let cancelled = EncodedRecord::new(&Record {
            seq: 8,
            at: now,
            turn: Some(queued),
            event: Event::TurnCancelled {
                usage: TotalUsage::default(),
            },
        });
        // A position in the open message is not judged by it either.
        assert_eq!(cancelled.admits_offset(5), None);
        let position = "7".parse().unwrap();
        let mut reader = Reader::new(None, position);
        let (mut out, text) = (String::new(), "so far and further");
        let show = |reader: &mut Reader, end: usize, out: &mut String| {
            out.clear();
            reader.live(
                running,
                message,
                |from| text[..end].get(from..).map(str::to_owned),
                now,
                out,
            );
        };
        show(&mut reader, 6, &mut out);
        out.clear();
        reader.record(&cancelled, now, &mut out);
        assert!(out.starts_with("id: 8.6\nevent: turn.cancelled\n"), "{out}");
        show(&mut reader, text.len(), &mut out);
        assert!(
            out.starts_with("id: 8.18\nevent: message.delta\n") && out.contains(r#""text":" and further""#),
            "{out}"
        );
    }

    #[test]
    fn an_offset_needs_a_segment_that_was_open() {
        let turn = TurnId::new(Uuid::from_u128(1));
        let record = |event| {
            EncodedRecord::new(&Record {
                seq: 3,
                at: Timestamp::UNIX_EPOCH,
                turn: Some(turn),
                event,
            })
        };
        let started = record(Event::TurnStarted {
            attempt: 1,
            model: "m".into(),
        });
        assert_eq!(
            (started.admits_offset(0), started.admits_offset(1)),
            (Some(true), Some(false))
        );
        let reset = record(Event::MessageReset {
            message_id: MessageId::of_step(turn, 1, 1),
            reason: "recovered".into(),
        });
        assert_eq!(reset.admits_offset(99), Some(true));
    }

    #[test]
    fn data_is_one_line_for_every_client() {
        let mut out = String::new();
        one_line("{\"a\":\"x\u{2028}y\u{2029}z\u{85}é\"}", &mut out);
        assert_eq!(out, "{\"a\":\"x\\u2028y\\u2029z\\u0085é\"}");
    }

    #[test]
    fn positions_have_one_spelling() {
        for (text, seq, offset) in [
            ("0", 0, None),
            ("17", 17, None),
            ("17.0", 17, Some(0)),
            ("17.120", 17, Some(120)),
        ] {
            assert_eq!(text.parse(), Ok(Position { seq, offset }), "{text}");
        }
        for text in [
            "",
            ".",
            "1.",
            ".1",
            "1.2.3",
            "-1",
            "+1",
            "1.-2",
            "a",
            "1 ",
            "99999999999999999999",
            "１",
        ] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }
}

//! A line of an export: a conversation with its messages and turns, or a part of a long conversation.

use copilotd_actors::compute;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::conversation::view::{ConversationView, TurnSummary, message};
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::tenancy::TenantScope;
use serde::Serialize;

/// Bytes after which a conversation continues in another line.
const LINE_BYTES: usize = 256 * 1024;

/// Why a line could not be encoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// The compute threads are busy.
    #[error("too many compute jobs of the tenant are queued")]
    Busy,
    /// The line cannot be encoded as JSON.
    #[error("cannot encode a line as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A line under construction.
pub(super) struct Line {
    conversation: ConversationView,
    id: ConversationId,
    part: u64,
    messages: Vec<Box<serde_json::value::RawValue>>,
    turns: Vec<Box<serde_json::value::RawValue>>,
    bytes: usize,
}

/// The encoded form of a line.
#[derive(Serialize)]
struct EncodedLine<'a> {
    conversation: &'a ConversationView,
    part: u64,
    messages: &'a [Box<serde_json::value::RawValue>],
    turns: &'a [Box<serde_json::value::RawValue>],
}

impl Line {
    /// The first line of a conversation.
    pub(super) fn new(header: &Header) -> Self {
        Self {
            conversation: ConversationView::from(header),
            id: header.id,
            part: 1,
            messages: Vec::new(),
            turns: Vec::new(),
            bytes: 0,
        }
    }

    /// Whether there is nothing to write. A conversation without messages still has one line.
    pub(super) fn is_empty(&self) -> bool {
        self.part > 1 && self.messages.is_empty() && self.turns.is_empty()
    }

    /// Whether the line has reached its size.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= LINE_BYTES
    }

    /// Adds a record's message, if it has one.
    pub(super) async fn message(&mut self, scope: &TenantScope, record: Record) -> Result<(), LineError> {
        let cost = record.weight();
        let write = move || message(&record).map(|message| raw(&message));
        let written = compute::run(Some(scope.tenant()), cost, write).await;
        if let Some(message) = written.map_err(|_| LineError::Busy)? {
            let message = message?;
            self.bytes += message.get().len();
            self.messages.push(message);
        }
        Ok(())
    }

    /// Adds the summary of a turn.
    pub(super) async fn turn(&mut self, scope: &TenantScope, records: Vec<Record>) -> Result<(), LineError> {
        let (id, cost) = (self.id, records.iter().map(Record::weight).sum());
        let write = move || TurnSummary::fold(id, &records).map(|turn| raw(&turn));
        let written = compute::run(Some(scope.tenant()), cost, write).await;
        if let Some(turn) = written.map_err(|_| LineError::Busy)? {
            let turn = turn?;
            self.bytes += turn.get().len();
            self.turns.push(turn);
        }
        Ok(())
    }

    /// Returns the encoded line with a line break, and starts the next one.
    pub(super) fn take(&mut self) -> Result<Vec<u8>, LineError> {
        let mut line = serde_json::to_vec(&EncodedLine {
            conversation: &self.conversation,
            part: self.part,
            messages: &self.messages,
            turns: &self.turns,
        })?;
        line.push(b'\n');
        self.part += 1;
        self.messages.clear();
        self.turns.clear();
        self.bytes = 0;
        Ok(line)
    }
}

fn raw(value: &impl Serialize) -> Result<Box<serde_json::value::RawValue>, serde_json::Error> {
    serde_json::value::to_raw_value(value)
}

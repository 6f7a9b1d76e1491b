//! `/v1/conversations/{id}/messages`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use copilotd_actors::domain::conversation::view::{MessageView, TurnSummary, message};
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TurnId};
use copilotd_actors::ports::{EventLog, Order};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::http::credentials::{Caller, Chat};
use crate::http::extract::{Ids, Query};
use crate::http::json_response;
use crate::http::page::{self, Limit, Page};
use crate::http::problems::Problem;
use crate::http::response_memory::PageMemory;
use crate::surfaces::conversation_access::{Asker, ConversationAccess};
use crate::surfaces::openapi::{AUTH, FOUND, problems};

/// Messages of the first read: most pages are short.
const FIRST_STEP: usize = 8;
/// Messages of each later read.
const STEP: usize = 24;

/// Query of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct List {
    /// Maximum number of entries per page
    #[serde(default)]
    #[param(value_type = u8, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// The `next_cursor` of the previous page, which must have the same order
    cursor: Option<String>,
    /// `asc` for oldest first, `desc` for newest first
    #[serde(default)]
    #[param(value_type = String, pattern = "^(asc|desc)$", default = "asc")]
    order: Order,
}

/// A page of messages, the turns they belong to, and the position from which a client can open the stream without a
/// gap.
#[derive(Debug, Serialize)]
pub struct Messages {
    #[serde(flatten)]
    page: Page<MessageView>,
    turns: Vec<TurnSummary>,
    last_seq: Seq,
}

/// What has been read so far.
#[derive(Debug, Default)]
struct MessageBatch {
    data: Vec<MessageView>,
    turns: Vec<TurnSummary>,
    bytes: usize,
}

impl MessageBatch {
    /// Adds a message, and its turn if new; returns whether they fit on the page.
    fn take(&mut self, size: usize, message: MessageView, turn: Option<TurnSummary>) -> bool {
        self.bytes += size + turn.as_ref().map_or(0, page::size);
        if self.bytes > page::MAX_BYTES && !self.data.is_empty() {
            return false;
        }
        self.data.push(message);
        self.turns.extend(turn);
        true
    }
}

/// Reads a page of messages, and returns whether there are more. Reads in small steps, and turns one by one, so that a
/// page of long messages needs little more memory than its size.
async fn collect(
    log: &dyn EventLog,
    caller: &Caller,
    id: ConversationId,
    mut after: Option<Seq>,
    query: &List,
) -> Result<(MessageBatch, bool), Problem> {
    let (limit, mut read) = (query.limit.get(), 0);
    let mut found = MessageBatch::default();
    loop {
        let step = if read == 0 { FIRST_STEP } else { STEP }.min(limit + 1 - read);
        let records = log.read_messages(&caller.scope, id, after, query.order, step).await?;
        let (number, last) = (records.len(), records.last().map(|last| last.seq));
        let weight = records.iter().map(Record::weight).sum();
        let shown = move || -> Vec<Option<(usize, MessageView)>> {
            let shown = |record| message(record).map(|message| (page::size(&message), message));
            records.iter().map(shown).collect()
        };
        for message in json_response::work(caller.scope.tenant(), weight, shown).await? {
            if read == limit {
                return Ok((found, true));
            }
            read += 1;
            let Some((size, message)) = message else { continue };
            let is_known = found.turns.iter().any(|turn| turn.id == message.turn_id);
            let turn = match is_known {
                true => None,
                false => summary(log, caller, id, message.turn_id).await?,
            };
            if !found.take(size, message, turn) {
                return Ok((found, true));
            }
        }
        match last {
            Some(last) if number == step => after = Some(last),
            _ => return Ok((found, false)),
        }
    }
}

/// Reads a turn of the caller's own conversation; `None` if its records are damaged.
async fn summary(
    log: &dyn EventLog,
    caller: &Caller,
    id: ConversationId,
    turn: TurnId,
) -> Result<Option<TurnSummary>, Problem> {
    let found = log.read_turn(&caller.scope, turn).await?;
    let of_conversation = found.filter(|found| found.conversation == id);
    Ok(of_conversation.and_then(|found| TurnSummary::fold(id, &found.records)))
}

problems!(ListProblems: AUTH, FOUND);

/// List a conversation's messages
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}/messages",
    operation_id = "list_messages",
    tag = "conversations",
    params(List),
    responses(
        (status = 200, description = "A page of messages", body = ref("#/components/schemas/MessagePage")),
        ListProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn list(
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(ConversationId,)>,
    Query(query): Query<List>,
    _room: PageMemory,
) -> Result<Response, Problem> {
    // Read first, so that a stream opened after this number misses nothing that is not on the page.
    let last_seq = conversations.find(Asker::owner(&caller), id).await?.last_seq;
    let direction = if query.order == Order::Asc { "asc" } else { "desc" };
    let name = format!("messages/{}/{id}/{direction}", caller.scope.tenant());
    let after = match &query.cursor {
        Some(cursor) => Some(page::position::<Seq>(&name, cursor)?),
        None => None,
    };
    let (MessageBatch { data, turns, bytes }, more) =
        collect(conversations.log.as_ref(), &caller, id, after, &query).await?;
    let last = data.last().filter(|_| more);
    let next_cursor = last.map(|message| page::cursor(&name, &message.seq));
    let page = Page { data, next_cursor };
    let messages = Messages { page, turns, last_seq };
    json_response::json(caller.scope.tenant(), bytes, StatusCode::OK, messages).await
}

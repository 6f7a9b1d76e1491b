//! `/v1/admin/turns/{id}/prompts`: what the model was sent, for audits.

use std::num::NonZeroU64;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::context::replay::{self, Bounds, FactTexts, Needed, Prompt};
use copilotd_actors::domain::context_record::{ContextItem, ItemKind};
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TurnId};
use copilotd_actors::domain::sent_prompt::ToolOffer;
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::facts::FactMemory;
use jiff::Timestamp;
use serde::Serialize;

use super::audit;
use crate::audit::{Action, Entry};
use crate::http::credentials::Admin;
use crate::http::extract::{Ids, Query, Reason, ReasonParam};
use crate::http::json_response;
use crate::http::page::{self, Page, PageQuery};
use crate::http::problems::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::http::response_memory::PageMemory;
use crate::surfaces::conversation_access::{Asker, ConversationAccess};
use crate::surfaces::openapi::{AUTH, FOUND, problems};

/// Records that are read at a time.
const BATCH: usize = 64;
/// Most bytes of records that are read for one page: several times what any window holds.
const MAX_READ_BYTES: usize = 32 * 1024 * 1024;

/// A prompt in a response.
#[derive(Debug, Serialize)]
pub struct PromptView {
    seq: Seq,
    at: Timestamp,
    attempt: u32,
    step: u32,
    model: Option<String>,
    prompt_tokens: u64,
    /// Whether the messages and tools below have the hash that was recorded when they were sent; none without them.
    exact: Option<bool>,
    messages: Option<Vec<PromptMessage>>,
    tools: Option<Vec<ToolOffer>>,
    included: Vec<PartView>,
    omitted: Vec<PartView>,
}

/// A part of a prompt, or several of the same kind.
#[derive(Debug, Serialize)]
struct PartView {
    kind: ItemKind,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#ref: Option<Span>,
    count: u64,
    tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    reason: serde_json::Value,
}

/// The records of messages.
#[derive(Debug, Serialize)]
struct Span {
    from_seq: Option<Seq>,
    upto_seq: Option<Seq>,
}

impl<R: Default + PartialEq + Serialize> From<&ContextItem<R>> for PartView {
    fn from(item: &ContextItem<R>) -> Self {
        let numbers = (item.from_seq.is_some() || item.upto_seq.is_some()).then_some(Span {
            from_seq: item.from_seq,
            upto_seq: item.upto_seq,
        });
        let id = match (&item.id, item.kind) {
            (Some(id), _) => id.clone(),
            (None, ItemKind::Message) => item.from_seq.unwrap_or_default().to_string(),
            (None, ItemKind::Summary) => item.upto_seq.unwrap_or_default().to_string(),
            // One of its kind, or the rest of a long list.
            (None, kind) => serde_json::to_value(kind)
                .ok()
                .and_then(|kind| kind.as_str().map(str::to_owned))
                .unwrap_or_default(),
        };
        Self {
            kind: item.kind,
            id,
            r#ref: numbers,
            count: item.count,
            tokens: item.tokens,
            score: item.score,
            reason: serde_json::to_value(&item.reason).unwrap_or_default(),
        }
    }
}

impl From<Prompt> for PromptView {
    fn from(prompt: Prompt) -> Self {
        let (included, omitted) = match &prompt.context {
            Some(context) => (
                context.included.iter().map(PartView::from).collect(),
                context.omitted.iter().map(PartView::from).collect(),
            ),
            None => (Vec::new(), Vec::new()),
        };
        let tools = prompt.sent.as_ref().map(|sent| sent.fixed.tools.to_vec());
        let (exact, messages) = prompt.sent.map(|sent| (sent.is_exact, sent.messages)).unzip();
        Self {
            seq: prompt.seq,
            at: prompt.at,
            attempt: prompt.attempt,
            step: prompt.step,
            model: prompt.model,
            prompt_tokens: prompt.tokens,
            exact,
            messages,
            tools,
            included,
            omitted,
        }
    }
}

problems!(ListProblems: AUTH, FOUND, &[Code::Overloaded]);

/// List the prompts of a turn
///
/// Every prompt that was sent to a model for an answer of this turn, oldest first, as it was sent: put together again from
/// the log and compared with the hash that was recorded then (`exact`). A prompt that was recorded by a version of copilotd
/// that did not keep it has no messages, and neither has one with a fact about the user that was deleted since. Requires `x-copilotd-reason`, which is recorded in the audit log before the response
/// is sent.
#[utoipa::path(
    get,
    path = "/v1/admin/turns/{id}/prompts",
    operation_id = "list_prompts",
    tag = "admin",
    params(PageQuery, ReasonParam),
    responses(
        (status = 200, description = "A page of prompts", body = ref("#/components/schemas/PromptPage")),
        ListProblems,
    ),
    security(("bearer" = ["admin"])),
)]
#[expect(clippy::too_many_arguments, reason = "extractors")]
pub async fn list(
    State(conversations): State<ConversationAccess>,
    State(facts): State<FactMemory>,
    Admin(caller): Admin,
    Ids((turn,)): Ids<(TurnId,)>,
    Query(query): Query<PageQuery>,
    request: RequestId,
    reason: Reason,
    room: PageMemory,
) -> Result<Response, Problem> {
    let reason = reason.required()?;
    let asker = Asker::owner_or_admin(&caller)?;
    let found = conversations.find_turn(asker, turn, &room).await?;
    let entry = Entry {
        reason: Some(reason),
        ..audit::entry(&caller, &request, Action::PromptsRead, turn)
    };
    // Recorded before the content is sent: what cannot be recorded is not disclosed.
    conversations.audit.record(caller.scope.tenant(), entry).await?;
    let list = format!("prompts/{turn}");
    let after = match &query.cursor {
        Some(cursor) => Some(page::position::<NonZeroU64>(&list, cursor)?),
        None => None,
    };
    let needed = replay::needed(&found.records);
    let (records, earlier) = read(&conversations, &caller.scope, found.conversation, &needed).await?;
    let known = if replay::has_facts(&found.records) {
        facts.list(&caller.scope, &found.user).await?
    } else {
        Vec::new()
    };
    let known: FactTexts = known
        .into_iter()
        .map(|fact| (fact.id.to_string(), (fact.fact.said_at, fact.fact.text)))
        .collect();
    let weight = page::MAX_BYTES + records.iter().map(Record::weight).sum::<usize>();
    let limit = query.limit.get();
    let page = move || {
        let bounds = Bounds {
            after: after.map_or(0, NonZeroU64::get),
            prompts: limit,
            bytes: page::MAX_BYTES,
        };
        let (prompts, more) = replay::page(turn, &records, &earlier, known, bounds);
        let mut data: Vec<PromptView> = prompts.into_iter().map(PromptView::from).collect();
        let more = page::cut(&mut data) || more;
        let last = data.last().filter(|_| more);
        let next_cursor = last.map(|last| page::cursor(&list, &last.seq));
        Page { data, next_cursor }
    };
    let page = json_response::work(caller.scope.tenant(), weight, page).await?;
    json_response::json(caller.scope.tenant(), page::MAX_BYTES, StatusCode::OK, page).await
}

/// Reads what the prompts of a turn are made of: the records between two numbers, and single earlier ones.
async fn read(
    conversations: &ConversationAccess,
    scope: &TenantScope,
    conversation: ConversationId,
    needed: &Needed,
) -> Result<(Vec<Record>, Vec<Record>), Problem> {
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    loop {
        let after = records
            .last()
            .map_or(needed.from.saturating_sub(1), |record| record.seq);
        let batch = conversations.log.read(scope, conversation, after, BATCH).await?;
        let is_last = batch.len() < BATCH;
        let wanted = batch.into_iter().take_while(|record| record.seq <= needed.upto);
        let before = records.len();
        records.extend(wanted);
        bytes += records[before..].iter().map(Record::weight).sum::<usize>();
        if bytes > MAX_READ_BYTES {
            let detail = "the prompts of this turn draw on more of the conversation than can be read for one response";
            return Err(Problem::new(Code::Overloaded).detail(detail));
        }
        if is_last || records.len() - before < BATCH {
            break;
        }
    }
    let mut earlier = Vec::new();
    for seq in &needed.earlier {
        earlier.extend(
            conversations
                .log
                .read(scope, conversation, seq.saturating_sub(1), 1)
                .await?,
        );
    }
    Ok((records, earlier))
}

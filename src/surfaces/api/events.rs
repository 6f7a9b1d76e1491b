//! `/v1/conversations/{id}/events` and `/v1/turns/{id}/events`

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::conversation::stream::{Position, Reader};
use copilotd_actors::domain::ids::{ConversationId, Seq, TurnId};
use copilotd_actors::fairness::share::{ShareExceeded, paced};
use copilotd_actors::live::{Next, Tail};
use copilotd_actors::ports::EventLog;
use futures::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::account::Budgets;
use crate::http::budget::{Exhausted, Holder, Reservation};
use crate::http::credentials::{Caller, CredentialKind, StreamAccess, without_mac};
use crate::http::extract::{Ids, Query, invalid};
use crate::http::keep_alive::KeepAlive;
use crate::http::problems::{Code, Problem, RateLimit};
use crate::http::response_memory::PageMemory;
use crate::surfaces::conversation_access::Asker;
use crate::surfaces::openapi::{AUTH, FOUND, problems};
use crate::surfaces::state::AppState;
use crate::surfaces::writer::{StreamWriter, encoded};

/// Keep-alive comment of an idle stream.
const KEEP_ALIVE_COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");
/// Maximum wait between two frames when the tenant uses more than its share of the server.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// `Retry-After` when the caller has too many open streams.
const RETRY: Duration = Duration::from_secs(5);
/// Records per read while checking a position.
const PAGE: usize = 32;

/// Query of the streams.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Options {
    /// Position to resume after, for clients that cannot send `Last-Event-ID`
    #[serde(rename = "after")]
    #[param(rename = "after", pattern = "^[0-9]{1,19}(\\.[0-9]{1,19})?(~.*)?$")]
    _after: Option<String>,
    /// Read by [`StreamAccess`].
    #[serde(rename = "ticket")]
    #[param(ignore)]
    _ticket: Option<String>,
}

/// The OpenAPI description of the streams' headers.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for OpenAPI only; `StreamAccess` reads the header")]
struct ResumeParams {
    /// Position to resume after; takes precedence over `?after=`
    #[param(rename = "Last-Event-ID", pattern = "^[0-9]{1,19}(\\.[0-9]{1,19})?(~.*)?$")]
    last_event_id: Option<String>,
}

problems!(StreamProblems: AUTH, FOUND, &[Code::NotResumable, Code::Overloaded]);

/// Stream a conversation's events
///
/// Stays open across turns. Without a position the stream starts at the current end of the conversation.
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}/events",
    operation_id = "stream_conversation",
    tag = "streams",
    params(Options, ResumeParams),
    responses(
        (status = 200, description = "The event stream", content_type = "text/event-stream", body = String),
        StreamProblems,
    ),
    security(("bearer" = ["chat"]), ("ticket" = [])),
)]
pub async fn of_conversation(
    State(state): State<AppState>,
    access: StreamAccess,
    Ids((id,)): Ids<(ConversationId,)>,
    Query(_): Query<Options>,
) -> Result<Response, Problem> {
    access.admit(id)?;
    let tail = state.directory.watch(&access.caller.scope, id);
    let header = state.conversations().find(Asker::owner(&access.caller), id).await?;
    let reader = match position(&access)? {
        Some(position) => {
            check(state.log(), &access, &header, None, position, &tail).await?;
            Reader::new(None, position)
        }
        None => Reader::new(
            None,
            Position {
                seq: header.last_seq,
                offset: None,
            },
        ),
    };
    open(state, access, id, reader, tail).await
}

/// Stream a turn's events
///
/// Ends after the turn's terminal event. Without a position the stream starts at the turn's first event.
#[utoipa::path(
    get,
    path = "/v1/turns/{id}/events",
    operation_id = "stream_turn",
    tag = "streams",
    params(Options, ResumeParams),
    responses(
        (status = 200, description = "The event stream", content_type = "text/event-stream", body = String),
        (status = 204, description = "The position is at or after the turn's terminal event: there is nothing left, do not reconnect"),
        StreamProblems,
    ),
    security(("bearer" = ["chat"]), ("ticket" = [])),
)]
pub async fn of_turn(
    State(state): State<AppState>,
    access: StreamAccess,
    // For reading the whole turn; later each frame reserves its own.
    room: PageMemory,
    Ids((turn,)): Ids<(TurnId,)>,
    Query(_): Query<Options>,
) -> Result<Response, Problem> {
    let (conversations, asker) = (state.conversations(), Asker::owner(&access.caller));
    let (id, tail, reader) = match position(&access)? {
        Some(position) => {
            let found = conversations.find_turn(asker, turn, &room).await?;
            let id = found.conversation;
            access.admit(id)?;
            let tail = state.directory.watch(&access.caller.scope, id);
            let first = found.records.first().map_or(1, |record| record.seq);
            // Read after the tail was obtained: the position may be of a record committed since.
            let header = conversations.find(asker, id).await?;
            let ended = |seq: Seq| {
                found
                    .records
                    .iter()
                    .any(|record| record.event.is_terminal() && record.seq <= seq)
            };
            if position.seq <= header.last_seq && ended(position.seq) {
                // 204 tells an EventSource not to reconnect.
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            // Records before the turn are irrelevant to what was sent of it.
            let position = Position {
                seq: position.seq.max(first - 1),
                ..position
            };
            check(state.log(), &access, &header, Some(turn), position, &tail).await?;
            (id, tail, Reader::new(Some(turn), position))
        }
        None => {
            let (id, first) = conversations.find_turn_start(asker, turn, &room).await?;
            access.admit(id)?;
            let tail = state.directory.watch(&access.caller.scope, id);
            let start = Position {
                seq: first - 1,
                offset: None,
            };
            (id, tail, Reader::new(Some(turn), start))
        }
    };
    open(state, access, id, reader, tail).await
}

/// Parses the position a client resumes from. Ignores a ticket stream's MAC, which was verified with the ticket and has
/// no meaning with other credentials.
fn position(access: &StreamAccess) -> Result<Option<Position>, Problem> {
    let parse = |id: &str| {
        without_mac(id)
            .parse()
            .map_err(|error| invalid("", format!("Last-Event-ID: {error}")))
    };
    access.resume_from.as_deref().map(parse).transpose()
}

/// Refuses a position that was never sent: beyond the log, beyond the open text, or inside a character.
async fn check(
    log: &dyn EventLog,
    access: &StreamAccess,
    header: &Header,
    turn: Option<TurnId>,
    position: Position,
    tail: &Arc<Tail>,
) -> Result<(), Problem> {
    let gone =
        || Problem::new(Code::NotResumable).detail("no event was ever sent with this position; reload the messages");
    if position.seq > header.last_seq {
        return Err(gone());
    }
    let Some(offset) = position.offset.filter(|offset| *offset > 0) else {
        return Ok(());
    };
    let mut seen = position.seq;
    loop {
        let page = log.read(&access.caller.scope, header.id, seen, PAGE).await?;
        let (last, is_full) = (page.last().map_or(seen, |last| last.seq), page.len() == PAGE);
        let of_turn = page.into_iter().filter(|record| turn.is_none() || record.turn == turn);
        for record in encoded(access.caller.scope.tenant(), of_turn.collect()).await? {
            match record.admits_offset(offset) {
                Some(true) => return Ok(()),
                Some(false) => return Err(gone()),
                None => {}
            }
        }
        seen = last;
        if !is_full {
            break;
        }
    }
    // The segment is still open. Until a crashed turn is recovered its text is unknown, so the stream waits for it.
    match tail.after(seen) {
        Next::UpToDate(Some(live)) if turn.is_none_or(|turn| turn == live.at.turn) => {
            live.visible_from(offset).map(|_| ()).ok_or_else(gone)
        }
        _ if header.open_turns > 0 => Ok(()),
        _ => Err(gone()),
    }
}

/// Reserves a stream of the caller, its tenant and the process.
pub(crate) fn open_stream(budgets: &Budgets, caller: &Caller) -> Result<Reservation, Problem> {
    let streams = &budgets.streams;
    let holder = Holder::caller(caller);
    streams.try_reserve(&holder, 1).map_err(|exhausted| match exhausted {
        Exhausted::Caller => Problem::new(Code::RateLimited)
            .detail("this caller has too many open streams")
            .rate_limit(&RateLimit::all_taken("streams", streams.caller_limit(&holder), RETRY)),
        Exhausted::Shared => Problem::new(Code::Overloaded).detail("this server or tenant has too many open streams"),
    })
}

async fn open(
    state: AppState,
    access: StreamAccess,
    id: ConversationId,
    reader: Reader,
    tail: Arc<Tail>,
) -> Result<Response, Problem> {
    let slot = open_stream(&state.budgets, &access.caller)?;
    if access.caller.kind == CredentialKind::Ticket {
        // Other credentials were already admitted by `fair_share`.
        let entered = state.shared.shares.enter(access.caller.scope.tenant()).await;
        entered.map_err(|ShareExceeded| {
            let detail = "this tenant is using more than its share of this server";
            Problem::new(Code::Overloaded).detail(detail)
        })?;
    }
    let (shares, tenant) = (Arc::clone(&state.shared.shares), access.caller.scope.tenant().clone());
    let reader = match access.positions {
        Some(signer) => reader.with_suffix(Arc::new(signer)),
        None => reader,
    };
    let writer = StreamWriter::new(state, access.caller, id, reader, tail, slot);
    let bytes = stream::unfold(writer, |mut writer| async {
        let bytes = writer.next().await?;
        Some((Ok::<_, Infallible>(bytes), writer))
    });
    // Later frames are charged to the tenant like the request itself.
    let bytes = paced(shares, tenant, LONGEST_PAUSE, bytes);
    let bytes = KeepAlive::new(bytes, KEEP_ALIVE_COMMENT);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

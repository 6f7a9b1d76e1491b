//! `/v1/memory/facts`

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use copilotd_actors::actors::shared::Shared;
use copilotd_actors::domain::guardrail::{self, ContentKind, Verdict, judge};
use copilotd_actors::domain::ids::{FactId, TurnId, UserId};
use copilotd_actors::ports::Content;
use copilotd_knowledge::facts::store::StoredFact;
use copilotd_knowledge::facts::{EditError, FactMemory};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::IntoParams;

use crate::audit::{Action, AuditLog, Entry};
use crate::http::bodies::Json;
use crate::http::credentials::{Caller, Scopes};
use crate::http::extract::{Ids, Query, Reason, ReasonParam, invalid};
use crate::http::page::{self, Limit, Page};
use crate::http::problems::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::http::response_memory::PageMemory;
use crate::request_body;
use crate::surfaces::admin::audit;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};

/// Body of `PATCH /v1/memory/facts/{id}`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Update {
    text: String,
}
request_body!(Update, "update_fact.json");

/// The requested page of facts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Maximum number of entries per page
    #[serde(default)]
    #[param(value_type = u8, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// The `next_cursor` of the previous page
    cursor: Option<String>,
    /// For administrators: the user whose facts are asked for, instead of the caller's own
    #[param(min_length = 1, max_length = 256)]
    user: Option<String>,
}

/// Whose fact is changed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OwnerQuery {
    /// For administrators: the user whose fact it is, instead of the caller's own
    #[param(min_length = 1, max_length = 256)]
    user: Option<String>,
}

/// A fact in a response.
#[derive(Debug, Serialize)]
pub struct FactView {
    id: FactId,
    text: String,
    turn_id: TurnId,
    said_at: Timestamp,
    valid_from: Timestamp,
    valid_to: Option<Timestamp>,
}

impl From<StoredFact> for FactView {
    fn from(stored: StoredFact) -> Self {
        Self {
            id: stored.id,
            text: stored.fact.text,
            turn_id: stored.turn,
            said_at: stored.fact.said_at,
            valid_from: stored.fact.valid_from,
            valid_to: stored.fact.valid_to,
        }
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        let text = error.to_string();
        match error {
            EditError::Missing => Self::new(Code::NotFound),
            EditError::Malformed => invalid("/text", text),
            EditError::Full => Self::new(Code::Conflict).detail(text),
            EditError::Store(error) => error.into(),
        }
    }
}

/// Whose facts a request is about.
struct Owner {
    /// None for an API key that acts for nobody and names nobody: it has no facts.
    user: Option<UserId>,
    /// Whether the caller is another person.
    is_foreign: bool,
}

impl Owner {
    fn of(caller: &Caller, named: Option<&str>) -> Result<Self, Problem> {
        let named = match named {
            Some(name) => {
                let user = name.parse::<UserId>();
                Some(user.map_err(|_invalid| invalid("", "user must be 1 to 256 bytes without control characters"))?)
            }
            None => None,
        };
        // Without the scope `chat` an administrator's key, which may act for any user, could read that user's facts
        // without a reason.
        let is_own = named.as_ref().is_none_or(|user| Some(user) == caller.acting_user());
        if is_own && (caller.scopes.contains(Scopes::CHAT) || named.is_none()) {
            caller.require(Scopes::CHAT)?;
            return Ok(Self {
                user: caller.acting_user().cloned(),
                is_foreign: false,
            });
        }
        caller.require(Scopes::ADMIN)?;
        Ok(Self {
            user: named,
            is_foreign: true,
        })
    }
}

problems!(ListProblems: AUTH);

/// List what is remembered about the caller
///
/// The facts that were learned from what the user wrote, the one said last first. One with `valid_to` was superseded then and
/// is used no more. An administrator may read another user's facts with `user`. That requires `x-copilotd-reason`, which is
/// recorded in the audit log before the response is sent.
#[utoipa::path(
    get,
    path = "/v1/memory/facts",
    operation_id = "list_facts",
    tag = "memory",
    params(ListQuery, ReasonParam),
    responses(
        (status = 200, description = "A page of facts", body = ref("#/components/schemas/FactPage")),
        ListProblems,
    ),
    security(("bearer" = ["chat"]), ("bearer" = ["admin"])),
)]
pub async fn list(
    State(facts): State<FactMemory>,
    State(audit): State<Arc<AuditLog>>,
    caller: Caller,
    request: RequestId,
    reason: Reason,
    _room: PageMemory,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<FactView>>, Problem> {
    let owner = Owner::of(&caller, query.user.as_deref())?;
    let Some(user) = owner.user else {
        return Ok(axum::Json(Page {
            data: Vec::new(),
            next_cursor: None,
        }));
    };
    let name = format!("facts/{}/{user}", caller.scope.tenant());
    let after: Option<(Timestamp, FactId)> = match &query.cursor {
        Some(cursor) => Some(page::position(&name, cursor)?),
        None => None,
    };
    if owner.is_foreign {
        let entry = Entry {
            reason: Some(reason.required()?),
            ..audit::entry(&caller, &request, Action::FactsRead, &user)
        };
        // Recorded before the content is sent: what cannot be recorded is not disclosed.
        audit.record(caller.scope.tenant(), entry).await?;
    }
    let mut rest = facts.list(&caller.scope, &user).await?;
    // The position of the previous page's last entry, which may have been deleted meanwhile.
    if let Some((said_at, id)) = after {
        rest.retain(|fact| fact.fact.said_at < said_at || (fact.fact.said_at == said_at && fact.id > id));
    }
    let limit = query.limit.get();
    let more = rest.len() > limit;
    rest.truncate(limit);
    let last = rest.last().filter(|_| more);
    let next_cursor = last.map(|last| page::cursor(&name, &(last.fact.said_at, last.id)));
    Ok(axum::Json(Page {
        data: rest.into_iter().map(FactView::from).collect(),
        next_cursor,
    }))
}

problems!(UpdateProblems: AUTH, FOUND, BODY);

/// Correct a fact
///
/// The text takes the place of the old one and is the user's own statement from then on: it is valid, also if the fact had been
/// superseded, and what contradicts it ends. It is checked by the guardrails like a prompt. The change is recorded in the
/// audit log, without the text.
#[utoipa::path(
    patch,
    path = "/v1/memory/facts/{id}",
    operation_id = "update_fact",
    tag = "memory",
    params(OwnerQuery),
    request_body = ref("#/components/schemas/UpdateFact"),
    responses(
        (status = 200, description = "The corrected fact", body = ref("#/components/schemas/Fact")),
        UpdateProblems,
    ),
    security(("bearer" = ["chat"]), ("bearer" = ["admin"])),
)]
#[expect(clippy::too_many_arguments, reason = "extractors")]
pub async fn update(
    State(facts): State<FactMemory>,
    State(shared): State<Arc<Shared>>,
    State(audit): State<Arc<AuditLog>>,
    caller: Caller,
    Ids((id,)): Ids<(FactId,)>,
    request: RequestId,
    reason: Reason,
    Query(query): Query<OwnerQuery>,
    Json(body): Json<Update>,
) -> Result<axum::Json<FactView>, Problem> {
    let owner = Owner::of(&caller, query.user.as_deref())?;
    let user = owner.user.ok_or_else(|| Problem::new(Code::NotFound))?;
    find(&facts, &caller, &user, id).await?;
    check(&shared, &caller, &body.text).await?;
    let entry = change(&caller, &request, &reason, Action::FactCorrected, id)?;
    audit.record(caller.scope.tenant(), entry).await?;
    let corrected = facts.correct(&caller.scope, &user, id, &body.text, shared.ports.clock.now());
    Ok(axum::Json(FactView::from(corrected.await?)))
}

problems!(DeleteProblems: AUTH, FOUND);

/// Delete a fact
///
/// It is not learned again from the message on which it rests. The deletion is recorded in the audit log, without the text.
#[utoipa::path(
    delete,
    path = "/v1/memory/facts/{id}",
    operation_id = "delete_fact",
    tag = "memory",
    params(OwnerQuery),
    responses(
        (status = 204, description = "Deleted"),
        DeleteProblems,
    ),
    security(("bearer" = ["chat"]), ("bearer" = ["admin"])),
)]
pub async fn delete(
    State(facts): State<FactMemory>,
    State(audit): State<Arc<AuditLog>>,
    caller: Caller,
    Ids((id,)): Ids<(FactId,)>,
    request: RequestId,
    reason: Reason,
    Query(query): Query<OwnerQuery>,
) -> Result<StatusCode, Problem> {
    let owner = Owner::of(&caller, query.user.as_deref())?;
    let user = owner.user.ok_or_else(|| Problem::new(Code::NotFound))?;
    find(&facts, &caller, &user, id).await?;
    let entry = change(&caller, &request, &reason, Action::FactDeleted, id)?;
    audit.record(caller.scope.tenant(), entry).await?;
    if facts.forget(&caller.scope, &user, id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::new(Code::NotFound))
    }
}

/// Finds a fact, so that nothing is recorded about one that does not exist.
async fn find(facts: &FactMemory, caller: &Caller, user: &UserId, id: FactId) -> Result<(), Problem> {
    let known = facts.list(&caller.scope, user).await?;
    let exists = known.iter().any(|fact| fact.id == id);
    if exists {
        Ok(())
    } else {
        Err(Problem::new(Code::NotFound))
    }
}

/// Returns the audit entry of a change. A reason is recorded if one is given: nothing is disclosed.
fn change(caller: &Caller, request: &RequestId, reason: &Reason, action: Action, id: FactId) -> Result<Entry, Problem> {
    let given = reason.is_given().then(|| reason.required()).transpose()?;
    Ok(Entry {
        reason: given,
        ..audit::entry(caller, request, action, id)
    })
}

/// Refuses a text that the guardrails would not accept as a prompt. A fact belongs to no copilot: the rules are those of the
/// tenant's first one, and each copilot checks a fact again before it uses it.
async fn check(shared: &Shared, caller: &Caller, text: &str) -> Result<(), Problem> {
    let Some(policy) = shared.ports.policies.policy(&caller.scope, None) else {
        return Ok(());
    };
    let value = Value::from(text);
    let content = Content::new(
        ContentKind::Prompt,
        value.clone(),
        text.len() * guardrail::COST_PER_BYTE,
    );
    let findings = shared
        .guardrails
        .inspect(&caller.scope, &policy.rules, &[content])
        .await;
    let findings = findings.map_err(|error| {
        tracing::warn!(tenant = %caller.scope.tenant(), %error, "corrected fact could not be checked; refusing it");
        Problem::new(Code::Unavailable).detail("the text could not be checked; try again")
    })?;
    match judge(ContentKind::Prompt, value, &findings.concat()) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Blocked { .. } | Verdict::Redacted { .. } => {
            Err(invalid("/text", "a guardrail does not allow this text"))
        }
    }
}

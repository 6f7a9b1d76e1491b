//! `/v1/files`: files that users attach to their prompts.

mod sniff;
mod upload;

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use copilotd_actors::actors::shared::Shared;
use copilotd_actors::domain::file::{Exceeded, FileInfo, FileKind, MediaType};
use copilotd_actors::domain::ids::{ConversationId, FileId};
use copilotd_actors::ports::{FileUpload, Finished, PIECE_BYTES, StoredFile};
use copilotd_actors::tenancy::TenantScope;
use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use self::upload::{Parts, Received, Sink};
use crate::audit::{Action, Entry};
use crate::http::account::Account;
use crate::http::credentials::{Caller, Chat};
use crate::http::extract::{IdempotencyKey, IdempotencyKeyParam, Ids, Reason, ReasonParam};
use crate::http::problems::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::surfaces::admin::audit;
use crate::surfaces::conversation_access::{Asker, ConversationAccess};
use crate::surfaces::ensure_accepting_work;
use crate::surfaces::file_access::FileAccess;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::surfaces::state::Shutdown;
use crate::tenants::TenantRegistry;

/// Memory of one upload: a piece, what the connection delivered last, and the piece that is being stored.
const UPLOAD_MEMORY: usize = 3 * PIECE_BYTES;
/// Lifetime of an idempotency key.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// Most reuses of one idempotency key after it has expired.
const MAX_ROUNDS: u32 = 64;

/// A file in a response.
#[derive(Debug, Serialize)]
struct FileView {
    id: FileId,
    name: String,
    media_type: MediaType,
    bytes: u64,
    conversation_id: ConversationId,
}

impl From<StoredFile> for FileView {
    fn from(file: StoredFile) -> Self {
        Self {
            id: file.id,
            name: file.info.name,
            media_type: file.info.media_type,
            bytes: file.info.bytes,
            conversation_id: file.conversation,
        }
    }
}

problems!(
    UploadProblems:
    AUTH,
    FOUND,
    BODY,
    &[Code::IdempotencyKeyReused, Code::QuotaExceeded, Code::Overloaded],
);

/// Upload a file
///
/// The body has the parts `conversation_id` and `file`, in this order. The type is that of the content; what the part declares
/// decides only among types of text. Prompts refer to the file by a part `{type: "file", file_id}`: only those of the uploader,
/// and only in this conversation. A file that no prompt refers to within 24 hours is erased.
#[utoipa::path(
    post,
    path = "/v1/files",
    operation_id = "upload_file",
    tag = "files",
    params(IdempotencyKeyParam),
    request_body(content((ref("#/components/schemas/UploadFile") = "multipart/form-data"))),
    responses(
        (status = 201, description = "Stored", body = ref("#/components/schemas/File"), headers(("location" = String, description = "URL of the file"))),
        UploadProblems,
    ),
    security(("bearer" = ["chat"])),
)]
#[expect(clippy::too_many_arguments, reason = "extractors")]
pub async fn upload(
    State(files): State<FileAccess>,
    State(conversations): State<ConversationAccess>,
    State(tenants): State<Arc<TenantRegistry>>,
    State(shared): State<Arc<Shared>>,
    State(shutdown): State<Shutdown>,
    Chat(caller): Chat,
    IdempotencyKey(key): IdempotencyKey,
    account: Option<Extension<Account>>,
    request: Request,
) -> Result<Response, Problem> {
    ensure_accepting_work(&shutdown)?;
    let slot = files.slot(&caller)?;
    if let Some(Extension(account)) = &account {
        account.reserve_body(UPLOAD_MEMORY).await?;
    }
    let now = shared.ports.clock.now();
    let new = FileId::new(shared.ports.ids.uuid());
    let policy = tenants.file_policy(caller.scope.tenant());
    let parts = Parts::open(request, &policy).await?;
    let conversation = conversations.find(Asker::owner(&caller), parts.conversation).await?;
    let (id, earlier) = match &key {
        Some(key) => keyed(&files, &caller, key, now).await?,
        None => (new, None),
    };
    let file = if let Some(earlier) = earlier {
        let Received { info } = parts.receive(&policy, None).await?;
        same(earlier, conversation.id, &info)?
    } else {
        let upload = FileUpload {
            id: new,
            conversation: conversation.id,
            user: caller.user.clone(),
            begun_at: now,
        };
        let mut sink = Sink::new(Arc::clone(&files.store), caller.scope.clone(), upload.clone(), slot);
        let Received { info } = parts.receive(&policy, Some(&mut sink)).await?;
        let file = StoredFile {
            id,
            conversation: conversation.id,
            user: caller.user.clone(),
            info,
            created_at: now,
        };
        let finished = files.store.finish_file(&caller.scope, &upload, &file, policy.quota);
        match finished.await? {
            Finished::Stored => {
                sink.keep();
                file
            }
            // A copy of the request was faster.
            Finished::Exists(known) => same(*known, conversation.id, &file.info)?,
            Finished::Erased => return Err(Problem::new(Code::NotFound)),
            Finished::Full(exceeded) => {
                let (whose, quota) = match exceeded {
                    Exceeded::Tenant => ("this tenant", policy.quota.tenant),
                    Exceeded::User => ("this user", policy.quota.user),
                };
                let detail = format!("the files of {whose} would have more than {quota} bytes");
                return Err(Problem::new(Code::QuotaExceeded).detail(detail));
            }
        }
    };
    let location = [(header::LOCATION, format!("/v1/files/{}", file.id))];
    Ok((StatusCode::CREATED, location, axum::Json(FileView::from(file))).into_response())
}

/// Returns the id for an idempotency key, and the file that was uploaded with it.
async fn keyed(
    files: &FileAccess,
    caller: &Caller,
    key: &str,
    now: Timestamp,
) -> Result<(FileId, Option<StoredFile>), Problem> {
    for round in 0..MAX_ROUNDS {
        let id = FileId::derived(caller.scope.tenant(), &caller.user, key, round);
        match files.store.file(&caller.scope, id).await? {
            None => return Ok((id, None)),
            Some(file) if now.duration_since(file.created_at) >= KEY_LIFETIME => {}
            Some(file) => return Ok((id, Some(file))),
        }
    }
    Err(Problem::new(Code::IdempotencyKeyReused))
}

/// Returns the file of an earlier request with the same key if that had the same body.
fn same(earlier: StoredFile, conversation: ConversationId, info: &FileInfo) -> Result<StoredFile, Problem> {
    if earlier.conversation == conversation && earlier.info == *info {
        Ok(earlier)
    } else {
        Err(Problem::new(Code::IdempotencyKeyReused))
    }
}

problems!(GetProblems: AUTH, FOUND);

/// Download a file
///
/// For its uploader. An administrator may read another user's file: that requires `x-copilotd-reason`, which is recorded in the
/// audit log before the content is sent. The response always asks the browser to save the file, never to show it.
#[utoipa::path(
    get,
    path = "/v1/files/{id}",
    operation_id = "get_file",
    tag = "files",
    params(ReasonParam),
    responses(
        (status = 200, description = "The content", content(
            (String = "image/png"),
            (String = "image/jpeg"),
            (String = "image/gif"),
            (String = "image/webp"),
            (String = "application/pdf"),
            (String = "text/plain"),
            (String = "text/markdown"),
            (String = "text/csv"),
            (String = "application/json"),
        )),
        GetProblems,
    ),
    security(("bearer" = ["chat"]), ("bearer" = ["admin"])),
)]
pub async fn get(
    State(files): State<FileAccess>,
    State(conversations): State<ConversationAccess>,
    caller: Caller,
    Ids((id,)): Ids<(FileId,)>,
    request: RequestId,
    reason: Reason,
    account: Option<Extension<Account>>,
) -> Result<Response, Problem> {
    let asker = Asker::owner_or_admin(&caller)?;
    let file = found(&files, &conversations, asker, &caller.scope, id).await?;
    if !asker.is_own(&file.user) {
        let entry = Entry {
            reason: Some(reason.required()?),
            ..audit::entry(&caller, &request, Action::FileRead, id)
        };
        // Recorded before the content is sent: what cannot be recorded is not disclosed.
        conversations.audit.record(caller.scope.tenant(), entry).await?;
    }
    let headers = headers(&file)?;
    let account = account.map(|Extension(account)| account);
    let body = Body::from_stream(pieces(files, caller.scope, id, account));
    Ok((headers, body).into_response())
}

problems!(DeleteProblems: AUTH, FOUND);

/// Delete a file
///
/// For its uploader. Prompts that refer to it keep its name and type; models are told that it was deleted.
#[utoipa::path(
    delete,
    path = "/v1/files/{id}",
    operation_id = "delete_file",
    tag = "files",
    responses(
        (status = 204, description = "Deleted"),
        DeleteProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn delete(
    State(files): State<FileAccess>,
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(FileId,)>,
) -> Result<StatusCode, Problem> {
    found(&files, &conversations, Asker::owner(&caller), &caller.scope, id).await?;
    match files.store.delete_file(&caller.scope, id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::new(Code::NotFound)),
    }
}

/// Finds a file of a conversation that the caller reaches; any other is answered 404.
async fn found(
    files: &FileAccess,
    conversations: &ConversationAccess,
    asker: Asker<'_>,
    scope: &TenantScope,
    id: FileId,
) -> Result<StoredFile, Problem> {
    let file = files.store.file(scope, id).await?;
    let file = file.ok_or_else(|| Problem::new(Code::NotFound))?;
    // Only the owner of a conversation uploads to it, so whoever reaches the conversation reaches the file. Files of an erased
    // conversation exist until the reconciler deletes them.
    conversations.find(asker, file.conversation).await?;
    Ok(file)
}

/// What RFC 8187 lets stand in an extended value as it is.
const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn headers(file: &StoredFile) -> Result<HeaderMap, Problem> {
    let broken = |_| Problem::new(Code::Internal);
    let media_type = file.info.media_type;
    let content_type = match media_type.kind() {
        FileKind::Text if media_type != MediaType::Json => format!("{media_type}; charset=utf-8"),
        _ => media_type.to_string(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_str(&content_type).map_err(broken)?,
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(file.info.bytes));
    let disposition = HeaderValue::from_str(&disposition(&file.info.name)).map_err(broken)?;
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(headers)
}

/// Writes a name for `Content-Disposition` (RFC 6266): as far as ASCII goes for old clients, and the whole for others.
fn disposition(name: &str) -> String {
    let plain = |c: char| match c {
        '"' | '\\' | '%' => '_',
        c if c.is_ascii_graphic() || c == ' ' => c,
        _ => '_',
    };
    let ascii: String = name.chars().map(plain).collect();
    if ascii == name {
        return format!("attachment; filename=\"{ascii}\"");
    }
    let extended = utf8_percent_encode(name, EXTENDED);
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{extended}")
}

/// Streams a file piece by piece, each after the previous one is sent and memory for it is reserved.
fn pieces(
    files: FileAccess,
    scope: TenantScope,
    id: FileId,
    account: Option<Account>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::try_unfold(0, move |number| {
        let (files, scope, account) = (files.clone(), scope.clone(), account.clone());
        async move {
            if let Some(account) = &account {
                let room = account.reserve_answer(PIECE_BYTES).await;
                room.map_err(|_| std::io::Error::other("too many responses are waiting to be read"))?;
            }
            let piece = files.store.file_piece(&scope, id, number).await.map_err(|error| {
                tracing::warn!(tenant = %scope.tenant(), file = %id, %error, "reading a file failed; the download was cut off");
                std::io::Error::other("the file could not be read")
            })?;
            Ok(piece.map(|piece| (piece, number + 1)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_for_old_and_new_clients() {
        for (name, expected) in [
            ("a b.pdf", "attachment; filename=\"a b.pdf\""),
            (
                "r\u{e9}sum\u{e9}.pdf",
                "attachment; filename=\"r_sum_.pdf\"; filename*=UTF-8''r%C3%A9sum%C3%A9.pdf",
            ),
            (
                "a\"b;c\\%41.txt",
                "attachment; filename=\"a_b;c__41.txt\"; filename*=UTF-8''a%22b%3Bc%5C%2541.txt",
            ),
        ] {
            assert_eq!(disposition(name), expected);
        }
    }
}

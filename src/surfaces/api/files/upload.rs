//! Receives a file piece by piece.
//!
//! Invariant: of a body no more is in memory than one piece and what the connection delivered last.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header;
use bytes::{Bytes, BytesMut};
use copilotd_actors::domain::file::{FileInfo, FilePolicy, clean_name};
use copilotd_actors::domain::ids::{ConversationId, FileId};
use copilotd_actors::ports::{FileStore, FileUpload, PIECE_BYTES, UploadStep};
use copilotd_actors::tenancy::TenantScope;
use mime::Mime;
use multer::{Constraints, Field, Multipart, SizeLimit};
use sha2::{Digest as _, Sha256};

use super::sniff::Sniffer;
use crate::http::budget::Reservation;
use crate::http::extract::invalid;
use crate::http::problems::{Code, Problem};

/// Bytes of a body beside the file: boundaries, headers of the parts, and the id.
const ENVELOPE_BYTES: u64 = 16 * 1024;
/// Longest time without a byte of the body.
const IDLE: Duration = Duration::from_secs(20);
/// Longest time of a whole body.
const TOTAL: Duration = Duration::from_secs(600);

/// The parts of a body, of which `conversation_id` has been read.
pub(super) struct Parts {
    multipart: Multipart<'static>,
    max_bytes: u64,
    pub(super) conversation: ConversationId,
}

/// A received file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) info: FileInfo,
}

/// Where the pieces go. Dropping it deletes an upload that became no file, and keeps the slot until that is done.
pub(super) struct Sink {
    pub(super) store: Arc<dyn FileStore>,
    pub(super) scope: TenantScope,
    pub(super) upload: FileUpload,
    pieces: u32,
    is_open: bool,
    slot: Option<Reservation>,
}

impl Parts {
    /// Reads the first part of a body.
    pub(super) async fn open(request: Request, policy: &FilePolicy) -> Result<Self, Problem> {
        let boundary = boundary(&request)?;
        let max_bytes = policy.max_bytes;
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > max_bytes.saturating_add(ENVELOPE_BYTES)) {
            return Err(too_large(max_bytes));
        }
        let limit = SizeLimit::new().whole_stream(max_bytes.saturating_add(ENVELOPE_BYTES));
        let constraints = Constraints::new().size_limit(limit.for_field("conversation_id", 256));
        let body = request.into_body().into_data_stream();
        let mut multipart = Multipart::with_constraints(body, boundary, constraints);
        let first = next(&mut multipart, max_bytes).await?;
        let first = first.filter(|part| part.name() == Some("conversation_id"));
        let first = first.ok_or_else(|| invalid("/conversation_id", "has to be the first part of the body"))?;
        let id = within(first.text(), max_bytes).await?;
        // A malformed id is answered like an unknown one.
        let conversation = id.parse::<ConversationId>().map_err(|_| Problem::new(Code::NotFound))?;
        Ok(Self {
            multipart,
            max_bytes,
            conversation,
        })
    }

    /// Receives the file, into a sink if there is one.
    pub(super) async fn receive(self, policy: &FilePolicy, sink: Option<&mut Sink>) -> Result<Received, Problem> {
        match tokio::time::timeout(TOTAL, self.receive_all(policy, sink)).await {
            Ok(received) => received,
            Err(_elapsed) => Err(Problem::new(Code::Timeout).detail("the request body was not received in time")),
        }
    }

    async fn receive_all(mut self, policy: &FilePolicy, mut sink: Option<&mut Sink>) -> Result<Received, Problem> {
        let part = next(&mut self.multipart, self.max_bytes).await?;
        let part = part.filter(|part| part.name() == Some("file"));
        let mut part: Field<'static> = part.ok_or_else(|| invalid("/file", "has to be the second part of the body"))?;
        let name = clean_name(part.file_name().unwrap_or_default());
        let declared = part.content_type().map(|media| media.essence_str().to_owned());
        let (mut sniffer, mut hash, mut bytes) = (Sniffer::default(), Sha256::new(), 0_u64);
        let mut pending = BytesMut::new();
        while let Some(chunk) = within(part.chunk(), self.max_bytes).await? {
            bytes += chunk.len() as u64;
            if bytes > self.max_bytes {
                return Err(too_large(self.max_bytes));
            }
            sniffer.push(&chunk);
            hash.update(&chunk);
            pending.extend_from_slice(&chunk);
            while pending.len() >= PIECE_BYTES {
                if !sniffer.may_be(&policy.types) {
                    return Err(unaccepted(policy));
                }
                let piece = pending.split_to(PIECE_BYTES).freeze();
                put(&mut sink, piece).await?;
            }
        }
        drop(part);
        let media_type = sniffer.media_type(declared.as_deref(), &name);
        let media_type = media_type.filter(|media_type| policy.types.contains(media_type));
        if bytes == 0 {
            return Err(invalid("/file", "must not be empty"));
        }
        let media_type = media_type.ok_or_else(|| unaccepted(policy))?;
        if next(&mut self.multipart, self.max_bytes).await?.is_some() {
            return Err(invalid("", "the body has more parts than conversation_id and file"));
        }
        if !pending.is_empty() {
            put(&mut sink, pending.freeze()).await?;
        }
        let info = FileInfo {
            name,
            media_type,
            bytes,
            sha256: hex::encode(hash.finalize()),
        };
        Ok(Received { info })
    }
}

impl Sink {
    /// Prepares an upload. Nothing is stored before its first piece.
    pub(super) fn new(store: Arc<dyn FileStore>, scope: TenantScope, upload: FileUpload, slot: Reservation) -> Self {
        Self {
            store,
            scope,
            upload,
            pieces: 0,
            is_open: false,
            slot: Some(slot),
        }
    }

    async fn put(&mut self, piece: Bytes) -> Result<(), Problem> {
        if !self.is_open {
            self.is_open = true;
            stored(self.store.begin_file(&self.scope, &self.upload).await?)?;
        }
        let number = self.pieces;
        self.pieces += 1;
        let put = self.store.put_file_piece(&self.scope, &self.upload, number, piece);
        stored(put.await?)
    }

    /// Keeps the upload: it is a file now.
    pub(super) fn keep(mut self) {
        self.is_open = false;
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.is_open {
            let (store, scope, upload): (_, _, FileId) = (Arc::clone(&self.store), self.scope.clone(), self.upload.id);
            let slot = self.slot.take();
            drop(runtime.spawn(async move {
                let _slot = slot;
                if let Err(error) = store.abort_file(&scope, upload).await {
                    tracing::warn!(tenant = %scope.tenant(), %upload, %error, "an unfinished upload could not be deleted; the sweep deletes it within a day");
                }
            }));
        }
    }
}

async fn put(sink: &mut Option<&mut Sink>, piece: Bytes) -> Result<(), Problem> {
    match sink {
        Some(sink) => sink.put(piece).await,
        None => Ok(()),
    }
}

/// An erased conversation is answered like one that never was.
fn stored(step: UploadStep) -> Result<(), Problem> {
    match step {
        UploadStep::Stored => Ok(()),
        UploadStep::Erased => Err(Problem::new(Code::NotFound)),
    }
}

async fn next(multipart: &mut Multipart<'static>, max_bytes: u64) -> Result<Option<Field<'static>>, Problem> {
    within(multipart.next_field(), max_bytes).await
}

/// Waits for a part of the body.
async fn within<T>(read: impl Future<Output = multer::Result<T>>, max_bytes: u64) -> Result<T, Problem> {
    match tokio::time::timeout(IDLE, read).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(multer::Error::StreamSizeExceeded { .. } | multer::Error::FieldSizeExceeded { .. })) => {
            Err(too_large(max_bytes))
        }
        Ok(Err(error)) => Err(Problem::new(Code::Malformed).detail(format!("multipart body: {error}"))),
        Err(_) => Err(Problem::new(Code::Timeout).detail("the request body stopped arriving")),
    }
}

fn boundary(request: &Request) -> Result<String, Problem> {
    let headers = request.headers();
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::new(Code::UnsupportedMediaType).detail("compressed bodies are not accepted"));
    }
    let stated = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = stated.and_then(|text| text.parse::<Mime>().ok());
    let media = media.filter(|media| media.essence_str() == mime::MULTIPART_FORM_DATA.essence_str());
    let media = media.ok_or_else(|| Problem::new(Code::UnsupportedMediaType).detail("expected multipart/form-data"))?;
    let boundary = media
        .get_param(mime::BOUNDARY)
        .map(|boundary| boundary.as_str().to_owned());
    boundary.ok_or_else(|| Problem::new(Code::Malformed).detail("the multipart boundary is missing"))
}

fn too_large(max_bytes: u64) -> Problem {
    Problem::new(Code::TooLarge).detail(format!("files may have at most {max_bytes} bytes"))
}

fn unaccepted(policy: &FilePolicy) -> Problem {
    let types: Vec<&str> = policy.types.iter().map(|media_type| media_type.as_str()).collect();
    let detail = match types.is_empty() {
        true => "this tenant accepts no files".to_owned(),
        false => format!(
            "the content of the file is of no accepted type: {}; texts have to be in UTF-8",
            types.join(", ")
        ),
    };
    Problem::new(Code::UnsupportedMediaType).detail(detail)
}

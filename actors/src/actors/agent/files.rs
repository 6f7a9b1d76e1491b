//! The files of a turn's prompt: those that the user attached to it and to the turns shortly before.
//!
//! Invariants: nothing here fails a turn or delays it by more than a constant; files are loaded by the turn's own scope, and no
//! text of one reaches a model that the guardrails did not inspect; a file whose content is left out is named with the reason.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Agent;
use super::knowledge::Asked;
use crate::compute;
use crate::domain::content::{Input, Part};
use crate::domain::context::gathered::Passage;
use crate::domain::context::memory::{EntryContent, Memory};
use crate::domain::context::tokens;
use crate::domain::context_record::{ContextItem, ItemKind, Omitted};
use crate::domain::event::GuardAction;
use crate::domain::file::{FileContent, FileInfo, FileKind, MAX_FILES, MAX_TEXT, PromptFile, UNREADABLE};
use crate::domain::guardrail::{self as guard, ContentKind, Finding, Stage, Verdict, judge};
use crate::domain::ids::FileId;
use crate::ports::{self, Content, FileStore, LogError, StoredFile};

/// Turns whose files a prompt has: the running one and those before it.
const TURNS: usize = 3;
/// Bytes of images and PDFs that one prompt has together. As base64 they are a third more; vendors accept some 30 MB.
const CONTENT_BYTES: u64 = 8 * 1024 * 1024;
/// Time limit for loading the files of a turn, and within it for the memory that they take.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);
const MEMORY_TIMEOUT: Duration = Duration::from_secs(4);
/// What a byte of an image or PDF takes while a model is asked: itself, and base64 in the body and on the wire.
const COPIES: u64 = 4;
/// Priority of the newest file among the optional parts of a prompt: after the facts and before the chunks.
const PRIORITY: u8 = 200;

/// The files of one step of a turn: loaded for each, so that a turn that waits for a person holds no memory for them.
#[derive(Debug, Default)]
pub(super) struct TurnFiles {
    /// The files as the model reads them, oldest first.
    pub passages: Vec<Passage>,
    /// Files whose content the prompt does not have, and why.
    pub omitted: Vec<ContextItem<Omitted>>,
    /// What the guardrails did.
    pub guardrails: Vec<(Stage, String, GuardAction)>,
}

/// A loaded file.
enum Loaded {
    Text(String),
    Content(FileContent),
    /// Left out, with the reason for the model and for the record.
    Named(&'static str, Option<Omitted>),
}

/// The content of a file, with the memory reserved for it.
struct Reserved {
    bytes: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Reserved {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Agent {
    /// Loads the files that the prompt of a step has.
    pub(super) async fn files(&self, asked: &Asked<'_>) -> TurnFiles {
        let attached = attached(asked.memory);
        if attached.is_empty() {
            return TurnFiles::default();
        }
        let mut files = TurnFiles::default();
        let mut loaded = Vec::new();
        let mut left = CONTENT_BYTES;
        let deadline = tokio::time::Instant::now() + LOAD_TIMEOUT;
        for (place, (id, info)) in attached.into_iter().enumerate() {
            if place >= MAX_FILES {
                files.omit(id, Omitted::Budget);
                continue;
            }
            let within = deadline.saturating_duration_since(tokio::time::Instant::now());
            let load = AssertUnwindSafe(self.load(asked, id, &info, &mut left)).catch_unwind();
            let content = match timeout(within, load).await {
                Ok(Ok(Ok(content))) => content,
                failed => {
                    let error = match failed {
                        Ok(Ok(Err(error))) => error.to_string(),
                        Ok(_) => "loading it panicked".to_owned(),
                        Err(_) => format!("no answer within {} s", LOAD_TIMEOUT.as_secs()),
                    };
                    tracing::warn!(tenant = %self.scope.tenant(), conversation = %self.id, file = %id, error, "an attached file could not be loaded; the prompt names it without its content");
                    Loaded::Named("(attached, could not be loaded)", Some(Omitted::Unavailable))
                }
            };
            loaded.push((id, info, content));
        }
        self.inspect_files(asked, loaded, &mut files).await;
        files
    }

    async fn load(&self, asked: &Asked<'_>, id: FileId, info: &FileInfo, left: &mut u64) -> Result<Loaded, LogError> {
        let deleted = Loaded::Named("(attached, deleted since)", Some(Omitted::Unavailable));
        let Some(store) = self.shared.ports.files.as_deref() else {
            return Err(LogError::Unavailable("this process has no store of files".to_owned()));
        };
        let kind = info.media_type.kind();
        if kind != FileKind::Text {
            if !asked.policy.reads.contains(&kind) {
                return Ok(Loaded::Named(UNREADABLE, None));
            }
            if info.bytes > *left {
                return Ok(Loaded::Named(
                    "(attached, too large for this prompt)",
                    Some(Omitted::Budget),
                ));
            }
        }
        let found = store.file(&self.scope, id).await?;
        // The store answers for this tenant alone; conversation and user are checked once more, because a file is only theirs.
        // Another content under the id was uploaded with the same key after this one had been deleted.
        let is_own = |file: &StoredFile| file.conversation == self.id && file.user == self.user && file.info == *info;
        if !found.as_ref().is_some_and(is_own) {
            return Ok(deleted);
        }
        if kind == FileKind::Text {
            let bytes = self.read(store, id, MAX_TEXT).await?;
            return Ok(text(bytes, info).map_or(deleted, Loaded::Text));
        }
        let kib = u32::try_from((COPIES * info.bytes).div_ceil(1024)).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.shared.file_memory).acquire_many_owned(kib);
        let Ok(Ok(memory)) = timeout(MEMORY_TIMEOUT, memory).await else {
            let why = "(attached, not loaded: the server is busy)";
            return Ok(Loaded::Named(why, Some(Omitted::Unavailable)));
        };
        let bytes = self
            .read(store, id, usize::try_from(info.bytes).unwrap_or(usize::MAX))
            .await?;
        if bytes.len() as u64 != info.bytes {
            return Ok(deleted);
        }
        *left -= info.bytes;
        Ok(Loaded::Content(FileContent::new(Reserved { bytes, _memory: memory })))
    }

    /// Reads at most so many bytes of a file.
    async fn read(&self, store: &dyn FileStore, id: FileId, limit: usize) -> Result<Vec<u8>, LogError> {
        let (mut bytes, mut pieces) = (Vec::new(), ports::content(store, &self.scope, id));
        while bytes.len() < limit
            && let Some(piece) = pieces.try_next().await?
        {
            bytes.extend_from_slice(&piece);
        }
        bytes.truncate(limit);
        Ok(bytes)
    }

    /// Lets the guardrails look at the texts, and writes all files as a model reads them.
    async fn inspect_files(&self, asked: &Asked<'_>, loaded: Vec<(FileId, FileInfo, Loaded)>, files: &mut TurnFiles) {
        let content = |(_, _, loaded): &(FileId, FileInfo, Loaded)| match loaded {
            Loaded::Text(text) => {
                let cost = text.len() * guard::COST_PER_BYTE;
                // What a user attaches is what the user writes.
                Some(Content::new(ContentKind::Prompt, Value::from(text.as_str()), cost))
            }
            Loaded::Content(_) | Loaded::Named(..) => None,
        };
        let contents: Vec<Content> = loaded.iter().filter_map(content).collect();
        let inspected = match contents.is_empty() {
            true => Ok(Vec::new()),
            false => {
                let guardrails = &self.shared.guardrails;
                guardrails.inspect(&self.scope, &asked.policy.rules, &contents).await
            }
        };
        let findings = inspected.unwrap_or_else(|error| {
            tracing::warn!(tenant = %self.scope.tenant(), conversation = %self.id, %error, "attached files could not be checked; withholding their text");
            contents.iter().map(|_| vec![Finding::unreadable()]).collect()
        });
        let nonce = asked.memory.blocks.back().and_then(|block| block.nonce.clone());
        let cost = contents.iter().map(|content| content.cost).sum::<usize>() * tokens::COST_PER_BYTE;
        let write = move || write(loaded, findings, nonce.as_deref());
        match compute::run(Some(self.scope.tenant()), cost, write).await {
            Ok(TurnFiles {
                passages,
                omitted,
                guardrails,
            }) => {
                files.passages = passages;
                files.omitted.extend(omitted);
                files.guardrails = guardrails;
            }
            Err(error) => {
                tracing::warn!(tenant = %self.scope.tenant(), conversation = %self.id, %error, "attached files could not be prepared; running the turn without them");
            }
        }
    }
}

impl TurnFiles {
    fn omit(&mut self, id: FileId, reason: Omitted) {
        self.omitted.push(ContextItem {
            id: Some(id.to_string()),
            ..ContextItem::new(ItemKind::File, 0, reason)
        });
    }
}

/// Returns the files of the last turns, newest first, each once.
fn attached(memory: &Memory) -> Vec<(FileId, FileInfo)> {
    let mut found: Vec<(FileId, FileInfo)> = Vec::new();
    for block in memory.blocks.iter().rev().take(TURNS) {
        let inputs = block.entries.iter().filter_map(|entry| match &entry.content {
            EntryContent::User { input } => Some(input.as_ref()),
            _ => None,
        });
        let parts = inputs.filter_map(|input| match input {
            Input::Parts(parts) => Some(parts),
            Input::Text(_) => None,
        });
        for part in parts.flatten() {
            if let Part::File {
                file_id,
                info: Some(info),
            } = part
                && !found.iter().any(|(known, _)| known == file_id)
            {
                found.push((*file_id, info.clone()));
            }
        }
    }
    found
}

/// Returns the beginning of a text; none if it is not the text that was uploaded.
fn text(mut bytes: Vec<u8>, info: &FileInfo) -> Option<String> {
    let is_part = (bytes.len() as u64) < info.bytes;
    if is_part && bytes.len() < MAX_TEXT {
        return None;
    }
    if let Err(error) = std::str::from_utf8(&bytes) {
        // A character that was cut.
        let is_cut = is_part && error.error_len().is_none();
        if !is_cut {
            return None;
        }
        bytes.truncate(error.valid_up_to());
    }
    String::from_utf8(bytes).ok()
}

/// Writes the files, which are newest first, in the order of the prompt.
fn write(loaded: Vec<(FileId, FileInfo, Loaded)>, findings: Vec<Vec<Finding>>, nonce: Option<&str>) -> TurnFiles {
    let mut files = TurnFiles::default();
    let mut findings = findings.into_iter();
    for (rank, (id, info, loaded)) in loaded.into_iter().enumerate() {
        let file = match loaded {
            Loaded::Content(content) => PromptFile::of_bytes(id, info, content, nonce),
            Loaded::Named(why, omitted) => {
                if let Some(reason) = omitted {
                    files.omit(id, reason);
                }
                PromptFile::named(id, info, why, nonce)
            }
            Loaded::Text(text) => {
                let findings = findings.next().unwrap_or_else(|| vec![Finding::unreadable()]);
                let (shown, rules, action) = match judge(ContentKind::Prompt, Value::from(text), &findings) {
                    Verdict::Allowed(shown) => (Some(shown), Vec::new(), GuardAction::Redact),
                    Verdict::Redacted { content, rules } => (Some(content), rules, GuardAction::Redact),
                    Verdict::Blocked { rule } => (None, vec![rule], GuardAction::Block),
                };
                let told = rules.into_iter().map(|rule| (Stage::Retrieval, rule, action));
                files.guardrails.extend(told);
                match shown.as_ref().and_then(Value::as_str) {
                    Some(text) => PromptFile::of_text(id, info, text, nonce),
                    None => {
                        files.omit(id, Omitted::Guardrail);
                        PromptFile::named(id, info, "(attached, withheld by a content rule)", nonce)
                    }
                }
            }
        };
        let priority = PRIORITY.saturating_sub(u8::try_from(rank).unwrap_or(u8::MAX));
        files.passages.push(Passage::of_file(file, priority));
    }
    files.passages.reverse();
    files
}

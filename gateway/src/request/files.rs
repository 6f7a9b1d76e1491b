//! Attached files in a chat body, as each target reads them.
//!
//! Invariant: a target gets the content of a file only if it reads that kind; otherwise the same message says that the file is
//! attached and not readable. The content is base64 only in the body of one attempt.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use copilotd_actors::compute;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::file::{FILE_NOTICE, FileContent, FileKind, PromptFile};
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::ModelError;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::body::ChatBody;

/// A message with files.
#[derive(Debug, Clone)]
pub(super) struct FilesMessage {
    /// Its place among the messages.
    pub index: usize,
    /// The files.
    pub files: Vec<PromptFile>,
}

/// Returns the content that a target with these abilities reads beside the text.
fn readable<'a>(file: &'a PromptFile, reads: &[FileKind]) -> Option<&'a FileContent> {
    file.content
        .as_ref()
        .filter(|_| reads.contains(&file.info.media_type.kind()))
}

/// Writes what a target reads of the files as text.
pub(super) fn text(files: &[PromptFile], reads: &[FileKind]) -> String {
    let mut text = FILE_NOTICE.to_owned();
    for file in files {
        let is_readable = readable(file, reads).is_some();
        text.push('\n');
        text.push_str(if is_readable { &file.text } else { &file.unreadable });
    }
    text
}

/// Returns the tokens that the files of a body count as beside the text. Too many for targets that read fewer.
pub(super) fn tokens(body: &ChatBody) -> u64 {
    let files = body.files().iter().flat_map(|message| &message.files);
    files.map(PromptFile::content_tokens).sum()
}

/// Returns the body with the files that a target reads.
pub(crate) async fn for_target(
    body: Arc<ChatBody>,
    reads: &[FileKind],
    tenant: Option<&TenantId>,
) -> Result<Arc<ChatBody>, ModelError> {
    let files = body.files().iter().flat_map(|message| &message.files);
    let bytes: usize = files
        .filter_map(|file| readable(file, reads))
        .map(|content| content.bytes().len())
        .sum();
    if bytes == 0 {
        return Ok(body);
    }
    let (cost, reads) = (bytes + body.size(), reads.to_vec());
    let rendered = compute::run(tenant, cost, move || render(&body, &reads)).await;
    let rendered = rendered.map_err(|error| failed(FailureClass::Overload, &error.to_string()))?;
    let rendered = rendered.map_err(|error| failed(FailureClass::Rejected, &error))?;
    Ok(Arc::new(rendered))
}

fn failed(class: FailureClass, error: &str) -> ModelError {
    ModelError {
        class,
        message: format!("the attached files could not be added to the request: {error}"),
        retry_after: None,
        refusal: None,
    }
}

fn render(body: &ChatBody, reads: &[FileKind]) -> Result<ChatBody, String> {
    let parsed: Result<Vec<Box<RawValue>>, _> = serde_json::from_str(body.messages().get());
    let mut messages = parsed.map_err(|error| error.to_string())?;
    for FilesMessage { index, files } in body.files() {
        let message = messages.get_mut(*index).ok_or("a message is missing")?;
        let mut content = vec![json!({ "type": "text", "text": text(files, reads) })];
        content.extend(files.iter().filter_map(|file| Some(part(file, readable(file, reads)?))));
        let shown = json!({ "role": "user", "content": content });
        *message = to_raw_value(&shown).map_err(|error| error.to_string())?;
    }
    let mut rendered = body.clone();
    rendered.set("messages", &messages).map_err(|error| error.to_string())?;
    Ok(rendered)
}

/// Returns a part of a message in OpenAI's format.
fn part(file: &PromptFile, content: &FileContent) -> Value {
    let url = format!(
        "data:{};base64,{}",
        file.info.media_type,
        STANDARD.encode(content.bytes())
    );
    match file.info.media_type.kind() {
        FileKind::Pdf => json!({ "type": "file", "file": { "filename": file.info.name, "file_data": url } }),
        FileKind::Image | FileKind::Text => json!({ "type": "image_url", "image_url": { "url": url } }),
    }
}

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::file::{FileInfo, MediaType};
    use copilotd_actors::domain::ids::FileId;

    use super::*;

    fn file(name: &str, media_type: MediaType) -> PromptFile {
        let info = FileInfo {
            name: name.to_owned(),
            media_type,
            bytes: 3,
            sha256: String::new(),
        };
        let id = FileId::new(uuid::Uuid::nil());
        match media_type.kind() {
            FileKind::Text => PromptFile::of_text(id, info, "abc", None),
            _ => PromptFile::of_bytes(id, info, FileContent::new(b"abc".to_vec()), None),
        }
    }

    fn body() -> Arc<ChatBody> {
        let files = vec![
            file("a.png", MediaType::Png),
            file("b.pdf", MediaType::Pdf),
            file("c.txt", MediaType::Text),
        ];
        let messages = json!([
            { "role": "system", "content": "s" },
            { "role": "user", "content": text(&files, &[]) },
        ]);
        let body = ChatBody::from_value(&json!({ "model": "m", "messages": messages })).unwrap();
        Arc::new(body.with_files(vec![FilesMessage { index: 1, files }]))
    }

    async fn content(reads: &[FileKind]) -> Value {
        let rendered = for_target(body(), reads, None).await.unwrap();
        let messages: Value = serde_json::from_str(rendered.messages().get()).unwrap();
        assert_eq!(messages[0], json!({ "role": "system", "content": "s" }));
        messages[1]["content"].clone()
    }

    #[tokio::test]
    async fn each_target_gets_what_it_reads_and_is_told_of_the_rest() {
        const UNREADABLE: &str = "not readable by this model";
        let plain = content(&[]).await;
        let text = plain.as_str().unwrap();
        assert_eq!(text.matches(UNREADABLE).count(), 2, "{text}");
        assert!(text.contains("c.txt (text/plain, 3 bytes)\nabc\n"), "{text}");

        let image = json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,YWJj" } });
        let pdf = json!({
            "type": "file",
            "file": { "filename": "b.pdf", "file_data": "data:application/pdf;base64,YWJj" },
        });
        let seen = content(&[FileKind::Image]).await;
        assert_eq!(seen.as_array().unwrap()[1..], *std::slice::from_ref(&image));
        assert_eq!(seen[0]["text"].as_str().unwrap().matches(UNREADABLE).count(), 1);

        let read = content(&[FileKind::Pdf, FileKind::Image]).await;
        assert_eq!(read.as_array().unwrap()[1..], [image, pdf]);
        assert!(!read[0]["text"].as_str().unwrap().contains(UNREADABLE));
    }

    #[test]
    fn files_count_as_tokens_and_not_as_bytes() {
        assert_eq!(tokens(&body()), 1_600 + 3_000);
    }
}

//! Counts tokens by ourselves when a provider does not say how many it used.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use copilotd_actors::compute;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tokens;
use copilotd_actors::domain::usage::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::gateway::body::ChatBody;

/// Answer text that is kept to be counted; what is longer counts as the same number of tokens per byte.
const KEPT: usize = 16 * 1024;
/// Largest body of which each message is read; a larger one counts as the JSON that it is, which takes no memory beside it.
const PARSED: usize = 1024 * 1024;
/// What the protocol adds to each message, and to the whole prompt.
const PER_MESSAGE: u64 = 3;
const PER_PROMPT: u64 = 3;
/// What the protocol adds to each tool, about.
const PER_TOOL: u64 = 8;

/// What was said so far, on both sides.
#[derive(Debug, Clone)]
pub struct Transcript {
    prompt: Arc<ChatBody>,
    tenant: Option<TenantId>,
    /// Names of the tools that the prompt offers; read when they are needed.
    tools: OnceLock<HashSet<String>>,
    answer: String,
    written: u64,
}

impl Transcript {
    /// Begins with a prompt. Nothing is copied.
    pub fn new(prompt: Arc<ChatBody>) -> Self {
        Self {
            prompt,
            tenant: None,
            tools: OnceLock::new(),
            answer: String::new(),
            written: 0,
        }
    }

    /// Tells whether the prompt offers a tool of this name; none if it offers none at all.
    pub fn offers(&self, name: &str) -> Option<bool> {
        let tools = self.tools.get_or_init(|| tool_names(&self.prompt));
        (!tools.is_empty()).then(|| tools.contains(name))
    }

    /// Returns whose share of the compute pool is taken.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// Says whose share of the compute pool counting takes.
    #[must_use]
    pub fn of_tenant(mut self, tenant: Option<&TenantId>) -> Self {
        self.tenant = tenant.cloned();
        self
    }

    /// Returns how many bytes of the answer were added.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Adds a piece of the answer.
    pub fn add(&mut self, piece: &str) {
        self.written += piece.len() as u64;
        let room = KEPT.saturating_sub(self.answer.len());
        self.answer.push_str(&piece[..piece.floor_char_boundary(room)]);
    }

    /// Counts everything, on the compute pool where it is long.
    pub async fn estimate(self) -> Usage {
        let Self {
            prompt,
            tenant,
            answer,
            written,
            ..
        } = self;
        let tenant = tenant.as_ref();
        // A coarse number is better than none.
        let coarse = |bytes: u64| bytes / 4;
        let (size, kept) = (prompt.size(), answer.len() as u64);
        let prompt_tokens = async {
            let (overhead, texts) = compute::run(tenant, size, move || prompt_texts(&prompt)).await?;
            let texts = count(tenant, texts).await?;
            Ok::<u64, compute::ComputeError>(overhead + texts)
        };
        let prompt_tokens = prompt_tokens.await.unwrap_or(coarse(size as u64));
        let answered = count(tenant, vec![answer]).await.unwrap_or(coarse(kept));
        Usage {
            prompt_tokens,
            completion_tokens: answered.saturating_mul(written).checked_div(kept).unwrap_or(0),
            ..Usage::default()
        }
    }
}

fn tool_names(body: &ChatBody) -> HashSet<String> {
    let tools: Vec<Call<'_>> = body
        .get("tools")
        .and_then(|tools| serde_json::from_str(tools.get()).ok())
        .unwrap_or_default();
    let names = tools.into_iter().filter_map(|tool| tool.function?.name);
    names.collect()
}

async fn count(tenant: Option<&TenantId>, texts: Vec<String>) -> Result<u64, compute::ComputeError> {
    #[expect(clippy::ptr_arg, reason = "it has to be the type that is shared")]
    fn parts(texts: &Vec<String>) -> Vec<&str> {
        texts.iter().map(String::as_str).collect()
    }
    compute::count_tokens(tenant, &Arc::new(texts), parts, u64::MAX).await
}

/// Counts a prompt: its messages and tools. What is written in a way that nobody here knows counts as JSON.
pub fn prompt_tokens(body: &ChatBody) -> u64 {
    let (overhead, texts) = prompt_texts(body);
    overhead + texts.iter().map(|text| tokens::count(text)).sum::<u64>()
}

/// What the protocol adds to a prompt, and its texts.
fn prompt_texts(body: &ChatBody) -> (u64, Vec<String>) {
    if body.size() > PARSED {
        let raw = [Some(body.messages()), body.get("tools")];
        let texts = raw.into_iter().flatten().map(|raw| raw.get().to_owned());
        return (PER_PROMPT, texts.collect());
    }
    let messages: Vec<&RawValue> = serde_json::from_str(body.messages().get()).unwrap_or_default();
    let tools: Vec<&RawValue> = body
        .get("tools")
        .and_then(|tools| serde_json::from_str(tools.get()).ok())
        .unwrap_or_default();
    let overhead = PER_PROMPT + PER_MESSAGE * messages.len() as u64 + PER_TOOL * tools.len() as u64;
    let mut texts = Vec::new();
    messages
        .into_iter()
        .for_each(|message| add_message(message, &mut texts));
    tools.into_iter().for_each(|tool| add_tool(tool, &mut texts));
    (overhead, texts)
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(String),
    Parts(#[serde(borrow)] Vec<Part<'a>>),
}

#[derive(Deserialize)]
struct Part<'a> {
    text: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    name: Option<String>,
    description: Option<String>,
    arguments: Option<String>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

fn add_message(message: &RawValue, texts: &mut Vec<String>) {
    let Ok(read) = serde_json::from_str::<Message<'_>>(message.get()) else {
        return texts.push(message.get().to_owned());
    };
    match read.content {
        None => {}
        Some(Content::Text(text)) => texts.push(text),
        Some(Content::Parts(parts)) => {
            texts.extend(parts.into_iter().filter_map(|part| Some(part.text?.into_owned())));
        }
    }
    let calls = read.tool_calls.into_iter().flatten().filter_map(|call| call.function);
    calls.for_each(|function| add_function(function, texts));
}

fn add_tool(tool: &RawValue, texts: &mut Vec<String>) {
    match serde_json::from_str::<Call<'_>>(tool.get()) {
        Ok(Call {
            function: Some(function),
        }) => add_function(function, texts),
        _ => texts.push(tool.get().to_owned()),
    }
}

fn add_function(function: Function<'_>, texts: &mut Vec<String>) {
    texts.extend(
        [function.name, function.description, function.arguments]
            .into_iter()
            .flatten(),
    );
    texts.extend(function.parameters.map(|parameters| parameters.get().to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_answers_are_counted_by_their_beginning() {
        let body = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
        let mut transcript = Transcript::new(Arc::new(body));
        for _ in 0..20_000 {
            transcript.add(" word");
        }
        assert!(transcript.answer.len() <= KEPT);
        let counted = transcript.estimate().await.completion_tokens;
        assert!((19_900..=20_200).contains(&counted), "{counted}");
    }

    #[test]
    fn prompts_are_counted_in_every_form_of_content() {
        let count = |messages: &str| {
            let text = format!(r#"{{"model":"m","messages":{messages}}}"#);
            prompt_tokens(&ChatBody::parse(text.as_bytes()).unwrap())
        };
        let plain = count(r#"[{"role":"user","content":"three plain words"}]"#);
        assert_eq!(plain, PER_PROMPT + PER_MESSAGE + 3);
        let parts = r#"[{"role":"user","content":[{"type":"text","text":"three plain words"},{"type":"image_url"}]}]"#;
        assert_eq!(count(parts), plain);
        let calls = r#"[{"role":"assistant","tool_calls":[{"function":{"name":"three","arguments":" plain words"}}]}]"#;
        assert_eq!(count(calls), plain);
    }

    #[tokio::test]
    async fn nothing_said_is_nothing_counted() {
        let body = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
        let usage = Transcript::new(Arc::new(body)).estimate().await;
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (PER_PROMPT, 0));
    }
}

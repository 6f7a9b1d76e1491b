//! Prompt tokens, counted by us where the provider does not report them.

use std::sync::{Arc, OnceLock};

use copilotd_actors::compute::{self, ComputeError};
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::ids::TenantId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::ChatBody;
use super::embed::{EmbedBody, Inputs};
use super::files;

/// Largest body whose messages are parsed; a larger one is counted as raw JSON, which needs no memory beside it.
const PARSED: usize = 1024 * 1024;
/// Largest body that is counted inline, which takes a fraction of a millisecond.
const INLINE: usize = compute::INLINE_COST / tokens::COST_PER_BYTE;
/// Tokens that the protocol adds to each message, and to the whole prompt.
const PER_MESSAGE: u64 = 3;
const PER_PROMPT: u64 = 3;
/// Approximate tokens that the protocol adds to each tool.
const PER_TOOL: u64 = 8;

/// The prompt of a request, counted at most once for all its attempts.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    text: Text,
    counted: Arc<OnceLock<u64>>,
}

#[derive(Debug, Clone)]
enum Text {
    Chat(Arc<ChatBody>),
    Embed(Arc<EmbedBody>),
}

impl Prompt {
    pub(crate) fn chat(body: Arc<ChatBody>) -> Self {
        Self::of(Text::Chat(body))
    }

    pub(crate) fn embed(body: Arc<EmbedBody>) -> Self {
        Self::of(Text::Embed(body))
    }

    fn of(text: Text) -> Self {
        Self {
            text,
            counted: Arc::default(),
        }
    }

    /// Returns the number of tokens if it is known or quick to count.
    pub(crate) fn known(&self) -> Option<u64> {
        if self.counted.get().is_none() && self.size() > INLINE {
            return None;
        }
        Some(*self.counted.get_or_init(|| match &self.text {
            Text::Chat(body) => prompt_tokens(body),
            Text::Embed(body) => match body.inputs() {
                Inputs::Texts(texts) => texts.iter().map(|text| tokens::count(text)).sum(),
                Inputs::Tokens { tokens, .. } => *tokens,
            },
        }))
    }

    /// Counts the tokens; a long prompt on the compute pool. If that is full, returns [`Prompt::rough`].
    pub(crate) async fn count(&self, tenant: &TenantId) -> u64 {
        if let Some(known) = self.known() {
            return known;
        }
        let counted = match &self.text {
            Text::Chat(body) => count_chat(Some(tenant), Arc::clone(body)).await,
            Text::Embed(body) => count_inputs(Some(tenant), body).await,
        };
        counted.map_or_else(|_| self.rough(), |counted| *self.counted.get_or_init(|| counted))
    }

    /// Returns the number if it is known, else an estimate from the beginning of the prompt. Takes no time.
    pub(crate) fn rough(&self) -> u64 {
        if !tokens::is_ready() {
            return self.size() as u64 / 4;
        }
        if let Some(known) = self.known() {
            return known;
        }
        match &self.text {
            Text::Chat(body) => {
                let raw = [Some(body.messages()), body.get("tools")];
                let text: u64 = raw.into_iter().flatten().map(|raw| by_beginning(raw.get())).sum();
                text + files::tokens(body)
            }
            Text::Embed(body) => match body.inputs() {
                Inputs::Texts(_) => body.get("input").map_or(0, |raw| by_beginning(raw.get())),
                Inputs::Tokens { tokens, .. } => *tokens,
            },
        }
    }

    fn size(&self) -> usize {
        match &self.text {
            Text::Chat(body) => body.size(),
            Text::Embed(body) => body.size(),
        }
    }
}

/// Extrapolates the tokens of a text's beginning to the whole text.
fn by_beginning(text: &str) -> u64 {
    let beginning = &text[..tokens::cut(text, INLINE)];
    let counted = u128::from(tokens::count(beginning)) * text.len() as u128;
    let tokens = counted.checked_div(beginning.len() as u128).unwrap_or(0);
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// Counts a chat's prompt; a long one on the compute pool.
pub async fn count_chat(tenant: Option<&TenantId>, body: Arc<ChatBody>) -> Result<u64, ComputeError> {
    let size = body.size();
    let (overhead, texts) = compute::run(tenant, size, move || prompt_texts(&body)).await?;
    Ok(overhead + count_texts(tenant, texts).await?)
}

/// Counts the inputs of an embedding; long ones on the compute pool.
pub async fn count_inputs(tenant: Option<&TenantId>, body: &EmbedBody) -> Result<u64, ComputeError> {
    match body.inputs() {
        Inputs::Texts(texts) => count_texts(tenant, texts.clone()).await,
        Inputs::Tokens { tokens, .. } => Ok(*tokens),
    }
}

async fn count_texts(tenant: Option<&TenantId>, texts: Vec<String>) -> Result<u64, ComputeError> {
    #[expect(clippy::ptr_arg, reason = "it has to be the type that is shared")]
    fn parts(texts: &Vec<String>) -> Vec<&str> {
        texts.iter().map(String::as_str).collect()
    }
    compute::count_tokens(tenant, &Arc::new(texts), parts, u64::MAX).await
}

/// Counts the messages and tools of a prompt. Unknown formats are counted as JSON.
pub fn prompt_tokens(body: &ChatBody) -> u64 {
    let (overhead, texts) = prompt_texts(body);
    overhead + texts.iter().map(|text| tokens::count(text)).sum::<u64>()
}

/// Returns the protocol's overhead in tokens, and the texts of a prompt.
fn prompt_texts(body: &ChatBody) -> (u64, Vec<String>) {
    if body.size() > PARSED {
        let raw = [Some(body.messages()), body.get("tools")];
        let texts = raw.into_iter().flatten().map(|raw| raw.get().to_owned());
        return (PER_PROMPT + files::tokens(body), texts.collect());
    }
    let messages: Vec<&RawValue> = serde_json::from_str(body.messages().get()).unwrap_or_default();
    let tools: Vec<&RawValue> = body
        .get("tools")
        .and_then(|tools| serde_json::from_str(tools.get()).ok())
        .unwrap_or_default();
    let overhead =
        files::tokens(body) + PER_PROMPT + PER_MESSAGE * messages.len() as u64 + PER_TOOL * tools.len() as u64;
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
    use serde_json::json;

    use super::*;

    fn body(value: &serde_json::Value) -> Arc<ChatBody> {
        Arc::new(ChatBody::from_value(value).unwrap())
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
    async fn a_prompt_of_any_length_is_counted_by_the_tokenizer() {
        let tenant = "acme".parse().unwrap();
        tokens::warm_up();
        // At four bytes per token these would give nearly twice, and less than half, of the real count.
        for (word, per_word) in [("internationalization ", 2), ("7 ", 2)] {
            for words in [10, 10_000] {
                let text = word.repeat(words);
                let chat = Prompt::chat(body(
                    &json!({"model": "m", "messages": [{"role": "user", "content": text}]}),
                ));
                let embed = EmbedBody::of(vec![text.clone()]);
                let embed = Prompt::embed(Arc::new(embed));
                let expected = tokens::count(&text);
                assert!(expected <= per_word * words as u64 + 1, "{expected}");
                for (prompt, overhead) in [(chat, PER_PROMPT + PER_MESSAGE), (embed, 0)] {
                    assert_eq!(prompt.known().is_some(), words == 10);
                    let rough = prompt.rough();
                    assert!(
                        rough.abs_diff(expected + overhead) <= 20 + expected / 20,
                        "{rough} {expected}"
                    );
                    let counted = prompt.count(&tenant).await;
                    assert!(
                        counted.abs_diff(expected + overhead) <= words as u64 / 100,
                        "{counted} {expected}"
                    );
                    assert_eq!(
                        (prompt.known(), prompt.rough()),
                        (Some(counted), counted),
                        "it is counted once"
                    );
                }
            }
        }
    }
}

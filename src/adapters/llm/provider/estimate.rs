//! Estimates token counts when a provider does not report its usage.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use copilotd_actors::compute;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::Usage;
use copilotd_gateway::provider::CallProgress;
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::prompt_tokens::count_chat;
use serde::Deserialize;

/// The texts of a call so far, prompt and answer.
#[derive(Debug, Clone)]
pub struct Transcript {
    prompt: Arc<ChatBody>,
    tenant: Option<TenantId>,
    /// Names of the tools that the prompt offers; read when needed.
    tools: OnceLock<HashSet<String>>,
    progress: Arc<CallProgress>,
    written: u64,
    /// How much was written when the provider reported last.
    reported_at: u64,
}

impl Transcript {
    /// Begins with a prompt, which is not copied. The answer is also passed to `progress`.
    pub fn new(prompt: Arc<ChatBody>, progress: Arc<CallProgress>) -> Self {
        Self {
            prompt,
            tenant: None,
            tools: OnceLock::new(),
            progress,
            written: 0,
            reported_at: 0,
        }
    }

    /// A transcript of the same prompt that reports no progress: for reading an answer a first time.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self {
            progress: Arc::default(),
            ..self.clone()
        }
    }

    /// Returns whether the prompt offers a tool of this name; `None` if it offers none at all.
    pub fn offers(&self, name: &str) -> Option<bool> {
        let tools = self.tools.get_or_init(|| tool_names(&self.prompt));
        (!tools.is_empty()).then(|| tools.contains(name))
    }

    /// Returns the tenant whose share of the compute pool is used.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// Sets the tenant whose share of the compute pool counting uses.
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
        self.progress.answered(piece);
    }

    /// Records that the provider reported its usage so far.
    pub fn note_report(&mut self) {
        self.reported_at = self.written;
    }

    /// Like [`Transcript::completed`], at the end of a stream. A report before the last piece of the answer may cover
    /// only a part.
    pub async fn ended(&self, reported: Option<Usage>) -> Usage {
        let mut usage = self.completed(reported).await;
        if reported.is_some() && self.reported_at < self.written {
            let counted = self.count_answer().await;
            if usage.completion_tokens < counted {
                usage.completion_tokens = counted;
                usage.estimated = true;
            }
        }
        usage
    }

    /// Returns the reported usage, with estimates for what was not reported: no prompt is empty, and an answer that was
    /// read has tokens. Counts on the compute pool if there is much.
    pub async fn completed(&self, reported: Option<Usage>) -> Usage {
        let mut usage = reported.unwrap_or_default();
        let tenant = self.tenant.as_ref();
        if usage.prompt_tokens == 0 {
            let counted = count_chat(tenant, Arc::clone(&self.prompt)).await;
            // A coarse number is better than none.
            usage.prompt_tokens = counted.unwrap_or(self.prompt.size() as u64 / 4);
            usage.estimated = true;
        }
        if usage.completion_tokens == 0 && self.written > 0 {
            usage.completion_tokens = self.count_answer().await;
            usage.estimated = true;
        }
        usage
    }

    async fn count_answer(&self) -> u64 {
        let answer = self.progress.seen().answer;
        let coarse = answer.coarse();
        let counted = compute::run(self.tenant.as_ref(), answer.cost(), move || answer.count()).await;
        counted.unwrap_or(coarse)
    }
}

fn tool_names(body: &ChatBody) -> HashSet<String> {
    let tools: Vec<Tool> = body
        .get("tools")
        .and_then(|tools| serde_json::from_str(tools.get()).ok())
        .unwrap_or_default();
    let names = tools.into_iter().filter_map(|tool| tool.function?.name);
    names.collect()
}

#[derive(Deserialize)]
struct Tool {
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript() -> Transcript {
        let body = ChatBody::parse(br#"{"model":"m","messages":[{"role":"user","content":"three plain words"}]}"#);
        Transcript::new(Arc::new(body.unwrap()), Arc::default())
    }

    #[tokio::test]
    async fn reported_usage_is_kept_and_missing_usage_is_estimated_and_marked() {
        let usage = |prompt_tokens, completion_tokens, estimated| Usage {
            prompt_tokens,
            completion_tokens,
            estimated,
            ..Usage::default()
        };
        for (what, reported, answer, expected) in [
            ("all", Some(usage(50, 60, false)), "two words", usage(50, 60, false)),
            ("nothing", None, "two words", usage(9, 2, true)),
            (
                "an empty prompt",
                Some(usage(0, 60, false)),
                "two words",
                usage(9, 60, true),
            ),
            ("no answer", Some(usage(50, 0, false)), "two words", usage(50, 2, true)),
            (
                "no answer, and there was none",
                Some(usage(50, 0, false)),
                "",
                usage(50, 0, false),
            ),
            (
                "an estimate",
                Some(usage(50, 60, true)),
                "two words",
                usage(50, 60, true),
            ),
        ] {
            let mut transcript = transcript();
            transcript.add(answer);
            assert_eq!(transcript.completed(reported).await, expected, "{what}");
        }
    }

    #[tokio::test]
    async fn a_report_before_the_end_of_the_answer_is_not_the_last_word() {
        let reported = |completion_tokens| {
            Some(Usage {
                prompt_tokens: 50,
                completion_tokens,
                ..Usage::default()
            })
        };
        for (at_the_end, completion_tokens, expected) in
            [(true, 1, (1, false)), (false, 1, (2, true)), (false, 60, (60, false))]
        {
            let mut transcript = transcript();
            transcript.note_report();
            transcript.add("two words");
            if at_the_end {
                transcript.note_report();
            }
            let usage = transcript.ended(reported(completion_tokens)).await;
            assert_eq!((usage.completion_tokens, usage.estimated), expected);
        }
    }

    #[tokio::test]
    async fn long_answers_are_counted_by_their_beginning() {
        let mut transcript = transcript();
        for _ in 0..20_000 {
            transcript.add(" word");
        }
        let counted = transcript.completed(None).await.completion_tokens;
        assert!((19_900..=20_200).contains(&counted), "{counted}");
        assert_eq!(transcript.apart().completed(None).await.completion_tokens, 0);
    }
}

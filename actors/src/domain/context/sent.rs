//! The fixed parts of a policy's prompts, and the hash of a prompt.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::project::system_text;
use super::prompt::PromptMessage;
use super::tokens;
use crate::domain::policy::{Policy, ToolPolicy};
use crate::domain::sent_prompt::{FixedPrompt, ToolOffer};

impl Policy {
    /// Returns system message and tools of this policy's prompts, and the tokens of the system message as a message.
    pub fn fixed_prompt(&self, has_summary: bool) -> (&Arc<FixedPrompt>, u64) {
        let (fixed, tokens) = self.fixed.0[usize::from(has_summary)].get_or_init(|| {
            let system = system_text(self, has_summary, !self.tools.is_empty());
            let tokens = tokens::count(&system) + tokens::PER_MESSAGE;
            (Arc::new(FixedPrompt::of(self, system, &[])), tokens)
        });
        (fixed, *tokens)
    }

    /// Returns the same for a turn with these client tools.
    pub(super) fn fixed_prompt_with(&self, has_summary: bool, client_tools: &[ToolOffer]) -> (Arc<FixedPrompt>, u64) {
        let system = system_text(self, has_summary, true);
        let tokens = tokens::count(&system) + tokens::PER_MESSAGE;
        (Arc::new(FixedPrompt::of(self, system, client_tools)), tokens)
    }

    /// Returns the bytes that [`Policy::fixed_prompt`] still has to count.
    pub(super) fn uncounted_bytes(&self, has_summary: bool) -> usize {
        match self.fixed.0[usize::from(has_summary)].get() {
            Some(_) => 0,
            None => self.instructions.len(),
        }
    }
}

impl FixedPrompt {
    fn of(policy: &Policy, system: String, client_tools: &[ToolOffer]) -> Self {
        let tool = |tool: &ToolPolicy| ToolOffer {
            name: tool.tool.name.clone(),
            description: tool.tool.description.clone(),
            parameters: tool.tool.parameters.source().clone(),
        };
        let tools: Vec<ToolOffer> = policy
            .tools
            .values()
            .map(tool)
            .chain(client_tools.iter().cloned())
            .collect();
        let mut hash = Hash::default();
        hash.add(&(&system, &tools));
        Self {
            hash: hash.finish(),
            system,
            tools: Arc::new(tools),
        }
    }
}

/// Returns the hash of a prompt: SHA-256 over its messages as JSON and the hash of its fixed parts, base64url.
pub fn hash(messages: &[PromptMessage], fixed: &FixedPrompt) -> String {
    let mut hash = Hash::default();
    hash.add(&(messages, &fixed.hash));
    hash.finish()
}

/// SHA-256 of what is written to it.
#[derive(Default)]
struct Hash(Sha256);

impl Hash {
    fn add(&mut self, value: &impl Serialize) {
        // Neither writing nor serialising these types can fail.
        let _ = serde_json::to_writer(self, value);
    }

    fn finish(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.finalize())
    }
}

impl std::io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

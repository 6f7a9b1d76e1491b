//! An answer while it arrives: markers are taken out of it, then the guardrails' window decides what readers see.

use std::collections::BTreeMap;

use crate::domain::citation::Mark;
use crate::domain::citation::markers::{MarkerCode, MarkerFilter, Piece};
use crate::domain::content::{Finish, MAX_ANSWER_ARGUMENTS, MAX_ARGUMENTS};
use crate::domain::context::tokens::Sample;
use crate::domain::guardrail::{BlockedByRule, OutputGuard};
use crate::domain::ids::TenantId;
use crate::domain::policy::Policy;
use crate::domain::usage::Usage;
use crate::guardrails::output;
use crate::live::LiveMessage;
use crate::ports::ModelEvent;

/// Upper bound of the tool calls collected from one answer; the core allows fewer.
const MAX_CALLS: usize = 128;
/// Upper bound of the markers that are remembered; further ones are only taken out.
const MAX_MARKERS: usize = 256;
/// Replaces arguments that are too long. It is not JSON, so the validator rejects it and the model is told why.
const TOO_LONG: &str = "arguments too long";

/// An answer being collected.
pub(super) struct Answer {
    pub guard: OutputGuard,
    /// Whether the text becomes visible only once detectors have inspected all of it.
    is_held: bool,
    pub calls: BTreeMap<usize, (String, String)>,
    /// Total bytes of the arguments of all calls.
    arguments: usize,
    /// All text released so far.
    pub text: String,
    /// Everything the model wrote, released or not, including arguments; used to estimate usage if the provider reports
    /// none.
    pub written: Sample,
    pub model: String,
    pub usage: Option<Usage>,
    pub finish: Option<Finish>,
    pub first_token_ms: Option<u64>,
    /// Takes out the markers, if the model is asked to cite.
    markers: Option<MarkerFilter>,
    /// The numbers of each marker, in the order of the guard's anchors.
    marked: Vec<Vec<u32>>,
}

impl Answer {
    /// Begins an answer, which is JSON if it is `validated`.
    pub(super) fn new(policy: &Policy, validated: bool, is_held: bool, code: Option<&MarkerCode>) -> Self {
        Self {
            guard: OutputGuard::new(&policy.rules.output, validated),
            is_held,
            calls: BTreeMap::new(),
            arguments: 0,
            text: String::new(),
            written: Sample::default(),
            model: policy.model.clone(),
            usage: None,
            finish: None,
            first_token_ms: None,
            markers: code.map(MarkerFilter::new),
            marked: Vec::new(),
        }
    }

    /// Adds a piece of the text. `Ok(false)`: the answer has reached its size limit.
    pub(super) async fn push(
        &mut self,
        tenant: &TenantId,
        piece: String,
        policy: &Policy,
        live: &LiveMessage,
    ) -> Result<bool, BlockedByRule> {
        self.written.add(&piece);
        match &mut self.markers {
            None => self.pass(tenant, piece, live).await?,
            Some(filter) => {
                let parts = filter.push(&piece);
                Box::pin(self.pass_all(tenant, parts, live)).await?;
            }
        }
        Ok(self.text.len() <= policy.limits.answer_bytes)
    }

    /// Ends the text.
    pub(super) async fn end(&mut self, tenant: &TenantId, live: &LiveMessage) -> Result<(), BlockedByRule> {
        if let Some(filter) = &mut self.markers {
            let parts = filter.finish();
            Box::pin(self.pass_all(tenant, parts, live)).await?;
        }
        let rest = output::finish(tenant, &mut self.guard).await?;
        self.release(&rest, live);
        Ok(())
    }

    async fn pass_all(
        &mut self,
        tenant: &TenantId,
        parts: Vec<Piece>,
        live: &LiveMessage,
    ) -> Result<(), BlockedByRule> {
        for part in parts {
            match part {
                Piece::Text(text) => self.pass(tenant, text, live).await?,
                Piece::Marker(numbers) if self.marked.len() < MAX_MARKERS => {
                    self.guard.anchor();
                    self.marked.push(numbers);
                }
                Piece::Marker(_) => {}
            }
        }
        Ok(())
    }

    async fn pass(&mut self, tenant: &TenantId, piece: String, live: &LiveMessage) -> Result<(), BlockedByRule> {
        let released = output::push(tenant, &mut self.guard, piece).await?;
        self.release(&released, live);
        Ok(())
    }

    /// Returns where the markers were in the released text.
    pub(super) fn marks(&mut self) -> Vec<Mark> {
        let marked = std::mem::take(&mut self.marked);
        let marks = self.guard.anchors().iter().zip(marked);
        marks.map(|(at, numbers)| Mark { at: *at, numbers }).collect()
    }

    /// Adds one stream event other than text.
    pub(super) fn take(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::Model(model) => self.model = model,
            ModelEvent::ToolCall { index, name, arguments } => {
                self.written.add(&arguments);
                if self.calls.len() >= MAX_CALLS && !self.calls.contains_key(&index) {
                    return;
                }
                let call = self.calls.entry(index).or_default();
                if let Some(name) = name {
                    call.0 = name;
                }
                let room = MAX_ANSWER_ARGUMENTS.saturating_sub(self.arguments);
                self.arguments -= call.1.len();
                if call.1 != TOO_LONG && call.1.len() + arguments.len() <= MAX_ARGUMENTS && arguments.len() <= room {
                    call.1.push_str(&arguments);
                } else {
                    TOO_LONG.clone_into(&mut call.1);
                }
                self.arguments += call.1.len();
            }
            ModelEvent::Usage(usage) => self.usage = Some(usage),
            ModelEvent::Finished(finish) => self.finish = Some(finish),
            // Handled before they get here.
            ModelEvent::Text(_) | ModelEvent::Fallback { .. } => {}
        }
    }

    /// Whether nothing of the answer has arrived yet.
    pub(super) fn is_empty(&self) -> bool {
        self.written.written() == 0
    }

    fn release(&mut self, text: &str, live: &LiveMessage) {
        if !text.is_empty() {
            if !self.is_held {
                live.push(text);
            }
            self.text.push_str(text);
        }
    }
}

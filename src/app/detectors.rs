//! The detectors of this process. Both turns and the OpenAI-compatible endpoint use them.

use std::sync::Arc;

use copilotd_actors::guardrails::Guardrails;
use copilotd_actors::ports::Detector;

/// Returns the guardrails: the deny rules of tenants and copilots come with each call, detectors are registered here.
/// There are none yet.
pub(super) fn guardrails() -> Guardrails {
    let detectors: [Arc<dyn Detector>; 0] = [];
    Guardrails::new(detectors)
}

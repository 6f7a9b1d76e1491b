//! The one place that logs and counts triggered guardrails.

use metrics::counter;

use crate::domain::event::GuardAction;
use crate::domain::guardrail::Stage;
use crate::domain::ids::TenantId;

/// Where a guarded content came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// A turn of a conversation, whose log has the event.
    Turn,
    /// The OpenAI-compatible endpoint.
    Endpoint,
}

/// Logs a triggered rule, by its name alone, and counts it for the endpoint. Tenants and rules are no labels: there may
/// be any number of them.
pub fn report(entrance: Entrance, tenant: &TenantId, stage: Stage, action: GuardAction, rule: &str) {
    let (stage, action) = (stage.name(), action.name());
    let entrance = match entrance {
        Entrance::Turn => "turn",
        Entrance::Endpoint => {
            counter!("copilotd_gateway_guardrails_total", "stage" => stage, "action" => action).increment(1);
            "endpoint"
        }
    };
    tracing::info!(%tenant, entrance, stage, action, rule, "guardrail triggered");
}

//! Initialises counters to zero. A series that first appears with its first event shows no increase: an alert on its
//! rate would miss exactly that first failure. So every series whose labels are known in the code exists from the
//! start.

use metrics::Label;

/// A label and its values.
type Labels = (&'static str, &'static [&'static str]);

/// A label with one value.
type LabelValue = (&'static str, &'static str);

/// Failure classes of a model call.
const CLASSES: &[&str] = &[
    "key",
    "rate",
    "limit",
    "budget",
    "overload",
    "context_length",
    "content_policy",
    "rejected",
    "silence",
    "cut",
    "malformed",
    "network",
];

/// Outcomes of a request to a model.
pub(super) fn outcomes() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().copied().chain(["ok", "left", "lost"])
}

/// Outcomes of a try of a tool call.
const TRIES: [&str; 7] = [
    "ok",
    "found",
    "missing",
    "refused",
    "rate_limited",
    "unreachable",
    "in_doubt",
];

/// Counters with all values of each label.
const WITH_KNOWN_LABELS: &[(&str, &[Labels])] = &[
    (
        "copilotd_auth_failures_total",
        &[(
            "reason",
            &[
                "missing",
                "unreadable",
                "unknown",
                "revoked",
                "suspended",
                "left_out",
                "claims",
                "expired",
                "not_yet",
                "too_long",
                "ticket_too_old",
                "on_behalf",
            ],
        )],
    ),
    ("copilotd_auth_failures_limited_total", &[]),
    (
        "copilotd_http_connections_refused_total",
        &[("reason", &["address", "caller", "full", "accept"])],
    ),
    (
        "copilotd_http_stalled_total",
        &[("what", &["connection", "stream", "share"])],
    ),
    (
        "copilotd_turns_total",
        &[("state", &["queued", "started", "completed", "failed", "cancelled"])],
    ),
    ("copilotd_model_failures_total", &[("class", CLASSES)]),
    ("copilotd_usage_records_lost_total", &[]),
    ("copilotd_usage_records_refused_total", &[]),
    ("copilotd_limits_settlements_lost_total", &[]),
    (
        "copilotd_writes_refused_total",
        &[("of", &["user", "tenant", "credential"])],
    ),
    (
        "copilotd_cache_lookups_total",
        &[(
            "outcome",
            &[
                "hit",
                "miss",
                "asked",
                "tools",
                "form",
                "temperature",
                "conversation",
                "personal",
                "long",
            ],
        )],
    ),
    ("copilotd_cache_embeddings_missed_total", &[]),
    ("copilotd_cache_audits_total", &[("right", &["yes", "no"])]),
    (
        "copilotd_gateway_guardrails_total",
        &[
            ("stage", &["input", "tool", "output"]),
            ("action", &["block", "redact"]),
        ],
    ),
    ("copilotd_compute_refused_total", &[]),
    ("copilotd_fair_share_refused_total", &[]),
    (
        "copilotd_unreadable_rows_total",
        &[(
            "what",
            &[
                "conversation",
                "append",
                "log",
                "tenant",
                "api_key",
                "key_use",
                "revocation",
                "usage",
                "fact",
                "fact_lesson",
                "audit",
                "time",
            ],
        )],
    ),
    (
        "copilotd_actor_deaths_total",
        &[("actor", &["conversation", "agent", "connector"])],
    ),
    ("copilotd_passivations_total", &[]),
    ("copilotd_recoveries_total", &[]),
    (
        "copilotd_reconciled_total",
        &[("what", &["open_turn", "erased", "retention", "file"])],
    ),
    (
        "copilotd_compressions_total",
        &[("method", &["summarised", "truncated", "failed"])],
    ),
    ("copilotd_titles_total", &[("outcome", &["written", "failed"])]),
    (
        "copilotd_retrievals_total",
        &[("outcome", &["completed", "unavailable"])],
    ),
    (
        "copilotd_recalls_total",
        &[("outcome", &["completed", "partial", "unavailable"])],
    ),
    ("copilotd_recall_preparations_dropped_total", &[]),
    (
        "copilotd_fact_reads_total",
        &[("outcome", &["completed", "late", "unavailable"])],
    ),
    (
        "copilotd_fact_lessons_total",
        &[(
            "outcome",
            &[
                "completed",
                "skipped",
                "postponed",
                "failed",
                "given_up",
                "store_failed",
                "closed_before",
            ],
        )],
    ),
    (
        "copilotd_facts_total",
        &[(
            "outcome",
            &[
                "stored",
                "known",
                "full",
                "no_quote",
                "redacted",
                "malformed",
                "out_of_range",
                "not_stated",
                "unsupported",
                "unresolved_time",
                "distorted",
                "corrected",
                "deleted",
            ],
        )],
    ),
    ("copilotd_knowledge_searches_total", &[("vectors", &["yes", "no"])]),
    (
        "copilotd_knowledge_searches_refused_total",
        &[("of", &["user", "tenant"])],
    ),
    (
        "copilotd_embedding_requests_rejected_total",
        &[("urgency", &["foreground", "background"])],
    ),
    (
        "copilotd_ingested_documents_total",
        &[("outcome", &["searchable", "failed"])],
    ),
    ("copilotd_ingested_chunks_total", &[("outcome", &["new", "kept"])]),
    ("copilotd_source_runs_total", &[("outcome", &["completed", "failed"])]),
    (
        "copilotd_source_documents_total",
        &[("outcome", &["stored", "unchanged", "deleted", "skipped"])],
    ),
    (
        "copilotd_schema_checks_total",
        &[
            ("what", &["compile", "check"]),
            ("outcome", &["done", "unusable", "too_expensive", "busy", "unavailable"]),
        ],
    ),
    (
        "copilotd_schema_workers_killed_total",
        &[("limit", &["time", "memory"])],
    ),
    (
        "copilotd_pdf_extractions_total",
        &[(
            "outcome",
            &[
                "done",
                "encrypted",
                "damaged",
                "too_large",
                "too_many_pages",
                "timed_out",
                "out_of_memory",
                "pdf_unavailable",
                "busy",
            ],
        )],
    ),
    ("copilotd_spans_lost_total", &[]),
    (
        "copilotd_provider_skipped_total",
        &[("what", &["part", "tool_call", "block", "choice", "chunk"])],
    ),
];

/// Counters whose label values are known only at run time or depend on the store.
#[cfg(test)]
const WITH_DYNAMIC_LABELS: &[&str] = &[
    "copilotd_http_requests_total",
    "copilotd_tenant_requests_total",
    "copilotd_store_bytes_total",
    // By kind of system: see `system_kind`.
    "copilotd_tool_tries_total",
    // By configured provider: see `provider`.
    "copilotd_gateway_attempts_total",
    // By routes' targets: see `calls::start`.
    "copilotd_tokens_total",
    "copilotd_model_calls_total",
    "copilotd_model_calls_estimated_total",
    "copilotd_model_cost_usd_total",
];

/// Initialises every counter in [`WITH_KNOWN_LABELS`].
pub(super) fn start() {
    for (name, labels) in WITH_KNOWN_LABELS {
        each(labels, &mut Vec::new(), &mut |labels| {
            let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, *value)).collect();
            metrics::counter!(*name, labels).increment(0);
        });
    }
}

/// Initialises the counters of a kind of external systems.
pub fn system_kind(name: &'static str) {
    for outcome in TRIES {
        metrics::counter!("copilotd_tool_tries_total", "system" => name, "outcome" => outcome).increment(0);
    }
}

/// Initialises the counters of a configured provider.
pub fn provider(name: &str) {
    for outcome in outcomes() {
        metrics::counter!("copilotd_gateway_attempts_total", "provider" => name.to_owned(), "outcome" => outcome)
            .increment(0);
    }
}

/// Calls `start` with every combination of labels.
fn each(left: &[Labels], chosen: &mut Vec<LabelValue>, start: &mut dyn FnMut(&[LabelValue])) {
    let Some(((name, values), left)) = left.split_first() else {
        return start(chosen);
    };
    for value in *values {
        chosen.push((name, value));
        each(left, chosen, start);
        chosen.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{Kind, METRICS};
    use super::*;

    #[test]
    fn every_counter_is_started_or_known_not_to_be() {
        let counters = METRICS.iter().filter(|metric| metric.kind == Kind::Counter);
        let mut listed: Vec<&str> = WITH_KNOWN_LABELS
            .iter()
            .map(|(name, _)| *name)
            .chain(WITH_DYNAMIC_LABELS.iter().copied())
            .collect();
        let mut known: Vec<&str> = counters.map(|metric| metric.name).collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(
            listed, known,
            "add a new counter to WITH_KNOWN_LABELS with the values of its labels, or to WITH_DYNAMIC_LABELS"
        );
    }

    #[test]
    fn every_combination_is_started_once() {
        let mut seen = Vec::new();
        each(&[("a", &["1", "2"]), ("b", &["x"])], &mut Vec::new(), &mut |labels| {
            seen.push(labels.to_vec())
        });
        assert_eq!(seen, [vec![("a", "1"), ("b", "x")], vec![("a", "2"), ("b", "x")]]);
        each(&[], &mut Vec::new(), &mut |labels| assert!(labels.is_empty()));
    }
}

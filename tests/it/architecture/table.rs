//! Who may import whom: for each crate and module, what it may import beside itself. `actors/x`, `gateway/x` and
//! `knowledge/x` are modules of the inner crates.
//!
//! The directions: domain ← ports ← actors, gateway, knowledge ← adapters; http, tenants, audit, revocations, jobs ← surfaces ← app.
//! Nothing but `app` imports an adapter, and no surface imports the configuration.

type Row = (&'static str, &'static [&'static str]);

const ACTORS: &[Row] = &[
    (
        "actors",
        &[
            "compute",
            "crash",
            "domain",
            "fairness",
            "guardrails",
            "jitter",
            "live",
            "ports",
            "tenancy",
        ],
    ),
    ("compute", &["domain", "fairness"]),
    ("fairness", &["domain"]),
    ("fakes", &["domain", "ports", "tenancy"]),
    ("guardrails", &["compute", "domain", "ports", "tenancy"]),
    ("live", &["domain", "tenancy"]),
    ("ports", &["domain", "tenancy"]),
    ("tenancy", &["domain"]),
];

const GATEWAY: &[Row] = &[
    (
        "access",
        &["actors/domain", "actors/ports", "actors/tenancy", "provider", "target"],
    ),
    ("answer", &["actors/domain", "error", "provider", "request"]),
    (
        "cache",
        &[
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "answer",
            "error",
            "provider",
            "request",
            "target",
        ],
    ),
    (
        "dispatch",
        &[
            "access",
            "actors/compute",
            "actors/domain",
            "actors/guardrails",
            "actors/jitter",
            "actors/ports",
            "actors/tenancy",
            "answer",
            "cache",
            "error",
            "guardrail",
            "limit",
            "meter",
            "provider",
            "request",
            "routing",
            "spending",
            "target",
        ],
    ),
    ("error", &["actors/ports"]),
    (
        "guardrail",
        &[
            "access",
            "actors/compute",
            "actors/domain",
            "actors/guardrails",
            "actors/ports",
            "actors/tenancy",
            "answer",
            "error",
            "provider",
            "request",
        ],
    ),
    (
        "ledger",
        &[
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "limit",
            "meter",
            "spending",
        ],
    ),
    (
        "limit",
        &["actors/domain", "actors/ports", "actors/tenancy", "error", "spending"],
    ),
    (
        "meter",
        &["actors/domain", "actors/ports", "actors/tenancy", "request", "target"],
    ),
    ("provider", &["actors/domain", "actors/ports", "request"]),
    (
        "request",
        &[
            "actors/compute",
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "error",
        ],
    ),
    (
        "routing",
        &[
            "access",
            "actors/domain",
            "actors/ports",
            "provider",
            "request",
            "target",
        ],
    ),
    ("spending", &["actors/domain", "request"]),
    ("target", &["actors/domain"]),
];

const KNOWLEDGE: &[Row] = &[
    ("chunk", &["actors/domain", "document", "extract"]),
    ("document", &["actors/domain"]),
    ("extract", &["actors/compute", "actors/domain", "document"]),
    ("facts", &["lexical"]),
    (
        "fakes",
        &[
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "chunk",
            "document",
            "index",
            "lexical",
        ],
    ),
    (
        "index",
        &["actors/domain", "actors/ports", "actors/tenancy", "chunk", "document"],
    ),
    (
        "ingest",
        &[
            "actors/compute",
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "chunk",
            "document",
            "extract",
            "index",
            "lexical",
        ],
    ),
    (
        "library",
        &[
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "document",
            "index",
            "ingest",
            "retrieve",
        ],
    ),
    ("query", &["fusion"]),
    ("recall", &["actors/ports", "fusion", "lexical"]),
    (
        "retrieve",
        &[
            "actors/compute",
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "chunk",
            "document",
            "fusion",
            "index",
            "ingest",
            "lexical",
            "query",
        ],
    ),
];

const COPILOTD: &[Row] = &[
    (
        "adapters",
        &[
            "actors/compute",
            "actors/crash",
            "actors/domain",
            "actors/fairness",
            "actors/jitter",
            "actors/ports",
            "actors/tenancy",
            "gateway/ledger",
            "gateway/limit",
            "gateway/meter",
            "gateway/provider",
            "gateway/request",
            "gateway/spending",
            "knowledge/chunk",
            "knowledge/document",
            "knowledge/extract",
            "knowledge/index",
            "knowledge/lexical",
            "private_files",
            "response_body",
            "retry_after",
            "system_kind",
        ],
    ),
    (
        "app",
        &[
            "actors/actors",
            "actors/compute",
            "actors/domain",
            "actors/guardrails",
            "actors/ports",
            "actors/tenancy",
            "adapters",
            "audit",
            "cli",
            "config",
            "gateway/access",
            "gateway/cache",
            "gateway/dispatch",
            "gateway/ledger",
            "gateway/limit",
            "gateway/meter",
            "gateway/provider",
            "gateway/request",
            "gateway/routing",
            "gateway/spending",
            "gateway/target",
            "http",
            "jobs",
            "knowledge/chunk",
            "knowledge/extract",
            "knowledge/index",
            "knowledge/ingest",
            "knowledge/library",
            "knowledge/retrieve",
            "private_files",
            "revocations",
            "sim",
            "surfaces",
            "telemetry",
            "tenants",
        ],
    ),
    ("audit", &["actors/domain", "actors/ports", "actors/tenancy"]),
    (
        "cli",
        &["actors/domain", "config", "http", "private_files", "response_body"],
    ),
    (
        "config",
        &[
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "gateway/access",
            "gateway/limit",
            "gateway/request",
            "knowledge/index",
            "shape",
            "system_kind",
        ],
    ),
    (
        "http",
        &[
            "actors/compute",
            "actors/domain",
            "actors/jitter",
            "actors/ports",
            "actors/tenancy",
            "config",
            "gateway/limit",
            "gateway/request",
            "gateway/spending",
            "response_body",
            "retry_after",
            "revocations",
            "shape",
            "telemetry",
        ],
    ),
    (
        "jobs",
        &[
            "actors/actors",
            "actors/compute",
            "actors/crash",
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "audit",
            "config",
            "gateway/dispatch",
            "gateway/ledger",
            "knowledge/index",
            "revocations",
            "tenants",
        ],
    ),
    ("response_body", &[]),
    ("retry_after", &[]),
    ("revocations", &["actors/domain", "actors/ports", "actors/tenancy"]),
    ("shape", &["actors/domain"]),
    ("system_kind", &[]),
    (
        "surfaces",
        &[
            "actors/actors",
            "actors/compute",
            "actors/domain",
            "actors/fairness",
            "actors/live",
            "actors/ports",
            "actors/tenancy",
            "audit",
            "gateway/answer",
            "gateway/dispatch",
            "gateway/error",
            "gateway/ledger",
            "gateway/limit",
            "gateway/request",
            "http",
            "jobs",
            "knowledge/chunk",
            "knowledge/document",
            "knowledge/index",
            "knowledge/ingest",
            "knowledge/library",
            "knowledge/retrieve",
            "retry_after",
            "revocations",
            "telemetry",
            "tenants",
        ],
    ),
    (
        "telemetry",
        &[
            "actors/actors",
            "actors/domain",
            "actors/ports",
            "actors/tenancy",
            "config",
            "gateway/meter",
            "gateway/request",
            "gateway/target",
            "response_body",
        ],
    ),
    (
        "tenants",
        &["actors/domain", "actors/ports", "actors/tenancy", "audit", "config"],
    ),
];

/// Whether a module may import another one.
pub fn allows(package: &str, from: &str, to: &str) -> bool {
    rows(package)
        .iter()
        .any(|(module, allowed)| *module == from && allowed.contains(&to))
}

/// Returns all pairs of the table.
pub fn all(package: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    rows(package)
        .iter()
        .flat_map(|(from, allowed)| allowed.iter().map(move |to| (*from, *to)))
}

fn rows(package: &str) -> &'static [Row] {
    match package {
        "copilotd_actors" => ACTORS,
        "copilotd_gateway" => GATEWAY,
        "copilotd_knowledge" => KNOWLEDGE,
        _ => COPILOTD,
    }
}

//! Checks of a configuration's meaning, beyond its schema.
//!
//! The checks walk the raw value, not the structs, and treat values that violate the schema as missing, so that one run
//! reports faults of both kinds.

mod claims;
mod copilot;
pub(crate) mod model_access;
mod models;
mod node;
mod sources;
mod systems;
mod tenant;

use std::collections::HashMap;

pub(crate) use claims::{Claim, claims, conflicts};
pub(super) use node::Node;
pub(super) use systems::written as written_systems;
use tracing_subscriber::EnvFilter;

use super::faults::Faults;
use super::{SystemKinds, network, origin};

/// Adds every fault of the global part, which is everything but tenants.
pub(super) fn globals(root: &Node<'_>, faults: &mut Faults) {
    server(&root.get("server"), faults);
    store(&root.get("store"), faults);
    limits(&root.get("limits"), faults);
    knowledge(&root.get("knowledge"), faults);
    telemetry(&root.get("telemetry"), faults);
    models::check(root, faults);
}

/// Adds every fault of one tenant, within the global part at `root`. Conflicts with other tenants are found by
/// [`conflicts`].
pub(super) fn tenant(root: &Node<'_>, tenant: &Node<'_>, kinds: &SystemKinds, faults: &mut Faults) {
    tenant::check(root, tenant, kinds, faults);
}

fn server(server: &Node<'_>, faults: &mut Faults) {
    let seal = server.get("seal_key");
    if seal
        .text()
        .is_some_and(|text| !hex::decode(text).is_ok_and(|key| key.len() == 32))
    {
        faults.add(seal.path(), "expected 64 hexadecimal digits");
    }
    let listen = server.get("listen");
    if let Some(text) = listen.text()
        && text.parse::<std::net::SocketAddr>().is_err()
    {
        faults.add(
            listen.path(),
            "expected an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080",
        );
    }
    let admin = server.get("admin_listen");
    match admin.text().map(str::parse::<std::net::SocketAddr>) {
        Some(Err(_)) => faults.add(
            admin.path(),
            "expected an IP address and a port, such as 127.0.0.1:9090",
        ),
        Some(Ok(address)) if address.port() != 0 && admin.text() == listen.text() => {
            faults.add(admin.path(), "is the same as server.listen");
        }
        _ => {}
    }
    for proxy in server.get("trusted_proxies").items() {
        if proxy.text().is_some_and(|text| network(text).is_none()) {
            faults.add(proxy.path(), "expected an IP address or a network such as 10.0.0.0/8");
        }
    }
    origins(server, faults);
}

fn telemetry(telemetry: &Node<'_>, faults: &mut Faults) {
    url(&telemetry.get("otlp_endpoint"), &["http", "https"], faults);
    let level = telemetry.get("log_level");
    if let Some(text) = level.text()
        && let Err(error) = EnvFilter::try_new(text)
    {
        faults.add(level.path(), format!("not a valid log filter: {error}"));
    }
}

fn store(store: &Node<'_>, faults: &mut Faults) {
    let kind = store.get("kind");
    let address = store.get("url");
    if kind.text() == Some("mongodb") {
        if !address.exists() {
            faults.add(address.path(), "is required for mongodb");
        }
        let known = |text: &str| text.starts_with("mongodb://") || text.starts_with("mongodb+srv://");
        if address.text().is_some_and(|text| !known(text)) {
            faults.add(
                address.path(),
                "expected a URL that begins with mongodb:// or mongodb+srv://",
            );
        }
    } else if kind.text() == Some("sqlite") {
        for name in ["url", "database", "lease_s"] {
            if store.get(name).exists() {
                faults.add(
                    store.get(name).path(),
                    "applies only to kind = \"mongodb\"; sqlite stores its file in server.data_dir",
                );
            }
        }
    }
}

fn limits(limits: &Node<'_>, faults: &mut Faults) {
    let address = limits.get("url");
    if limits.get("store").text() == Some("redis") {
        if !address.exists() {
            faults.add(address.path(), "is required for redis");
        }
        let known = |text: &str| text.starts_with("redis://") || text.starts_with("rediss://");
        if let Some(text) = address.text() {
            if !known(text) {
                faults.add(address.path(), "expected a URL that begins with redis:// or rediss://");
            } else if redis::Client::open(text).is_err() {
                // The driver's error might quote the URL, which may contain a password.
                faults.add(address.path(), "not a valid Redis URL");
            }
        }
    } else if limits.get("store").text() == Some("local") {
        for name in ["url", "prefix", "local_share", "max_outage_s"] {
            if limits.get(name).exists() {
                faults.add(limits.get(name).path(), "applies only to store = \"redis\"");
            }
        }
    }
}

fn knowledge(knowledge: &Node<'_>, faults: &mut Faults) {
    let address = knowledge.get("url");
    if knowledge.get("index").text() == Some("postgres") {
        if !address.exists() {
            faults.add(address.path(), "is required for postgres");
        }
        if let Some(text) = address.text() {
            if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
                faults.add(address.path(), "expected a URL that begins with postgres://");
            } else if let Err(error) = crate::postgres_url::parse(text) {
                faults.add(address.path(), error.to_string());
            }
        }
    } else {
        for name in ["url", "schema", "connections"] {
            if knowledge.get(name).exists() {
                faults.add(knowledge.get(name).path(), "applies only to index = \"postgres\"");
            }
        }
    }
}

/// Adds a fault unless the value is an absolute URL with one of `schemes`.
fn url(node: &Node<'_>, schemes: &[&str], faults: &mut Faults) {
    let Some(text) = node.text() else { return };
    match reqwest::Url::parse(text) {
        Ok(url) if !schemes.contains(&url.scheme()) => {
            faults.add(
                node.path(),
                format!("expected a URL that begins with {}://", schemes.join(":// or ")),
            );
        }
        // A password would end up in logs; there are separate fields for keys.
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            faults.add(node.path(), "must not contain a user name or password");
        }
        Ok(_) => {}
        Err(error) => faults.add(node.path(), format!("not a valid URL: {error}")),
    }
}

/// Checks the origins of web pages that may read responses.
fn origins(node: &Node<'_>, faults: &mut Faults) {
    for allowed in node.get("allowed_origins").items() {
        if let Some(fault) = allowed.text().and_then(origin::fault) {
            faults.add(allowed.path(), fault);
        }
    }
}

/// Adds a fault for every value that equals an earlier one.
fn unique<'a>(nodes: impl IntoIterator<Item = Node<'a>>, faults: &mut Faults) {
    let mut seen: HashMap<&str, String> = HashMap::new();
    for node in nodes {
        let Some(text) = node.text() else { continue };
        match seen.get(text) {
            Some(first) => faults.add(node.path(), format!("is the same as {first}")),
            None => _ = seen.insert(text, node.path().to_owned()),
        }
    }
}

/// Returns the member `name` of every table in the array `list`.
fn members<'a>(list: &Node<'a>, name: &'static str) -> impl Iterator<Item = Node<'a>> {
    list.items().map(move |item| item.get(name))
}

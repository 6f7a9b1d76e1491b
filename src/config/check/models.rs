//! Providers, routes and prices.

use std::collections::{HashMap, HashSet};

use jiff::civil::Date;

use super::{Faults, Node, members, unique, url};
use crate::config::ProviderKind;
use crate::config::suggest::unknown_name;

pub(super) fn check(root: &Node<'_>, faults: &mut Faults) {
    let (providers, routes, prices) = (root.get("providers"), root.get("routes"), root.get("prices"));
    unique(members(&providers, "name"), faults);
    unique(members(&routes, "name"), faults);
    dated(&prices, faults);
    for provider in providers.items() {
        url(&provider.get("base_url"), &["http", "https"], faults);
        let keys = provider.get("api_keys");
        if provider.get("api_key").exists() && keys.exists() {
            faults.add(keys.path(), "give either api_key or api_keys, not both");
        }
        let kind = kind(&provider);
        let bound = provider.get("max_tokens");
        if bound.exists() && !kind.is_some_and(ProviderKind::needs_max_tokens) {
            faults.add(bound.path(), "applies only to providers with kind = \"anthropic\"");
        }
        for name in ["stream_options", "user"] {
            let member = provider.get(name);
            if member.exists() && kind.is_some_and(|kind| !kind.has_openai_members()) {
                faults.add(member.path(), "applies only to providers with kind = \"openai\"");
            }
        }
    }
    let known: HashSet<&str> = members(&providers, "name").filter_map(|name| name.text()).collect();
    documents(root, faults);
    for route in routes.items() {
        cached(&route.get("cache"), root, faults);
        for name in members(&route.get("targets"), "provider") {
            if let Some(text) = name.text()
                && !known.contains(text)
            {
                faults.add(name.path(), unknown_name("provider", text, known.iter().copied()));
            }
        }
        let (first, total) = (
            timeout(&route, "first_token_ms", 10_000),
            timeout(&route, "total_ms", 120_000),
        );
        if first > total {
            faults.add(
                route.get("timeouts").path(),
                "first_token_ms must not be longer than total_ms",
            );
        }
    }
}

/// Returns the protocol of a provider; `None` for a name that the schema reports.
fn kind(provider: &Node<'_>) -> Option<ProviderKind> {
    let name = provider.get("kind");
    match name.exists() {
        true => ProviderKind::of(name.text()?),
        false => Some(ProviderKind::default()),
    }
}

/// Lowest threshold: the cache never considers less similar questions.
const NEAR: f64 = 0.6;

/// Checks the cache's embedding model and threshold. Each model's similarities have their own scale.
fn cached(cache: &Node<'_>, root: &Node<'_>, faults: &mut Faults) {
    let (mode, by) = (cache.get("mode"), cache.get("embedding_route"));
    if mode.text() == Some("semantic") && !by.exists() && !root.get("embeddings").exists() {
        faults.add(
            mode.path(),
            "semantic mode needs an embedding model: set one in [embeddings], or a route in embedding_route",
        );
    }
    let Some(name) = by.text() else { return };
    if mode.text() != Some("semantic") {
        faults.add(by.path(), "applies only to mode = \"semantic\"");
    }
    match cache.get("threshold").decimal() {
        None => faults.add(by.path(), "needs threshold too: similarity scores of models differ"),
        Some(threshold) if threshold < NEAR => {
            faults.add(
                cache.get("threshold").path(),
                format!("must be at least {NEAR}: less similar questions are never compared"),
            );
        }
        Some(_) => {}
    }
    embedding_route(root, &by, name, faults);
}

/// Checks the embedding models for documents.
fn documents(root: &Node<'_>, faults: &mut Faults) {
    let knowledge = root.get("knowledge");
    let [current, previous] = ["embeddings", "previous_embeddings"].map(|name| knowledge.get(name));
    for model in [&current, &previous] {
        let by = model.get("route");
        let Some(name) = by.text() else { continue };
        if let Some(route) = embedding_route(root, &by, name, faults)
            && route.get("targets").items().count() > 1
        {
            faults.add(
                by.path(),
                format!("the route {name:?} must have one target only: vectors of two models cannot be compared"),
            );
        }
    }
    if previous.exists() && previous.value() == current.value() {
        faults.add(previous.path(), "must differ from knowledge.embeddings");
    }
}

/// Checks that a name is that of a route whose models can embed; returns the route if there is one.
fn embedding_route<'a>(root: &Node<'a>, by: &Node<'_>, name: &str, faults: &mut Faults) -> Option<Node<'a>> {
    let routes = root.get("routes");
    let Some(route) = routes.items().find(|route| route.get("name").text() == Some(name)) else {
        faults.add(
            by.path(),
            unknown_name("route", name, members(&routes, "name").filter_map(|known| known.text())),
        );
        return None;
    };
    let embeds = |provider: &Node<'_>| {
        let providers = root.get("providers");
        let known = providers
            .items()
            .find(|known| known.get("name").text() == provider.text());
        let kind = known.and_then(|known| kind(&known));
        kind.is_none_or(ProviderKind::embeds)
    };
    if !members(&route.get("targets"), "provider").any(|provider| embeds(&provider)) {
        faults.add(
            by.path(),
            format!("no provider of the route {name:?} supports embeddings"),
        );
    }
    Some(route)
}

/// Checks that a model has at most one price for each date.
fn dated(prices: &Node<'_>, faults: &mut Faults) {
    let mut seen: HashMap<(&str, Option<Date>), String> = HashMap::new();
    for price in prices.items() {
        let (model, from) = (price.get("model"), price.get("from"));
        let day = from.text().map(str::parse::<Date>);
        if let Some(Err(_)) = day {
            faults.add(from.path(), "expected a date such as 2026-07-01");
        }
        let (Some(name), None | Some(Ok(_))) = (model.text(), &day) else {
            continue;
        };
        match seen.get(&(name, day.clone().and_then(Result::ok))) {
            Some(first) => faults.add(
                model.path(),
                format!("is the same as {first}; several prices of a model need different `from` dates"),
            ),
            None => _ = seen.insert((name, day.and_then(Result::ok)), model.path().to_owned()),
        }
    }
}

fn timeout(route: &Node<'_>, name: &str, usual: u64) -> u64 {
    route.get("timeouts").get(name).number().unwrap_or(usual)
}

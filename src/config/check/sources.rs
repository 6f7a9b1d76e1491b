//! A tenant's sources of documents.

use super::{Faults, Node, systems, unique};

pub(super) fn check(tenant: &Node<'_>, faults: &mut Faults) {
    let systems = systems::written(tenant);
    let sources = tenant.get("sources");
    let named = sources.items().map(|source| {
        let name = source.get("name");
        if name.exists() { name } else { source.get("kind") }
    });
    unique(named, faults);
    // What one stream deletes would be gone for the other one too.
    let collections = sources
        .items()
        .flat_map(|source| ["articles", "tickets"].map(|stream| source.get(stream).get("collection")));
    unique(collections, faults);
    for source in sources.items() {
        if !source.get("articles").exists() && !source.get("tickets").exists() {
            faults.add(source.path(), "give articles, tickets or both");
        }
        let since = source.get("tickets").get("changed_since");
        if since
            .text()
            .is_some_and(|text| text.parse::<jiff::Timestamp>().is_err())
        {
            faults.add(since.path(), "expected a time such as 2026-01-01T00:00:00Z");
        }
        let (kind, system) = (source.get("kind"), source.get("system"));
        let Some(kind) = kind.text() else { continue };
        let name = system.text().unwrap_or(kind);
        let place = if system.exists() { &system } else { &source };
        match systems.iter().find(|known| known.name == name) {
            None => faults.add(place.path(), format!("the tenant has no system with the name {name:?}")),
            Some(found) if found.kind != kind => {
                faults.add(
                    place.path(),
                    format!("the system {name:?} is of the kind {:?}", found.kind),
                );
            }
            Some(_) => {}
        }
    }
}

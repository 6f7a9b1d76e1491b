//! A tenant's external systems: their names, their settings, and the tools that copilots may name.

use super::{Faults, Node, url};
use crate::config::SystemKinds;
use crate::config::suggest::unknown_name;
use crate::system_kind::{SettingsCheck, SettingsRule, SystemKind};

/// Kinds that may also be written as a table of their own, such as `[tenants.zendesk]`, which is a system with the name
/// of its kind. Other kinds are written in `[[tenants.systems]]` only.
const TABLES: [&str; 2] = ["zendesk", "slack"];

/// A system as written in a tenant's table.
#[derive(Debug)]
pub(in crate::config) struct WrittenSystem<'a> {
    pub node: Node<'a>,
    pub kind: &'a str,
    /// The prefix of its tools.
    pub name: &'a str,
}

impl<'a> WrittenSystem<'a> {
    /// Returns the name of a tool without this system's name, if it is one of its tools.
    fn tool<'t>(&self, tool: &'t str) -> Option<&'t str> {
        tool.strip_prefix(self.name)?.strip_prefix('_')
    }

    /// Where its name is written.
    fn named_at(&self) -> Node<'a> {
        let name = self.node.get("name");
        if name.exists() { name } else { self.node.clone() }
    }
}

/// Lists the systems of a tenant's table, except those without a kind.
pub(in crate::config) fn written<'a>(tenant: &Node<'a>) -> Vec<WrittenSystem<'a>> {
    let tables = TABLES.into_iter().map(|kind| (kind, tenant.get(kind)));
    let tables = tables
        .filter(|(_, node)| node.exists())
        .map(|(kind, node)| WrittenSystem { node, kind, name: kind });
    let listed = tenant.get("systems");
    let listed = listed.items().filter_map(|node| {
        let kind = node.get("kind").text()?;
        let name = node.get("name").text().unwrap_or(kind);
        Some(WrittenSystem { node, kind, name })
    });
    tables.chain(listed).collect()
}

pub(super) fn check(tenant: &Node<'_>, kinds: &SystemKinds, faults: &mut Faults) {
    let systems = written(tenant);
    for (index, system) in systems.iter().enumerate() {
        // The schema reports unknown kinds.
        if let Some(kind) = kinds.find(system.kind) {
            settings(kind, &system.node, faults);
        }
        let earlier = systems.iter().take(index);
        if let Some((first, message)) = earlier
            .filter_map(|first| Some((first, conflict(first, system)?)))
            .next()
        {
            let place = system.named_at();
            faults.add(place.path(), format!("{message}{}", first.named_at().path()));
        }
    }
}

/// Checks the settings of one system by the rules of its kind.
fn settings(kind: &dyn SystemKind, node: &Node<'_>, faults: &mut Faults) {
    let Some(written) = node.value() else { return };
    let mut check = SettingsCheck::new(written);
    kind.check(&mut check);
    for rule in check.into_rules() {
        match rule {
            SettingsRule::Address(member) => address(&node.get(member), faults),
            SettingsRule::FitsHeader(member) => fits_a_header(&node.get(member), faults),
            SettingsRule::Fault(Some(member), message) => faults.add(node.get(member).path(), message),
            SettingsRule::Fault(None, message) => faults.add(node.path(), message),
        }
    }
}

/// Checks the base URL of an external system.
fn address(node: &Node<'_>, faults: &mut Faults) {
    url(node, &["http", "https"], faults);
    let address = node.text().and_then(|text| reqwest::Url::parse(text).ok());
    if address.is_some_and(|url| url.query().is_some() || url.fragment().is_some()) {
        faults.add(node.path(), "must not have a query or a fragment");
    }
}

/// Checks a secret that is sent in a header. Found here, it is a fault of this tenant only; found when the client is
/// built, it would affect all tenants.
pub(super) fn fits_a_header(secret: &Node<'_>, faults: &mut Faults) {
    if secret
        .text()
        .is_some_and(|text| text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)))
    {
        faults.add(
            secret.path(),
            "contains characters that are not allowed in an HTTP header: use printable ASCII only",
        );
    }
}

/// Returns why two systems cannot have these names: a tool's name has to tell which system it belongs to.
fn conflict(first: &WrittenSystem<'_>, second: &WrittenSystem<'_>) -> Option<String> {
    if first.name == second.name {
        return Some("give it a `name` of its own: it has the same name as ".to_owned());
    }
    let (first, second) = (format!("{}_", first.name), format!("{}_", second.name));
    let (shorter, is_ambiguous) = if first.len() < second.len() {
        (&first, second.starts_with(&first))
    } else {
        (&second, first.starts_with(&second))
    };
    is_ambiguous.then(|| format!("choose another name: tools that begin with {shorter:?} would also belong to "))
}

/// Checks the tools of a copilot: those of built-in kinds by name; those that a system has to be asked for are checked by
/// `check --online`.
pub(super) fn check_tool(tenant: &Node<'_>, tool: &Node<'_>, kinds: &SystemKinds, faults: &mut Faults) {
    let Some(name) = tool.text() else { return };
    let systems = written(tenant);
    if let Some((system, rest)) = systems.iter().find_map(|system| Some((system, system.tool(name)?))) {
        let tools = kinds.find(system.kind).map(|kind| kind.tools());
        if tools.is_some_and(|tools| tools.is_some_and(|tools| !tools.contains(&rest))) {
            faults.add(tool.path(), unknown(name, &systems, kinds));
        }
        return;
    }
    let of_kind = kinds.iter().find_map(|kind| {
        let rest = name.strip_prefix(kind.name())?.strip_prefix('_')?;
        Some((kind, rest))
    });
    let exists = of_kind.is_some_and(|(kind, rest)| kind.tools().is_none_or(|tools| tools.contains(&rest)));
    if !exists {
        faults.add(tool.path(), unknown(name, &systems, kinds));
    }
    if let Some((kind, rest)) = of_kind {
        let kind = kind.name();
        let message = match systems.iter().find(|system| system.kind == kind) {
            Some(named) => format!(
                "no system has the name {kind:?}: the tools of {} begin with \"{}_\", such as \"{}_{rest}\"",
                named.node.path(),
                named.name,
                named.name,
            ),
            None if TABLES.contains(&kind) => format!("this tool needs the table {}", tenant.get(kind).path()),
            None => format!(
                "this tool needs a system of the kind {kind:?} in {}",
                tenant.get("systems").path()
            ),
        };
        faults.add(tool.path(), message);
    }
}

/// The message for an unknown tool, which suggests tools of the tenant's systems, and of all kinds.
fn unknown(name: &str, systems: &[WrittenSystem<'_>], kinds: &SystemKinds) -> String {
    let named = systems.iter().map(|system| (system.name, kinds.find(system.kind)));
    let usual = kinds.iter().map(|kind| (kind.name(), Some(kind)));
    let known: Vec<String> = named
        .chain(usual)
        .flat_map(|(prefix, kind)| {
            let tools = kind.and_then(|kind| kind.tools()).unwrap_or_default();
            tools.into_iter().map(move |tool| format!("{prefix}_{tool}"))
        })
        .collect();
    unknown_name("tool", name, known.iter().map(String::as_str))
}

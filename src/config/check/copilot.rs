//! Copilots: their routes, tools, memory and rules.

use std::collections::HashSet;

use copilotd_actors::domain::guardrail as guard;

use super::{Faults, Node, members, systems, unique};
use crate::config::suggest::unknown_name;
use crate::config::{MemoryOverrides, SystemKinds};

pub(super) fn check(root: &Node<'_>, tenant: &Node<'_>, kinds: &SystemKinds, faults: &mut Faults) {
    let copilots = tenant.get("copilots");
    unique(members(&copilots, "name"), faults);
    for copilot in copilots.items() {
        for route in [copilot.get("route"), copilot.get("small_route")] {
            if let Some(name) = route.text()
                && find_route(root, name).is_none()
            {
                faults.add(
                    route.path(),
                    unknown_name(
                        "route",
                        name,
                        members(&root.get("routes"), "name").filter_map(|known| known.text()),
                    ),
                );
            }
        }
        tools(tenant, &copilot, kinds, faults);
        memory(root, &copilot, faults);
        let replacement = copilot.get("unsupported_text");
        if replacement.exists() && copilot.get("citations").text() != Some("required") {
            faults.add(
                replacement.path(),
                "needs citations = \"required\": otherwise no sentence needs a source",
            );
        }
        rules(&copilot, faults);
        for list in ["deny_input", "deny_output"] {
            // Records name the rule that triggered, so names must be unambiguous.
            let all = tenant.get(list);
            let all: HashSet<&str> = members(&all, "name").filter_map(|name| name.text()).collect();
            for name in members(&copilot.get(list), "name") {
                if name.text().is_some_and(|text| all.contains(text)) {
                    faults.add(name.path(), "a rule of the whole tenant already has this name");
                }
            }
        }
    }
    rules(tenant, faults);
}

fn rules(of: &Node<'_>, faults: &mut Faults) {
    for list in ["deny_input", "deny_output"] {
        unique(members(&of.get(list), "name"), faults);
        for literal in members(&of.get(list), "literal") {
            let is_blank = |text: &str| !text.is_empty() && guard::is_blank(text);
            if literal.text().is_some_and(is_blank) {
                faults.add(
                    literal.path(),
                    "contains only characters that are ignored in comparisons",
                );
            }
        }
    }
    for action in members(&of.get("deny_input"), "action") {
        if action.text() == Some("redact") {
            faults.add(
                action.path(),
                "prompts are stored unchanged, so they can only be blocked: use \"block\"",
            );
        }
    }
}

fn tools(tenant: &Node<'_>, copilot: &Node<'_>, kinds: &SystemKinds, faults: &mut Faults) {
    let mut offered = HashSet::new();
    for tool in copilot.get("tools").items() {
        offered.extend(tool.text());
        systems::check_tool(tenant, &tool, kinds, faults);
    }
    for tool in copilot.get("approval").items() {
        if tool.text().is_some_and(|name| !offered.contains(name)) {
            faults.add(tool.path(), "is not in the copilot's tools");
        }
    }
    let timeouts = copilot.get("tool_timeouts");
    for name in timeouts.names().filter(|name| !offered.contains(name)) {
        faults.add(timeouts.get(name).path(), "is not in the copilot's tools");
    }
}

/// Checks the order of the effective figures, whether configured or default.
fn memory(root: &Node<'_>, copilot: &Node<'_>, faults: &mut Faults) {
    let memory = copilot.get("memory");
    if !memory.exists() {
        return;
    }
    let context = |route: Node<'_>| {
        route
            .text()
            .and_then(|name| find_route(root, name))
            .and_then(|r| context(&r))
    };
    let Some(large) = context(copilot.get("route")) else {
        return;
    };
    let small = context(copilot.get("small_route")).unwrap_or(large);
    let overrides = MemoryOverrides {
        budget_tokens: memory.get("budget_tokens").number(),
        trigger_tokens: memory.get("trigger_tokens").number(),
        keep_tokens: memory.get("keep_tokens").number(),
        hard_tokens: memory.get("hard_tokens").number(),
        summary_tokens: memory.get("summary_tokens").number(),
        pass_tokens: memory.get("pass_tokens").number(),
        ..MemoryOverrides::default()
    };
    let holds = overrides.memory(large, small);
    let mut order = |lower: (&str, u64), upper: (&str, u64), strict: bool| {
        if lower.1 > upper.1 || (strict && lower.1 == upper.1) {
            let (name, number) = lower;
            let relation = if strict { "less than" } else { "at most" };
            let message = format!("{name} ({number}) must be {relation} {} ({})", upper.0, upper.1);
            faults.add(memory.path(), message);
        }
    };
    let trigger = ("trigger_tokens", holds.trigger_tokens);
    order(("keep_tokens", holds.keep_tokens), trigger, true);
    order(("summary_tokens", holds.summary_tokens), trigger, true);
    order(trigger, ("hard_tokens", holds.hard_tokens), false);
    order(
        ("hard_tokens", holds.hard_tokens),
        ("the context of the route", large),
        true,
    );
    order(
        ("pass_tokens", holds.pass_tokens),
        ("the context of the small route", small),
        true,
    );
}

fn find_route<'a>(root: &Node<'a>, name: &str) -> Option<Node<'a>> {
    root.get("routes")
        .items()
        .find(|route| route.get("name").text() == Some(name))
}

fn context(route: &Node<'_>) -> Option<u64> {
    members(&route.get("targets"), "context_tokens")
        .filter_map(|tokens| tokens.number())
        .min()
}

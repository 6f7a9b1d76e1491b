//! Models that a tenant may use: patterns and regions have to match something, and each copilot needs a model.

use copilotd_gateway::access::AllowedModels;

use super::{Faults, Node, members, unique};
use crate::config::suggest::unknown_name;

pub(super) fn check(root: &Node<'_>, tenant: &Node<'_>, faults: &mut Faults) {
    own_keys(root, tenant, faults);
    let models = tenant.get("models");
    let (allow, regions) = (models.get("allow"), models.get("regions"));
    for pattern in allow.items() {
        let Some(text) = pattern.text() else { continue };
        let pattern_alone = [text.to_owned()];
        let only = AllowedModels {
            allow: Some(&pattern_alone),
            regions: None,
        };
        if !targets(root).any(|target| target.is_allowed(&only)) {
            faults.add(pattern.path(), "matches no model of any route");
        }
    }
    let texts = |list: &Node<'_>| {
        let texts = || list.items().filter_map(|item| Some(item.text()?.to_owned())).collect();
        list.exists().then(texts)
    };
    for region in regions.items() {
        let Some(text) = region.text() else { continue };
        if !members(&root.get("providers"), "region").any(|known| known.text() == Some(text)) {
            faults.add(region.path(), "no provider has this region");
        }
    }
    let (allow, regions): (Option<Vec<String>>, Option<Vec<String>>) = (texts(&allow), texts(&regions));
    let rule = AllowedModels {
        allow: allow.as_deref(),
        regions: regions.as_deref(),
    };
    for copilot in tenant.get("copilots").items() {
        for route in [copilot.get("route"), copilot.get("small_route")] {
            let Some(name) = route.text() else { continue };
            let mut known = targets(root).filter(|target| target.route == Some(name)).peekable();
            if known.peek().is_some() && !known.any(|target| target.is_allowed(&rule) && target.has_key(tenant)) {
                faults.add(
                    route.path(),
                    "the tenant may use none of this route's models; see its models and provider_keys",
                );
            }
        }
    }
}

/// The readable parts of a route's target.
struct Target<'a> {
    route: Option<&'a str>,
    provider: &'a str,
    model: &'a str,
    region: Option<&'a str>,
    own_keys_only: bool,
}

impl Target<'_> {
    fn is_allowed(&self, rule: &AllowedModels<'_>) -> bool {
        rule.allows(self.provider, self.model, self.region)
    }

    fn has_key(&self, tenant: &Node<'_>) -> bool {
        let keys = tenant.get("provider_keys");
        !self.own_keys_only || members(&keys, "provider").any(|name| name.text() == Some(self.provider))
    }
}

fn targets<'a>(root: &Node<'a>) -> impl Iterator<Item = Target<'a>> {
    let providers: Vec<Node<'a>> = root.get("providers").items().collect();
    root.get("routes").items().flat_map(move |route| {
        let read = |target: Node<'a>| {
            let name = target.get("provider").text()?;
            let provider = providers
                .iter()
                .find(|provider| provider.get("name").text() == Some(name));
            Some(Target {
                route: route.get("name").text(),
                provider: name,
                model: target.get("model").text()?,
                region: provider.and_then(|provider| provider.get("region").text()),
                own_keys_only: provider.is_some_and(|provider| provider.get("own_keys_only").truth()),
            })
        };
        route.get("targets").items().filter_map(read).collect::<Vec<_>>()
    })
}

fn own_keys(root: &Node<'_>, tenant: &Node<'_>, faults: &mut Faults) {
    let own = tenant.get("provider_keys");
    unique(members(&own, "provider"), faults);
    for keys in own.items() {
        let provider = keys.get("provider");
        if let Some(name) = provider.text()
            && !members(&root.get("providers"), "name").any(|known| known.text() == Some(name))
        {
            faults.add(
                provider.path(),
                unknown_name(
                    "provider",
                    name,
                    members(&root.get("providers"), "name").filter_map(|known| known.text()),
                ),
            );
        }
        let (one, several) = (keys.get("api_key"), keys.get("api_keys"));
        match (one.exists(), several.exists()) {
            (true, true) => faults.add(several.path(), "give either api_key or api_keys, not both"),
            (false, false) => faults.add(keys.path(), "give api_key or api_keys"),
            _ => {}
        }
    }
}

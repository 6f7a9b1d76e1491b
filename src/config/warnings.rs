//! What is not wrong in a configuration and yet not what anybody wants: named by `copilotd check`, in the log and in `/readyz`.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Config, Copilot, Fault, Target, Tenant, TenantLimits};
use crate::scopes::Scopes;

/// Most models that one warning names.
const MAX_NAMED: usize = 5;

impl Config {
    /// Lists what its author should know, of all tenants.
    pub fn warnings(&self, now: Timestamp) -> Vec<Fault> {
        let of_tenant = |(index, tenant): (usize, &Tenant)| {
            let prefix = format!("tenants[{index}]");
            self.tenant_warnings(tenant, now).into_iter().map(move |warning| Fault {
                path: format!("{prefix}.{}", warning.path),
                ..warning
            })
        };
        self.tenants.iter().enumerate().flat_map(of_tenant).collect()
    }

    /// Lists what should be known of one tenant; paths begin at its table.
    pub fn tenant_warnings(&self, tenant: &Tenant, now: Timestamp) -> Vec<Fault> {
        let budgets = self.unpriced(tenant, now).into_iter().map(|(path, models)| Fault {
            path,
            message: format!(
                "money is limited here, and these models have no price, so that they count as free: {}; add them to [[prices]]",
                named(&models)
            ),
            cause: None,
        });
        budgets.chain(useless_operator(tenant)).collect()
    }

    /// Lists the limits in money that models without a price escape, with these models. A tenant may name any route and any
    /// model of one, so that all count that it may use.
    fn unpriced(&self, tenant: &Tenant, now: Timestamp) -> Vec<(String, BTreeSet<String>)> {
        let limits_turns = |copilot: &Copilot| copilot.limits.cost_usd.is_some_and(|usd| usd > 0.0);
        if !tenant.limits.limits_money() && !tenant.copilots.iter().any(limits_turns) {
            return Vec::new();
        }
        let prices = self.price_list();
        let may_use = |target: &&Target| {
            let provider = self.provider(&target.provider);
            let region = provider.and_then(|provider| provider.region.as_deref());
            let has_key = provider.is_none_or(|provider| !provider.own_keys_only)
                || tenant.provider_keys.iter().any(|keys| keys.provider == target.provider);
            has_key && tenant.models.allows(&target.provider, &target.model, region)
        };
        let unpriced = |routes: &dyn Fn(&str) -> bool| -> BTreeSet<String> {
            let routes = self.routes.iter().filter(|route| routes(&route.name));
            let targets = routes.flat_map(|route| &route.targets).filter(may_use);
            let unpriced = targets.filter(|target| prices.at(&target.model, now).is_none());
            unpriced
                .map(|target| format!("{}/{}", target.provider, target.model))
                .collect()
        };
        let mut found = Vec::new();
        if tenant.limits.limits_money() {
            found.push(("limits".to_owned(), unpriced(&|_| true)));
        }
        for (index, copilot) in tenant.copilots.iter().enumerate() {
            if limits_turns(copilot) {
                let own = |name: &str| name == copilot.route || name == copilot.small_route();
                found.push((format!("copilots[{index}].limits.cost_usd"), unpriced(&own)));
            }
        }
        found.retain(|(_, models)| !models.is_empty());
        found
    }
}

impl TenantLimits {
    fn limits_money(&self) -> bool {
        let (user, key) = (&self.per_user, &self.per_key);
        let days = [self.usd_per_day, user.usd_per_day, key.usd_per_day];
        let months = [self.usd_per_month, user.usd_per_month, key.usd_per_month];
        days.iter().chain(&months).any(Option::is_some)
    }
}

/// The scope `operator` where it cannot be granted.
fn useless_operator(tenant: &Tenant) -> Vec<Fault> {
    if tenant.operator {
        return Vec::new();
    }
    let issuers = tenant.issuers.iter().map(|issuer| issuer.scopes).enumerate();
    let keys = tenant.api_keys.iter().map(|key| key.scopes).enumerate();
    let issuers = issuers.map(|(index, scopes)| (format!("issuers[{index}].scopes"), scopes));
    let keys = keys.map(|(index, scopes)| (format!("api_keys[{index}].scopes"), scopes));
    let useless = issuers
        .chain(keys)
        .filter(|(_, scopes)| scopes.contains(Scopes::OPERATOR));
    useless
        .map(|(path, _)| Fault {
            path,
            message: "the scope operator is not granted: the tenant is not marked with operator = true".to_owned(),
            cause: None,
        })
        .collect()
}

fn named(models: &BTreeSet<String>) -> String {
    let first: Vec<&str> = models.iter().take(MAX_NAMED).map(String::as_str).collect();
    match models.len().saturating_sub(MAX_NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;

    fn warnings(change: &str) -> Vec<String> {
        let text = format!(
            r#"
            [[providers]]
            name = "main"
            base_url = "http://127.0.0.1:1/v1"
            [[providers]]
            name = "theirs"
            base_url = "http://127.0.0.1:2/v1"
            own_keys_only = true
            region = "eu"
            [[routes]]
            name = "default"
            targets = [{{ provider = "main", model = "large", context_tokens = 8000 }}]
            [[routes]]
            name = "small"
            targets = [{{ provider = "main", model = "small", context_tokens = 8000 }}]
            [[routes]]
            name = "embeddings"
            targets = [{{ provider = "main", model = "embed", context_tokens = 8000 }}, {{ provider = "theirs", model = "own", context_tokens = 8000 }}]
            [[prices]]
            model = "large"
            input = 1.0
            output = 2.0
            [[prices]]
            model = "small"
            from = "2027-01-01"
            input = 1.0
            output = 2.0
            [[tenants]]
            id = "acme"
            {change}
            "#
        );
        let config =
            Config::parse(&text, &Env::default(), &BTreeSet::new()).unwrap_or_else(|faults| panic!("{faults}"));
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        config.warnings(now).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn money_that_cannot_be_counted_is_named() {
        let copilot = "[[tenants.copilots]]\nname = \"support\"\nroute = \"default\"\nlimits = { cost_usd = 1.0 }\n";
        let keys = "provider_keys = [{ provider = \"theirs\", api_key = { value = \"k\" } }]\n";
        for (change, models) in [
            ("", None),
            ("limits = { requests_per_minute = 5 }", None),
            (
                "limits = { usd_per_month = 5.0 }",
                Some("limits: main/embed, main/small"),
            ),
            ("limits = { usd_per_day = 0.0 }", Some("limits: main/embed, main/small")),
            (
                "limits = { per_user = { usd_per_day = 1.0 } }",
                Some("limits: main/embed, main/small"),
            ),
            (
                "limits = { per_key = { usd_per_month = 1.0 } }",
                Some("limits: main/embed, main/small"),
            ),
            (
                &format!("{keys}limits = {{ usd_per_month = 5.0 }}"),
                Some("limits: main/embed, main/small, theirs/own"),
            ),
            (
                "limits = { usd_per_month = 5.0 }\nmodels = { allow = [\"main/large\"] }",
                None,
            ),
            (
                "limits = { usd_per_month = 5.0 }\nmodels = { allow = [\"main/s*\"] }",
                Some("limits: main/small"),
            ),
            (copilot, None),
            (
                &copilot.replace("limits", "small_route = \"small\"\nlimits"),
                Some("copilots[0].limits.cost_usd: main/small"),
            ),
        ] {
            let found = warnings(change);
            let expected = models.map(|models| {
                let (path, models) = models.split_once(": ").unwrap();
                format!(
                    "tenants[0].{path}: money is limited here, and these models have no price, so that they count as free: {models}; \
                     add them to [[prices]]"
                )
            });
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{change}");
        }
    }

    #[test]
    fn operator_without_the_mark_is_named() {
        let issuer = "[[tenants.issuers]]\niss = \"i\"\nalg = \"HS256\"\nsecret = { value = \"at least thirty-two bytes of secret\" }\n\
                      scopes = [\"chat\", \"operator\"]\n";
        assert_eq!(warnings(issuer).len(), 1);
        assert_eq!(warnings(&format!("operator = true\n{issuer}")), [""; 0]);
    }
}

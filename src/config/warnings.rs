//! Warnings about a configuration: valid, but probably not intended. Shown by `copilotd check`, in the log and in
//! `/readyz`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::load::path_of;
use super::suggest::near;
use super::{Config, Copilot, Fault, Source, Target, Tenant, TenantLimits, reference, secrets};
use copilotd_actors::domain::access::scopes::Scopes;

/// Most models that one warning names.
const MAX_NAMED: usize = 5;

impl Config {
    /// Returns all warnings, those of tenants too.
    pub fn warnings(&self, now: Timestamp) -> Vec<Fault> {
        let of_tenant = |(index, tenant): (usize, &Tenant)| {
            let prefix = format!("tenants[{index}]");
            self.tenant_warnings(tenant, now).into_iter().map(move |warning| Fault {
                path: format!("{prefix}.{}", warning.path),
                ..warning
            })
        };
        let tenants = self.tenants.iter().enumerate().flat_map(of_tenant);
        tenants.chain(self.without_login()).chain(self.unused()).collect()
    }

    /// Warns about tenants without credentials. Not logged by a running process: an operator may be about to add one.
    fn without_login(&self) -> Vec<Fault> {
        let none = |tenant: &Tenant| tenant.issuers.is_empty() && tenant.api_keys.is_empty();
        let tenants = self.tenants.iter().enumerate().filter(|(_, tenant)| none(tenant));
        let mut found: Vec<Fault> = tenants
            .map(|(index, _)| warning(
                format!("tenants[{index}]"),
                "nobody can log in: the tenant has no issuers and no api_keys; add [[tenants.issuers]] for user tokens or [[tenants.api_keys]] \
                 (copilotd key create)",
            ))
            .collect();
        if self.tenants.is_empty() {
            found.push(warning(
                "tenants".to_owned(),
                "no tenants are configured: nobody can log in",
            ));
        }
        found
    }

    /// Warns about prices and providers that no route uses.
    pub fn unused(&self) -> Vec<Fault> {
        let targets = || self.routes.iter().flat_map(|route| &route.targets);
        let models: BTreeSet<&str> = targets().map(|target| target.model.as_str()).collect();
        let providers: BTreeSet<&str> = targets().map(|target| target.provider.as_str()).collect();
        let mut found = Vec::new();
        for (index, price) in self.prices.iter().enumerate() {
            if !models.contains(price.model.as_str()) {
                let meant = near(&price.model, models.iter().copied());
                let meant = meant
                    .map(|model| format!("; did you mean {model:?}?"))
                    .unwrap_or_default();
                let message = format!(
                    "no route uses the model {:?}, so this price has no effect{meant}",
                    price.model
                );
                found.push(warning(format!("prices[{index}].model"), message));
            }
        }
        for (index, provider) in self.providers.iter().enumerate() {
            if !providers.contains(provider.name.as_str()) {
                let message = format!("no route uses the provider {:?}", provider.name);
                found.push(warning(format!("providers[{index}]"), message));
            }
        }
        found
    }

    /// Returns the warnings about one tenant; paths are relative to its table.
    pub fn tenant_warnings(&self, tenant: &Tenant, now: Timestamp) -> Vec<Fault> {
        let budgets = self.unpriced(tenant, now).into_iter().map(|(path, models)| Fault {
            path,
            message: format!(
                "this limit is in money, but these models have no price and count as free: {}; add them to [[prices]]",
                named(&models)
            ),
            cause: None,
        });
        budgets.chain(useless_operator(tenant)).collect()
    }

    /// Returns the limits in money that do not count some models, with those models, which have no price. A tenant may
    /// use any route and any model of one, so all that it may use are considered.
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
            has_key && tenant.models.allowed().allows(&target.provider, &target.model, region)
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

impl Source {
    /// Warns about secrets written in the file itself, where everyone who can read the file can read them.
    pub fn warnings(&self) -> Vec<Fault> {
        let globals = plain("", self.written_globals());
        let tenants = self.tenants().iter().enumerate();
        let tenants = tenants.flat_map(|(index, table)| plain(&format!("tenants[{index}]"), table.value()));
        globals.into_iter().chain(tenants).collect()
    }
}

fn plain(path: &str, table: &Value) -> Vec<Fault> {
    let message = "the secret is in the file itself: use { env = \"NAME\" } and set NAME in the environment, or { file = \"path\" }; \
                   { value = … } is for demonstrations";
    let is_plain = |leaf: &Value| matches!(reference(leaf), Some(("value", _)));
    let mut found: Vec<Fault> = secrets(table)
        .into_iter()
        .filter(|(_, _, leaf)| is_plain(leaf))
        .map(|(pointer, _, _)| warning(path_of(path, &pointer), message))
        .collect();
    // Addresses of stores may be written as plain text, and may then contain a password.
    for pointer in ["/store/url", "/limits/url", "/knowledge/url"] {
        let url = table.pointer(pointer).and_then(Value::as_str);
        if path.is_empty() && url.is_some_and(holds_password) {
            found.push(warning(path_of(path, pointer), message));
        }
    }
    found
}

/// Whether a URL contains a password.
fn holds_password(url: &str) -> bool {
    let authority = url
        .split_once("://")
        .map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

fn warning(path: String, message: impl Into<String>) -> Fault {
    Fault {
        path,
        message: message.into(),
        cause: None,
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

/// Warns about the scope `operator` where it cannot be granted.
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
            message: "the scope operator is not granted: the tenant needs operator = true".to_owned(),
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
    use crate::config::{Env, SystemKinds};

    fn warnings(change: &str) -> Vec<String> {
        let all = all_warnings(change).into_iter();
        // The common part of these cases always causes this warning.
        all.filter(|warning| !warning.contains("nobody can log in")).collect()
    }

    fn all_warnings(change: &str) -> Vec<String> {
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
            Config::parse(&text, &Env::default(), &SystemKinds::default()).unwrap_or_else(|faults| panic!("{faults}"));
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
                    "tenants[0].{path}: this limit is in money, but these models have no price and count as free: {models}; \
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
